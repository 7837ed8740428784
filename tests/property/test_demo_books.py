"""The simulated vendor's books against its objects: whatever is asked of it, in whatever order, they agree."""

from typing import Any
from urllib.parse import urlencode

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.demo.books import Books
from controlplane.demo.openai_sim.text import compose, count_tokens, cut_at_stop
from controlplane.demo.stripe_sim.vendor import StripeVendor
from controlplane.demo.wire import Answer, Call

METHODS = (
    "pm_card_visa",
    "pm_card_chargeDeclined",
    "pm_card_authenticationRequired",
    "pm_usBankAccount_success",
    "",
)
amounts = st.integers(1, 60)
creates = st.fixed_dictionaries(
    {
        "amount": amounts,
        "currency": st.sampled_from(["usd", "eur"]),
        "capture_method": st.sampled_from(["automatic", "manual"]),
        "payment_method": st.sampled_from(METHODS),
        "confirm": st.sampled_from(["true", "false"]),
        "payment_method_options[card][request_overcapture]": st.sampled_from(["if_available", "never"]),
    }
)
charges = st.fixed_dictionaries(
    {
        "amount": amounts,
        "currency": st.just("usd"),
        "capture": st.sampled_from(["true", "false"]),
        "source": st.sampled_from(["tok_visa", "tok_chargeDeclined"]),
    }
)
actions = st.tuples(
    st.sampled_from(["update", "confirm", "capture", "multicapture", "cancel", "increment", "refund", "settle"]),
    st.integers(0, 5),
    amounts,
)
steps = st.lists(
    st.tuples(st.just("intent"), creates) | st.tuples(st.just("charge"), charges) | st.tuples(st.just("act"), actions),
    max_size=25,
)


class Bench:
    """A vendor without HTTP, its books, and the ids that it has given out."""

    def __init__(self) -> None:
        self.vendor = StripeVendor("sk_test_x", b"seed")
        self.books = Books()
        self.made: list[str] = []
        self._count = 0

    def post(self, path: str, params: dict[str, Any]) -> Answer:
        self._count += 1
        call = Call(
            request_id=f"req_{self._count}",
            method="POST",
            path=path,
            query="",
            headers={"Content-Type": "application/x-www-form-urlencoded", "Idempotency-Key": str(self._count)},
            body=urlencode({name: value for name, value in params.items() if value != ""}).encode(),
            token="sk_test_x",
            now_s=1,
        )
        assert self.vendor.begin(call) is None
        answer = self.vendor.execute(call)
        replay = self.vendor.begin(call)
        assert (replay is not None and replay.body == answer.body) == answer.executed
        self.vendor.abandon(call)
        self.books.post(answer.moves, answer.usage)
        if answer.status == 200:
            self.made.append(msgspec.json.decode(answer.body)["id"])
        return answer

    def act(self, action: str, index: int, amount: int) -> None:
        """Do something to one of the newest objects, sensible or not."""
        if not self.made:
            return
        target = self.made[-1 - index % len(self.made)]
        kind = "charges" if target.startswith("ch_") else "payment_intents"
        path = f"/v1/{kind}/{target}"
        match action:
            case "update":
                self.post(path, {"amount": amount, "payment_method": "pm_card_visa"})
            case "confirm":
                self.post(f"{path}/confirm", {"payment_method": "pm_card_visa"})
            case "capture":
                name = "amount" if kind == "charges" else "amount_to_capture"
                self.post(f"{path}/capture", {name: amount})
            case "multicapture":
                self.post(f"{path}/capture", {"amount_to_capture": amount, "final_capture": "false"})
            case "cancel":
                self.post(f"{path}/cancel", {})
            case "increment":
                self.post(f"{path}/increment_authorization", {"amount": amount})
            case "refund":
                self.post(
                    "/v1/refunds", {"charge" if kind == "charges" else "payment_intent": target, "amount": amount}
                )
            case "settle":
                moves = self.vendor.settle(target, 1, succeeds=amount % 2 == 0)
                self.books.post(moves or (), None)

    def check(self) -> None:
        for object_id, sums in self.books.objects.items():
            assert sums.held >= 0
            assert 0 <= sums.refunded <= sums.moved
            intent, charge = self.vendor.account.intents.get(object_id), self.vendor.account.charges.get(object_id)
            if intent is not None:
                in_flight = intent.amount if intent.status == "processing" else intent.amount_capturable
                assert (sums.moved, sums.held) == (intent.amount_received, in_flight)
            else:
                assert charge is not None
                held = 0 if charge.captured or charge.released else charge.amount
                assert (sums.moved, sums.held) == (charge.amount_captured, held)
        for currency, total in self.books.currencies.items():
            of = [sums for sums in self.books.objects.values() if sums.currency == currency]
            assert total.moved == sum(sums.moved for sums in of)
            assert total.held == sum(sums.held for sums in of)
            assert total.refunded == sum(sums.refunded for sums in of)
            assert self.vendor.account.balance[currency] == total.moved - total.refunded


@given(steps)
@settings(max_examples=150, deadline=None)
def test_books_and_objects_agree(plan: list[tuple[str, Any]]) -> None:
    bench = Bench()
    for what, given_ in plan:
        match what:
            case "intent":
                bench.post("/v1/payment_intents", given_)
            case "charge":
                bench.post("/v1/charges", given_)
            case "act":
                bench.act(*given_)
        bench.check()


@given(st.binary(max_size=8), st.integers(0, 600))
def test_text_made_here_counts_what_was_billed(digest: bytes, tokens: int) -> None:
    pieces = compose(digest, tokens)
    assert len(pieces) == count_tokens("".join(pieces)) == tokens


@given(st.text(max_size=200))
def test_a_token_covers_at_least_a_byte(text: str) -> None:
    assert count_tokens(text) <= len(text.encode(errors="replace"))


@given(st.binary(max_size=4), st.lists(st.sampled_from([" agent", "e", ".", "zzz", "—"]), max_size=3))
def test_a_stop_is_never_shown(digest: bytes, stops: list[str]) -> None:
    whole = "".join(compose(digest, 60))
    kept, stopped = cut_at_stop(compose(digest, 60), stops)
    shown = "".join(kept)
    assert whole.startswith(shown)
    assert stopped == any(stop in whole for stop in stops)
    assert not any(stop in shown for stop in stops)
