"""The embedded nats-server: its files, and how the child lives and dies."""

import asyncio
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.certificates import Authority
from support.log_harness import until
from support.nats_server import SMALL

from controlplane.up.nats.binary import LEAST_VERSION, find_binary, read_version
from controlplane.up.nats.blocks import quote
from controlplane.up.nats.child import NatsChild
from controlplane.up.nats.config import ServerPlan, render
from controlplane.up.nats.limits import GIB, MIB, StreamLimits, choose_limits
from controlplane.up.nats.process import NatsFailed, StoreLock
from controlplane.up.nats.setup import DEFAULT_SLOTS, write_cluster, write_config, write_credentials
from controlplane.up.nats.template import render_template
from events.log.streams import nodes_stream
from events.messaging.connection import connect
from events.messaging.credentials import decode_credentials
from events.subjects import NODE_MARK


def test_passwords_and_limits_are_kept_and_private(tmp_path: Path) -> None:
    first = write_config(tmp_path / "nats", slots=("n1", "n2"))
    second = write_config(tmp_path / "nats", slots=("n1", "n2", "n3"))
    url = "nats://127.0.0.1:4222"
    assert second.control(url) == first.control(url)
    assert second.node("n1", url) == first.node("n1", url)
    assert second.limits == first.limits
    passwords = {second.node(slot, url).password for slot in ("n1", "n2", "n3")} | {second.control(url).password}
    assert len(passwords) == 4
    with pytest.raises(KeyError):
        first.node("n3", url)
    for path in (tmp_path / "nats").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert not any(password in first.config.read_text() + repr(second) for password in passwords)
    file = write_credentials(tmp_path / "n1.json", second.node("n1", url))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert decode_credentials(file.read_bytes()) == second.node("n1", url)


def test_names_that_would_widen_a_permission_are_refused(tmp_path: Path) -> None:
    for slot in ("*", ">", "n1.>", "n 1", "", "control", 'n"1', "n1\n"):
        with pytest.raises(ValueError):
            write_config(tmp_path / "nats", slots=(slot,))
    with pytest.raises(ValueError, match="quote"):
        quote('a"b')


def test_broken_limits_are_not_guessed(tmp_path: Path) -> None:
    write_config(tmp_path, slots=("n1",))
    (tmp_path / "limits.json").write_text("{")
    with pytest.raises(ValueError, match=r"limits\.json"):
        write_config(tmp_path, slots=("n1",))


