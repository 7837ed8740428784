"""Answers about one vendor object that overlap (rule S2): never counted too low, and right once a later call tells.

A vendor executes calls in an order of its own; the log has intents and answers in another one. All that binds the two
is that a call is executed after its intent is stored and before its answer is. Scripts of small numbers draw both.
"""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.audit.columns import Rows
from controlplane.audit.memory import Memory
from controlplane.audit.rows import add_rows
from controlplane.audit.told import Told
from events.codec import Batch
from events.log.port import Stored
from events.state.budget import Budget
from events.state.budget_image import dump_budget, load_budget
from events.types import NodeEvent, ObjectExposure, RequestAdmitted, RequestSettled
from schemas.amounts import Amounts
from schemas.policy import Who

REF = "stripe/-/pi_1"
WHO = Who(key="k", agent="a", owner="t")
AT_NS = 1_763_596_800 * 10**9

Step = tuple[int, int, int]
"""What, which call, which amount."""

scripts = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 9)), max_size=60)


@dataclass
class Calls:
    """The vendor, the log and its folds. `now`: what the object is; `asked`, `executed`: calls in these states."""

    now: int = 0
    final: bool = False
    seq: int = 0
    made: int = 0
    asked: dict[str, tuple[int, bool]] = field(default_factory=dict)
    executed: dict[str, ObjectExposure] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    memory: Memory = field(default_factory=Memory)
    audited_nanos: int = 0

    def tell(self, *events: NodeEvent) -> None:
        """One message of the node log, into the ledger's fold and into rows."""
        self.seq += 1
        for event in events:
            self.budget.apply_node(self.seq, "n1", event)
        batch = Batch("n1", self.seq, AT_NS, events)
        rows = Rows()
        add_rows(rows, Told(), "nodes", [(Stored(self.seq, "", b"", AT_NS), batch)], self.memory)
        self.audited_nanos += sum(rows.column("actual_usd"))

    def ask(self, wants: int, *, last: bool) -> str:
        """A call's intent is stored. `last`: it is a capture or a cancel, and the object final after it."""
        self.made += 1
        name = f"r{self.made}"
        bound = Amounts(max(0, wants - self.counted), requests=1)
        self.tell(RequestAdmitted(name, AT_NS, WHO, "stripe", "x", "POST", "/", bound))
        self.asked[name] = (wants, last)
        return name

    def execute(self, name: str) -> None:
        """The vendor does it, or says how a final object is."""
        wants, last = self.asked.pop(name)
        if not self.final:
            self.now, self.final = wants, last
        self.executed[name] = ObjectExposure(REF, self.now, final=self.final)

    def answer(self, *names: str) -> None:
        told = [(name, self.executed.pop(name)) for name in names]
        self.tell(*(RequestSettled(name, "settled", AT_NS, Amounts(requests=1), thing) for name, thing in told))

    def again(self, name: str) -> None:
        """The answer is told once more, as a re-joined node does."""
        thing = ObjectExposure(REF, 99)
        self.tell(RequestSettled(name, "settled", AT_NS, Amounts(requests=1), thing))

    @property
    def counted(self) -> int:
        known = self.budget.object(REF)
        return known.counted if known is not None else 0

    @property
    def held(self) -> int:
        return self.budget.figure("key", "k", "usd", "total", AT_NS, "UTC").held


def play(script: list[Step], *, checkpoints: bool = False) -> Calls:
    calls = Calls()
    for what, which, amount in script:
        if checkpoints:
            calls.budget = load_budget(dump_budget(calls.budget))
        match what:
            case 0 | 1:
                calls.ask(amount, last=what == 1 and which == 0)
            case 2 if calls.asked:
                calls.execute(sorted(calls.asked)[which % len(calls.asked)])
            case 3 if calls.executed:
                names = sorted(calls.executed)
                calls.answer(*names[which % len(names) :][: 1 + amount // 7])
            case 4 if calls.made:
                name = f"r{1 + which % calls.made}"
                if name not in calls.asked and name not in calls.executed:
                    calls.again(name)
            case _:
                pass
        check(calls)
    return calls


def check(calls: Calls) -> None:
    """At every step: what is counted covers the object, unless an answer is under way; the audit has the same sum."""
    if not calls.executed:
        assert calls.counted >= calls.now
    settled = calls.budget.figure("key", "k", "usd", "total", AT_NS, "UTC").settled
    assert settled == calls.counted == calls.audited_nanos


@given(scripts)
@settings(max_examples=400, deadline=None)
def test_never_too_low_and_right_once_a_later_call_tells(script: list[Step]) -> None:
    calls = play(script)
    for name in sorted(calls.asked):
        calls.execute(name)
    for name in sorted(calls.executed, reverse=True):
        calls.answer(name)
        check(calls)
    assert calls.counted >= calls.now
    assert calls.held == 0
    assert not calls.final or calls.counted == calls.now, "what is final is known at once"
    last = calls.ask(calls.now, last=False)
    calls.execute(last)
    calls.answer(last)
    assert calls.counted == calls.now


@given(scripts)
@settings(max_examples=100, deadline=None)
def test_alone_each_answer_counts_as_it_is(script: list[Step]) -> None:
    """Calls that do not overlap: every capture and cancel gives back at once, also within one message."""
    calls = Calls()
    for _, which, amount in script:
        name = calls.ask(amount, last=which == 0)
        calls.execute(name)
        calls.answer(name)
        assert calls.counted == calls.now


@given(scripts)
@settings(max_examples=100, deadline=None)
def test_a_checkpoint_knows_the_order_too(script: list[Step]) -> None:
    once, often = play(script), play(script, checkpoints=True)
    assert dump_budget(once.budget) == dump_budget(often.budget)


def test_an_intent_that_shares_a_message_with_an_answer_is_newer() -> None:
    """Ends go before intents: the node had that answer when it wrote the intent."""
    calls = Calls()
    first = calls.ask(9, last=False)
    calls.execute(first)
    thing = calls.executed.pop(first)
    calls.tell(
        RequestSettled(first, "settled", AT_NS, Amounts(requests=1), thing),
        RequestAdmitted("r9", AT_NS, WHO, "stripe", "x", "POST", "/", Amounts(requests=1)),
    )
    calls.asked["r9"] = (4, False)
    calls.execute("r9")
    calls.answer("r9")
    assert calls.counted == 4
