"""What fields must mean beyond their types: checks that several commands share.

Each returns None, or the refusal that names the field. `first` gives the first that refuses.
"""

from collections.abc import Collection, Iterable, Mapping
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import invalid, refuse
from schemas.identity import valid_field
from schemas.ids import NAME_RULE, is_name
from schemas.patterns import PatternError, parse_pattern

MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 128
"""run_id, user and feature become columns of the audit, and travel with every request."""


def first(*refusals: CommandRefusal | None) -> CommandRefusal | None:
    return next((refusal for refusal in refusals if refusal is not None), None)


def check_name(param: str, name: str | None) -> CommandRefusal | None:
    if not name or is_name(name):
        return None
    return invalid(param, f"{param} is not a name", f"A name has {NAME_RULE}.")


def check_text(param: str, text: str | None) -> CommandRefusal | None:
    """Printable text only: labels are shown on terminals and written into CSV files."""
    if not text or (text.isprintable() and text == text.strip()):
        return None
    return invalid(param, f"{param} holds characters that cannot be printed, or begins or ends with a blank")


def check_purpose(purpose: str | None) -> CommandRefusal | None:
    """The same rule as in X-Agent-Identity, so that what is registered can also be declared."""
    if not purpose or valid_field("purpose", purpose):
        return None
    return invalid(
        "purpose", "purpose may hold letters, digits, blanks and . _ @ / -, and begins with a letter or digit"
    )


def check_metadata(metadata: Mapping[str, str] | None) -> CommandRefusal | None:
    for key, value in (metadata or {}).items():
        if not is_name(key) or len(key) > MAX_METADATA_KEY:
            return invalid("metadata", f"a key of metadata is not a name of at most {MAX_METADATA_KEY} characters")
        if len(value) > MAX_METADATA_VALUE or not (value.isprintable()):
            return invalid(
                "metadata",
                f"the value of metadata.{key} is not printable text of at most {MAX_METADATA_VALUE} characters",
            )
    return None


def check_unique(param: str, values: Iterable[str] | None) -> CommandRefusal | None:
    listed = list(values or ())
    return invalid(param, f"{param} names something twice") if len(set(listed)) != len(listed) else None


def check_upstreams(
    param: str, upstreams: Collection[str] | None, configured: Collection[str]
) -> CommandRefusal | None:
    for name in upstreams or ():
        if name not in configured:
            known = ", ".join(sorted(configured)[:20]) or "none"
            return refuse(
                "upstream_unknown", f"{name!r} is not a configured upstream", param, f"Configured upstreams: {known}."
            )
    return check_unique(param, upstreams)


def check_models(models: Collection[str] | None) -> CommandRefusal | None:
    return first(check_unique("models", models), *(check_text("models", model) for model in models or ()))


def check_endpoints(
    endpoints: Collection[str] | None, upstreams: Collection[str], configured: Collection[str]
) -> CommandRefusal | None:
    """Patterns parse, and name only upstreams that the key may reach (`upstreams` empty: any configured)."""
    reachable = set(upstreams or configured)
    for text in endpoints or ():
        try:
            pattern = parse_pattern(text)
        except PatternError as error:
            return invalid("allowed_endpoints", str(error))
        if pattern.upstream and pattern.upstream not in reachable:
            return invalid(
                "allowed_endpoints",
                f"{text!r} is about the upstream {pattern.upstream!r}, which the key cannot reach",
                "Name it in upstreams, or leave the pattern out.",
            )
    return check_unique("allowed_endpoints", endpoints)


def check_zone(zone: str | None) -> CommandRefusal | None:
    if not zone:
        return None
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a directory of zones
        return invalid("time_zone", "time_zone is not an IANA time zone", 'Write for example "Europe/Berlin" or "UTC".')
    return None
