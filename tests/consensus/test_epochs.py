"""Epoch boundaries, changing sets, and members that lag behind an epoch."""

import pytest

from atpar.consensus import replica as replica_module
from atpar.consensus.effects import Commit, Persist, ServeSync, VerifyBlock
from atpar.consensus.events import BlockBuilt, CommitSynced, EpochOpened, Ticked
from atpar.consensus.messages import (
    BlockResponse,
    CertificatesRequest,
    CertificatesResponse,
    Proposal,
    SyncRequest,
    SyncResponse,
    VotesRequest,
    VotesResponse,
)
from atpar.consensus.records import EpochOpenedRecord, JournalLostRecord, VoteRecord
from atpar.consensus.safety import GateState
from atpar.consensus.types import EpochStart, Tip
from atpar.ledger.certificates import Finalization, NullifyBody, Proposition
from atpar.ledger.votes import Finalize, Nullify
from tests.consensus.cluster import Cluster, Link
from tests.consensus.fakes import NAMES, decode_block, make_validators
from tests.consensus.solo import Solo, opening


def at_boundary() -> tuple[Solo, Proposition, bytes]:
    """A replica whose epoch has one block, certified and not final."""
    solo = Solo(epoch_blocks=1)
    proposition, block = solo.certify(1)
    return solo, proposition, block


def next_start(solo: Solo, names: tuple[str, ...] = ()) -> EpochStart:
    tip = solo.replica.tip
    validators = make_validators(1, names or tuple(solo.names))
    return EpochStart(validators, tip.digest, tip.height, tip.timestamp_ms)


def crossed(names: tuple[str, ...] = ()) -> tuple[Solo, Proposition]:
    solo, proposition, _ = at_boundary()
    solo.finish(proposition)
    solo.sync()
    solo.give(EpochOpened(next_start(solo, names)))
    return solo, proposition


def test_boundary_block_closes_the_epoch_when_it_is_final() -> None:
    solo, proposition, _ = at_boundary()
    solo.finish(proposition)
    assert solo.last(Commit).closes_epoch
    assert solo.replica.deadline_ms is None
    solo.log.clear()
    solo.give(Ticked())
    solo.hear(solo.others[0], solo.nullify(solo.others[0], 2))
    assert solo.nullified() == []


def test_boundary_block_that_is_not_final_ends_the_rest() -> None:
    solo, _, _ = at_boundary()
    assert solo.replica.is_resting
    solo.wait(200)
    assert not solo.replica.is_resting


def test_only_the_boundary_block_itself_may_follow_it() -> None:
    solo, proposition, _ = at_boundary()
    solo.propose(2, solo.block(2, parent=proposition.digest))
    assert solo.nullified() == [2]


def test_re_proposed_boundary_is_voted_for_without_execution_or_clock() -> None:
    solo, first, block = at_boundary()
    asked = len(solo.all(VerifyBlock))
    solo.wall_offset += 3_600_000
    again = solo.propose(2, block)
    assert again == Proposition(0, 2, 1, first.digest)
    assert solo.notarized()[-1] == again
    assert len(solo.all(VerifyBlock)) == asked
    for name in solo.others:
        solo.hear(name, solo.notarize(name, again))
    third = Proposition(0, 3, 2, first.digest)
    solo.hear(solo.leader(3), solo.proposal(block, third))
    for name in solo.others:
        solo.hear(name, solo.notarize(name, third))
    assert solo.finalized() == [first, again, third]
    solo.finish(third)
    commit = solo.last(Commit)
    assert [info.digest for info in commit.blocks] == [first.digest]
    assert commit.finalization.proposition == third
    assert commit.closes_epoch


def test_leader_re_proposes_the_boundary_block() -> None:
    solo = Solo(epoch_blocks=1, lead=2)
    first, block = solo.certify(1)
    solo.wait(300)
    proposal = solo.last_proposal()
    assert proposal.block == block
    assert proposal.vote.proposition == Proposition(0, 2, 1, first.digest)


