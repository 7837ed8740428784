"""A glance at raw bytes: enough of a request to refuse it without parsing it.

A node that is overloaded must refuse for a fraction of what serving costs, so it looks at the bytes that have just
arrived on a connection that is between two messages. It answers only what it cannot misread: one whole head in the
strictest form, with at most one length and no other framing. Everything else takes the ordinary way, through the
server's parser. So both always agree where a message ends.
"""

import binascii
import re
from typing import Final, NamedTuple

from schemas.ids import TOKEN_BYTES, TOKEN_PREFIX, vault_token

TOKEN_CHARS: Final = len(vault_token(bytes(TOKEN_BYTES)))
_TOKEN: Final = TOKEN_PREFIX.encode("ascii")

MAX_SKIPPED_BYTES: Final = 256 * 1024
"""Of a refused request's body, still to come, that is read and dropped; for a longer one the connection is better
given up, the ordinary way."""

_HEAD: Final = re.compile(
    rb"(?:POST|GET|PUT|PATCH|DELETE) (/[!-~]*) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r")
_HOST: Final = re.compile(rb"\nhost:[ \t]*([!-~]*)[ \t]*\r")
_UNUSUAL: Final = re.compile(rb"\n(?:transfer-encoding|expect|upgrade|connection:(?![ \t]*keep-alive[ \t]*\r))")
_BASIC: Final = re.compile(rb"\nauthorization:[ \t]*basic[ \t]+([A-Za-z0-9+/=]{1,2048})", re.IGNORECASE)


class Glance(NamedTuple):
    """One request. `rest`: how many bytes of its body are still to come."""

    target: bytes
    host: bytes
    rest: int


def glance(data: bytes) -> Glance | None:
    """The one request that `data` begins with and ends in. None: it must be parsed properly."""
    found = _HEAD.match(data)
    if found is None:
        return None
    headers = b"\n" + found[2].lower()  # a line end in front, so that each header begins after one
    if _UNUSUAL.search(headers) is not None:
        return None
    hosts, lengths = _HOST.findall(headers), _LENGTH.findall(headers)
    if len(hosts) != 1 or headers.count(b"\nhost:") != 1 or headers.count(b"\ncontent-length:") != len(lengths):
        return None
    if len(lengths) > 1:
        return None
    length = int(lengths[0]) if lengths else 0
    rest = length - (len(data) - found.end())
    if not 0 <= rest <= MAX_SKIPPED_BYTES:
        return None
    return Glance(found[1], hosts[0], rest)


def token_in(data: bytes) -> bytes:
    """What looks like a vault token at the beginning of a message, however it is sent; b"" if nothing does."""
    at = data.find(_TOKEN)
    if at >= 0:
        return data[at : at + TOKEN_CHARS]
    basic = _BASIC.search(data, 0, 16_384)
    if basic is None:
        return b""
    try:
        decoded = binascii.a2b_base64(basic[1])
    except binascii.Error:
        return b""
    at = decoded.find(_TOKEN)
    return decoded[at : at + TOKEN_CHARS] if at >= 0 else b""