@pytest.mark.parametrize(
    ("available", "kept", "expected"),
    [
        (1000 * GIB, None, StreamLimits(8 * GIB, 32 * GIB)),
        (10 * GIB, None, StreamLimits(8 * GIB // 5, 8 * GIB * 4 // 5)),
        (0, None, StreamLimits(64 * MIB, 256 * MIB)),
        (0, StreamLimits(2 * GIB, 3 * GIB), StreamLimits(2 * GIB, 3 * GIB)),
        (1000 * GIB, StreamLimits(2 * GIB, 3 * GIB), StreamLimits(8 * GIB, 32 * GIB)),
    ],
)
def test_the_disk_is_shared_out(available: int, kept: StreamLimits | None, expected: StreamLimits) -> None:
    assert choose_limits(available, kept) == expected


@pytest.mark.parametrize("cluster", [False, True])
def test_the_published_template_is_current(cluster: bool) -> None:
    name, flag = ("nats-cluster.conf", " --cluster") if cluster else ("nats.conf", "")
    published = Path(__file__).parents[2] / "compose" / name
    assert published.read_text() == render_template(cluster=cluster), (
        f"run: python -m controlplane.up.nats.template{flag} > compose/{name}"
    )


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_the_published_template_is_valid(tmp_path: Path, cluster: bool, tls: bool) -> None:
    certificates = Authority(tmp_path) if tls else None
    if certificates is not None:
        certificates.issue("server")
    config = tmp_path / "nats.conf"
    config.write_text(render_template(cluster=cluster, tls=str(tmp_path) if tls else ""))
    users = ["control", "route", *(f"n{n}" for n in range(1, 9))]
    environment = {f"RF_NATS_{user}": f"p{user}" for user in users}
    environment |= {"RF_NATS_name": "ringfence-1", "RF_NATS_routes": '["nats://route:proute@127.0.0.1:6222"]'}
    done = subprocess.run(
        [find_binary(), "-t", "-c", config], capture_output=True, text=True, env=environment, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    without = subprocess.run(
        [find_binary(), "-t", "-c", config], capture_output=True, text=True, env={}, timeout=20, check=False
    )
    assert without.returncode != 0, "a password that is not set must not become an empty one"


def test_a_directory_keeps_its_number_of_servers(tmp_path: Path) -> None:
    ports = [(4001, 6001), (4002, 6002), (4003, 6003)]
    setups = write_cluster(tmp_path / "three", ports, slots=("n1",))
    again = write_cluster(tmp_path / "three", ports, slots=("n1",))
    assert setups[0].control("u") == again[2].control("u"), "one password for all servers, and kept"
    assert len({setup.config.read_text() for setup in setups}) == 3
    with pytest.raises(ValueError, match="3 NATS servers"):
        write_config(tmp_path / "three", slots=("n1",))
    write_config(tmp_path / "one", slots=("n1",))
    (tmp_path / "one" / "jetstream").mkdir()  # what the server makes
    with pytest.raises(ValueError, match="one NATS server"):
        write_cluster(tmp_path / "one", ports, slots=("n1",))
    route = re.search(r"nats://route:(\w+)@", (tmp_path / "three" / "passwords.conf").read_text())
    assert route is not None
    for setup in setups:
        assert route.group(1) not in setup.config.read_text() + repr(setup)


def test_every_slot_has_an_account_of_its_own() -> None:
    plan = ServerPlan(
        slots=DEFAULT_SLOTS, host="h", port=0, store_dir="/d", max_file_store_bytes=1, password=lambda _: "$P"
    )
    text = render(plan)
    assert len(DEFAULT_SLOTS) == 64
    assert all(f"    NODE_{slot} {{" in text for slot in DEFAULT_SLOTS)
    assert text.count("jetstream: enabled") == 1


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[Callable[..., NatsChild]]:
    made: list[NatsChild] = []

    def make(**options) -> NatsChild:
        setup = write_config(tmp_path / "nats", limits=SMALL)
        made.append(NatsChild(setup, find_binary(), **options))
        return made[-1]

    yield make
    for one in made:
        await one.stop(5.0)


async def test_a_child_that_dies_comes_back_on_its_port_with_its_data(child: Callable[..., NatsChild]) -> None:
    events: list[str] = []
    one = child(on_event=events.append)
    url = await one.start()
    first = one.pid
    assert first is not None
    connection = await connect(one._setup.control(url), name="test")
    stream = await connection.ensure_stream(nodes_stream(32 * MIB))
    await stream.publish(NODE_MARK, b"kept", msg_id=None, expect=None, timeout_s=5.0)
    os.kill(first, signal.SIGKILL)
    await until(lambda: one.restarts == 1, 20.0)
    assert one.pid not in {None, first}
    assert one.url == url
    await until(lambda: connection.connected, 10.0)
    stored = await stream.get(1)
    assert stored is not None
    assert stored.payload == b"kept"
    assert events == ["nats-server ended (code -9); starting it again in 0 s"]
    await connection.close()


async def test_the_command_line_holds_no_secret(child: Callable[..., NatsChild]) -> None:
    one = child()
    url = await one.start()
    line = Path(f"/proc/{one.pid}/cmdline").read_bytes() + Path(f"/proc/{one.pid}/environ").read_bytes()
    for slot in ("n1", "n64"):
        assert one._setup.node(slot, url).password.encode() not in line
    log = one._setup.log.read_text()
    assert one._setup.control(url).password not in log
    assert "sync_interval" not in log or "always" in log


async def test_stopping_ends_it_for_good(child: Callable[..., NatsChild]) -> None:
    one = child()
    await one.start()
    pid = one.pid
    assert pid is not None
    await one.stop()
    await one.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert one.restarts == 0


async def test_two_servers_never_share_a_store(child: Callable[..., NatsChild], tmp_path: Path) -> None:
    one = child()
    await one.start()
    with pytest.raises(NatsFailed, match="another nats-server"):
        await StoreLock(tmp_path / "nats").acquire(0.05)
    await one.stop()
    lock = StoreLock(tmp_path / "nats")
    await lock.acquire(0.05)
    lock.release()


async def test_a_server_that_cannot_start_says_why(child: Callable[..., NatsChild], tmp_path: Path) -> None:
    one = child()
    (tmp_path / "nats" / "nats.conf").write_text("port: [nonsense")
    with pytest.raises(NatsFailed, match="ended at its start"):
        await one.start()
    lock = StoreLock(tmp_path / "nats")
    await lock.acquire(0.05)
    lock.release()


async def test_the_server_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from controlplane.up.nats.binary import find_binary\n"
        "from controlplane.up.nats.child import NatsChild\n"
        "from controlplane.up.nats.setup import write_config\n"
        "async def main():\n"
        "    child = NatsChild(write_config(Path(sys.argv[1]), slots=('n1',)), find_binary())\n"
        "    await child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path / "nats"], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert Path(f"/proc/{pid}").exists()
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    try:
        await until(lambda: not alive(pid), 15.0)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    # And the next supervisor can use the directory.
    successor = NatsChild(write_config(tmp_path / "nats", slots=("n1",)), find_binary())
    await successor.start()
    await successor.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_binary_is_found_without_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_version(find_binary()) >= LEAST_VERSION
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho 'nats-server: v2.9.1'\n")
    old.chmod(0o700)
    assert read_version(old) == (2, 9, 1)
    assert find_binary() != old, "an old one on PATH is passed over"
    assert read_version(tmp_path / "nothing") == ()
