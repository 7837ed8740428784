"""Alerts: when they are raised and cleared, that they never flood, and that any replay gives the same."""

import msgspec
import pytest

from controlplane.alerts.judge import EVENTS_A_MINUTE, MAX_OPEN_OF_KIND, Judge, Signal, events_of
from controlplane.alerts.kinds import ALERTS
from controlplane.alerts.signals import Observed, between, signals_of
from events.codec import decode_batch
from events.state.alerts import CLEARED_KEPT, AlertFold
from events.state.control import ControlImage, ControlState
from events.state.replica import Replica
from events.types import AlertCleared, AlertRaised, NodeFenced, NodeJoined

S = 1_000_000_000
CALM = 60


class Desk:
    """A judge and a fold; `look` records what was decided, as the leader does."""

    def __init__(self) -> None:
        self.judge = Judge(CALM)
        self.fold = AlertFold()
        self.seq = 0
        self.log: list[AlertRaised | AlertCleared] = []

    def look(self, at_s: float, *signals: Signal) -> list[str]:
        verdict = self.judge.judge(signals, self.fold, int(at_s * S))
        ids = [f"al_{self.seq}_{n}" for n in range(len(verdict.raises))]
        events = events_of(verdict, self.fold, int(at_s * S), ids)
        self.seq += 1
        for event in events:
            self.fold.apply(self.seq, event)
            self.log.append(event)
        return [f"{'+' if isinstance(event, AlertRaised) else '-'}{event.kind}/{event.subject}" for event in events]


def lit(on: bool | None = True, kind: str = "log_full", subject: str = "", seen: int = 0) -> Signal:
    return Signal(kind, subject, on, "words", seen=seen)


def test_raised_once_and_cleared_after_a_calm_time() -> None:
    desk = Desk()
    assert desk.look(0, lit()) == ["+log_full/"]
    assert desk.look(1, lit()) == []
    assert desk.look(2, lit(on=False)) == []
    assert desk.look(2 + CALM - 1, lit(on=False)) == []
    assert desk.look(2 + CALM, lit(on=False)) == ["-log_full/"]
    assert desk.look(3 + CALM, lit(on=False)) == []


def test_what_flaps_is_one_alert() -> None:
    desk = Desk()
    for second in range(600):
        desk.look(second, lit(on=second % 20 == 0))
    assert len(desk.log) == 1


def test_between_the_thresholds_nothing_changes() -> None:
    desk = Desk()
    assert desk.look(0, lit(on=None)) == []
    desk.look(1, lit())
    for second in range(2, 300):
        assert desk.look(second, lit(on=None)) == []
    assert [between(value, 10, 5) for value in (10, 9.9, 5, 4.9)] == [True, None, None, False]


def test_what_is_no_longer_observed_is_over() -> None:
    desk = Desk()
    desk.look(0, lit(kind="authentication_failures", subject="192.0.2.7"))
    desk.look(1)
    assert desk.look(1 + CALM) == ["-authentication_failures/192.0.2.7"]


def test_counted_cases_are_alerted_once_each_whoever_leads() -> None:
    desk = Desk()
    assert desk.look(0, lit(None, "overrun", seen=2)) == ["+overrun/"]
    assert desk.look(1, lit(None, "overrun", seen=2)) == []
    assert desk.look(30, lit(None, "overrun", seen=5)) == []
    assert desk.look(30 + CALM, lit(None, "overrun", seen=5)) == []
    assert desk.look(31 + 2 * CALM, lit(None, "overrun", seen=5)) == ["-overrun/"]
    desk.judge = Judge(CALM)  # the next leader knows the fold alone
    assert desk.look(200, lit(None, "overrun", seen=5)) == []
    assert desk.look(201, lit(None, "overrun", seen=6)) == ["+overrun/"]


