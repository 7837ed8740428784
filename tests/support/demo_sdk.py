"""The official Stripe SDK pointed at the simulated vendor, and short words for what tests do with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import stripe

from controlplane.demo import DemoVendors
from controlplane.demo.threads import in_thread

CARD = "pm_card_visa"
PAYMENT = {"amount": 1000, "currency": "usd", "payment_method": CARD, "confirm": True}
PAYMENT_FORM = f"amount=1000&currency=usd&payment_method={CARD}&confirm=true"


@contextmanager
def plain_session() -> Iterator[requests.Session]:
    """A session that ignores proxies and .netrc of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@contextmanager
def running_demo() -> Iterator[DemoVendors]:
    with in_thread(DemoVendors(seed=7)) as vendors:
        yield vendors


def stripe_api(vendors: DemoVendors, session: requests.Session, key: str | None = None, **options: Any) -> Any:
    """The SDK's v1 services, using the vendors' real key unless another is given."""
    http = stripe.RequestsClient(session=session)
    addresses: Any = {"api": vendors.stripe_url}
    client = stripe.StripeClient(key or vendors.stripe_key, base_addresses=addresses, http_client=http, **options)
    return client.v1


def pay(api: Any, **more: Any) -> Any:
    """A PaymentIntent of ten dollars, created and confirmed."""
    return api.payment_intents.create({**PAYMENT, **more})


def totals(vendors: DemoVendors, object_id: str) -> tuple[int, int, int]:
    """What the books say of an object: moved, held, refunded."""
    books = vendors.books.objects[object_id]
    return books.moved, books.held, books.refunded


def post_form(vendors: DemoVendors, session: requests.Session, path: str, body: str, **headers: str) -> Any:
    """A raw POST as the SDK would send it, but for what `body` and `headers` change."""
    sent = {"Authorization": f"Bearer {vendors.stripe_key}", "Content-Type": "application/x-www-form-urlencoded"}
    return session.post(vendors.stripe_url + path, data=body.encode(), headers=sent | headers, timeout=10)


def details(error: stripe.StripeError) -> dict[str, Any]:
    """The `error` object of the answer."""
    body: Any = error.json_body
    found: dict[str, Any] = body["error"]
    return found
