"""Leaders that count as inactive cost nothing, and suspicion cannot run away."""

import pytest

from atpar.consensus.events import EpochOpened, PeerConnected, PeerDisconnected
from atpar.consensus.messages import VotesResponse
from atpar.consensus.types import EpochStart
from atpar.ledger.votes import Nullify
from tests.consensus.cluster import Cluster, Link
from tests.consensus.fakes import make_validators
from tests.consensus.solo import Solo


def silence(solo: Solo, *silent: str) -> None:
    """Let the view be awake for longer than the skip timeout while only some are heard."""
    solo.pend()
    for view in range(2, 6):
        solo.wait(1_000)
        for name in solo.others:
            if name not in silent:
                solo.hear(name, solo.finalize(name, solo.about(view, name.encode())))


def test_silent_leaders_view_is_nullified_ahead() -> None:
    solo = Solo(size=7)
    dead = solo.leader(2)
    silence(solo, dead)
    solo.log.clear()
    view = solo.replica.view
    assert view == 1
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.replica.view == 2
    assert 2 in solo.nullified()
    assert 3 not in solo.nullified()


def test_run_of_silent_leaders_is_nullified_on_entering_the_view_before() -> None:
    solo = Solo(size=7)
    dead = [solo.leader(3), solo.leader(4)]
    silence(solo, *dead)
    solo.log.clear()
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.replica.view == 2
    assert solo.nullified() == [3, 4]


def test_view_is_given_up_at_once_when_its_leader_is_lost() -> None:
    solo = Solo(size=7)
    solo.pend()
    dead = solo.leader(solo.replica.view)
    for name in solo.others:
        if name != dead:
            solo.hear(name, solo.finalize(name, solo.about(2, name.encode())))
    solo.log.clear()
    solo.give(PeerDisconnected(dead))
    assert solo.nullified() == [solo.replica.view]


def test_votes_that_were_on_their_way_do_not_bring_a_lost_leader_back() -> None:
    """A dead validator's last words arrive after its connection broke; its views stay skipped."""
    solo = Solo(size=7)
    solo.pend()
    dead = solo.leader(2)
    solo.give(PeerDisconnected(dead))
    solo.hear(dead, solo.finalize(dead, solo.about(2, b"late")))
    solo.log.clear()
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.nullified() == [2]


def test_lost_leader_that_is_back_and_votes_is_skipped_no_longer() -> None:
    solo = Solo(size=7)
    solo.pend()
    dead = solo.leader(2)
    solo.give(PeerDisconnected(dead))
    solo.give(PeerConnected(dead))
    solo.hear(dead, solo.finalize(dead, solo.about(2, b"again")))
    solo.log.clear()
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.nullified() == []


def test_lost_leader_stays_lost_in_the_next_epoch() -> None:
    solo = Solo(size=7, epoch_blocks=1)
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    solo.sync()
    validators = make_validators(1, tuple(solo.names))
    for name in solo.others[:2]:
        solo.give(PeerDisconnected(name))
    tip = solo.replica.tip
    solo.log.clear()
    solo.give(EpochOpened(EpochStart(validators, tip.digest, tip.height, tip.timestamp_ms)))
    led = [
        view
        for view in range(1, 8)
        if solo.replica._engine.get_leader_name(view) in solo.others[:2]
    ]
    engine = solo.replica._engine
    assert led == [view for view in range(1, 8) if engine.is_skippable(view)]


def test_a_leader_that_is_not_connected_yet_is_passed_over_when_the_gate_opens() -> None:
    solo = Solo(size=7, is_open=False)
    missing = solo.leader(solo.replica.view)
    solo.give(PeerDisconnected(missing))
    solo.log.clear()
    for name in solo.others:
        if name != missing:
            solo.hear(name, VotesResponse(0, (), None))
    assert solo.nullified() == [solo.replica.view]


def test_a_validator_that_never_came_costs_no_timeout() -> None:
    cluster = Cluster(4, seed=3)
    cluster.boot(cluster.names[:3])
    took = [cluster.pay(3_000) for _ in range(12)]
    assert max(took) < 400


