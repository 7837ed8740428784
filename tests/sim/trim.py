"""Which of a story's items are played: all, or those that a failing seed needs (sim.minimise).

Everything that a seed makes happen has a name (`fault.3`, `call.1.17`, `command.5`, `cap.agent:bot0`, `weather`,
`standby`) and draws what it is from a source of randomness of its own. So leaving one out changes neither what the
others are nor when they are begun; only what the world itself draws (delays, losses, ids) comes out differently.
"""

from random import Random


class Trim:
    """`only`: names of the items that are played; None: all. `items` lists those that came up, in order."""

    def __init__(self, seed: int, only: frozenset[str] | None = None) -> None:
        self.seed = seed
        self.only = only
        self.items: dict[str, None] = {}

    def plays(self, item: str) -> bool:
        self.items[item] = None
        return self.only is None or item in self.only

    def random(self, item: str) -> Random:
        """The item's own source."""
        return Random(f"{item} of {self.seed}")
