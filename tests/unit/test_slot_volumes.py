"""Who fills the node logs is named once a minute."""

from controlplane.slot_volumes import SlotVolumes
from events.subjects import NODE_MARK, node_fence, node_log


def test_the_slot_that_writes_too_much_is_named_once_a_window() -> None:
    now_ns = 0
    told: list[tuple[str, int]] = []
    volumes = SlotVolumes(lambda: now_ns, limit_bytes=100, tell=lambda slot, size: told.append((slot, size)))
    for subject in (node_log("n1", "a"), node_log("n1", "b"), node_log("n2", "c"), NODE_MARK, node_fence("n3", "d")):
        volumes.count(subject, 60)
    assert told == [("n1", 120)], "over all its incarnations; fences and marks are the control plane's"
    volumes.count(node_log("n1", "a"), 1_000)
    assert len(told) == 1
    now_ns = 61_000_000_000
    volumes.count(node_log("n1", "a"), 90)
    assert len(told) == 1
    volumes.count(node_log("n1", "a"), 20)
    assert told[1:] == [("n1", 110)]
