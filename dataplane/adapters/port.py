"""What an adapter is: everything the gateway knows about one vendor's dialect, as pure functions.

The way of a request calls them in this order:

    find_tokens -> read -> (look up reading.wants in the ledger) -> bound -> rewrite -> [send]
        -> replaces | meter -> settle

and `refuse` / `stream_error` wherever it ends early. An adapter never does I/O, reads no clock and keeps no
state between calls; a `Meter` keeps the state of one answer.

Every bound and every settled amount counts the request itself (`requests=1`).

The values are plain classes rather than structs: every step of a request asks them, and compiled (setup.py) a member of
a plain class is read without a lookup. Nobody changes one, but for a call's body.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, final

from dataplane.adapters.scan import Seen
from events.types import ObjectExposure
from schemas.amounts import NOTHING, Amounts
from schemas.prices import ModelPrice
from schemas.refusals import Refusal
from schemas.rpc import ObjectAnswer

Headers = Sequence[tuple[bytes, bytes]]
"""As received: names in any case, order and repeats kept. Adapters compare names in lower case."""


@final
class Call:
    """One request as it arrived, its path already canonical.

    `path` begins with '/', holds no query; the upstream's own prefix is gone. `query` is raw, without '?'.
    `seen` is what its headers are, looked through once. `body` is whole (chunked bodies were gathered first) and not
    compressed: `Content-Encoding` was refused. It is filled in last, once the caller is known; nothing else changes.
    """

    __slots__ = ("body", "method", "path", "query", "seen", "segments", "upstream")

    def __init__(
        self,
        upstream: str,
        method: str,
        path: str,
        segments: tuple[str, ...],
        query: bytes,
        seen: Seen,
        body: bytes = b"",
    ) -> None:
        self.upstream: Final = upstream
        self.method: Final = method
        self.path: Final = path
        self.segments: Final = segments
        self.query: Final = query
        self.seen: Final = seen
        self.body = body

    def __repr__(self) -> str:
        """Without headers, query and body: they hold the vault key and whatever the agent sends."""
        return f"Call({self.upstream} {self.method} {self.path})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("", f"{self.upstream} {self.method} {self.path}")]


@final
class Reading:
    """What the adapter understood of a call.

    `operation` names it in the vendor's words (`payment_intents.create`); "" = not known to the adapter.
    `reads_only`: it can cost nothing (bound 0). `model`: "" where the vendor has none. `stream`: the client asked
    for server-sent events. `wants`: reference of the vendor object whose counted exposure the bound needs.
    `params`: the parsed body for the adapter's own use (and later for policy rules). `idempotency`: the
    client's idempotency key, "" if none. `account`: the vendor's account that the call switches to, "" for the
    credential's own. `inject_usage`: the adapter adds a usage report and strips it again.
    """

    __slots__ = (
        "account",
        "idempotency",
        "inject_usage",
        "model",
        "operation",
        "params",
        "reads_only",
        "stream",
        "wants",
    )

    def __init__(
        self,
        operation: str,
        *,
        reads_only: bool = False,
        model: str = "",
        stream: bool = False,
        wants: str = "",
        params: Any = None,
        idempotency: str = "",
        account: str = "",
        inject_usage: bool = False,
    ) -> None:
        self.operation: Final = operation
        self.reads_only: Final = reads_only
        self.model: Final = model
        self.stream: Final = stream
        self.wants: Final = wants
        self.params: Final = params
        self.idempotency: Final = idempotency
        self.account: Final = account
        self.inject_usage: Final = inject_usage

    def __repr__(self) -> str:
        """Without the parameters."""
        return f"Reading({self.operation or 'unknown'} {self.model})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("", self.operation)]


@final
class Outgoing:
    """What goes to the vendor's origin (`Adapter.origin`): target, headers but for Host and framing, body.

    The target is path and query, raw, and begins with the prefix of the configured base URL.
    """

    __slots__ = ("body", "headers", "method", "target")

    def __init__(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.method: Final = method
        self.target: Final = target
        self.headers: Final = headers
        self.body: Final = body

    def __repr__(self) -> str:
        """Without headers and body: they hold the real credential."""
        return f"Outgoing({self.method} {self.target.partition(b'?')[0]!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("", self.method)]


class Rendered(NamedTuple):
    """A refusal in the vendor's own error shape."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@final
