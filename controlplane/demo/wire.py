"""What passes between the HTTP shell and the simulated vendors: plain values.

The shell turns a request into a `Call`, a vendor turns the call into an `Answer`, and the answer says what it
did to money (`Move`) or to tokens (`Usage`), so that the books need no knowledge of either dialect.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec


class Clock(msgspec.Struct, frozen=True):
    """Where the demo reads time. Tests that want byte-identical answers give a fixed `wall_ns`."""

    mono_ns: Callable[[], int]
    wall_ns: Callable[[], int]


class Move(msgspec.Struct, frozen=True, gc=False):
    """A change to one object's money, in minor units of its currency. All figures are differences.

    `moved` is money taken from the payer, `held` is authorised or in flight, `refunded` is money given back
    (it does not reduce `moved`).
    """

    object_id: str
    currency: str
    moved: int = 0
    held: int = 0
    refunded: int = 0


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens that one call used. `cached` is part of `prompt`, `reasoning` part of `completion`."""

    model: str
    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Call(msgspec.Struct, frozen=True):
    """One request as the vendor's application sees it: complete, not yet authenticated.

    `path` is the raw path without query. `header(name)` gives a value or "". `token` is the credential in the
    `Authorization` header, or "" where there is none or more than one. The two last fields come from a fault.
    """

    request_id: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    token: str
    now_s: int
    extra_output_tokens: int = 0
    no_usage: bool = False

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


class Answer(msgspec.Struct, frozen=True):
    """What the vendor answers.

    `chunks` (for a stream) replaces `body`. `executed` is true if the call did what it asked for, or tried to:
    false means that nothing can have happened.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    chunks: Iterable[bytes] | None = None
    executed: bool = False
    replayed: bool = False
    moves: tuple[Move, ...] = ()
    usage: Usage | None = None


class Vendor(Protocol):
    """A simulated vendor: synchronous, without I/O; one call at a time changes its state.

    The shell calls `begin`, may wait (a fault), then calls `execute`; between the two the vendor only knows that
    the call is in progress. Whatever `begin` let through ends in `execute` or in `abandon`.
    """

    name: str
    body_limit_bytes: int

    def begin(self, call: Call) -> Answer | None:
        """Authenticate and claim; an answer here ends the call without executing it."""

    def execute(self, call: Call) -> Answer: ...

    def abandon(self, call: Call) -> None:
        """Forget a call that `begin` let through and that will not be executed."""

    def failure(self, call: Call, status: int, message: str) -> Answer:
        """An error in this vendor's shape that is not the call's own: a fault, or overload."""

    def reset(self) -> None: ...
