"""Simulated vendors for `ringfence up --demo`, for tests and for load: Stripe and OpenAI, with books of their own.

They answer the official SDKs as the real vendors would, keep a log of every request they receive and of all money
and tokens it moved, and go wrong on demand. They share no code with the gateway, so that their books can be held
against its audit.

    python -m controlplane.demo --port 0 --log demo.jsonl

Endpoints of the demo itself, on both addresses, for requests without any credential:

    GET    /_demo/healthz
    GET    /_demo/log?after=SEQ&limit=N     entries in order of arrival (`controlplane.demo.books.Entry`)
    GET    /_demo/books                     sums per currency, per object, per model
    GET | POST | DELETE  /_demo/faults      the fault table (`controlplane.demo.faults`)
    POST   /_demo/forbidden {texts}         texts that mark an entry as `forbidden` when they reach a vendor
    POST   /_demo/settle {object, outcome}  let a pending or challenged PaymentIntent succeed or fail
    POST   /_demo/reset                     start afresh
"""

from controlplane.demo.vendors import DemoVendors, new_openai_key, new_stripe_key

__all__ = ["DemoVendors", "new_openai_key", "new_stripe_key"]
