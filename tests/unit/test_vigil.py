"""What a standby concludes from what it hears: the table of controlplane.vigil."""

import pytest

from controlplane.vigil import HURRY_NS, MAX_DOUBLINGS, Vigil
from schemas.settings import MS, Timing

TIMEOUT_MS = Timing().leader_timeout_ms


def vigil(epoch: int = 5, *, fresh: bool = False, chance: float = 0.0) -> Vigil:
    made = Vigil(0, Timing(), lambda: chance)
    made.resume(epoch, 0, fresh=fresh)
    made.spoke(epoch, 0)
    return made


def due_ms(one: Vigil) -> float:
    return one.due_ns() / MS


def test_silence_is_counted_from_the_newest_sign_of_life() -> None:
    one = vigil()
    assert due_ms(one) == TIMEOUT_MS
    one.spoke(5, 700 * MS)
    assert due_ms(one) == TIMEOUT_MS + 700
    assert not one.certain()


def test_patience_has_a_random_part() -> None:
    assert TIMEOUT_MS < due_ms(vigil(chance=0.5)) < due_ms(vigil(chance=0.999)) < 1.3 * TIMEOUT_MS


def test_a_deposed_leaders_words_count_for_nothing() -> None:
    one = vigil(5)
    one.fenced(9, 100 * MS)
    before = one.due_ns()
    one.spoke(5, 1_000 * MS)
    one.left(5, 1_000 * MS)
    assert (one.due_ns(), one.heard, one.epoch) == (before, False, 9)


def test_a_word_of_a_newer_leader_is_news_of_its_fence() -> None:
    one = vigil(5)
    one.spoke(9, 100 * MS)
    assert (one.epoch, one.heard, due_ms(one)) == (9, True, TIMEOUT_MS + 100)


def test_each_takeover_without_a_word_doubles_the_patience_and_a_word_ends_that() -> None:
    one = vigil(5)
    for number in range(1, MAX_DOUBLINGS + 3):
        one.fenced(5 + number, 0)
        assert due_ms(one) == TIMEOUT_MS * 2 ** min(number, MAX_DOUBLINGS)
    one.spoke(one.epoch, 0)
    assert due_ms(one) == TIMEOUT_MS


def test_the_doubling_outlasts_a_time_of_leading() -> None:
    one = vigil(5)
    one.fenced(6, 0)
    one.resume(7, 0, fresh=False)  # this process led since 7, in vain
    assert due_ms(one) == TIMEOUT_MS * 4


def test_who_is_gone_is_known_at_the_second_answer() -> None:
    one = vigil(chance=0.5)
    one.nobody(400 * MS)
    assert not one.certain()
    one.nobody(500 * MS)
    assert one.certain()
    assert one.due_ns() == 500 * MS + HURRY_NS // 2


def test_a_sign_of_life_between_two_answers_keeps_the_leader() -> None:
    one = vigil()
    one.nobody(400 * MS)
    one.spoke(5, 450 * MS)
    one.nobody(500 * MS)
    assert not one.certain()


@pytest.mark.parametrize("begin", ["a takeover is under way", "the connection was lost"])
def test_that_nobody_answers_is_no_news_while(begin: str) -> None:
    one = vigil()
    if begin == "the connection was lost":
        one.cut_off(0)
    else:
        one.fenced(9, 0)
    for moment in range(5):
        one.nobody(moment * MS)
    assert not one.certain()
    assert due_ms(one) >= TIMEOUT_MS


def test_a_process_that_has_just_begun_believes_that_nobody_leads() -> None:
    one = Vigil(0, Timing(), lambda: 0.0)
    one.resume(5, 0, fresh=True)
    one.nobody(0)
    one.nobody(100 * MS)
    assert due_ms(one) == 100


def test_a_goodbye_ends_the_waiting() -> None:
    one = vigil(chance=0.9)
    one.left(5, 100 * MS)
    assert one.certain()
    assert 100 < due_ms(one) <= 100 + HURRY_NS / MS
    one.stood_still(200 * MS)
    assert one.certain()


def test_who_stood_still_listens_anew() -> None:
    one = vigil()
    one.stood_still(9_000 * MS)
    assert due_ms(one) == 9_000 + TIMEOUT_MS


def test_it_is_worth_asking_after_one_and_a_half_beats_or_as_long_as_nothing_was_heard() -> None:
    one = vigil()
    assert not one.quiet(374 * MS)
    assert one.quiet(375 * MS)
    one.fenced(9, 0)
    assert one.quiet(0)
