"""Limits and time-outs of the upstream client, with the reason for each default."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass, fields
from typing import Final

_AT_LEAST: Final = {"max_connections": 1, "max_waiting": 0, "max_header_bytes": 1024, "read_high_water_bytes": 1}


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Every bound of the client. Values out of range raise ValueError when the settings are made."""

    connect_timeout_s: float = 10.0
    """Name resolution, TCP and TLS together. Long enough for three lost SYN packets (1 + 2 + 4 s)."""

    acquire_timeout_s: float = 5.0
    """How long a request waits for one of `max_connections`. Short: queueing hides an overload from the agent."""

    first_byte_timeout_s: float = 600.0
    """From the sending (each progress of a long upload counts anew) to the complete head of the final answer.
    LLM providers think for minutes before the first byte; their own SDKs wait 600 s."""

    idle_timeout_s: float = 300.0
    """Between two pieces of a body. Does not run while it is our reader who lags."""

    total_timeout_s: float = 3600.0
    """From `send` to the last byte, whoever is slow: what finally frees a connection that drips for ever."""

    keepalive_s: float = 15.0
    """How long an idle connection is kept. Shorter than the idle time-out of the usual front ends (nginx 75 s,
    AWS 60 s): a request sent into a closing connection has an unknown outcome. A shorter `Keep-Alive: timeout=`
    from the upstream is obeyed."""

    dns_ttl_s: float = 30.0
    """How long resolved addresses are used. Vendors move within minutes; a lookup costs a thread."""

    max_connections: int = 512
    """Open connections per origin, dialling ones included. A long stream holds one; under the usual 1,024 files."""

    max_waiting: int = 1024
    """Requests per origin that wait for a connection; beyond that `PoolFull` at once. Bounds memory."""

    max_header_bytes: int = 64 * 1024
    """All heads of one answer together, and any run of framing without body (chunk extensions, trailers).
    Four times what common servers emit at most."""

    read_high_water_bytes: int = 256 * 1024
    """Body bytes held for a slow reader before reading from the upstream pauses (one more read may follow)."""

    resend_methods: frozenset[str] = frozenset({"GET", "HEAD", "OPTIONS"})
    """Methods that may be sent a second time when a kept connection turns out to be dead without any answer.
    Only the safe ones: PUT and DELETE are idempotent by the book, but not at every vendor that moves money."""

    tls: ssl.SSLContext | None = None
    """For https origins; None: the system's certificate authorities. Verification cannot be switched off; give a
    context that trusts a private authority instead."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_s") and not 0 < getattr(self, field.name) < math.inf:
                raise ValueError(f"{field.name} is a positive number of seconds")
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}")
        if self.tls is not None and not (self.tls.verify_mode is ssl.CERT_REQUIRED and self.tls.check_hostname):
            raise ValueError("tls must verify the upstream's certificate and host name")
