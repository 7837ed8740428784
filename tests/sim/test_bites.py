"""The simulation can fail: with a mechanism of the protocol switched off, it finds the promise that breaks.

docs/SIMULATION.md has the table of mechanisms, the rules they belong to, and what finds each one's absence.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sim import mutants, scenes, scenes_leaders, scenes_leases, scenes_windows
from sim.minimise import kind_of
from sim.mutants import Mutant
from sim.run import run_seed
from sim.scene import ANY_TIME, Act, When, rehearse

MAX_SEEDS = 60
"""Enough for the mutant that hides best among these, several times over."""

MISFIT = re.compile(r"crashed: (TypeError|AttributeError|NameError)")
"""A mutant that does not fit the code any more proves nothing."""

EXPECTATION = "the scene's own"
"""What the scene itself wants to see was not there."""

BY_SEEDS: list[tuple[Mutant, str, int, str]] = [
    (mutants.no_fence_assertion, "fences", 3, "L2"),
    (mutants.no_intent_before_dispatch, "calm", 3, "P4"),
    (mutants.no_proof_age, "pauses", 5, "A3"),
    (mutants.a_new_id_for_each_sending, "rain", 4, "P1"),
    (mutants.an_append_is_given_up, "kills", 13, "P1"),
    (mutants.amounts_of_one_message, "rain", 4, "P1"),
    (mutants.no_barrier_wait, "gossip", 14, "P3"),
    (mutants.holes_in_the_feed, "gossip", 3, "P2"),
    (mutants.no_second_look_at_the_key, "calm", 3, "P3"),
    (mutants.streams_are_not_cut, "calm", 7, "P3"),
    (mutants.leases_outlive_the_fence, "fences", 3, "P1"),
    (mutants.a_fence_returns_nothing, "fences", 3, "P2"),
    (mutants.what_was_used_is_free, "calm", 3, "P1"),
    (mutants.a_little_more_is_lent, "calm", 4, "P1"),
    (mutants.leases_are_a_reason, "calm", 3, "P2"),
    (mutants.what_is_released_may_go_out, "calm", 3, "P1"),
    (mutants.the_last_answer_wins, "calm", 2, "P5"),
    (mutants.a_settlement_counts_when_it_comes, "calm", 7, "P5"),
]
"""Mutant, climate, first seed, and what breaks. Where it begins only saves time: the seeds go on until one objects."""


def name_of(value: object) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize(("mutant", "climate", "first", "breaks"), BY_SEEDS, ids=name_of)
def test_some_seed_objects(
    mutant: Mutant, climate: str, first: int, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    assert any(breaks in kinds for kinds in found(first, climate)), "no seed minds"


def found(first: int, climate: str) -> Iterator[set[str]]:
    """What each seed says is broken."""
    for seed in range(first, first + MAX_SEEDS):
        try:
            violations = run_seed(seed, climate).violations
        except AssertionError:
            violations = ["stuck"]  # it does not even get as far as a verdict
        yield {kind_of(violation) for violation in violations}
        misfits = [violation for violation in violations if MISFIT.search(violation)]
        assert not misfits, "the mutant does not fit the code"


BY_SCENES: list[tuple[Mutant, Act, int, str]] = [
    (mutants.a_duplicate_is_proof, scenes.a_duplicate_is_no_proof, 1, "P3"),
    (mutants.no_proof_age, scenes.an_unheard_node_relays, 1, "A3"),
    (mutants.streams_are_not_cut, scenes.a_stream_outlives_no_rejoin, 1, "A3"),
    (mutants.no_barrier_wait, scenes.a_deaf_node_relays, 1, "P3"),
    (mutants.a_fence_counts_at_once, scenes.a_young_fence_blocks_the_next_barrier, 1, "P3"),
    (mutants.holes_in_the_feed, scenes.a_push_without_the_one_before, 1, "P3"),
    (mutants.older_records_replace_newer, scenes.an_old_record_comes_late, 1, "P3"),
    (mutants.a_key_revives, scenes.a_key_is_issued_again_after_its_end, 1, "P3"),
    (mutants.no_tombstones, scenes.a_key_is_issued_again_after_its_end, 1, "P3"),
    (mutants.any_policy_will_do, scenes_leaders.a_snapshot_from_before_a_revocation, 1, "P3"),
    (mutants.no_mark_before_a_refusal, scenes_leases.a_refusal_waits_for_the_fold, 1, "P2"),
    (mutants.a_takeover_does_not_wait_for_the_fold, scenes_leaders.a_grant_is_not_folded_yet, 2, "P1"),
    (mutants.an_idle_leader_hears_nothing, scenes_leaders.an_idle_leader_is_deposed, 2, EXPECTATION),
]
"""Mutant, scene, control planes in it, and what breaks."""


@pytest.mark.parametrize(("mutant", "act", "controls", "breaks"), BY_SCENES, ids=name_of)
def test_the_scene_objects(
    mutant: Mutant, act: Act, controls: int, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    assert breaks in objections(act, controls, ANY_TIME), "the scene does not mind"


def objections(act: Act, controls: int, when: When) -> set[str]:
    """What the observer, or the scene itself, says against it."""
    cluster, failed = rehearse(act, controls=controls, when=when)
    said = {kind_of(violation) for violation in cluster.world.observer.violations}
    return said if failed is None else {*said, EXPECTATION}


BY_TURNS: list[Mutant] = [mutants.a_settlement_counts_when_it_comes, mutants.a_plan_outlives_its_window]


@pytest.mark.parametrize("mutant", BY_TURNS)
def test_some_turn_objects(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert any(objections(act, 1, when) for act, when in scenes_windows.SCENES)


def test_every_mutant_is_tried_and_stands_in_the_published_table() -> None:
    made = {name for name, value in vars(mutants).items() if getattr(value, "__module__", "") == mutants.__name__}
    tried = {name_of(row[0]) for row in (*BY_SEEDS, *BY_SCENES)} | {name_of(mutant) for mutant in BY_TURNS}
    page = (Path(__file__).parents[2] / "docs" / "SIMULATION.md").read_text()
    table = page[page.index("## It bites") :]
    listed = set(re.findall(r"^\|[^|]*\|[^|]*\| `(\w+)` \|", table, re.MULTILINE))
    assert made == tried == listed
