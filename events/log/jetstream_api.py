"""The few requests of JetStream's API that the logs need, as typed calls. Asked of the stream's leader.

Plain requests instead of the client library's context: the bodies are a few lines of JSON, the answers are
decoded by the same library as everything else, and every time-out and error ends in one exception.
"""

import base64
import datetime as dt
from typing import Any, TypeVar

import msgspec

from events.log.port import LogUnavailable, Stored, StreamState
from events.messaging.link import LinkError, LinkTimeout, NatsLink

ReplyT = TypeVar("ReplyT")

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
_NO_MESSAGE_FOUND = 10037


class ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Failure(msgspec.Struct):
    error: ApiError | None = None


class _StateReply(msgspec.Struct):
    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0


class _StreamReply(msgspec.Struct):
    config: dict[str, Any]
    state: _StateReply


class ConsumerReply(msgspec.Struct):
    name: str
    num_pending: int = 0


class _RawMessage(msgspec.Struct):
    subject: str
    seq: int
    time: str
    data: str = ""


class _MessageReply(msgspec.Struct):
    message: _RawMessage


class _PurgeReply(msgspec.Struct):
    purged: int = 0


class ApiRefused(LogUnavailable):
    """JetStream answered with an error. `err_code` is its number, as in the server's errors.json."""

    def __init__(self, operation: str, error: ApiError) -> None:
        super().__init__(f"{operation}: {error.description} ({error.err_code})")
        self.err_code = error.err_code


class JetStreamApi:
    """Calls over one connection. Every call raises LogUnavailable, in particular ApiRefused."""

    def __init__(self, link: NatsLink, *, timeout_s: float = 2.0) -> None:
        self._link = link
        self._timeout_s = timeout_s

    async def call(self, operation: str, body: object, reply_type: type[ReplyT]) -> ReplyT:
        payload = msgspec.json.encode(body) if body is not None else b""
        try:
            answer = await self._link.request(f"$JS.API.{operation}", payload, self._timeout_s)
        except LinkError as error:
            if isinstance(error, LinkTimeout):
                await self._link.unserved()
            raise LogUnavailable(f"{operation}: {error}") from None
        if answer.headers and answer.headers.get("Status") == "503":
            await self._link.unserved()
            raise LogUnavailable(f"{operation}: JetStream is not there (503)")
        try:
            failure = msgspec.json.decode(answer.data, type=_Failure)
            if failure.error is not None:
                raise ApiRefused(operation, failure.error)
            return msgspec.json.decode(answer.data, type=reply_type)
        except msgspec.MsgspecError as error:
            raise LogUnavailable(f"{operation}: unintelligible answer: {error}") from None

    async def stream_config(self, stream: str) -> dict[str, Any] | None:
        """Return the stream's configuration; None if there is no such stream."""
        try:
            return (await self.call(f"STREAM.INFO.{stream}", None, _StreamReply)).config
        except ApiRefused as refusal:
            if refusal.err_code == STREAM_NOT_FOUND:
                return None
            raise

    async def stream_state(self, stream: str) -> StreamState:
        reply = await self.call(f"STREAM.INFO.{stream}", None, _StreamReply)
        state = reply.state
        limit = int(reply.config.get("max_bytes", -1))
        replicas = int(reply.config.get("num_replicas", 1))
        return StreamState(state.first_seq, state.last_seq, state.messages, state.bytes, limit, replicas)

    async def get(self, stream: str, sequence: int) -> Stored | None:
        return await self._get(stream, {"seq": sequence}) if sequence > 0 else None

    async def last_on_subject(self, stream: str, subject: str) -> Stored | None:
        return await self._get(stream, {"last_by_subj": subject})

    async def _get(self, stream: str, which: dict[str, Any]) -> Stored | None:
        # Not the direct variant: a replica that lags may answer that one.
        try:
            reply = await self.call(f"STREAM.MSG.GET.{stream}", which, _MessageReply)
        except ApiRefused as refusal:
            if refusal.err_code == _NO_MESSAGE_FOUND:
                return None
            raise
        raw = reply.message
        return Stored(raw.seq, raw.subject, base64.b64decode(raw.data), parse_time_ns(raw.time))

    async def purge(self, stream: str, subject_filter: str, through: int) -> int:
        body = {"filter": subject_filter, "seq": through + 1}
        return (await self.call(f"STREAM.PURGE.{stream}", body, _PurgeReply)).purged


def parse_time_ns(text: str) -> int:
    """Read JetStream's RFC 3339 time with up to nine decimals, `2026-01-02T03:04:05.123456789Z`."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = dt.datetime.fromisoformat(whole + "+00:00")
    return int(seconds.timestamp()) * 1_000_000_000 + int(rest.ljust(9, "0")[:9] or 0)
