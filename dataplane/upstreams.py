"""The configured upstreams as a node uses them: dialect, credential, connections, and how many requests are out."""

import ssl
from collections.abc import Mapping
from typing import Final

from dataplane.adapters.port import Adapter, Fx, Prices
from dataplane.adapters.registry import build_adapter
from dataplane.core.route import Routes
from dataplane.core.scrub import secrets_of
from dataplane.upstream.client import UpstreamClient
from dataplane.upstream.origin import Origin
from dataplane.upstream.settings import UpstreamSettings
from events.tls import TlsContext, TlsUnusable, client_tls
from schemas.refusals import Refusal, refuse
from schemas.settings import Upstream

SLASH_ADAPTERS: Final = frozenset({"http"})
"""Dialects whose paths may end in '/': the generic one, for frameworks that insist on it."""

_OVERLOADED: Final = refuse("overloaded", "too many requests are in flight for this upstream; nothing was sent")


class Lane:
    """Requests in flight to one upstream, and the bound on them.

    Lanes of priority, and the breaker that opens when the vendor fails, belong here: both answer `enter`.
    """

    __slots__ = ("in_flight", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    def enter(self) -> Refusal | None:
        """Take a place; 503 `overloaded` if there is none. Who entered calls `leave`, once."""
        if self.in_flight >= self.limit:
            return _OVERLOADED
        self.in_flight += 1
        return None

    def leave(self) -> None:
        self.in_flight -= 1


class Destination:
    """One upstream. `secrets`: what must never appear in an answer. `tls`: certificates of its own, None for the
    system's. Replaced whole, never changed.
    """

    __slots__ = ("adapter", "client", "credential", "lane", "name", "origin", "secrets", "settings", "tls")

    def __init__(
        self,
        name: str,
        settings: Upstream,
        adapter: Adapter,
        client: UpstreamClient,
        lane: Lane,
        tls: TlsContext | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.adapter = adapter
        self.client = client
        self.lane = lane
        self.tls = tls
        self.credential = settings.credential
        self.secrets = secrets_of(settings.credential)
        self.origin, _ = Origin.parse(adapter.origin)

    def __repr__(self) -> str:
        """Without the credential."""
        return f"Destination({self.name!r}, {self.origin})"


class Destinations:
    """All upstreams of a node, by name."""

    def __init__(self, upstreams: Mapping[str, Upstream], prices: Prices, fx: Fx) -> None:
        """Raises ValueError for an upstream that cannot be served; the message names it, never its credential."""
        self._prices = prices
        self._fx = fx
        self.by_name = {name: self._build(name, settings, None) for name, settings in upstreams.items()}
        self.routes = Routes(
            upstreams,
            {settings.host: name for name, settings in upstreams.items() if settings.host},
            [name for name, settings in upstreams.items() if settings.adapter in SLASH_ADAPTERS],
        )

    def renew(self, upstreams: Mapping[str, Upstream]) -> list[str]:
        """Take over new credentials; everything else stays as it was. Returns the names that changed."""
        changed = []
        for name, settings in upstreams.items():
            known = self.by_name.get(name)
            if known is not None and known.credential != settings.credential:
                renewed = _with_credential(known.settings, settings.credential)
                self.by_name[name] = self._build(name, renewed, known)
                changed.append(name)
        return changed

    def renew_certificates(self) -> list[str]:
        """Read the certificates again; connections from then on use them. Returns what cannot be used, and why."""
        failures = []
        for name, destination in self.by_name.items():
            try:
                if destination.tls is not None:
                    destination.tls.renew()
            except TlsUnusable as error:
                failures.append(f"upstream {name}: {error}")
        return failures

    async def close(self) -> None:
        for destination in self.by_name.values():
            await destination.client.close()

    def _build(self, name: str, settings: Upstream, known: Destination | None) -> Destination:
        try:
            adapter = build_adapter(settings.adapter, name, settings, self._prices, self._fx)
            if known is not None:
                return Destination(name, settings, adapter, known.client, known.lane, known.tls)
            tls = _tls(settings, adapter.origin)
            client = UpstreamClient(_client_settings(settings, tls.ssl if tls is not None else None))
            return Destination(name, settings, adapter, client, Lane(settings.max_concurrent), tls)
        except ValueError as error:
            raise ValueError(f"upstream {name}: {error}") from None


def _tls(settings: Upstream, origin: str) -> TlsContext | None:
    if settings.tls is None:
        return None
    if settings.tls.server_name:
        raise ValueError("tls.server_name is for other connections; name the host in base_url as its certificate does")
    if not origin.startswith("https://"):
        raise ValueError("it has tls, and its base_url is not https")
    return client_tls(settings.tls, alpn=True)


def _client_settings(settings: Upstream, tls: ssl.SSLContext | None) -> UpstreamSettings:
    return UpstreamSettings(
        connect_timeout_s=settings.connect_timeout_s,
        first_byte_timeout_s=settings.first_byte_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        total_timeout_s=settings.total_timeout_s,
        max_connections=settings.max_concurrent,
        tls=tls,
    )


def _with_credential(settings: Upstream, credential: str) -> Upstream:
    fields = {name: getattr(settings, name) for name in Upstream.__struct_fields__}
    return Upstream(**(fields | {"credential": credential}))
