"""The bench's own arithmetic: what it compares, what it refuses to compare, what it reads of others' output."""

import secrets
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from bench import wrk
from bench.chart import bars
from bench.check import Incomparable, compare
from bench.contenders import raw_request
from bench.generator import Flow, Plan, Sample, _Source
from bench.machine import Cores, TooFewCores, choose_cores
from bench.payload import ANSWER_BYTES, PATH, REQUEST_BYTES, answer_body, request_body
from bench.peers import second
from bench.peers.base import Peer
from bench.report import Result, read, result_of, write
from bench.rows import overload
from bench.run import Figure, Run, ratio
from bench.stats import percentile
from bench.targets import Mixed, verdicts
from bench.turns import alone
from controlplane.up.nats.setup import write_config


def result(**cpu_us: tuple[float, ...]) -> Result:
    run = Run("r1", Cores(0, 1), 2, 1.0, 32, Path())
    for name, rounds in cpu_us.items():
        run.add("cpu", name, "cpu_us", rounds)
    return replace(result_of(run), run_id=secrets.token_hex(6))


def test_only_ratios_within_a_run_are_compared_and_ten_percent_is_the_line() -> None:
    then = result(ringfence=(60.0, 62.0), nginx=(20.0, 20.0))
    slower_machine = result(ringfence=(120.0, 124.0), nginx=(40.0, 40.0))
    assert compare(slower_machine, then)[1]
    a_little = result(ringfence=(65.0, 67.0), nginx=(20.0, 20.0))
    assert compare(a_little, then)[1]
    lines, good = compare(result(ringfence=(70.0, 72.0), nginx=(20.0, 20.0)), then)
    assert not good
    assert any("worse" in line for line in lines)
    with pytest.raises(Incomparable):
        compare(result(ringfence=(60.0,)), then)


def test_ratios_over_peers_of_other_versions_are_not_compared() -> None:
    then = result(ringfence=(60.0, 62.0), nginx=(20.0, 20.0))
    other = replace(then, machine={**then.machine, "programs": {"nginx": "9.99"}})
    with pytest.raises(Incomparable, match="same versions"):
        compare(result(ringfence=(60.0, 62.0), nginx=(20.0, 20.0)), other)


def test_a_run_is_judged_by_what_is_promised_and_two_runs_are_not_mixed() -> None:
    kept = result(**{"ringfence": (60.0, 62.0), "nginx": (20.0, 20.0), "bare aiohttp": (100.0, 100.0)})
    told = "\n".join(verdicts([kept]))
    assert "| CPU per request / nginx | <= 6 x | <= 4 x | 3.05 x | aim |" in told
    assert "| CPU per request / bare aiohttp | <= 0.75 x | <= 0.5 x | 0.61 x | must |" in told
    slow = result(ringfence=(130.0, 130.0), nginx=(20.0, 20.0))
    assert "| 6.50 x | **missed** |" in "\n".join(verdicts([slow]))
    with pytest.raises(Mixed, match="different runs"):
        verdicts([kept, slow])


def test_a_ratio_is_taken_round_by_round() -> None:
    above = Figure(row="cpu", contender="a", metric="cpu_us", value=20.0, rounds=(10.0, 20.0, 90.0))
    below = Figure(row="cpu", contender="b", metric="cpu_us", value=10.0, rounds=(5.0, 10.0, 45.0))
    assert ratio(above, below) == 2.0
    assert ratio(replace(above, rounds=()), below) == 2.0


def test_a_result_is_written_and_read_again_with_a_chart(tmp_path: Path) -> None:
    kept = result(ringfence=(60.0, 62.0), nginx=(20.0, 20.0))
    path, told, chart = write(kept, ["# Figures"], tmp_path)
    assert read(path) == kept
    assert told.read_text() == "# Figures\n"
    assert {"model", "cores", "kernel", "versions", "programs"} <= kept.machine.keys()
    assert ET.fromstring(chart.read_text()).tag.endswith("svg")  # noqa: S314 - our own
    assert "&lt;b&gt;" in bars("<b>", {"a": 1.0})


def test_it_refuses_a_machine_with_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    with pytest.raises(TooFewCores, match="two cores"):
        choose_cores()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7})
    assert choose_cores() == Cores(3, 5)


