"""Opening a connection: TCP to one of the addresses, then TLS on top of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final, cast

from dataplane.upstream.connection import Connection
from dataplane.upstream.errors import ConnectFailed, TlsFailed
from dataplane.upstream.origin import Origin

_TLS_SHUTDOWN_S: Final = 1.0  # for the peer's close_notify, before the socket is closed without it


def default_tls() -> ssl.SSLContext:
    """The system's authorities, TLS 1.2 or later, and HTTP/1.1 as the only protocol on offer."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


async def dial(
    connection: Connection,
    origin: Origin,
    addresses: Sequence[str],
    *,
    tls: ssl.SSLContext | None,
    timeout_s: float,
) -> str:
    """Connect to the first address that answers and make the connection ready for use; returns that address.

    Each address gets an equal share of `timeout_s`, the last one what is left; the caller limits the whole.
    Raises ConnectFailed or TlsFailed. On any exception, cancellation included, no socket is left open (the
    connection itself is the caller's to discard).
    """
    reason = "no address"
    for address in addresses:
        try:
            async with asyncio.timeout(timeout_s / len(addresses)):
                raw = await _connect_tcp(connection, address, origin.port, plain=tls is None)
        except TimeoutError:
            reason = "timed out"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        else:
            if tls is not None:
                await _wrap(connection, raw, origin, tls, timeout_s)
            return address
    raise ConnectFailed(f"{origin}: cannot connect to any of {len(addresses)} addresses: {reason}", sent=False)


async def _connect_tcp(connection: Connection, address: str, port: int, *, plain: bool) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: connection if plain else _BeforeTls(), host=address, port=port)
    return transport


async def _wrap(
    connection: Connection, raw: asyncio.Transport, origin: Origin, tls: ssl.SSLContext, timeout_s: float
) -> None:
    """TLS by way of `start_tls`, because that leaves the TCP transport in our hands."""
    try:
        connection.attach(await _handshake(connection, raw, origin, tls, timeout_s), raw)
    except ssl.SSLCertVerificationError as error:
        detail = f"certificate refused: {error.verify_message}"
    except ssl.SSLError as error:
        detail = f"TLS handshake failed: {error.reason}"
    except (OSError, ssl.CertificateError):
        detail = "the connection closed during the TLS handshake"
    except BaseException:
        raw.abort()
        raise
    else:
        return
    raw.abort()
    raise TlsFailed(f"{origin}: {detail}", sent=False)


async def _handshake(
    connection: Connection, raw: asyncio.Transport, origin: Origin, tls: ssl.SSLContext, timeout_s: float
) -> asyncio.Transport:
    transport = None
    if not raw.is_closing():
        transport = await asyncio.get_running_loop().start_tls(
            raw,
            connection,
            tls,
            server_hostname=origin.host,
            ssl_handshake_timeout=timeout_s,
            ssl_shutdown_timeout=_TLS_SHUTDOWN_S,
        )
    if transport is None:
        raise ConnectionResetError
    return transport


class _BeforeTls(asyncio.Protocol):
    """Holds the place between TCP and TLS. A server that speaks before the handshake is not a TLS server."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - asyncio calls it with the bytes
        if self._transport is not None:
            self._transport.abort()
