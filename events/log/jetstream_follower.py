"""An ordered follower of a JetStream stream that repairs itself.

The idea
    A short-lived consumer without acknowledgements, fed by pull requests of our own. The server sends what a
    request allows, so nothing overflows; a request stays open when all is read, so a new message comes at
    once; and it carries heartbeats, so silence means trouble. The library's own ordered consumer and key-value
    watch need up to 19 s to notice a restarted server; this one needs the reconnection and two requests.

What is known of every message
    Its reply subject ends in `<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>`.
    The consumer sequence has no gaps unless a message was lost on its way: then the consumer is made again,
    after the newest message in hand. Heartbeats carry the newest consumer sequence and reveal a lost tail.
    Without a filter the stream sequence has no gaps either, unless messages were removed: that is LogTrimmed.

States: no consumer -> reading (after `_create`); reading -> no consumer on a gap, silence, a status that ends
the consumer, or any change of the connection. What is buffered stays valid; only `_received` matters to
resume. Everything is driven by `next_batch`; there is no task that could die unseen.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from nats.aio.msg import Msg

from events.log.follower import MessageIterator
from events.log.jetstream_api import ConsumerReply, JetStreamApi
from events.log.port import LogRewound, LogTrimmed, LogUnavailable, Stored
from events.messaging.link import LinkError, NatsLink
from events.messaging.subscriptions import LinkSubscription

HEARTBEAT_S = 0.5
"""The server's word in every silence."""
SILENCE_S = 1.25
"""Two heartbeats missed: the consumer is taken for dead."""
PULL_MESSAGES = 4_000
"""One request's messages; larger made replay no faster."""
PULL_BYTES = 16 << 20
"""One request's bytes. Above the largest message (8 MiB), which otherwise could never be delivered."""
PULL_EXPIRES_S = 30.0
BUFFER_BYTES = 16 << 20
"""No further request while this much waits to be taken; with requests under way at most 48 MiB are held."""
INACTIVE_S = 60.0
"""The server removes a consumer that nobody asks for this long; a slow fold simply makes a new one."""
RETRY_S = 0.05
REWOUND_S = 2.0
"""A replicated stream must look shorter than it was for so long before that is believed. A server that was paused
while it led answers from the past until it hears of its successor; nothing is delivered meanwhile."""

_NEXT_EXPIRES_NS = int(PULL_EXPIRES_S * 1e9)
_PULL_ENDS = {"404", "408"}


