"""What can go wrong between the gateway and an upstream, and what is then known of the outcome.

The question that matters after a failure is not *why* but *whether the vendor may have acted*. Every error
therefore carries `sent`: False proves that no byte of the request left (its reservation can be released); True
means that the vendor may have received and carried out the request, so its outcome is unknown unless an answer
says otherwise.

| error             | sent  | blame    | raised by                                                        |
|-------------------|-------|----------|------------------------------------------------------------------|
| RequestInvalid    | no    | caller   | `send`: a header, target or method that must not go on the wire  |
| ClientClosed      | no    | us       | `send` after `close`                                             |
| PoolFull          | no    | us       | `send`: no connection became free in time, or the queue is full  |
| ConnectFailed     | no    | upstream | `send`: name, route, port, or closed before the request          |
| TlsFailed         | no    | upstream | `send`: handshake or certificate                                 |
| FirstByteTimeout  | yes   | upstream | `send`: the head of the answer did not come                      |
| TotalTimeout      | yes   | upstream | `send` or while reading                                          |
| IdleTimeout       | yes   | upstream | while reading: nothing came for too long                         |
| ConnectionLost    | yes   | upstream | `send` or while reading: closed or reset too early               |
| ProtocolViolation | yes   | upstream | `send` or while reading: not HTTP/1.1 as it must be              |
| HeaderTooLarge    | yes   | upstream | `send`                                                           |
| BodyTooLarge      | yes   | caller's limit | `read`                                                     |
| Aborted           | yes   | us       | while reading, after `abort`                                     |

("no" becomes yes where an earlier connection had already carried the request: `sent` is about the request, not
about the last attempt.) Messages hold the origin and the system's reason, never a header, target or body.
"""

from __future__ import annotations

from typing import ClassVar


class UpstreamError(Exception):
    """A request that did not end well.

    `code` is stable and fit for logs and metrics; `detail` is for people; `sent` is described above.
    `retryable`: sending the same request again cannot do its work twice, and may succeed.
    """

    code: ClassVar[str] = "upstream_error"
    transient: ClassVar[bool] = False

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.sent = sent

    @property
    def retryable(self) -> bool:
        return self.transient and not self.sent

    def __str__(self) -> str:
        return f"{self.detail} ({'may have been sent' if self.sent else 'not sent'})"


class RequestInvalid(UpstreamError):
    """The caller's request would not be one well-formed HTTP message; nothing was sent."""

    code = "request_invalid"


class ClientClosed(UpstreamError):
    """The client is shutting down and takes no more requests."""

    code = "client_closed"


class PoolFull(UpstreamError):
    """Every connection to the origin is busy and none became free in time."""

    code = "pool_full"
    transient = True


class ConnectFailed(UpstreamError):
    """No connection: the name, the network or the port; or it was closed before it could be used."""

    code = "connect_failed"
    transient = True


class TlsFailed(UpstreamError):
    """The TLS handshake failed, most often because the certificate does not verify."""

    code = "tls_failed"


class FirstByteTimeout(UpstreamError):
    """The request went out (or stalled going out) and the head of the answer did not come in time."""

    code = "first_byte_timeout"


class IdleTimeout(UpstreamError):
    """The answer began and then nothing more came for too long."""

    code = "idle_timeout"


class TotalTimeout(UpstreamError):
    """The request as a whole took too long."""

    code = "total_timeout"


class ConnectionLost(UpstreamError):
    """The upstream closed or reset the connection before the answer was complete."""

    code = "connection_lost"


class ProtocolViolation(UpstreamError):
    """The upstream's bytes are not an HTTP/1.1 answer that can be read without guessing."""

    code = "protocol_violation"


class HeaderTooLarge(UpstreamError):
    """The heads of the answer (interim ones included) exceed the limit."""

    code = "header_too_large"


class BodyTooLarge(UpstreamError):
    """The body exceeds the limit that the reader gave; the connection has been closed."""

    code = "body_too_large"


class Aborted(UpstreamError):
    """The answer was read after this side had aborted it."""

    code = "aborted"