def test_next_epoch_starts_at_view_one_with_an_opening_record() -> None:
    solo, proposition = crossed()
    assert (solo.replica.epoch, solo.replica.view, solo.replica.final_view) == (1, 1, 0)
    assert EpochOpenedRecord(1, 1, proposition.digest) in solo.records()
    assert solo.replica.gate_state is GateState.OPEN
    assert solo.replica.compact_journal() == [EpochOpenedRecord(1, 1, proposition.digest)]
    solo.log.clear()
    block = solo.block(1, height=2, parent=proposition.digest, epoch=1)
    leader = solo.replica.leader
    if leader != solo.me:
        about = Proposition(1, 1, 0, decode(block))
        solo.hear(leader, solo.proposal(block, about, name=leader))


def decode(block: bytes) -> bytes:
    info = decode_block(block)
    assert info is not None
    return info.digest


def test_epoch_does_not_open_on_another_block_or_backwards() -> None:
    solo, proposition, _ = at_boundary()
    solo.finish(proposition)
    start = next_start(solo)
    solo.give(EpochOpened(EpochStart(start.validators, b"x" * 32, 1, 0)))
    assert solo.replica.epoch == 0
    solo.give(EpochOpened(start))
    solo.give(EpochOpened(start))
    assert solo.replica.epoch == 1


def test_validator_that_leaves_observes_the_next_epoch() -> None:
    names = tuple(name for name in NAMES[:5])
    solo = Solo(epoch_blocks=1)
    without = tuple(name for name in names if name != solo.me)
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    solo.sync()
    solo.give(EpochOpened(next_start(solo, without)))
    assert solo.replica.gate_state is GateState.OBSERVING
    solo.log.clear()
    solo.wait(30_000)
    assert not any(isinstance(record, VoteRecord) for record in solo.records())


def test_validator_that_joins_asks_before_it_votes() -> None:
    solo = Solo(epoch_blocks=1, me=NAMES[5])
    assert solo.replica.gate_state is GateState.OBSERVING
    block = solo.block(1)
    proposition = solo.propose(1, block)
    solo.judge()
    solo.hear(solo.names[0], solo.notarization(proposition))
    solo.judge()
    solo.finish(proposition)
    solo.sync()
    names = (*solo.names[:3], NAMES[5])
    solo.give(EpochOpened(next_start(solo, names)))
    assert solo.replica.gate_state is GateState.ASKING
    assert VotesRequest(1) in solo.said(VotesRequest)
    for name in solo.names[:2]:
        solo.hear(name, VotesResponse(1, (), None))
    assert solo.replica.gate_state is GateState.OPEN


def test_lost_journal_votes_again_in_the_next_epoch() -> None:
    solo = Solo(epoch_blocks=1, is_open=False)
    lost = solo.nullify(solo.me, 3)
    solo.hear(solo.others[0], VotesResponse(0, (lost,), None))
    assert solo.replica.gate_state is GateState.LOST
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    solo.sync()
    solo.give(EpochOpened(next_start(solo)))
    assert solo.replica.gate_state is GateState.ASKING
    for name in solo.others[:2]:
        solo.hear(name, VotesResponse(1, (), None))
    assert solo.replica.gate_state is GateState.OPEN


def test_start_right_after_the_boundary_opens_the_epochs_journal() -> None:
    start = EpochStart(make_validators(1, NAMES[:4]), b"b" * 32, 5, 0)
    solo = Solo()
    replica = replica_module.Replica(
        solo.replica._config,
        solo.replica._ports,
        start=start,
        tip=Tip(b"b" * 32, 5, 0, None),
        records=[opening(0), JournalLostRecord(0)],
    )
    effects = replica.start(now_ms=0, wall_ms=0)
    assert effects[0] == Persist(EpochOpenedRecord(1, 5, b"b" * 32))
    assert replica.gate_state is GateState.ASKING


