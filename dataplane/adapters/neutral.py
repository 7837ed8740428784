"""Refusals before an upstream is known, and for upstreams without a dialect of their own."""

from dataplane.adapters.port import Rendered
from dataplane.adapters.render import extras, message, render
from schemas.refusals import Refusal


def refuse(refusal: Refusal, status: int, request_id: str) -> Rendered:
    """`{"error": {"code", "message", "param", "remedy", "details", "request_id"}}`, as the control plane's API
    writes its errors.
    """
    error = {"code": refusal.code, "message": message(refusal), "param": None, **extras(refusal, request_id)}
    return render(refusal, status, request_id, {"error": error})
