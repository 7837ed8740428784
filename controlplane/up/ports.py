"""Ports: one that several processes will share, and free ones for children."""

import socket


class PortTaken(Exception):
    """The port cannot be had; the message names it."""


class PortReservation:
    """Holds a port bound, never listening, so that it stays ours while the processes that share it restart.

    The kernel spreads connections over listening sockets only, so holding it costs no connection.
    """

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        if port and _listening(family, host, port):
            raise PortTaken(f"port {port} of {host} is in use")
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise PortTaken(f"port {port} of {host} cannot be had ({error.strerror})") from None
        self.port = int(self._socket.getsockname()[1])

    def close(self) -> None:
        self._socket.close()


def _listening(family: socket.AddressFamily, host: str, port: int) -> bool:
    """Whether somebody else has the port. With SO_REUSEPORT alone, a second gateway would share it silently."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def free_pair(host: str = "127.0.0.1") -> int:
    """A free port whose successor is free too."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind((host, 0))
            port = int(first.getsockname()[1])
            try:
                second.bind((host, port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise PortTaken("no two neighbouring ports are free")


def url_host(host: str) -> str:
    """A listening address as it stands in a URL that a person can paste."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
