"""`X-Agent-Identity: name=billing-bot; owner=finance; purpose=invoicing`, parsed strictly.

Strict, because a header that two parsers read differently would name two agents: each of the three fields at
most once, `name` always, no empty values, no quoting, no control characters, at most 512 bytes.
"""

import re

import msgspec

from schemas.ids import NAME_RULE, is_name

MAX_IDENTITY_BYTES = 512
"""Three short names fit many times over; a bound keeps a hostile header cheap."""

_FIELDS = ("name", "owner", "purpose")
_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@/-]{0,127}\Z")


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller says of itself. Empty strings mean: not said."""

    name: str
    owner: str = ""
    purpose: str = ""


class IdentityError(ValueError):
    """The header does not parse; the message names the field and the rule."""


def parse_identity(header: str) -> Identity:
    """Parse the header's value. Raises IdentityError."""
    if len(header) > MAX_IDENTITY_BYTES:
        raise IdentityError(f"it is longer than {MAX_IDENTITY_BYTES} bytes")
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, equals, value = part.strip(" \t").partition("=")
        if not equals:
            raise IdentityError("each part is field=value, parts are separated by ';'")
        if name not in _FIELDS:
            raise IdentityError("its fields are name, owner and purpose")
        if name in found:
            raise IdentityError(f"{name} is given twice")
        if not valid_field(name, value):
            raise IdentityError(f"the value of {name} is not valid: {NAME_RULE}")
        found[name] = value
    if "name" not in found:
        raise IdentityError("name is missing")
    return Identity(**found)


def valid_field(field: str, value: str) -> bool:
    """`purpose` may also hold spaces and '/'; name and owner are plain names."""
    return _PURPOSE.match(value) is not None if field == "purpose" else is_name(value)


def format_identity(identity: Identity) -> str:
    """The header's value for an identity; `parse_identity` reads it back."""
    parts = [f"{f}={v}" for f in _FIELDS if (v := getattr(identity, f))]
    return "; ".join(parts)
