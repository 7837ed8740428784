"""What becomes of nodes in trouble, with the real governor and leader in a world of their own."""

import pytest
from sim import scenes_nodes
from sim.scene import Act, play

SCENES = [
    scenes_nodes.a_node_is_paused_for_a_minute,
    scenes_nodes.a_deaf_node_stops_by_itself,
    scenes_nodes.a_node_hears_no_feed_and_asks,
    scenes_nodes.a_node_gets_no_answers,
    scenes_nodes.a_node_cannot_ask,
    scenes_nodes.clocks_of_nodes_are_wrong,
    scenes_nodes.the_leaders_clock_is_set_back,
]


@pytest.mark.parametrize("act", SCENES, ids=lambda act: act.__name__)
def test_scene(act: Act) -> None:
    play(act)


def test_a_standby_with_a_clock_behind_takes_over() -> None:
    play(scenes_nodes.a_standby_with_a_clock_behind_takes_over, controls=2)
