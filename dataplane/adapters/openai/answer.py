"""Meters of OpenAI's answers that are not streams: one JSON object with its usage.

| answer | outcome |
|---|---|
| 2xx with usage | settled |
| 2xx without usage, cut, empty, or not JSON | unknown |
| 4xx but 408 | settled at nothing: the vendor refused it before generating |
| 408, 5xx, 3xx | unknown: tokens may have been generated and billed before it failed |

A failing vendor thus holds budget: unknown is not failed (rule S1), and the operator reconciles what the
vendor's dashboard shows was not billed.
"""

import json
import re
from typing import Final

import msgspec

from dataplane.adapters.answers import ONE_REQUEST, Kept, error_of, refused
from dataplane.adapters.openai.shapes import Answer, Failure, Pricing, Report, Usage
from dataplane.adapters.openai.usage import settle
from dataplane.adapters.port import Outcome

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")


_ANSWER: Final = msgspec.json.Decoder(Answer)
_FAILURE: Final = msgspec.json.Decoder(Failure)
_USAGE: Final = msgspec.json.Decoder(Usage)
_USAGE_NAME: Final = re.compile(rb'"usage"\s*:\s*(?=\{)')


class AnswerMeter:
    """One answer. Beyond what is kept of it, usage is looked for in its end."""

    __slots__ = ("_kept", "_pricing", "_status")

    def __init__(self, pricing: Pricing, status: int) -> None:
        self._pricing = pricing
        self._status = status
        self._kept = Kept()

    def feed(self, chunk: bytes) -> bytes:
        self._kept.add(chunk)
        return chunk

    def flush(self) -> bytes:
        return b""

    def finish(self, *, complete: bool) -> Outcome:
        model = self._pricing.asked_model
        if refused(self._status):
            return Outcome("settled", ONE_REQUEST, model=model, error=self._failure())
        if not 200 <= self._status < 300:
            return Outcome("unknown", model=model, error=self._failure())
        if not complete:
            return Outcome("unknown", model=model, error="incomplete")
        report = self._from_end() if self._kept.cut else self._whole()
        if report is None:
            return Outcome("unknown", model=model, error="no_usage")
        return settle(report, self._pricing)

    def _whole(self) -> Report | None:
        try:
            answer = _ANSWER.decode(self._kept.body())
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if answer.usage is None:
            return None
        calls = sum(
            len(choice.message.tool_calls or ()) for choice in answer.choices or () if choice.message is not None
        )
        return Report(answer.usage, answer.model or "", answer.service_tier, calls)

    def _from_end(self) -> Report | None:
        """Usage of an answer too large to keep (thousands of embeddings). Inside a JSON string its name would
        have escaped quotes, so what is found is a member; the last one is the answer's own.
        """
        tail = self._kept.body()
        starts = [name.end() for name in _USAGE_NAME.finditer(tail)]
        if not starts:
            return None
        try:
            text = tail[starts[-1] :].decode()
            _, end = json.JSONDecoder().raw_decode(text)
            return Report(_USAGE.decode(text[:end]), "", None)
        except (ValueError, msgspec.MsgspecError):
            return None

    def _failure(self) -> str:
        """The vendor's word for what went wrong."""
        try:
            error = _FAILURE.decode(self._kept.body()).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            error = None
        word = str(error.code or error.type or "") if error is not None else ""
        return word if _CODE.match(word) else error_of(self._status)
