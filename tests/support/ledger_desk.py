"""The ledger's core with logs that append at once: what a leader does around it, without I/O."""

from collections.abc import Mapping

from controlplane.ledger_core import LedgerCore
from controlplane.ledger_survey import Instant
from events.codec import encode_batch
from events.log.port import Stored
from events.state.replica import Replica
from events.subjects import CONTROL_FENCE, CONTROL_LOG, node_fence, node_log
from events.types import (
    SYSTEM,
    BudgetSet,
    ControlEvent,
    Fenced,
    FenceOpened,
    KeyIssued,
    LeaseReturned,
    NodeEvent,
    NodeJoined,
    RequestAdmitted,
    RequestReleased,
    RequestSettled,
)
from schemas.accounts import AccountCaps, Cap, line_key, window_start_s
from schemas.amounts import Amounts
from schemas.policy import Who
from schemas.rpc import LeaseAnswer, LeaseAsk
from schemas.settings import MS, Timing

T0_NS = 1_763_596_800 * 1_000_000_000


def line(account: str, window: str = "day", meter: str = "usd", at_ns: int = T0_NS, zone: str = "UTC") -> str:
    kind, _, name = account.partition(":")
    return line_key(kind, name, meter, window, window_start_s(window, at_ns, zone))


class Desk:
    """Two logs, a replica that has folded both, a core, and a clock that only a test moves (in ms)."""

    def __init__(self, caps: Mapping[str, int], nodes: int = 2, timing: Timing | None = None) -> None:
        self.timing = timing or Timing()
        self.replica = Replica()
        self.core = LedgerCore(self.replica, self.timing)
        self.ms = 1_000
        self.wall_offset_ns = T0_NS
        self.answers: dict[str, LeaseAnswer] = {}
        self.recalls: list[tuple[str, tuple[str, ...]]] = []
        self.granted: list[dict[str, int]] = []
        self._control_n = self._seq = self._nodes_seq = 0
        self._n: dict[str, int] = {}
        self._fold_control(CONTROL_FENCE, 0, [FenceOpened("cp")])
        for number in range(1, nodes + 1):
            self.join(f"n{number}")
        for account, cap in caps.items():
            self.cap(account, cap)

    @property
    def at(self) -> Instant:
        return Instant(self.ms * MS, self.wall_offset_ns + self.ms * MS)

    # ------------------------------------------------------------ the logs

    def _fold_control(self, subject: str, n: int, events: list[ControlEvent | NodeEvent]) -> None:
        self._seq += 1
        payload = encode_batch("cp", n, self.at.wall_ns, events)
        self.replica.apply_control(Stored(self._seq, subject, payload, self.at.wall_ns))

    def control(self, *events: ControlEvent) -> None:
        self._control_n += 1
        self._fold_control(CONTROL_LOG, self._control_n, list(events))
        for event in events:
            if isinstance(event, BudgetSet):
                self.core.lowered.changed(event.account.kind, event.account.id, self._seq)

    def nodes(self, subject: str, actor: str, n: int, *events: NodeEvent) -> None:
        self._nodes_seq += 1
        payload = encode_batch(actor, n, self.at.wall_ns, events)
        self.replica.apply_node(Stored(self._nodes_seq, subject, payload, self.at.wall_ns))
        self.core.lowered.overran(self.replica.budget.take_overran())

    def join(self, slot: str) -> None:
        self.nodes(node_fence(slot, slot), "cp", 0, FenceOpened(slot))
        self.control(NodeJoined(slot, slot, self._nodes_seq, self.at.wall_ns))
        self._n[slot] = 0

    def write(self, node: str, *events: NodeEvent) -> None:
        self._n[node] += 1
        self.nodes(node_log(node, node), node, self._n[node], *events)

    # ------------------------------------------------------------ actions, one a line

    def cap(self, account: str, amount: int, window: str = "day", zone: str = "UTC") -> None:
        kind, _, name = account.partition(":")
        if kind == "key" and name not in self.replica.state.keys:
            expires_ns = T0_NS + 30 * 86_400 * 1_000_000_000
            self.control(KeyIssued(name, SYSTEM, f"sha-{name}", "a", T0_NS, expires_ns, uncapped=True))
        caps = (Cap("usd", window, amount),) if amount >= 0 else ()  # type: ignore[arg-type]
        self.control(BudgetSet(AccountCaps(kind, name, caps, zone), SYSTEM))  # type: ignore[arg-type]

    def ask(self, ask_id: str, node: str, amount: int, *accounts: str, ahead: bool = False) -> str:
        """Ask for day lines; returns the outcome so far (`waiting` if there is none)."""
        lines = {line(account): amount for account in accounts or ("key:k",)}
        answer = self.core.submit(LeaseAsk(ask_id, node, lines, ahead), self.at)
        if answer is not None:
            self.answers[ask_id] = answer
        return self.outcome(ask_id)

    def outcome(self, ask_id: str) -> str:
        answer = self.answers.get(ask_id)
        return answer.outcome if answer is not None else "waiting"

    def step(self) -> bool:
        """Look, and grant what can be granted; returns whether a mark is wanted."""
        look = self.core.look(self.at)
        self.answers.update(look.answers)
        self.recalls += look.recalls
        if look.can_grant:
            self.grant()
            return self.core.look(self.at).wants_mark
        return look.wants_mark

    def grant(self) -> None:
        events = self.core.grants(self.at)
        self.granted += [event.granted for event in events]
        if events:
            self.control(*events)
        self.answers.update(self.core.recorded(self.at))

    def mark(self) -> None:
        """A mark that passes at once."""
        self.answers.update(self.core.marked(self.core.begin_mark(self.at), self.at))

    def admit(self, name: str, node: str, amount: int, *accounts: str) -> None:
        lines = tuple(line(account) for account in accounts or ("key:k",))
        who = Who(key="k", agent="a", owner="t")
        bound = Amounts(usd=amount, requests=1)
        self.write(node, RequestAdmitted(name, T0_NS, who, "stripe", "x", "POST", "/", bound, lines))

    def settle(self, name: str, node: str, amount: int) -> None:
        self.write(node, RequestSettled(name, "settled", T0_NS, Amounts(usd=amount, requests=1)))

    def release(self, name: str, node: str) -> None:
        self.write(node, RequestReleased(name, "client gone"))

    def give_back(self, node: str, account: str, amount: int) -> None:
        """Return more: `amount` is what this return adds."""
        known = self._returned = getattr(self, "_returned", {})
        known[node, account] = known.get((node, account), 0) + amount
        self.write(node, LeaseReturned({line(account): known[node, account]}))

    def fence(self, node: str) -> None:
        self.nodes(node_fence(node, node), "cp", 0, Fenced(node, "test"))
        self.answers.update(self.core.drop(node, self.at))

    # ------------------------------------------------------------ what is seen

    def grant_of(self, ask_id: str, account: str = "key:k") -> int:
        return self.answers[ask_id].granted[line(account)]

    def remaining(self, account: str, cap: int) -> int:
        return self.replica.budget.remaining(line(account), cap, "UTC")
