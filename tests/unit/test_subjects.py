"""Subjects: built strictly, read back, and matched as the server matches them."""

import pytest

from events import subjects


def test_builders_and_parsers_agree() -> None:
    log, fence = subjects.node_log("n1", "inc_1"), subjects.node_fence("n1", "inc_1")
    assert (log, fence) == ("rf.node.log.n1.inc_1", "rf.node.fence.n1.inc_1")
    assert subjects.parse_node_log(log) == ("n1", "inc_1") == subjects.parse_node_fence(fence)
    assert subjects.parse_node_log(fence) is None
    assert subjects.parse_node_fence(log) is None
    assert subjects.parse_rpc(subjects.rpc("n1", "ask")) == ("n1", "ask")
    for other in (subjects.NODE_MARK, subjects.CONTROL_LOG, log + ".more", "rf.rpc.n1", "", "rf.node.log.n1"):
        assert subjects.parse_node_log(other) is None
        assert subjects.parse_rpc(other) is None


@pytest.mark.parametrize("word", ["", "*", ">", "a.b", "a b", "n1\r\nPUB x 0", "é", "x" * 65, "n1\n"])
def test_words_that_would_name_other_subjects_are_refused(word: str) -> None:
    for build in (
        lambda: subjects.node_log(word, "i"),
        lambda: subjects.node_log("n1", word),
        lambda: subjects.node_fence("n1", word),
        lambda: subjects.slot_logs(word),
        lambda: subjects.slot_rpcs(word),
        lambda: subjects.rpc("n1", word),
        lambda: subjects.push(word),
        lambda: subjects.inbox_prefix(word),
    ):
        with pytest.raises(ValueError, match="not a subject token"):
            build()


@pytest.mark.parametrize(
    ("wanted", "subject", "expected"),
    [
        ("rf.feed", "rf.feed", True),
        ("rf.feed", "rf.feed.x", False),
        ("rf.feed.x", "rf.feed", False),
        ("rf.push.*", "rf.push.n1", True),
        ("rf.push.*", "rf.push", False),
        ("rf.push.*", "rf.push.n1.x", False),
        ("rf.*.n1", "rf.push.n1", True),
        ("rf.*.n1", "rf.push.n2", False),
        ("rf.node.log.n1.>", "rf.node.log.n1.a", True),
        ("rf.node.log.n1.>", "rf.node.log.n1.a.b", True),
        ("rf.node.log.n1.>", "rf.node.log.n1", False),
        ("rf.node.log.n1.>", "rf.node.log.n10.a", False),
        (">", "anything.at.all", True),
    ],
)
def test_filters_match_as_the_server_does(wanted: str, subject: str, expected: bool) -> None:
    assert subjects.matches(wanted, subject) is expected


def test_what_a_slot_may_write_covers_its_own_logs_and_nothing_of_a_similar_name() -> None:
    assert subjects.matches(subjects.slot_logs("n1"), subjects.node_log("n1", "a"))
    assert not subjects.matches(subjects.slot_logs("n1"), subjects.node_log("n11", "a"))
    assert not subjects.matches(subjects.slot_logs("n1"), subjects.node_fence("n1", "a"))
    assert subjects.matches(subjects.slot_rpcs("n1"), subjects.rpc("n1", "ask"))
    assert not subjects.matches(f"{subjects.inbox_prefix('n1')}.>", f"{subjects.inbox_prefix('n11')}.x")
