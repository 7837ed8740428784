"""What a call to OpenAI can cost at most, and how it goes out."""

import json
from typing import Any

import pytest
from support.adapter_calls import KEY_ID, bound, call, openai_adapter, packaged_prices, post_json, read, refused

from dataplane.adapters.openai import chat as bounds
from dataplane.adapters.port import Call, Outgoing
from schemas.amounts import Amounts

CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}


def chat(**params: Any) -> Call:
    return post_json(CHAT, {"model": "gpt-4o", "messages": SAY, "max_tokens": 100, **params})


def tokens(made: Call, messages: int = 1, more: int = 0) -> int:
    """The prompt's bound as documented: bytes, and an allowance for the vendor's template."""
    return len(made.body) + 64 + 16 * messages + more


def test_a_chat_is_bounded_by_its_bytes_and_its_limit() -> None:
    made = chat()
    prompt = tokens(made)
    nanos = prompt * 2_500 + 100 * 10_000
    assert bound(openai_adapter(), made) == Amounts(usd=nanos, requests=1, tokens=prompt + 100)


@pytest.mark.parametrize(
    ("params", "output"),
    [
        ({"max_tokens": None}, 16_384),  # the model's own limit
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_tokens": None, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 10**15}, 16_384),
        ({"n": 3}, 300),
        ({"n": 2, "best_of": 4}, 400),
        ({"n": None}, 100),
    ],
)
def test_output_bound(params: dict[str, Any], output: int) -> None:
    made = chat(**params)
    assert bound(openai_adapter(), made).tokens == tokens(made) + output


def test_a_prediction_may_be_billed_as_output() -> None:
    made = chat(prediction={"type": "content", "content": "x" * 500})
    assert bound(openai_adapter(), made).tokens == tokens(made) + 100 + len(made.body)


def test_tools_and_schemas_take_an_allowance() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    made = chat(tools=[tool, tool])
    assert bound(openai_adapter(), made).tokens == tokens(made, more=512 + 128) + 100
    made = chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}})
    assert bound(openai_adapter(), made).tokens == tokens(made, more=512) + 100


def test_images_count_by_the_model_not_by_their_bytes() -> None:
    words = {"type": "text", "text": "what is it?"}
    made = chat(messages=[{"role": "user", "content": [words, IMAGE, IMAGE]}])
    inline = len(IMAGE["image_url"]["url"])  # type: ignore[index]  # the table above
    assert bound(openai_adapter(), made).tokens == tokens(made) - 2 * inline + 2 * 1445 + 100
    linked = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "low"}}
    made = chat(messages=[{"role": "user", "content": [linked]}])
    assert bound(openai_adapter(), made).tokens == tokens(made) + 1445 + 100


def test_a_prompt_never_exceeds_the_models_window() -> None:
    made = chat(messages=[{"role": "user", "content": "x" * 500_000}])
    assert bound(openai_adapter(), made).tokens == 128_000 + 100
    pictures = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 500_000}, IMAGE]}])
    assert bound(openai_adapter(), pictures).tokens > 500_000


def test_cache_writes_and_long_prompts_are_dearer() -> None:
    made = chat(model="gpt-6-sol")
    assert bound(openai_adapter(), made).usd == tokens(made) * 2_500 + 100 * 10_000
    long = chat(model="gpt-6-sol", messages=[{"role": "user", "content": "x" * 300_000}])
    assert bound(openai_adapter(), long).usd == tokens(long) * 5_000 + 100 * 15_000


@pytest.mark.parametrize(
    ("tier", "input_nanos", "output_nanos"),
    [
        (None, 1_250, 10_000),
        ("auto", 1_250, 10_000),
        ("default", 1_250, 10_000),
        ("flex", 1_250, 10_000),  # may be served as default
        ("priority", 2_500, 20_000),
        ("fast", 2_500, 20_000),
    ],
)
def test_service_tiers(tier: str | None, input_nanos: int, output_nanos: int) -> None:
    made = chat(model="gpt-5", service_tier=tier)
    assert bound(openai_adapter(), made).usd == tokens(made) * input_nanos + 100 * output_nanos


