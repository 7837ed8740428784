"""Leases on the way: reserving, waiting, asking, giving back (rules G1 to G7, docs/PROTOCOL.md).

The figures are `dataplane.core.reservation`; here are the questions to the ledger and the requests that wait.

A request that lacks a lease holds nothing, waits in the room and asks for its whole bound in all its lines. Whatever
credit then arrives, by its own answer, by another's or by a recall, serves the room in order of arrival. If somebody
before it used the credit that its own answer brought, it asks again under a new id. At its deadline it gives up.

What would be wrong
    - Keeping money that was granted under caps which have been lowered since: the grant may have been on its way when
      the barrier passed. So asks are numbered, and what answers one from before the barrier is returned at once; so
      is what nobody asked for, on accounts whose caps were ever lowered.
    - Asking under a new id because an answer was lost: the ledger would reserve twice. Repeats keep the id.
    - Using again what a request from before a lowered cap leaves over: the account may be above its new cap.
    - Returning what is free only when the next recall comes: on a tight line somebody else is waiting for it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from typing import Final

from dataplane.control import ControlPlane, Unanswered
from dataplane.core.lines import exhausted
from dataplane.core.reservation import LeaseBook, Needs, WaitingRoom
from dataplane.topup import TopUp
from events.clock import Clock
from events.tasks import Tasks
from schemas.refusals import Refusal, refuse
from schemas.rpc import Grants, LeaseAnswer, LeaseAsk, LeaseRefusal, Recall
from schemas.settings import MS, Timing

RESEND_S: Final = 0.15
"""An ask without an answer is sent again, under its id, this often: four tries within a request's patience."""

EARLY_PAUSE_S: Final = 0.02
"""Before asking again when it is known at once that nobody answers (a takeover)."""

MAX_EXHAUSTED: Final = 10_000
"""Remembered cap refusals; each lives for `exhausted_ttl_ms`, so this is 100,000 refused asks a second."""

MAX_LOWERED: Final = 10_000
"""Accounts remembered as lowered; above it every older ask counts as sent before its barrier."""

_BUSY: Final = refuse("budget_unavailable", "too many requests are waiting for budget; nothing was sent")
LOG_FULL: Final = refuse(
    "log_unavailable", "the event log is nearly full; nothing is admitted before it has room", retry_after_s=5
)
_LATE: Final = refuse("budget_unavailable", "the budget could not be reserved in time; nothing was sent")


class Obtained(Enum):
    """How waiting for leases ended, refusals apart."""

    RESERVED = "the needs are reserved"
    TURNED = "a window has turned or caps have changed: derive the needs anew, nothing is reserved"
    OVER = "the incarnation has ended, nothing is reserved"


End = Obtained | Refusal


