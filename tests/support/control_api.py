"""The control plane's API served over a fake leader, on a free port of loopback."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from support.control_fakes import Clock, FakeAudit, FakeLeader

from controlplane.api.app import build_api
from controlplane.api.ports import NodeStatus
from controlplane.commands import operators
from schemas.api import OperatorIssue, Role
from schemas.readiness import Reason
from schemas.settings import Settings, Upstream

SETTINGS = Settings(upstreams={"stripe": Upstream(adapter="stripe"), "openai": Upstream(adapter="openai")})


@dataclass
class Reply:
    status: int
    headers: Any
    text: str
    json: Any

    @property
    def code(self) -> str:
        """The error's code."""
        return str(self.json["error"]["code"])

    @property
    def param(self) -> Any:
        return self.json["error"]["param"]


@dataclass
class Api:
    leader: FakeLeader
    audit: FakeAudit
    clock: Clock
    url: str
    session: aiohttp.ClientSession
    tokens: dict[str, str]
    statuses: dict[str, NodeStatus]
    observed: list[tuple[str, str, int]]
    not_ready: list[Reason] = field(default_factory=list)

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: str | None = "admin",
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> Reply:
        """One request. `body` is sent as JSON; `query` as parameters (`from_` as `from`)."""
        sent = dict(headers or {})
        if role is not None:
            sent.setdefault("Authorization", f"Bearer {self.tokens[role]}")
        params = {name.rstrip("_"): str(value) for name, value in query.items()}
        more: dict[str, Any] = {"data": raw} if raw is not None else {"json": body} if body is not None else {}
        async with self.session.request(method, self.url + path, params=params, headers=sent, **more) as answer:
            text = await answer.text()
            json = await answer.json() if answer.content_type == "application/json" else None
            return Reply(answer.status, answer.headers, text, json)


ROLES: tuple[Role, ...] = ("admin", "issuer", "auditor", "viewer")


@asynccontextmanager
async def serving(logger: logging.Logger | None = None) -> AsyncIterator[Api]:
    clock = Clock()
    leader = FakeLeader(clock)
    audit = FakeAudit()
    tokens: dict[str, str] = {
        role: leader.run(operators.issue(OperatorIssue(name=role, role=role))).token for role in ROLES
    }
    statuses: dict[str, NodeStatus] = {}
    observed: list[tuple[str, str, int]] = []
    not_ready: list[Reason] = []
    app = build_api(
        leader,
        audit,
        SETTINGS,
        now_ns=clock,
        elapsed_ns=clock,
        node_statuses=lambda: statuses,
        readiness=lambda: tuple(not_ready),
        metrics=lambda: b"ringfence_up 1\n",
        observe=lambda method, route, status, _seconds: observed.append((method, route, status)),
        logger=logger,
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session:
            yield Api(leader, audit, clock, f"http://127.0.0.1:{port}", session, tokens, statuses, observed, not_ready)
    finally:
        await runner.cleanup()
