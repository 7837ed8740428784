"""A listening socket that somebody else made and keeps: so it outlives the process, and no connection is refused while
one process follows another.

| who keeps it | how it is handed over |
|---|---|
| `ringfence up` | `--listen-fd N`: file descriptor N of the new process |
| systemd (socket activation) | `LISTEN_PID` and `LISTEN_FDS` in the environment: descriptor 3 |
| nobody | none: the process binds host and port itself |

Closing the socket here leaves it open there: what has not been accepted waits for whoever comes next.
"""

import os
import socket
from collections.abc import MutableMapping

FIRST_FD = 3
"""Where systemd's descriptors begin (sd_listen_fds(3))."""


class SocketError(ValueError):
    """What was handed over cannot be listened on; the message says why."""


def inherited(listen_fd: int | None, environ: MutableMapping[str, str]) -> socket.socket | None:
    """The socket that was handed over; None if there is none. Raises SocketError.

    systemd's variables are removed, so that no child of ours takes them for its own.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if listen_fd is None:
        if pid != str(os.getpid()) or not count:
            return None
        if count != "1":
            raise SocketError(f"one socket is expected, LISTEN_FDS is {count[:8]}")
        listen_fd = FIRST_FD
    try:
        listener = socket.socket(fileno=listen_fd)
    except OSError as error:
        raise SocketError(f"file descriptor {listen_fd} is no socket ({error.strerror})") from None
    if listener.type != socket.SOCK_STREAM or listener.family not in {socket.AF_INET, socket.AF_INET6}:
        listener.close()
        raise SocketError(f"file descriptor {listen_fd} is no TCP socket")
    listener.set_inheritable(False)
    return listener
