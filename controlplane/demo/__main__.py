"""`python -m controlplane.demo`: the simulated vendors as a process of their own.

Keys come from the environment (`RINGFENCE_DEMO_STRIPE_KEY`, `RINGFENCE_DEMO_OPENAI_KEY`), or are drawn at start and
written to `--credentials FILE`; never from the command line, which every user of a machine can read.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec
import uvloop

from controlplane.demo.vendors import DemoVendors, new_openai_key, new_stripe_key
from controlplane.parent import parent_gone

STRIPE_KEY_VARIABLE = "RINGFENCE_DEMO_STRIPE_KEY"
OPENAI_KEY_VARIABLE = "RINGFENCE_DEMO_OPENAI_KEY"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Stripe's port, OpenAI's is the next; 0: any two.")
@click.option("--log", "log_file", type=click.Path(path_type=Path, dir_okay=False), help="Append a line a request.")
@click.option("--endpoints", type=click.Path(path_type=Path, dir_okay=False), help="Write the addresses here.")
@click.option(
    "--credentials", type=click.Path(path_type=Path, dir_okay=False), help="Write the keys here, for the owner only."
)
@click.option("--seed", type=int, help="Makes ids and chances repeatable.")
@click.option("--parent-pid", type=int, default=0, help="End when this process has gone; 0: go on alone.")
def main(
    *,
    host: str,
    port: int,
    log_file: Path | None,
    endpoints: Path | None,
    credentials: Path | None,
    seed: int | None,
    parent_pid: int,
) -> None:
    """Simulated Stripe and OpenAI. Prints {"stripe", "openai", "pid"} as one line once both listen."""
    stripe_key, openai_key = os.environ.get(STRIPE_KEY_VARIABLE), os.environ.get(OPENAI_KEY_VARIABLE)
    if credentials is None and not (stripe_key and openai_key):
        message = f"set {STRIPE_KEY_VARIABLE} and {OPENAI_KEY_VARIABLE}, or give --credentials FILE"
        raise click.UsageError(message)
    stripe_key, openai_key = stripe_key or new_stripe_key(), openai_key or new_openai_key()
    vendors = DemoVendors(
        stripe_key=stripe_key,
        openai_key=openai_key,
        seed=seed,
        host=host,
        stripe_port=port,
        openai_port=port + 1 if port else 0,
        log_file=log_file,
    )
    try:
        if credentials is not None:
            _write(credentials, {"stripe_key": stripe_key, "openai_key": openai_key})
        uvloop.run(_serve(vendors, endpoints, parent_pid))
    except OSError as error:
        raise click.ClickException(str(error)) from error


async def _serve(vendors: DemoVendors, endpoints: Path | None, parent_pid: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with vendors:
        addresses = {"stripe": vendors.stripe_url, "openai": vendors.openai_url, "pid": os.getpid()}
        if endpoints is not None:
            _write(endpoints, addresses)
        click.echo(msgspec.json.encode(addresses).decode())
        sys.stdout.flush()
        ends = {
            loop.create_task(stop.wait(), name="stop signal"),
            loop.create_task(parent_gone(parent_pid), name="parent watch"),
        }
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


def _write(path: Path, shown: Mapping[str, object]) -> None:
    """Put the file there whole or not at all, readable by its owner alone."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(shown) + b"\n")
    part.replace(path)


if __name__ == "__main__":
    main()
