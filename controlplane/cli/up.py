"""`ringfence up`: everything on one machine."""

import asyncio
import os
from pathlib import Path

import click

from controlplane.cli.check import read_settings
from controlplane.cli.client import DEFAULT_DATA_DIR, EXIT_REFUSED, CliError
from controlplane.cli.context import CONTEXT_SETTINGS, Context
from controlplane.up.child import ChildFailed
from controlplane.up.datadir import DataDirError
from controlplane.up.machine import UpError, UpOptions
from controlplane.up.supervisor import run_up
from schemas.config import settings_from_env

DEFAULT_CONFIG = Path("ringfence.yaml")


@click.command(context_settings=CONTEXT_SETTINGS)
@click.option(
    "--data-dir", type=click.Path(path_type=Path),
    help=f"Everything that is kept, secrets among it. [default: {DEFAULT_DATA_DIR}, or RINGFENCE_DATA_DIR]",
)  # fmt: skip
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="[default: ringfence.yaml if it is there]"
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address that proxies and control plane listen on."
)
@click.option("--proxy-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@click.option("--control-port", type=click.IntRange(0, 65535), default=8081, show_default=True)
@click.option("--nats-port", type=click.IntRange(0, 65535), default=4222, show_default=True)
@click.option("--clickhouse-port", type=click.IntRange(0, 65535), default=8123, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Proxy processes.")
@click.option(
    "--controls", type=click.IntRange(1, 9), default=1, show_default=True,
    help="Control planes: one leads, the others stand by, on free ports.",
)  # fmt: skip
@click.option(
    "--nats-servers", type=click.Choice(["1", "3"]), default="1", show_default=True,
    help="3: a cluster, on --nats-port and the next two.",
)  # fmt: skip
@click.option("--demo", is_flag=True, help="Simulated Stripe and OpenAI in place of the real ones.")
@click.pass_obj
def up(
    obj: Context,
    /,
    *,
    data_dir: Path | None,
    config: Path | None,
    host: str,
    proxy_port: int,
    control_port: int,
    nats_port: int,
    clickhouse_port: int,
    workers: int,
    controls: int,
    nats_servers: str,
    demo: bool,
) -> None:
    """Run everything on this machine: NATS, control plane, audit, proxies.

    \b
    ringfence up --demo
    STRIPE_SECRET_KEY=sk_... ringfence up --workers 4
    ringfence up --config ringfence.yaml --data-dir /var/lib/ringfence

    Ctrl-C or SIGTERM drains: open requests finish, events are flushed, leases returned.
    """
    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    settings = read_settings(config) if config is not None else settings_from_env(os.environ)
    if not settings.upstreams and not demo:
        raise CliError(
            "no upstream is configured: set a vendor's variable (such as STRIPE_SECRET_KEY), write ringfence.yaml, "
            "or try `ringfence up --demo`",
            EXIT_REFUSED,
        )
    options = UpOptions(
        data_dir=data_dir or obj.directory,
        settings=settings,
        config=config,
        host=host,
        proxy_port=proxy_port,
        control_port=control_port,
        nats_port=nats_port,
        clickhouse_port=clickhouse_port,
        workers=workers,
        demo=demo,
        controls=controls,
        nats_servers=int(nats_servers),
    )
    try:
        asyncio.run(run_up(options, click.echo))
    except (DataDirError, ChildFailed, UpError) as error:
        raise CliError(str(error), EXIT_REFUSED) from None
