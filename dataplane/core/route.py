"""Where a request goes: to an upstream (by path or by its own Host), or to one of the gateway's own endpoints.

| Host | first segment | goes to |
|---|---|---|
| an upstream's own | anything | that upstream, the whole path (an SDK that drops path prefixes) |
| any other | a reserved name | the gateway itself |
| any other | an upstream's name | that upstream, the rest of the path |
| any other | anything else | 404 `unknown_upstream` |

A trailing slash is refused where the vendor is known: none of theirs ends in one, and a server that strips it would
act on an endpoint that the allowlist was not asked about. Only upstreams of the generic adapter may have it
(frameworks exist that insist on it); there `/transfers/` is held to the patterns for `/transfers`.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from dataplane.core.path import Target
from schemas.refusals import Refusal, refuse

RESERVED: Final = frozenset({"v1", "agents", "healthz", "readyz", "metrics"})
"""First segments that never name an upstream."""

_TRAILING_SLASH: Final = refuse("path_not_canonical", "the path ends in '/', which this vendor's endpoints never do")


class Route(NamedTuple):
    """A request for an upstream. `path` without the upstream's prefix, `segments` its parts (`/` has one empty)."""

    upstream: str
    path: str
    segments: tuple[str, ...]
    query: str


class OwnRoute(NamedTuple):
    """A request for the gateway itself; `path` has no query and no trailing slash."""

    path: str
    query: str


class Routes:
    """The configured upstreams. `hosts` maps an upstream's own Host (no port) to its name.

    `slashes`: names of upstreams whose paths may end in '/'. Raises ValueError for a reserved name.
    """

    def __init__(self, names: Collection[str], hosts: Mapping[str, str], slashes: Collection[str] = ()) -> None:
        if taken := RESERVED.intersection(names):
            raise ValueError(f"reserved names cannot be upstreams: {', '.join(sorted(taken))}")
        self._names = frozenset(names)
        self._hosts = {host.lower(): name for host, name in hosts.items()}
        self._slashes = frozenset(slashes)

    def resolve(self, target: Target, host: str) -> Route | OwnRoute | Refusal:
        """Find the destination. `host`: the Host header as received, "" if there was none."""
        upstream = self._hosts.get(_host_name(host)) if self._hosts else None
        if upstream is not None:
            if target.slash and upstream not in self._slashes:
                return _TRAILING_SLASH
            return Route(upstream, target.path, target.segments, target.query)
        path, segments, query, slash = target
        first = segments[0]
        if first in self._names:
            return self._by_path(first, path, segments, query, slash=slash)
        if first in RESERVED:
            return OwnRoute(path.rstrip("/"), query)
        return refuse("unknown_upstream", "no upstream of that name is configured")

    def _by_path(self, name: str, path: str, segments: tuple[str, ...], query: str, *, slash: bool) -> Route | Refusal:
        if len(segments) == 1:
            return Route(name, "/", ("",), query)
        if slash and name not in self._slashes:
            return _TRAILING_SLASH
        return Route(name, path[len(name) + 1 :], segments[1:], query)


def _host_name(host: str) -> str:
    """The host without its port, in lower case. (An upstream's own host is a name, never a bare IPv6 address.)"""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower().rstrip(".")
