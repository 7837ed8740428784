"""Whatever is sent, the API answers in its own error shape and never with a defect (500)."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.control_api import Api, serving

from controlplane.api.call import Route
from controlplane.api.routes import ROUTES
from schemas.answers import ErrorAnswer

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one server for all examples of a test
)


class Runner:
    """One served API, driven from hypothesis's synchronous examples."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.served = serving()
        self.api: Api = self.loop.run_until_complete(self.served.__aenter__())

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self.loop.run_until_complete(self.api(*args, **more))

    def close(self) -> None:
        self.loop.run_until_complete(self.served.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1", "12.50", "1h", "stripe", "bot", "null", "-1", "1e9", "active", "POST /v1/x", "bound"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def fields_of(kind: Any) -> list[str]:
    return list(kind.__struct_encode_fields__) if kind is not None else []


@st.composite
def bodies(draw: st.DrawFn, route: Route) -> bytes | None:
    """Mostly objects with the route's own fields and odd values."""
    if route.body is None:
        return draw(st.none() | st.binary(max_size=5))
    names = st.sampled_from(fields_of(route.body)) | st.text(max_size=8)
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=40))
    return json.dumps(draw(st.dictionaries(names, values, max_size=5))).encode()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes | None, dict[str, str]]:
    route = draw(st.sampled_from(ROUTES))
    word = st.sampled_from(["x", "bot", "team", "key", "org", "default", "a%00b", "%2e%2e", "%ff", "a%2Fb", "é"])
    path = route.path
    for variable in ("{id}", "{name}", "{kind}"):
        path = path.replace(variable, draw(word | st.text("abcXYZ09._@-", min_size=1, max_size=12)))
    names = st.sampled_from([*fields_of(route.query), "x"])
    query = draw(st.dictionaries(names, st.text(max_size=10) | scalars.map(str), max_size=3))
    return route.method, path, draw(bodies(route)), query


def check(reply: Any) -> None:
    assert reply.status < 500, reply.text
    if reply.status >= 400:
        answer = msgspec.json.decode(reply.text, type=ErrorAnswer)
        assert answer.error.code
        assert answer.error.remedy


@FUZZ
@given(requests())
def test_never_a_defect(runner: Runner, request_: tuple[str, str, bytes | None, dict[str, str]]) -> None:
    method, path, body, query = request_
    headers = {"Authorization": f"Bearer {runner.api.tokens['admin']}"}

    async def send() -> tuple[int, str]:
        url = runner.api.url + path
        async with runner.api.session.request(method, url, params=query, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    status, text = runner.loop.run_until_complete(send())
    assert status < 500, text
    if status >= 400 and text.startswith("{"):
        assert msgspec.json.decode(text, type=ErrorAnswer).error.remedy


@FUZZ
@given(st.dictionaries(st.sampled_from(fields_of(next(r for r in ROUTES if r.idempotent).body)), values, max_size=6))
def test_every_issued_key_can_be_shown_and_revoked(runner: Runner, fields: dict[str, Any]) -> None:
    """Bodies that are nearly right: what is accepted is complete, what is not is refused with a remedy."""
    raw = json.dumps({"uncapped": True, **fields}).encode()
    reply = runner("POST", "/v1/keys", raw=raw)
    check(reply)
    if reply.status != 201:
        return
    key_id = reply.json["id"]
    shown = runner("GET", f"/v1/keys/{key_id}")
    assert shown.json["policy"] == reply.json["policy"]
    assert runner("DELETE", f"/v1/keys/{reply.json['token']}").status == 204
    assert runner("GET", f"/v1/keys/{key_id}").json["state"] == "revoked"
