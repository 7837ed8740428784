"""Many live keys: what each costs the control plane, its checkpoint, and a node that starts.

Each part runs in a process of its own, so that memory is that part's. Times are processor time of one core; a start as
an operator sees it, network and Python included, is the row `keys`.
"""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.processes import resident_bytes
from bench.run import Run
from bench.stats import table
from controlplane.checkpoints import Position, read_checkpoint, write_checkpoint
from controlplane.snapshots import Image
from dataplane.core.snapshot import Snapshot
from events.codec import encode_batch
from events.log.port import Stored
from events.state.replica import Replica
from events.subjects import CONTROL_FENCE, CONTROL_LOG, node_fence, node_log
from events.types import By, Event, FenceOpened, KeyIssued, RequestAdmitted, RequestSettled
from schemas.accounts import AccountCaps, Cap, line_key
from schemas.amounts import Amounts
from schemas.ids import token_sha256
from schemas.packed import unpack
from schemas.policy import Who

ROW = "scale"
NODE = "n1-scale"
AGENTS = 1_000
TEAMS = 50
AT_ONCE = 100
"""Events a message."""

DAY_S = 1_763_596_800
AT_NS = DAY_S * 1_000_000_000
LIFE_NS = 30 * 86_400 * 1_000_000_000

Figures = Mapping[str, float]


def measure(run: Run) -> list[str]:
    """Markdown lines, for each number of keys in `run.key_counts`."""
    lines = ["## Many keys", ""]
    for count in run.key_counts:
        directory = run.scratch / f"{ROW}-{count}"
        directory.mkdir(parents=True)
        parts = (("control plane", _control), ("a start from the checkpoint", _restored), ("node", _node))
        rows = []
        for part, work in parts:
            figures = _apart(work, directory, count)
            for metric, value in figures.items():
                run.add(ROW, f"{part}, {count}", metric, [value])
                rows.append([part, metric, f"{value:,.2f}" if value < 100 else f"{value:,.0f}"])
        lines += [f"{count:,} keys:", "", *table(["", "", ""], rows), ""]
    return lines


def _apart(work: Callable[[Path, int], Figures], directory: Path, count: int) -> Figures:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, directory, count).result()


def _control(directory: Path, count: int) -> Figures:
    """Fold that many `KeyIssued`, pack a snapshot, write a checkpoint; then one request with each key."""
    begin_bytes, began_s = _resident(), 0.0
    replica = Replica()
    replica.apply_control(Stored(1, CONTROL_FENCE, encode_batch("cp", 0, AT_NS, [FenceOpened("cp")]), AT_NS))
    for n, first in enumerate(range(0, count, AT_ONCE), 1):
        events: list[Event] = [issued(number) for number in range(first, min(first + AT_ONCE, count))]
        message = Stored(n + 1, CONTROL_LOG, encode_batch("cp", n, AT_NS, events), AT_NS)
        began_s -= time.process_time()
        replica.apply_control(message)
        began_s += time.process_time()
    fold_s, key_bytes = began_s, (_resident() - begin_bytes) / count

    began_s = time.process_time()
    image, packed, last = Image(replica.state, replica.control_seq, AT_NS), 0, False
    with (directory / "snapshot").open("wb") as file:
        index = 0
        while not last:
            chunk, last = image.chunk(index)
            file.write(len(chunk).to_bytes(4, "big") + chunk)
            packed, index = packed + len(chunk), index + 1
    pack_s = time.process_time() - began_s

    began_s = time.process_time()
    checkpoint = write_checkpoint(replica, Position(replica.control_seq, "x"), Position())
    checkpoint_s = time.process_time() - began_s
    (directory / "checkpoint").write_bytes(checkpoint)

    del image
    begin_bytes = _resident()
    used = _use(replica, count)
    return {
        "us_a_key_folded": fold_s / count * 1e6,
        "bytes_a_key": key_bytes,
        "us_a_key_packed": pack_s / count * 1e6,
        "snapshot_bytes_a_key": packed / count,
        "checkpoint_s": checkpoint_s,
        "checkpoint_bytes_a_key": len(checkpoint) / count,
        "us_a_first_request": used / count * 1e6,
        "bytes_a_used_key": (_resident() - begin_bytes) / count,
        "rss_mb": _resident() / 1e6,
    }