def test_a_case_that_did_not_fit_is_not_forgotten() -> None:
    desk = Desk()
    many = [lit(True, "cap_reached", f"key:{n}") for n in range(3 * EVENTS_A_MINUTE)]
    assert len(desk.look(0, *many)) == EVENTS_A_MINUTE
    assert desk.look(0, *many, lit(None, "overrun", seen=1)) == []
    assert desk.judge.held_back > 0
    assert "+overrun/" in desk.look(30, *many, lit(None, "overrun", seen=1))


def test_never_a_flood() -> None:
    """However many causes there are, and however they come and go."""
    desk = Desk()
    for second in range(600):
        signals = [lit(True, "cap_reached", f"key:{n + 37 * second}") for n in range(500)]
        desk.look(second, *signals)
        assert len(desk.fold.open) <= MAX_OPEN_OF_KIND
    assert len(desk.log) <= 11 * EVENTS_A_MINUTE


def test_critical_ones_come_first() -> None:
    desk = Desk()
    many = [lit(True, "cap_nearing", f"key:{n}") for n in range(2 * EVENTS_A_MINUTE)]
    assert "+log_full/" in desk.look(0, *many, lit())


def test_keys_at_their_caps_do_not_silence_the_team_that_pays() -> None:
    desk = Desk()
    keys = [lit(True, "cap_reached", f"key:{n}:usd:day") for n in range(500)]
    for second in range(0, 600, 30):
        desk.look(second, *keys)
    assert len(desk.fold.open) == MAX_OPEN_OF_KIND
    assert desk.look(601, *keys, lit(True, "cap_reached", "team:red:usd:day")) == ["+cap_reached/team:red:usd:day"]
    fresh = Desk()
    larger = lit(True, "cap_reached", "org:default:usd:day")
    assert fresh.look(0, *keys, larger)[0] == "+cap_reached/org:default:usd:day"


def test_a_verdict_that_is_recorded_twice_raises_once() -> None:
    desk = Desk()
    verdict = desk.judge.judge([lit()], desk.fold, 0)
    for _ in range(2):
        for event in events_of(verdict, desk.fold, 0, ["al_1"]):
            desk.fold.apply(1, event)
    assert list(desk.fold.records) == ["al_1"]


def test_the_fold_keeps_what_is_open_and_the_newest_of_the_rest() -> None:
    fold = AlertFold()
    fold.apply(1, AlertRaised("al_open", "log_full", "", "critical", "words", 1))
    for n in range(CLEARED_KEPT + 50):
        fold.apply(2 + n, AlertRaised(f"al_{n}", "node_fenced", "n1", "warning", "words", n, seen=n + 1))
        fold.apply(2 + n, AlertCleared(f"al_{n}", "node_fenced", "n1", "over", n, seen=n + 1))
        fold.apply(2 + n, AlertCleared(f"al_{n}", "node_fenced", "n1", "again", n))
    assert len(fold.records) == CLEARED_KEPT + 1
    assert fold.records["al_open"].open
    assert "al_49" not in fold.records
    assert fold.seen == {"node_fenced n1": CLEARED_KEPT + 50}
    again = AlertFold()
    again.load(fold.records, fold.seen)
    for one in (fold, again):  # whoever loaded a checkpoint goes on alike
        one.apply(9_999, AlertRaised("al_new", "node_fenced", "n1", "warning", "words", 1, seen=9_999))
        one.apply(9_999, AlertCleared("al_new", "node_fenced", "n1", "over", 1, seen=9_999))
    assert list(again.records.items()) == list(fold.records.items())
    assert (again.open, again.seen) == (fold.open, fold.seen)


OLD_IMAGE = (
    b'{"seq":7,"epoch":1,"agents":{},"keys":{},"revoked_early":{},"budgets":{},"budget_seqs":{},'
    b'"operators":{"op_1":{"id":"op_1","name":"ada","role":"admin","token_sha256":"d1","issued_at_ns":1,'
    b'"issued_seq":2,"changed_seq":2,"issued_by":{}}},"nodes":{}}'
)
"""A checkpoint's part as the version before alerts and rotation wrote it."""


