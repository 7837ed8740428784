"""Answers that must not reach a client, in any dialect."""

from dataplane.adapters.port import Headers
from schemas.refusals import Refusal, refuse


def replaces(status: int, headers: Headers) -> Refusal | None:  # noqa: ARG001 - every dialect's signature
    """The refusal that goes instead.

    401 and 403 are about the gateway's credential, not the caller's: relayed, an SDK would tell the agent that
    *its* key was revoked, and the text may echo part of the real one. A redirect would lead past the gateway.
    """
    if status in {401, 403}:
        return refuse("upstream_credential", "The vendor did not accept the gateway's credential for this call.")
    if 300 <= status < 400 and status != 304:
        return refuse("upstream_redirect", "The vendor answered with a redirect.")
    return None
