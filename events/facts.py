"""What all events have in common (see events.types for the rules)."""

import msgspec


class Fact(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="t"):
    """Base of all events. None is part of a cycle, and a fold makes a hundred thousand a second: the collector need not
    look at them.
    """


class By(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Who caused a control event: an operator's id and name, their address, the reason given."""

    operator: str = ""
    name: str = ""
    address: str = ""
    reason: str = ""


SYSTEM = By(name="ringfence")
"""The control plane itself, for what it decides on its own (fences, automatic suspensions)."""
