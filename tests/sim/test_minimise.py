"""A failing seed is made small: a mutant breaks a promise, and little is left of the story that shows it."""

import pytest
from sim import mutants
from sim.minimise import kind_of, minimise, repeat_line, show
from sim.run import run_seed

SEEDS = range(1, 40)


def test_a_failing_seed_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.what_was_used_is_free(monkeypatch)
    seed = next(seed for seed in SEEDS if run_seed(seed, "kills").violations)
    whole = run_seed(seed, "kills")
    smallest = minimise(seed, "kills")
    assert smallest is not None
    assert len(smallest.items) <= 8 < len(whole.items) / 4
    again = run_seed(seed, "kills", frozenset(smallest.items))
    assert again.violations == smallest.result.violations
    assert kind_of(again.violations[0]) == kind_of(whole.violations[0])
    # Nothing of it can be left out any more.
    for item in smallest.items:
        rest = run_seed(seed, "kills", frozenset(smallest.items) - {item} or frozenset({"nothing"}))
        assert kind_of(whole.violations[0]) not in map(kind_of, rest.violations)
    shown = show(seed, smallest)
    assert repeat_line(seed, "kills", smallest.items) in shown
    assert again.violations[0] in shown


def test_a_seed_that_breaks_nothing() -> None:
    assert minimise(3, "calm") is None


def test_what_is_left_out_changes_nothing_of_the_rest() -> None:
    """An item is the same thing at the same time, whatever else is played."""
    whole = run_seed(5, "calm")
    some = frozenset(item for item in whole.items if not item.startswith("command") and not item.endswith("3"))
    part = run_seed(5, "calm", some)
    assert not part.violations

    def what(item: str, trace: list[str]) -> list[str]:
        return [line.partition(" ITEM ")[2] for line in trace if f" ITEM {item}:" in line][:1]

    calls = [item for item in some if item.startswith("call") and what(item, whole.trace)]
    assert len(calls) > 5
    assert [what(item, part.trace) for item in calls] == [what(item, whole.trace) for item in calls]
