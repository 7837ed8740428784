"""The protocol's fixed counter-examples, played with the real code (docs/PROTOCOL.md)."""

import pytest
from sim import scenes, scenes_leaders, scenes_leases, scenes_windows
from sim.scene import Act, When, play

ONE_CONTROL = [
    scenes.a_duplicate_is_no_proof,
    scenes.a_young_fence_blocks_the_next_barrier,
    scenes_leases.a_late_append_lands,
    scenes_leases.a_late_append_meets_its_fence,
    scenes_leases.a_lowered_cap_meets_a_long_request,
    scenes_leases.an_overrun_is_not_forgotten,
    scenes_leases.a_refusal_shows_one_instant,
    scenes_leases.a_refusal_waits_for_the_fold,
    scenes_leases.both_hold_half,
    scenes_leases.a_grant_comes_after_its_recall,
    scenes_leases.a_lost_grant_is_asked_for_again,
    scenes.a_deaf_node_relays,
    scenes.an_unheard_node_relays,
    scenes.a_stream_outlives_no_rejoin,
    scenes.a_push_without_the_one_before,
    scenes.an_old_record_comes_late,
    scenes.a_key_is_issued_again_after_its_end,
]

TWO_CONTROLS = [
    scenes_leaders.a_leader_dies_in_the_barrier,
    scenes_leaders.a_stale_leader_feeds_a_new_node,
    scenes_leaders.a_snapshot_from_before_a_revocation,
    scenes_leaders.a_takeover_while_the_fold_lags,
    scenes_leaders.a_grant_is_not_folded_yet,
    scenes_leaders.an_idle_leader_is_deposed,
    scenes_leaders.a_stale_leader_has_nothing_to_record,
]


@pytest.mark.parametrize("act", ONE_CONTROL, ids=lambda act: act.__name__)
def test_scene(act: Act) -> None:
    play(act)


@pytest.mark.parametrize("act", TWO_CONTROLS, ids=lambda act: act.__name__)
def test_scene_with_a_standby(act: Act) -> None:
    play(act, controls=2)


@pytest.mark.parametrize(("act", "when"), scenes_windows.SCENES, ids=lambda value: getattr(value, "__name__", ""))
def test_scene_of_a_turn(act: Act, when: When) -> None:
    play(act, when=when)


def test_two_standbys_at_once() -> None:
    play(scenes_leaders.two_standbys_at_once, controls=3)


def test_what_is_freed_belongs_to_who_asked_first() -> None:
    play(scenes_leases.what_is_freed_belongs_to_who_asked_first, nodes=3)
