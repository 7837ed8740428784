"""Typed reading of parameters: the first problem is kept, so that an operation can read all and check once."""

import re

from controlplane.demo.stripe_sim.form import Table, Value
from controlplane.demo.stripe_sim.refuse import Refused, invalid, missing

MAX_AMOUNT = 99_999_999  # eight digits, Stripe's documented limit for most currencies
_MAX_TEXT = 5_000
_INTEGER = re.compile(r"[0-9]{1,12}")


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


# https://docs.stripe.com/currencies; the demo takes the ones without special rules, plus both special groups.
ZERO_DECIMAL = _codes("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf")
THREE_DECIMAL = _codes("bhd jod kwd omr tnd")
_TWO_DECIMAL = _codes(
    "aed ars aud bgn brl cad chf cny cop czk dkk egp eur gbp hkd huf idr ils inr isk kes mad mxn myr ngn nok nzd "
    "pen php pkr pln qar ron sar sek sgd thb try twd uah usd uyu zar"
)
CURRENCIES = ZERO_DECIMAL | THREE_DECIMAL | _TWO_DECIMAL


class Fields:
    """The parameters of one call. `known` names all that the call takes; any other is a problem at once."""

    def __init__(self, values: Table, known: frozenset[str]) -> None:
        self._values = values
        self.problem: Refused | None = None
        for name in values:
            if name not in known:
                self.fail(invalid(name, f"Received unknown parameter: {name}", "parameter_unknown"))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def fail(self, problem: Refused) -> None:
        if self.problem is None:
            self.problem = problem

    def text(self, name: str, default: str | None = None, *, required: bool = False) -> str | None:
        value = self._values.get(name)
        if value is None:
            if required:
                self.fail(missing(name))
            return default
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            self.fail(invalid(name, f"Invalid string: {name}"))
            return default
        if required and not value:
            self.fail(invalid(name, f"You passed an empty string for '{name}'.", "parameter_invalid_empty"))
        return value or default

    def amount(self, name: str, currency: str | None, *, required: bool = False) -> int | None:
        """A positive number of minor units; only digits are one (no sign, space, point or exponent)."""
        value = self._values.get(name)
        if value is None:
            if required:
                self.fail(missing(name))
            return None
        if not isinstance(value, str) or not _INTEGER.fullmatch(value):
            self.fail(invalid(name, f"Invalid integer: {value}", "parameter_invalid_integer"))
            return None
        amount = int(value)
        if amount < 1:
            message = "This value must be greater than or equal to 1."
            self.fail(invalid(name, message, "parameter_invalid_integer"))
        elif amount > MAX_AMOUNT:
            self.fail(invalid(name, "Amount must be no more than 99999999.", "amount_too_large"))
        elif currency in THREE_DECIMAL and amount % 10:
            self.fail(invalid(name, f"Amount in {currency} must end in 0.", "parameter_invalid_integer"))
        return amount

    def currency(self, name: str = "currency", default: str | None = None) -> str:
        value = self.text(name, default, required=default is None) or ""
        if value and value.lower() not in CURRENCIES:
            self.fail(invalid(name, f"Invalid currency: {value.lower()}.", "parameter_invalid_currency"))
        return value.lower()

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        if value not in {"true", "false"}:
            self.fail(invalid(name, f"Invalid boolean: {value}", "parameter_invalid_boolean"))
        return value == "true"

    def choice(self, name: str, options: frozenset[str], default: str | None = None) -> str | None:
        value = self.text(name, default)
        if name in self._values and (value is None or value not in options):
            self.fail(invalid(name, f"Invalid {name}: must be one of {', '.join(sorted(options))}"))
        return value

    def limit(self) -> int:
        value = self._values.get("limit", "10")
        if not isinstance(value, str) or not _INTEGER.fullmatch(value) or not 1 <= int(value) <= 100:
            self.fail(invalid("limit", "Limit must be an integer between 1 and 100.", "parameter_invalid_integer"))
            return 10
        return int(value)

    def table(self, name: str) -> Table:
        """A table of values (`name[a]=b`), or the empty table."""
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            self.fail(invalid(name, f"Invalid hash: {name}"))
            return {}
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts (`name[]=a` or `name[0]=a`), or the empty list."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(invalid(name, f"Invalid array: {name}"))
            return []
        return [item for item in value if isinstance(item, str)]

    def metadata(self, old: dict[str, str]) -> dict[str, str]:
        """The metadata after this call: named keys are set, an empty value removes one; at most 50 keys."""
        if self._values.get("metadata") == "":
            return {}
        merged = dict(old)
        for key, value in self.table("metadata").items():
            if not isinstance(value, str) or len(value) > 500 or len(key) > 40:
                self.fail(invalid("metadata", f"Invalid metadata: {key[:40]}"))
            elif value:
                merged[key] = value
            else:
                merged.pop(key, None)
        if len(merged) > 50:
            self.fail(invalid("metadata", "Metadata can have at most 50 keys."))
        return merged

    def raw(self, name: str) -> Value | None:
        """The value as it came, for parameters that are only echoed."""
        return self._values.get(name)
