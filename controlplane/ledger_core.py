"""The ledger: who may spend what, decided without I/O (rules G1 to G8, docs/PROTOCOL.md).

An ask's life

| state | what happens | next |
|---|---|---|
| asked | unknown window or cap | answered `window_turned` |
| asked | its incarnation is over | answered `fenced` |
| waiting | all its lines have room, and no earlier ask lacks one of them | granting |
| waiting | settled + held + bound > cap: a mark is wanted; still so once it has passed | answered `refused` |
| waiting | it fits, but is lent out: its lines are recalled and tight | waiting |
| waiting | its time is over, and a mark begun since then has passed | answered `unavailable` |
| granting | the grant is recorded in the control log and folded | answered `granted` |

Who calls what
    `submit` takes an ask. `look` says what is to be done now: answers to send, recalls, whether a mark is
    wanted, whether something can be granted. `grants` decides, on a state with nothing in flight, what is to
    be appended; `recorded` gives the answers once it was. `marked` gives the refusals once both folds have
    passed a mark that was begun with `begin_mark`. The shell (controlplane.ledger) does the I/O between.

What would be wrong
    - Refusing by what the fold shows when the ask arrives: money that has been returned may be on its way.
    - Counting leases in a refusal: budget lent to another node is never a reason (P2).
    - Granting in parts, or to a later ask what an earlier one waits for: it might wait for ever.
    - Giving up at the deadline on a fold that lags, or by a mark from before the logs stood still: an exact answer a
      moment later is better than a 503.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import takewhile
from typing import Literal, NamedTuple

from controlplane.ledger_lines import MAX_LINES, Lines, Need, parse_need
from controlplane.ledger_survey import Instant, Survey, Waiting
from controlplane.lowered import Lowered
from controlplane.recalls import RecallOrder, Recalls
from events.state.replica import Replica
from events.types import LeaseGranted
from schemas.accounts import NANOS_PER_S
from schemas.histogram import Histogram
from schemas.rpc import LeaseAnswer, LeaseAsk, LeaseRefusal
from schemas.settings import MS, Timing

MAX_WAITING = 8_000
"""Asks waiting at a time: all that come within their patience at 10,000 a second. One look costs 1 us for each."""

MAX_ANSWERED = 50_000
"""Answers remembered for repeats: ten seconds' worth at 5,000 a second; repeats come within one second."""

MAX_GRANTS = 1_000
"""Asks granted in one append: with four lines each they stay well below the size of one message."""


MOVING_NS = 300 * MS
"""Fifteen recalls: a line of which nothing came back, and nothing was taken, for so long does not move."""

WAIT_BOUNDS_US = (1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 600_000, 1_200_000, 4_800_000)
"""A grant takes one append; a recall some tens of milliseconds; patience is 600 ms, at most eight times that."""

HARD_WAITS = 8
"""No ask waits longer than so many times `lease_wait_ms`, whatever moves. A node's patience is the same."""


class Answer(NamedTuple):
    """To be sent to whoever asked under this id."""

    ask_id: str
    answer: LeaseAnswer


class Mark(NamedTuple):
    """What a mark judges: the asks that had arrived when it was begun, and then."""

    arrivals: int
    begun_ns: int


class Look(NamedTuple):
    """What is to be done now. `again_ns`: look again then, on the elapsed clock, if nothing happens before."""

    answers: list[Answer]
    recalls: list[RecallOrder]
    wants_mark: bool
    can_grant: bool
    again_ns: int | None


