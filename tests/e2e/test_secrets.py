"""The vault key never reaches a vendor; the real credential never an agent, an event, a log line or a row."""

import json
import subprocess
import urllib.error
import urllib.request

import pytest
import stripe
from support.stack import Stack

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def real_credentials(stack: Stack) -> list[bytes]:
    settings = json.loads((stack.data_dir / "run" / "proxy-n1.json").read_text())["settings"]
    return [upstream["credential"].encode() for upstream in settings["upstreams"].values()]


def answers_to(stack: Stack, token: str) -> bytes:
    """Everything an agent can get out of the gateway with good and bad calls: heads and bodies."""
    seen = b""
    paths = ("/v1/balance", "/v1/nothing", "/v1/../x", "/v1/payment_intents", f"/v1/customers/{token}")
    headers: tuple[dict[str, str], ...] = (
        {"Authorization": f"Bearer {token}"},
        {"Authorization": "Bearer sk_live_x"},
        {"X-Api-Key": token},
        {},
    )
    for path in paths:
        for chosen in headers:
            for fault in ("", "status_before=401", "status_before=500", "body=html"):
                request = urllib.request.Request(stack.stripe + path, headers={**chosen, "X-Demo-Fault": fault})
                try:
                    with OPENER.open(request, timeout=30) as answer:
                        seen += str(answer.headers).encode() + answer.read()
                except urllib.error.HTTPError as error:
                    seen += str(error.headers).encode() + error.read()
    return seen


def test_secrets_stay_where_they_belong(stack: Stack) -> None:
    key = stack.issue(vendor="stripe", total_usd_cap="10.00", label="secret-test")
    sdk = stripe.StripeClient(key["token"], base_addresses={"api": stack.stripe})
    sdk.v1.payment_intents.create({"amount": 100, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"})
    with pytest.raises(stripe.StripeError):
        sdk.v1.customers.retrieve("cus_" + key["token"])
    seen = answers_to(stack, key["token"])
    stack.control("DELETE", f"/v1/keys/{key['token']}")
    stack.settled_requests(5, key=key["id"])

    credentials = real_credentials(stack)
    assert len(credentials) == 2
    assert not [secret for secret in credentials if secret in seen]
    # What the vendor was sent: exactly its own credential, and no vault key anywhere.
    entries = stack.vendor_log()
    assert entries
    assert not [entry for entry in entries if entry["forbidden"]]
    assert all(entry["real_credential"] for entry in entries)
    # Everything that was written: logs of all processes, both event streams, the audit's files.
    written = stack.everything_written()
    for secret in (*credentials, key["token"].encode(), stack.token.encode()):
        assert secret not in written
    # Process lists.
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    for secret in (*credentials, key["token"].encode(), stack.token.encode()):
        assert secret not in listing
