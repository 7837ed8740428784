"""Ids that look like a vendor's and depend on nothing but a seed and how many were made before."""

import hashlib


class Ids:
    """Makes ids; each prefix counts on its own, so that more requests do not change the ids of objects."""

    def __init__(self, seed: bytes) -> None:
        self._seed = hashlib.sha256(seed).digest()
        self._made: dict[str, int] = {}  # bounded: prefixes are constants of this package

    def make(self, prefix: str, digits: int = 24) -> str:
        """`prefix` and `digits` (at most 64) hexadecimal digits, never twice the same."""
        count = self._made.get(prefix, 0)
        self._made[prefix] = count + 1
        digest = hashlib.blake2b(f"{prefix}{count}".encode(), key=self._seed, digest_size=32)
        return prefix + digest.hexdigest()[:digits]
