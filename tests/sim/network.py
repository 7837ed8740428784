"""The simulated network: what becomes of each message between a process and the NATS server.

One `Network` serves the bus and both streams. Its *weather* says how often messages are late, lost or doubled; on
top of it a process can be cut off in both directions, deaf (no subscription of it hears anything, but its appends
are acknowledged), unacked (its appends arrive, their acknowledgements do not), mute, or slow (it reads the streams with a
delay).
Scripts decide the fate of single messages: the first one that answers wins. The streams themselves are never
wrong: what they have acknowledged they keep, in one order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from events.log.faults import LOST, PublishFate
from events.log.memory import MemoryStream
from events.log.port import AppendUncertain

PublishScript = Callable[[str, str, str], PublishFate | None]
"""(process, subject, message id) -> fate, or None to leave it to the weather."""

BusScript = Callable[[str, str, str], tuple[float, ...] | None]
"""(sender, receiver, subject) -> delays of the copies, or None."""

DeliveryScript = Callable[[str, str, int], float | None]
"""(process, stream, sequence) -> how long a follower does not see the message, or None."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Shares are probabilities, times are seconds. `late_*`: some messages take as long as `late_max_s`."""

    delay_min_s: float = 0.0001
    delay_max_s: float = 0.002
    late_share: float = 0.0
    late_max_s: float = 0.8
    bus_late_share: float = 0.0
    bus_loss: float = 0.0
    bus_double: float = 0.0
    publish_loss: float = 0.0
    publish_double: float = 0.0
    ack_loss: float = 0.0
    delivery_late_share: float = 0.0


CALM = Weather()


class Network:
    """Everybody's way to everybody."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.weather = CALM
        self.cut: set[str] = set()
        self.deaf: set[str] = set()
        self.unacked: set[str] = set()
        self.mute: set[str] = set()
        self.slow: dict[str, float] = {}
        self.refusing: set[str] = set()
        """Streams whose server answers that it cannot store anything."""
        self.publish_scripts: list[PublishScript] = []
        self.bus_scripts: list[BusScript] = []
        self.delivery_scripts: list[DeliveryScript] = []
        self._streams: list[MemoryStream] = []

    def stream_way(self, process: str, stream: MemoryStream) -> "StreamWay":
        """One process's way to a stream."""
        if stream not in self._streams:
            self._streams.append(stream)
        return StreamWay(self, process, stream.name)

    def heal(self) -> None:
        """Everybody reaches everybody again, and followers ask for what they missed; the streams store again."""
        self.refusing.clear()
        for process in sorted({*self.cut, *self.deaf, *self.unacked, *self.mute, *self.slow}):
            self.mend(process)

    def mend(self, process: str) -> None:
        """One process reaches everybody again."""
        self.cut.discard(process)
        self.deaf.discard(process)
        self.unacked.discard(process)
        self.mute.discard(process)
        self.slow.pop(process, None)
        for stream in self._streams:
            for follower in list(stream._followers):  # a real client reconnects and reads on; nobody tells it how far
                way = follower._faults
                if isinstance(way, StreamWay) and way.process == process:
                    follower._show(stream.state().last_sequence)

    # ------------------------------------------------------------ bus

    def deliveries_s(self, sender: str, receiver: str, subject: str) -> tuple[float, ...]:
        for script in self.bus_scripts:
            if (told := script(sender, receiver, subject)) is not None:
                return told
        if {sender, receiver} & self.cut or receiver in self.deaf or sender in self.mute:
            return ()
        weather, random = self.weather, self._random
        if random.random() < weather.bus_loss:
            return ()
        copies = 2 if random.random() < weather.bus_double else 1
        return tuple(self.delay_s(max(weather.late_share, weather.bus_late_share)) for _ in range(copies))

    def delay_s(self, late_share: float) -> float:
        """How long one message takes."""
        weather, random = self.weather, self._random
        if late_share and random.random() < late_share:
            return random.uniform(weather.delay_max_s, weather.late_max_s)
        return random.uniform(weather.delay_min_s, weather.delay_max_s)

    # ------------------------------------------------------------ streams

    def publish_fate(self, process: str, subject: str, msg_id: str) -> PublishFate:
        for script in self.publish_scripts:
            if (told := script(process, subject, msg_id)) is not None:
                return told
        weather, random = self.weather, self._random
        if process in self.cut or process in self.mute or random.random() < weather.publish_loss:
            return LOST
        copies = 2 if random.random() < weather.publish_double else 1
        arrivals = tuple(self.delay_s(weather.late_share) for _ in range(copies))
        lost = process in self.unacked or random.random() < weather.ack_loss
        return PublishFate(arrivals, math.inf if lost else self.delay_s(weather.late_share))

    def delivery_delay_s(self, process: str, stream: str, sequence: int) -> float:
        for script in self.delivery_scripts:
            if (told := script(process, stream, sequence)) is not None:
                return told
        if process in self.cut or process in self.deaf:
            return math.inf  # until it is mended
        return self.delay_s(self.weather.delivery_late_share) + self.slow.get(process, 0.0)


class StreamWay:
    """`StreamFaults` of one process and stream."""

    def __init__(self, network: Network, process: str, stream: str) -> None:
        self._network = network
        self.process = process
        self._stream = stream

    async def on_publish(self, subject: str, msg_id: str | None) -> PublishFate:
        if self._stream in self._network.refusing:
            raise AppendUncertain("server", 10077)
        return self._network.publish_fate(self.process, subject, msg_id or "")

    def delivery_delay_s(self, sequence: int) -> float:
        return self._network.delivery_delay_s(self.process, self._stream, sequence)