def _use(replica: Replica, count: int) -> float:
    """Admit and settle one request with each key; returns the seconds of folding."""
    seconds = 0.0
    opened = encode_batch("cp", 1, AT_NS, [FenceOpened(NODE)])
    replica.apply_node(Stored(1, node_fence("n1", NODE), opened, AT_NS))
    for n, first in enumerate(range(0, count, AT_ONCE // 2), 1):
        events = [event for number in range(first, min(first + AT_ONCE // 2, count)) for event in request(number)]
        message = Stored(n + 1, node_log("n1", NODE), encode_batch(NODE, n, AT_NS, events), AT_NS)
        seconds -= time.process_time()
        replica.apply_node(message)
        seconds += time.process_time()
    replica.budget.tally.tell_all()
    return seconds


def _restored(directory: Path, count: int) -> Figures:
    """What a control plane does first, when it starts or takes over from a standby that had no time to follow."""
    data = (directory / "checkpoint").read_bytes()
    began_s = time.process_time()
    _, replica = read_checkpoint(data)
    took_s = time.process_time() - began_s
    assert len(replica.state.keys) == count
    return {"load_s": took_s, "rss_mb": _resident() / 1e6}


def _node(directory: Path, count: int) -> Figures:
    """Unpack the snapshot's chunks and take their records, as a node does while it joins."""
    snapshot = Snapshot()
    begin_bytes = _resident()
    seconds = 0.0
    with (directory / "snapshot").open("rb") as file:
        while size := file.read(4):
            chunk = file.read(int.from_bytes(size, "big"))
            seconds -= time.process_time()
            snapshot.put(unpack(chunk))
            seconds += time.process_time()
    snapshot.loaded(1)
    assert len(snapshot.keys) == count
    gc.collect()
    return {"load_s": seconds, "bytes_a_key": (_resident() - begin_bytes) / count, "rss_mb": _resident() / 1e6}


def issued(number: int) -> KeyIssued:
    """A key as the API issues it to a run of an agent: allowlists, two caps, limits, metadata."""
    name = f"vk_{number:022}"
    caps = AccountCaps("key", name, (Cap("usd", "day", 50 * 10**9), Cap("usd", "total", 200 * 10**9)))
    return KeyIssued(
        name, By("op_1", "issuer", "10.0.0.1", ""), token_sha256(f"rfk_{number}"), f"agent-{number % AGENTS}",
        AT_NS + number, AT_NS + LIFE_NS + number, label=f"run {number}", upstreams=("openai", "stripe"),
        endpoints=("POST /v1/chat/completions", "openai:GET /v1/models"), models=("gpt-4o-mini", "gpt-4o"),
        caps=caps, rpm=600, tpm=100_000, metadata={"run_id": f"run-{number}", "feature": "bench"},
    )  # fmt: skip


def request(number: int) -> tuple[RequestAdmitted, RequestSettled]:
    """One request with a key, and its end."""
    who = Who(key=f"vk_{number:022}", agent=f"agent-{number % AGENTS}", owner=f"team-{number % TEAMS}")
    lines = (line_key("key", who.key, "usd", "day", DAY_S), line_key("key", who.key, "usd", "total", 0))
    cost, call = Amounts(usd=700_000, requests=1), ("openai", "chat.completions.create", "POST", "/v1/chat/completions")
    request_id = f"req_{number:032x}"
    return RequestAdmitted(request_id, AT_NS, who, *call, cost, lines), RequestSettled(
        request_id, "settled", AT_NS, cost
    )


def _resident() -> int:
    return resident_bytes([os.getpid()])
