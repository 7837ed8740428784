"""The adapters' promise, against vendors that keep their own books: no call moves more than its bound, and what
the ledger counts with what it holds is never less than what the vendor moved or may still move.

The vendors are the simulated ones of the demo, called in process; answers get lost, cut, repeated and replayed.
"""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from hypothesis import given, settings
from hypothesis import strategies as st
from support.adapter_calls import (
    JSON_TYPE,
    KEY_ID,
    SSE_TYPE,
    ObjectBook,
    openai_adapter,
    post_form,
    post_json,
    rates,
    read,
    stripe_adapter,
)

from controlplane.demo import wire
from controlplane.demo.openai_sim.vendor import OpenAiVendor
from controlplane.demo.stripe_sim.vendor import StripeVendor
from dataplane.adapters.port import Call, Outcome, Outgoing
from schemas.amounts import Amounts

SECRET = "sk_test_the_real_one"

AMOUNTS = st.sampled_from([50, 100, 110, 120, 150])
CURRENCIES = st.sampled_from(["usd", "usd", "eur", "jpy", "kwd"])
CARDS = st.sampled_from(
    ["pm_card_visa"] * 4 + ["pm_card_chargeDeclined", "pm_card_authenticationRequired", "pm_usBankAccount"]
)
FATES = st.sampled_from(["answered"] * 6 + ["lost", "failed"])
CREATING = st.sampled_from(["create", "create", "charge"])
LIVING = st.sampled_from(["update", "confirm", "confirm", "capture", "capture", "increment", "cancel", "refund"])
ACTIONS = st.one_of(CREATING, LIVING, LIVING, LIVING, st.sampled_from(["retry", "arrive"]))


def step(action: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "action": action,
            "fate": FATES,
            "amount": AMOUNTS,
            "currency": CURRENCIES,
            "card": CARDS,
            "which": st.integers(0, 2),
            "flag": st.booleans(),
            "other": st.booleans(),
        }
    )


STEPS = st.builds(lambda first, rest: [first, *rest], step(CREATING), st.lists(step(ACTIONS), min_size=4, max_size=14))