def test_lost_store_comes_back_with_the_votes_of_a_later_epoch() -> None:
    """The journal is whole and the store is fetched anew: no vote is repeated or thought lost."""
    solo = Solo(epoch_blocks=1)
    first, block = solo.certify(1)
    solo.finish(first)
    solo.sync()
    start = next_start(solo)
    solo.give(EpochOpened(start))
    while not solo.replica._engine.gate.get_votes():
        solo.wait(1_000)
    votes = solo.replica._engine.gate.get_votes()
    journal = [opening(), *solo.records()]
    again = Solo(epoch_blocks=1, records=journal)
    kept = again.replica.compact_journal()
    assert EpochOpenedRecord(1, 1, first.digest) in kept
    assert [record for record in kept if record in [VoteRecord(vote) for vote in votes]]
    again.finish(first)
    again.judge()
    if not again.all(Commit):
        again.hear(again.others[0], BlockResponse(first.digest, block))
    assert again.last(Commit).closes_epoch
    again.sync()
    again.log.clear()
    again.give(EpochOpened(start))
    assert again.replica.gate_state is GateState.ASKING
    assert again.replica._engine.gate.get_votes() == votes
    assert EpochOpenedRecord(1, 1, first.digest) not in again.records()
    for name in again.others[:2]:
        again.hear(name, VotesResponse(1, tuple(votes), None))
    assert again.replica.gate_state is GateState.OPEN


def test_lost_journal_of_a_later_epoch_stays_lost_when_it_is_reached() -> None:
    solo = Solo(epoch_blocks=1, records=[opening(), JournalLostRecord(1), opening(1)])
    first, _ = solo.certify(1)
    solo.finish(first)
    solo.sync()
    solo.give(EpochOpened(next_start(solo)))
    assert solo.replica.gate_state is GateState.LOST


def test_later_epoch_makes_a_laggard_fetch_seldom() -> None:
    solo = Solo()
    peer = solo.others[0]
    for _ in range(3):
        solo.hear(peer, solo.nullify(peer, 1, epoch=4))
    assert solo.told(peer, SyncRequest) == [SyncRequest(0, 1)]
    for name in solo.others:
        solo.hear(name, SyncResponse(1, (), None))
    assert not solo.replica.is_catching_up
    solo.log.clear()
    solo.hear(peer, solo.nullify(peer, 2, epoch=4))
    assert solo.sent(SyncRequest) == []
    solo.now += 1_000
    solo.hear(peer, VotesResponse(4, (), None))
    assert len(solo.sent(SyncRequest)) == 1


def test_answers_and_questions_of_a_later_epoch_are_followed_too() -> None:
    for message in (VotesRequest(3), VotesResponse(3, (), None), CertificatesRequest(3, 1)):
        solo = Solo()
        solo.hear(solo.others[0], message)
        assert SyncRequest(0, 1) in solo.sent(SyncRequest)


def test_laggard_crosses_the_boundary_and_goes_on_fetching() -> None:
    solo = Solo(epoch_blocks=2)
    peer = solo.others[0]
    first = solo.block(1)
    second = solo.block(2, parent=decode(first))
    solo.hear(peer, solo.nullify(peer, 1, epoch=1))
    final = solo.finalization(solo.about(2, second))
    solo.hear(peer, SyncResponse(1, (first, second), final))
    solo.judge()
    solo.judge()
    assert solo.committed() == [1, 2]
    assert solo.last(Commit).closes_epoch
    solo.sync()
    solo.log.clear()
    solo.give(EpochOpened(next_start(solo)))
    assert solo.replica.gate_state is GateState.ASKING
    assert solo.sent(SyncRequest) == [SyncRequest(1, 3)]
    assert solo.told(peer, SyncRequest) == [], "ranges go round"


def test_member_of_the_old_epoch_gets_the_boundarys_finalization() -> None:
    solo, proposition = crossed()
    behind = solo.others[0]
    solo.hear(behind, solo.nullify(behind, 4))
    told = solo.told(behind, Finalization)
    assert [certificate.proposition for certificate in told] == [proposition]
    solo.hear(behind, solo.nullify(behind, 5))
    assert len(solo.told(behind, Finalization)) == 1


def test_member_of_an_older_epoch_is_told_the_epoch() -> None:
    solo, _ = crossed()
    tip = solo.replica.tip
    start = EpochStart(make_validators(7, solo.names), tip.digest, tip.height, tip.timestamp_ms)
    solo.give(EpochOpened(start))
    solo.log.clear()
    behind = solo.others[0]
    solo.hear(behind, solo.nullify(behind, 4))
    assert [answer.epoch for answer in solo.told(behind, VotesResponse)] == [7]


