"""`python -m dataplane proxy --settings FILE [--slot n1] [--listen-fd N]`: one proxy process."""

import argparse
import logging
import os
import sys
from importlib import metadata
from pathlib import Path

import uvloop

from dataplane.node_settings import SettingsError, read_settings
from dataplane.process import run
from dataplane.sockets import inherited

_log = logging.getLogger("ringfence.proxy")


def main() -> int:
    """Run the process; its exit code: 0 after a drain, 2 for settings that cannot be used, 1 for anything else."""
    parser = argparse.ArgumentParser(prog="python -m dataplane", description="Ringfence's proxy.")
    parser.add_argument("role", choices=["proxy"])
    parser.add_argument("--settings", required=True, type=Path, help="the node's settings (JSON, mode 0600)")
    parser.add_argument("--slot", default="", help="checked against the settings; shows in the list of processes")
    parser.add_argument("--listen-fd", type=int, help="serve this listening socket, which the starter holds")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        node = read_settings(arguments.settings, arguments.slot)
        listener = inherited(arguments.listen_fd, os.environ)
        uvloop.run(run(arguments.settings, node, _version(), listener))
    except (SettingsError, ValueError) as error:
        _log.error("%s", error)
        return 2
    except Exception as error:  # noqa: BLE001 - the edge of the process: named, and told by the exit code
        _log.critical("the process ends: %s: %s", type(error).__name__, error)
        return 1
    return 0


def _version() -> str:
    try:
        return metadata.version("ringfence")
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