class Outcome:
    """What an answer proved. `unknown`: nothing trustworthy; the bound stays held.

    `object`: what a vendor's object has moved or may still move; its meter is then settled by difference and left
    out of `actual`. `error`: the vendor's own word for a failure (`card_declined`), or ours for an outcome that is
    unknown (`incomplete`, `http_502`, `unpriced`, ...); "" if all went well.
    `replayed`: the vendor repeated the stored answer of an earlier attempt, which this answer resolves (rule S1).
    Its object is as it was *then*, so later calls may have changed it: keep `object` only if the ledger has never
    counted it, or if an earlier attempt has no known outcome and the exposure is above what is counted.
    """

    __slots__ = (
        "actual",
        "cached_tokens",
        "error",
        "input_tokens",
        "model",
        "object",
        "outcome",
        "output_tokens",
        "replayed",
        "tool_calls",
    )

    def __init__(
        self,
        outcome: Literal["settled", "unknown"],
        actual: Amounts = NOTHING,
        object: ObjectExposure | None = None,  # noqa: A002 - the vendor's word
        model: str = "",
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        tool_calls: int = 0,
        error: str = "",
        *,
        replayed: bool = False,
    ) -> None:
        self.outcome: Final[Literal["settled", "unknown"]] = outcome
        self.actual: Final = actual
        self.object: Final = object
        self.model: Final = model
        self.input_tokens: Final = input_tokens
        self.output_tokens: Final = output_tokens
        self.cached_tokens: Final = cached_tokens
        self.tool_calls: Final = tool_calls
        self.error: Final = error
        self.replayed: Final = replayed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and self._members() == other._members()

    __hash__ = None  # type: ignore[assignment]  # what is compared by its members, and kept in no set

    def __repr__(self) -> str:
        return f"Outcome{self._members()}"

    def with_error(self, error: str) -> "Outcome":
        return self._again(self.object, error, replayed=self.replayed)

    def without_object(self, *, replayed: bool) -> "Outcome":
        return self._again(None, self.error, replayed=replayed)

    def _members(self) -> tuple[object, ...]:
        return (
            self.outcome,
            self.actual,
            self.object,
            self.model,
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            self.tool_calls,
            self.error,
            self.replayed,
        )

    def _again(self, exposure: ObjectExposure | None, error: str, *, replayed: bool) -> "Outcome":
        return Outcome(
            self.outcome,
            self.actual,
            exposure,
            self.model,
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            self.tool_calls,
            error,
            replayed=replayed,
        )


class Meter(Protocol):
    """Reads one answer on the side, in bounded memory."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes as framed by the vendor; return the bytes to relay to the client now.

        Mostly the same object. A stream of events is relayed in whole events, so that `stream_error` can follow
        at any time; an injected event never appears, others are never delayed beyond their end.
        """
        ...

    def flush(self) -> bytes:
        """After the last byte: bytes still held back."""
        ...

    def finish(self, *, complete: bool) -> Outcome:
        """The outcome; `complete` says whether the body ended as its framing promised. A HEAD answer is complete."""
        ...


class Prices(Protocol):
    """The dated price list (schemas.prices.PriceList)."""

    def model(self, vendor: str, name: str) -> ModelPrice | None: ...


class Fx(Protocol):
    """Rates into US dollars, margin included (schemas.fx.Fx)."""

    def usd_nanos(self, amount_minor: int, currency: str) -> int | None:
        """A vendor's integer amount in nano-dollars, rounded up; None for a currency without a rate (never 1:1)."""
        ...


class Adapter(Protocol):
    """One vendor's dialect, configured for one upstream (credential excepted: the shell passes it in)."""

    @property
    def name(self) -> str:
        """The dialect: `stripe`, `openai`, ..."""
        ...

    @property
    def origin(self) -> str:
        """Where to connect: `https://host[:port]`. The base URL's path prefix is part of each target."""
        ...

    def find_tokens(self, call: Call) -> list[str]:
        """Every credential the call carries, in the order the vendor would prefer them."""
        ...

    def read(self, call: Call) -> Reading | Refusal:
        """Parse and classify. Refuses what two parsers could read differently."""
        ...

    def bound(self, call: Call, reading: Reading, known: ObjectAnswer | None) -> Amounts | Refusal:
        """The most it can cost. `known` answers `reading.wants`.

        Refusal `cost_unbounded` if there is no bound; `details["meter"]` names the meter without one (`usd`,
        `refund`). Where no cap on that meter applies the shell lets the call pass with `Amounts(requests=1)`.
        """
        ...

    def rewrite(self, call: Call, reading: Reading, key_id: str, credential: str) -> Outgoing | Refusal:
        """The vendor's request: all credentials stripped, exactly one put in, hop-by-hop and gateway headers
        out, idempotency keys made the vault key's own, body bytes as they came unless something is injected.
        """
        ...

    def meter(self, call: Call, reading: Reading, status: int, headers: Headers) -> Meter:
        """A meter for the answer that began so."""
        ...

    def replaces(self, status: int, headers: Headers) -> Refusal | None:
        """A refusal to send instead of an answer that must not reach the client (401 and 403 for the gateway's own
        credential, redirects); None for all others. The meter settles such an answer as any other, body or not.
        """
        ...

    def relayed_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Answer headers for the client: hop-by-hop, framing, Set-Cookie and vendor-account headers out."""
        ...

    def refuse(self, refusal: Refusal, status: int, request_id: str) -> Rendered: ...

    def stream_error(self, refusal: Refusal, request_id: str) -> bytes:
        """Bytes that make the vendor's SDK raise in mid-stream."""
        ...
