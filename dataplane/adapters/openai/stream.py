"""Metering a chat completion's stream, and taking an injected usage report out of it again.

With `stream_options.include_usage` the vendor sends, before `[DONE]`, one more chunk with `choices: []` and the
usage of the whole stream, and `"usage": null` in all others. A client that did not ask must see neither (its
code reads `chunk.choices[0]`), so the chunk is dropped and the nulls are cut out of the others' bytes. A client
that asked gets every byte as it came.

| how the stream ended | outcome |
|---|---|
| with the usage chunk, or a usage and `[DONE]` or the body's proper end | settled |
| an `error` event, or the end, without usage | unknown: tokens were generated, nobody said how many |
| cut after the usage chunk | settled: it is the last word on the whole stream |

Some compatible servers report running totals in every chunk: the last one counts, and only if the stream ended
as it should.
"""

import re
from typing import Final

import msgspec

from dataplane.adapters.openai.shapes import Chunk, ErrorEvent, Pricing, Report
from dataplane.adapters.openai.usage import settle
from dataplane.adapters.port import Outcome
from dataplane.adapters.sse import SseSplitter, event_data

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_NULL_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null\b|"usage"\s*:\s*null\s*,?')


_CHUNK: Final = msgspec.json.Decoder(Chunk)
_COMPACT_NULL: Final = b',"usage":null'
_ERROR: Final = msgspec.json.Decoder(ErrorEvent)


class StreamMeter:
    """One stream. `strip`: the usage report was injected."""

    __slots__ = ("_done", "_error", "_final", "_pricing", "_report", "_splitter", "_strip", "_tool_calls")

    def __init__(self, pricing: Pricing, *, strip: bool) -> None:
        self._pricing = pricing
        self._strip = strip
        self._splitter = SseSplitter()
        self._report: Report | None = None
        self._final = False
        self._done = False
        self._error = ""
        self._tool_calls = 0

    def feed(self, chunk: bytes) -> bytes:
        events = self._splitter.feed(chunk)
        if len(events) == 1:
            return self._take(events[0])
        return b"".join([self._take(event) for event in events])

    def flush(self) -> bytes:
        rest = self._splitter.rest()
        return self._take(rest) if rest else b""

    def finish(self, *, complete: bool) -> Outcome:
        report = self._report
        if report is None or not (self._final or self._done or complete):
            error = self._error or ("no_usage" if complete or self._done else "incomplete")
            return Outcome("unknown", model=self._pricing.asked_model, tool_calls=self._tool_calls, error=error)
        report.tool_calls = self._tool_calls
        outcome = settle(report, self._pricing)
        return outcome.with_error(outcome.error or self._error)

    def _take(self, event: bytes) -> bytes:
        """Read one event; the bytes of it that the client gets. Most events are looked at, not decoded."""
        relayed = event
        has = event.find  # not `in`: for bytes that begins with an exception, and this is done for every event
        decode = has(b'"tool_calls"') >= 0 or has(b'"error"') >= 0
        if has(b'"usage"') >= 0:
            bare = _without_null(event)
            decode = decode or bare.find(b'"usage"') >= 0
            if self._strip:
                relayed = bare
        if decode:
            return b"" if self._decode(event_data(event)) and self._strip else relayed
        if has(b"[DONE]") >= 0 and event_data(event).strip() == b"[DONE]":
            self._done = True
        return relayed

    def _decode(self, data: bytes) -> bool:
        """Take in an event that says more than text; whether it is the usage chunk."""
        if b'"error"' in data:
            self._read_error(data)
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        for choice in chunk.choices or ():
            if choice.delta is not None and choice.delta.tool_calls:
                self._tool_calls += sum(1 for call in choice.delta.tool_calls if call.id)
        if chunk.usage is None:
            return False
        self._report = Report(chunk.usage, chunk.model or "", chunk.service_tier)
        self._final = not chunk.choices
        return self._final

    def _read_error(self, data: bytes) -> None:
        """An error event in mid-stream. A chunk whose text merely holds the word has no such member."""
        try:
            error = _ERROR.decode(data).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if error is None:
            return
        word = "" if isinstance(error, str) else str(error.code or error.type or "")
        self._error = word if _CODE.match(word) else "stream_error"


def _without_null(event: bytes) -> bytes:
    """The event less its `"usage": null`. In a JSON string the quotes would be escaped, so this is a member."""
    before, found, after = event.partition(_COMPACT_NULL)
    if found and after[:1] in {b",", b"}"}:
        return before + after
    return _NULL_USAGE.sub(b"", event, count=1)
