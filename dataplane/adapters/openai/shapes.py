"""What OpenAI's answers say of their cost, as far as it is read. Everything else in them is passed over.

Shapes alone, apart from what is done with them: modules without structs can be compiled (setup.py).
"""

from typing import Annotated

import msgspec

from dataplane.adapters.port import Prices

_Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class PromptDetails(msgspec.Struct):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    audio_tokens: _Count | None = None


class CompletionDetails(msgspec.Struct):
    audio_tokens: _Count | None = None


class Usage(msgspec.Struct):
    """`usage` of chat completions and embeddings (which have no completion)."""

    prompt_tokens: _Count
    completion_tokens: _Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Report(msgspec.Struct):
    """All that an answer says of its cost."""

    usage: Usage
    model: str
    service_tier: str | None
    tool_calls: int = 0


class Pricing(msgspec.Struct, frozen=True):
    """How to price the answer to one request: by which list, model names and tier it was bounded."""

    prices: Prices
    aliases: dict[str, str]
    asked_model: str
    asked_tier: str


class Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class Message(msgspec.Struct):
    tool_calls: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct):
    message: Message | None = None


class Answer(msgspec.Struct):
    """An answer that is no stream."""

    model: str | None = None
    service_tier: str | None = None
    usage: Usage | None = None
    choices: list[Choice] | None = None


class Failure(msgspec.Struct):
    error: Error | None = None


class ToolCall(msgspec.Struct):
    id: str | None = None


class Delta(msgspec.Struct):
    tool_calls: list[ToolCall] | None = None


class ChunkChoice(msgspec.Struct):
    delta: Delta | None = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    model: str | None = None
    service_tier: str | None = None
    choices: list[ChunkChoice] | None = None
    usage: Usage | None = None


class ErrorEvent(msgspec.Struct):
    error: Error | str | None = None