def test_what_wrk_says_is_read_and_a_run_with_failures_is_no_measurement() -> None:
    said = "  48007 requests in 1.01s, 27.1MB read\nRequests/sec: 47000.0\n"
    assert wrk._read(said) == (48007, 1.01, 0)
    assert wrk._read(said + "  Non-2xx or 3xx responses: 7\n", refusals=True) == (48000, 1.01, 7)
    for more in ("  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0, timeout 0\n"):
        with pytest.raises(wrk.Unsound):
            wrk._read(said + more)
    with pytest.raises(wrk.Unsound):
        wrk._read("unable to connect")


def test_the_generators_schedule_is_a_constant_rate_through_its_phases() -> None:
    source = _Source.__new__(_Source)
    source.flow = Flow("a", 1, "", ((1.0, 4.0), (0.5, 2.0)), 0)
    times = source._schedule()
    assert [next(times) for _ in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, float("inf")]
    assert Plan((source.flow,)).flows[0].phases[1] == (0.5, 2.0)


def test_the_call_has_the_size_that_the_report_says() -> None:
    assert (len(request_body()), len(request_body(stream=True)), len(answer_body())) == (
        REQUEST_BYTES,
        REQUEST_BYTES,
        ANSWER_BYTES,
    )


def test_percentiles() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([5.0], 0.5) == 5.0
    assert percentile([], 0.5) != percentile([], 0.5)


def test_recovery_is_the_end_of_the_last_stretch_with_more_than_a_few_late_or_refused() -> None:
    began_s = overload.HALF_S + overload.TWICE_S
    good = [Sample("a", began_s + n * 0.001, 1_000.0, 200) for n in range(2_000)]
    assert overload._recovery_s(good, 1_000.0) == 0.0
    refused = [replace_at(good, n, status=503) for n in (good[10:20], good[210:220])]
    assert overload._recovery_s(refused[0], 1_000.0) == pytest.approx(0.1)
    assert overload._recovery_s(refused[1], 1_000.0) == pytest.approx(0.3)
    assert overload._recovery_s(replace_at(good, good[900:910], took_us=3_001.0), 1_000.0) == pytest.approx(1.0)
    assert overload._recovery_s(replace_at(good, good[900:901], status=503), 1_000.0) == 0.0


def replace_at(samples: list[Sample], which: list[Sample], **fields: Any) -> list[Sample]:
    return [replace(sample, **fields) if sample in which else sample for sample in samples]


def test_a_peers_own_headers_take_the_place_of_the_usual() -> None:
    port, request = raw_request(
        Peer("x", "http://127.0.0.1:81/a", list, headers={"Authorization": "Bearer b"}), "token"
    )
    assert port == 81
    head, _, body = request.partition("\r\n\r\n")
    assert head.split("\r\n")[0] == f"POST /a{PATH} HTTP/1.1"
    assert head.count("Authorization: ") == 1
    assert "Authorization: Bearer b" in head
    assert f"Content-Length: {len(body)}" in head


def test_the_spare_slots_credential_is_made_as_the_supervisor_would(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "passwords.conf").write_text('RF_NATS_n1: "pone"\nRF_NATS_n2: "ptwo"\n')
    setup = write_config(tmp_path / "nats")
    running: Any = SimpleNamespace(data_dir=tmp_path)
    first, expected = (to_builtins(setup.node(slot, "nats://x:1")) for slot in ("n1", "n2"))
    assert second._credentials(running, first) == expected


def test_while_one_is_measured_the_others_stand_still() -> None:
    def state(process: subprocess.Popen[bytes]) -> str:
        return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    def settled(expected: list[str]) -> list[str]:
        """The states, once a signal that is on its way has arrived."""
        deadline = time.monotonic() + 10
        while (states := [state(process) for process in processes]) != expected and time.monotonic() < deadline:
            time.sleep(0.001)
        return states

    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    try:
        one, other = Peer("a", "", lambda: [processes[0].pid]), Peer("b", "", lambda: [processes[1].pid])
        gateway = Peer("c", "", lambda: [processes[2].pid], {"log": list})
        with alone(one, [one, other, gateway]):
            assert settled(["S", "T", "S"]) == ["S", "T", "S"], "the gateway has appointments"
        assert settled(["S", "S", "S"]) == ["S", "S", "S"]
    finally:
        for process in processes:
            process.kill()
            process.wait()
