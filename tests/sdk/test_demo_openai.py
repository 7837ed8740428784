"""The simulated OpenAI, driven by the official SDK: text, tokens, streams, errors; and its books."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import requests
from support.demo_sdk import plain_session, running_demo

from controlplane.demo import DemoVendors
from controlplane.demo.openai_sim.text import count_tokens

HELLO: Any = [{"role": "user", "content": "Say hello to the auditors."}]


@pytest.fixture
def vendors() -> Iterator[DemoVendors]:
    with running_demo() as vendors:
        yield vendors


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with plain_session() as session:
        yield session


@pytest.fixture
def api(vendors: DemoVendors, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NO_PROXY", "*")
    with openai.OpenAI(api_key=vendors.openai_key, base_url=f"{vendors.openai_url}/v1", max_retries=0) as api:
        yield api


def ask(api: Any, model: str = "gpt-4o-mini", **more: Any) -> Any:
    return api.chat.completions.create(**{"model": model, "messages": HELLO, **more})


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def events(vendors: DemoVendors, session: requests.Session, body: dict[str, Any]) -> list[str]:
    headers = {"Authorization": f"Bearer {vendors.openai_key}"}
    url = f"{vendors.openai_url}/v1/chat/completions"
    with session.post(url, json={"model": "gpt-4o", "messages": HELLO, **body}, headers=headers, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return answer.content.decode().split("\n\n")


def test_a_completion_has_a_dated_model_and_counts_its_tokens(vendors: DemoVendors, api: Any) -> None:
    answer = ask(api, "gpt-5-mini")
    assert answer.model == "gpt-5-mini-2025-08-07"
    usage = answer.usage
    reasoning = usage.completion_tokens_details.reasoning_tokens
    assert reasoning == 64
    assert usage.completion_tokens == reasoning + count_tokens(answer.choices[0].message.content)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    booked = vendors.books.models[answer.model]
    assert (booked.requests, booked.prompt_tokens, booked.completion_tokens, booked.reasoning_tokens) == (
        1,
        usage.prompt_tokens,
        usage.completion_tokens,
        reasoning,
    )
    assert ask(api, "gpt-4o").usage.completion_tokens_details.reasoning_tokens == 0


def test_the_same_prompt_gives_the_same_text_and_another_prompt_another(api: Any) -> None:
    first, second = ask(api), ask(api)
    assert first.id != second.id
    assert first.choices[0].message.content == second.choices[0].message.content
    others = [
        ask(api, seed=1),
        ask(api, messages=[{"role": "user", "content": "Something else."}]),
        ask(api, model="gpt-4o"),
    ]
    assert len({answer.choices[0].message.content for answer in [first, *others]}) == 4


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_output_limits_hold_for_each_choice(api: Any, name: str) -> None:
    limit: dict[str, Any] = {name: 5}
    answer = ask(api, n=3, **limit)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    assert [count_tokens(choice.message.content) for choice in answer.choices] == [5, 5, 5]
    assert answer.usage.completion_tokens == 15
    assert len({choice.message.content for choice in answer.choices}) == 3
    thinking = ask(api, "gpt-5", max_completion_tokens=40)
    assert (thinking.choices[0].message.content, thinking.choices[0].finish_reason) == ("", "length")
    assert thinking.usage.completion_tokens == thinking.usage.completion_tokens_details.reasoning_tokens == 40
    assert ask(api, "gpt-5", reasoning_effort="minimal").usage.completion_tokens_details.reasoning_tokens == 0


def test_a_stop_sequence_ends_the_text(api: Any) -> None:
    whole = ask(api).choices[0].message.content
    stop = whole.split(" ")[4]
    answer = ask(api, stop=[stop, "never there"])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert 0 < answer.usage.completion_tokens <= count_tokens(whole)


def test_a_stream_says_the_same_without_usage_unless_asked(vendors: DemoVendors, api: Any) -> None:
    whole = ask(api, n=2)
    chunks = list(ask(api, n=2, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [text_of(chunks, index) for index in range(2)] == [choice.message.content for choice in whole.choices]
    assert [choice.finish_reason for chunk in chunks[-2:] for choice in chunk.choices] == ["stop", "stop"]
    with_usage = list(ask(api, n=2, stream=True, stream_options={"include_usage": True}))
    assert (with_usage[-1].choices, with_usage[-1].usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in with_usage[:-1])
    assert vendors.books.models[whole.model].completion_tokens == 3 * whole.usage.completion_tokens


def test_a_stream_on_the_wire(vendors: DemoVendors, session: requests.Session) -> None:
    plain = events(vendors, session, {"stream": True, "max_tokens": 3})
    assert plain[-2:] == ["data: [DONE]", ""]
    assert len(plain) == 1 + 3 + 1 + 2
    assert not any("usage" in event for event in plain)
    with_usage = events(vendors, session, {"stream": True, "max_tokens": 3, "stream_options": {"include_usage": True}})
    assert all('"usage":null' in event for event in with_usage[:-3])
    assert '"choices":[],"usage":{"prompt_tokens"' in with_usage[-3]


def test_an_asked_length_makes_long_streams(vendors: DemoVendors, api: Any) -> None:
    chunks = list(ask(api, stream=True, extra_headers={"X-Demo-Output-Tokens": "2000"}))
    assert count_tokens(text_of(chunks)) == 2000
    assert vendors.log.entries()[-1].chunks_sent == len(chunks) + 1


def test_a_long_prompt_is_cached_the_second_time(api: Any) -> None:
    long: Any = [{"role": "system", "content": "Rules apply to every agent. " * 300}, *HELLO]
    cached = [ask(api, messages=long).usage.prompt_tokens_details.cached_tokens for _ in range(2)]
    assert cached[0] == 0
    assert cached[1] >= 1024
    assert cached[1] % 128 == 0
    assert cached[1] <= ask(api, messages=long).usage.prompt_tokens


def test_a_forced_tool_is_called(api: Any) -> None:
    tools = [{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]
    answer = ask(api, tools=tools, tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("pay", "{}")
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)
    named = {"type": "function", "function": {"name": "pay"}}
    chunks = list(ask(api, tools=tools, tool_choice=named, stream=True))
    assert chunks[0].choices[0].delta.tool_calls[0].function.name == "pay"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_embeddings_are_unit_vectors_of_the_text_alone(vendors: DemoVendors, api: Any) -> None:
    both = api.embeddings.create(model="text-embedding-3-small", input=["a text", "another text"])
    one = api.embeddings.create(model="text-embedding-3-small", input="a text", encoding_format="float")
    assert [len(row.embedding) for row in both.data] == [1536, 1536]
    assert both.data[0].embedding == pytest.approx(one.data[0].embedding, abs=1e-6)
    assert both.data[0].embedding != both.data[1].embedding
    assert math.sqrt(sum(x * x for x in one.data[0].embedding)) == pytest.approx(1.0, abs=1e-4)
    assert (both.usage.prompt_tokens, one.usage.prompt_tokens) == (4, 2)
    short = api.embeddings.create(model="text-embedding-3-large", input=[[1, 2, 3], [4]], dimensions=8)
    assert ([len(row.embedding) for row in short.data], short.usage.total_tokens) == ([8, 8], 4)
    assert vendors.books.models["text-embedding-3-large"].prompt_tokens == 4
    bad_inputs: list[Any] = [[], [""], ["a", 1], [[]]]
    for bad in bad_inputs:
        with pytest.raises(openai.BadRequestError):
            api.embeddings.create(model="text-embedding-3-small", input=bad)


def test_models_are_listed_and_found(api: Any) -> None:
    names = {model.id for model in api.models.list()}
    assert {"gpt-5-mini", "gpt-5-mini-2025-08-07", "text-embedding-3-small"} <= names
    assert api.models.retrieve("gpt-4o").owned_by in {"system", "openai"}
    acts: list[Callable[[], Any]] = [lambda: ask(api, "gpt-none"), lambda: api.models.retrieve("gpt-none")]
    for act in acts:
        with pytest.raises(openai.NotFoundError) as caught:
            act()
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"messages": []}, None, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, None, "messages[0].role"),
        ({"n": 0}, None, "n"),
        ({"max_tokens": -1}, None, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "invalid_parameter_combination", None),
        ({"stream_options": {"include_usage": True}}, None, "stream_options"),
        ({"stop": ["a", "b", "c", "d", "e"]}, None, "stop"),
        (
            {"model": "gpt-4", "messages": [{"role": "user", "content": "a b c " * 4000}]},
            "context_length_exceeded",
            "messages",
        ),
    ],
)
def test_bad_requests_are_refused_in_the_vendors_shape(
    vendors: DemoVendors, api: Any, params: Any, code: str | None, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, **params)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"
    assert vendors.books.models == {}


def test_only_the_configured_key_is_accepted(vendors: DemoVendors, api: Any) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(api.with_options(api_key="sk-wrong-key-1234"))
    assert caught.value.code == "invalid_api_key"
    assert "wrong-key" not in str(caught.value)
    assert [entry.real_credential for entry in vendors.log.entries()] == [False]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"\xff", 400),
        ("GET", "/v1/chat/completions", b"", 404),
        ("POST", "/v1/responses", b"{}", 404),
        ("GET", "/v1/models/../models", b"", 200),  # the client collapses the dots before it sends
        ("GET", "/v1/models/%2e%2e", b"", 404),
    ],
)
def test_raw_requests_have_their_status(
    vendors: DemoVendors, session: requests.Session, method: str, path: str, body: bytes, status: int
) -> None:
    headers = {"Authorization": f"Bearer {vendors.openai_key}", "Content-Type": "application/json"}
    answer = session.request(method, vendors.openai_url + path, data=body, headers=headers, timeout=10)
    assert answer.status_code == status
    assert "error" in answer.json() or status == 200


def test_a_vendor_may_bill_more_than_was_asked_for(vendors: DemoVendors, api: Any) -> None:
    answer = ask(api, max_tokens=5, extra_headers={"X-Demo-Fault": "extra_output_tokens=100"})
    assert answer.usage.completion_tokens == 105
    assert vendors.books.models[answer.model].completion_tokens == 105
    silent = ask(
        api,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"X-Demo-Fault": "no_usage=true"},
    )
    assert all(chunk.choices and chunk.usage is None for chunk in silent)
    assert vendors.books.models[answer.model].requests == 2
