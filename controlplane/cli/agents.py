"""`ringfence agents` and `ringfence budgets`."""

from typing import Any
from urllib.parse import quote

import click

from controlplane.cli.context import CONTEXT_SETTINGS, Context, a_name, given, json_option, limit_option, note_more
from controlplane.cli.output import print_fields, print_json, print_rows

AGENT_COLUMNS = ("name", "state", "owner", "purpose", "cost_center")
BUDGET_COLUMNS = ("kind", "id", "window", "cap", "settled", "held", "remaining", "resets_at")


@click.group(context_settings=CONTEXT_SETTINGS)
def agents() -> None:
    """Agents: the named callers."""


@agents.command("list")
@limit_option
@json_option
@click.pass_obj
def list_agents(obj: Context, /, *, limit: int, as_json: bool) -> None:
    """List agents, newest first."""
    answer = obj.client().call("GET", "/v1/agents", params={"limit": str(limit)})
    if as_json:
        print_json(answer)
    else:
        print_rows(answer["data"], AGENT_COLUMNS, empty="No agents.")
        note_more(answer)


@agents.command()
@click.argument("name", type=a_name)
@json_option
@click.pass_obj
def show(obj: Context, /, name: str, *, as_json: bool) -> None:
    """Show an agent."""
    answer = obj.client().call("GET", f"/v1/agents/{quote(name, safe='')}")
    if as_json:
        print_json(answer)
    else:
        print_fields(answer)


def _on_agent(action: str, done: str) -> click.Command:
    @click.command(action, help=f"{action.capitalize()} an agent and with it all its keys.")
    @click.argument("name", type=a_name)
    @click.pass_obj
    def run(obj: Context, name: str) -> None:
        obj.client().call("POST", f"/v1/agents/{quote(name, safe='')}/{action}")
        print(f"{name} {done}")

    return run


agents.add_command(_on_agent("suspend", "is suspended"))
agents.add_command(_on_agent("resume", "may call again"))


@click.group(context_settings=CONTEXT_SETTINGS)
def budgets() -> None:
    """Budgets: the caps of agents, teams and the organisation."""


@budgets.command("set")
@click.argument("kind", type=click.Choice(["agent", "team", "org"]))
@click.argument("name", type=a_name)
@click.option("--hourly-cap", "hourly_usd_cap", metavar="USD")
@click.option("--daily-cap", "daily_usd_cap", metavar="USD")
@click.option("--monthly-cap", "monthly_usd_cap", metavar="USD")
@click.option("--total-cap", "total_usd_cap", metavar="USD")
@click.option("--per-request-cap", "per_request_usd_cap", metavar="USD")
@json_option
@click.pass_obj
def set_budget(obj: Context, /, kind: str, name: str, *, as_json: bool, **caps: Any) -> None:
    """Set all caps of an account (those not given are removed).

    \b
    ringfence budgets set team finance --monthly-cap 5000 --daily-cap 400
    """
    answer = obj.client().call("PUT", f"/v1/budgets/{kind}/{quote(name, safe='')}", body=given(**caps))
    if as_json:
        print_json(answer)
    else:
        print(f"{kind} {name}: caps set")


@budgets.command("list")
@limit_option
@json_option
@click.pass_obj
def list_budgets(obj: Context, /, *, limit: int, as_json: bool) -> None:
    """List budgets with what is spent, held and left in each window."""
    answer = obj.client().call("GET", "/v1/budgets", params={"limit": str(limit)})
    if as_json:
        print_json(answer)
        return
    rows = [
        {"kind": row["kind"], "id": row["id"], "window": window, **figures}
        for row in answer["data"]
        for window, figures in (row.get("spend") or {}).items()
        if figures.get("cap") is not None
    ]
    print_rows(rows, BUDGET_COLUMNS, empty="No budgets.")
    note_more(answer)
