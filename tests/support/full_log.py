"""A real leader and a real node over the same streams, which a test fills up."""

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

from support.control_rig import BY, record

from controlplane.leader import Leader
from controlplane.log_watch import LogWatch
from dataplane.adapters.port import Outcome
from dataplane.governor import Admission, Governor, Wanted
from events.clock import Clock
from events.codec import encode_batch
from events.log.port import AppendPort, AppendUncertain, StreamPort
from events.messaging.port import Bus
from events.subjects import node_log
from events.types import AgentRegistered, KeyIssued, KeyRevoked, RequestRefused
from schemas.accounts import AccountCaps, Cap
from schemas.amounts import Amounts
from schemas.ids import token_sha256
from schemas.policy import Who
from schemas.refusals import Refusal
from schemas.settings import Timing

DAY_NS = 86_400 * 10**9
GHOST = node_log("n9", "n9-ghost")
"""The log of an incarnation that nobody let in: folds pass over it, the stream keeps it."""


class Product:
    """`tokens`: `rfk_<key>` for each key that was issued."""

    def __init__(self, leader: Leader, bus: Bus, port: AppendPort, clock: Clock, timing: Timing | None = None) -> None:
        self.leader = leader
        self.clock = clock
        self.governor = Governor(bus, port, clock, slot="n1", timing=timing or Timing(), draw=os.urandom)
        self._ids = itertools.count(1)

    async def issue(self, key: str, cap: int | None = None) -> None:
        now_ns = self.clock.wall_ns()
        caps = AccountCaps("key", key, (Cap("usd", "day", cap),)) if cap is not None else None
        event = KeyIssued(
            key, BY, token_sha256(f"rfk_{key}"), "bot", now_ns, now_ns + DAY_NS, caps=caps, uncapped=cap is None
        )
        await self.leader.execute(record(AgentRegistered("bot", BY), event), BY)

    async def revoke(self, key: str) -> None:
        await self.leader.execute(record(KeyRevoked(key, BY)), BY)

    async def admit(self, key: str, usd: int = 5) -> Admission | Refusal:
        found = self.governor.find_key([f"rfk_{key}"])
        if isinstance(found, Refusal):
            return found
        caller = await self.governor.caller(found[0], [])
        if isinstance(caller, Refusal):
            return caller
        call = ("stripe", "charges.create", "POST", "/v1/charges", ("v1", "charges"))
        return await self.governor.admit(
            Wanted(caller, found[1], *call, Amounts(usd=usd, requests=1)), f"req_{next(self._ids)}"
        )

    async def dispatched(self, key: str, usd: int = 5) -> Admission:
        admission = await self.admit(key, usd)
        assert isinstance(admission, Admission), admission
        assert self.governor.check_dispatch(admission) is None
        return admission

    def settle(self, admission: Admission, usd: int = 5) -> None:
        self.governor.settle(admission, Outcome("settled", Amounts(usd=usd, requests=1)))


def ghost_payload(n: int, size_bytes: int) -> bytes:
    """One message of about that size that no fold counts."""
    refusal = RequestRefused("req_x", "overloaded", 1, 1, Who(), message="x" * size_bytes)
    return encode_batch("n9-ghost", n, 1, (refusal,))


async def fill(port: StreamPort, share: float, size_bytes: int) -> None:
    """Put messages into a stream until it is that full, or (share 1) takes no more."""
    for n in itertools.count(1):
        if share < 1 and (await port.state()).full_share >= share:
            return
        try:
            await port.publish(GHOST, ghost_payload(n, size_bytes), msg_id=None, expect=None, timeout_s=5.0)
        except AppendUncertain as full:
            if full.reason != "stream_full":
                raise
            return


async def make_room(port: StreamPort) -> None:
    """Take the ghost's messages out again, as trimming does with what is written elsewhere."""
    await port.trim(GHOST, (await port.state()).last_sequence)


def watch_over(leader: Leader, logs: Any) -> LogWatch:
    async def audited() -> None:
        return None

    return LogWatch(logs, leader.recorder, audited, leader.close_budget)


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)