def test_a_checkpoint_from_before_there_were_alerts_is_read() -> None:
    state = ControlState.from_image(msgspec.json.decode(OLD_IMAGE, type=ControlImage))
    assert state.alerts.records == {}
    assert state.operators["op_1"].earlier == ()
    assert state.operators["op_1"].admits("d1", 5)


GOLDEN = (
    b'{"actor":"cp-1","n":4,"at_ns":9,"events":['
    b'{"t":"AlertRaised/1","id":"al_1","kind":"cap_reached","subject":"key:vk_1:usd:day","severity":"warning",'
    b'"message":"all of it is used","at_ns":9,"details":{"cap":"10.00"},"seen":3},'
    b'{"t":"AlertCleared/1","id":"al_1","kind":"cap_reached","subject":"key:vk_1:usd:day","message":"over","at_ns":10},'
    b'{"t":"OperatorTokenRotated/1","id":"op_1","token_sha256":"d2","by":{"name":"ada"},"at_ns":9,"old_ends_at_ns":12}'
    b'],"v":1}'
)
"""Bytes as this version writes them; later ones must read them."""


def test_bytes_once_written_stay_readable() -> None:
    raised, cleared, rotated = decode_batch(GOLDEN).events
    assert isinstance(raised, AlertRaised)
    assert (raised.details, raised.seen) == ({"cap": "10.00"}, 3)
    assert isinstance(cleared, AlertCleared)
    assert cleared.seen == 0
    assert rotated.old_ends_at_ns == 12  # type: ignore[union-attr]  # the third is a rotation, as the bytes say


@pytest.mark.parametrize(
    ("seen", "kind", "on"),
    [
        (Observed(log_shares={"RF_NODES": 0.81}), "log_nearly_full", True),
        (Observed(log_shares={"RF_NODES": 0.78}), "log_nearly_full", None),
        (Observed(log_shares={"RF_NODES": 0.5}), "log_nearly_full", False),
        (Observed(log_full=True), "log_full", True),
        (Observed(streams_silent_s={"RF_NODES": 6}), "log_silent", True),
        (Observed(audit_lag_s={"nodes": 61}), "audit_behind", True),
        (Observed(audit_lag_s={"nodes": 1}), "audit_behind", False),
        (Observed(audit_silent_s=16), "audit_silent", True),
        (Observed(feed_lost=1), "feed_lost", True),
        (Observed(barrier_age_s=3.5), "barrier_slow", True),
        (Observed(checkpoint_failing=True), "checkpoint_failing", True),
        (Observed(clock_offset_s=-11), "clock_offset", True),
        (Observed(failed_logins={"192.0.2.7": 30}), "authentication_failures", True),
    ],
)
def test_what_is_observed_becomes_a_signal(seen: Observed, kind: str, on: bool | None) -> None:
    found = [signal for signal in signals_of(Replica(), seen) if signal.kind == kind]
    assert [signal.on for signal in found] == [on]


def test_the_newest_unexpected_fence_of_a_slot_is_a_case() -> None:
    replica = Replica()
    for seq, (incarnation, reason) in enumerate((("n1-a", "silent"), ("n1-b", "stopped"), ("n2-a", "replaced")), 1):
        replica.state.apply(2 * seq, NodeJoined(incarnation[:2], incarnation, seq, 0))
        replica.state.apply(2 * seq + 1, NodeFenced(incarnation[:2], incarnation, reason, seq))
    cases = [signal for signal in signals_of(replica, Observed()) if signal.kind == "node_fenced"]
    assert [(signal.subject, signal.seen) for signal in cases] == [("n1", 3)]


def test_every_signal_has_its_kind() -> None:
    seen = Observed(
        log_shares={"s": 1}, streams_silent_s={"s": 1}, audit_lag_s={"s": 1}, audit_silent_s=1, clock_offset_s=1,
        failed_logins={"a": 1},
    )  # fmt: skip
    assert {signal.kind for signal in signals_of(Replica(), seen)} < set(ALERTS)
