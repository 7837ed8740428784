"""Meters that need no dialect, and what they share."""

from typing import Final

from dataplane.adapters.port import Headers, Outcome
from schemas.amounts import Amounts

ONE_REQUEST: Final = Amounts(requests=1)

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""What a meter keeps of an answer. Objects and completions have some tens of KB; many answers are read at once."""


class Passed:
    """Relays without looking: an answer whose outcome is known from its first line."""

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def flush(self) -> bytes:
        return b""

    def finish(self, *, complete: bool) -> Outcome:  # noqa: ARG002 - the port's signature
        return self._outcome


def costs_nothing(status: int, model: str = "") -> Passed:
    """A call that cannot cost anything, whatever became of it."""
    return Passed(Outcome("settled", ONE_REQUEST, model=model, error=error_of(status)))


def unpriced(status: int) -> Passed:
    """An uncapped call without a price: refused calls cost nothing, of the others the cost is not known."""
    if refused(status):
        return Passed(Outcome("settled", ONE_REQUEST, error=error_of(status)))
    return Passed(Outcome("unknown", error="unpriced" if status < 300 else error_of(status)))


def refused(status: int) -> bool:
    """Whether the vendor says that it did not do it. 408 is a time-out: what came of it nobody knows."""
    return 400 <= status < 500 and status not in {408, 499}


def error_of(status: int) -> str:
    return "" if 200 <= status < 300 else f"http_{status}"


def is_type(headers: Headers, wanted: bytes) -> bool:
    """Whether the answer's Content-Type is `wanted`, parameters aside."""
    for name, value in headers:
        if len(name) == 12 and name.lower() == b"content-type":
            return value.partition(b";")[0].strip().lower() == wanted
    return False


class Kept:
    """The answer's bytes, kept whole while they are few; then only their end."""

    __slots__ = ("_chunks", "_size", "cut")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self.cut = False

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            whole = b"".join(self._chunks)
            self._chunks = [whole[-TAIL_BYTES:]]
            self._size = len(self._chunks[0])
            self.cut = True

    def body(self) -> bytes:
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


TAIL_BYTES: Final = 64 * 1024
"""The end of a large answer, where LLM vendors report usage."""
