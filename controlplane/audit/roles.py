"""Who may do what at the embedded ClickHouse endpoint.

chDB knows a single user. The endpoint therefore asks an injected function who is calling, and maps the answer to
one of two roles. A ClickHouse server in production has users and grants of its own; this module is not used there.
"""

import enum
from collections.abc import Callable
from typing import Final

#: The one database of the audit: the table `events`, and the views made from it.
DATABASE: Final = "ringfence"

#: What a reader may select from. The grants are fixed when the engine starts, before the views exist, so they are
#: granted by name; a view that the audit schema adds for compliance staff is added here as well.
READER_VIEWS: Final = (
    "requests",
    "spend_hourly",
    "spend_daily",
    "refusals",
    "unknown_outcomes",
    "control_changes",
)


class Role(enum.Enum):
    """What a login may do."""

    #: The audit writer and the control plane: everything.
    WRITER = "writer"
    #: Compliance staff and their tools: SELECT from the views, and what clients ask when they connect.
    READER = "reader"


#: `(user, password) -> role`, or None for a login that is not known. It is called for every request, on the event
#: loop, so it must be quick; it compares secrets in constant time and logs neither.
Authenticate = Callable[[str, str], Role | None]
