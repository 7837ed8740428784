"""The processes of one machine, and the order in which they start and stop.

    nats-server -> [demo vendors] -> audit -> control plane -> proxies

Each step waits until the one before is ready. At the end the order is reversed: proxies drain while everything they
need still runs. Children that die are restarted; the ports they had stay theirs.
"""

import contextlib
import json
import os
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from controlplane.demo.__main__ import OPENAI_KEY_VARIABLE, STRIPE_KEY_VARIABLE
from controlplane.demo.vendors import new_openai_key, new_stripe_key
from controlplane.process_settings import AuditProcess, ClickHouseAccess, ControlProcess
from controlplane.up.child import Child, python_module
from controlplane.up.datadir import DataDir, write_private
from controlplane.up.nats.binary import NatsServerMissing
from controlplane.up.nats.process import NatsFailed
from controlplane.up.nats.servers import NatsServers, plan_servers
from controlplane.up.ports import PortReservation, PortTaken, free_pair, url_host
from controlplane.up.workers import Workers
from schemas.ids import TOKEN_BYTES, operator_token, token_sha256
from schemas.settings import Settings, Upstream

READY_S = 90.0
"""A cold start loads chDB (555 MB) from disk; a fresh machine takes its time."""
STOP_S = 10.0


class UpError(Exception):
    """The machine could not be brought up; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the command line said. Ports may be 0: any free one."""

    data_dir: Path
    settings: Settings
    config: Path | None
    host: str
    proxy_port: int
    control_port: int
    nats_port: int
    clickhouse_port: int
    workers: int
    demo: bool
    controls: int = 1
    """Control planes: the first listens on `control_port`, the others on free ports."""
    nats_servers: int = 1
    """1, or 3 in a cluster: on `nats_port` and the next two."""


