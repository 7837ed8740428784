"""Randomness in a pool: as good as asked for each time, and no byte given twice."""

import itertools
import os
from types import SimpleNamespace

import pytest

from dataplane import randomness
from dataplane.randomness import POOL_BYTES, Randomness


@pytest.mark.interpreted  # it replaces a part of a module
def test_every_byte_is_the_systems_and_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[bytes] = []

    def urandom(n: int) -> bytes:
        fetched.append(os.urandom(n))
        return fetched[-1]

    monkeypatch.setattr(randomness, "os", SimpleNamespace(urandom=urandom))
    draw = Randomness().draw
    drawn = [draw(n) for n in [16] * 300 + [1, 32, 4095, 4096, 5000, 7, 4090]]
    assert [len(data) for data in drawn] == [16] * 300 + [1, 32, 4095, 4096, 5000, 7, 4090]
    places = []
    for data in drawn:
        block = next(number for number, pool in enumerate(fetched) if data in pool)
        at = fetched[block].index(data)
        places.append((block, at, at + len(data)))
    long = [place for place, data in zip(places, drawn, strict=True) if len(data) > 1]
    long.sort()
    assert all(first[0] != second[0] or first[2] <= second[1] for first, second in itertools.pairwise(long))
    assert len(fetched) <= 10


def test_draws_differ() -> None:
    draw = Randomness().draw
    assert len({draw(16) for _ in range(POOL_BYTES)}) == POOL_BYTES
