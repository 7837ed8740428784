"""The logs' own account of a storm over time, so that a cap, or a refusal, can be judged at its instant."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

from chaos.accounts import Accounts, Request, Spot
from chaos.record import Fact

CapName = tuple[str, str]
"""(account, window), in dollars"""

LOWERED_S = 30.0
"""How long a node may admit under an older cap before any change was answered. (From an answer on, its barrier is
through, and no older cap is in force.)"""

CLOCKS_NS = 50_000_000
"""Two streams are stamped by two servers' clocks; and a change is stored a moment before its time is read."""


class Course:
    """A figure over time: it has `values[i]` from `times[i]` on."""

    def __init__(self, first: int | None) -> None:
        self.times: list[int] = [0]
        self.values: list[int | None] = [first]

    def set(self, time_ns: int, value: int | None) -> None:
        self.times.append(max(time_ns, self.times[-1]))
        self.values.append(value)

    def between(self, from_ns: int, to_ns: int) -> list[int | None]:
        """All values that it had at some instant of the span."""
        return self.values[bisect_right(self.times, from_ns) - 1 : bisect_right(self.times, to_ns)]


class Ledger:
    """Both logs, folded once, in the order of their times. `answered`: when changes of a cap were confirmed, ascending,
    by the wall clock.
    """

    def __init__(self, facts: Iterable[Fact], answered: Mapping[CapName, Sequence[int]]) -> None:
        self.books = Accounts()
        self._answered = answered
        self.caps: dict[CapName, Course] = {}
        self.occupied: dict[Spot, Course] = defaultdict(lambda: Course(0))
        self.spots_of_cap: dict[CapName, set[Spot]] = defaultdict(set)
        self.by_digest: dict[str, list[Request]] = defaultdict(list)
        self.by_key: dict[str, list[Request]] = defaultdict(list)
        self.findings: list[str] = []
        # Caps first: what an admission may rely on is in the log before it.
        told = list(facts)
        for fact in told:
            if fact.log == "control":
                self._control(fact)
        for fact in told:
            if fact.log == "nodes":
                self._node(fact)
                self._note(fact.time_ns)

    # ------------------------------------------------------------ folding

    def _control(self, fact: Fact) -> None:
        account = fact.event.get("account") if fact.kind == "BudgetSet" else fact.event.get("caps")
        if fact.kind not in {"BudgetSet", "KeyIssued"} or not account:
            return
        name = f"{account['kind']}:{account['id']}"
        amounts = {window: amount for meter, window, amount in account.get("caps", ()) if meter == "usd"}
        known = {window for account, window in self.caps if account == name}
        for window in {*amounts, *known}:
            self.caps.setdefault((name, window), Course(None)).set(fact.time_ns, amounts.get(window))

    def _node(self, fact: Fact) -> None:
        match fact.kind:
            case "RequestAdmitted":
                self._admitted(fact)
            case "RequestSettled":
                self.books.settle(fact.event)
            case "RequestReleased":
                self.books.release(fact.event["request_id"])
            case "Fenced":
                self.books.fence(fact.event["actor"])
            case _:
                pass

    def _admitted(self, fact: Fact) -> None:
        request = self.books.admit(fact.actor, fact.event)
        if request is None:
            self.findings.append(f"P5: {fact.event['request_id']} was admitted twice: {fact}")
            return
        request.stored_ns = fact.time_ns
        self.by_key[request.key].append(request)
        if request.idempotency:
            self.by_digest[request.idempotency].append(request)
        for spot in request.spots():
            if request.bound and spot[:2] in self.caps:
                self._check_cap(fact, request, spot)

    def _check_cap(self, fact: Fact, request: Request, spot: Spot) -> None:
        """P1: settled + held (this request included) <= the most generous cap that may have been in force."""
        answered = self._answered.get(spot[:2], ())
        newest = bisect_right(answered, fact.time_ns - CLOCKS_NS) - 1
        since_ns = answered[newest] if newest >= 0 else fact.time_ns - int(LOWERED_S * 1e9)
        caps = self.caps[spot[:2]].between(since_ns, fact.time_ns + CLOCKS_NS)
        if None in caps:
            return
        most = max(cap for cap in caps if cap is not None)
        occupied = self.books.occupied(spot) - self.books.overrun[spot]
        if occupied > most:
            self.findings.append(f"P1: {request.id} takes {spot} to {occupied}, above its cap of {most}: {fact}")

    def _note(self, time_ns: int) -> None:
        changed, self.books.changed = self.books.changed, set()
        for spot in changed:
            if spot[:2] in self.caps:
                self.spots_of_cap[spot[:2]].add(spot)
                self.occupied[spot].set(time_ns, self.books.occupied(spot))

    # ------------------------------------------------------------ judging

    def did_not_fit(self, accounts: Container[str], bound_nanos: int, from_ns: int, to_ns: int) -> bool:
        """Whether a call in dollars did not fit at some instant of the span, in one of its accounts (P2)."""
        for name, caps in self.caps.items():
            if name[0] not in accounts:
                continue
            tightest = min((cap for cap in caps.between(from_ns, to_ns) if cap is not None), default=None)
            if tightest is None:
                continue
            for spot in self.spots_of_cap[name]:
                most = max(value or 0 for value in self.occupied[spot].between(from_ns, to_ns))
                if most + bound_nanos > tightest:
                    return True
        return False
