"""What may go wrong between an actor and a log in memory, decided by whoever runs the simulation.

A `StreamFaults` belongs to one client's port: it says, for each publish, when copies of the message reach
the stream and whether the acknowledgement comes back, and for each follower, how late it sees a message.
The stream itself is never wrong; as with a real server, only the way to it is.
"""

import math
from typing import NamedTuple, Protocol


class PublishFate(NamedTuple):
    """What becomes of one publish.

    `arrivals_s`: one delay for each copy that reaches the stream; none means that the message is lost, two
    that it was doubled on its way. A copy whose delay is longer than the writer's patience lands all the
    same, as a buffered message does after an outage. `ack_delay_s`: how long the answer of each copy takes;
    `math.inf` loses it after the message was stored.
    """

    arrivals_s: tuple[float, ...] = (0.0,)
    ack_delay_s: float = 0.0


SOUND = PublishFate()
LOST = PublishFate(arrivals_s=())
ACK_LOST = PublishFate(ack_delay_s=math.inf)


class StreamFaults(Protocol):
    """Asked once per event; may await, to hold an event back until the test lets it go."""

    async def on_publish(self, subject: str, msg_id: str | None) -> PublishFate:
        """Decide the fate of one publish. The time spent here counts as the writer's waiting time."""

    def delivery_delay_s(self, sequence: int) -> float:
        """How long a stored message stays invisible to this client's followers.

        `math.inf`: until a later message becomes visible; order is always kept.
        """


class NoFaults:
    """The way to the stream works."""

    async def on_publish(self, subject: str, msg_id: str | None) -> PublishFate:  # noqa: ARG002 - the protocol
        return SOUND

    def delivery_delay_s(self, sequence: int) -> float:  # noqa: ARG002 - the protocol
        return 0.0