class JetStreamFollower(MessageIterator):
    """See `events.log.port.Follower`."""

    def __init__(
        self, link: NatsLink, stream: str, *, after: int, filters: Sequence[str], accept_trimmed: bool
    ) -> None:
        self._link = link
        self._api = JetStreamApi(link)
        self._stream = stream
        self._filters = filters
        self._accept_trimmed = accept_trimmed
        self._position = after
        self._received = after
        self._buffer: deque[Stored] = deque()
        self._buffer_bytes = 0
        self._pending_at_server = 0
        self._inbox = link.new_inbox()
        self._subscription: LinkSubscription | None = None
        self._consumer = ""
        self._next_consumer_seq = 1
        self._asked = 0
        self._pulls = 0
        self._heard_at = 0.0
        self._suspected = False
        self._rewound_since: float | None = None
        self._creating: asyncio.Task[None] | None = None
        self._hole: LogTrimmed | None = None
        self._wake: asyncio.Future[None] | None = None

    @property
    def position(self) -> int:
        return self._position

    @property
    def lag(self) -> int:
        return len(self._buffer) + self._pending_at_server

    @property
    def caught_up(self) -> bool:
        return self._consumer != "" and self.lag == 0

    async def next_batch(self, max_messages: int = 1_000, timeout_s: float | None = None) -> list[Stored]:
        try:
            async with asyncio.timeout(timeout_s):
                while not self._buffer:
                    await self._progress()
        except TimeoutError:
            if not self._buffer:
                return []
        batch = [self._buffer.popleft() for _ in range(min(max_messages, len(self._buffer)))]
        self._position = batch[-1].sequence
        self._buffer_bytes -= sum(len(stored.payload) for stored in batch)
        if self._consumer:
            await self._pull()
        return batch

    async def aclose(self) -> None:
        self._link.off_connection(self._on_connection)
        creating, self._creating = self._creating, None
        if creating is not None:
            creating.cancel()
            await asyncio.wait({creating})
        await self._drop_consumer()
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    # ------------------------------------------------------------------ the consumer

    async def _progress(self) -> None:
        """Do or wait for one thing that may bring a message."""
        if self._hole is not None:
            raise self._hole
        if not self._consumer:
            await self._recreate()
            return
        await self._pull()
        if asyncio.get_running_loop().time() < self._heard_at + SILENCE_S:
            await self._wait(SILENCE_S)
        elif not self._suspected:
            # Our own process may have stood still: let it read what has arrived meanwhile.
            self._suspected = True
            await self._wait(RETRY_S)
        else:
            await self._drop_consumer()

    async def _recreate(self) -> None:
        # A task, so that a caller with little patience does not begin anew each time.
        if self._creating is None:
            self._creating = asyncio.get_running_loop().create_task(self._create(), name=f"follow {self._stream}")
        await asyncio.wait({self._creating})
        creating, self._creating = self._creating, None
        try:
            creating.result()
        except LogUnavailable:
            await self._wait(RETRY_S)

    async def _create(self) -> None:
        """Make a consumer that begins after the newest message in hand. Raises LogUnavailable, LogTrimmed."""
        if self._subscription is None:
            self._subscription = await self._link.subscribe_at_once(f"{self._inbox}.*", self._on_message)
            self._link.on_connection(self._on_connection)
        await self._check_ends()
        config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._received + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * 1e9),
        }
        if self._filters:
            config["filter_subjects"] = list(self._filters)
        body = {"stream_name": self._stream, "config": config}
        reply = await self._api.call(f"CONSUMER.CREATE.{self._stream}", body, ConsumerReply)
        self._consumer = reply.name
        self._next_consumer_seq = 1
        self._pending_at_server = reply.num_pending
        self._asked = 0
        self._heard()

    async def _check_ends(self) -> None:
        state = await self._api.stream_state(self._stream)
        if state.last_sequence < self._received:
            now = asyncio.get_running_loop().time()
            self._rewound_since = self._rewound_since or now
            if state.replicas == 1 or now - self._rewound_since > REWOUND_S:
                raise LogRewound(self._received, state.last_sequence)
            raise LogUnavailable(f"{self._stream} looks shorter than it was")
        self._rewound_since = None
        if not self._accept_trimmed and state.first_sequence > self._received + 1:
            raise LogTrimmed(self._received, state.first_sequence)

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, ""
        if consumer:
            try:
                await self._link.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", b"")
            except LinkError:
                return  # the server removes it by itself after INACTIVE_S

    async def _pull(self) -> None:
        """Keep requests open, as far as there is room."""
        if self._asked > PULL_MESSAGES // 2 or self._buffer_bytes > BUFFER_BYTES:
            return
        body = {
            "batch": PULL_MESSAGES,
            "max_bytes": PULL_BYTES,
            "expires": _NEXT_EXPIRES_NS,
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        self._pulls += 1
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        try:
            await self._link.publish(
                subject, msgspec.json.encode(body), reply=f"{self._inbox}.{self._consumer}-{self._pulls}"
            )
        except LinkError:
            self._consumer = ""
            return
        self._asked += PULL_MESSAGES

    async def _wait(self, at_most_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_later(at_most_s, self._rouse)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ------------------------------------------------------------------ what the server sends

    def _on_connection(self, _connected: bool) -> None:  # noqa: FBT001 - the link's listener
        # Requests under way are lost with the connection; the consumer may be too.
        self._consumer = ""
        self._rouse()

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._suspected = False

    def _on_message(self, msg: Msg) -> None:
        # Only the reply tells data from statuses: whoever wrote a log chose its headers.
        if msg.reply.startswith("$JS.ACK."):
            self._on_data(msg)
        else:
            self._on_status(msg)

    def _on_data(self, msg: Msg) -> None:
        parts = msg.reply.split(".")
        # `$JS.ACK.<stream>.<consumer>...`, or with domain and account before and a token behind.
        at = 3 if len(parts) == 9 else 5
        if parts[at] != self._consumer:
            return
        sequence, consumer_seq = int(parts[at + 2]), int(parts[at + 3])
        self._heard()
        if consumer_seq != self._next_consumer_seq:
            self._consumer = ""
            self._rouse()
            return
        if sequence != self._received + 1 and not self._filters and not self._accept_trimmed:
            self._hole = LogTrimmed(self._received, sequence)
            self._consumer = ""
            self._rouse()
            return
        self._next_consumer_seq += 1
        self._received = sequence
        self._asked -= 1
        self._pending_at_server = int(parts[at + 5])
        self._buffer.append(Stored(sequence, msg.subject, msg.data, int(parts[at + 4])))
        self._buffer_bytes += len(msg.data)
        self._rouse()

    def _on_status(self, msg: Msg) -> None:
        if msg.subject.rpartition(".")[2].partition("-")[0] != self._consumer:
            return
        headers = msg.headers or {}
        status = headers.get("Status", "")
        self._heard()
        if status == "100":
            if int(headers.get("Nats-Last-Consumer", "0")) >= self._next_consumer_seq:
                self._consumer = ""  # a message was sent that did not arrive, and none behind it
        elif status in _PULL_ENDS or "Nats-Pending-Messages" in headers:
            self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", "0")))
        else:
            self._consumer = ""  # deleted, server going down, no responders
        self._rouse()
