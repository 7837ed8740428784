"""One contender at a time: while one is measured the others do nothing.

They share a core, and some have work left when their load is over (records that are written later, collectors of
garbage). That would be somebody else's time, and somebody else's caches.
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

from bench.peers.base import Peer
from bench.processes import family


@contextlib.contextmanager
def alone(peer: Peer | None, peers: Sequence[Peer]) -> Iterator[None]:
    """All peers but this one stand still inside, those excepted that have appointments to keep: a gateway's workers,
    which would be fenced.
    """
    others = [pid for other in peers if other is not peer and not other.helpers for pid in other.pids()]
    still = [member for pid in others for member in family(pid)]
    _tell(still, signal.SIGSTOP)
    try:
        yield
    finally:
        _tell(still, signal.SIGCONT)


def _tell(pids: Sequence[int], what: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)
