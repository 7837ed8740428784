"""Chat completions as OpenAI writes them: one object, or server-sent events.

The stream's usage comes in an event of its own with `choices: []`, only if `stream_options.include_usage` asked
for it; then every other event carries `usage: null`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from controlplane.demo.openai_sim.chat import Choice, Reply
from controlplane.demo.wire import Usage

_FINGERPRINT = "fp_demo0000"
_DONE = b"data: [DONE]\n\n"

Shown = dict[str, Any]


def usage(used: Usage) -> Shown:
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": used.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(reply: Reply) -> bytes:
    """The unstreamed answer."""
    shown: Shown = {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created_s,
        "model": reply.usage.model,
        "choices": [
            {
                "index": index,
                "message": _message(reply, index, choice),
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(reply.choices)
        ],
    }
    if reply.show_usage:
        shown["usage"] = usage(reply.usage)
    shown["service_tier"] = reply.service_tier
    shown["system_fingerprint"] = _FINGERPRINT
    return msgspec.json.encode(shown)


def _message(reply: Reply, index: int, choice: Choice) -> Shown:
    message: Shown = {"role": "assistant", "content": "".join(choice.pieces), "refusal": None, "annotations": []}
    if choice.tool is not None:
        message["content"] = None
        message["tool_calls"] = [_tool_call(reply, index, choice.tool)]
    return message


def _tool_call(reply: Reply, index: int, name: str) -> Shown:
    return {
        "id": f"call_{reply.id[-16:]}{index}",
        "type": "function",
        "function": {"name": name, "arguments": "{}"},
    }


def events(reply: Reply, *, include_usage: bool) -> Iterator[bytes]:
    """The streamed answer, one event at a time, made as it is sent. The choices' texts are interleaved."""
    head = msgspec.json.encode(
        {
            "id": reply.id,
            "object": "chat.completion.chunk",
            "created": reply.created_s,
            "model": reply.usage.model,
            "service_tier": reply.service_tier,
            "system_fingerprint": _FINGERPRINT,
        }
    )
    opening = b"data: " + head[:-1] + b',"choices":['
    with_usage = include_usage and reply.show_usage
    closing = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def event(index: int, delta: Shown, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return opening + msgspec.json.encode(choice) + closing

    for index, choice in enumerate(reply.choices):
        yield event(index, _opening_delta(reply, index, choice))
    for position in range(max(len(choice.pieces) for choice in reply.choices)):
        for index, choice in enumerate(reply.choices):
            if position < len(choice.pieces):
                yield event(index, {"content": choice.pieces[position]})
    for index, choice in enumerate(reply.choices):
        yield event(index, {}, choice.finish_reason)
    if with_usage:
        yield opening + b'],"usage":' + msgspec.json.encode(usage(reply.usage)) + b"}\n\n"
    yield _DONE


def _opening_delta(reply: Reply, index: int, choice: Choice) -> Shown:
    if choice.tool is None:
        return {"role": "assistant", "content": "", "refusal": None}
    call = _tool_call(reply, index, choice.tool)
    return {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call}]}
