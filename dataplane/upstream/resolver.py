"""Names to addresses, remembered for a short time.

A lookup occupies a thread of the loop's executor, so many requests for one name share one lookup, and a cancelled
request does not cancel it for the others. Failures are not remembered: the next request asks again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest
from typing import Final

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses, most preferred first. Raises OSError."""

_MAX_NAMES: Final = 1024  # names come from the configuration; a bound all the same
MAX_ADDRESSES: Final = 4
"""More than a vendor's first few addresses only makes a failure slower."""


class Resolver:
    """Caches what `resolve` says for `ttl_s` (on `clock`)."""

    def __init__(self, ttl_s: float, clock: Callable[[], float], resolve: Resolve | None = None) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._resolve = resolve or system_resolve
        self._known: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Task[tuple[str, ...]]] = {}
        self._good: dict[tuple[str, int], str] = {}

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """At least one address, the one that worked last first. Raises OSError."""
        if _is_address(host):
            return (host,)
        key = (host, port)
        entry = self._known.get(key)
        if entry is not None and self._clock() < entry[0]:
            return entry[1]
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(key), name=f"resolve {host}")
            self._lookups[key] = lookup
            lookup.add_done_callback(_note_failure)
        return await asyncio.shield(lookup)

    def prefer(self, host: str, port: int, address: str) -> None:
        """This address answered: try it first next time (a dead address family costs a wait only once)."""
        key = (host, port)
        entry = self._known.get(key)
        if entry is not None and entry[1][0] != address and address in entry[1]:
            self._good[key] = address
            self._known[key] = (entry[0], _first(entry[1], address))

    def close(self) -> None:
        for lookup in self._lookups.values():
            lookup.cancel()

    async def _look_up(self, key: tuple[str, int]) -> tuple[str, ...]:
        try:
            found = tuple(await self._resolve(*key))[:MAX_ADDRESSES]
        except asyncio.CancelledError:
            # By close(). The waiters are not cancelled themselves, so for them it is a failure.
            raise OSError("the lookup was given up") from None
        finally:
            del self._lookups[key]
        if not found:
            raise OSError("the name has no address")
        return self._remember(key, _first(found, self._good.get(key, found[0])))

    def _remember(self, key: tuple[str, int], addresses: tuple[str, ...]) -> tuple[str, ...]:
        self._known.pop(key, None)
        while len(self._known) >= _MAX_NAMES:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._good.pop(oldest, None)
        self._known[key] = (self._clock() + self._ttl_s, addresses)
        return addresses


async def system_resolve(host: str, port: int) -> list[str]:
    """The system's answer, with the address families interleaved and each in the system's order."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    families: dict[int, list[str]] = {}
    for family, _, _, _, address in infos:
        families.setdefault(family, []).append(str(address[0]))
    return [address for address in chain(*zip_longest(*families.values())) if address is not None]


def _first(addresses: tuple[str, ...], address: str) -> tuple[str, ...]:
    return (address, *(a for a in addresses if a != address)) if address in addresses else addresses


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _note_failure(lookup: asyncio.Task[tuple[str, ...]]) -> None:
    """Each waiter raises the failure itself; if all have gone, it is nobody's."""
    if not lookup.cancelled():
        lookup.exception()
