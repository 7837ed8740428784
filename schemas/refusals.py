"""Every refusal of the data plane, in one table: code, HTTP status, who is to blame, and the remedy.

A refusal is a value, never an exception. The adapter renders it in its vendor's own error shape; the code also
travels as `X-Ringfence-Refusal`. Statuses were chosen so that no official SDK retries a policy decision by
itself (docs/adr/0003-refusal-statuses.md); `cap_status` changes a cap's status per upstream.
"""

from typing import Final, Literal, NamedTuple, final

Blame = Literal["caller", "policy", "vendor", "operator", "gateway"]


@final
class Refusal:
    """One refused request. A plain class: every step of a request asks whether it got one.

    `message` says what was wrong in this case and carries no secret; `details` are the figures a program may
    want (account, window, cap_usd, remaining_usd, resets_at, rule, ...); `retry_after_s` is set only where
    trying again later truly helps within a short time.
    """

    __slots__ = ("code", "details", "message", "retry_after_s")

    def __init__(
        self, code: str, message: str, details: dict[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        self.code: Final = code
        self.message: Final = message
        self.details: Final[dict[str, str]] = {} if details is None else details
        self.retry_after_s: Final = retry_after_s

    @property
    def kind(self) -> "RefusalKind":
        return REFUSALS[self.code]

    def __repr__(self) -> str:
        return f"Refusal({self.code}: {self.message})"


class RefusalKind(NamedTuple):
    status: int
    blame: Blame
    remedy: str


def _k(status: int, blame: Blame, remedy: str) -> RefusalKind:
    return RefusalKind(status, blame, remedy)


REFUSALS: Final[dict[str, RefusalKind]] = {
    # 1. Route
    "path_not_canonical": _k(
        400,
        "caller",
        "Send the path as the vendor documents it: no dot segments, '//', '\\', ';' or encoded separators.",
    ),
    "request_malformed": _k(
        400, "caller", "Send a well-formed HTTP/1.1 request: one Host, one body framing, a known method."
    ),
    "request_timeout": _k(408, "caller", "Send the request's head and body without long pauses."),
    "unknown_upstream": _k(404, "caller", "Use /{upstream}/... with an upstream of this gateway's configuration."),
    # 2. Authenticate
    "unknown_key": _k(
        401, "caller", "Use a vault key of this gateway (rfk_...); a vendor's own key is never accepted here."
    ),
    "key_expired": _k(401, "caller", "Issue a new key, or rotate this one before it expires."),
    "key_revoked": _k(401, "policy", "This key was revoked and never comes back; ask an operator for a new one."),
    "key_spent": _k(401, "policy", "The key's max_uses are used up; issue a new key."),
    "key_suspended": _k(403, "policy", "Ask an operator to resume the key."),
    "upstream_not_allowed": _k(
        403, "policy", "Use an upstream that the key was issued for, or issue a key for this one."
    ),
    # 3. Identify
    "identity_invalid": _k(
        400, "caller", "Send X-Agent-Identity: name=...; owner=...; purpose=... with plain names, each once."
    ),
    "identity_required": _k(400, "caller", "This key needs X-Agent-Identity to name the agent."),
    "identity_mismatch": _k(
        403, "caller", "Send the identity of the agent that the key was issued to, or leave the header out."
    ),
    "agent_unknown": _k(403, "policy", "Register the agent first, or issue the key with allow_unknown_agents."),
    # 4. Policy
    "policy_denied": _k(403, "policy", "The named rule forbids this request; ask its owner."),
    "endpoint_not_allowed": _k(
        403, "policy", "Use an endpoint in the key's allowed_endpoints, or issue a key that allows this one."
    ),
    "model_not_allowed": _k(403, "policy", "Use a model of the key's list."),
    "agent_suspended": _k(403, "policy", "Ask an operator to resume the agent."),
    "account_switch": _k(
        403, "policy", "Leave out headers that switch the vendor account; the upstream's configuration pins it."
    ),
    "method_override": _k(
        400, "caller", "Send the real method; method-override headers and parameters are not accepted."
    ),
    # 5. Bound
    "cost_unbounded": _k(
        422, "policy", "Call it in a form whose most expensive outcome can be computed, or use an uncapped key."
    ),
    "body_too_large": _k(413, "caller", "Send a smaller body, or raise the upstream's max_body_bytes."),
    "body_unparseable": _k(400, "caller", "Send the body in the vendor's documented form, each parameter once."),
    # 6. Rate
    "rate_limited": _k(429, "policy", "Slow down; Retry-After says when the next request fits."),
    # 7. Health and lanes
    "upstream_unavailable": _k(503, "vendor", "The vendor is failing; try again after Retry-After."),
    "overloaded": _k(503, "gateway", "Too many requests are in flight here; try again shortly."),
    # 8. Reserve
    "cap_exhausted": _k(402, "policy", "Wait until resets_at, raise the cap, or send a smaller request."),
    "budget_unavailable": _k(503, "gateway", "The budget could not be reserved in time; nothing was sent, try again."),
    # 9. Intent
    "log_unavailable": _k(
        503, "gateway", "The event log cannot be written, so nothing is sent; try again, and look at NATS."
    ),
    "policy_unavailable": _k(503, "gateway", "This node has no current policy from the control plane; try again."),
    "draining": _k(503, "gateway", "This node is shutting down; try again, another one answers."),
    # 10. Forward and relay
    "upstream_unreachable": _k(502, "vendor", "The vendor could not be reached; nothing was sent."),
    "upstream_timeout": _k(
        504, "vendor", "The vendor did not answer in time; the outcome is unknown and held at its bound."
    ),
    "upstream_lost": _k(502, "vendor", "The vendor's answer was lost; the outcome is unknown and held at its bound."),
    "upstream_protocol": _k(
        502, "vendor", "The vendor's answer was not valid HTTP; the outcome is unknown and held at its bound."
    ),
    "upstream_credential": _k(
        502, "operator", "The vendor refused the gateway's own credential; an operator must renew it."
    ),
    "upstream_redirect": _k(502, "vendor", "The vendor answered with a redirect, which is never followed."),
    "stream_cut": _k(503, "gateway", "The stream was cut because this node lost its proof of authority; try again."),
    "internal": _k(500, "gateway", "A defect of the gateway; report the request id."),
}
"""In the order in which a request meets them."""


def refuse(code: str, message: str, *, retry_after_s: float | None = None, **details: str) -> Refusal:
    """A refusal of the table. Raises KeyError for a code that is not in it (a defect, not an input error)."""
    REFUSALS[code]
    return Refusal(code, message, details, retry_after_s)
