"""The system's randomness, fetched for many draws at once: every request is named, and each draw is a system call."""

import os
from typing import Final

POOL_BYTES: Final = 4096
"""For 256 names. What is left of it is in this process's memory alone."""


class Randomness:
    """`draw(n)`: n random bytes from `os.urandom`, no byte of it twice. Not for several threads, nor across a fork."""

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0

    def draw(self, n: int) -> bytes:
        if n > POOL_BYTES:
            return os.urandom(n)
        start = self._used
        end = start + n
        if end > len(self._pool):
            self._pool = os.urandom(POOL_BYTES)
            start, end = 0, n
        self._used = end
        return self._pool[start:end]
