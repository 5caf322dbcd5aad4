"""Timers, rest, and who counts as inactive."""

import pytest

from atpar.consensus.pacemaker import Pacemaker
from atpar.consensus.types import Timing

TIMING = Timing()


def make_pace(size: int = 4) -> Pacemaker:
    return Pacemaker(TIMING, size=size, quorum=size - (size - 1) // 3, me=0)


def awake(pace: Pacemaker, now_ms: int) -> None:
    pace.enter(now_ms)
    pace.wake(now_ms)


def test_silence_longer_than_the_skip_timeout_is_inactive() -> None:
    pace = make_pace()
    awake(pace, 0)
    for index in (1, 2):
        pace.hear(index, 3_000)
    assert not pace.is_inactive(3, 3_000)
    assert pace.is_inactive(3, 3_001)
    assert not pace.is_inactive(2, 3_001)


def test_nobody_is_inactive_while_fewer_than_a_quorum_are_heard() -> None:
    pace = make_pace()
    awake(pace, 0)
    pace.hear(1, 5_000)
    assert not pace.is_inactive(3, 8_000)
    pace.hear(2, 5_001)


def test_one_is_never_inactive_to_oneself() -> None:
    pace = make_pace()
    awake(pace, 0)
    for index in (1, 2, 3):
        pace.hear(index, 10_000)
    assert not pace.is_inactive(0, 10_000)


def test_silence_does_not_count_at_rest() -> None:
    pace = make_pace()
    awake(pace, 0)
    for index in (1, 2, 3):
        pace.hear(index, 100)
    pace.enter(200)
    assert not pace.is_inactive(3, 3_600_000)
    pace.wake(3_600_000)
    for index in (1, 2):
        pace.hear(index, 3_602_900)
    assert not pace.is_inactive(3, 3_602_900)
    assert pace.is_inactive(3, 3_602_901)


def test_silences_start_anew_when_a_quorum_is_heard_again() -> None:
    pace = make_pace()
    awake(pace, 0)
    pace.hear(1, 60_000)
    pace.hear(2, 60_010)
    assert not pace.is_inactive(3, 60_010)
    pace.hear(1, 63_000)
    pace.hear(2, 63_000)
    assert pace.is_inactive(3, 63_011)


def test_hearing_someone_ends_the_inactivity() -> None:
    pace = make_pace()
    awake(pace, 0)
    for at in (1_000, 3_500):
        pace.hear(1, at)
        pace.hear(2, at)
    assert pace.is_inactive(3, 3_500)
    pace.hear(3, 3_501)
    assert not pace.is_inactive(3, 3_501)


def test_a_lost_connection_is_inactive_at_once_until_it_is_back_and_votes() -> None:
    pace = make_pace()
    awake(pace, 0)
    for index in (1, 2, 3):
        pace.hear(index, 100)
    pace.lose(3, 101)
    assert pace.is_inactive(3, 101)
    assert not pace.is_inactive(2, 101)
    pace.find(3)
    assert pace.is_inactive(3, 102)
    pace.hear(3, 103)
    assert not pace.is_inactive(3, 103)


def test_a_vote_that_was_on_its_way_when_the_connection_broke_is_no_sign_of_life() -> None:
    pace = make_pace()
    awake(pace, 0)
    for index in (1, 2, 3):
        pace.hear(index, 100)
    pace.lose(3, 101)
    pace.hear(3, 102)
    assert pace.is_inactive(3, 102)


def test_one_that_was_never_connected_is_inactive_and_not_heard() -> None:
    pace = make_pace()
    for index in (1, 2, 3):
        pace.miss(index)
    awake(pace, 0)
    pace.find(1)
    assert not pace.is_inactive(3, 10), "two of four are no quorum"
    pace.find(2)
    assert pace.is_inactive(3, 20)
    assert not pace.is_inactive(2, 20)
    pace.find(3)
    assert not pace.is_inactive(3, 30)


def test_lost_connections_beyond_a_quorum_make_nobody_inactive() -> None:
    pace = make_pace()
    awake(pace, 0)
    for index in (1, 2, 3):
        pace.hear(index, 100)
    pace.lose(3, 101)
    pace.lose(2, 101)
    assert not pace.is_inactive(3, 101)
    assert not pace.is_inactive(2, 101)


def test_timers_are_off_until_the_view_wakes() -> None:
    pace = make_pace()
    pace.enter(100)
    assert (pace.leader_at, pace.advance_at, pace.retry_at) == (None, None, None)
    assert pace.heartbeat_at == 5_100
    pace.wake(1_000)
    assert (pace.leader_at, pace.advance_at, pace.retry_at) == (1_600, 2_100, 2_000)
    pace.wake(9_000)
    assert pace.leader_at == 1_600


def test_delta_doubles_to_its_bound_and_comes_back_step_by_step() -> None:
    pace = make_pace()
    seen = []
    for _ in range(8):
        seen.append(pace.delta_ms)
        pace.back_off()
    assert seen == [200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]
    for expected in (3_200, 1_600, 800, 400, 200, 200):
        pace.speed_up()
        assert pace.delta_ms == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"delta_ms": 0},
        {"delta_ms": 6_000},
        {"skip_timeout_ms": 1_100},
        {"retry_ms": 0},
        {"heartbeat_ms": 0},
        {"block_interval_ms": -1},
    ],
)
def test_timing_refuses_durations_that_contradict_each_other(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"ms|must"):
        Timing(**wrong)


def test_skip_timeout_just_above_the_advance_timer_is_allowed() -> None:
    assert Timing(skip_timeout_ms=1_101).skip_timeout_ms == 1_101
