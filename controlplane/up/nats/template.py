"""Prints nats.conf for a server of its own, or for each server of a cluster of three.

python -m controlplane.up.nats.template > compose/nats.conf
python -m controlplane.up.nats.template --cluster > compose/nats-cluster.conf
python -m controlplane.up.nats.template --cluster --tls /etc/nats/tls --slots 32
"""

import sys

import click

from controlplane.up.nats.blocks import ClusterPlan, TlsFiles
from controlplane.up.nats.config import ServerPlan, render
from controlplane.up.nats.limits import CONTROL_WANTED_BYTES, NODES_WANTED_BYTES, StreamLimits

TEMPLATE_SLOTS = tuple(f"n{number}" for number in range(1, 9))

_NOTES = """\
# Passwords come from the environment of the server: RF_NATS_control, and RF_NATS_<slot> for each slot below.
# Begin each with a letter; the server reads a bare number as a number. `openssl rand -hex 24` behind a `p` does.
# Each proxy node needs a slot of its own. More slots: --slots 32.
"""

_CLUSTER_NOTES = """\
# One of three servers, which share this file. Each has in its environment besides:
#   RF_NATS_name     its own name, unique and kept for ever: ringfence-1
#   RF_NATS_route    a password for the routes
#   RF_NATS_routes   all three: ["nats://route:PASSWORD@nats-1:6222", "nats://route:PASSWORD@nats-2:6222", ...]
# Never start the store of a single server with this file: a cluster deletes streams that it has not agreed on.
"""


def render_template(slots: tuple[str, ...] = TEMPLATE_SLOTS, *, cluster: bool = False, tls: str = "") -> str:
    """Return the configuration for a container: all interfaces, /data, passwords from the environment.

    `tls`: a directory with `server.pem`, `server.key` and `ca.pem`, as the server sees it.
    """
    files = TlsFiles(f"{tls}/server.pem", f"{tls}/server.key", f"{tls}/ca.pem", verify=True) if tls else None
    every_interface = "0.0.0.0"  # noqa: S104 - a container's own network
    return render(
        ServerPlan(
            slots=slots,
            host=every_interface,
            port=4222,
            store_dir="/data/jetstream",
            max_file_store_bytes=StreamLimits(CONTROL_WANTED_BYTES, NODES_WANTED_BYTES).store_bytes,
            password=lambda user: f"$RF_NATS_{user}",
            monitor="127.0.0.1:8222",
            notes=_NOTES + (_CLUSTER_NOTES if cluster else ""),
            server_name="$RF_NATS_name" if cluster else "ringfence",
            cluster=ClusterPlan(every_interface, 6222, "$RF_NATS_routes", "$RF_NATS_route", files) if cluster else None,
            tls=files,
        )
    )


@click.command()
@click.option("--slots", type=click.IntRange(1, 1000), default=len(TEMPLATE_SLOTS), show_default=True)
@click.option("--cluster", is_flag=True, help="For each of three servers that share their streams.")
@click.option("--tls", default="", metavar="DIR", help="Where server.pem, server.key and ca.pem lie for the server.")
def main(slots: int, *, cluster: bool, tls: str) -> None:
    """Print nats-server's configuration."""
    names = tuple(f"n{number}" for number in range(1, slots + 1))
    sys.stdout.write(render_template(names, cluster=cluster, tls=tls))


if __name__ == "__main__":
    main()
