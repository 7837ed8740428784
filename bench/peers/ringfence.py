"""Ringfence as it runs: `ringfence up` with a real nats-server that syncs each append, control plane, audit, a worker.

Nothing is switched off. The key has caps in dollars over three windows, a daily cap on requests, rate limits, an
endpoint and a model allowlist; its agent, its team and the organisation have budgets: each request reserves in four
accounts, and its intent is durable before it goes out. On the shared core, where each has a machine of its own in
production, generator, vendor and log come first, the control plane then, and the audit, which works off what has
happened, last.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.stack import Stack, running_stack

from bench.machine import HIGH, HIGHEST, Cores, pin, precede, yield_the_core
from bench.payload import MODEL, PATH
from bench.peers.base import Peer, Pids
from bench.processes import family

UPSTREAM = "bench"
AMPLE_USD = "100000000"
AMPLE_COUNT = 10**12
PER_MINUTE = 10**9


@contextlib.contextmanager
def stack(
    directory: Path, cores: Cores, upstream_url: str, settings: Mapping[str, object] | None = None
) -> Iterator[Stack]:
    """The whole gateway with one worker; `settings` are the upstream's beside adapter, URL and credential."""
    upstream = {
        "adapter": "openai",
        "base_url": upstream_url,
        "credential": "sk-bench-0123456789",
        **(settings or {}),
    }
    directory.mkdir(parents=True)
    config = directory / "ringfence.yaml"
    config.write_text(json.dumps({"upstreams": {UPSTREAM: upstream}}))  # JSON is YAML
    with running_stack(directory / "data", workers=1, arguments=("--config", str(config))) as running:
        for pid in family(running.process.pid):
            pin(pid, cores.load)
            precede(pid, HIGHEST if _program(pid) == "nats-server" else HIGH)
        for pid in running.worker_pids().values():
            pin(pid, cores.proxy)
            precede(pid)
        yield_the_core(running.ready_pids()["audit"])
        yield running


def issue(running: Stack, agent: str = "bench-agent", per_minute: int = PER_MINUTE) -> str:
    """A key with everything on, and so many requests a minute; returns its token."""
    caps = {"daily_usd_cap": AMPLE_USD, "monthly_usd_cap": AMPLE_USD}
    running.control("PUT", f"/v1/agents/{agent}", {"owner": "bench-team", "purpose": "measure"})
    for account in (f"agent/{agent}", "team/bench-team", "org/default"):
        running.control("PUT", f"/v1/budgets/{account}", caps)
    key = running.issue(
        agent=agent,
        vendor=UPSTREAM,
        expires_in="1d",
        per_request_usd_cap="1",
        total_usd_cap=AMPLE_USD,
        daily_request_cap=AMPLE_COUNT,
        rate_limit_rpm=per_minute,
        rate_limit_tpm=PER_MINUTE,
        allowed_endpoints=["GET /v1/models", f"POST {PATH}"],
        models=[MODEL, "gpt-4o"],
        metadata={"run_id": "bench", "feature": "bench"},
        **caps,
    )
    return str(key["token"])


def peer(running: Stack) -> Peer:
    """The gateway as a contender: its worker is what is measured; the rest is shown beside it."""
    workers = list(running.worker_pids().values())
    return Peer("ringfence", f"{running.urls['proxy']}/{UPSTREAM}", lambda: workers, helpers(running))


def helpers(running: Stack) -> dict[str, Pids]:
    """What works for all workers of a gateway."""
    ready = running.ready_pids()
    nats = [pid for pid in family(running.process.pid) if _program(pid) == "nats-server"]
    return {
        "nats-server": lambda: nats,
        "control plane": lambda: [ready["control"]],
        "audit": lambda: [ready["audit"]],
    }


def behind(running: Stack) -> list[int]:
    """What no request waits for."""
    ready = running.ready_pids()
    return [running.process.pid, ready["control"], ready["audit"]]


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