def test_losing_another_than_the_leader_gives_nothing_up() -> None:
    solo = Solo(size=7)
    solo.pend()
    other = next(n for n in solo.others if n != solo.leader(solo.replica.view))
    solo.log.clear()
    solo.give(PeerDisconnected(other))
    assert solo.nullified() == []


def test_nobody_is_skipped_when_fewer_than_a_quorum_are_heard() -> None:
    solo = Solo(size=7)
    silence(solo, *solo.others[:4])
    solo.log.clear()
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.nullified() == []


def test_skipping_stops_when_n_views_are_unfinalised() -> None:
    """The churn budget: a stall does not run through views at network speed."""
    solo = Solo()
    dead = solo.leader(2)
    silence(solo, dead)
    solo.log.clear()
    for view in range(1, 11):
        solo.hear(solo.others[0], solo.nullification(view))
    assert solo.replica.view == 11
    led = [view for view in range(1, 16) if solo.leader(view) == dead]
    assert led == [2, 6, 10, 14]
    assert solo.nullified() == [2]


def test_skipped_view_is_left_without_a_timeout_when_its_nullification_forms() -> None:
    cluster = Cluster(4, seed=3)
    cluster.boot(cluster.names[:3])
    for _ in range(20):
        cluster.pay(3_000)
    took = [cluster.pay(1_000) for _ in range(12)]
    assert max(took) < 200


@pytest.mark.parametrize("size", [4, 7, 10])
def test_adjacent_dead_leaders_cost_nothing_once_they_are_known(size: int) -> None:
    cluster = Cluster(size, seed=1, link=Link(latency_ms=(95, 131)))
    cluster.boot()
    cluster.pay(3_000)
    engine = cluster.nodes[cluster.names[0]].replica
    assert engine is not None
    order = [engine._engine.get_leader(view) for view in range(size)]
    for index in order[1 : 1 + (size - 1) // 3]:
        cluster.kill(cluster.nodes[cluster.names[index]])
    for _ in range(20):
        cluster.pay(8_000)
    assert max(cluster.pay(2_000) for _ in range(15)) < 1_000


def test_false_suspicion_by_f_plus_one_harms_nobody() -> None:
    """f + 1 validators do not hear a live leader: its views are lost, payments are not."""
    cluster = Cluster(4, seed=5).boot()
    cluster.pay(1_000)
    suspect = cluster.names[1]
    cluster.cuts = {(suspect, cluster.names[0]), (suspect, cluster.names[2])}
    for _ in range(30):
        cluster.pay(4_000)
    cluster.heal()
    cluster.run(2_000)
    for _ in range(10):
        cluster.pay(1_500)
    assert cluster.nodes[suspect].height >= cluster.checker_height() - 1


def test_returned_validator_is_skipped_no_longer() -> None:
    cluster = Cluster(4, seed=2)
    cluster.boot(cluster.names[:3])
    for _ in range(25):
        cluster.pay(3_000)
    back = cluster.nodes[cluster.names[3]]
    back.boot()
    for _ in range(10):
        cluster.pay(1_000)
    cluster.run(500)
    skipped = len(cluster.checker.nullified)
    for _ in range(20):
        cluster.pay(500)
    assert len(cluster.checker.nullified) == skipped


def test_views_do_not_churn_during_a_stall() -> None:
    cluster = Cluster(4, seed=4).boot()
    cluster.pay(1_000)
    view = cluster.live[0].replica
    assert view is not None
    before = view.view
    for name in cluster.names[2:]:
        cluster.kill(cluster.nodes[name])
    cluster.submit()
    cluster.run(120_000)
    assert view.view - before <= 1


def test_nullify_for_a_view_of_mine_is_believed_only_from_the_leader_or_f_plus_one() -> None:
    solo = Solo(size=7)
    followers = [name for name in solo.others if name != solo.leader(1)]
    for name in followers[:2]:
        solo.hear(name, solo.nullify(name, 1))
    assert solo.said(Nullify) == []
    solo.hear(followers[2], solo.nullify(followers[2], 1))
    assert solo.nullified() == [1]
