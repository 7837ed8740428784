"""`ringfence keys`: issue, list, show, suspend, resume, revoke."""

from typing import Any
from urllib.parse import quote

import click

from controlplane.cli.context import CONTEXT_SETTINGS, Context, a_name, given, json_option, limit_option, note_more
from controlplane.cli.output import print_fields, print_json, print_rows

LIST_COLUMNS = ("id", "label", "agent", "state", "upstreams", "spent_today", "expires_at")


@click.group(context_settings=CONTEXT_SETTINGS)
def keys() -> None:
    """Vault keys: what agents hold in place of a vendor's credential."""


@keys.command()
@click.option("--agent", help="The agent that will hold it; registered if not known yet.")
@click.option("--label", help="A name for people.")
@click.option("--vendor", "upstreams", multiple=True, help="An upstream it may reach (repeatable; default: all).")
@click.option("--endpoint", "allowed_endpoints", multiple=True, help='Such as "POST /v1/payment_intents" (repeatable).')
@click.option("--model", "models", multiple=True, help="A model it may use (repeatable; default: all).")
@click.option("--per-request-cap", "per_request_usd_cap", metavar="USD", help="The most that one request may cost.")
@click.option("--hourly-cap", "hourly_usd_cap", metavar="USD", help="An hour, a day or a month turns in UTC.")
@click.option("--daily-cap", "daily_usd_cap", metavar="USD")
@click.option("--monthly-cap", "monthly_usd_cap", metavar="USD")
@click.option("--total-cap", "total_usd_cap", metavar="USD", help="As long as the key lives.")
@click.option("--uncapped", is_flag=True, help="No cap in dollars: say so, or give one.")
@click.option("--rpm", "rate_limit_rpm", type=click.IntRange(1), help="Requests a minute.")
@click.option("--max-uses", type=click.IntRange(1), help="Requests in all; then the key is spent.")
@click.option("--run", "run_id", help="The run it belongs to, for reports.")
@click.option("--expires-in", help='Such as "1h" or "30d". [default: the server\'s]')
@json_option
@click.pass_obj
def issue(obj: Context, /, *, as_json: bool, run_id: str | None, **options: Any) -> None:
    """Issue a vault key. Its token is shown once.

    \b
    ringfence keys issue --agent billing-bot --vendor stripe --total-cap 100
    ringfence keys issue --label nightly --vendor openai --daily-cap 5 --expires-in 8h
    """
    body = given(**{name: list(value) if isinstance(value, tuple) else value for name, value in options.items()})
    body = {name: value for name, value in body.items() if value != []}
    if run_id:
        body["metadata"] = {"run_id": run_id}
    answer = obj.client().call("POST", "/v1/keys", body=body)
    if as_json:
        print_json(answer)
        return
    print_fields({"key": answer["id"], "token": answer["token"], "expires": answer["expires_at"]})
    print("\nThe token is not shown again. Revoke it with: ringfence keys revoke " + answer["id"])


@keys.command("list")
@click.option("--agent", help="Held by this agent.")
@click.option("--state", type=click.Choice(["active", "suspended", "revoked", "expired"]))
@click.option("--label", help="With this label.")
@click.option("--run", help="Of this run.")
@limit_option
@json_option
@click.pass_obj
def list_keys(obj: Context, /, *, as_json: bool, **filters: Any) -> None:
    """List keys, newest first.

    \b
    ringfence keys list --agent billing-bot --state active
    """
    params = {name: str(value) for name, value in given(**filters).items()}
    answer = obj.client().call("GET", "/v1/keys", params=params)
    if as_json:
        print_json(answer)
        return
    rows = [{**row, "spent_today": _spent_today(row)} for row in answer["data"]]
    print_rows(rows, LIST_COLUMNS, empty="No keys.")
    note_more(answer)


def _spent_today(row: dict[str, Any]) -> Any:
    return ((row.get("spend") or {}).get("day") or {}).get("settled")


@keys.command()
@click.argument("key", type=a_name)
@json_option
@click.pass_obj
def show(obj: Context, /, key: str, *, as_json: bool) -> None:
    """Show a key, its policy, and what it has spent in each window."""
    answer = obj.client().call("GET", f"/v1/keys/{quote(key, safe='')}")
    if as_json:
        print_json(answer)
        return
    spend = answer.pop("spend", {}) or {}
    print_fields(answer)
    print()
    rows = [{"window": window, **figures} for window, figures in spend.items()]
    print_rows(rows, ("window", "cap", "settled", "held", "remaining", "resets_at"), empty="Nothing spent.")


def _on_key(action: str, done: str) -> click.Command:
    @click.command(action, help=f"{action.capitalize()} a key.")
    @click.argument("key", type=a_name)
    @click.pass_obj
    def run(obj: Context, key: str) -> None:
        obj.client().call("POST", f"/v1/keys/{quote(key, safe='')}/{action}")
        print(f"{key} {done}")

    return run


keys.add_command(_on_key("suspend", "is suspended: no node forwards another request with it"))
keys.add_command(_on_key("resume", "works again"))


@keys.command()
@click.argument("key", type=a_name, required=False)
@click.option("--agent", help="Every key of this agent.")
@click.option("--team", help="Every key of this team's agents.")
@click.option("--run", help="Every key of this run.")
@click.option("--label", help="Every key with this label.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.pass_obj
def revoke(obj: Context, /, key: str | None, *, dry_run: bool, **selector: Any) -> None:
    """Revoke a key, or all keys of an agent, team, run or label.

    When this returns, no node forwards another request with them, and their open streams are cut.

    \b
    ringfence keys revoke vk_...
    ringfence keys revoke --run nightly-2026-11-20
    """
    chosen = given(**selector)
    if (key is None) == (not chosen) or len(chosen) > 1:
        raise click.UsageError("give one key, or one of --agent, --team, --run, --label")
    client = obj.client()
    if key is not None:
        if dry_run:
            raise click.UsageError("--dry-run goes with --agent, --team, --run or --label")
        client.call("DELETE", f"/v1/keys/{quote(key, safe='')}")
        print("revoked: no node forwards another request with it")
        return
    answer = client.call("POST", "/v1/keys/revoke", body={**chosen, "dry_run": dry_run})
    count = answer["revoked"]
    print(f"{count} key{'' if count == 1 else 's'} {'would be ' if dry_run else ''}revoked")
