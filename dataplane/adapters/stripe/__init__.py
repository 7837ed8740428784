"""Stripe's dialect: form bodies, integer amounts of minor units, objects with a life of their own.

What is counted: the exposure of PaymentIntents and charges in `usd`, of refunds in `refund`. Stripe's own fees
(per charge, per dispute, for Radar, Tax, ...) are out of scope: they are not in its answers.
"""
