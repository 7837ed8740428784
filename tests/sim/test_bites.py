"""The simulation can fail: with a mechanism of the protocol switched off, it finds out.

| mechanism | rule | mutant | found by |
|---|---|---|---|
| fence assertion | L2 | no_fence_assertion | seeds |
| intent before dispatch | A3 | no_intent_before_dispatch | seeds |
| proof age | A1, A3, A4 | no_proof_age | seeds, scene 9 |
| a duplicate proves nothing | L4 | a_duplicate_is_proof | scene 1 |
| message id | L3 | a_new_id_for_each_sending | seeds |
| never abandon | L3 | an_append_is_given_up | seeds |
| cumulative amounts | G2 | amounts_of_one_message | seeds |
| void grants | F2 | leases_outlive_the_fence, a_fence_returns_nothing | seeds |
| log-only refusals | G4 | leases_are_a_reason | seeds |
| the append before them | G4 | no_mark_before_a_refusal | seeds |
| barrier wait | B3 | no_barrier_wait, a_fence_counts_at_once | seeds, scene 2 |
| gapless push | B1 | holes_in_the_feed | seeds, scene 11 |
| terminal revocation | B4 | a_key_revives | scene 12 |
| tombstones | B4 | no_tombstones | scene 12 |
| feed fence: here position and sequence of the feed | B4, F5 | older_records_replace_newer, any_policy_will_do | scenes |
| takeover fold | F4 | a_takeover_does_not_wait_for_the_fold, an_idle_leader_hears_nothing | seeds, scene |
| look again before sending | A3, B1 | no_second_look_at_the_key, what_is_released_may_go_out | seeds |
| cut streams | A4 | streams_are_not_cut | seeds, scene 9 |
| order of answers about an object | S2 | the_last_answer_wins | seeds |
| a request's window is fixed | G3 | a_settlement_counts_when_it_comes, a_plan_outlives_its_window | seeds, scenes |
| lease arithmetic | G2 | what_was_used_is_free, a_little_more_is_lent | seeds |
"""

from collections.abc import Iterable

import pytest
from sim import mutants, scenes, scenes_leaders, scenes_windows
from sim.mutants import Mutant
from sim.run import run_seed
from sim.scene import ANY_TIME, Act, When, rehearse

MAX_SEEDS = 120
"""Enough for the mutant that hides best, several times over."""

OUR_OWN = ("crashed: TypeError", "crashed: AttributeError", "crashed: NameError")
"""A mutant that does not fit the code any more proves nothing."""

BY_SEEDS: list[tuple[Mutant, str]] = [
    (mutants.no_fence_assertion, "fences"),
    (mutants.no_intent_before_dispatch, "calm"),
    (mutants.no_proof_age, "all"),
    (mutants.a_new_id_for_each_sending, "rain"),
    (mutants.an_append_is_given_up, "rain"),
    (mutants.amounts_of_one_message, "rain"),
    (mutants.no_barrier_wait, "pauses"),
    (mutants.holes_in_the_feed, "gossip"),
    (mutants.no_second_look_at_the_key, "calm"),
    (mutants.streams_are_not_cut, "calm"),
    (mutants.leases_outlive_the_fence, "fences"),
    (mutants.a_fence_returns_nothing, "fences"),
    (mutants.what_was_used_is_free, "calm"),
    (mutants.a_little_more_is_lent, "calm"),
    (mutants.leases_are_a_reason, "calm"),
    (mutants.no_mark_before_a_refusal, "lag"),
    (mutants.a_takeover_does_not_wait_for_the_fold, "takeovers"),
    (mutants.what_is_released_may_go_out, "calm"),
    (mutants.the_last_answer_wins, "calm"),
    (mutants.a_settlement_counts_when_it_comes, "calm"),
]


@pytest.mark.parametrize(("mutant", "climate"), BY_SEEDS, ids=lambda value: getattr(value, "__name__", value))
def test_some_seed_objects(mutant: Mutant, climate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert any(found(range(1, MAX_SEEDS + 1), climate)), "no seed minds"


def found(seeds: Iterable[int], climate: str) -> Iterable[bool]:
    for seed in seeds:
        try:
            violations = run_seed(seed, climate).violations
        except AssertionError as error:
            violations = [f"stuck: {error!r}"]  # it does not even get as far as a verdict
        yield any(not violation.startswith(OUR_OWN) for violation in violations)


BY_SCENES: list[tuple[Mutant, Act, int]] = [
    (mutants.no_tombstones, scenes.a_key_is_issued_again_after_its_end, 1),
    (mutants.any_policy_will_do, scenes_leaders.a_snapshot_from_before_a_revocation, 1),
    (mutants.a_duplicate_is_proof, scenes.a_duplicate_is_no_proof, 1),
    (mutants.a_fence_counts_at_once, scenes.a_young_fence_blocks_the_next_barrier, 1),
    (mutants.no_proof_age, scenes.an_unheard_node_relays, 1),
    (mutants.streams_are_not_cut, scenes.a_stream_outlives_no_rejoin, 1),
    (mutants.holes_in_the_feed, scenes.a_push_without_the_one_before, 1),
    (mutants.older_records_replace_newer, scenes.an_old_record_comes_late, 1),
    (mutants.a_key_revives, scenes.a_key_is_issued_again_after_its_end, 1),
    (mutants.an_idle_leader_hears_nothing, scenes_leaders.an_idle_leader_is_deposed, 2),
]


@pytest.mark.parametrize(
    ("mutant", "act", "controls"), BY_SCENES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_the_scene_objects(mutant: Mutant, act: Act, controls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert objects(act, controls, ANY_TIME), "the scene does not mind"


def objects(act: Act, controls: int, when: When) -> list[str]:
    """What the observer, or the scene's own expectation, says against it."""
    try:
        return rehearse(act, controls=controls, when=when).world.observer.violations
    except (AssertionError, Exception) as error:
        return [repr(error)]


@pytest.mark.parametrize("mutant", [mutants.a_settlement_counts_when_it_comes, mutants.a_plan_outlives_its_window])
def test_some_turn_objects(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert any(objects(act, 1, when) for act, when in scenes_windows.SCENES)
