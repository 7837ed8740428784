"""The omniscient observer: sees every message as it is stored, every vendor call, every answer, and judges them.

| promise | judged when | how |
|---|---|---|
| P1 | an intent is stored | settled + held + bound <= cap in each of its lines, overruns left out |
| P1 | the vendor moves money | what the vendor moved for an account's window <= its cap |
| P2 | a 402 is given | its line really was too full at some instant of the wait (or `exhausted_ttl` before it) |
| P3 | a vendor call starts, a chunk is relayed | no stop of its key or agent had been confirmed |
| P4 | a vendor call starts | its intent is stored and still open |
| L2, L3 | a node's batch is stored | its incarnation is not fenced; its number is the next one |
| A3 | a vendor call starts, a chunk is relayed | the incarnation was not fenced `proof_ttl` ago or earlier |
| S2 | an answer about an object is stored, and none is under way | it counts for what it is at the vendor, or more |

A cap that was changed counts in its most generous version for P1 and in its tightest for P2, from the moment at which
the change is stored until its command is answered.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim.books import METERS, Books, Request, Spot, read_batch, start_of

from events.log.memory import MemoryStream
from events.subjects import CONTROL_FENCE, CONTROL_LOG, NODES_STREAM, parse_node_fence, parse_node_log

CapName = tuple[str, str, str]
"""(account, meter, window)"""

KEPT_TRACE = 4000

POLICY_AGE_NS = 15_000_000_000
"""A node that has heard nothing of the control plane for longer refuses everything (`feed_max_age`)."""


@dataclass(slots=True)
class CapHistory:
    """`versions`: (control sequence, amount or None), those that may be in force; the newest is last.

    `past`: (time, amount) of those that are not in force any more. `fixed`: the cap came with its key and was never changed, so it bounds what the vendor moves, too.
    """

    versions: list[tuple[int, int | None]] = field(default_factory=lambda: [(0, None)])
    past: list[tuple[int, int | None]] = field(default_factory=list)
    fixed: bool = False

    def most(self) -> int | None:
        """The most generous version; None: uncapped."""
        amounts = [amount for _, amount in self.versions]
        return None if None in amounts else max(amount for amount in amounts if amount is not None)

    def least(self) -> int | None:
        return min((amount for _, amount in self.versions if amount is not None), default=None)


class _Tap:
    """Looks like a follower to a stream; is called within the very step that stores a message."""

    def __init__(self, stream: MemoryStream, seen: Callable[[MemoryStream, int], None]) -> None:
        self._stream = stream
        self._seen = seen
        self._faults = None
        stream.attach(self)  # type: ignore[arg-type]

    def stored(self, sequence: int) -> None:
        self._seen(self._stream, sequence)


class Observer:
    """`violations` is empty as long as every promise is kept."""

    def __init__(self, now_ns: Callable[[], int], proof_ttl_ns: int, exhausted_ttl_ns: int) -> None:
        self._now_ns = now_ns
        self._proof_ttl_ns = proof_ttl_ns
        self._exhausted_ttl_ns = exhausted_ttl_ns
        self.books = Books()
        self.violations: list[str] = []
        self.trace: deque[str] = deque(maxlen=KEPT_TRACE)
        self.counts: dict[str, int] = defaultdict(int)
        self.caps: dict[CapName, CapHistory] = defaultdict(CapHistory)
        self._caps_of: dict[str, set[CapName]] = defaultdict(set)
        self._full: dict[Spot, list[tuple[int, int, int | None]]] = defaultdict(list)
        """(time, occupied, tightest cap) of each spot that was ever capped, at each change."""
        self._spots_of_cap: dict[CapName, set[Spot]] = defaultdict(set)
        self._operations: dict[str, int] = {}
        self.fenced: dict[str, int] = {}
        self._batches: dict[str, int] = {}
        self._stopped: dict[str, int] = {}
        self.vendor_moved: dict[Spot, int] = defaultdict(int)
        self.vendor_over: dict[Spot, int] = defaultdict(int)
        self.calls: dict[str, int] = {}
        self.things: dict[str, int] = {}
        """What the vendor's objects are."""
        self._about: dict[str, list[str]] = defaultdict(list)

    def watch(self, stream: MemoryStream) -> None:
        _Tap(stream, self._stored)

    def note(self, text: str) -> None:
        self.trace.append(f"{self._now_ns() / 1e9:.6f} {text}")

    def blame(self, text: str) -> None:
        self.note(f"VIOLATION {text}")
        self.violations.append(f"at {self._now_ns() / 1e9:.6f} s: {text}")

    # ------------------------------------------------------------ what the logs say

    def _stored(self, stream: MemoryStream, sequence: int) -> None:
        stored = stream.get(sequence)
        assert stored is not None
        batch = read_batch(stored.payload)
        tags = ",".join(event["t"].split("/")[0] for event in batch["events"])
        self.note(f"{stream.name} {sequence} {stored.subject.removeprefix('rf.')} {batch['actor']}.{batch['n']} {tags}")
        if stream.name == NODES_STREAM:
            self._node_message(sequence, stored.subject, batch)
        elif stored.subject == CONTROL_LOG:
            for event in batch["events"]:
                self._control_event(sequence, event)
        else:
            assert stored.subject == CONTROL_FENCE
        self._record()

    def _node_message(self, sequence: int, subject: str, batch: dict[str, Any]) -> None:
        fence = parse_node_fence(subject)
        owner = parse_node_log(subject)
        for event in batch["events"]:
            tag = event["t"].split("/")[0]
            if fence is not None:
                if tag == "Fenced":
                    if fence.incarnation not in self.fenced:
                        self.fenced[fence.incarnation] = self._now_ns()
                        self.books.fence(fence.incarnation)
                    self.counts["fenced"] += 1
            elif owner is not None:
                self._node_event(owner.incarnation, sequence, tag, event)
        if owner is not None:
            if owner.incarnation in self.fenced:
                self.blame(f"L2: {owner.incarnation} wrote its log after its fence")
            if batch["n"] != self._batches.get(owner.incarnation, 0) + 1:
                before = self._batches.get(owner.incarnation)
                self.blame(f"L3: {owner.incarnation} wrote batch {batch['n']} after {before}")
            self._batches[owner.incarnation] = batch["n"]

    def _node_event(self, actor: str, sequence: int, tag: str, event: dict[str, Any]) -> None:
        self.counts[tag] += 1
        match tag:
            case "RequestAdmitted":
                self._admitted(actor, sequence, event)
            case "RequestReleased":
                self.books.release(event["request_id"])
            case "RequestSettled":
                self.books.settle(event, sequence)
                if "object" in event:
                    self._check_object(event["object"]["ref"])
            case _:
                pass

    def _admitted(self, actor: str, sequence: int, event: dict[str, Any]) -> None:
        request = self.books.admit(actor, event, self._now_ns(), sequence)
        if request is None:
            self.blame(f"P1: {event['request_id']} was admitted twice")
            return
        for index, spot in self.books.spots_of(request.accounts, request.at_ns):
            self._check_cap(request, index, spot)
        for account in request.accounts:
            for name in self._caps_of[account]:
                if name[2] == "request":
                    most = self.caps[name].most()
                    bound = request.bound[METERS.index(name[1])]
                    if most is not None and bound > most:
                        self.blame(f"P1: {request.id} was admitted with {bound} above {name} of {most}")

    def _check_cap(self, request: Request, index: int, spot: Spot) -> None:
        bound = request.bound[index]
        name = (spot[0], spot[1], spot[2])
        if not bound or name not in self.caps:
            return
        most = self.caps[name].most()
        if most is None:
            return
        occupied = self.books.occupied(spot) - self.books.overrun[spot]
        self.counts["tight"] += occupied == most
        if occupied > most:
            held, settled = self.books.held[spot], self.books.settled[spot]
            self.blame(
                f"P1: {request.id} ({bound}) of {request.actor} was admitted on {spot}: settled {settled} + held {held}"
                f" (itself included) above the cap of {most}"
            )

    def _control_event(self, sequence: int, event: dict[str, Any]) -> None:
        tag = event["t"].split("/")[0]
        self.counts[tag] += 1
        if (operation := event.get("by", {}).get("reason")) and operation not in self._operations:
            self._operations[operation] = sequence
        match tag:
            case "BudgetSet":
                self._caps_set(sequence, event["account"])
            case "KeyIssued":
                if event.get("caps"):
                    self._caps_set(sequence, event["caps"])
                    for name in self._caps_of[f"key:{event['id']}"]:
                        self.caps[name] = CapHistory(self.caps[name].versions[-1:], [], fixed=True)
            case "KeyResumed":
                self._stopped.pop(f"key:{event['id']}", None)
            case "AgentRegistered" | "AgentResumed":
                self._stopped.pop(f"agent:{event['name']}", None)
            case "RequestReconciled":
                self.books.reconcile(event)
            case _:
                pass

    def _caps_set(self, sequence: int, raw: dict[str, Any]) -> None:
        account = f"{raw['kind']}:{raw['id']}"
        amounts = {(meter, window): amount for meter, window, amount in raw.get("caps", ())}
        assert not amounts or raw.get("zone", "UTC") == self.zone(account), "zones are known beforehand"
        for meter, window in {*amounts, *((name[1], name[2]) for name in self._caps_of[account])}:
            name = (account, meter, window)
            amount = amounts.get((meter, window))
            history = self.caps[name]
            self._caps_of[account].add(name)
            history.versions.append((sequence, amount))
            history.fixed = False
            self.books.changed |= self._spots_of_cap[name]

    def _record(self) -> None:
        """Keep what the last message changed, for P2."""
        now_ns = self._now_ns()
        changed, self.books.changed = self.books.changed, set()
        for spot in sorted(changed):
            name = (spot[0], spot[1], spot[2])
            self._spots_of_cap[name].add(spot)
            cap = self.caps[name].least() if name in self.caps else None
            self._full[spot].append((now_ns, self.books.occupied(spot), cap))

    # ------------------------------------------------------------ what operators are told

    def confirmed(self, operation: str, stops: tuple[str, ...] = (), caps: str = "") -> None:
        """A command was answered with success. `stops`: accounts (`key:..`, `agent:..`) that are stopped from now
        on; `caps`: the account whose caps it has changed.
        """
        self.note(f"CONFIRMED {operation} {stops} {caps}")
        sequence = self._operations.get(operation)
        for account in stops:
            self._stopped[account] = self._now_ns()
        if caps and sequence is not None:
            for name in sorted(self._caps_of[caps]):
                history = self.caps[name]
                over = [version for version in history.versions if version[0] < sequence]
                history.versions = history.versions[len(over) :]
                history.past += [(self._now_ns(), amount) for _, amount in over]
                self.books.changed |= self._spots_of_cap[name]
            self._record()

    def _stop_of(self, request: Request) -> str:
        """The confirmed stop that applies to a request; empty if none does."""
        return next((account for account in request.accounts[:2] if account in self._stopped), "")

    # ------------------------------------------------------------ what nodes do

    def dispatched(self, request_id: str, key: str, ref: str = "") -> None:
        """A vendor call starts. `ref`: the object that it is about."""
        if ref:
            self._about[ref].append(request_id)
        self.counts["dispatched"] += 1
        self.note(f"DISPATCH {request_id} {key}")
        self.calls[request_id] = self.calls.get(request_id, 0) + 1
        request = self.books.requests.get(request_id)
        if request is None:
            self.blame(f"P4: {request_id} was sent to the vendor without a stored intent")
            return
        if stop := self._stop_of(request):
            self.blame(f"P3: {request_id} was sent to the vendor after the stop of {stop} was confirmed")
        if request.ended:
            self.blame(f"P1: {request_id} was sent to the vendor after it was {request.ended}")
        self._check_fence(request, "was sent to the vendor")

    def relayed(self, request_id: str) -> None:
        """A chunk of a stream goes to the client."""
        self.counts["relayed"] += 1
        request = self.books.requests.get(request_id)
        if request is None:
            return  # blamed when it was sent
        if stop := self._stop_of(request):
            self.blame(f"P3: a chunk of {request_id} was relayed after the stop of {stop} was confirmed")
        self._check_fence(request, "was relayed")

    def _check_fence(self, request: Request, what: str) -> None:
        fenced_ns = self.fenced.get(request.actor)
        if fenced_ns is not None and self._now_ns() - fenced_ns > self._proof_ttl_ns:
            age_ms = (self._now_ns() - fenced_ns) / 1e6
            self.blame(f"A3: {request.id} {what} {age_ms:.0f} ms after the fence of {request.actor}")

    def refused(self, request_id: str, line: str, bound: int, arrived_ns: int, actor: str) -> None:
        """A 402 was given. `line`: where it does not fit, and the request's bound in its meter."""
        self.counts["refused"] += 1
        account, meter, window, start = line.rsplit(":", 3)
        self.note(f"REFUSED {request_id} {line} {bound} at {actor}")
        if window == "request":
            self._check_single(request_id, account, meter, bound)
            return
        spot = (account, meter, window, int(start))
        since_ns = arrived_ns - self._exhausted_ttl_ns
        history = self._full[spot]
        first = next((index for index, entry in enumerate(history) if entry[0] >= since_ns), len(history))
        instants = history[max(0, first - 1) :]
        if first == 0:
            instants = [(0, 0, self.caps[account, meter, window].least()), *instants]
        if not any(cap is not None and occupied + bound > cap for _, occupied, cap in instants):
            shown = [(at_ns / 1e9, occupied, cap) for at_ns, occupied, cap in instants[-8:]]
            self.blame(f"P2: {request_id} ({bound}) was refused on {line}, which had room all the time: {shown}")

    def _check_single(self, request_id: str, account: str, meter: str, bound: int) -> None:
        """A cap of single requests is checked by the node's own policy, which may lag behind a cap that was raised."""
        history = self.caps[account, meter, "request"]
        since_ns = self._now_ns() - POLICY_AGE_NS
        lately = [amount for _, amount in history.versions]
        lately += [amount for until_ns, amount in history.past if until_ns >= since_ns]
        if not any(amount is not None and bound > amount for amount in lately):
            self.blame(f"P2: {request_id} ({bound}) was refused on {account} {meter} request, of {lately}")

    # ------------------------------------------------------------ what the vendor does

    def moved(self, request: Request, meter: int, amount: int, over: int) -> None:
        """The vendor moved money (or gave it back) because of a request; `over` of it beyond the request's bound."""
        for index, spot in self.books.spots_of(request.accounts, request.at_ns):
            if index != meter:
                continue
            self.vendor_moved[spot] += amount
            self.vendor_over[spot] += over
            history = self.caps.get((spot[0], spot[1], spot[2]))
            most = history.most() if history is not None and history.fixed else None
            if most is not None and self.vendor_moved[spot] - self.vendor_over[spot] > most:
                self.blame(f"P1: the vendor moved {self.vendor_moved[spot]} for {spot}, whose cap is {most}")

    def _check_object(self, ref: str) -> None:
        """Whenever every call on it has been answered, an object counts for what it is at least (S2)."""
        requests = [self.books.requests[name] for name in self._about[ref] if name in self.books.requests]
        if not all(request.ended for request in requests):
            return
        self.counts["objects"] += 1
        known, truth = self.books.objects[ref], self.things.get(ref, 0)
        self.counts["overlapped"] += known.counted > truth
        if known.counted < truth or (known.final and known.counted != truth):
            self.blame(f"S2: {ref} is counted for {known.counted}, and is {truth} at the vendor")

    def check_read_object(self, ref: str) -> None:
        """At the end, after a call that overlapped with none: what is counted is exact."""
        self.counts["read objects"] += 1
        if (counted := self.books.objects[ref].counted) != self.things.get(ref, 0):
            self.blame(f"S2: {ref} was read, counts {counted}, and is {self.things.get(ref, 0)} at the vendor")

    def check_vendor(self) -> None:
        """At the end: the books count at least what the vendor moved within bounds (an overrun shows in its answer)."""
        times = {request.at_ns for request in self.books.requests.values()}
        seen: dict[tuple[str, str], set[int]] = {}
        for spot, moved in sorted(self.vendor_moved.items()):
            # What a call did is counted where its answer came at last: another team, a later window (S1).
            place = (spot[2], self.zone(spot[0]))
            if place not in seen:
                seen[place] = {start_of(place[0], at_ns, place[1]) for at_ns in times}
            if spot[0].startswith("team:") or seen[place] != {spot[3]}:
                continue
            if moved - self.vendor_over[spot] > self.books.occupied(spot):
                self.blame(f"P4: the vendor moved {moved} for {spot}, the books say {self.books.occupied(spot)}")

    def zone(self, account: str) -> str:
        return self.books.zones.get(account, "UTC")

    def line(self, line: str) -> tuple[int, int]:
        """(settled, held) of a line as the observer counts."""
        account, meter, window, start = line.rsplit(":", 3)
        spot = (account, meter, window, int(start))
        return self.books.settled[spot], self.books.held[spot]

    def capped_lines(self, at_ns: int) -> list[tuple[str, int]]:
        """(line, cap) of every line in force at a time."""
        return [
            (f"{name[0]}:{name[1]}:{name[2]}:{start_of(name[2], at_ns, self.zone(name[0]))}", amount)
            for name, history in sorted(self.caps.items())
            if name[2] != "request" and (amount := history.versions[-1][1]) is not None
        ]
