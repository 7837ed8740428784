"""A control plane's disk, with its checkpoint: it may refuse to write, or lose the end of what it had written."""

from controlplane.checkpoints import MemoryCheckpoints


class Disk(MemoryCheckpoints):
    """`broken`: nothing can be written. It survives the processes that use it."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    async def save(self, data: bytes) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        await super().save(data)

    def tear(self, share: float) -> None:
        """After a power failure only a part of the file is there."""
        if self.data is not None:
            self.data = self.data[: int(len(self.data) * share)]
