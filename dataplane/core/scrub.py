"""Keeps secrets out of what a vendor sends back: the real credential, and the vault key.

Some vendors repeat credentials in answers and errors. Each is overwritten with as many asterisks, so lengths announced
earlier stay true. In a stream a secret may be split between two chunks: the end of a chunk is held back only as long
as it could be the beginning of a secret.

On the way out a vault key is only ever a credential, which the adapter takes away. Where one stands anywhere else the
request is refused: it would be in the vendor's logs, and in ours.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from schemas.ids import TOKEN_PREFIX

MIN_SECRET_BYTES: Final = 8
"""Shorter ones are placeholders of tests and local models; overwriting them would spoil ordinary words."""


def mask(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """A complete text without secrets, as long as before. Short ones are ignored."""
    for secret in secrets:
        # `find`: for bytes `in` first asks whether the left side is a number, by an exception that is then dropped.
        if len(secret) >= MIN_SECRET_BYTES and data.find(secret) >= 0:
            data = data.replace(secret, b"*" * len(secret))
    return data


class Scrubber:
    """Of one answer that comes in pieces. `secrets`: as bytes; short ones are ignored."""

    __slots__ = ("_held", "_last_bytes", "_secrets")

    def __init__(self, secrets: Iterable[bytes]) -> None:
        self._secrets = tuple(secret for secret in secrets if len(secret) >= MIN_SECRET_BYTES)
        self._last_bytes = frozenset(b"".join(self._secrets))
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The next piece of a text; what may go on now."""
        if not self._secrets or not chunk:
            return chunk
        data = mask(self._held + chunk if self._held else chunk, self._secrets)
        self._held = b""
        if data[-1] not in self._last_bytes:
            return data
        keep = self._open_end(data)
        if keep:
            self._held = data[-keep:]
            return data[:-keep]
        return data

    def flush(self) -> bytes:
        """The end of the text: what was held back is no secret."""
        held, self._held = self._held, b""
        return held

    def _open_end(self, data: bytes) -> int:
        """Length of the longest end of `data` that begins a secret without completing it."""
        longest = 0
        for secret in self._secrets:
            at = max(0, len(data) - len(secret) + 1)
            first = secret[:1]
            while (at := data.find(first, at)) >= 0:
                if secret.startswith(data[at:]):
                    longest = max(longest, len(data) - at)
                    break
                at += 1
        return longest


def secrets_of(credential: str) -> tuple[bytes, ...]:
    """A credential and, where it is a pair (`sid:token`), its second part: the first is an account's name."""
    if not credential:
        return ()
    whole = credential.encode("utf-8", "surrogateescape")
    _, colon, second = whole.partition(b":")
    return (whole, second) if colon else (whole,)


_TOKEN: Final = re.compile(TOKEN_PREFIX + r"[0-9A-Za-z]{16,}")
_TOKEN_BYTES: Final = TOKEN_PREFIX.encode("ascii")


def without_tokens(text: str) -> str:
    """A text for the record, with whatever looks like a vault key made unusable."""
    return _TOKEN.sub(TOKEN_PREFIX + "***", text) if TOKEN_PREFIX in text else text


def misplaced_token(target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes, token: bytes) -> str:
    """Where a vault key would reach the vendor, "" if nowhere: any in the target, the caller's own in the rest."""
    if target.find(_TOKEN_BYTES) >= 0 and _TOKEN.search(target.decode("latin-1")) is not None:
        return "the query" if _TOKEN.search(target.partition(b"?")[0].decode("latin-1")) is None else "the path"
    if not token:
        return ""
    if b"\n".join([part for header in headers for part in header]).find(token) >= 0:  # one search, not one for each
        return "a header"
    return "the body" if body.find(token) >= 0 else ""