class _Wait:
    """One request in the room. `end` stands even if its task is cancelled, which cancels the future."""

    __slots__ = ("end", "needs", "woken")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.end: End | None = None
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class LeaseDesk:
    """The leases of one incarnation. `give_back` posts cumulative returns to its log; `on_fenced` is called when the
    ledger says that the incarnation is over, `observe` with the ledger's clock of each answer.
    """

    def __init__(
        self,
        incarnation: str,
        control: ControlPlane,
        clock: Clock,
        timing: Timing,
        tasks: Tasks,
        give_back: Callable[[dict[str, int]], None],
        on_fenced: Callable[[], None],
        observe: Callable[[int], None],
    ) -> None:
        self._incarnation = incarnation
        self._control = control
        self._clock = clock
        self._timing = timing
        self._tasks = tasks
        self._give_back = give_back
        self._on_fenced = on_fenced
        self._observe = observe
        self.book = LeaseBook()
        self._room = WaitingRoom()
        self._waits: dict[str, _Wait] = {}
        self._exhausted: dict[str, tuple[int, LeaseRefusal]] = {}
        self._asks = 0
        self._lowered: dict[str, int] = {}
        self._all_lowered = 0
        self._over = False
        self._top_up = TopUp(self.book, clock, timing, tasks, self._ask_ahead)

    @property
    def waiting(self) -> int:
        return len(self._room)

    # ------------------------------------------------------------------ reservations

    def try_now(self, needs: Needs) -> bool:
        """Reserve at once, if everything is here and nobody who came before lacks it."""
        if not needs:
            return True
        if self._over or self._room.blocks(needs) or not self.book.reserve(needs):
            return False
        self._top_up.note(needs)
        return True

    @property
    def mark(self) -> int:
        """Tells reservations from before a lowered cap from those after it."""
        return self._asks

    def settle(self, needs: Needs, used: Needs, mark: int) -> dict[str, int]:
        """End a reservation made at `mark`; what must go back in the same batch (cumulative; empty: nothing)."""
        self.book.settle(needs, used)
        return self._freed(needs, mark)

    def release(self, needs: Needs, mark: int) -> dict[str, int]:
        """End a reservation that used nothing; returns as `settle`."""
        self.book.release(needs)
        return self._freed(needs, mark)

    def cancel(self, needs: Needs) -> None:
        """Give up a reservation for which there was no intent; what must go back goes at once."""
        if not self._over:
            self._return(self.release(needs, 0))

    async def obtain(self, ask_id: str, key: str, needs: Needs, deadline_ns: int) -> End:
        """Wait for `needs` until an elapsed time. Cancelled, or not RESERVED, it holds nothing."""
        if self._over:
            return Obtained.OVER
        if (known := self._known_exhausted(needs)) is not None:
            return known
        if not self._room.enter(ask_id, key, needs, self.book):
            return _BUSY
        wait = self._waits[ask_id] = _Wait(needs)
        self._tasks.once(self._ask_until_served(ask_id, needs, deadline_ns), f"lease ask {ask_id}")
        try:
            async with asyncio.timeout(max(0, deadline_ns - self._clock.elapsed_ns()) / 1e9):
                await wait.woken
        except TimeoutError:
            self._finish(ask_id, _LATE)
        except asyncio.CancelledError:
            self._finish(ask_id, _LATE)
            if wait.end is Obtained.RESERVED:
                self.cancel(needs)
            raise
        finally:
            del self._waits[ask_id]
        return wait.end or _LATE

    def _finish(self, waiter: str, end: End) -> None:
        """End a wait that has not ended yet. Who is not served leaves the room in the same step."""
        wait = self._waits.get(waiter)
        if wait is None or wait.end is not None:
            return
        wait.end = end
        if not wait.woken.done():
            wait.woken.set_result(None)
        if waiter in self._room:
            self._room.leave(waiter)
            self._serve()

    def _serve(self) -> None:
        for waiter in self._room.serve(self.book):
            self._finish(waiter, Obtained.RESERVED)

    def _freed(self, needs: Needs, mark: int) -> dict[str, int]:
        """Serve who waits for it; return what is left on tight lines, and what lowered caps no longer cover."""
        if not needs:
            return {}
        returned = self.book.give_back(lowered) if (lowered := self._lowered_since(needs, mark)) else {}
        if self._room:
            self._serve()
        if left := self.book.left_over(needs, self._clock.elapsed_ns()):
            returned |= self.book.give_back(left)
        return returned

    def _return(self, returned: dict[str, int]) -> None:
        if returned:
            self._give_back(returned)

    # ------------------------------------------------------------------ asking

    async def _ask_until_served(self, ask_id: str, needs: Needs, deadline_ns: int) -> None:
        """Ask, and again under a new id whenever somebody else used the credit."""
        turn = 0
        while self._still_waits(ask_id):
            if turn and not self.book.lacking(needs):
                await asyncio.sleep(EARLY_PAUSE_S)  # everything is here, but somebody else's turn comes first
                continue
            turn += 1
            self._asks += 1
            number, sent_ns = self._asks, self._clock.elapsed_ns()
            name = ask_id if turn == 1 else f"{ask_id}.{turn}"
            ask = LeaseAsk(name, self._incarnation, dict(needs))
            answer = await self._answer_to(ask_id, ask, deadline_ns)
            if answer is None:
                return
            self._remember_refusal(answer, sent_ns)
            self._take_answer(answer, number)
            if (end := self._end_of(answer, needs, number)) is not None:
                self._finish(ask_id, end)

    def _still_waits(self, ask_id: str) -> bool:
        wait = self._waits.get(ask_id)
        return wait is not None and wait.end is None

    async def _answer_to(self, waiter: str, ask: LeaseAsk, deadline_ns: int) -> LeaseAnswer | None:
        """Send until answered, under one id, while `waiter` waits. None: no answer in time."""
        while self._still_waits(waiter) and (left_ns := deadline_ns - self._clock.elapsed_ns()) > 0:
            try:
                return await self._control.lease(ask, min(RESEND_S, left_ns / 1e9))
            except Unanswered as reason:
                if reason.early:
                    await asyncio.sleep(min(EARLY_PAUSE_S, left_ns / 1e9))
        return None

    async def _ask_ahead(self, lines: dict[str, int]) -> None:
        """Ask for leases that nobody waits for; an answer that does not come is not missed."""
        self._asks += 1
        number = self._asks
        ask = LeaseAsk(f"{self._incarnation}.ahead.{number}", self._incarnation, lines, ahead=True)
        if not self._over:
            with contextlib.suppress(Unanswered):
                self._take_answer(await self._control.lease(ask, RESEND_S), number)

    def _end_of(self, answer: LeaseAnswer, needs: Needs, number: int) -> End | None:
        """How the wait ends by this answer. None: it goes on, or it was served."""
        match answer.outcome:
            case "refused" if answer.refusal is not None:
                return _cap_refusal(answer.refusal, needs)
            case "window_turned":
                return Obtained.TURNED
            case "fenced":
                return Obtained.OVER
            case "granted":
                return Obtained.TURNED if self._lowered_since(needs, number) else None
            case _:
                return LOG_FULL if answer.log_full else _LATE

    def _take_answer(self, answer: LeaseAnswer, number: int) -> None:
        self._observe(answer.now_ns)
        if self._over:
            return
        if answer.outcome == "fenced":
            self._on_fenced()
            return
        self.book.tighten(answer.tight, self._clock.elapsed_ns() + self._timing.tight_ms * MS)
        self._credit(answer.granted, number)

    def _credit(self, granted: Mapping[str, int], number: int) -> None:
        """Take grants in, serve who waits, return what may not be kept."""
        self.book.credit(granted)
        lowered = self._lowered_since(granted, number)
        returned = self.book.give_back(lowered)
        self._serve()
        returned |= self.book.give_back(self.book.left_over(granted, self._clock.elapsed_ns()))
        self._return(returned)

    def _remember_refusal(self, answer: LeaseAnswer, sent_ns: int) -> None:
        if answer.refusal is None:
            return
        if len(self._exhausted) >= MAX_EXHAUSTED:
            self._exhausted.clear()
        until_ns = sent_ns + self._timing.exhausted_ttl_ms * MS
        self._exhausted[answer.refusal.line] = (until_ns, answer.refusal)

    def _known_exhausted(self, needs: Needs) -> Refusal | None:
        """A refusal that a recent ask brought and that holds for these needs too (rule G7)."""
        if not self._exhausted:
            return None
        now_ns = self._clock.elapsed_ns()
        for line, amount in needs.items():
            until_ns, refusal = self._exhausted.get(line, (0, None))
            if refusal is None:
                continue
            if until_ns <= now_ns:
                del self._exhausted[line]
            elif amount > refusal.remaining:
                return _cap_refusal(refusal, needs)
        return None

    # ------------------------------------------------------------------ what the control plane says by itself

    def recall(self, message: Recall) -> None:
        """Credit what was missed, serve who waits for it, return the rest (rule G5)."""
        until_ns = self._clock.elapsed_ns() + message.tight_ms * MS
        self.book.tighten(message.granted, until_ns)
        self._credit(message.granted, 0)

    def grants(self, message: Grants) -> None:
        """Credit that nobody here asked for just now."""
        self._credit(message.granted, 0)

    def lowered(self, accounts: Collection[str]) -> None:
        """Caps of these accounts are lower now: return all that is free there, and distrust grants on their way."""
        if len(self._lowered) + len(accounts) > MAX_LOWERED:
            self._all_lowered = self._asks + 1
            self._lowered.clear()
        else:
            self._lowered.update(dict.fromkeys(accounts, self._asks))
        self._return(self.book.give_back([line for line in self.book.leases if _account(line) in accounts]))
        for waiter, wait in tuple(self._waits.items()):
            if any(_account(line) in accounts for line in wait.needs):
                self._finish(waiter, Obtained.TURNED)

    def lowered_anywhere(self) -> None:
        """Caps of any account may be lower now (a snapshot was loaded anew)."""
        self._all_lowered = self._asks + 1
        self.lowered({_account(line) for line in self.book.leases})

    def _lowered_since(self, lines: Iterable[str], number: int) -> list[str]:
        """The lines whose caps were lowered after ask `number` was sent (0: ever)."""
        if number < self._all_lowered:
            return list(lines)
        if not self._lowered:
            return []
        return [line for line in lines if self._lowered.get(_account(line), -1) >= number]

    # ------------------------------------------------------------------ the end

    def give_back_all(self) -> None:
        """Return everything that is free (the node is draining)."""
        self._return(self.book.give_back(tuple(self.book.leases)))

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Drop lines that can never be lent again: their window is long over, or their key is revoked."""
        lines = [line for line in self.book.leases if gone(line)]
        self._return(self.book.give_back(lines))
        for line in lines:
            self.book.forget(line)
            self._top_up.forget(line)

    def end(self) -> None:
        """The incarnation is over: its leases are void, and who waits is told."""
        self._over = True
        self._room.empty()
        for waiter in tuple(self._waits):
            self._finish(waiter, Obtained.OVER)


def _account(line: str) -> str:
    """`kind:id` of a line."""
    return line.rsplit(":", 3)[0]


def _cap_refusal(refusal: LeaseRefusal, needs: Needs) -> Refusal:
    needed = needs.get(refusal.line, 0)
    return exhausted(refusal.line, needed, refusal.cap, refusal.remaining, refusal.resets_at_s)
