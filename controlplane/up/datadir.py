"""The data directory of a one-machine Ringfence: what lies where, who may read it, and who holds it.

endpoints.json     URLs once all is ready
operator-token     the first operator's token (0600), written at the first start
secrets.json       generated passwords of the embedded services (0600)
nats/ audit/ control/    state
run/               settings and ready marks of the running processes (0600), remade at each start
logs/              one file a process
"""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Self

PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600


class DataDirError(Exception):
    """The directory cannot be used; the message says why and what to do."""


class DataDir:
    """A directory, locked for one `ringfence up` at a time. Use as a context manager."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.nats = self.root / "nats"
        self.audit = self.root / "audit"
        self.control = self.root / "control"
        self.run = self.root / "run"
        self.logs = self.root / "logs"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Make the directories and take the lock. Raises DataDirError."""
        try:
            for path in (self.root, self.nats, self.audit, self.control, self.run, self.logs):
                path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
            # The root holds secrets: also one that was made with wider rights before.
            self.root.chmod(PRIVATE_DIR)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise DataDirError(f"{self.root} cannot be used: {error.strerror}. Choose another --data-dir.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = None
            raise DataDirError(
                f"another `ringfence up` runs on {self.root}. Stop it, or choose another --data-dir."
            ) from None
        self._forget_last_run()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the lock; what was announced is no longer true."""
        with contextlib.suppress(OSError):
            (self.root / "endpoints.json").unlink()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _forget_last_run(self) -> None:
        for path in (*self.run.iterdir(), self.root / "endpoints.json"):
            path.unlink(missing_ok=True)

    def write_json(self, path: Path, value: Any) -> Path:
        """Atomically, readable by the owner alone."""
        return write_private(path, json.dumps(value, indent=1).encode())

    def secret(self, name: str, make: str) -> str:
        """A generated secret that stays the same over restarts; `make` is taken the first time."""
        path = self.root / "secrets.json"
        try:
            secrets = json.loads(path.read_text())
        except FileNotFoundError:
            secrets = {}
        if name not in secrets:
            secrets[name] = make
            self.write_json(path, secrets)
        return str(secrets[name])


def write_private(path: Path, data: bytes) -> Path:
    """Replace a file atomically and durably, mode 0600: a reader sees the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        os.fchmod(descriptor, PRIVATE_FILE)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    return path
