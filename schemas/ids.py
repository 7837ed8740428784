"""Identifiers: their prefixes, alphabets and checks.

Everything here is a pure function of bytes that the caller draws: the core has no randomness of its own.
An id is never used again, so an old fence, lease or tombstone can never be mistaken for a new one.
"""

import hashlib
import re
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

KEY_PREFIX: Final = "vk_"
TOKEN_PREFIX: Final = "rfk_"  # noqa: S105 - a prefix, not a secret
OPERATOR_TOKEN_PREFIX: Final = "rfo_"  # noqa: S105 - a prefix, not a secret
OPERATOR_PREFIX: Final = "op_"
REQUEST_PREFIX: Final = "req_"
INCARNATION_PREFIX: Final = "inc_"
ALERT_PREFIX: Final = "al_"

ID_BYTES: Final = 16
"""Entropy of an id: 128 bits, so ids drawn by different nodes never collide."""

TOKEN_BYTES: Final = 32
"""Entropy of a vault key or operator token: 256 bits, out of reach of guessing."""

# Names appear in line keys (joined by ':'), in paths and in headers, so their alphabet is narrow.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}\Z")
_SLOT: Final = re.compile(r"n[1-9][0-9]{0,4}\Z")

NAME_RULE: Final = "1 to 128 letters, digits, '.', '_', '@' or '-', the first a letter or digit"


def base62(data: bytes) -> str:
    """Bytes as base 62, of a width fixed by their number (so ids of a kind have one length)."""
    number = int.from_bytes(data, "big")
    width = (len(data) * 8 * 1000 + 5953) // 5954  # 62 = 2 ** 5.954
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def key_id(entropy: bytes) -> str:
    return KEY_PREFIX + base62(entropy)


def vault_token(entropy: bytes) -> str:
    return TOKEN_PREFIX + base62(entropy)


def operator_token(entropy: bytes) -> str:
    return OPERATOR_TOKEN_PREFIX + base62(entropy)


def operator_id(entropy: bytes) -> str:
    return OPERATOR_PREFIX + base62(entropy)


def alert_id(entropy: bytes) -> str:
    return ALERT_PREFIX + base62(entropy)


def request_id(entropy: bytes) -> str:
    """The hot path's id: hexadecimal, because `bytes.hex` costs a tenth of base 62."""
    return REQUEST_PREFIX + entropy.hex()


def incarnation_id(slot: str, entropy: bytes) -> str:
    """An actor's name in its log; it begins with the slot so that a reader sees whose log it is."""
    return f"{slot}-{base62(entropy)}"


def slot_of(incarnation: str) -> str:
    """Whose incarnation it is, as its name says."""
    return incarnation.partition("-")[0]


def token_sha256(token: str | bytes) -> str:
    """What is stored of a token: the hexadecimal SHA-256. A 256-bit random token needs no slower hash."""
    raw = token.encode("utf-8", "surrogateescape") if isinstance(token, str) else token
    return hashlib.sha256(raw).hexdigest()


def is_name(text: str) -> bool:
    """Whether `text` may name an agent, team, upstream, operator or price (see NAME_RULE)."""
    return _NAME.match(text) is not None


def is_slot(text: str) -> bool:
    """Whether `text` is a node's slot: n1, n2, ..."""
    return _SLOT.match(text) is not None
