"""Handlers of /v1/agents and /v1/teams. A team is the owner that agents name, or the account of a budget."""

from msgspec import UNSET

from controlplane.api.answers import NO_CONTENT, Answer
from controlplane.api.call import ADMIN, ALL, ISSUERS, Call, Route, Service
from controlplane.api.pages import Place, decode_cursor, take_page
from controlplane.commands import agents
from controlplane.commands.base import CommandRefusal
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from events.state.registry import Agent
from schemas.accounts import account_key
from schemas.answers import AgentView, ListAnswer, TeamView
from schemas.api import AgentPatch, AgentPut, Reasoned
from schemas.queries import AgentsQuery, Paged, ReasonQuery


async def put(service: Service, call: Call) -> Answer | CommandRefusal:
    body: AgentPut = call.body
    name = call.params["name"]
    created = await service.execute(call, agents.put(name, body))
    return _shown(service, name, 201 if created else 200)


async def patch(service: Service, call: Call) -> Answer | CommandRefusal:
    body: AgentPatch = call.body
    await service.execute(call, agents.patch(call.params["name"], body))
    return _shown(service, call.params["name"])


async def show(service: Service, call: Call) -> Answer | CommandRefusal:
    return _shown(service, call.params["name"])


async def remove(service: Service, call: Call) -> Answer | CommandRefusal:
    await service.execute(call, agents.remove(call.params["name"]))
    return NO_CONTENT


async def suspend(service: Service, call: Call) -> Answer | CommandRefusal:
    return _shown(service, await service.execute(call, agents.suspend(call.params["name"])))


async def resume(service: Service, call: Call) -> Answer | CommandRefusal:
    return _shown(service, await service.execute(call, agents.resume(call.params["name"])))


async def list_agents(service: Service, call: Call) -> Answer | CommandRefusal:
    query: AgentsQuery = call.query
    after = decode_cursor(query.cursor)
    if isinstance(after, CommandRefusal):
        return after

    def fits(agent: Agent) -> bool:
        return (
            not agent.removed
            and (query.team is UNSET or agent.owner == query.team)
            and (query.state is UNSET or agent.state == query.state)
        )

    found, cursor = await take_page(service.leader.state.agents.values(), _place, fits, query.limit, after)
    views = service.views()
    return Answer(ListAnswer([views.agent(agent) for agent in found], cursor))


async def list_teams(service: Service, call: Call) -> Answer | CommandRefusal:
    query: Paged = call.query
    after = decode_cursor(query.cursor)
    if isinstance(after, CommandRefusal):
        return after
    teams = _teams(service.leader.state)
    places = sorted(Place(seq, name) for name, (seq, _) in teams.items())
    found, cursor = await take_page(places, lambda place: place, lambda _: True, query.limit, after)
    views = service.views()
    return Answer(ListAnswer([views.team(place.id, teams[place.id][1]) for place in found], cursor))


async def show_team(service: Service, call: Call) -> Answer | CommandRefusal:
    name = call.params["name"]
    team = _teams(service.leader.state).get(name)
    if team is None:
        return refuse("not_found", "there is no team of this name")
    return Answer(service.views().team(name, team[1]))


def _teams(state: ControlState) -> dict[str, tuple[int, int]]:
    """By name: the newest sequence that named it, and how many agents it owns."""
    teams: dict[str, tuple[int, int]] = {}
    for agent in state.agents.values():
        if agent.owner and not agent.removed:
            seq, count = teams.get(agent.owner, (0, 0))
            teams[agent.owner] = (max(seq, agent.registered_seq), count + 1)
    for account in state.budgets.values():
        if account.kind == "team" and account.caps:
            seq, count = teams.get(account.id, (0, 0))
            teams[account.id] = (max(seq, state.budget_seqs[account_key("team", account.id)]), count)
    return teams


def _shown(service: Service, name: str, status: int = 200) -> Answer | CommandRefusal:
    agent = agents.agent_of(service.leader.state, name)
    return agent if isinstance(agent, CommandRefusal) else Answer(service.views().agent(agent), status)


def _place(agent: Agent) -> Place:
    return Place(agent.registered_seq, agent.name)


ROUTES = (
    Route("GET", "/v1/agents", list_agents, ALL, "List agents", query=AgentsQuery, answer=ListAnswer[AgentView]),
    Route("GET", "/v1/agents/{name}", show, ALL, "Show an agent with its spend", answer=AgentView),
    Route("PUT", "/v1/agents/{name}", put, ADMIN, "Register or replace an agent", body=AgentPut, answer=AgentView),
    Route("PATCH", "/v1/agents/{name}", patch, ADMIN, "Change an agent", body=AgentPatch, answer=AgentView),
    Route(
        "DELETE", "/v1/agents/{name}", remove, ADMIN, "Remove an agent that holds no live key",
        query=ReasonQuery, status=204,
    ),
    Route(
        "POST", "/v1/agents/{name}/suspend", suspend, ISSUERS, "Suspend an agent, and with it all its keys",
        body=Reasoned, body_optional=True, answer=AgentView,
    ),
    Route(
        "POST", "/v1/agents/{name}/resume", resume, ADMIN, "Resume a suspended agent",
        body=Reasoned, body_optional=True, answer=AgentView,
    ),
    Route("GET", "/v1/teams", list_teams, ALL, "List teams", query=Paged, answer=ListAnswer[TeamView]),
    Route("GET", "/v1/teams/{name}", show_team, ALL, "Show a team with its spend", answer=TeamView),
)  # fmt: skip
