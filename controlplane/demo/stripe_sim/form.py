"""Form bodies with brackets (`a[b][0]=c`), read strictly.

Whatever could be understood in two ways is an error here: a doubled key, a name that is both a value and a table,
an index out of order. A gateway that guesses differently from its vendor bounds the wrong amount, so the
simulated vendor must not be the lenient side.
"""

import re
from urllib.parse import unquote_plus

from controlplane.demo.stripe_sim.refuse import Refused, invalid

type_doc = """A value is text, a list of values, or a table of values by name."""
Value = "str | list[Value] | dict[str, Value]"

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\[[^\[\]]*\])*)")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_MAX_FIELDS = 1_000  # Stripe's own requests have dozens
_MAX_DEPTH = 5
