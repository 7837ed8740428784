"""How long a request had waited when the vendor looked at it: a busy process sees late what came in time."""

import socket
import struct

from aiohttp import web

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_LAST_DATA_RECV = 8 + 11 * 4
"""Offset of `tcpi_last_data_recv` in Linux's struct tcp_info: milliseconds since the newest bytes came."""


def queued_ms(request: web.BaseRequest) -> int:
    """Milliseconds (in timer ticks of 4 or 10) since the request's newest bytes came; 0 where no kernel tells."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if _TCP_INFO is None or sock is None:
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LAST_DATA_RECV + 4)
    except OSError:  # it is gone already
        return 0
    return int(struct.unpack_from("<I", info, _LAST_DATA_RECV)[0]) if len(info) == _LAST_DATA_RECV + 4 else 0
