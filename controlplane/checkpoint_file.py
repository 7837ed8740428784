"""The checkpoint in a file of the data directory: replaced as a whole, and synced before it counts."""

import asyncio
import os
from pathlib import Path

NAME = "checkpoint"


class FileCheckpoints:
    """Keeps one checkpoint in `directory`. Writes in a thread: a disk may take its time, the ledger must not."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def load(self) -> bytes | None:
        """Raises OSError."""
        return await asyncio.to_thread(self._load)

    async def save(self, data: bytes) -> None:
        """Raises OSError, and leaves the old one."""
        await asyncio.to_thread(self._save, data)

    def _load(self) -> bytes | None:
        try:
            return (self._directory / NAME).read_bytes()
        except FileNotFoundError:
            return None

    def _save(self, data: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._directory / f"{NAME}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._directory / NAME)
        self._sync_directory()

    def _sync_directory(self) -> None:
        """The new name, too, must survive a power failure."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
