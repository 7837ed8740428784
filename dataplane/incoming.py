"""A request as the server hands it over: what its head says, its body, and the way back to its client.

aiohttp's own request answers each question by a method, and has members for forms, cookies and addresses that a proxy
never asks for. This one is made of what the parser found, once, with plain members.
"""

import asyncio
from typing import Any, Final, Protocol, final

from aiohttp import StreamReader, hdrs
from aiohttp.http import HttpVersion


class Unread:
    """The bytes that clients are being waited for to read, of one node."""

    __slots__ = ("held_bytes",)

    def __init__(self) -> None:
        self.held_bytes = 0


class Connection(Protocol):
    """A client's connection, as far as a request needs it. `client`: its address, "" if it has none. `digest`: SHA-256
    of `token`, the vault key that it has last sent.
    """

    client: str
    token: bytes
    digest: bytes
    unread: Unread
    transport: asyncio.Transport | None

    async def drained(self) -> None:
        """Wait until the client has read most of what was written. Raises ConnectionError if it has gone."""


@final
class Incoming:
    """One request. `raw_path`: the target as it came. `keep_alive`: its client wants to send another one. `taken`: its
    body has been read to the end.
    """

    __slots__ = (
        "_message",
        "client",
        "connection",
        "content",
        "keep_alive",
        "method",
        "raw_headers",
        "raw_path",
        "taken",
        "transport",
        "version",
    )

    def __init__(self, message: Any, content: StreamReader, connection: Connection, *, keep_alive: bool) -> None:
        """`message`: aiohttp's RawRequestMessage, which is a tuple for the type checker alone."""
        self._message: Final = message
        self.content: Final = content
        self.connection: Final = connection
        self.keep_alive: Final = keep_alive
        self.method: Final[str] = message.method
        self.raw_path: Final[str] = message.path
        self.raw_headers: Final[tuple[tuple[bytes, bytes], ...]] = message.raw_headers
        self.version: Final[HttpVersion] = message.version
        self.transport: Final[asyncio.Transport | None] = connection.transport
        self.client: Final[str] = connection.client
        self.taken = False

    @property
    def announced_bytes(self) -> int:
        """What Content-Length says; 0 without one."""
        announced = self._message.headers.get(hdrs.CONTENT_LENGTH, "")
        return int(announced) if announced.isascii() and announced.isdigit() else 0

    @property
    def expects_continue(self) -> bool:
        """Whether its client waits for a word before it sends the body."""
        return hdrs.EXPECT in self._message.headers

    @property
    def complete(self) -> bool:
        """Whether all of its body has come."""
        return self.taken or self.content.is_eof()

    def _cancel(self, exc: BaseException) -> None:
        """Aiohttp's server calls it when the connection is lost: whoever reads the body learns of it."""
        self.content.set_exception(exc)