@pytest.mark.parametrize(
    "params",
    [
        {"model": "gpt-99"},
        {"model": "gpt-4o-search-preview"},  # fees beside tokens
        {"model": "gpt-audio"},
        {"service_tier": "scale"},
        {"service_tier": "flex"},  # gpt-4o has no such price
        {"service_tier": 7},
        {"web_search_options": {}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "mp3"}},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "mcp"}]},
        {"tools": {"type": "function"}},
        {"tools": ["function"]},
        {"moderation": {"model": "other-moderation"}},
        {"prompt_cache_options": {"ttl": "12h"}},
        {"speed": "fast"},
        {"previous_response_id": "resp_1"},
        {"max_tokens": "100"},
        {"max_tokens": 1e3},
        {"max_tokens": True},
        {"max_tokens": -1},
        {"n": 0.5},
        {"n": 129},
        {"messages": {"role": "user"}},
        {"messages": ["hi"]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": ["hi"]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x", "prompt_cache_breakpoint": {"ttl": "12h"}}]}
            ]
        },
        {"model": "gpt-5.5", "messages": [{"role": "user", "content": [IMAGE]}]},  # its images have no published size
    ],
)
def test_what_the_request_does_not_bound_is_refused(params: dict[str, Any]) -> None:
    adapter, made = openai_adapter(), chat(**params)
    assert refused(adapter.bound(made, read(adapter, made), None)) == "cost_unbounded"


@pytest.mark.parametrize(
    "params",
    [
        {"store": True, "metadata": {"a": "b"}},
        {"modalities": ["text"]},
        {"moderation": {"model": "omni-moderation-latest"}},
        {"prompt_cache_key": "k", "prompt_cache_options": {"mode": "explicit", "ttl": "30m"}},
        {"reasoning_effort": "high", "verbosity": "low"},
        {"functions": [{"name": "f"}], "function_call": "auto"},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}]},
    ],
)
def test_harmless_parameters_are_known(params: dict[str, Any]) -> None:
    assert bound(openai_adapter(), chat(**params)).usd > 0


def test_aliases_and_fine_tuned_models_have_prices() -> None:
    adapter = openai_adapter(models={"my-deployment": "gpt-4o"})
    made = chat(model="my-deployment")
    assert bound(adapter, made).usd == tokens(made) * 2_500 + 100 * 10_000
    tuned = chat(model="ft:gpt-4o-mini-2024-07-18:acme::abc123")
    assert bound(adapter, tuned).usd == -(-(tokens(tuned) * 300 + 100 * 1_200) // 1)


@pytest.mark.parametrize(
    "given",
    ["text", ["a", "b"], [1, 2, 3], [[1, 2], [3]], ""],
)
def test_embeddings_are_bounded_by_their_bytes(given: Any) -> None:
    made = post_json("/v1/embeddings", {"model": "text-embedding-3-small", "input": given})
    prompt = len(made.body) + 64 + 4 * (len(given) if isinstance(given, list) else 1)
    assert bound(openai_adapter(), made) == Amounts(usd=prompt * 20, requests=1, tokens=prompt)


@pytest.mark.parametrize("params", [{"input": None}, {"input": {"a": 1}}, {"input": "x", "new": 1}])
def test_strange_embeddings_have_no_bound(params: dict[str, Any]) -> None:
    adapter = openai_adapter()
    made = post_json("/v1/embeddings", {"model": "text-embedding-3-small", **params})
    assert refused(adapter.bound(made, read(adapter, made), None)) == "cost_unbounded"


def test_models_are_free_and_all_else_has_no_bound() -> None:
    adapter = openai_adapter()
    for path in ("/v1/models", "/v1/models/ft:gpt-4o:acme::1"):
        made = call("GET", path)
        assert adapter.bound(made, read(adapter, made), None) == Amounts(requests=1)
    others = [
        "/v1/responses",
        "/v1/files",
        "/v1/batches",
        "/v1/images/generations",
        "/v1/assistants",
        "/v1/completions",
    ]
    for made in [
        *(post_json(path, {}) for path in others),
        *(call("GET", path) for path in ["/v1/files", "/v1/responses/resp_1", "/v1/realtime", "/v1/models/a/b"]),
        call("DELETE", "/v1/models/ft:x"),
        call("GET", CHAT),
        post_json("/v1/chat/completions/x", {}),
    ]:
        assert refused(adapter.bound(made, read(adapter, made), None)) == "cost_unbounded", made.path


def sent(made: Call, **settings: Any) -> Outgoing:
    adapter = openai_adapter(**settings)
    out = adapter.rewrite(made, read(adapter, made), KEY_ID, "sk-real")
    assert isinstance(out, Outgoing)
    return out


def test_the_body_goes_out_as_it_came() -> None:
    body = (
        b'{ "model":"gpt-4o",\n "messages":[{"role":"user","content":"\\u00e9"}], "temperature":1.50, "stream":false }'
    )
    out = sent(post_json(CHAT, body))
    assert out.body is body
    assert [value for name, value in out.headers if name.lower() == b"authorization"] == [b"Bearer sk-real"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            b'{"model":"gpt-4o","stream":true, "temperature":1.50}',
            b'{"stream_options":{"include_usage":true},"model":"gpt-4o","stream":true, "temperature":1.50}',
        ),
        (
            b'{"model":"gpt-4o","stream":true,"stream_options":null,"x":"\\u00e9"}',
            b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"x":"\\u00e9"}',
        ),
        (
            b'{"stream_options": {"include_usage" : false, "include_obfuscation":false} ,"model":"gpt-4o","stream":true}',
            b'{"stream_options": {"include_usage":true,"include_obfuscation":false} ,"model":"gpt-4o","stream":true}',
        ),
    ],
)
def test_usage_is_asked_for_in_the_clients_own_bytes(before: bytes, after: bytes) -> None:
    assert read(openai_adapter(), post_json(CHAT, before)).inject_usage
    assert sent(post_json(CHAT, before)).body == after
    assert json.loads(after)["stream_options"]["include_usage"] is True


