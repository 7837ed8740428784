"""The state of the control plane: the fold of the control log, and nothing else.

Deterministic and without I/O. Every event of every replica passes through `apply` in the log's order; equal
logs give equal states, and equal images byte for byte (rule P5). What nodes append is the ledger's part
(events.state.budget).
"""

from typing import assert_never

import msgspec
from msgspec.structs import force_setattr

from events.state.alerts import Alert, AlertFold
from events.state.keys import Key, KeyFold
from events.state.nodes import Node, fold_node
from events.state.operators import Operator, OperatorFold
from events.state.registry import Agent, adopt_agent, drop_made_for, fold_agent
from events.types import (
    AgentRegistered,
    AgentRemoved,
    AgentResumed,
    AgentSuspended,
    AgentUpdated,
    AlertCleared,
    AlertRaised,
    BudgetSet,
    ControlEvent,
    KeyChanged,
    KeyIssued,
    KeyResumed,
    KeyRevoked,
    KeySuspended,
    KeyTokenRevoked,
    LeaderStarted,
    LeaseGranted,
    Marked,
    NodeFenced,
    NodeJoined,
    OperatorTokenIssued,
    OperatorTokenRevoked,
    OperatorTokenRotated,
    RequestReconciled,
)
from schemas.accounts import AccountCaps, account_key
from schemas.equals import Equals


class ControlImage(msgspec.Struct, frozen=True):
    """A checkpoint of ControlState after sequence `seq`."""

    seq: int
    epoch: int
    agents: dict[str, Agent]
    keys: dict[str, Key]
    revoked_early: dict[str, int]
    budgets: dict[str, AccountCaps]
    budget_seqs: dict[str, int]
    operators: dict[str, Operator]
    nodes: dict[str, Node]
    alerts: dict[str, Alert] = {}
    alerts_seen: dict[str, int] = {}


class ControlState:
    """Everything that the control log says, by id. Records are frozen; a change replaces the record.

    `keys`: by id, in order of issue. `tokens`: digest -> key id, of revoked tokens too. `budgets`: the latest
    caps of each account by `kind:id`, in order of setting; one without caps was uncapped again. `budget_seqs`: their
    sequences.
    `operator_tokens`: digest -> operator id. `nodes`: by incarnation. `epoch`: of the newest LeaderStarted.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.epoch = 0
        self.agents: dict[str, Agent] = {}
        self.budgets: dict[str, AccountCaps] = {}
        self.budget_seqs: dict[str, int] = {}
        self.nodes: dict[str, Node] = {}
        self._keys = KeyFold()
        self.keys = self._keys.records
        self.tokens = self._keys.tokens
        self._equals = Equals()
        self._operators = OperatorFold()
        self.operators = self._operators.records
        self.operator_tokens = self._operators.tokens
        self.alerts = AlertFold()

    def apply(self, seq: int, event: ControlEvent) -> None:
        """Fold one event of the message at stream sequence `seq` (a message holds several).

        Raises ValueError if `seq` goes back: whoever feeds the log skips repeats (rule L5).
        """
        if seq < self.seq:
            raise ValueError(f"control log went back from sequence {self.seq} to {seq}")
        self.seq = seq
        match event:
            case KeyIssued() | KeyChanged() | KeySuspended() | KeyResumed() | KeyRevoked() | KeyTokenRevoked():
                self._apply_key(seq, event)
            case AgentRegistered() | AgentUpdated() | AgentSuspended() | AgentResumed() | AgentRemoved():
                fold_agent(self.agents, seq, event)
            case BudgetSet():
                self._set_budget(seq, event)
            case NodeJoined() | NodeFenced():
                fold_node(self.nodes, seq, event)
            case OperatorTokenIssued() | OperatorTokenRevoked() | OperatorTokenRotated():
                self._operators.apply(seq, event)
            case AlertRaised() | AlertCleared():
                self.alerts.apply(seq, event)
            case LeaderStarted():
                self.epoch = event.epoch
            case Marked() | LeaseGranted() | RequestReconciled():
                pass  # the ledger's: events.state.budget
            case _:
                assert_never(event)

    def caps_of(self, kind: str, account_id: str) -> AccountCaps | None:
        """The account's caps, or None if it has none."""
        account = self.budgets.get(account_key(kind, account_id))
        return account if account is not None and account.caps else None

    def zone_of(self, kind: str, account_id: str) -> str:
        """The IANA time zone in which the account's windows turn."""
        account = self.budgets.get(account_key(kind, account_id))
        return account.zone if account is not None else "UTC"

    def image(self) -> ControlImage:
        """A checkpoint. It shares the frozen records, not the dictionaries."""
        return ControlImage(
            seq=self.seq,
            epoch=self.epoch,
            agents=dict(self.agents),
            keys=dict(self.keys),
            revoked_early=dict(self._keys.revoked_early),
            budgets=dict(self.budgets),
            budget_seqs=dict(self.budget_seqs),
            operators=dict(self.operators),
            nodes=dict(self.nodes),
            alerts=dict(self.alerts.records),
            alerts_seen=dict(self.alerts.seen),
        )

    @classmethod
    def from_image(cls, image: ControlImage) -> "ControlState":
        state = cls()
        state.seq = image.seq
        state.epoch = image.epoch
        state.agents.update(image.agents)
        state.nodes.update(image.nodes)
        state._keys.load(image.keys, image.revoked_early)
        for name, account in image.budgets.items():
            state._share(account)
            state.budgets[name] = account
            state.budget_seqs[name] = image.budget_seqs[name]
        state._operators.load(image.operators)
        state.alerts.load(image.alerts, image.alerts_seen)
        return state

    def _apply_key(
        self,
        seq: int,
        event: KeyIssued | KeyChanged | KeySuspended | KeyResumed | KeyRevoked | KeyTokenRevoked,
    ) -> None:
        known = event.id in self.keys
        for dropped in self._keys.apply(seq, event):
            self._drop_key(dropped)
        if isinstance(event, KeyIssued) and not known and event.id in self.keys:
            adopt_agent(self.agents, event.agent, event.id)
            if event.caps is not None:
                self._put_budget(seq, event.caps)

    def _drop_key(self, key: Key) -> None:
        self.budgets.pop(account_key("key", key.id), None)
        self.budget_seqs.pop(account_key("key", key.id), None)
        if account_key("agent", key.agent) not in self.budgets:
            drop_made_for(self.agents, key.agent, key.id)

    def _set_budget(self, seq: int, event: BudgetSet) -> None:
        account = event.account
        if account.kind == "key":
            key = self.keys.get(account.id)
            if key is None or key.state == "revoked":
                return  # as a late KeyIssued: nothing of an ended key comes back
            self._keys.touch(seq, account.id, event.by)
        self._put_budget(seq, account)

    def _share(self, account: AccountCaps) -> None:
        """Keys' caps are alike by the thousand, and a key's account has the key's own id."""
        self._equals.share(account, ("caps",))
        key = self.keys.get(account.id) if account.kind == "key" else None
        if key is not None:
            force_setattr(account, "id", key.id)

    def _put_budget(self, seq: int, account: AccountCaps) -> None:
        name = account_key(account.kind, account.id)
        self._share(account)
        self.budgets.pop(name, None)  # set again means newest, also in the dictionaries' order
        self.budget_seqs.pop(name, None)
        self.budgets[name] = account
        self.budget_seqs[name] = seq
