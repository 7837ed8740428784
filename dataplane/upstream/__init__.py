"""The HTTP/1.1 client towards vendors and internal agents: small, complete, and exact about what was sent.

`UpstreamClient.send` makes one request and returns an `UpstreamResponse` whose body is read chunk by chunk.
See `client` for the rules of sending and `errors` for what a failure says.
"""

from dataplane.upstream.client import PoolStats, UpstreamClient
from dataplane.upstream.errors import (
    Aborted,
    BodyTooLarge,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    FirstByteTimeout,
    HeaderTooLarge,
    IdleTimeout,
    PoolFull,
    ProtocolViolation,
    RequestInvalid,
    TlsFailed,
    TotalTimeout,
    UpstreamError,
)
from dataplane.upstream.origin import Origin
from dataplane.upstream.request import RESERVED_HEADERS
from dataplane.upstream.response import UpstreamResponse
from dataplane.upstream.settings import UpstreamSettings

__all__ = [
    "RESERVED_HEADERS",
    "Aborted",
    "BodyTooLarge",
    "ClientClosed",
    "ConnectFailed",
    "ConnectionLost",
    "FirstByteTimeout",
    "HeaderTooLarge",
    "IdleTimeout",
    "Origin",
    "PoolFull",
    "PoolStats",
    "ProtocolViolation",
    "RequestInvalid",
    "TlsFailed",
    "TotalTimeout",
    "UpstreamClient",
    "UpstreamError",
    "UpstreamResponse",
    "UpstreamSettings",
]
