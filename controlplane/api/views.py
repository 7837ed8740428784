"""Records of the state, and the ledger's figures, as the API shows them."""

from collections.abc import Sequence
from typing import Any

from controlplane.commands.base import Figures
from events.state.control import ControlState
from events.state.keys import Key, ShownState, shown_state
from events.state.operators import Operator
from events.state.registry import Agent
from events.types import By
from schemas.accounts import NANOS_PER_S, AccountCaps, account_key, window_end_s, window_start_s
from schemas.answers import (
    AgentLimitsView,
    AgentView,
    BudgetView,
    CapsView,
    FigureView,
    KeyView,
    OperatorView,
    PolicyView,
    TeamView,
)
from schemas.caps import CAP_FIELDS, cap_amounts, format_amount
from schemas.durations import format_time

SPEND_WINDOWS = ("hour", "day", "month", "total")


class Views:
    """The state at one moment. Built for one answer and dropped: it reads nothing twice across an await."""

    def __init__(self, state: ControlState, figures: Figures, now_ns: int) -> None:
        self._state = state
        self._figures = figures
        self._now_ns = now_ns
        self._resets: dict[tuple[str, str], str | None] = {}

    def key_state(self, key: Key) -> ShownState:
        uses = self._amounts("key", key.id).get("max_uses")
        spent = uses is not None and self._used("key", key.id, "requests", "total", "UTC") >= uses
        return shown_state(key, self._now_ns, spent=spent)

    def key(self, key: Key) -> KeyView:
        amounts = self._amounts("key", key.id)
        policy = self._policy(key, amounts)
        return KeyView(
            id=key.id,
            label=key.label or None,
            agent=key.agent or None,
            state=self.key_state(key),
            issued_at=format_time(key.issued_at_ns),
            expires_at=format_time(key.expires_at_ns),
            issued_by=who(key.issued_by),
            changed_by=who(key.changed_by),
            upstreams=policy.upstreams,
            metadata=key.metadata,
            policy=policy,
            spend=self.spend("key", key.id),
            counts=self.counts("key", key.id),
        )

    def agent(self, agent: Agent) -> AgentView:
        return AgentView(
            name=agent.name,
            state=agent.state,
            owner=agent.owner or None,
            purpose=agent.purpose or None,
            cost_center=agent.cost_center or None,
            limits=AgentLimitsView(agent.rpm or None, agent.tpm or None),
            roles=list(agent.roles),
            on_exhausted=agent.on_exhausted,
            metadata=agent.metadata,
            registered_at=format_time(agent.registered_at_ns) if agent.registered_at_ns else None,
            changed_by=who(agent.changed_by),
            spend=self.spend("agent", agent.name),
            counts=self.counts("agent", agent.name),
        )

    def team(self, name: str, agents: int) -> TeamView:
        return TeamView(name=name, agents=agents, spend=self.spend("team", name), counts=self.counts("team", name))

    def budget(self, account: AccountCaps) -> BudgetView:
        if account.kind == "key":
            raise ValueError("a key's caps are shown with the key")
        return BudgetView(
            kind=account.kind,
            id=account.id,
            time_zone=account.zone,
            caps=CapsView(**_shown_caps(cap_amounts(account.caps))),
            spend=self.spend(account.kind, account.id),
            counts=self.counts(account.kind, account.id),
        )

    def operator(self, operator: Operator) -> OperatorView:
        live = operator.live(self._now_ns)
        return OperatorView(
            id=operator.id,
            name=operator.name,
            role=operator.role,
            state="revoked" if operator.revoked else "active" if live else "expired",
            issued_at=format_time(operator.issued_at_ns),
            expires_at=format_time(operator.expires_at_ns) if operator.expires_at_ns else None,
            issued_by=who(operator.issued_by),
            rotated_at=format_time(operator.rotated_at_ns) if operator.rotated_at_ns else None,
            old_token_ends_at=self._old_token_ends_at(operator),
        )

    def _old_token_ends_at(self, operator: Operator) -> str | None:
        ends_ns = max((ends_ns for _, ends_ns in operator.earlier), default=0)
        return format_time(ends_ns) if ends_ns > self._now_ns and not operator.revoked else None

    def spend(self, kind: str, account_id: str) -> dict[str, FigureView]:
        """The account's dollars in each window, capped or not."""
        amounts = self._amounts(kind, account_id)
        caps: dict[str, int | None] = {
            window: amounts.get(name) for name, (meter, window) in CAP_FIELDS.items() if meter == "usd"
        }
        return {window: self._figure(kind, account_id, "usd", window, caps[window]) for window in SPEND_WINDOWS}

    def counts(self, kind: str, account_id: str) -> dict[str, FigureView]:
        """What else is capped of the account, by the cap's name."""
        return {
            name: self._figure(kind, account_id, meter, window, amount)
            for name, amount in self._amounts(kind, account_id).items()
            if (meter := CAP_FIELDS[name][0]) != "usd" and (window := CAP_FIELDS[name][1]) != "request"
        }

    def _figure(self, kind: str, account_id: str, meter: str, window: str, cap: int | None) -> FigureView:
        zone = self._state.zone_of(kind, account_id)
        figure = self._figures.figure(kind, account_id, meter, window, self._now_ns, zone)
        left = None if cap is None else max(0, cap - figure.settled - figure.held)
        return FigureView(
            cap=None if cap is None else format_amount(meter, cap),
            settled=format_amount(meter, figure.settled),
            held=format_amount(meter, figure.held),
            remaining=None if left is None else format_amount(meter, left),
            resets_at=self._resets_at(window, zone),
        )

    def _used(self, kind: str, account_id: str, meter: str, window: str, zone: str) -> int:
        figure = self._figures.figure(kind, account_id, meter, window, self._now_ns, zone)
        return figure.settled + figure.held

    def _resets_at(self, window: str, zone: str) -> str | None:
        """Many records share a window; its end is computed once."""
        if (window, zone) not in self._resets:
            end_s = window_end_s(window, window_start_s(window, self._now_ns, zone), zone)
            self._resets[window, zone] = None if end_s is None else format_time(end_s * NANOS_PER_S)
        return self._resets[window, zone]

    def _amounts(self, kind: str, account_id: str) -> dict[str, int]:
        account = self._state.budgets.get(account_key(kind, account_id))
        return cap_amounts(account.caps) if account is not None else {}

    @staticmethod
    def _policy(key: Key, amounts: dict[str, int]) -> PolicyView:
        return PolicyView(
            **_shown_caps(amounts),
            identity=key.identity,
            allow_unknown_agents=key.allow_unknown_agents,
            upstreams=_any_or(key.upstreams),
            allowed_endpoints=_any_or(key.endpoints),
            models=_any_or(key.models),
            uncapped=key.uncapped,
            on_exhausted=key.on_exhausted,
            rate_limit_rpm=key.rpm or None,
            rate_limit_tpm=key.tpm or None,
        )


def who(by: By) -> str:
    """Who caused something, as a list shows it."""
    return by.name or by.operator


def _shown_caps(amounts: dict[str, int]) -> dict[str, Any]:
    """By field name, dollars as strings; Any because the fields of the two kinds differ in type."""
    return {name: format_amount(CAP_FIELDS[name][0], amount) for name, amount in amounts.items()}


def _any_or(values: Sequence[str]) -> list[str] | None:
    return list(values) or None
