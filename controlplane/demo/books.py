"""The vendor's own books: every request received, and every unit of money and token it led to.

They are what a gateway's audit is held against, so they are written where the vendor acts: an entry exists from
the moment a request's head has arrived, and the line in the file is written, in one system call, after the call
has been executed and before the first byte of its answer. Killing any other process, at any instant, loses none.
"""

import os
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec

from controlplane.demo.credentials import Seen
from controlplane.demo.wire import Move, Usage

# What is kept in great numbers holds no cycles and is hidden from the garbage collector (`gc=False`), whose
# pauses would otherwise show in the latencies that a benchmark measures.
LOG_LIMIT = 200_000  # about a minute of the fastest load test; some 200 MB
OBJECT_LIMIT = 100_000  # per-object sums; the sums per currency are never forgotten
FILE_LIMIT_BYTES = 8 << 30  # then requests are refused rather than executed without a line

Outcome = Literal[
    "open",  # received, nothing decided yet (or hanging, or delayed)
    "incomplete",  # the body never came, or was too large
    "faulted",  # a fault answered, hung or dropped it before the vendor did anything
    "refused",  # the vendor answered without executing: 401, 404, bad parameters, 409
    "executed",  # the vendor did it, or tried to (a declined card)
    "replayed",  # the stored answer of an idempotency key, nothing done again
    "settled",  # no request: money that moved later by itself (`/_demo/settle`)
]


class Entry(msgspec.Struct, kw_only=True, gc=False):
    """One request. Times are nanoseconds: `*_mono_ns` of CLOCK_MONOTONIC, which all processes of a machine share.

    `queued_ms`: how long it had waited by then, for a vendor that was busy (controlplane.demo.arrival).
    `real_credential`: it carried exactly one credential, the configured one. `forbidden`: some text that a test
    has forbidden (a vault key) stood in its path, headers or body. `marker` is its `X-Demo-Marker` header.
    The last three fields are not in the file, whose line is written before the answer is sent.
    """

    seq: int
    vendor: str
    request_id: str
    received_mono_ns: int
    received_wall_ns: int
    method: str
    path: str
    queued_ms: int = 0
    query_names: tuple[str, ...] = ()
    header_names: tuple[str, ...] = ()
    credentials: tuple[Seen, ...] = ()
    real_credential: bool = False
    forbidden: bool = False
    marker: str = ""
    idempotency_key: str = ""
    body_bytes: int = 0
    body_sha256: str = ""
    outcome: Outcome = "open"
    decided_mono_ns: int | None = None
    status: int | None = None
    fault: str = ""
    moves: tuple[Move, ...] = ()
    usage: Usage | None = None
    chunks_sent: int = 0
    client_gone: bool = False
    finished_mono_ns: int | None = None


class MoneyTotals(msgspec.Struct):
    """Sums in minor units; `moved` is gross, `refunded` separate."""

    moved: int = 0
    held: int = 0
    refunded: int = 0

    def add(self, move: Move) -> None:
        self.moved += move.moved
        self.held += move.held
        self.refunded += move.refunded


class ObjectTotals(msgspec.Struct, gc=False):
    currency: str
    moved: int = 0
    held: int = 0
    refunded: int = 0


class UsageTotals(msgspec.Struct):
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Books:
    """Sums over everything that ever happened (until `reset`), whatever the log has forgotten."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.currencies: dict[str, MoneyTotals] = {}  # bounded: the currencies of one table
        self.objects: dict[str, ObjectTotals] = {}
        self.models: dict[str, UsageTotals] = {}  # bounded: the models of one table
        self.objects_forgotten = 0

    def post(self, moves: tuple[Move, ...], usage: Usage | None) -> None:
        for move in moves:
            self.currencies.setdefault(move.currency, MoneyTotals()).add(move)
            self._post_object(move)
        if usage is not None:
            totals = self.models.setdefault(usage.model, UsageTotals())
            totals.requests += 1
            totals.prompt_tokens += usage.prompt_tokens
            totals.completion_tokens += usage.completion_tokens
            totals.cached_tokens += usage.cached_tokens
            totals.reasoning_tokens += usage.reasoning_tokens

    def _post_object(self, move: Move) -> None:
        totals = self.objects.get(move.object_id)
        if totals is None:
            totals = self.objects[move.object_id] = ObjectTotals(currency=move.currency)
            if len(self.objects) > OBJECT_LIMIT:
                self.objects.pop(next(iter(self.objects)))
                self.objects_forgotten += 1
        totals.moved += move.moved
        totals.held += move.held
        totals.refunded += move.refunded

    def show(self) -> dict[str, object]:
        """The answer of `/_demo/books`."""
        return {
            "currencies": self.currencies,
            "objects": self.objects,
            "objects_forgotten": self.objects_forgotten,
            "models": self.models,
        }


class Journal:
    """The same entries as JSON lines in a file, for whoever outlives a crash.

    A line that cannot be written breaks the journal for good: the vendors then refuse to execute anything, since
    books with a hole would accuse the gateway of what it did not do.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size_bytes = os.fstat(self._file).st_size
        self.broken = ""

    def write(self, entry: Entry) -> None:
        line = msgspec.json.encode(entry) + b"\n"
        if self._size_bytes + len(line) > FILE_LIMIT_BYTES:
            self.broken = "the log file is full"
        if self.broken:
            return
        try:
            written = os.write(self._file, line)
        except OSError as error:
            self.broken = f"the log file cannot be written: {error.strerror}"
            return
        self._size_bytes += written
        if written != len(line):
            self.broken = "the log file took only part of a line"

    def close(self) -> None:
        """Close the file; its descriptor's number may soon be another file's, so nothing is written after this."""
        self.broken = self.broken or "the log file is closed"
        os.close(self._file)


class RequestLog:
    """The newest entries, in order of arrival; `seq` counts from 1 and never restarts."""

    def __init__(self, limit: int = LOG_LIMIT, journal: Journal | None = None) -> None:
        self._entries: deque[Entry] = deque(maxlen=limit)
        self._journal = journal
        self._next = 1

    @property
    def broken(self) -> str:
        """Why nothing may be executed any more; empty while all is well."""
        return self._journal.broken if self._journal else ""

    @property
    def total(self) -> int:
        return self._next - 1

    def next_seq(self) -> int:
        self._next += 1
        return self._next - 1

    def open(self, entry: Entry) -> None:
        self._entries.append(entry)

    def decided(self, entry: Entry) -> None:
        """The entry's outcome is final: write its line."""
        if self._journal:
            self._journal.write(entry)

    def entries(self, vendor: str | None = None) -> list[Entry]:
        """All entries kept (the live objects: an open one still changes)."""
        return [entry for entry in self._entries if vendor in {None, entry.vendor}]

    def page(self, after: int, limit: int) -> list[Entry]:
        """Up to `limit` entries with a higher `seq` than `after`."""
        if not self._entries:
            return []
        skip = max(0, after + 1 - self._entries[0].seq)
        return list(islice(self._entries, skip, skip + limit))

    def reset(self) -> None:
        """Forget the entries; the file keeps its lines."""
        self._entries.clear()
