"""A first governed call: the official Stripe SDK, a vault key with a ten-dollar cap, and what it meets.

Start `make up` (or `ringfence up --demo`) in another terminal, then run this file with the same Python.
"""

import json
import sys
import urllib.request
from pathlib import Path

import stripe

data_dir = Path(sys.argv[1] if len(sys.argv) > 1 else ".ringfence")
if not (data_dir / "endpoints.json").exists():
    sys.exit(
        f"No gateway runs on {data_dir}: start one with `make up` in another terminal, and wait until it is ready."
    )
urls = json.loads((data_dir / "endpoints.json").read_text())
operator = (data_dir / "operator-token").read_text().strip()


def control(method: str, path: str, body: dict | None = None) -> dict:
    """Call the control plane as the operator."""
    request = urllib.request.Request(  # noqa: S310 - the URL is our own
        urls["control"] + path,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Authorization": f"Bearer {operator}", "Content-Type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # local, whatever HTTP_PROXY says
    with direct.open(request) as answer:
        text = answer.read()
    return json.loads(text) if text else {}


# 1. An operator issues a vault key: this agent may spend ten dollars at Stripe, then no more.
key = control("POST", "/v1/keys", {"agent": "billing-bot", "vendor": "stripe", "total_usd_cap": "10.00"})

# 2. The agent uses the official SDK. Only the key and the base URL differ.
client = stripe.StripeClient(key["token"], base_addresses={"api": urls["proxy"] + "/stripe"})
charge = {"amount": 700, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}

intent = client.v1.payment_intents.create(charge)
print(f"charged:  {intent.id} {intent.status}, $7.00")

# 3. A second one would pass the cap: the SDK raises its own exception, and nothing reaches the vendor.
try:
    client.v1.payment_intents.create(charge)
except stripe.CardError as error:
    print(f"refused:  {error.error.code}: {error.user_message}")

# 4. The operator pulls the plug. When this returns, no node forwards another request with the key.
control("DELETE", f"/v1/keys/{key['id']}")
try:
    client.v1.payment_intents.retrieve(intent.id)
except stripe.AuthenticationError as error:
    print(f"revoked:  {error.error.code}: {error.user_message}")
