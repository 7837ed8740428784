"""Which credentials a request carried, told without telling them: as digests, and whether they are the real one.

The log must prove that no vault key ever reached a vendor, and must itself never hold a key.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec
from multidict import CIMultiDictProxy

# Every header in which some vendor's SDK sends a credential; a request through a gateway must carry exactly one.
_KEY_HEADERS = (
    "X-Api-Key",
    "Api-Key",
    "X-Goog-Api-Key",
    "X-Shopify-Access-Token",
    "X-Postmark-Server-Token",
    "X-Postmark-Account-Token",
)
_KEY_PARAMETERS = frozenset({"key", "api_key", "access_token"})


class Seen(msgspec.Struct, frozen=True, gc=False):
    """One credential: the place it stood in, the first 16 digits of its sha256, and whether it is the real one."""

    place: str
    sha256_16: str
    real: bool


def carries_credential(headers: Mapping[str, str]) -> bool:
    """Whether any header names a credential at all; the demo's own endpoints refuse to answer such requests."""
    return "Authorization" in headers or any(name in headers for name in _KEY_HEADERS)


def authorization_token(value: str) -> str:
    """The secret in an `Authorization` value: Bearer's token, or Basic's user name (Stripe's `key:` form)."""
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def same(left: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


def find(headers: CIMultiDictProxy[str], query: str, real: str) -> tuple[tuple[Seen, ...], str]:
    """All credentials of a request, and the `Authorization` token if there is exactly one such header."""
    values = headers.getall("Authorization", ())
    tokens = [authorization_token(value) for value in values]
    seen = [_describe("authorization", token or value, real) for token, value in zip(tokens, values, strict=True)]
    for name in _KEY_HEADERS:
        seen.extend(_describe(name.lower(), value, real) for value in headers.getall(name, ()))
    if query:
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=None, errors="replace"):
            if name in _KEY_PARAMETERS:
                seen.append(_describe(f"query:{name}", value, real))
    return tuple(seen), tokens[0] if len(tokens) == 1 else ""


def _describe(place: str, secret: str, real: str) -> Seen:
    digest = hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()
    return Seen(place=place, sha256_16=digest[:16], real=same_or_false(secret, real))


def same_or_false(left: str, right: str) -> bool:
    """`same`, but text that is no valid Unicode (raw header bytes) is simply not equal."""
    try:
        return same(left, right)
    except UnicodeEncodeError:
        return False
