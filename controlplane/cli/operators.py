"""`ringfence operators` and `ringfence alerts`: who may administer, and what wants their attention."""

from typing import Any
from urllib.parse import quote

import click

from controlplane.cli.client import EXIT_REFUSED, Client, CliError
from controlplane.cli.context import (
    CONTEXT_SETTINGS,
    MAX_LIMIT,
    Context,
    a_name,
    given,
    json_option,
    limit_option,
    note_more,
)
from controlplane.cli.output import print_fields, print_json, print_rows

OPERATOR_COLUMNS = ("id", "name", "role", "state", "issued_at", "expires_at", "rotated_at", "old_token_ends_at")
ALERT_COLUMNS = ("raised_at", "severity", "kind", "subject", "state", "message", "cleared_at")
ROLES = ("admin", "issuer", "auditor", "viewer")


@click.group(context_settings=CONTEXT_SETTINGS)
def operators() -> None:
    """Operators: who administers this gateway."""


@operators.command()
@click.argument("name", type=a_name)
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option("--expires-in", help='Such as "90d". [default: never]')
@json_option
@click.pass_obj
def issue(obj: Context, /, name: str, *, as_json: bool, **options: Any) -> None:
    """Issue an operator token. It is shown once.

    \b
    ringfence operators issue ci-deployer --role issuer --expires-in 90d
    """
    _show_token(obj.client().call("POST", "/v1/operators", body={"name": name, **given(**options)}), as_json=as_json)


@operators.command("list")
@json_option
@click.pass_obj
def list_operators(obj: Context, /, *, as_json: bool) -> None:
    """List operator tokens (never the tokens themselves)."""
    answer = obj.client().call("GET", "/v1/operators", params={"limit": str(MAX_LIMIT)})
    if as_json:
        print_json(answer)
    else:
        print_rows(answer["data"], OPERATOR_COLUMNS, empty="No operators.")


@operators.command()
@click.argument("operator", type=a_name)
@click.option("--overlap", help='How long the old token goes on working. [default: "24h"]')
@click.option("--expires-in", help="Of the new token. [default: as long as the old one was to last]")
@json_option
@click.pass_obj
def rotate(obj: Context, /, operator: str, *, as_json: bool, **options: Any) -> None:
    """Give an operator (by id, or by a name that one live token has) another token.

    \b
    ringfence operators rotate ci-deployer --overlap 1h
    """
    client = obj.client()
    path = f"/v1/operators/{quote(_find(client, operator), safe='')}/rotate"
    answer = client.call("POST", path, body=given(**options))
    _show_token(answer, as_json=as_json)
    if not as_json:
        print(f"The old token works until {answer['old_token_ends_at']}.")


@operators.command()
@click.argument("operator", type=a_name)
@click.option("--reason", help="Kept with the change in the audit.")
@click.pass_obj
def revoke(obj: Context, operator: str, reason: str | None) -> None:
    """Revoke an operator's tokens, by id or by name."""
    client = obj.client()
    found = _find(client, operator)
    client.call("DELETE", f"/v1/operators/{quote(found, safe='')}", params=given(reason=reason))
    print(f"{found} is revoked")


def _find(client: Client, operator: str) -> str:
    """The id of a live operator token, by id or name. Raises CliError if no or several live ones have the name."""
    if operator.startswith("op_"):
        return operator
    answer = client.call("GET", "/v1/operators", params={"limit": str(MAX_LIMIT)})
    found = [str(row["id"]) for row in answer["data"] if row["name"] == operator and row["state"] == "active"]
    if len(found) != 1:
        many = "several live tokens have" if found else "no live token has"
        raise CliError(
            f"{many} the name {operator!r}: give the id; `ringfence operators list` shows them", EXIT_REFUSED
        )
    return found[0]


def _show_token(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    shown = ("id", "name", "role", "token", "expires_at")
    print_fields({name: answer.get(name) for name in shown})
    print("\nThe token is not shown again. Keep it where RINGFENCE_TOKEN is read from.")


@click.group(context_settings=CONTEXT_SETTINGS, invoke_without_command=True)
@click.pass_context
def alerts(ctx: click.Context) -> None:
    """Alerts: what an operator should look at. Without a command: those that are open.

    \b
    ringfence alerts
    ringfence alerts list --from 24h
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_alerts, state="open", limit=MAX_LIMIT, kind=None, from_=None, to=None, as_json=False)


@alerts.command("list")
@click.option("--state", type=click.Choice(["open", "cleared"]))
@click.option("--kind", help='Such as "cap_reached"; docs/OPERATIONS.md lists them.')
@click.option("--from", "from_", help='Raised since: RFC 3339 or relative, such as "24h".')
@click.option("--to", help="Raised before.")
@limit_option
@json_option
@click.pass_obj
def list_alerts(obj: Context, /, *, from_: str | None, as_json: bool, **filters: Any) -> None:
    """List alerts, newest first.

    \b
    ringfence alerts list --state open
    """
    params = {name: str(value) for name, value in given(**filters).items()}
    if from_:
        params["from"] = from_
    answer = obj.client().call("GET", "/v1/alerts", params=params)
    if as_json:
        print_json(answer)
    else:
        print_rows(answer["data"], ALERT_COLUMNS, empty="No alerts.")
        note_more(answer)
