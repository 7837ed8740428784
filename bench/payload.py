"""The one call that all proxies carry: a chat completion, 325 bytes there and 442 back."""

import json

REQUEST_BYTES = 325
ANSWER_BYTES = 442
MODEL = "gpt-4o-mini"
PATH = "/v1/chat/completions"

_FILLER = "The quick brown fox jumps over the lazy dog. "


def _padded(value: dict[str, object], holder: dict[str, str], size: int) -> bytes:
    """`value` as JSON of exactly `size` bytes; the text in `holder` is filled up."""
    missing = size - len(json.dumps(value, separators=(",", ":")))
    holder["content"] = (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    return json.dumps(value, separators=(",", ":")).encode()


def request_body(*, stream: bool = False) -> bytes:
    message = {"role": "user", "content": ""}
    fields: dict[str, object] = {"model": MODEL, "max_tokens": 64, "temperature": 0.2, "user": "bench"}
    if stream:
        fields["stream"] = True
    return _padded({**fields, "messages": [message]}, message, REQUEST_BYTES)


def answer_body() -> bytes:
    message = {"role": "assistant", "content": ""}
    return _padded(
        {
            "id": "chatcmpl-bench0123456789",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 60, "completion_tokens": 30, "total_tokens": 90},
        },
        message,
        ANSWER_BYTES,
    )
