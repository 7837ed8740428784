"""What an adapter is: everything the gateway knows about one vendor's dialect, as pure functions.

The way of a request calls them in this order:

    find_token -> read -> (look up reading.wants in the ledger) -> bound -> rewrite -> [send] -> meter -> settle

and `refuse` / `stream_error` wherever it ends early. An adapter never does I/O, reads no clock and keeps no
state between calls; a `Meter` keeps the state of one answer.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, Protocol

import msgspec

from events.types import ObjectExposure
from schemas.amounts import NOTHING, Amounts
from schemas.refusals import Refusal
from schemas.rpc import ObjectAnswer

Headers = Sequence[tuple[bytes, bytes]]
"""As received: names in any case, order and repeats kept. Adapters compare names in lower case."""


class Call(msgspec.Struct, frozen=True):
    """One request as it arrived, its path already canonical.

    `path` begins with '/', holds no query; the upstream's own prefix is gone. `query` is raw, without '?'.
    `body` is whole (chunked bodies were gathered first) and not compressed: `Content-Encoding` was refused.
    """

    upstream: str
    method: str
    path: str
    segments: tuple[str, ...]
    query: bytes
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The only value of a header, by lower-case name; None if absent. A repeat gives the first."""
        for got, value in self.headers:
            if got.lower() == name:
                return value
        return None


class Reading(msgspec.Struct, frozen=True):
    """What the adapter understood of a call.

    `operation` names it in the vendor's words (`payment_intents.create`); "" = not known to the adapter.
    `reads_only`: it can cost nothing (bound 0). `model`: "" where the vendor has none. `stream`: the client asked
    for server-sent events. `wants`: reference of the vendor object whose counted exposure the bound needs.
    `params`: the parsed body for the adapter's own use (and later for policy rules). `idempotency`: the
    client's idempotency key, "" if none. `inject_usage`: the adapter adds a usage report and strips it again.
    """

    operation: str
    reads_only: bool = False
    model: str = ""
    stream: bool = False
    wants: str = ""
    params: Any = None
    idempotency: str = ""
    inject_usage: bool = False


class Outgoing(msgspec.Struct, frozen=True):
    """What goes to the vendor: the target (path and query, raw), headers but for Host and framing, body."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Rendered(msgspec.Struct, frozen=True):
    """A refusal in the vendor's own error shape."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Outcome(msgspec.Struct, frozen=True):
    """What an answer proved. `unknown`: nothing trustworthy; the bound stays held.

    `replaces_answer`: the vendor's answer must not reach the client (its 401 for *our* credential, a
    redirect): this refusal goes instead.
    """

    outcome: Literal["settled", "unknown"]
    actual: Amounts = NOTHING
    object: ObjectExposure | None = None
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    tool_calls: int = 0
    error: str = ""
    replayed: bool = False


class Meter(Protocol):
    """Reads one answer on the side. Bounded memory: at most `max_answer_bytes` of a body are kept."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes as framed by the vendor; return the bytes to relay to the client now.

        Mostly the same object. A stream whose usage report was injected may hold back an incomplete event;
        events that are not the injected one are never delayed beyond their end.
        """
        ...

    def flush(self) -> bytes:
        """After a complete body: bytes still held back."""
        ...

    def finish(self, *, complete: bool) -> Outcome:
        """The outcome; `complete` says whether the body ended as its framing promised."""
        ...


class Prices(Protocol):
    """The dated price list, with overrides of the configuration (schemas.prices)."""

    def model(self, vendor: str, name: str) -> Any: ...


class Fx(Protocol):
    """Rates into US dollars, margin included; None for a currency without a rate (never 1:1)."""

    def usd_per_unit(self, currency: str) -> Decimal | None: ...


class Adapter(Protocol):
    """One vendor's dialect, configured for one upstream (credential excepted: the shell passes it in)."""

    name: str

    def find_tokens(self, call: Call) -> list[str]:
        """Every credential the call carries, in the order the vendor would prefer them."""
        ...

    def read(self, call: Call) -> Reading | Refusal:
        """Parse and classify. Refuses what two parsers could read differently."""
        ...

    def bound(self, call: Call, reading: Reading, known: ObjectAnswer | None) -> Amounts | Refusal:
        """The most it can cost. `known` answers `reading.wants`. Refusal `cost_unbounded` if there is no bound:
        the shell lets an uncapped call pass with an empty bound.
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
        """A refusal to send instead of an answer that must not reach the client (401 of our own credential,
        redirects); None for all others.
        """
        ...

    def relayed_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Answer headers for the client: hop-by-hop, framing, Set-Cookie and vendor-account headers out."""
        ...

    def refuse(self, refusal: Refusal, status: int, request_id: str) -> Rendered: ...

    def stream_error(self, refusal: Refusal, request_id: str) -> bytes:
        """Bytes that make the vendor's SDK raise in mid-stream."""
        ...