class Shop:
    """One vault key's calls to the simulated Stripe, settled as the gateway settles them."""

    def __init__(self) -> None:
        self.vendor = StripeVendor(SECRET, b"seed")
        self.adapter = stripe_adapter()
        self.fx = rates()
        self.book = ObjectBook()
        self.objects: list[str] = []
        self.moved: dict[tuple[str, str], int] = {}
        self.refunded: dict[tuple[str, str], int] = {}
        self.holds: dict[str, Amounts] = {}
        self.sent: list[Call] = []
        self.keys = 0

    def act(self, step: dict[str, Any]) -> None:
        made = self.sent[-1] if step["action"] == "retry" and self.sent else self.call_for(step)
        if made is None:
            return
        reading = read(self.adapter, made)
        most = self.adapter.bound(made, reading, self.book.known(reading.wants))
        if not isinstance(most, Amounts):
            return  # 422: it never reaches the vendor
        self.sent.append(made)
        doubtful = bool(self.holds)
        status, headers, body = self.forward(made, step["fate"])
        meter = self.adapter.meter(made, reading, status, headers)
        if step["fate"] == "lost":
            self.hold(made, most)
            return
        assert meter.feed(body) + meter.flush() == body
        self.settle(made, most, meter.finish(complete=True), doubtful=doubtful)

    def settle(self, made: Call, most: Amounts, outcome: Outcome, *, doubtful: bool) -> None:
        if outcome.outcome == "unknown":
            self.hold(made, most)
            return
        meter = outcome.object.meter if outcome.object is not None else "usd"
        key = self.key_of(made)
        difference = self.book.count(outcome, resolves=key in self.holds)
        if outcome.replayed:
            self.holds.pop(key, None)  # rule S1: the earlier attempt is resolved
        elif not doubtful:
            assert difference <= most.of(meter), (made.path, made.body, most, outcome)
        for name in (outcome.object.ref,) if outcome.object is not None and meter == "usd" else ():
            if (object_id := name.rpartition("/")[2]) not in self.objects:
                self.objects.append(object_id)

    def hold(self, made: Call, most: Amounts) -> None:
        key = self.key_of(made)
        held = self.holds.get(key, Amounts())
        self.holds[key] = Amounts(usd=held.usd + most.usd, refund=held.refund + most.refund)

    def key_of(self, made: Call) -> str:
        return read(self.adapter, made).idempotency

    def forward(self, made: Call, fate: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """To the vendor with the real credential. `failed`: executed, but its edge answered 502."""
        out = self.adapter.rewrite(made, read(self.adapter, made), KEY_ID, SECRET)
        assert isinstance(out, Outgoing)
        sent = {name.decode().title(): value.decode() for name, value in out.headers}
        headers = wire_headers(sent)
        vendor_call = wire.Call("req_1", out.method, out.target.decode(), "", headers, out.body, SECRET, 1_800_000_000)
        answer = self.vendor.begin(vendor_call) or self.vendor.execute(vendor_call)
        self.note(answer.moves)
        if fate == "failed":
            return 502, [], b"<html>bad gateway</html>"
        return answer.status, [(name.encode(), value.encode()) for name, value in answer.headers], answer.body

    def note(self, moves: Iterable[wire.Move]) -> None:
        for move in moves:
            place = (move.object_id, move.currency)
            self.moved[place] = self.moved.get(place, 0) + move.moved + move.held
            self.refunded[place] = self.refunded.get(place, 0) + move.refunded

    def call_for(self, step: dict[str, Any]) -> Call | None:
        self.keys += 1
        path, fields = self.form_for(step)
        if path == "":
            return None
        return post_form(path, urlencode(fields).encode(), Idempotency_Key=f"key-{self.keys}")

    def form_for(self, step: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        amount = step["amount"]
        if step["action"] == "create":
            fields = {"amount": amount, "currency": step["currency"], "payment_method": step["card"]}
            if step["flag"]:
                fields["capture_method"] = "manual"
                fields["payment_method_options[card][request_overcapture]"] = "if_available"
            return "/v1/payment_intents", {**fields, "confirm": "true"} if step["other"] else fields
        if step["action"] == "charge":
            capture = "false" if step["flag"] else "true"
            return "/v1/charges", {
                "amount": amount,
                "currency": step["currency"],
                "source": "tok_visa",
                "capture": capture,
            }
        if not self.objects:
            return "", {}
        object_id = self.objects[step["which"] % len(self.objects)]
        if step["action"] == "arrive":
            self.note(self.vendor.settle(object_id, 1_800_000_000, succeeds=step["flag"]) or ())
            return "", {}
        return self.form_on(object_id, step)

    def form_on(self, object_id: str, step: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        amount = step["amount"]
        if step["action"] == "refund":
            fields: dict[str, Any] = {"charge" if object_id.startswith("ch_") else "payment_intent": object_id}
            return "/v1/refunds", {**fields, "amount": amount} if step["flag"] else fields
        if object_id.startswith("ch_"):
            return f"/v1/charges/{object_id}/capture", {"amount": amount} if step["flag"] else {}
        path = f"/v1/payment_intents/{object_id}"
        match step["action"]:
            case "update":
                fields = {"amount": amount} if step["flag"] else {"description": "x"}
                return path, {**fields, "currency": step["currency"]} if step["other"] else fields
            case "confirm":
                return f"{path}/confirm", {"payment_method": step["card"]}
            case "capture":
                fields = {"amount_to_capture": amount} if step["flag"] else {}
                return f"{path}/capture", {**fields, "final_capture": "false"} if step["other"] else fields
            case "increment":
                return f"{path}/increment_authorization", {"amount": amount}
            case _:
                return f"{path}/cancel", {}

    def check(self) -> None:
        """P1 in dollars: counted and held together cover what the vendor moved or may still move."""
        counted = sum(found.exposure_nanos for found in self.book.objects.values() if found.meter == "usd")
        refunds = sum(found.exposure_nanos for found in self.book.objects.values() if found.meter == "refund")
        held = sum(hold.usd for hold in self.holds.values())
        held_refunds = sum(hold.refund for hold in self.holds.values())
        assert self.dollars(self.moved) <= counted + held
        assert self.dollars(self.refunded) <= refunds + held_refunds

    def dollars(self, totals: dict[tuple[str, str], int]) -> int:
        return sum(self.fx.usd_nanos(minor, currency) or 0 for (_, currency), minor in totals.items())


def wire_headers(sent: dict[str, str]) -> dict[str, str]:
    """The simulated vendors look headers up by their usual spelling."""
    return {**sent, "Content-Type": sent.get("Content-Type", ""), "Idempotency-Key": sent.get("Idempotency-Key", "")}


@settings(max_examples=250)
@given(STEPS)
def test_stripe_never_moves_more_than_is_counted_and_held(steps: list[dict[str, Any]]) -> None:
    shop = Shop()
    for step in steps:
        shop.act(step)
        shop.check()


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": st.text(max_size=60) | st.just("again " * 700),
        }
    ),
    min_size=1,
    max_size=4,
)
CHATS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-4o", "gpt-4o-mini", "gpt-5-mini", "gpt-4.1", "o3"]),
        "messages": MESSAGES,
    },
    optional={
        "max_completion_tokens": st.integers(1, 60),
        "n": st.integers(1, 3),
        "temperature": st.just(0.5),
        "tools": st.just([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]),
        "stop": st.just(["the"]),
    },
)


@settings(max_examples=60)
@given(CHATS, st.booleans(), st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_a_chat_costs_at_most_its_bound_and_the_same_in_both_forms(
    params: dict[str, Any], asked: bool, sizes: list[int]
) -> None:
    vendor, adapter = OpenAiVendor(SECRET, b"seed"), openai_adapter()
    plain = post_json("/v1/chat/completions", json.dumps(params).encode())
    options = {"stream_options": {"include_usage": True}} if asked else {}
    streamed = post_json("/v1/chat/completions", json.dumps({**params, "stream": True, **options}).encode())
    outcomes = []
    for made in (plain, streamed):
        vendor.reset()  # the same prompt cache for both
        reading = read(adapter, made)
        most = adapter.bound(made, reading, None)
        out = adapter.rewrite(made, reading, KEY_ID, SECRET)
        assert isinstance(most, Amounts)
        assert isinstance(out, Outgoing)
        vendor_call = wire.Call(
            "r", "POST", out.target.decode(), "", {"Content-Type": "application/json"}, out.body, SECRET, 1
        )
        answer = vendor.execute(vendor_call)
        assert answer.status == 200, answer.body
        whole = answer.body if answer.chunks is None else b"".join(answer.chunks)
        meter = adapter.meter(made, reading, 200, [JSON_TYPE if answer.chunks is None else SSE_TYPE])
        seen = b"".join(meter.feed(piece) for piece in cut(whole, sizes)) + meter.flush()
        outcome = meter.finish(complete=True)
        assert outcome.outcome == "settled"
        assert outcome.actual.usd <= most.usd
        assert outcome.actual.tokens <= most.tokens
        assert (b"usage" in seen) == (asked or made is plain)
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]


def cut(whole: bytes, sizes: list[int]) -> Iterable[bytes]:
    at = turn = 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        yield whole[at : at + size]
        at, turn = at + size, turn + 1
