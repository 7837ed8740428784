"""A simulation of the part of Stripe's v1 API that moves money by card."""
