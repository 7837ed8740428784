"""The barrier's predicate (rule B3) as tables, and silence (rule A2)."""

import pytest
from support.ledger_desk import Desk

from controlplane.barrier_view import BarrierView, Standing
from controlplane.silence import Silence
from events.subjects import node_fence
from events.types import Applied, FenceOpened, Marked, NodeFenced, NodeJoined
from schemas.settings import MS

TTL_MS = 400


class Stage(Desk):
    """A desk with a view; `n1`, `n2` are joined, both before sequence `s`."""

    def __init__(self) -> None:
        super().__init__({}, nodes=2)
        self.takeover_ms = self.ms
        self.view = BarrierView(self.replica, takeover_ns=self.takeover_ms * MS, proof_ttl_ns=TTL_MS * MS)
        self.ms += 10_000  # the takeover is long past
        self.change()

    def change(self) -> int:
        """Something is recorded; returns its sequence, which is `s` from now on."""
        self.control(Marked())
        self.s = self.replica.control_seq
        return self.s

    def applied(self, node: str, seq: int) -> None:
        self.write(node, Applied(seq))

    def end(self, node: str) -> None:
        self.fence(node)
        self.view.fenced(node, self.ms * MS)

    def standing(self, seq: int | None = None) -> Standing:
        return self.view.standing(self.s if seq is None else seq, self.ms * MS)

    def opened_only(self, slot: str) -> None:
        self.nodes(node_fence(slot, slot), "cp", 0, FenceOpened(slot))

    def joins(self, slot: str, fence_seq: int) -> None:
        self.control(NodeJoined(slot, slot, fence_seq, 0))
        self.view.joined(self.replica.state.nodes[slot])


def test_everybody_who_joined_before_must_have_applied_it() -> None:
    stage = Stage()
    assert stage.standing().unapplied == ("n1", "n2")
    stage.applied("n1", stage.s)
    assert stage.standing().unapplied == ("n2",)
    stage.applied("n2", stage.s - 1)
    assert stage.standing().unapplied == ("n2",)
    stage.applied("n2", stage.s + 3)
    assert stage.standing().clear


def test_applied_never_goes_back() -> None:
    stage = Stage()
    stage.applied("n1", stage.s)
    stage.applied("n1", 1)
    stage.applied("n2", stage.s)
    assert stage.standing().clear


def test_a_fence_is_young_for_as_long_as_a_proof_lasts() -> None:
    stage = Stage()
    assert not stage.view.young_fence(stage.ms * MS)
    stage.end("n1")
    assert stage.view.young_fence(stage.ms * MS)
    assert stage.view.young_fence((stage.ms + TTL_MS - 1) * MS)
    assert not stage.view.young_fence((stage.ms + TTL_MS) * MS)


def test_after_a_takeover_all_fences_are_young() -> None:
    """A new leader cannot know when they were stored."""
    stage = Stage()
    stage.end("n1")
    now_ms = stage.ms + 10 * TTL_MS
    later = BarrierView(stage.replica, takeover_ns=now_ms * MS, proof_ttl_ns=TTL_MS * MS)
    assert later.young_fence((now_ms + 1) * MS)
    assert not later.young_fence((now_ms + TTL_MS) * MS)


def test_who_joins_later_does_not_matter() -> None:
    stage = Stage()
    for node in ("n1", "n2"):
        stage.applied(node, stage.s)
    stage.opened_only("n3")
    stage.joins("n3", stage.replica.nodes.seq)
    assert stage.standing().clear
    assert stage.standing(stage.change()).unapplied == ("n1", "n2", "n3")


@pytest.mark.parametrize(("age_ms", "clear"), [(0, False), (TTL_MS - 1, False), (TTL_MS, True), (TTL_MS + 1, True)])
def test_a_fence_counts_when_it_is_old_enough(age_ms: int, clear: bool) -> None:
    stage = Stage()
    stage.applied("n1", stage.s)
    stage.end("n2")
    ripens_ns = (stage.ms + TTL_MS) * MS
    assert stage.standing().ripens_ns == ripens_ns
    stage.ms += age_ms
    assert stage.standing().clear is clear
    assert stage.standing().unapplied == ()


def test_the_newest_fence_decides() -> None:
    stage = Stage()
    stage.end("n1")
    stage.ms += 300
    stage.end("n2")
    stage.ms += 200
    assert not stage.standing().clear
    stage.ms += 200
    assert stage.standing().clear


def test_a_fence_is_forgotten_once_it_was_old_enough() -> None:
    stage = Stage()
    stage.end("n1")
    stage.applied("n2", stage.s)
    stage.ms += TTL_MS
    assert stage.standing().clear
    later = stage.change()
    stage.applied("n2", later)
    assert stage.standing(later).clear


def test_the_control_logs_record_of_a_fence_is_not_the_fence() -> None:
    stage = Stage()
    stage.applied("n1", stage.s)
    stage.control(NodeFenced("n2", "n2", "test", 1))
    stage.ms += 10_000
    assert stage.standing().unapplied == ("n2",)


def test_a_new_leader_counts_from_its_takeover() -> None:
    stage = Stage()
    stage.applied("n1", stage.s)
    stage.end("n2")
    stage.ms += 60_000
    fresh = BarrierView(stage.replica, takeover_ns=stage.ms * MS, proof_ttl_ns=TTL_MS * MS)
    assert not fresh.standing(stage.s, (stage.ms + TTL_MS - 1) * MS).clear
    assert fresh.standing(stage.s, (stage.ms + TTL_MS) * MS).clear


def test_joined_but_its_log_is_not_open_in_the_fold_yet() -> None:
    """The control log is ahead of the fold of the node logs: the node is not to be taken for fenced."""
    stage = Stage()
    stage.joins("n3", stage.replica.nodes.seq + 3)  # its FenceOpened will be the third message from now
    seq = stage.change()
    for node in ("n1", "n2"):
        stage.applied(node, seq)
    stage.ms += 10_000
    assert stage.standing(seq).unapplied == ("n3",)
    stage.opened_only("n3")
    assert stage.standing(seq).unapplied == ("n3",)
    stage._n["n3"] = 0
    stage.applied("n3", seq)
    assert stage.standing(seq).clear


def test_lowest_applied() -> None:
    stage = Stage()
    stage.applied("n1", 7)
    assert stage.view.lowest_applied() == 0
    stage.applied("n2", 5)
    assert stage.view.lowest_applied() == 5
    stage.end("n2")
    assert stage.view.lowest_applied() == 7
    stage.end("n1")
    assert stage.view.lowest_applied() == stage.replica.control_seq


# ---------------------------------------------------------------- silence


def test_silence_counts_from_the_last_word() -> None:
    silence = Silence(1_000)
    silence.heard("a", 1_500)
    assert silence.silent_ns("a", 1_700) == 200
    assert silence.silent_ns("never heard", 1_700) == 700
    assert silence.over(["a", "never heard"], 300, 1_700) == ["never heard"]


def test_silence_that_could_not_be_heard_is_excused() -> None:
    silence = Silence(0)
    silence.heard("a", 100)
    silence.excuse(5_000)
    assert silence.silent_ns("a", 5_010) == 10
    assert silence.age_ns("a", 5_010) == 4_910  # what people see
    silence.heard("a", 6_000)
    silence.gone("a")
    assert silence.silent_ns("a", 7_000) == 2_000
