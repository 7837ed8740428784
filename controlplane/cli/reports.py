"""`ringfence report`, `requests` and `nodes`: what happened, and who is up."""

import sys
from typing import Any
from urllib.parse import quote

import click

from controlplane.cli.context import CONTEXT_SETTINGS, Context, a_name, given, json_option, limit_option, note_more
from controlplane.cli.output import print_fields, print_json, print_rows

GROUPS = ("agent", "team", "purpose", "cost_center", "key", "run", "user", "feature", "upstream", "model", "day")
FIGURES = (
    "admitted",
    "settled",
    "released",
    "refused",
    "unknown",
    "settled_usd",
    "held_usd",
    "input_tokens",
    "output_tokens",
)
REQUEST_COLUMNS = (
    "at",
    "request_id",
    "agent",
    "upstream",
    "method",
    "path",
    "model",
    "status",
    "outcome",
    "refusal",
    "actual_usd",
)
CHANGE_COLUMNS = ("at", "event", "subject", "operator_name", "address", "reason")
"""What a person reads; `--json` and `--csv` hold the details."""
NODE_COLUMNS = ("slot", "incarnation", "state", "fence_reason", "joined_at", "applied", "pid", "version")


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("name", type=click.Choice(["spend", "requests", "changes"]))
@click.option("--group-by", type=click.Choice(GROUPS), help="[default: agent]")
@click.option("--from", "from_", help='RFC 3339 or relative, such as "24h". Inclusive.')
@click.option("--to", help="Exclusive.")
@click.option("--agent")
@click.option("--team")
@click.option("--purpose")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@click.pass_obj
def report(obj: Context, /, name: str, *, from_: str | None, as_csv: bool, as_json: bool, **options: Any) -> None:
    """Print a report.

    \b
    ringfence report spend --group-by agent
    ringfence report spend --group-by day --from 30d --csv > spend.csv
    """
    params = {key: str(value) for key, value in given(**options).items()}
    if from_:
        params["from"] = from_
    if as_csv:
        params["format"] = "csv"
        sys.stdout.write(obj.client().call("GET", f"/v1/reports/{name}", params=params) or "")
        return
    answer = obj.client().call("GET", f"/v1/reports/{name}", params=params)
    if as_json:
        print_json(answer)
        return
    rows = answer["data"]
    if name == "changes":
        print_rows(rows, CHANGE_COLUMNS, empty="No changes in this span.")
        return
    columns = [*[column for column in (rows[0] if rows else {}) if column not in FIGURES], *FIGURES]
    print_rows(rows, columns, empty="Nothing in this span.")


@click.group(context_settings=CONTEXT_SETTINGS)
def requests() -> None:
    """Single requests in the audit."""


@requests.command("list")
@click.option("--agent")
@click.option("--team")
@click.option("--key", help="A key's id.")
@click.option("--run")
@click.option("--upstream")
@click.option("--outcome", type=click.Choice(["open", "settled", "released", "unknown", "refused"]))
@click.option("--refusal", help='A refusal\'s code, such as "cap_exhausted"; docs/REFUSALS.md lists them.')
@click.option("--from", "from_", help='RFC 3339 or relative, such as "24h". Inclusive.')
@click.option("--to", help="Exclusive.")
@limit_option
@json_option
@click.pass_obj
def list_requests(obj: Context, /, *, from_: str | None, as_json: bool, **filters: Any) -> None:
    """List requests, newest first.

    \b
    ringfence requests list --agent billing-bot --outcome refused --from 1h
    """
    params = {key: str(value) for key, value in given(**filters).items()}
    if from_:
        params["from"] = from_
    answer = obj.client().call("GET", "/v1/requests", params=params)
    if as_json:
        print_json(answer)
    else:
        print_rows(answer["data"], REQUEST_COLUMNS, empty="No requests.")
        note_more(answer)


@requests.command("show")
@click.argument("request_id", type=a_name)
@json_option
@click.pass_obj
def show_request(obj: Context, request_id: str, *, as_json: bool) -> None:
    """Show one request."""
    answer = obj.client().call("GET", f"/v1/requests/{quote(request_id, safe='')}")
    if as_json:
        print_json(answer)
    else:
        print_fields(answer)


@click.command(context_settings=CONTEXT_SETTINGS)
@limit_option
@json_option
@click.pass_obj
def nodes(obj: Context, /, *, limit: int, as_json: bool) -> None:
    """List proxy nodes: who is up, and what each has applied."""
    answer = obj.client().call("GET", "/v1/nodes", params={"limit": str(limit)})
    if as_json:
        print_json(answer)
    else:
        print_rows(answer["data"], NODE_COLUMNS, empty="No nodes.")
        note_more(answer)
