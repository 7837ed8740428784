"""Folds a day's logs from a file, in a process of its own, and prints the SHA-256 of the state's canonical bytes.

python -m sim.fold FILE
"""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from events.log.port import Stored
from events.state.replica import Replica

Message = tuple[int, str, bytes, int]
"""sequence, subject, payload, time in UTC nanoseconds"""


class Logs(NamedTuple):
    """What is in the file."""

    control: list[Message]
    nodes: list[Message]


def write_logs(path: Path, control: Iterable[Stored], nodes: Iterable[Stored]) -> None:
    logs = Logs(*([(m.sequence, m.subject, m.payload, m.time_ns) for m in log] for log in (control, nodes)))
    path.write_bytes(msgspec.msgpack.encode(logs))


def fold(control: Iterable[Stored], nodes: Iterable[Stored]) -> Replica:
    """In one go: first the one log, then the other."""
    replica = Replica()
    for message in control:
        replica.apply_control(message)
    for message in nodes:
        replica.apply_node(message)
    return replica


def digest_of(folded: bytes) -> str:
    return hashlib.sha256(folded).hexdigest()


def main(arguments: list[str]) -> int:
    logs = msgspec.msgpack.decode(Path(arguments[0]).read_bytes(), type=Logs)
    control, nodes = ([Stored(*message) for message in log] for log in logs)
    sys.stdout.write(digest_of(fold(control, nodes).dump()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