@pytest.mark.parametrize(
    "params",
    [{}, {"stream": False}, {"stream": None}, {"stream": True, "stream_options": {"include_usage": True}}],
)
def test_nothing_is_injected_where_nothing_is_missing(params: dict[str, Any]) -> None:
    made = chat(**params)
    assert not read(openai_adapter(), made).inject_usage
    assert sent(made).body is made.body


@pytest.mark.parametrize(
    ("base_url", "path", "origin", "target"),
    [
        ("", CHAT, "https://api.openai.com", CHAT),
        ("https://api.openai.com/v1", CHAT, "https://api.openai.com", CHAT),
        ("https://api.openai.com/v1/", "/chat/completions", "https://api.openai.com", CHAT),
        ("http://127.0.0.1:8000/llm/v1", CHAT, "http://127.0.0.1:8000", "/llm" + CHAT),
        ("http://127.0.0.1:8000/llm", CHAT, "http://127.0.0.1:8000", "/llm" + CHAT),
    ],
)
def test_a_version_at_the_end_of_the_base_url_is_understood(base_url: str, path: str, origin: str, target: str) -> None:
    made = post_json(path, {"model": "gpt-4o", "messages": SAY})
    assert sent(made, base_url=base_url).target == target.encode()
    adapter = openai_adapter(base_url=base_url)
    assert adapter.origin == origin
    assert read(adapter, made).operation == "chat.completions.create"


def test_without_a_version_in_the_base_url_the_path_needs_one() -> None:
    assert read(openai_adapter(), post_json("/chat/completions", {"model": "gpt-4o"})).operation == ""


@pytest.mark.interpreted
def test_the_short_way_bounds_as_the_long_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most requests need no closer look at their parameters; what they may cost is the same either way."""
    assert bounds._PLAIN_PARAMS < bounds.KNOWN_PARAMS
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [], "max_tokens": 5, "temperature": 1},
        {"messages": [{"role": "user", "content": [image]}], "max_completion_tokens": 7, "max_tokens": 9},
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": "hi"},
        {"max_tokens": True},
        {"messages": [{"role": "user", "audio": {"id": "a"}}]},
    ]
    short = [_bound_or_reason(body) for body in bodies]
    monkeypatch.setattr(bounds, "_PLAIN_PARAMS", frozenset())
    assert [_bound_or_reason(body) for body in bodies] == short
    assert any(isinstance(end, str) for end in short)
    assert any(not isinstance(end, str) for end in short)


def _bound_or_reason(params: dict[str, Any]) -> tuple[int, int, int] | str:
    price = packaged_prices().model("openai", "gpt-4o")
    assert price is not None
    try:
        bound = bounds.bound_of({"model": "gpt-4o", **params}, 500, price)
    except bounds.Unbounded as error:
        return str(error)
    return bound.prompt_tokens, bound.output_tokens, bound.usd_nanos
