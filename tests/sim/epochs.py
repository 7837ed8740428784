"""When a story takes place: mostly at some noon, or so that windows turn in its middle.

| turn | which windows turn, where |
|---|---|
| hour | an hour, everywhere but where clocks differ by half an hour or a quarter |
| month | hour, day and month, in UTC |
| local day, month | hour, day (and month) in a zone, hours elsewhere |
| clocks | a zone's clocks are put back or forward: an hour of its own begins, the day is longer or shorter |
"""

from datetime import UTC, datetime
from random import Random
from typing import NamedTuple

from sim.trim import Trim


class Epoch(NamedTuple):
    """`at`: the instant (UTC) at which something turns; `zone`: whose accounts notice most."""

    at: str
    zone: str = "UTC"


NOON = Epoch("2025-11-20T12:00:00")

TURNS = (
    Epoch("2025-11-20T13:00:00"),
    Epoch("2025-11-21T00:00:00"),
    Epoch("2025-12-01T00:00:00"),
    Epoch("2026-01-01T00:00:00"),
    Epoch("2025-11-20T18:15:00", "Asia/Kathmandu"),  # local midnight, a quarter past UTC's hour
    Epoch("2025-11-02T04:00:00", "America/New_York"),  # a day of 25 hours begins,
    Epoch("2025-11-02T06:00:00", "America/New_York"),  # its clocks are put back,
    Epoch("2025-11-03T05:00:00", "America/New_York"),  # it ends
    Epoch("2026-03-08T07:00:00", "America/New_York"),  # a day of 23 hours
    Epoch("2026-03-09T04:00:00", "America/New_York"),
    Epoch("2026-03-29T01:00:00", "Europe/Berlin"),
    Epoch("2026-03-31T22:00:00", "Europe/Berlin"),  # a month that has lost an hour ends
    Epoch("2026-04-23T22:00:00", "Africa/Cairo"),  # there is no midnight: this day begins at 1:00
    Epoch("2026-04-04T15:00:00", "Australia/Lord_Howe"),  # clocks are put back by half an hour
    Epoch("2026-10-03T15:30:00", "Australia/Lord_Howe"),
)


def epoch_of(random: Random, turning_share: float) -> tuple[Epoch, int]:
    """When the story takes place, and its begin in UTC nanoseconds: some seconds before the turn."""
    if random.random() >= turning_share:
        return NOON, begin_ns(NOON, 0.0)
    epoch = random.choice(TURNS)
    return epoch, begin_ns(epoch, random.uniform(0.8, 3.0))


def begin_ns(epoch: Epoch, before_s: float) -> int:
    at = datetime.fromisoformat(epoch.at).replace(tzinfo=UTC)
    return round((at.timestamp() - before_s) * 1000) * 1_000_000


def zone_of(account: str, epoch: Epoch, trim: Trim) -> str:
    """The zone in which an account's windows turn: often the epoch's. Keys have no zone of their own."""
    random = trim.random(f"zone {account}")
    zones = (epoch.zone, epoch.zone, "UTC", "Asia/Kathmandu", "America/New_York")
    return random.choice(zones) if random.random() < 0.7 else "UTC"
