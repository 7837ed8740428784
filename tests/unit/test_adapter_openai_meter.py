"""What an answer of OpenAI cost, and what of a metered stream its client sees."""

import json
from typing import Any

import pytest
from support.adapter_calls import JSON_TYPE, SSE_TYPE, answer, call, openai_adapter, post_json, read

from dataplane.adapters.answers import MAX_ANSWER_BYTES
from dataplane.adapters.port import Call, Outcome
from schemas.amounts import Amounts

SAY = [{"role": "user", "content": "hi"}]
MODEL = "gpt-4o-2024-08-06"
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "total_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 150, "rejected_prediction_tokens": 20, "audio_tokens": 0},
}
COST = 600 * 2_500 + 400 * 1_250 + 200 * 10_000
SETTLED = Outcome(
    "settled",
    Amounts(usd=COST, requests=1, tokens=1200),
    model=MODEL,
    input_tokens=1000,
    output_tokens=200,
    cached_tokens=400,
)
DONE = b"data: [DONE]\n\n"


def chat(**params: Any) -> Call:
    return post_json("/v1/chat/completions", {"model": "gpt-4o", "messages": SAY, **params})


def completion(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": 'it says "usage": {"prompt_tokens": 5}'}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "c", "object": "chat.completion", "model": MODEL, "choices": choices, "usage": USAGE, **more}


def event(**more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": 'é ,"usage":null'}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice], **more}
    return b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def settle(made: Call, body: Any, status: int = 200, **how: Any) -> Outcome:
    return answer(openai_adapter(), made, body, status, [JSON_TYPE], **how)


def stream(made: Call, body: bytes, *, step: int = 0, complete: bool = True) -> tuple[bytes, Outcome]:
    adapter = openai_adapter()
    meter = adapter.meter(made, read(adapter, made), 200, [SSE_TYPE])
    pieces = [body[at : at + step] for at in range(0, len(body), step)] if step else [body]
    relayed = b"".join(meter.feed(piece) for piece in pieces) + meter.flush()
    return relayed, meter.finish(complete=complete)


def test_an_unstreamed_answer_is_settled_by_its_usage() -> None:
    assert settle(chat(), completion()) == SETTLED
    assert settle(chat(), completion(), step=11) == SETTLED


def test_tool_calls_are_counted() -> None:
    calls = [{"id": "a", "type": "function"}, {"id": "b", "type": "function"}]
    body = completion(choices=[{"message": {"tool_calls": calls}}, {"message": {"tool_calls": None}}, {}])
    assert settle(chat(), body).tool_calls == 2


@pytest.mark.parametrize(
    ("params", "more", "nanos"),
    [
        ({}, {"model": "gpt-4o-2024-05-13"}, 600 * 5_000 + 400 * 5_000 + 200 * 15_000),  # the answer's model
        ({}, {"model": "gpt-4o-2099-01-01"}, COST),  # without a price: the request's
        ({}, {"model": None}, COST),
        ({}, {"service_tier": "default"}, COST),
        ({}, {"service_tier": "priority"}, 600 * 4_250 + 400 * 2_125 + 200 * 17_000),
        ({"service_tier": "priority"}, {"service_tier": "default"}, COST),  # downgraded by the vendor
        ({"service_tier": "priority"}, {}, 600 * 4_250 + 400 * 2_125 + 200 * 17_000),
        ({"model": "gpt-5", "service_tier": "flex"}, {"model": "gpt-5"}, 600 * 1_250 + 400 * 125 + 200 * 10_000),
        (
            {"model": "gpt-5", "service_tier": "flex"},
            {"model": "gpt-5", "service_tier": "flex"},
            -(-(600 * 625_000 + 400 * 62_500 + 200 * 5_000_000) // 1000),
        ),
    ],
)
def test_prices_are_those_of_the_answer(params: dict[str, Any], more: dict[str, Any], nanos: int) -> None:
    assert settle(chat(**params), completion(**more)).actual.usd == nanos


def test_cache_writes_have_their_price() -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 500}}
    outcome = settle(chat(model="gpt-6-sol"), completion(model="gpt-6-sol", usage=usage))
    assert outcome.actual.usd == 400 * 2_000 + 100 * 200 + 500 * 2_500 + 200 * 10_000


@pytest.mark.parametrize(
    ("params", "more"),
    [
        ({"model": "gpt-99"}, {"model": "gpt-99"}),
        ({}, {"service_tier": "scale"}),
        ({}, {"usage": {**USAGE, "completion_tokens_details": {"audio_tokens": 3}}}),
        ({}, {"usage": {**USAGE, "prompt_tokens_details": {"audio_tokens": 3}}}),
    ],
)
def test_tokens_without_a_price_are_reported_and_held(params: dict[str, Any], more: dict[str, Any]) -> None:
    outcome = settle(chat(**params), completion(**more))
    assert (outcome.outcome, outcome.error) == ("unknown", "unpriced")
    assert (outcome.input_tokens, outcome.output_tokens) == (1000, 200)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b'{"usage":{"prompt_tokens":1',
        {"choices": []},
        {"usage": None},
        {"usage": {}},
        {"usage": {"prompt_tokens": -1}},
        {"usage": {"prompt_tokens": "5"}},
        {"usage": {"prompt_tokens": 1.5}},
        {"usage": {"prompt_tokens": 10**13}},
    ],
)
def test_an_answer_without_usage_is_unknown(body: Any) -> None:
    assert settle(chat(), body) == Outcome("unknown", model="gpt-4o", error="no_usage")


