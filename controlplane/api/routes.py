"""All endpoints: the one table behind the server, /openapi.json and the roles in docs/API.md."""

from controlplane.api import agents, alerts, audit, budgets, keys, nodes, operators
from controlplane.api.answers import Answer
from controlplane.api.call import PUBLIC, Call, Route, Service
from controlplane.commands.base import CommandRefusal


async def describe(service: Service, _: Call) -> Answer | CommandRefusal:
    return Answer(service.description)


ROUTES: tuple[Route, ...] = (
    *keys.ROUTES,
    *agents.ROUTES,
    *budgets.ROUTES,
    *audit.ROUTES,
    *nodes.ROUTES,
    *alerts.ROUTES,
    *operators.ROUTES,
    Route("GET", "/openapi.json", describe, PUBLIC, "This API's description, OpenAPI 3.1"),
)
