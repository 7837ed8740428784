"""A Budget as bytes and back: checkpoints, and the proof that replaying the logs gives the same state (P5).

Canonical: sorted, without zeros and without caches, so equal budgets give equal bytes whatever way they took.
"""

import msgspec

from events.state.budget import Budget, Open, Overruns
from events.state.four import Four
from events.state.objects import TrackedObject
from events.state.tally import Row


class OpenImage(msgspec.Struct, frozen=True, array_like=True):
    """One open request, without what can be looked up again."""

    name: str
    actor: str
    key: str
    agent: str
    owner: str
    at_ns: int
    bound: Four
    lines: tuple[str, ...]
    unknown: bool
    counted: Four | None
    idempotency: str
    resolved: bool
    since_seq: int = 0


class BudgetImage(msgspec.Struct, frozen=True):
    """All that Budget knows. Rows as `rows()` of its parts gives them."""

    edge_s: int
    keys: list[tuple[str, int]]
    accounts: list[Row]
    first_agents: list[tuple[str, str]]
    leases: list[tuple[str, str, int, int, int]]
    fenced: list[str]
    ended: list[str]
    open: list[OpenImage]
    reconciled: list[tuple[str, Four]]
    objects: list[tuple[str, TrackedObject]]
    objects_newest_ns: int
    overruns: Overruns
    kept: list[str] = []


def budget_image(budget: Budget) -> BudgetImage:
    """Take a checkpoint. It shares nothing that changes later once it is encoded, so encode it at once."""
    return BudgetImage(
        edge_s=budget.tally.edge_s,
        keys=sorted(budget.tally.key_expiry_ns.items()),
        accounts=list(budget.tally.rows()),
        first_agents=budget.tally.first_agents(),
        leases=list(budget.leases.rows()),
        fenced=sorted(budget.leases.fenced),
        ended=sorted(budget.leases.ended),
        open=[_open_image(name, budget.open[name]) for name in sorted(budget.open)],
        reconciled=sorted(budget.reconciled.items()),
        objects=list(budget.objects.rows()),
        objects_newest_ns=budget.objects.newest_ns,
        overruns=budget.overruns,
        kept=sorted(budget.leases.kept),
    )


def _open_image(name: str, request: Open) -> OpenImage:
    return OpenImage(
        name,
        request.actor,
        request.key,
        request.agent,
        request.owner,
        request.at_ns,
        request.bound,
        request.draw.lines,
        request.unknown,
        request.counted,
        request.idempotency,
        request.resolved,
        request.since_seq,
    )


def budget_from_image(image: BudgetImage) -> Budget:
    """The Budget that the image was taken of."""
    budget = Budget()
    budget.tally.edge_s = budget.leases.edge_s = image.edge_s
    for key_id, expires_at_ns in image.keys:
        budget.tally.set_expiry(key_id, expires_at_ns)
    budget.tally.load(image.accounts, image.first_agents)
    budget.leases.fenced = set(image.fenced)
    budget.leases.ended = set(image.ended)
    budget.leases.kept = set(image.kept)
    budget.leases.load(image.leases)
    budget.objects.load(image.objects, image.objects_newest_ns)
    budget.reconciled = dict(image.reconciled)
    budget.overruns = image.overruns
    for row in image.open:
        spot = budget.tally.spot(row.key, row.agent, row.owner, row.at_ns)
        draw = budget.leases.draw(row.actor, row.lines)
        budget.open[row.name] = Open(
            row.actor,
            row.key,
            row.agent,
            row.owner,
            row.at_ns,
            row.bound,
            spot,
            draw,
            row.unknown,
            row.counted,
            row.idempotency,
            row.resolved,
            row.since_seq,
        )
        if row.idempotency:
            budget.repeats.add(row.idempotency, row.name, row.at_ns)
    return budget


def dump_budget(budget: Budget) -> bytes:
    """Canonical bytes: equal for equal budgets, however they came about."""
    return msgspec.json.encode(budget_image(budget))


def load_budget(data: bytes) -> Budget:
    """Raises msgspec.DecodeError for bytes that are no dump."""
    return budget_from_image(msgspec.json.decode(data, type=BudgetImage))
