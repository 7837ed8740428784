"""docs/API.md: which role may use which endpoint, from the route table.

`python -m controlplane.api.docs > docs/API.md` writes it; a test holds it current.
"""

import sys
from typing import get_args

from controlplane.api.routes import ROUTES
from controlplane.commands.refusals import ERRORS
from events.state.keys import NEXT_STATE
from events.types import KeyResumed, KeyRevoked, KeySuspended
from schemas.api import Role
from schemas.policy import KeyState

HEAD = """\
# Control plane API

JSON over HTTP. Requests carry `Authorization: Bearer <operator token>`; a token has one of the roles below.
`GET /openapi.json` on a running control plane describes every body, parameter and answer.

- Money goes in as a JSON number or a decimal string and is read exactly; it comes out as decimal strings.
- Times are RFC 3339 in UTC; where a time is asked for, `24h` means that long ago. `from` is inclusive, `to` is not.
- Lists answer `{"data": [...], "next_cursor": ...}`, newest first; `limit` is at most 1,000.
- `PUT` replaces, `PATCH` merges: what is left out stays, `null` removes.
- Unknown parameters, in a body or a query, are refused.
- Every change may be repeated. One that takes something away answers only when no node acts on the old policy any
  more; a repeat waits for the same.
- `POST /v1/keys` with an `Idempotency-Key` gives the same answer again, token included, for ten minutes.
- `reason` (a field of bodies, a parameter of `DELETE`) is kept with the change in the audit.
- Any of several control planes may be asked. Reads are answered by each; changes go on to the one that leads, and its
  answer comes back. While none leads, changes answer 503 `not_leading`: repeat them.
- `GET /readyz` answers 200 or 503 with `{"ready", "role", "reasons": [{"code", "message", "remedy", "warning"}]}`;
  [OPERATIONS.md](OPERATIONS.md) has the codes. Vault keys are never accepted here, nor operator tokens by proxies.

## Endpoints and roles

*public* needs no token: probes, metrics, and the API's description.
"""

KEYS_HEAD = """
## Life of a key

`-`: nothing changes. *Revoked* is for good. A key is also shown as `expired` once its time is over, as `spent` while
its `max_uses` are used up (`PATCH` may raise them). A key that is revoked or expired answers 409 to everything but
`GET` and `DELETE`. It can be looked up for a week after its expiry.
"""

ERRORS_HEAD = """
## Errors

`{"error": {"code", "message", "param", "remedy"}}`. `param` names the field at fault, or is null. Where a case has a
better remedy than the table's, the answer gives that.
"""


def render_page() -> str:
    roles: tuple[str, ...] = get_args(Role)
    lines = [HEAD, f"| endpoint | does | {' | '.join(roles)} |", f"|---|---|{'---|' * len(roles)}"]
    for route in ROUTES:
        marks = [("yes" if role in route.roles else "-") if route.roles else "public" for role in roles]
        lines.append(f"| `{route.method} {route.path}` | {route.summary} | {' | '.join(marks)} |")
    lines += [KEYS_HEAD, *_key_states()]
    lines += [ERRORS_HEAD, "| status | code | remedy |", "|---|---|---|"]
    for code, kind in ERRORS.items():
        lines.append(f"| {kind.status} | `{code}` | {kind.remedy.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _key_states() -> list[str]:
    """The fold's own table (events.state.keys)."""
    lines = ["| state | suspend | resume | revoke |", "|---|---|---|---|"]
    for state in get_args(KeyState):
        nexts = [NEXT_STATE.get((state, event), "-") for event in (KeySuspended, KeyResumed, KeyRevoked)]
        lines.append(f"| {state} | {' | '.join(nexts)} |")
    return lines


if __name__ == "__main__":
    sys.stdout.write(render_page())