class LedgerCore:
    """All asks that wait, and the answers given lately."""

    def __init__(self, replica: Replica, timing: Timing) -> None:
        self._replica = replica
        self._timing = timing
        self._lines = Lines(replica)
        self._recalls = Recalls(replica.budget, every_ns=timing.recall_every_ms * MS, tight_ns=timing.tight_ms * MS)
        self.lowered = Lowered(replica, self._lines)
        self._waiting: dict[str, Waiting] = {}
        self._ahead: dict[str, Waiting] = {}
        self._granting: list[tuple[Waiting, Literal["ask", "ahead"]]] = []
        self._answered: OrderedDict[str, tuple[LeaseAsk, LeaseAnswer]] = OrderedDict()
        self._arrivals = 0
        self._movement: dict[str, tuple[int, int]] = {}
        self.closed = False
        """Nothing is lent: the logs are too full to admit more (rule L6)."""
        self.granted = self.refused = self.unavailable = 0
        """Answers given, for metrics."""
        self.waits_us = Histogram(WAIT_BOUNDS_US)
        """From an ask's arrival to its answer, of those that a request waits for."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # ------------------------------------------------------------ asks come in

    def submit(self, ask: LeaseAsk, at: Instant) -> LeaseAnswer | None:
        """Take an ask of a living incarnation; an answer at once, or None: it waits (again, if it is repeated).

        Raises ValueError for an ask that is not well-formed.
        """
        before = self._answered.get(ask.ask_id)
        if before is not None and before[0] == ask:
            return self._again(ask, before[1], at)
        known = self._waiting.get(ask.ask_id) or self._ahead.get(ask.ask_id)
        if known is not None and known.ask == ask:
            return None
        if not 0 < len(ask.lines) <= MAX_LINES:
            raise ValueError(f"an ask names 1 to {MAX_LINES} lines")
        needs = tuple(parse_need(line, amount) for line, amount in ask.lines.items())
        if not all(self._lines.lendable(need, at.wall_ns) for need in needs):
            return LeaseAnswer(ask.ask_id, "window_turned", at.wall_ns)
        if self.closed or len(self._waiting) + len(self._ahead) >= MAX_WAITING:
            self.unavailable += 1
            return LeaseAnswer(ask.ask_id, "unavailable", at.wall_ns, log_full=self.closed)
        self._enter(ask, needs, at)
        return None

    def _enter(self, ask: LeaseAsk, needs: tuple[Need, ...], at: Instant) -> None:
        self._arrivals += 1
        patience_ns = self._timing.lease_wait_ms * MS
        deadline_ns = at.elapsed_ns + patience_ns
        waiting = Waiting(ask, needs, self._arrivals, deadline_ns, at.elapsed_ns + HARD_WAITS * patience_ns)
        ends = [end for need in needs if (end := self._lines.end_s(need)) is not None]
        waiting.turns_ns = min(ends) * NANOS_PER_S if ends else None
        self._waiting.pop(ask.ask_id, None)  # the same id with other lines comes anew
        (self._ahead if ask.ahead else self._waiting)[ask.ask_id] = waiting

    def _again(self, ask: LeaseAsk, answer: LeaseAnswer, at: Instant) -> LeaseAnswer:
        """A repeat gets the same answer, with the cumulative figures of now."""
        if answer.outcome != "granted":
            return answer
        return self._granted_answer(ask, at)

    # ------------------------------------------------------------ what to do now

    def look(self, at: Instant) -> Look:
        """Called after every ask, fold, append and mark, and when `again_ns` has come."""
        shut = (*self._waiting.values(), *self._ahead.values()) if self.closed else ()
        answers = [self._end(waiting, "unavailable", at) for waiting in shut]
        survey = self._survey(at)
        answers += [self._end(waiting, "window_turned", at) for waiting in survey.turned]
        self._note_movement(survey.lent_out, at)
        overdue, wants_mark = self._overdue(at)
        answers += overdue
        doubtful = any(waiting.ask.ask_id in self._waiting for waiting in survey.doubtful)
        recalls, again_ns = self._recalls.round(survey.lent_out, self.lowered.lines(), at.elapsed_ns)
        for waiting in self._waiting.values():  # in order of arrival, so the first is the first to be due
            due_ns = waiting.hard_ns if waiting.deadline_ns <= at.elapsed_ns else waiting.deadline_ns
            again_ns = due_ns if again_ns is None else min(again_ns, due_ns)
            break
        return Look(answers, recalls, wants_mark or doubtful, bool(survey.grants or self._ahead), again_ns)

    def _survey(self, at: Instant) -> Survey:
        """Weigh all waiting asks, in order of arrival."""
        nodes = max(1, len(self._replica.nodes.living))
        survey = Survey(self._lines, self._recalls, self.lowered.stray_spans, nodes, at)
        for waiting in self._waiting.values():
            survey.weigh(waiting)
        return survey

    def _overdue(self, at: Instant) -> tuple[list[Answer], bool]:
        """Asks whose time is over. One that no mark has judged since then gets a little longer, and a mark; so does
        one whose money is on its way back.
        """
        overdue = list(takewhile(lambda waiting: waiting.deadline_ns <= at.elapsed_ns, self._waiting.values()))
        over = [
            waiting
            for waiting in overdue
            if waiting.lacks and (waiting.hard_ns <= at.elapsed_ns or (waiting.judged and not self._moves(waiting, at)))
        ]
        return [self._end(waiting, "unavailable", at) for waiting in over], any(
            waiting.lacks and not waiting.judged for waiting in overdue
        )

    def _note_movement(self, lines: set[str], at: Instant) -> None:
        """Remember when what is lent of each line changed last."""
        leases = self._replica.budget.leases
        before = self._movement
        self._movement = {}
        for line in lines:
            leased = leases.leased(line)
            known = before.get(line)
            self._movement[line] = known if known is not None and known[0] == leased else (leased, at.elapsed_ns)

    def _moves(self, waiting: Waiting, at: Instant) -> bool:
        """Whether every line that it lacks moved lately: nodes give back, only slowly."""
        never = (0, -MOVING_NS)
        return all(at.elapsed_ns - self._movement.get(line, never)[1] < MOVING_NS for line in waiting.lacks)

    # ------------------------------------------------------------ granting

    def grants(self, at: Instant) -> tuple[LeaseGranted, ...]:
        """Decide what is lent. Call it on a state that has folded everything appended, append, then `recorded`."""
        survey = self._survey(at)
        given: dict[str, dict[str, int]] = {}
        self._granting = []
        for waiting, sizes in survey.grants[:MAX_GRANTS]:
            self._give(given, waiting, sizes, at)
            self._granting.append((waiting, "ask"))
        for waiting in list(self._ahead.values())[:MAX_GRANTS]:
            self._give(given, waiting, survey.spare(waiting.needs), at)
            self._granting.append((waiting, "ahead"))
        return tuple(LeaseGranted(incarnation, lines) for incarnation, lines in given.items() if lines)

    def _give(self, given: dict[str, dict[str, int]], waiting: Waiting, sizes: dict[str, int], at: Instant) -> None:
        incarnation = waiting.ask.incarnation
        lines = given.setdefault(incarnation, {})
        leases = self._replica.budget.leases
        for line, size in sizes.items():
            lines[line] = lines.get(line, leases.granted(incarnation, line)) + size
        self._recalls.granted(incarnation, sizes, at.elapsed_ns)

    def recorded(self, at: Instant) -> list[Answer]:
        """The grants decided last are in the control log and folded: answer who asked."""
        answers = []
        for waiting, kind in self._granting:
            (self._ahead if kind == "ahead" else self._waiting).pop(waiting.ask.ask_id, None)
            answer = self._granted_answer(waiting.ask, at)
            self._remember(waiting.ask, answer)
            if kind == "ask":
                self._note_wait(waiting, at)
            answers.append(Answer(waiting.ask.ask_id, answer))
        self.granted += len(self._granting)
        self._granting = []
        return answers

    def _granted_answer(self, ask: LeaseAsk, at: Instant) -> LeaseAnswer:
        leases = self._replica.budget.leases
        granted = {line: leases.granted(ask.incarnation, line) for line in ask.lines}
        tight = tuple(line for line in ask.lines if self._recalls.is_tight(line, at.elapsed_ns))
        return LeaseAnswer(ask.ask_id, "granted", at.wall_ns, granted, tight)

    # ------------------------------------------------------------ refusing

    def begin_mark(self, at: Instant) -> Mark:
        """A mark is about to be appended; it judges the asks that have arrived so far."""
        return Mark(self._arrivals, at.elapsed_ns)

    def marked(self, mark: Mark, at: Instant) -> list[Answer]:
        """Both folds have passed a mark: refuse what does not fit (rule G4)."""
        answers = []
        for waiting in list(self._waiting.values()):
            if waiting.order > mark.arrivals:
                continue
            waiting.judged = waiting.deadline_ns <= mark.begun_ns
            refusal = self._refusal(waiting)
            if refusal is not None:
                answers.append(self._end(waiting, "refused", at, refusal))
        return answers

    def _refusal(self, waiting: Waiting) -> LeaseRefusal | None:
        """The first line of which settled + held + bound > cap."""
        for need in waiting.needs:
            room = self._lines.room(need)
            if room is not None and room.refuses(need.amount):
                settled, held = self._lines.figures(need)
                return LeaseRefusal(need.line, room.cap, settled, held, self._lines.end_s(need))
        return None

    # ------------------------------------------------------------ the end of an ask

    def drop(self, incarnation: str, at: Instant) -> list[Answer]:
        """The incarnation is fenced: nothing can be lent to it any more."""
        gone = [w for w in (*self._waiting.values(), *self._ahead.values()) if w.ask.incarnation == incarnation]
        return [self._end(waiting, "fenced", at) for waiting in gone]

    def _end(
        self,
        waiting: Waiting,
        outcome: Literal["refused", "unavailable", "window_turned", "fenced"],
        at: Instant,
        refusal: LeaseRefusal | None = None,
    ) -> Answer:
        full = self.closed and outcome == "unavailable"
        answer = LeaseAnswer(waiting.ask.ask_id, outcome, at.wall_ns, refusal=refusal, log_full=full)
        self._waiting.pop(waiting.ask.ask_id, None)
        self._ahead.pop(waiting.ask.ask_id, None)
        self.refused += outcome == "refused"
        self.unavailable += outcome == "unavailable"
        if outcome != "window_turned":  # that one is asked again, under the same id
            self._remember(waiting.ask, answer)
            self._note_wait(waiting, at)
        return Answer(waiting.ask.ask_id, answer)

    def _note_wait(self, waiting: Waiting, at: Instant) -> None:
        arrived_ns = waiting.deadline_ns - self._timing.lease_wait_ms * MS
        self.waits_us.observe((at.elapsed_ns - arrived_ns) // 1_000)

    def _remember(self, ask: LeaseAsk, answer: LeaseAnswer) -> None:
        self._answered[ask.ask_id] = (ask, answer)
        while len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)


def exhausted_lines(answers: Iterable[Answer]) -> list[str]:
    """The lines that refusals name, each once."""
    return list(dict.fromkeys(answer.refusal.line for _, answer in answers if answer.refusal is not None))
