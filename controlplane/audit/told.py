"""What the rows of a block mean for the requests of `ringfence.request_rows`."""

from dataclasses import dataclass, field

Step = tuple[str, int, bool, bool]
"""An event of a request: the request's id, the event's sequence, whether it begins (no event can have come before, for
it is a first attempt, or refused at once), whether it ends.
"""


@dataclass(slots=True)
class Told:
    """What some rows mean for the requests of `ringfence.request_rows`."""

    steps: list[Step] = field(default_factory=list)
    """In the log's order."""
    fenced: list[str] = field(default_factory=list)
    """Actors."""
    resolved: list[str] = field(default_factory=list)
    """Digests of idempotency keys, of which the answer was replayed."""
    reconciled: bool = False
    """Whether an operator has told what some request cost."""
