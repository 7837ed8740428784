"""The governor: the heart of a node, without HTTP. The proxy drives it, and so does the simulation.

A request's way through it:

    find_key -> caller -> plan -> admit -> check_dispatch -> [revalidate -> check_dispatch] -> check_relay* -> settle
                                        -> release

`admit` awaits the ledger if a lease is missing, and then the acknowledgement of the intent. `check_dispatch` is asked
just before each first byte, in the same step as the write (rule A3); `check_relay` before each chunk of a stream (A4).
Each admission ends exactly once, by `settle` or `release`.

What comes from elsewhere interrupts this at any await: a change of the policy (rule B1), a fence (F3), a recall (G5).
Each is handled in one step (dataplane.enforce, dataplane.leases) before anything else can run.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from dataplane.adapters.port import Outcome
from dataplane.admit import AGAIN, STALE, Admitter, again
from dataplane.control import ControlPlane, Unanswered
from dataplane.core import access
from dataplane.core.access import Caller, Unregistered
from dataplane.core.lines import Plan, line_gone
from dataplane.core.snapshot import Snapshot
from dataplane.ends import Ends
from dataplane.enforce import STREAM_CUT, Enforcer, cut
from dataplane.feed import Feed
from dataplane.inflight import Admission, State, Wanted
from dataplane.membership import Membership
from dataplane.node import Node
from dataplane.rates import Rates
from events import subjects
from events.clock import Clock
from events.log.port import AppendPort, LogError
from events.messaging.port import Bus, Message, Subscription
from events.tasks import Tasks
from events.types import NodeStopped, RequestRefused
from schemas.accounts import NANOS_PER_S
from schemas.identity import Identity, format_identity
from schemas.policy import KeyPolicy
from schemas.refusals import Refusal, refuse
from schemas.rpc import Grants, ObjectAnswer, ObjectAsk, Push, RegisterAsk, UsageAnswer
from schemas.settings import Timing

__all__ = ["AGAIN", "STALE", "Admission", "Governor", "Wanted", "again"]

ASK_TIMEOUT_S: Final = 0.3
ASK_TRIES: Final = 3
"""Of questions that a request waits for (an object, a new agent): a second in all, as long as a takeover may last."""

TICK_S: Final = 0.05
FORGET_EVERY_NS: Final = 10 * NANOS_PER_S

CLOSE_S: Final = 5.0
"""At the end the log gets this long to take the last events."""

_log = logging.getLogger(__name__)


SETTLEMENT_PAUSES_S: Final = (0.01, 0.03, 0.1)
"""A client may use an object before the settlement that told of it is folded: an unknown one is asked for again."""


class Governor:
    """One node. `draw(n)` gives n random bytes. `start` it in the loop that uses it; `drain` and `close` end it.

    `defect` is set to the name of a background task that failed: the process must end, and fail closed.
    """

    def __init__(
        self,
        bus: Bus,
        port: AppendPort,
        clock: Clock,
        *,
        slot: str,
        timing: Timing,
        draw: Callable[[int], bytes],
        version: str = "",
        pid: int = 0,
    ) -> None:
        self._bus = bus
        self._slot = slot
        self._decode_push = msgspec.json.Decoder(Push).decode
        self._push: Subscription | None = None
        self._forget_at_ns = 0
        self.defect: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        tasks = Tasks(self._fail)
        control = ControlPlane(bus, slot)
        node = self._node = Node(clock, timing, draw, tasks, control)
        self._ends = Ends(node)
        self._enforcer = Enforcer(node, self._ends)
        node.feed = Feed(bus, control, clock, timing, self._enforcer.changed)
        node.membership = Membership(
            slot,
            port,
            control,
            clock,
            timing,
            tasks,
            draw,
            version=version,
            pid=pid,
            post=node.journal.post,
            observe=node.feed.observe,
            on_joined=self._enforcer.joined,
            on_over=self._enforcer.fenced,
        )
        node.rates = Rates(
            node.limits,
            control,
            clock,
            draw(8).hex(),
            incarnation=lambda: node.incarnation.id if node.incarnation is not None else "",
            epoch=lambda: node.feed.epoch,
            nodes=lambda: node.snapshot.live_nodes,
        )
        self._admitter = Admitter(node, self._ends, node.membership)

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen, join, load the policy. Returns at once; `ready` tells when requests are admitted."""
        node = self._node
        await node.feed.start()
        self._push = await self._bus.subscribe(subjects.push(self._slot), self._on_push)
        node.tasks.forever(node.feed.run(), "feed")
        node.tasks.forever(node.membership.run(), "membership")
        node.tasks.forever(self._tick(), "tick")
        node.tasks.forever(node.rates.run(), "rate shares")

    async def drain(self, within_s: float | None = None) -> None:
        """Admit nothing more, let what is open end (within `drain_ms`, or what is left of it), return the leases, say
        goodbye, stop.
        """
        node = self._node
        node.draining = True
        await self._until_empty(node.timing.drain_ms / 1000 if within_s is None else within_s)
        for admission in node.inflight:
            if admission.unsent:
                self._ends.release(admission, "draining")
            else:
                cut(admission, STREAM_CUT)
        await self._until_empty(1.0)
        for admission in node.inflight:
            self.settle(admission, Outcome("unknown", error="draining"))
        node.refusals.flush(node.clock.elapsed_ns(), all_now=True)
        await node.rates.farewell()
        await self._say_goodbye()
        await self.close()

    async def close(self) -> None:
        """Stop at once, as a crash would, but tidily: no task survives. Idempotent."""
        node = self._node
        node.draining = True
        node.journal.flush()
        for subscription in (self._push, node.feed):
            if isinstance(subscription, Feed):
                await subscription.stop()
            elif subscription is not None:
                await subscription.unsubscribe()
        await node.tasks.close()
        if (incarnation := node.incarnation) is not None:
            await incarnation.log.close(timeout_s=0.0)

    @property
    def ready(self) -> bool:
        """Whether requests are admitted now."""
        return self._node.closed() is None

    @property
    def snapshot(self) -> Snapshot:
        return self._node.snapshot

    @property
    def node(self) -> Node:
        """For metrics and tests."""
        return self._node

    # ------------------------------------------------------------------ who calls

    def lookup(
        self, tokens: Sequence[str], known: bytes = b"", known_digest: bytes = b""
    ) -> tuple[KeyPolicy, bytes] | Refusal:
        """The key of a request's credentials, alive or not, and its token's digest; see `access.find_key`."""
        if not self._node.feed.loaded:
            return self._node.closed() or refuse("policy_unavailable", "this node has no policy yet")
        return access.find_key(self._node.snapshot, tokens, known, known_digest)

    def check_key(self, key: KeyPolicy, digest: bytes) -> Refusal | None:
        """Whether the key lives now."""
        return access.check_key(key, digest, self._node.feed.now_ns())

    def find_key(self, tokens: Sequence[str]) -> tuple[KeyPolicy, bytes] | Refusal:
        """Step 2: the living key of a request's credentials, and its token's digest."""
        found = self.lookup(tokens)
        return found if isinstance(found, Refusal) else self.check_key(*found) or found

    def known_caller(self, key: KeyPolicy, identity: Sequence[str]) -> Caller | Unregistered | Refusal:
        """Step 3: the key with its agent. `identity`: values of X-Agent-Identity."""
        found = access.identify(self._node.snapshot, key, identity)
        if isinstance(found, Refusal):
            return found
        if isinstance(found, Unregistered):
            return found
        return self._node.callers.get(key, found[0], found[1])

    async def register(self, key: KeyPolicy, unregistered: Unregistered) -> Caller | Refusal:
        """Step 3 for an agent that a declared identity names for the first time."""
        said = unregistered.identity
        refusal = await self._register(key, said)
        caller = refusal or self.known_caller(key, (format_identity(said),))
        if isinstance(caller, Unregistered):
            return refuse("policy_unavailable", "the agent could not be registered now; nothing was sent")
        return caller

    async def caller(self, key: KeyPolicy, identity: Sequence[str]) -> Caller | Refusal:
        """Both: the caller, registered first if need be."""
        caller = self.known_caller(key, identity)
        return await self.register(key, caller) if isinstance(caller, Unregistered) else caller

    def plan(self, caller: Caller) -> Plan:
        """The caps that apply to a caller now."""
        return self._node.plan(caller, self._node.feed.now_ns())

    async def object(self, ref: str, replayed_to: Admission | None = None) -> ObjectAnswer | Refusal:
        """What the ledger has counted for a vendor's object.

        `replayed_to`: the request to which an answer about it was replayed, to learn of earlier attempts too.
        """
        if replayed_to is not None:
            return await self._ask_object(ObjectAsk(ref, replayed_to.wanted.idempotency, replayed_to.request_id))
        known = await self._ask_object(ObjectAsk(ref))
        for pause_s in SETTLEMENT_PAUSES_S:
            if not isinstance(known, ObjectAnswer) or known.counted_usd_nanos is not None:
                break
            await asyncio.sleep(pause_s)
            known = await self._ask_object(ObjectAsk(ref))
        return known

    async def _ask_object(self, ask: ObjectAsk) -> ObjectAnswer | Refusal:
        for _ in range(ASK_TRIES):
            with contextlib.suppress(Unanswered):
                return await self._node.control.object(ask, ASK_TIMEOUT_S)
        return refuse("budget_unavailable", "what is counted for the object is not known now; nothing was sent")

    async def usage(self, key_id: str) -> UsageAnswer | Refusal:
        """What a key's holder may see of it."""
        for _ in range(ASK_TRIES):
            with contextlib.suppress(Unanswered):
                return await self._node.control.usage(key_id, ASK_TIMEOUT_S)
        return refuse("policy_unavailable", "the control plane does not answer; try again")

    async def _register(self, key: KeyPolicy, said: Identity) -> Refusal | None:
        ask = RegisterAsk(key.id, said.name, said.owner, said.purpose)
        for _ in range(ASK_TRIES):
            with contextlib.suppress(Unanswered):
                answer = await self._node.control.register(ask, ASK_TIMEOUT_S)
                if answer.error:
                    return refuse("agent_unknown", f"the agent cannot be registered: {answer.error}")
                # Records of one agent, whole; the feed brings them again, with the position.
                self._enforcer.enforce(self._node.snapshot.put(answer.records))
                return None
        return refuse("policy_unavailable", "the agent could not be registered now; nothing was sent")

    # ------------------------------------------------------------------ a request

    def admit(self, wanted: Wanted, request_id: str) -> Coroutine[Any, Any, Admission | Refusal]:
        """Admit a request: its intent is in the log, its bound is reserved. `admission.request_id` is its id."""
        return self._admitter.admit(wanted, request_id)

    def check_dispatch(self, admission: Admission) -> Refusal | None:
        """Rule A3. None: the first byte goes out in this very step, and the request counts as sent.

        STALE: call `revalidate`, then check again. `again` of it: it was released, admit it again. Anything else: it
        was released, refuse. For a request that was sent before (a second connection) nothing is released.
        """
        incarnation = admission.incarnation
        if admission.state is State.ENDED or incarnation.over:
            return admission.refusal or AGAIN
        node, wanted, appended = self._node, admission.wanted, admission.appended
        elapsed_ns = node.clock.elapsed_ns()
        if appended is None or appended.duplicate or incarnation.log.proof_age_at(elapsed_ns) >= node.proof_ttl_ns:
            return STALE
        call = (wanted.upstream, wanted.method, wanted.segments, wanted.model)
        _, refusal = access.still_allowed(
            node.snapshot, admission.caller, wanted.digest, node.feed.now_at(elapsed_ns), call
        )
        if refusal is not None:
            if admission.unsent:
                self._ends.withdraw(admission, refusal, refusal.code)
            return refusal
        admission.state = State.SENT
        admission.sent_ns = elapsed_ns
        return None

    async def revalidate(self, admission: Admission) -> Refusal | None:
        """Fresh proof by a fresh append. None: check the dispatch again. Otherwise it was released."""
        return await self._admitter.revalidate(admission)

    def check_relay(self, admission: Admission) -> Refusal | None:
        """Rule A4. None: the next chunk of the stream may go to the client in this very step."""
        if admission.refusal is not None:
            return admission.refusal
        if admission.incarnation.log.proof_age_ns() >= self._node.proof_ttl_ns:
            return STREAM_CUT
        return None

    def settle(
        self,
        admission: Admission,
        outcome: Outcome,
        *,
        status: int = 0,
        latency_us: int = 0,
        overhead_us: int = 0,
        client_gone: bool = False,
    ) -> None:
        """The end of a request that was sent."""
        self._ends.settle(
            admission,
            outcome,
            status=status,
            latency_us=latency_us,
            overhead_us=overhead_us,
            client_gone=client_gone,
        )

    def release(self, admission: Admission, reason: str) -> None:
        """The end of a request of which not a byte was sent."""
        self._ends.release(admission, reason)

    def refused(self, event: RequestRefused) -> None:
        """Record a refusal; repeats are counted into one event a second.

        Of a request whose intent is in the log it stays an event of its own, so that all of it is told under one id.
        """
        if self._ends.was_released(event.request_id):
            self._node.refusals.tell(event)
        else:
            self._node.refusals.note(event, self._node.clock.elapsed_ns(), slow=self._node.spares_log())

    def now_ns(self) -> int:
        """The control plane's time; this machine's before the control plane was heard."""
        return self._node.feed.now_ns() or self._node.clock.wall_ns()

    # ------------------------------------------------------------------ in the background

    async def _on_push(self, message: Message) -> None:
        try:
            push = self._decode_push(message.payload)
        except msgspec.DecodeError as error:
            _log.error("a push cannot be read: %s", error)
            return
        incarnation = self._node.incarnation
        if incarnation is None or push.incarnation != incarnation.id:
            return
        if isinstance(push, Grants):
            incarnation.desk.grants(push)
        else:
            incarnation.desk.recall(push)

    async def _tick(self) -> None:
        node = self._node
        while True:
            await asyncio.sleep(TICK_S)
            node.look()
            self._admitter.expire()
            incarnation = node.incarnation
            if incarnation is None:
                continue
            now_ns = node.clock.elapsed_ns()
            node.journal.retry()
            node.refusals.flush(now_ns, slow=node.spares_log())
            if now_ns >= self._forget_at_ns:
                self._forget_at_ns = now_ns + FORGET_EVERY_NS
                incarnation.desk.forget(self._line_gone)

    def _line_gone(self, line: str) -> bool:
        return line_gone(line, self._node.snapshot, self._node.feed.now_ns())

    async def _until_empty(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while len(self._node.inflight):  # noqa: ASYNC110 - an event would be set on the hot path
                    await asyncio.sleep(TICK_S / 5)

    async def _say_goodbye(self) -> None:
        """Return the leases and end the log, if there is one to end."""
        with contextlib.suppress(TimeoutError, LogError):
            async with asyncio.timeout(CLOSE_S):
                while (incarnation := self._node.incarnation) is None:  # noqa: ASYNC110 - rare, and ends by itself
                    await asyncio.sleep(TICK_S)
                incarnation.desk.give_back_all()
                self._node.journal.flush()
                stopped = NodeStopped(self._node.clock.wall_ns())
                await incarnation.log.append_nowait((stopped,), essential=True)

    def _fail(self, task: str, _error: BaseException | None) -> None:
        if not self.defect.done():
            self.defect.set_result(task)
