"""An amount per meter as a plain tuple: the folds' arithmetic, without an object per step."""

from schemas.accounts import METERS
from schemas.amounts import Amounts

Four = tuple[int, int, int, int]
"""In the order of schemas.accounts.METERS: usd, refund, requests, tokens."""

ZERO: Four = (0, 0, 0, 0)
REQUESTS = METERS.index("requests")


def four(amounts: Amounts) -> Four:
    return amounts.usd, amounts.refund, amounts.requests, amounts.tokens


def minus(a: Four, b: Four) -> Four:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]


def negative(a: Four) -> Four:
    return -a[0], -a[1], -a[2], -a[3]


def only(meter: int, amount: int) -> Four:
    return put(ZERO, meter, amount)


def put(amounts: Four, meter: int, amount: int) -> Four:
    """`amounts` with one of them replaced."""
    values = list(amounts)
    values[meter] = amount
    return values[0], values[1], values[2], values[3]


def over(a: Four, b: Four) -> Four:
    """What `a` has above `b`, meter by meter."""
    return max(0, a[0] - b[0]), max(0, a[1] - b[1]), max(0, a[2] - b[2]), max(0, a[3] - b[3])


def plus(a: Four, b: Four) -> Four:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
