"""Checkpoints in files: written by a copy of the process, whole or not at all, two kept."""

import asyncio
import errno
import hashlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from controlplane.checkpoint_file import NAME, OLDER, FileCheckpoints
from controlplane.checkpoints import Position, read_checkpoint, restore, write_checkpoint
from events.log.memory import MemoryStream
from events.state.replica import Replica
from events.types import AgentRegistered, By


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


async def test_the_two_newest_are_kept_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    store = FileCheckpoints(tmp_path / "control")
    assert (await store.load(), await store.load_older()) == (None, None)
    for data in (b"one", b"two", b"three"):
        assert await store.write(partial(bytes, data)) == len(data)
    assert (await store.load(), await store.load_older()) == (b"three", b"two")
    assert names(tmp_path / "control") == {NAME, OLDER}
    assert stat.S_IMODE((tmp_path / "control" / NAME).stat().st_mode) == 0o600
    await store.drop_newest()
    assert (await store.load(), await store.load_older()) == (b"two", None)


async def test_what_is_written_is_the_state_of_the_call_whatever_is_folded_meanwhile(tmp_path: Path) -> None:
    replica = Replica()
    replica.state.apply(1, AgentRegistered("before", By()))
    store = FileCheckpoints(tmp_path)

    def make() -> bytes:
        time.sleep(0.05)  # in the copy: the parent has gone on long since
        return write_checkpoint(replica, Position(1, "x"), Position())

    task = asyncio.create_task(store.write(make))
    await asyncio.sleep(0)
    replica.state.apply(2, AgentRegistered("after", By()))
    await task
    data = await store.load()
    assert data is not None
    header, found = read_checkpoint(data)
    assert (header.control_seq, list(found.state.agents)) == (1, ["before"])


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("fail", "number"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 255),
        (lambda: sys.exit(3), 255),
        (lambda: int("x"), 255),
        (full, errno.ENOSPC),
        (lambda: open("/nonexistent/file", "rb"), errno.ENOENT),  # noqa: SIM115 - as any failing call
    ],
)
async def test_a_copy_that_fails_leaves_what_was_there(tmp_path: Path, fail: Callable[[], object], number: int) -> None:
    store = FileCheckpoints(tmp_path)
    await store.write(lambda: b"sound")

    def make() -> bytes:
        fail()
        return b"never"

    with pytest.raises(OSError, match=r".") as told:
        await store.write(make)
    assert told.value.errno == number
    assert await store.load() == b"sound"
    assert names(tmp_path) == {NAME}


async def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.new-abc").write_bytes(b"half")
    store = FileCheckpoints(tmp_path)
    assert await store.load() is None
    assert names(tmp_path) == set()


async def test_the_copy_holds_none_of_the_parents_connections(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def make() -> bytes:
        try:
            os.write(writing, b"still open")
        except OSError as error:
            return os.strerror(error.errno or 0).encode()
        return b"open"

    store = FileCheckpoints(tmp_path)
    await store.write(make)
    os.close(writing)
    os.close(reading)
    assert await store.load() == os.strerror(errno.EBADF).encode()


async def test_a_start_takes_the_older_checkpoint_if_the_newest_cannot_be_read(tmp_path: Path) -> None:
    store = FileCheckpoints(tmp_path)
    replica = Replica()
    control, nodes = (MemoryStream(name, now_ns=lambda: 0).port() for name in ("RF_CONTROL", "RF_NODES"))
    for name in ("first", "second"):
        replica.state.apply(1, AgentRegistered(name, By()))
        await store.write(lambda: write_checkpoint(replica, Position(), Position()))
    newest = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(newest[: len(newest) // 2])
    assert list((await restore(store, control, nodes)).replica.state.agents) == ["first"]
    assert names(tmp_path) == {NAME}, "the damaged one must not become the older one"
    assert list((await restore(store, control, nodes)).replica.state.agents) == ["first"]


def test_the_older_format_is_read() -> None:
    replica = Replica()
    replica.state.apply(1, AgentRegistered("bot", By()))
    body = replica.dump()
    head = (
        b'{"format":1,"control_seq":0,"control_hash":"","nodes_seq":0,"nodes_hash":"","body_sha256":"'
        + hashlib.sha256(body).hexdigest().encode()
        + b'"}\n'
    )
    assert read_checkpoint(head + body)[1].dump() == body
