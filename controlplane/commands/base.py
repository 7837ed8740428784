"""What a command is: a pure decision about the state, that the leader carries out.

A command looks at the state and the ledger's figures as they are at one moment and returns either the events
that are to be recorded with the answer to give, or a refusal. It reads no clock and draws no randomness:
`Moment` brings both. The leader (controlplane.leader) runs decisions one after the other, appends their
events, folds them, waits for the barrier where an event tightens (events.state.tightening), and answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from events.state.control import ControlState
from events.types import By, ControlEvent
from schemas.amounts import Amounts

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Moment:
    """When, by whom, and with which randomness a decision is made. `draw(n)` gives n random bytes.

    `young_fence`: an incarnation was fenced so lately that its proof may still be young: it may yet send what it
    admitted, and rightly so (rule A3).
    """

    now_ns: int
    draw: Callable[[int], bytes] = field(repr=False)
    by: By
    young_fence: bool = False


@dataclass(frozen=True, slots=True)
class Decision(Generic[T_co]):
    """`events` to append (in one message), and the `answer` once they are recorded.

    `barrier_seq`: a command repeated after its change was recorded has no events, but its barrier may still be
    open (rule B3): the answer waits until the barrier is complete through this control log sequence. 0: nothing
    to wait for beyond the events themselves.
    """

    events: tuple[ControlEvent, ...]
    answer: T_co = field(repr=False)  # it may hold a token
    barrier_seq: int = 0


@dataclass(frozen=True, slots=True)
class CommandRefusal:
    """Why a command is not carried out, in the words of the HTTP API's error object."""

    status: int
    code: str
    message: str
    param: str = ""
    remedy: str = ""


class Settled(Protocol):
    """A figure of the ledger in the meter's unit: what is settled, and what admitted requests still hold."""

    @property
    def settled(self) -> int: ...
    @property
    def held(self) -> int: ...


class Figures(Protocol):
    """What commands and the API ask of the ledger (events.state.budget.Budget)."""

    def figure(self, kind: str, account_id: str, meter: str, window: str, at_ns: int, zone: str, /) -> Settled:
        """The figure of the account's window that holds `at_ns`."""

    def unknown_bound(self, request_id: str, /) -> Amounts | None:
        """The bound of a request of unknown outcome, also after a reconciliation; None for any other.

        Unknown is: settled as unknown and not resolved, or admitted by a fenced incarnation and never settled.
        """


Command = Callable[[ControlState, Any, Moment], Decision[T] | CommandRefusal]
"""(state, figures, moment) -> decision. `figures` is a Figures; the leader passes its Budget."""
