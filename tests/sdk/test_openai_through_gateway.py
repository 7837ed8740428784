"""The official OpenAI SDK through a running gateway, streamed and not."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from support.stack import Stack

MODEL = "gpt-5-mini"
ASK: list[Any] = [{"role": "user", "content": "Write three sentences about the sea."}]


_clients: list[openai.OpenAI] = []


def client(stack: Stack, token: str) -> openai.OpenAI:
    _clients.append(openai.OpenAI(api_key=token, base_url=stack.openai))
    return _clients[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


def test_streamed_and_unstreamed_cost_the_same(stack: Stack) -> None:
    costs = []
    for streamed in (False, True):
        key = stack.issue(vendor="openai", total_usd_cap="5.00")
        sdk = client(stack, key["token"])
        if streamed:
            chunks = list(
                sdk.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=300, stream=True)
            )
            # The usage report was asked for by the gateway and kept from the client, who did not ask.
            assert all(chunk.choices for chunk in chunks)
            assert all(chunk.usage is None for chunk in chunks)
        else:
            answer = sdk.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=300)
            assert answer.usage is not None
            tokens = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
        (row,) = stack.settled_requests(1, key=key["id"])
        assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("settled", *tokens)
        costs.append(row["actual_usd"])
    assert costs[0] == costs[1]
    # gpt-5-mini: 0.25 and 2.00 dollars a million tokens.
    expected = Decimal(tokens[0]) * Decimal("0.25") / 10**6 + Decimal(tokens[1]) * Decimal("2.00") / 10**6
    assert Decimal(costs[0]) == expected


def test_a_client_that_asks_for_usage_gets_it(stack: Stack) -> None:
    sdk = client(stack, stack.issue(vendor="openai", total_usd_cap="5.00")["token"])
    options: dict[str, Any] = {"stream_options": {"include_usage": True}}
    chunks = list(
        sdk.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=300, stream=True, **options)
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_a_client_that_goes_away_is_billed_right(stack: Stack) -> None:
    full = stack.issue(vendor="openai", total_usd_cap="5.00")
    list(
        client(stack, full["token"]).chat.completions.create(
            model=MODEL, messages=ASK, max_completion_tokens=300, stream=True
        )
    )
    for chunks_read in (1, 3):
        key = stack.issue(vendor="openai", total_usd_cap="5.00")
        sdk = client(stack, key["token"])
        stream = sdk.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=300, stream=True)
        for _ in range(chunks_read):
            next(stream)
        stream.close()
        sdk.close()
        (row,) = stack.settled_requests(1, key=key["id"])
        (whole,) = stack.settled_requests(1, key=full["id"])
        assert row["outcome"] == "settled"
        assert row["actual_usd"] == whole["actual_usd"]


def test_caps_models_and_revocation_raise_the_sdks_own_exceptions(stack: Stack) -> None:
    key = stack.issue(vendor="openai", per_request_usd_cap="0.000001", uncapped=False)
    with pytest.raises(openai.APIStatusError) as cap:
        client(stack, key["token"]).chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=300)
    assert (cap.value.status_code, cap.value.code) == (402, "cap_exhausted")
    key = stack.issue(vendor="openai", total_usd_cap="5.00", models=[MODEL])
    sdk = client(stack, key["token"])
    with pytest.raises(openai.PermissionDeniedError) as model:
        sdk.chat.completions.create(model="gpt-5", messages=ASK)
    assert model.value.code == "model_not_allowed"
    key = stack.issue(vendor="openai", total_usd_cap="5.00")
    sdk = client(stack, key["token"])
    with pytest.raises(openai.APIStatusError) as unknown:
        sdk.chat.completions.create(model="no-such-model", messages=ASK)
    assert (unknown.value.status_code, unknown.value.code) == (422, "cost_unbounded")
    stack.control("DELETE", f"/v1/keys/{key['id']}")
    with pytest.raises(openai.AuthenticationError) as revoked:
        sdk.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=300)
    assert revoked.value.code == "key_revoked"


def test_a_revocation_cuts_a_stream_with_an_error_that_the_sdk_raises(stack: Stack) -> None:
    key = stack.issue(vendor="openai", total_usd_cap="5.00")
    sdk = client(stack, key["token"])
    slow = {"X-Demo-Fault": "chunk_ms=50", "X-Demo-Output-Tokens": "2000"}
    stream = sdk.chat.completions.create(
        model=MODEL, messages=ASK, max_completion_tokens=4000, stream=True, extra_headers=slow
    )
    next(stream)
    stack.control("DELETE", f"/v1/keys/{key['id']}")
    with pytest.raises(openai.APIError) as cut:
        for _ in stream:
            pass
    assert "key_revoked" in str(cut.value) or getattr(cut.value, "code", "") == "key_revoked"


def test_models_are_listed(stack: Stack) -> None:
    sdk = client(stack, stack.issue(vendor="openai", total_usd_cap="5.00")["token"])
    assert any(model.id for model in sdk.models.list())
