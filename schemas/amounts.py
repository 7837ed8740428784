"""What one request takes: an amount per meter."""

import msgspec


class Amounts(msgspec.Struct, frozen=True, array_like=True):
    """Nano-dollars spent and refunded, requests, and tokens. Also used for differences, which may be negative."""

    usd: int = 0
    refund: int = 0
    requests: int = 0
    tokens: int = 0

    def of(self, meter: str) -> int:
        """The amount of one meter (schemas.accounts.METERS)."""
        value: int = getattr(self, meter)
        return value


NOTHING = Amounts()