def test_messages_of_the_next_epoch_wait_while_it_is_being_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_module, "MAX_NEXT_EPOCH_MESSAGES", 3)
    solo, proposition, _ = at_boundary()
    solo.finish(proposition)
    for view in (1, 2, 3, 4):
        for name in solo.others[:1]:
            solo.hear(name, solo.nullify(name, view, epoch=1))
    solo.sync()
    solo.give(EpochOpened(next_start(solo)))
    views = solo.replica._engine.book.views
    assert [view for view in (1, 2, 3, 4) if view in views and views[view].nullifies] == [1, 2, 3]


def test_closed_epoch_still_serves() -> None:
    solo, proposition, _ = at_boundary()
    solo.finish(proposition)
    peer = solo.others[0]
    solo.hear(peer, CertificatesRequest(0, 1))
    held = solo.told(peer, CertificatesResponse)[-1].certificates
    assert [type(certificate) for certificate in held] == [Finalization]
    solo.hear(peer, SyncRequest(0, 1))
    assert len(solo.all(ServeSync)) == 1


def test_recovery_opens_an_epoch_at_the_highest_final_block() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    solo.sync()
    solo.certify(2, parent=proposition.digest)
    solo.give(EpochOpened(next_start(solo, NAMES[2:6])))
    assert (solo.replica.epoch, solo.replica.view) == (1, 1)
    assert solo.replica.tip.height == 1


def test_late_answers_of_the_epoch_before_change_nothing() -> None:
    solo, _ = crossed()
    solo.log.clear()
    data = solo.block(2)
    info = decode_block(data)
    assert info is not None
    solo.give(BlockBuilt(2, info, data))
    solo.give(CommitSynced(1))
    assert solo.said(Proposal) == []


@pytest.mark.parametrize("seed", range(4))
def test_sets_change_without_stopping_payments(seed: int) -> None:
    cluster = Cluster(4, seed=seed, epoch_blocks=4, spares=3)
    names = list(NAMES[:4])
    for epoch in range(1, 60):
        leaving = names.pop(cluster.random.randrange(len(names)))
        spare = [name for name in NAMES[:7] if name not in names and name != leaving]
        names.append(cluster.random.choice(spare))
        cluster.sets[epoch] = tuple(names)
    cluster.boot()
    for _ in range(40):
        assert cluster.pay(5_000) < 3_000
    assert max(node.replica.epoch for node in cluster.live if node.replica) >= 8


@pytest.mark.parametrize("seed", range(4))
def test_epochs_change_under_faults(seed: int) -> None:
    link = Link(loss=0.03, duplicate=0.03, latency_ms=(1, 60))
    cluster = Cluster(4, seed=seed, epoch_blocks=5, spares=2, link=link)
    for epoch in range(1, 100):
        cluster.sets[epoch] = tuple(NAMES[(epoch + at) % 6] for at in range(4))
    cluster.boot()
    cluster.crash_probability = 0.001
    for _ in range(25):
        cluster.submit()
        cluster.run(cluster.random.randrange(1, 1_500))
    cluster.crash_probability = 0
    cluster.link = Link()
    cluster.run(3_000)
    cluster.settle()
    cluster.pay(5_000)
    cluster.pay(2_000)


def test_member_that_slept_through_epochs_comes_back() -> None:
    cluster = Cluster(4, epoch_blocks=4).boot()
    cluster.pay(1_000)
    away = cluster.nodes[cluster.names[2]]
    cluster.kill(away)
    for _ in range(30):
        cluster.pay(4_000)
    away.boot()
    cluster.run_until(lambda: away.height >= cluster.checker_height() - 1, 5_000)
    cluster.kill(cluster.nodes[cluster.names[0]])
    cluster.pay(10_000)
    assert isinstance(away.replica, replica_module.Replica)
    assert away.replica.gate_state is GateState.OPEN


def test_nullify_of_an_epoch_is_no_vote_of_another() -> None:
    solo, _ = crossed()
    for name in solo.others:
        solo.hear(name, Nullify(NullifyBody(1, 1), solo.nullify(name, 1).signature))
    assert solo.dropped() == [name for name in solo.others if name in solo.dropped()]
    assert len(solo.dropped()) == 3
    assert solo.said(Finalize) != []
