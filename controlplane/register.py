"""Registering an agent that a declared identity named for the first time. Pure."""

from controlplane.commands.agents import register_declared
from controlplane.commands.base import Command, CommandRefusal, Decision, Figures, Moment
from controlplane.commands.refusals import refuse
from events.state.control import ControlState
from schemas.rpc import RegisterAsk


def registration(ask: RegisterAsk) -> Command[bool]:
    """For a live key of declared identity that allows agents not seen before; a known agent is left as it is."""
    register = register_declared(ask.name, ask.owner, ask.purpose)

    def decide(state: ControlState, figures: Figures, moment: Moment) -> Decision[bool] | CommandRefusal:
        key = state.keys.get(ask.key)
        if key is None or key.ended(moment.now_ns) or key.state != "active":
            return refuse("not_found", "there is no live key of this id")
        if ask.name not in state.agents and (key.identity != "declared" or not key.allow_unknown_agents):
            return refuse("forbidden", "the key does not allow agents that are not registered")
        return register(state, figures, moment)

    return decide
