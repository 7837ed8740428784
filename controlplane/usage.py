"""What a vault key's own holder may see of it: its use today, by agent, and where its caps stand. Pure."""

from events.state.replica import Replica
from schemas.accounts import AccountCaps, window_end_s, window_start_s
from schemas.rpc import AgentUsage, CapUsage, UsageAnswer


def usage_of(replica: Replica, key_id: str, now_ns: int) -> UsageAnswer:
    """The key's settled requests and dollars of today (UTC), and its own caps."""
    if key_id not in replica.state.keys:
        return UsageAnswer(key_id, known=False)
    budget = replica.budget
    agents = tuple(
        AgentUsage(agent, requests, usd)
        for agent, (usd, _, requests, _) in budget.tally.by_agent(key_id, window_start_s("day", now_ns))
    )
    account = replica.state.caps_of("key", key_id)
    return UsageAnswer(
        key_id,
        period_start_s=window_start_s("day", now_ns),
        total_requests=budget.figure("key", key_id, "requests", "day", now_ns, "UTC").settled,
        total_usd_nanos=budget.figure("key", key_id, "usd", "day", now_ns, "UTC").settled,
        by_agent=agents,
        caps=_caps(replica, account, now_ns) if account is not None else (),
    )


def _caps(replica: Replica, account: AccountCaps, now_ns: int) -> tuple[CapUsage, ...]:
    shown = []
    for cap in account.caps:
        if cap.window == "request":
            shown.append(CapUsage(cap.meter, cap.window, cap.amount))
            continue
        figure = replica.budget.figure(account.kind, account.id, cap.meter, cap.window, now_ns, account.zone)
        start_s = window_start_s(cap.window, now_ns, account.zone)
        resets_at_s = window_end_s(cap.window, start_s, account.zone)
        shown.append(CapUsage(cap.meter, cap.window, cap.amount, figure.settled, figure.held, resets_at_s))
    return tuple(shown)
