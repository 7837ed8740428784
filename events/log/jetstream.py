"""Logs over JetStream: appending, and reading a stream's state. The follower has a module of its own.

An append is a NATS request with two or three headers. Nodes send it from an account without JetStream: the
server imports their own log subject into the control account, and carries headers and acknowledgement across.
"""

from collections.abc import Sequence

import msgspec

from events.log.jetstream_api import ApiError, JetStreamApi
from events.log.jetstream_follower import JetStreamFollower
from events.log.port import (
    AppendUncertain,
    FenceExpectation,
    FenceMoved,
    PayloadTooLarge,
    PubAck,
    Stored,
    StreamState,
)
from events.messaging.link import LinkBacklog, LinkDown, LinkError, LinkLost, LinkTooLarge, NatsLink

_WRONG_LAST_SEQUENCE = 10071
_MESSAGE_TOO_LARGE = 10054
_STREAM_FULL = 10077


class _AckReply(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


_ack_decoder = msgspec.json.Decoder(_AckReply)


class JetStreamAppender:
    """See `events.log.port.AppendPort`."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    @property
    def max_payload_bytes(self) -> int:
        """The server's limit, less some room for our headers, which count too."""
        return self._link.max_payload_bytes - 1_024

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str | None,
        expect: FenceExpectation | None,
        timeout_s: float,
    ) -> PubAck:
        if len(payload) > self.max_payload_bytes:
            raise PayloadTooLarge(len(payload), self.max_payload_bytes)
        try:
            answer = await self._link.request(subject, payload, timeout_s, headers=_headers(msg_id, expect))
        except (LinkDown, LinkLost):
            raise AppendUncertain("disconnected") from None
        except LinkTooLarge:
            raise PayloadTooLarge(len(payload), self.max_payload_bytes) from None
        except LinkBacklog:
            raise AppendUncertain("backlog") from None
        except LinkError:
            await self._link.unserved()
            raise AppendUncertain("timeout") from None
        if answer.headers and answer.headers.get("Status") == "503":
            await self._link.unserved()
            raise AppendUncertain("no_responders", 503)
        self._link.served()
        return _read_ack(answer.data, len(payload))


def _headers(msg_id: str | None, expect: FenceExpectation | None) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    if msg_id is not None:
        headers["Nats-Msg-Id"] = msg_id
    if expect is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(expect.sequence)
        headers["Nats-Expected-Last-Subject-Sequence-Subject"] = expect.subject
    return headers or None


def _read_ack(data: bytes, size_bytes: int) -> PubAck:
    """Sort the answers as rule L4 says: what is not known to decide something decides nothing."""
    try:
        ack = _ack_decoder.decode(data)
    except msgspec.MsgspecError:
        raise AppendUncertain("server") from None
    if ack.error is None:
        if ack.seq < 1:
            raise AppendUncertain("server")
        return PubAck(ack.seq, ack.duplicate)
    code = ack.error.err_code
    if code == _WRONG_LAST_SEQUENCE:
        raise FenceMoved(ack.error.description)
    if code == _MESSAGE_TOO_LARGE:
        raise PayloadTooLarge(size_bytes, size_bytes - 1)
    raise AppendUncertain("stream_full" if code == _STREAM_FULL else "server", code)


class JetStreamStream(JetStreamAppender):
    """See `events.log.port.StreamPort`. Only for users of the account that has JetStream."""

    def __init__(self, link: NatsLink, name: str) -> None:
        super().__init__(link)
        self._api = JetStreamApi(link)
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def read(
        self,
        *,
        after: int,
        subject_filter: str | Sequence[str] | None = None,
        accept_trimmed: bool = False,
    ) -> JetStreamFollower:
        filters = (subject_filter,) if isinstance(subject_filter, str) else tuple(subject_filter or ())
        return JetStreamFollower(self._link, self._name, after=after, filters=filters, accept_trimmed=accept_trimmed)

    async def state(self) -> StreamState:
        return await self._api.stream_state(self._name)

    async def get(self, sequence: int) -> Stored | None:
        return await self._api.get(self._name, sequence)

    async def last_on_subject(self, subject: str) -> Stored | None:
        return await self._api.last_on_subject(self._name, subject)

    async def trim(self, subject_filter: str, through: int) -> int:
        return await self._api.purge(self._name, subject_filter, through)