def test_a_cut_answer_is_unknown() -> None:
    assert settle(chat(), completion(), complete=False) == Outcome("unknown", model="gpt-4o", error="incomplete")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429])
def test_refused_calls_cost_nothing(status: int) -> None:
    body = {"error": {"message": "no", "type": "t", "code": "context_length_exceeded", "param": None}}
    outcome = settle(chat(), body, status)
    assert outcome == Outcome("settled", Amounts(requests=1), model="gpt-4o", error="context_length_exceeded")
    assert settle(chat(), b"<html>", status, complete=False).error == f"http_{status}"


@pytest.mark.parametrize("status", [301, 408, 500, 502, 503, 504])
def test_failures_are_unknown(status: int) -> None:
    assert settle(chat(), b"", status) == Outcome("unknown", model="gpt-4o", error=f"http_{status}")


def test_models_cost_nothing_and_unpriced_calls_are_unknown() -> None:
    assert settle(call("GET", "/v1/models"), b"{}", 500).outcome == "settled"
    assert settle(post_json("/v1/responses", {}), completion()) == Outcome("unknown", error="unpriced")


def test_embeddings() -> None:
    made = post_json("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"})
    vectors = [{"object": "embedding", "embedding": [0.1] * 1000, "index": n} for n in range(4)]
    body = {"object": "list", "data": vectors, "model": "text-embedding-3-small", "usage": {"prompt_tokens": 8}}
    assert settle(made, body).actual == Amounts(usd=160, requests=1, tokens=8)
    huge = {**body, "data": vectors * (MAX_ANSWER_BYTES // 15_000)}
    assert settle(made, huge, step=60_000).actual == Amounts(usd=160, requests=1, tokens=8)


def test_usage_of_a_large_answer_is_found_in_its_end_only_as_a_member() -> None:
    text = 'x" , "usage": {"prompt_tokens": 1, "completion_tokens": 1}' * 30_000
    choices = [{"message": {"content": text}}]
    body = json.dumps({"choices": choices, "usage": USAGE, "service_tier": "default"}).encode()
    assert len(body) > MAX_ANSWER_BYTES
    assert settle(chat(), body, step=50_000).actual == SETTLED.actual
    without = json.dumps({"choices": choices}).encode()
    assert settle(chat(), without, step=50_000) == Outcome("unknown", model="gpt-4o", error="no_usage")


TEXT = event()
NULL = event(usage=None)
LAST = event(choices=[], usage=USAGE)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_a_stream_whose_client_did_not_ask_shows_no_usage(step: int, ending: bytes) -> None:
    sent = (NULL + NULL + LAST + DONE).replace(b"\n", ending)
    seen, outcome = stream(chat(stream=True), sent, step=step)
    assert outcome == SETTLED
    parsed = [line.removeprefix(b"data: ") for line in seen.splitlines() if line]
    assert [json.loads(line) for line in parsed[:-1]] == [json.loads(TEXT[6:])] * 2
    assert parsed[-1] == b"[DONE]"
    if step == 0:
        assert seen == (TEXT + TEXT + DONE).replace(b"\n", ending)


@pytest.mark.parametrize("step", [0, 1, 7, 64])
def test_a_client_that_asked_sees_every_byte(step: int) -> None:
    made = chat(stream=True, stream_options={"include_usage": True})
    sent = b": hello\n\n" + NULL + LAST + DONE
    assert stream(made, sent, step=step) == (sent, SETTLED)


def test_a_streamed_and_an_unstreamed_call_cost_the_same() -> None:
    assert stream(chat(stream=True), NULL + LAST + DONE)[1] == settle(chat(), completion())


@pytest.mark.parametrize(
    "null",
    [b'"usage":null', b'"usage": null', b'"usage" :\tnull'],
)
@pytest.mark.parametrize(
    "shape", [b'{%s,"choices":[{}]}', b'{"choices":[{}], %s}', b'{"choices":[{}],%s,"x":1}', b"{%s}"]
)
def test_nulls_are_cut_out_wherever_they_stand(null: bytes, shape: bytes) -> None:
    seen, _ = stream(chat(stream=True), b"data: " + shape % null + b"\n\n")
    expected = {key: value for key, value in json.loads(shape % null).items() if key != "usage"}
    assert json.loads(seen[6:]) == expected


def test_whole_events_are_relayed_at_once_and_parts_are_not() -> None:
    adapter, made = openai_adapter(), chat(stream=True)
    meter = adapter.meter(made, read(adapter, made), 200, [SSE_TYPE])
    assert meter.feed(TEXT) is not None
    assert meter.feed(TEXT[:40]) == b""
    assert meter.feed(TEXT[40:] + TEXT[:5]) == TEXT
    assert meter.flush() == TEXT[:5]


def test_an_untouched_chunk_is_the_same_object() -> None:
    adapter, made = openai_adapter(), chat(stream=True)
    meter = adapter.meter(made, read(adapter, made), 200, [SSE_TYPE])
    assert meter.feed(TEXT) is TEXT


@pytest.mark.parametrize(
    ("body", "complete", "word"),
    [
        (NULL, False, "incomplete"),
        (NULL, True, "no_usage"),
        (NULL + DONE, True, "no_usage"),
        (NULL + DONE, False, "no_usage"),
        (b"", True, "no_usage"),
        (NULL + b'data: {"error":{"message":"boom","type":"server_error","code":null}}\n\n', True, "server_error"),
        (NULL + b'data: {"error":"boom"}\n\n', True, "stream_error"),
        (event(usage={"prompt_tokens": 5, "completion_tokens": 1}), False, "incomplete"),  # a running total
        (NULL + LAST[:-30], True, "no_usage"),
        (NULL + event(choices=[], usage={"prompt_tokens": "x"}) + DONE, True, "no_usage"),
    ],
)
def test_a_stream_without_its_last_word_is_unknown(body: bytes, complete: bool, word: str) -> None:
    _, outcome = stream(chat(stream=True), body, complete=complete)
    assert (outcome.outcome, outcome.error, outcome.actual) == ("unknown", word, Amounts())


def test_the_usage_chunk_is_the_last_word_even_if_the_rest_is_lost() -> None:
    assert stream(chat(stream=True), NULL + LAST, complete=False)[1] == SETTLED


def test_running_totals_count_once_and_the_last_wins() -> None:
    first = event(usage={**USAGE, "completion_tokens": 1})
    last = event(usage=USAGE)
    assert stream(chat(stream=True), first + last + DONE)[1].actual == SETTLED.actual


def test_a_usage_chunk_split_over_data_lines_is_understood() -> None:
    split = LAST.replace(b',"usage":', b',\r\ndata: "usage":').replace(b"\n\n", b"\r\n\r\n")
    seen, outcome = stream(chat(stream=True), NULL + split + DONE)
    assert outcome == SETTLED
    assert b"prompt_tokens" not in seen


def test_streamed_tool_calls_are_counted_once_each() -> None:
    def tool(index: int, **more: Any) -> bytes:
        return event(choices=[{"index": 0, "delta": {"tool_calls": [{"index": index, **more}]}}], usage=None)

    parts = tool(0, id="a") + tool(0, function={"arguments": "{"}) + tool(1, id="b")
    seen, outcome = stream(chat(stream=True), parts + LAST + DONE)
    assert outcome.tool_calls == 2
    assert b"usage" not in seen


def test_a_server_that_ignores_stream_is_metered_as_it_answers() -> None:
    assert settle(chat(stream=True), completion()) == SETTLED