class Machine:
    """Starts, reloads and stops the processes. `say` takes one line of progress."""

    def __init__(self, options: UpOptions, data_dir: DataDir, say: Callable[[str], None]) -> None:
        self._options = options
        self._dir = data_dir
        self._say = say
        self._nats: NatsServers | None = None
        self._children: list[Child] = []
        self._proxy_settings = options.settings
        self._workers: Workers | None = None
        self._own: dict[str, PortReservation] = {}
        """The port where each slot's process shows its own health and metrics; held here, so that it stays theirs."""
        self._audit_port = 0
        self._demo: dict[str, Upstream] = {}

    async def start(self) -> dict[str, str]:
        """Bring everything up; returns the endpoints and writes `endpoints.json`. Raises UpError, ChildFailed."""
        nats = await self._start_nats()
        if self._options.demo:
            await self._start_demo()
        settings = self._with_demo(self._options.settings)
        clickhouse = await self._start_audit(nats)
        self._say("starting the control plane")
        numbers = range(1, self._options.controls + 1)
        controls = [await self._start_control(number, nats, clickhouse, settings) for number in numbers]
        proxy_url = await self._start_proxies(nats, settings)
        endpoints = {
            "proxy": proxy_url,
            "control": controls[0],
            "controls": ",".join(controls),
            "nats": ",".join(nats.urls),
            "clickhouse": f"http://{clickhouse.host}:{clickhouse.port}",
            "audit": f"http://127.0.0.1:{self._audit_port}",
            "nodes": ",".join(f"http://127.0.0.1:{own.port}" for own in self._own.values()),
        }
        write_private(self._dir.root / "endpoints.json", json.dumps(endpoints).encode())
        return endpoints

    async def stop(self) -> None:
        """Proxies first, together; then the others, newest first; NATS last."""
        if self._workers is not None:
            await self._workers.stop(self._drain_s())
        for own in self._own.values():
            own.close()
        for child in reversed(self._children):
            await child.stop(STOP_S)
        if self._nats is not None:
            await self._nats.stop()

    def reload(self, settings: Settings) -> None:
        """Hand the proxies new credentials: their files are rewritten, and SIGHUP makes them read again."""
        if self._workers is None:
            return
        self._proxy_settings = self._with_demo(settings)
        for slot, proxy in self._workers.running.items():
            self._write_proxy(slot)
            proxy.signal(signal.SIGHUP)

    async def roll(self, settings: Settings) -> None:
        """Replace all proxies under load, one after another, by new ones with these settings. Raises ChildFailed."""
        if self._workers is not None:
            self._proxy_settings = self._with_demo(settings)
            await self._workers.roll(READY_S, self._drain_s())

    def _drain_s(self) -> float:
        return self._options.settings.timing.drain_ms / 1000 + STOP_S

    def _with_demo(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, upstreams={**settings.upstreams, **self._demo})

    async def _start_nats(self) -> NatsServers:
        self._say("starting nats-server")
        # One to spare, for whoever follows a worker while that one still serves.
        slots = tuple(f"n{number}" for number in range(1, self._options.workers + 2))
        try:
            log = self._dir.logs / "nats.log"
            self._nats = plan_servers(
                self._dir.nats,
                self._options.nats_servers,
                slots=slots,
                port=self._options.nats_port,
                log=log,
                on_event=self._say,
            )
            await self._nats.start()
        except (NatsFailed, NatsServerMissing, ValueError, OSError) as error:
            raise UpError(f"nats-server could not be started: {error}") from error
        return self._nats

    async def _start_demo(self) -> None:
        self._say("starting simulated vendors")
        keys = {"stripe": new_stripe_key(), "openai": new_openai_key()}
        env = {**os.environ, STRIPE_KEY_VARIABLE: keys["stripe"], OPENAI_KEY_VARIABLE: keys["openai"]}
        mark = self._dir.run / "demo.ready"
        command = python_module(
            "controlplane.demo",
            *("--port", str(free_pair()), "--endpoints", str(mark), "--parent-pid", str(os.getpid())),
            *("--log", str(self._dir.root / "demo-vendors.jsonl")),
        )
        urls = await self._start_child("demo", command, env)
        self._demo = {
            name: Upstream(adapter=name, base_url=urls[name], credential=credential)
            for name, credential in keys.items()
        }

    async def _start_audit(self, nats: NatsServers) -> ClickHouseAccess:
        self._say("starting the audit (ClickHouse)")
        password = self._dir.secret("clickhouse", secrets.token_urlsafe(32))
        access = ClickHouseAccess(
            host="127.0.0.1", port=self._options.clickhouse_port, user="ringfence", password=password
        )
        settings = AuditProcess(
            nats=nats.control(),
            clickhouse=access,
            embedded_path=str(self._dir.audit),
            ready_mark=str(self._dir.run / "audit.ready"),
            control_stream_bytes=nats.limits.control_bytes,
            nodes_stream_bytes=nats.limits.nodes_bytes,
            replicas=nats.replicas,
            parent_pid=os.getpid(),
        )
        path = self._write_settings("audit", settings)
        mark = await self._start_child("audit", python_module("controlplane", "audit", "--settings", str(path)))
        access = msgspec.structs.replace(access, port=mark["clickhouse_port"])
        # A restart must find the port that others were told.
        self._audit_port = mark["http_port"]
        self._write_settings("audit", msgspec.structs.replace(settings, clickhouse=access, http_port=self._audit_port))
        return access

    async def _start_control(
        self, number: int, nats: NatsServers, clickhouse: ClickHouseAccess, settings: Settings
    ) -> str:
        name = "control" if number == 1 else f"control-{number}"
        # The control plane knows which upstreams there are, and none of their credentials.
        bare = {name: msgspec.structs.replace(upstream, credential="") for name, upstream in settings.upstreams.items()}
        process = ControlProcess(
            settings=msgspec.structs.replace(settings, upstreams=bare),
            nats=nats.control(),
            clickhouse=clickhouse,
            host=self._options.host,
            port=self._options.control_port if number == 1 else 0,
            data_dir=str(self._dir.root / name),
            ready_mark=str(self._dir.run / f"{name}.ready"),
            bootstrap_token_sha256=token_sha256(self._operator_token()),
            control_stream_bytes=nats.limits.control_bytes,
            nodes_stream_bytes=nats.limits.nodes_bytes,
            replicas=nats.replicas,
            parent_pid=os.getpid(),
        )
        path = self._write_settings(name, process)
        mark = await self._start_child(name, python_module("controlplane", "control", "--settings", str(path)))
        self._write_settings(name, msgspec.structs.replace(process, port=mark["port"]))
        return f"http://{url_host(self._options.host)}:{mark['port']}"

    async def _start_proxies(self, nats: NatsServers, settings: Settings) -> str:
        self._say(f"starting {self._options.workers} proxies")
        self._proxy_settings = settings
        self._own = {slot: PortReservation("127.0.0.1", 0) for slot in nats.slots}
        workers = self._workers = Workers(self._options.host, nats.slots, self._make_proxy, self._say)
        try:
            await workers.start(self._options.proxy_port, READY_S)
        except PortTaken as error:
            raise UpError(f"{error}; choose another with --proxy-port (0: any)") from None
        return f"http://{url_host(self._options.host)}:{workers.port}"

    def _make_proxy(self, slot: str, listen_fd: Callable[[], int], on_down: Callable[[int], None]) -> Child:
        name, path = f"proxy-{slot}", self._write_proxy(slot)

        def command() -> list[str]:
            fixed = ("proxy", "--settings", str(path), "--slot", slot)
            return python_module("dataplane", *fixed, "--listen-fd", str(listen_fd()))

        return self._child(name, command, pass_fds=lambda: (listen_fd(),), on_down=on_down)

    def _write_proxy(self, slot: str) -> Path:
        if self._nats is None or self._workers is None:
            raise UpError("proxies need nats-server")
        process = {
            "settings": self._proxy_settings,
            "nats": self._nats.node(slot),
            "host": self._options.host,
            "port": self._workers.port,
            "own_port": self._own[slot].port,
            "ready_mark": str(self._dir.run / f"proxy-{slot}.ready"),
            "parent_pid": os.getpid(),
        }
        return self._write_settings(f"proxy-{slot}", process)

    def _write_settings(self, name: str, settings: Any) -> Path:
        return write_private(self._dir.run / f"{name}.json", msgspec.json.encode(settings))

    async def _start_child(self, name: str, command: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
        child = self._child(name, lambda: command, env=env)
        self._children.append(child)
        return await child.start(READY_S)

    def _child(self, name: str, command: Callable[[], list[str]], **how: Any) -> Child:
        mark, log = self._dir.run / f"{name}.ready", self._dir.logs / f"{name}.log"
        return Child(name, command, ready_mark=mark, log=log, on_event=self._say, **how)

    def _operator_token(self) -> str:
        """The first operator's token: made at the first start, kept in a file that its owner alone may read."""
        path = self._dir.root / "operator-token"
        with contextlib.suppress(FileNotFoundError):
            return path.read_text().strip()
        token = operator_token(secrets.token_bytes(TOKEN_BYTES))
        write_private(path, f"{token}\n".encode())
        return token
