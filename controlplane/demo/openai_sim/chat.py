"""Chat completions, decided: from a request to the choices, their tokens and the usage. No state, no JSON out."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec

from controlplane.demo.openai_sim.models import CHAT, ChatModel
from controlplane.demo.openai_sim.refuse import Refused, unknown_model, unparseable
from controlplane.demo.openai_sim.text import compose, count_tokens, cut_at_stop
from controlplane.demo.wire import Call, Usage

MAX_PIECES = 131_072  # of all choices of one answer: some ten megabytes of events
_MAX_ASKED_TOKENS = 32_768
_IMAGE_TOKENS = 85  # https://platform.openai.com/docs/guides/images-vision, an image at low detail
_TOKENS_PER_MESSAGE = 3
_CACHE_FROM_TOKENS, _CACHE_STEP_TOKENS = 1_024, 128  # https://platform.openai.com/docs/guides/prompt-caching
_CACHE_PREFIX_CHARS = 8_192

# How many tokens a reasoning model thinks before it answers.
_THOUGHT = {"none": 0, "minimal": 0, "low": 16, "medium": 64, "high": 256, "xhigh": 512}

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Message(msgspec.Struct, frozen=True):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    """What the simulation looks at; all other parameters are accepted and change nothing.

    `max_tokens` is accepted for every model (the real reasoning models insist on `max_completion_tokens`).
    """

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=4)] | None = None
    seed: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None


class Choice(msgspec.Struct, frozen=True):
    """One answer: text in pieces of one token, or the call of `tool` with no arguments."""

    pieces: list[str]
    finish_reason: Literal["stop", "length", "tool_calls"]
    reasoning_tokens: int = 0
    tool: str | None = None


class Reply(msgspec.Struct, frozen=True):
    """A decided completion. `show_usage` is false only under the fault `no_usage`."""

    id: str
    created_s: int
    choices: list[Choice]
    usage: Usage
    service_tier: str
    show_usage: bool


class Prompt(msgspec.Struct, frozen=True):
    """A prompt's text, its tokens, and the digest of its beginning, by which it is found in the prompt cache."""

    text: str
    tokens: int
    prefix: bytes
    prefix_tokens: int


def decode(body: bytes) -> ChatRequest | Refused:
    try:
        return msgspec.json.decode(body, type=ChatRequest)
    except msgspec.ValidationError as error:
        return Refused(400, f"Invalid request: {error}", param=_parameter(str(error)))
    except msgspec.DecodeError as error:
        return unparseable(str(error))


def _parameter(problem: str) -> str | None:
    """The parameter that a validation error speaks of: "... - at `$.messages[0].role`", or a missing field."""
    if "missing required field" in problem and "$" not in problem:
        return problem.split("`")[1]
    _, at, path = problem.partition("`$.")
    return path.rstrip("`") if at else None


def read_prompt(request: ChatRequest) -> Prompt:
    parts, tokens = [request.model], _TOKENS_PER_MESSAGE
    for message in request.messages:
        content, images = _content(message)
        parts.append(f"{message.role}: {content}")
        tokens += _TOKENS_PER_MESSAGE + 1 + count_tokens(content) + images * _IMAGE_TOKENS
    if request.tools:
        tools = msgspec.json.encode(request.tools).decode()
        parts.append(tools)
        tokens += count_tokens(tools)
    text = "\n".join(parts)
    prefix = text[:_CACHE_PREFIX_CHARS]
    prefix_tokens = 0
    if tokens >= _CACHE_FROM_TOKENS:
        prefix_tokens = min(tokens, count_tokens(prefix)) // _CACHE_STEP_TOKENS * _CACHE_STEP_TOKENS
    return Prompt(text, tokens, hashlib.sha256(prefix.encode(errors="replace")).digest(), prefix_tokens)


def _content(message: Message) -> tuple[str, int]:
    """A message's text and the number of its images."""
    content = message.content
    calls = msgspec.json.encode(message.tool_calls).decode() if message.tool_calls else ""
    if content is None or isinstance(content, str):
        return (content or "") + calls, 0
    texts = [str(part.get("text", "")) for part in content if part.get("type") == "text"]
    images = sum(1 for part in content if part.get("type") == "image_url")
    return "\n".join(texts) + calls, images


