"""Faults that a test orders: what goes wrong, and for which requests.

A fault comes with the request (`X-Demo-Fault: delay_ms=200; status_after=500`) or from a table of rules set
through `POST /_demo/faults`; the header wins. *Before* means that the vendor did nothing, *after* that it did
everything and only its answer suffers: the difference that a gateway's accounting must survive.
"""

import random
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec

MAX_RULES = 100  # a table is written by hand
MAX_WAIT_MS = 600_000  # longer than any client waits; what still hangs then is cut

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_WAIT_MS)]
Status = Annotated[int, msgspec.Meta(ge=400, le=599)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Moment = Literal["before", "after"]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happens to one request, in this order.

    `hang`/`drop` before: never answered / connection reset, nothing executed. `redirect`: 307 to that address,
    nothing executed. `status_before`: that error, nothing executed (429 with `retry_after_s`). `delay_ms`: wait,
    then execute; the vendor counts the request as in progress. Executed, then: `status_after` replaces the answer
    (the vendor's memory of an idempotency key keeps the true one), `body` spoils it, `first_byte_delay_ms` delays
    it, `hang`/`drop` after withhold it. The answer goes out in pieces of `chunk_bytes` (any answer) or as the
    stream's events, `chunk_ms` apart; after so many pieces it stalls or the connection drops.
    `extra_output_tokens` makes the vendor bill more than was asked for; `no_usage` makes it ignore `include_usage`.
    """

    delay_ms: Milliseconds = 0
    first_byte_delay_ms: Milliseconds = 0
    status_before: Status | None = None
    status_after: Status | None = None
    retry_after_s: Count | None = None
    drop: Moment | None = None
    hang: Moment | None = None
    redirect: Annotated[str, msgspec.Meta(max_length=2_000)] | None = None
    body: Literal["malformed", "html", "empty"] | None = None
    chunk_ms: Milliseconds = 0
    chunk_bytes: Count = 0
    stall_after_chunks: Count | None = None
    drop_after_chunks: Count | None = None
    extra_output_tokens: Count = 0
    no_usage: bool = False


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the table: which requests, how often, what. Empty means any; `path` is a glob (`*`).

    The first `skip` matching requests pass, then `times` of them (None: all) have the fault, each with a chance
    of `percent` drawn from the demo's seed.
    """

    fault: Fault
    vendor: Literal["stripe", "openai"] | None = None
    method: str | None = None
    path: str | None = None
    skip: Count = 0
    times: Count | None = None
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 100.0


class BadFault(msgspec.Struct, frozen=True):
    """A fault that cannot be understood; `message` says why."""

    message: str


NO_FAULT = Fault()


def parse_header(text: str) -> Fault | BadFault:
    """Read `name=value; name=value`. An unknown name, a doubled one or a value out of range is a `BadFault`."""
    values: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.strip().partition("=")
        if not name and not equals:
            continue
        if not equals or name in values:
            return BadFault(f"X-Demo-Fault: cannot read {part.strip()!r}")
        values[name] = value
    try:
        return msgspec.convert(values, Fault, strict=False)
    except msgspec.ValidationError as error:
        return BadFault(f"X-Demo-Fault: {error}")


class FaultTable:
    """The rules now in force, and how often each has matched."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 - chance of a fault in a test, nothing secret
        self._rules: list[Rule] = []
        self._matched: list[int] = []
        self._given: list[int] = []

    def replace(self, rules: list[Rule]) -> BadFault | None:
        """Put these rules in the place of all others and start counting (and drawing) afresh."""
        if len(rules) > MAX_RULES:
            return BadFault(f"at most {MAX_RULES} rules")
        self._chance = random.Random(self._seed)  # noqa: S311 - as above
        self._rules = list(rules)
        self._matched = [0] * len(rules)
        self._given = [0] * len(rules)
        return None

    def clear(self) -> None:
        self.replace([])

    def show(self) -> list[dict[str, object]]:
        """Each rule with the number of requests that matched it and that were given its fault."""
        rows = zip(self._rules, self._matched, self._given, strict=True)
        return [{"rule": rule, "matched": matched, "given": given} for rule, matched, given in rows]

    def pick(self, vendor: str, method: str, path: str) -> Fault:
        """The fault of the first rule that matches and is due; `NO_FAULT` if there is none."""
        for index, rule in enumerate(self._rules):
            if rule.vendor not in {None, vendor} or rule.method not in {None, method}:
                continue
            if rule.path is not None and not fnmatchcase(path, rule.path):
                continue
            self._matched[index] += 1
            if self._matched[index] <= rule.skip:
                continue
            if rule.times is not None and self._given[index] >= rule.times:
                continue
            if rule.percent < 100.0 and self._chance.random() * 100.0 >= rule.percent:
                continue
            self._given[index] += 1
            return rule.fault
        return NO_FAULT
