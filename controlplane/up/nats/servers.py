"""The NATS of a one-machine Ringfence: one supervised server, or a cluster of three."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from controlplane.up.nats.binary import find_binary
from controlplane.up.nats.child import NatsChild
from controlplane.up.nats.limits import StreamLimits
from controlplane.up.nats.process import NatsFailed
from controlplane.up.nats.setup import CLUSTER_SIZE, NatsSetup, write_cluster, write_config
from events.messaging.credentials import NatsCredentials


class NatsServers:
    """All servers of this machine. Each is restarted when it dies, on its own ports."""

    def __init__(self, setups: Sequence[NatsSetup], children: Sequence[NatsChild]) -> None:
        self._setups = setups
        self._children = children

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(child.url for child in self._children)

    @property
    def limits(self) -> StreamLimits:
        return self._setups[0].limits

    @property
    def slots(self) -> tuple[str, ...]:
        return self._setups[0].slots

    @property
    def replicas(self) -> Literal[1, 3]:
        """Copies that each stream has: one a server."""
        return 3 if len(self._setups) == CLUSTER_SIZE else 1

    def control(self) -> NatsCredentials:
        """The control plane's and the audit's credential."""
        return self._setups[0].control(*self.urls)

    def node(self, slot: str) -> NatsCredentials:
        """One slot's credential."""
        return self._setups[0].node(slot, *self.urls)

    async def start(self) -> None:
        """Start all and return when all answer. Raises NatsFailed; none runs then."""
        starting = [child.start() for child in self._children]
        failures = [end for end in await asyncio.gather(*starting, return_exceptions=True) if end is not None]
        for failure in failures:
            if isinstance(failure, BaseException):
                await self.stop()
                raise failure

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children))


def plan_servers(
    directory: Path, count: int, *, slots: Sequence[str], port: int, log: Path, on_event: Callable[[str], None]
) -> NatsServers:
    """Write the configuration of one server on `port` (0: any free one), or of three on `port` and the next two.

    Raises NatsFailed if the ports are taken, NatsServerMissing, OSError, ValueError for a directory that was
    begun with another number of servers.
    """
    binary = find_binary()
    setups: tuple[NatsSetup, ...]
    if count == 1:
        ports = [port]
        setups = (write_config(directory, slots=slots, port=port, log=log),)
    else:
        ports = [port + offset for offset in range(count)] if port else free_ports(count)
        routes = free_ports(count, taken=ports)
        setups = write_cluster(directory, list(zip(ports, routes, strict=True)), slots=slots, log=log)
    children = [NatsChild(setup, binary, port=own, on_event=on_event) for setup, own in zip(setups, ports, strict=True)]
    return NatsServers(setups, children)


def free_ports(count: int, taken: Sequence[int] = ()) -> list[int]:
    """Ports of the loopback that are free now. Servers of a cluster must know each other's before they start."""
    sockets: list[socket.socket] = []
    found: list[int] = []
    try:
        for _ in range(10 * (count + len(taken))):
            one = socket.socket()
            sockets.append(one)
            one.bind(("127.0.0.1", 0))
            if (port := int(one.getsockname()[1])) not in taken:
                found.append(port)
            if len(found) == count:
                return found
    finally:
        for one in sockets:
            one.close()
    raise NatsFailed(f"no {count} ports are free")