def decide(request: ChatRequest, prompt: Prompt, call: Call, reply_id: str, cached_tokens: int) -> Reply | Refused:
    """Everything about the answer. The same prompt, model and seed give the same text."""
    model = CHAT.get(request.model)
    if model is None:
        return unknown_model(request.model)
    asked = _asked_tokens(call)
    if isinstance(asked, Refused):
        return asked
    problem = _check(request, model, prompt, asked)
    if problem:
        return problem
    limit = min(request.max_completion_tokens or request.max_tokens or model.max_output_tokens, model.max_output_tokens)
    choices = [_choose(request, model, prompt, index, asked, limit) for index in range(request.n or 1)]
    reasoning = sum(choice.reasoning_tokens for choice in choices)
    said = sum(len(choice.pieces) + (count_tokens(choice.tool) + 2 if choice.tool else 0) for choice in choices)
    return Reply(
        id=reply_id,
        created_s=call.now_s,
        choices=choices,
        usage=Usage(
            model=model.name,
            prompt_tokens=prompt.tokens,
            completion_tokens=said + reasoning + call.extra_output_tokens,
            cached_tokens=cached_tokens,
            reasoning_tokens=reasoning,
        ),
        service_tier=_tier(request),
        show_usage=not call.no_usage,
    )


def _asked_tokens(call: Call) -> int | Refused | None:
    """`X-Demo-Output-Tokens`: how long the answer would be if nothing limited it."""
    text = call.header("X-Demo-Output-Tokens")
    if not text:
        return None
    if not text.isdecimal() or len(text) > 6 or not 1 <= int(text) <= _MAX_ASKED_TOKENS:
        return Refused(400, f"X-Demo-Output-Tokens must be between 1 and {_MAX_ASKED_TOKENS}.")
    return int(text)


def _check(request: ChatRequest, model: ChatModel, prompt: Prompt, asked: int | None) -> Refused | None:
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        return Refused(400, message, code="invalid_parameter_combination")
    if request.stream_options is not None and not request.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        return Refused(400, message, param="stream_options")
    if prompt.tokens > model.context_tokens:
        message = (
            f"This model's maximum context length is {model.context_tokens} tokens. However, your messages resulted "
            f"in {prompt.tokens} tokens. Please reduce the length of the messages."
        )
        return Refused(400, message, code="context_length_exceeded", param="messages")
    if (asked or 0) * (request.n or 1) > MAX_PIECES:
        return Refused(400, f"The demo answers at most {MAX_PIECES} tokens in all.", param="n")
    return None


def _choose(
    request: ChatRequest, model: ChatModel, prompt: Prompt, index: int, asked: int | None, limit: int
) -> Choice:
    tool = _forced_tool(request)
    if tool is not None:
        return Choice([], "tool_calls", tool=tool)
    digest = hashlib.sha256(f"{model.name}\0{request.seed}\0{index}\0{prompt.text}".encode(errors="replace")).digest()
    thought = min(_THOUGHT[request.reasoning_effort or "medium"], limit) if model.reasoning else 0
    wanted = asked or 24 + digest[0] % 40
    pieces = compose(digest, min(wanted, limit - thought))
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    kept, stopped = cut_at_stop(pieces, [stop for stop in stops if stop])
    whole = stopped or len(pieces) == wanted
    return Choice(kept, "stop" if whole else "length", reasoning_tokens=thought)


def _forced_tool(request: ChatRequest) -> str | None:
    """The function that `tool_choice` makes the model call: a named one, or the first if any is required."""
    choice = request.tool_choice
    if isinstance(choice, dict):
        function = choice.get("function")
        return str(function.get("name", "")) if isinstance(function, dict) else None
    if choice == "required" and request.tools:
        function = request.tools[0].get("function")
        return str(function.get("name", "")) if isinstance(function, dict) else None
    return None


def _tier(request: ChatRequest) -> str:
    tier = request.service_tier or "default"
    return {"auto": "default", "fast": "priority"}.get(tier, tier)
