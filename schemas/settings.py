"""Typed settings: what `ringfence.yaml` may say, with units, defaults and reasons.

The loader (schemas.config) fills these structs, refuses unknown keys and names file, line and remedy in every
error. Settings never travel in events and never show credentials: a credential stays in `Upstream.credential`,
whose struct prints without it.
"""

from typing import Literal

import msgspec

from schemas.tls import TlsClient

MS = 1_000_000
"""Nanoseconds in a millisecond."""


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The protocol's times (docs/PROTOCOL.md). Tests and simulations shorten or lengthen them together."""

    heartbeat_ms: int = 100
    """An idle node appends this often, so its proof stays young."""
    proof_ttl_ms: int = 400
    """No byte leaves for a vendor on a proof older than this."""
    barrier_timeout_ms: int = 400
    """A node that has not applied a tightening change for this long is fenced."""
    node_timeout_ms: int = 3000
    """A node whose log has been silent for this long is fenced."""
    lease_wait_ms: int = 600
    """A request waits this long for a lease that exists but is lent out."""
    recall_every_ms: int = 20
    """Recalls repeat this often, and never follow a grant by less."""
    tight_ms: int = 1000
    """An account near its cap stays tight this long: grants are exact, leftovers return at once."""
    exhausted_ttl_ms: int = 100
    """A node may repeat a cap refusal on its own for this long after the ask that brought it."""
    feed_heartbeat_ms: int = 250
    """An idle feed says this often that it lives and what time it is."""
    leader_timeout_ms: int = 2500
    """A standby takes over from a leader that is connected and says nothing for this long (one that is gone is noticed
    in a quarter of it)."""
    feed_max_age_ms: int = 15000
    """A node that has heard nothing from the feed for this long refuses (it outlasts a control-plane failover)."""
    append_timeout_ms: int = 1000
    """An append not acknowledged by then is sent again, under the same id."""
    admit_timeout_ms: int = 5000
    """A request whose intent is not acknowledged by then is refused with log_unavailable."""
    drain_ms: int = 30000
    """At SIGTERM open requests may take this long to end."""
    idle_grace_ms: int = 5000
    """At SIGTERM an idle connection is served for so long: a request may be on its way. What is answered on it is told
    to connect anew."""


class Auth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a generic upstream takes its credential: one header, with an optional prefix such as `Bearer `."""

    header: str = "Authorization"
    prefix: str = ""


class Upstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One destination."""

    adapter: str
    base_url: str = ""
    """Origin and prefix; empty: the vendor's own. A version at the end of an OpenAI base URL is understood."""
    credential: str = ""
    """The real credential, from `${ENV}`. Never logged, never in an event."""
    cap_status: Literal[402, 403, 429] = 402
    """HTTP status of cap refusals, for clients that expect another."""
    forward_identity: bool = False
    """Whether X-Agent-Identity goes on to the upstream."""
    host: str = ""
    """Serve this upstream by its own Host too (for SDKs that drop path prefixes)."""
    max_body_bytes: int = 32 * 1024 * 1024
    """Requests are buffered whole, so this bounds memory; OpenAI's largest chat bodies (images) fit."""
    max_concurrent: int = 512
    """Requests in flight per node; above it 503 overloaded."""
    first_byte_timeout_s: float = 600.0
    """Reasoning models may think for minutes before the first byte."""
    idle_timeout_s: float = 300.0
    """Between two chunks of an answer."""
    total_timeout_s: float = 3600.0
    """The whole exchange."""
    connect_timeout_s: float = 10.0
    allow_headers: tuple[str, ...] = ()
    """Account-switching headers (lower case) that may pass, such as `stripe-account`; by default none."""
    models: dict[str, str] = {}
    """Deployment or alias -> name in the price list."""
    tls: TlsClient | None = None
    """For an https origin whose certificate a private authority signed (`ca_file`), or which asks for one (`cert_file`,
    `key_file`)."""

    def __repr__(self) -> str:
        """Without the credential."""
        return f"Upstream(adapter={self.adapter!r}, base_url={self.base_url!r}, credential=<hidden>)"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        """Rich's and msgspec's printers ask here."""
        return [("adapter", self.adapter), ("base_url", self.base_url)]


class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For keys that do not say; durations in seconds (`1h` in the file)."""

    expires_in_s: int = 3600
    max_expires_in_s: int = 30 * 86400


class FxRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for one unit of each currency (lower case), and a margin on top, as decimal strings."""

    base: Literal["usd"] = "usd"
    rates: dict[str, str] = {}
    margin: str = "0"


class PriceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    file: str = ""
    """A price list that replaces the packaged one, same format."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    upstreams: dict[str, Upstream] = {}
    defaults: Defaults = Defaults()
    prices: PriceSettings = PriceSettings()
    fx: FxRates = FxRates()
    timing: Timing = Timing()
