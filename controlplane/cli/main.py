"""`ringfence ...`: the command line. Each group lives in a file of its own; this one joins them."""

import click

from controlplane.cli import agents, check, keys, operators, reports, roles, up
from controlplane.cli.context import CONTEXT_SETTINGS, Context
from controlplane.version import VERSION


@click.group(context_settings=CONTEXT_SETTINGS)
@click.option("--url", help="Control plane, or several separated by commas (or RINGFENCE_URL).")
@click.option("--token", help="Operator token (better: RINGFENCE_TOKEN, which no process list shows).")
@click.option(
    "--data-dir", type=click.Path(),
    help="Data directory of a local `ringfence up` (or RINGFENCE_DATA_DIR). [default: .ringfence]",
)  # fmt: skip
@click.version_option(VERSION, message="ringfence %(version)s")
@click.pass_context
def cli(ctx: click.Context, url: str | None, token: str | None, data_dir: str | None) -> None:
    """Ringfence, the governance gateway for AI agents.

    \b
    Start everything on this machine, with simulated vendors:
        ringfence up --demo
    Then, in another terminal:
        ringfence keys issue --agent billing-bot --vendor stripe --total-cap 100
        ringfence report spend --group-by agent
    """
    ctx.obj = Context(url, token, data_dir)


@cli.command()
def version() -> None:
    """Print the version."""
    print(f"ringfence {VERSION}")


cli.add_command(up.up)
cli.add_command(keys.keys)
cli.add_command(agents.agents)
cli.add_command(agents.budgets)
cli.add_command(operators.operators)
cli.add_command(operators.alerts)
cli.add_command(reports.report)
cli.add_command(reports.requests)
cli.add_command(reports.nodes)
cli.add_command(check.check)
cli.add_command(roles.proxy)
cli.add_command(roles.control)
cli.add_command(roles.audit)


def main() -> None:
    """Console entry point."""
    cli(prog_name="ringfence")
