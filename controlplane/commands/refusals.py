"""Every error of the control plane's HTTP API in one table: code, HTTP status, and what to do.

Commands refuse with these, and so do the handlers around them. A refusal is a value (CommandRefusal); the table
gives it its status, and its remedy unless the case has a better one.
"""

from typing import NamedTuple

from controlplane.commands.base import CommandRefusal


class ErrorKind(NamedTuple):
    status: int
    remedy: str


ERRORS: dict[str, ErrorKind] = {
    # The request itself
    "invalid_json": ErrorKind(400, "Send one JSON object in UTF-8, each field once."),
    "invalid_parameter": ErrorKind(400, "Correct the named parameter; /openapi.json describes it."),
    "missing_parameter": ErrorKind(400, "Add the named parameter; /openapi.json describes it."),
    "unknown_parameter": ErrorKind(400, "Leave it out, or correct its name; /openapi.json lists the known ones."),
    "not_available": ErrorKind(400, "Leave the named parameter out: this version does not have it."),
    "body_too_large": ErrorKind(413, "Send a body of at most 128 KiB."),
    # Who asks
    "unauthorized": ErrorKind(401, "Send Authorization: Bearer with an operator token (rfo_...) that is live."),
    "forbidden": ErrorKind(403, "Use an operator token of a role that may do this; docs/API.md has the table."),
    "rate_limited": ErrorKind(429, "Too many failed tries from this address; use a live operator token."),
    # What it is about
    "not_found": ErrorKind(404, "Check the id; lists show what there is."),
    "method_not_allowed": ErrorKind(405, "Use a method of the Allow header."),
    "upstream_unknown": ErrorKind(400, "Use an upstream of this gateway's configuration."),
    "cap_required": ErrorKind(400, 'Give a cap in dollars, such as "daily_usd_cap": "25.00", or "uncapped": true.'),
    "key_caps": ErrorKind(409, "A key's own caps belong to the key: PATCH /v1/keys/{id}."),
    # What stands against it
    "key_revoked": ErrorKind(409, "A revoked key never comes back; issue a new one."),
    "key_expired": ErrorKind(409, "An expired key never comes back; issue a new one."),
    "agent_suspended": ErrorKind(409, "Resume the agent first: POST /v1/agents/{name}/resume."),
    "agent_in_use": ErrorKind(409, 'Revoke its keys first: POST /v1/keys/revoke {"agent": ...}.'),
    "operator_ended": ErrorKind(409, "A revoked or expired operator token never comes back; issue a new one."),
    "last_admin": ErrorKind(409, "Issue another admin token first, or nobody could administer this gateway."),
    "outcome_open": ErrorKind(409, "Look into the vendor's books again in a few seconds, then repeat the request."),
    "outcome_known": ErrorKind(409, "Only a request of unknown outcome can be reconciled."),
    "idempotency_key_reused": ErrorKind(422, "Send the first request's body again, or use another Idempotency-Key."),
    "too_many": ErrorKind(409, "Let unused ones expire, or revoke them, and try again."),
    # What fails here
    "log_unavailable": ErrorKind(503, "The event log cannot be written; look at NATS, then repeat the request."),
    "barrier_open": ErrorKind(503, "The change is recorded; repeat the request to wait for the rest of the nodes."),
    "not_leading": ErrorKind(503, "Repeat the request in a moment; another control plane may be leading."),
    "audit_unavailable": ErrorKind(503, "Look at the audit process and its ClickHouse, then repeat the request."),
    "internal": ErrorKind(500, "A defect of the gateway; report the time and what was asked."),
}


def refuse(code: str, message: str, param: str = "", remedy: str = "") -> CommandRefusal:
    """A refusal of the table. Raises KeyError for a code that is not in it (a defect)."""
    kind = ERRORS[code]
    return CommandRefusal(kind.status, code, message, param, remedy or kind.remedy)


def invalid(param: str, message: str, remedy: str = "") -> CommandRefusal:
    """A parameter that has the right type and still cannot be accepted."""
    return refuse("invalid_parameter", message, param, remedy)
