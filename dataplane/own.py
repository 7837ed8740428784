"""The gateway's own endpoints on the data plane: health, readiness, metrics, and a key's view of itself.

| path | answers |
|---|---|
| `GET /healthz` | 200 as long as the process serves |
| `GET /readyz` | 200 if requests are admitted, else 503 with the reasons; `?view=text` for people |
| `GET /metrics` | Prometheus text |
| `GET /v1/usage` | with a vault key: that key's own period totals, caps and limits |
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from dataplane.adapters.credentials import find_tokens
from dataplane.adapters.port import Call
from dataplane.adapters.scan import scan
from dataplane.answer import Answer, whole
from dataplane.core.route import OwnRoute
from dataplane.exchange import Exchange
from dataplane.governor import Governor
from dataplane.heads import REQUEST_ID, keeps_alive
from dataplane.metrics import CONTENT_TYPE, Metrics, exposition
from dataplane.ready import reasons_of
from schemas.money import format_usd
from schemas.policy import KeyPolicy
from schemas.readiness import as_text, render_reasons
from schemas.refusals import Refusal, refuse
from schemas.rpc import CapUsage, UsageAnswer

_MONEY = frozenset({"usd", "refund"})


class OwnEndpoints:
    """Answers what is not for an upstream."""

    def __init__(self, governor: Governor, metrics: Metrics, slot: str) -> None:
        self._governor = governor
        self._metrics = metrics
        self._slot = slot

    async def answer(self, exchange: Exchange, route: OwnRoute) -> Answer | Refusal:
        """Answer one request, or say why not."""
        if exchange.method not in {"GET", "HEAD"}:
            return refuse("request_malformed", "the gateway's own endpoints are read with GET")
        match route.path:
            case "/healthz":
                return _json(exchange, 200, {"status": "ok", "node": self._slot})
            case "/readyz":
                return self._readyz(exchange, route)
            case "/metrics":
                return _send(exchange, 200, CONTENT_TYPE.encode("ascii"), exposition(self._metrics, self._governor))
            case "/v1/usage":
                return await self._usage(exchange, route)
        return refuse("unknown_upstream", "the gateway has no such endpoint, and no upstream of that name")

    def _readyz(self, exchange: Exchange, route: OwnRoute) -> Answer:
        node = self._governor.node
        answer = render_reasons(reasons_of(node, connected=node.control.connected))
        status = 200 if answer.ready else 503
        if route.query == "view=text":
            return _send(exchange, status, b"text/plain; charset=utf-8", as_text(answer))
        return _json(exchange, status, {"ready": answer.ready, "node": self._slot, "reasons": answer.reasons})

    async def _usage(self, exchange: Exchange, route: OwnRoute) -> Answer | Refusal:
        request = exchange.request
        segments = tuple(route.path[1:].split("/"))
        call = Call("", exchange.method, route.path, segments, route.query.encode(), scan(request.raw_headers))
        found = self._governor.find_key(find_tokens(call))
        if isinstance(found, Refusal):
            return found
        usage = await self._governor.usage(found[0].id)
        if isinstance(usage, Refusal):
            return usage
        return _json(exchange, 200, _usage_of(found[0], usage))


def _usage_of(key: KeyPolicy, usage: UsageAnswer) -> dict[str, Any]:
    return {
        "key": key.id,
        "label": key.label,
        "period": usage.period,
        "period_start": _time(usage.period_start_s),
        "total_requests": usage.total_requests,
        "total_cost_usd": format_usd(usage.total_usd_nanos),
        "by_agent": [
            {"agent": entry.agent, "requests": entry.requests, "cost_usd": format_usd(entry.usd_nanos)}
            for entry in usage.by_agent
        ],
        "caps": [_cap(cap) for cap in usage.caps],
        "limits": {"rate_limit_rpm": key.rpm or None, "rate_limit_tpm": key.tpm or None},
        "expires_at": _time(key.expires_at_ns // 1_000_000_000) if key.expires_at_ns else None,
    }


def _cap(cap: CapUsage) -> dict[str, Any]:
    remaining = max(0, cap.cap - cap.settled - cap.held)
    figures = {"cap": cap.cap, "settled": cap.settled, "held": cap.held, "remaining": remaining}
    shown = {name: format_usd(value) if cap.meter in _MONEY else value for name, value in figures.items()}
    resets_at = _time(cap.resets_at_s) if cap.resets_at_s is not None else None
    return {"meter": cap.meter, "window": cap.window, **shown, "resets_at": resets_at}


def _time(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(exchange: Exchange, status: int, body: dict[str, Any]) -> Answer:
    return _send(exchange, status, b"application/json", msgspec.json.encode(body))


def _send(exchange: Exchange, status: int, content_type: bytes, body: bytes) -> Answer:
    request = exchange.request
    headers = [
        (b"Content-Type", content_type),
        (b"Cache-Control", b"no-store"),
        (REQUEST_ID, exchange.request_id.encode("ascii")),
    ]
    return whole(status, headers, body, request, keep_alive=keeps_alive(request))
