"""Prints nats.conf for a server of its own: `python -m controlplane.up.nats.template > compose/nats.conf`."""

import sys

from controlplane.up.nats.config import ServerPlan, render
from controlplane.up.nats.limits import CONTROL_WANTED_BYTES, NODES_WANTED_BYTES, StreamLimits

TEMPLATE_SLOTS = tuple(f"n{number}" for number in range(1, 9))

_NOTES = """\
# Passwords come from the environment of the server: RF_NATS_control, and RF_NATS_<slot> for each slot below.
# Begin each with a letter; the server reads a bare number as a number. `openssl rand -hex 24` behind a `p` does.
# Each proxy node needs a slot of its own. More slots: --slots 32.
"""


def render_template(slots: tuple[str, ...] = TEMPLATE_SLOTS) -> str:
    """Return the configuration for a container: all interfaces, /data, passwords from the environment."""
    return render(
        ServerPlan(
            slots=slots,
            host="0.0.0.0",  # noqa: S104 - a container's own network
            port=4222,
            store_dir="/data/jetstream",
            max_file_store_bytes=StreamLimits(CONTROL_WANTED_BYTES, NODES_WANTED_BYTES).store_bytes,
            password=lambda user: f"$RF_NATS_{user}",
            monitor="127.0.0.1:8222",
            notes=_NOTES,
        )
    )


def main(arguments: list[str]) -> int:
    count = int(arguments[arguments.index("--slots") + 1]) if "--slots" in arguments else len(TEMPLATE_SLOTS)
    sys.stdout.write(render_template(tuple(f"n{number}" for number in range(1, count + 1))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
