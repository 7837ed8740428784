"""The transports of one connection: TCP (`raw`), and TLS on top of it or the same again.

Three things cannot be done through the TLS transport alone, which is why the TCP one is kept. Only its buffer shows
what has not reached the socket. Only pausing *it* stops reading without stranding what is already decrypted (a TLS
layer that is paused may drop that when the stream ends). And its write limits are what make a write go out at once.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl


class Wire:
    """Bytes out, and the state of the socket. `transport` is the one to write to."""

    __slots__ = ("_paused", "_poll", "_raw", "_tls", "transport")

    def __init__(self, transport: asyncio.Transport, raw: asyncio.Transport) -> None:
        self.transport = transport
        self._raw = raw
        self._tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self._paused = False
        # Any byte that a socket does not take at once pauses the writer, so that buffers hold one slice at most.
        raw.set_write_buffer_limits(high=0)
        if transport is not raw:
            transport.set_write_buffer_limits(high=1, low=0)  # asyncio's TLS layer never resumes from a limit of 0
        peer: socket.socket = raw.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._poll = select.poll()
        self._poll.register(peer.fileno(), select.POLLIN)

    def ready(self, *, kept: bool) -> bool:
        """Whether a request may be written now: open, nothing unsent and, if the connection was `kept`, nothing
        received unasked.

        The last is asked of the system itself: a close or stray bytes that the loop has not seen yet would turn the
        request into one with an unknown outcome. (A fresh TLS connection may have session tickets waiting.)
        """
        raw = self._raw
        return not (raw.is_closing() or raw.get_write_buffer_size() or (kept and self._poll.poll(0)))

    def pause_reading(self) -> None:
        if not self._paused and not self._raw.is_closing():
            self._paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> bool:
        """Read on. Returns whether reading had been paused."""
        if not self._paused:
            return False
        self._paused = False
        if not self._raw.is_closing():
            self._raw.resume_reading()
        return True

    def ended_properly(self) -> bool:
        """After the end of the stream: whether the upstream meant it.

        Over TLS only close_notify says so; without it anyone on the way may have cut the stream off. Asyncio's TLS
        layer reports both in the same way, so the TLS object is asked.
        """
        if self._tls is None:
            return True
        try:
            return not self._tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def close(self) -> None:
        """Once what is buffered has been written, and over TLS with close_notify."""
        self.transport.close()

    def abort(self) -> None:
        """At once; over TLS as the loop's next step, because we may be inside a call from the TLS layer, which then
        stumbles over its own state and reports an error that is none.
        """
        if self._tls is None:
            self.transport.abort()
        else:
            asyncio.get_running_loop().call_soon(self.transport.abort)
