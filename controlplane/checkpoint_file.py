"""Checkpoints in files of the data directory: written by a copy of the process, replaced as a whole, two kept.

Why a copy
    Making the bytes takes most of a second with 100,000 keys, and the ledger must not wait that long. A forked copy
    has the state of one instant for as long as it likes, whatever the ledger folds meanwhile; the fork itself takes
    some milliseconds. The copy does nothing but make the bytes, write them, read them back and exit: it holds no
    connection and no listener, answers nobody, and if memory is short it is the one that goes.

Why the parent renames
    A copy that outlives its parent must not put an old state in the place of its successor's newer one. So it writes
    a file under a name of its own, and only a living parent gives it the name that counts. What a dead one has left
    is removed at the next start.
"""

import asyncio
import contextlib
import gc
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

NAME = "checkpoint"
OLDER = "checkpoint.1"
FRESH = "checkpoint.new-"
"""Begins the name of a file that is being written."""

NICE = 10
"""A checkpoint is in no hurry; requests are."""

NO_ERRNO = 255
"""Exit status of a copy that failed for another reason than the system's."""


class FileCheckpoints:
    """Keeps the two newest checkpoints in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def load(self) -> bytes | None:
        """The newest, or None. Raises OSError."""
        return await asyncio.to_thread(self._load, NAME)

    async def load_older(self) -> bytes | None:
        """The one before, or None. Raises OSError."""
        return await asyncio.to_thread(self._load, OLDER)

    async def drop_newest(self) -> None:
        """It cannot be read: the older one takes its place. Raises OSError."""
        await asyncio.to_thread(self._drop_newest)

    async def write(self, make: Callable[[], bytes]) -> int:
        """Keep what `make` gives in a copy of this process as it is now; returns its size in bytes.

        On return it survives a power failure. Raises OSError, and leaves the others as they were.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=FRESH, dir=self._directory)
        fresh = Path(name)
        try:
            copy = _fork(descriptor, make)
        finally:
            os.close(descriptor)
        try:
            status = await asyncio.to_thread(_exit_status, copy)
            if status:
                raise OSError(status, os.strerror(status) if status != NO_ERRNO else "the copy failed")
            return await asyncio.to_thread(self._keep, fresh)
        finally:
            _remove(fresh)

    def _load(self, name: str) -> bytes | None:
        for left in self._directory.glob(f"{FRESH}*"):
            _remove(left)
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def _keep(self, fresh: Path) -> int:
        """Each step leaves a newest checkpoint that is whole."""
        size = fresh.stat().st_size
        newest = self._directory / NAME
        if newest.exists():
            link = self._directory / f"{FRESH}older"
            link.unlink(missing_ok=True)
            os.link(newest, link)
            link.replace(self._directory / OLDER)
        fresh.replace(newest)
        self._sync_directory()
        return size

    def _drop_newest(self) -> None:
        (self._directory / OLDER).replace(self._directory / NAME)
        self._sync_directory()

    def _sync_directory(self) -> None:
        """The new names, too, must survive a power failure."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def _fork(descriptor: int, make: Callable[[], bytes]) -> int:
    """Start the copy; returns its process id."""
    with warnings.catch_warnings():
        # Python warns of locks that another thread may hold. The copy takes none: it encodes, writes and exits.
        warnings.simplefilter("ignore", DeprecationWarning)
        copy = os.fork()
    if copy == 0:
        _run_copy(descriptor, make)
    return copy


def _run_copy(descriptor: int, make: Callable[[], bytes]) -> NoReturn:
    status = NO_ERRNO
    try:
        gc.disable()  # a collection would touch, and so copy, all of the parent's memory
        _stand_back(descriptor)
        _write(descriptor, make())
        status = 0
    except OSError as error:
        status = min(error.errno or NO_ERRNO, NO_ERRNO)
    finally:
        os._exit(status)  # neither the parent's clean-up nor its buffers are the copy's business


def _stand_back(descriptor: int) -> None:
    """Hold none of the parent's connections and listeners, wait for it at the processor, and go first if memory is
    short.
    """
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    os.nice(NICE)
    with contextlib.suppress(OSError):  # Linux only, and it may be forbidden
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _write(descriptor: int, data: bytes) -> None:
    """Write, sync, and read back."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        if file.read() != data:
            raise OSError(5, os.strerror(5))


def _exit_status(copy: int) -> int:
    """Wait for the copy to end; 0 if all went well."""
    _, status = os.waitpid(copy, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else NO_ERRNO
