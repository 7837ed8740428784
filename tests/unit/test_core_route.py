import pytest

from dataplane.core.path import Target, parse_target
from dataplane.core.route import OwnRoute, Route, Routes
from schemas.refusals import Refusal

ROUTES = Routes(("stripe", "postmark", "ledger"), {"postmark.gateway.local": "postmark"}, slashes=("ledger",))


def resolve(raw: str, host: str = "localhost:8080") -> Route | OwnRoute | Refusal:
    target = parse_target(raw)
    assert isinstance(target, Target)
    return ROUTES.resolve(target, host)


@pytest.mark.parametrize(
    ("raw", "host", "route"),
    [
        ("/stripe/v1/charges?a=1", "gw:8080", Route("stripe", "/v1/charges", ("v1", "charges"), "a=1")),
        ("/stripe", "gw", Route("stripe", "/", ("",), "")),
        ("/stripe/", "gw", Route("stripe", "/", ("",), "")),
        ("/email", "postmark.gateway.local", Route("postmark", "/email", ("email",), "")),
        ("/email", "Postmark.Gateway.Local:8080", Route("postmark", "/email", ("email",), "")),
        ("/email", "postmark.gateway.local.:80", Route("postmark", "/email", ("email",), "")),
        ("/v1/usage", "postmark.gateway.local", Route("postmark", "/v1/usage", ("v1", "usage"), "")),
        ("/stripe/v1", "postmark.gateway.local", Route("postmark", "/stripe/v1", ("stripe", "v1"), "")),
        ("/ledger/transfers/", "gw", Route("ledger", "/transfers/", ("transfers",), "")),
        ("/v1/usage?x=1", "gw", OwnRoute("/v1/usage", "x=1")),
        ("/healthz", "", OwnRoute("/healthz", "")),
        ("/metrics/", "gw", OwnRoute("/metrics", "")),
    ],
)
def test_destinations(raw: str, host: str, route: Route | OwnRoute) -> None:
    assert resolve(raw, host) == route


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("/", "unknown_upstream"),
        ("/Stripe/v1/charges", "unknown_upstream"),
        ("/stripeX/v1/charges", "unknown_upstream"),
        ("/stripe/v1/charges/", "path_not_canonical"),
    ],
)
def test_refused_destinations(raw: str, code: str) -> None:
    found = resolve(raw)
    assert isinstance(found, Refusal)
    assert found.code == code


def test_a_trailing_slash_is_refused_by_host_too() -> None:
    found = resolve("/email/", "postmark.gateway.local")
    assert isinstance(found, Refusal)
    assert found.code == "path_not_canonical"


@pytest.mark.parametrize("name", ["v1", "agents", "healthz", "readyz", "metrics"])
def test_reserved_names_cannot_be_upstreams(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Routes((name,), {})
