"""The demo's own endpoints, under `/_demo/` on every vendor's address: read the books, order faults, start afresh.

A request with any credential is not for them: it comes through a gateway, which must not hand agents the books.
"""

from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from controlplane.demo.books import Entry
from controlplane.demo.credentials import carries_credential
from controlplane.demo.faults import MAX_RULES, Rule
from controlplane.demo.shell import Shared
from controlplane.demo.stripe_sim.vendor import StripeVendor

PREFIX = "/_demo/"
_PAGE = 1_000
_MAX_PAGE = 10_000  # entries in one answer, some seven megabytes
_MAX_BODY_BYTES = 1 << 20
_MAX_FORBIDDEN = 1_000  # each is searched for in every request

Reply = tuple[int, Any]


class FaultsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    faults: list[Rule]


class ForbiddenBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    texts: list[str]


class SettleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    object: str
    outcome: Literal["succeeded", "failed"] = "succeeded"


def is_admin(request: web.BaseRequest) -> bool:
    """Whether the request is for these endpoints rather than for the vendor."""
    return request.raw_path.startswith(PREFIX) and not carries_credential(request.headers)


class Admin:
    """Endpoints over what the vendors share. `reset` starts everything afresh; it is given by the wiring."""

    def __init__(self, shared: Shared, stripe: StripeVendor, reset: Callable[[], None]) -> None:
        self._shared = shared
        self._stripe = stripe
        self._reset = reset

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        body = b""
        while piece := await request.content.readany():
            body += piece
            if len(body) > _MAX_BODY_BYTES:
                return _response(413, _error("body too large"))
        status, shown = self._route(request.method, path.removeprefix(PREFIX), query, body)
        return _response(status, shown)

    def _route(self, method: str, name: str, query: str, body: bytes) -> Reply:
        try:
            match method, name:
                case "GET", "healthz":
                    return 200, {"status": "ok"}
                case "GET", "log":
                    return self._log(query)
                case "GET", "books":
                    return 200, self._shared.books.show()
                case "GET", "faults":
                    return 200, {"faults": self._shared.faults.show()}
                case "POST", "faults":
                    return self._set_faults(msgspec.json.decode(body, type=FaultsBody))
                case "DELETE", "faults":
                    self._shared.faults.clear()
                    return 200, {"faults": []}
                case "POST", "forbidden":
                    return self._set_forbidden(msgspec.json.decode(body, type=ForbiddenBody))
                case "POST", "settle":
                    return self._settle(msgspec.json.decode(body, type=SettleBody))
                case "POST", "reset":
                    self._reset()
                    return 200, {"status": "ok"}
                case _:
                    return 404, _error(f"no such endpoint: {method} {PREFIX}{name[:100]}")
        except msgspec.DecodeError as error:  # malformed or of the wrong shape
            return 400, _error(str(error))

    def _log(self, query: str) -> Reply:
        values = parse_qs(query)
        after, limit = values.get("after", ["0"])[-1], values.get("limit", [str(_PAGE)])[-1]
        if not after.isdecimal() or not limit.isdecimal() or not 1 <= int(limit) <= _MAX_PAGE:
            return 400, _error(f"after must be a number, limit one between 1 and {_MAX_PAGE}")
        log = self._shared.log
        page = log.page(int(after), int(limit))
        return 200, {
            "entries": page,
            "next": page[-1].seq if page else int(after),
            "total": log.total,
            "broken": log.broken,
        }

    def _set_faults(self, given: FaultsBody) -> Reply:
        problem = self._shared.faults.replace(given.faults)
        if problem:
            return 400, _error(f"{problem.message} (at most {MAX_RULES})")
        return 200, {"faults": self._shared.faults.show()}

    def _set_forbidden(self, given: ForbiddenBody) -> Reply:
        if len(given.texts) > _MAX_FORBIDDEN or any(len(text) < 4 for text in given.texts):
            return 400, _error(f"at most {_MAX_FORBIDDEN} texts of at least 4 characters")
        self._shared.forbidden = tuple(text.encode() for text in given.texts)
        return 200, {"forbidden": len(given.texts)}

    def _settle(self, given: SettleBody) -> Reply:
        """Pending money arrives or fails by itself; the log has an entry for it like for any other money."""
        clock = self._shared.clock
        now_ns = clock.wall_ns()
        moves = self._stripe.settle(given.object, now_ns // 1_000_000_000, succeeds=given.outcome == "succeeded")
        if moves is None:
            return 404, _error("no such PaymentIntent, or it waits for nothing")
        mono_ns = clock.mono_ns()
        entry = Entry(
            seq=self._shared.log.next_seq(),
            vendor=self._stripe.name,
            request_id="",
            received_mono_ns=mono_ns,
            received_wall_ns=now_ns,
            decided_mono_ns=mono_ns,
            method="POST",
            path=f"{PREFIX}settle",
            outcome="settled",
            moves=moves,
        )
        self._shared.books.post(moves, None)
        self._shared.log.open(entry)
        self._shared.log.decided(entry)
        return 200, {"moves": moves}


def _error(message: str) -> dict[str, dict[str, str]]:
    return {"error": {"message": message}}


def _response(status: int, shown: Any) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(shown), content_type="application/json")
