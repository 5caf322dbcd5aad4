"""The voting rules, one by one: a single replica among puppets."""

import pytest

from atpar.consensus import engine as engine_module
from atpar.consensus.effects import (
    BuildBlock,
    Cause,
    Commit,
    EnterView,
    Persist,
    VerifyBlock,
)
from atpar.consensus.events import BlockBuilt, BuildFailed
from atpar.consensus.records import (
    BodyRecord,
    CertificateRecord,
    CertifiedRecord,
    VoteRecord,
)
from atpar.ledger.certificates import Finalization, Notarization, Nullification, Proposition
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.consensus.fakes import GENESIS, decode_block
from tests.consensus.solo import GENESIS_TIME_MS, Solo


def test_replica_notarizes_the_leaders_valid_proposal() -> None:
    solo = Solo()
    block = solo.block(1)
    proposition = solo.propose(1, block)
    task = solo.last(VerifyBlock)
    assert (task.cause, task.proposition, task.block) == (Cause.PROPOSED, proposition, block)
    assert solo.notarized() == []
    solo.judge()
    assert solo.notarized() == [proposition]


def test_replica_journals_body_and_vote_before_it_notarizes() -> None:
    solo = Solo()
    block = solo.block(1)
    solo.propose(1, block)
    effects = solo.judge()
    kinds = [type(effect.record) for effect in effects if isinstance(effect, Persist)]
    assert kinds == [BodyRecord, VoteRecord]
    assert BodyRecord(block) in solo.records()
    assert VoteRecord(solo.said(Notarize)[0]) in solo.records()


def test_replica_refuses_second_vote_in_view() -> None:
    solo = Solo()
    first = solo.propose(1, solo.block(1))
    solo.judge()
    solo.propose(1, solo.block(1, transactions=(7,)))
    assert solo.notarized() == [first]


def test_replica_nullifies_an_invalid_block() -> None:
    solo = Solo()
    solo.propose(1, solo.block(1))
    solo.judge(is_valid=False)
    assert solo.nullified() == [1]
    assert solo.notarized() == []


def test_replica_certifies_finalizes_and_enters_the_next_view() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    assert solo.said(Notarization)[0].proposition == proposition
    assert solo.finalized() == [proposition]
    assert solo.replica.view == 2
    assert CertifiedRecord(proposition) in solo.records()
    assert solo.last(EnterView).parent == proposition.digest


def test_replica_commits_on_a_quorum_of_finalizes() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    commit = solo.last(Commit)
    assert [info.digest for info in commit.blocks] == [proposition.digest]
    assert not commit.closes_epoch
    assert commit.finalization == solo.said(Finalization)[0]
    assert solo.replica.final_view == 1


def test_certificates_are_broadcast_and_journaled_once() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    for name in solo.others:
        solo.hear(name, solo.notarization(proposition))
        solo.hear(name, solo.finalization(proposition))
    assert len(solo.said(Notarization)) == 1
    assert len(solo.said(Finalization)) == 1
    certificates = [r for r in solo.records() if isinstance(r, CertificateRecord)]
    assert len(certificates) == 2


def test_descendant_finalises_its_ancestors_in_order() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    second, _ = solo.certify(2, parent=first.digest)
    solo.finish(second)
    assert solo.committed() == [1, 2]
    assert len(solo.all(Commit)) == 1


def test_quorum_is_not_reached_by_fewer_votes() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    other = next(name for name in solo.others if name != solo.leader(1))
    solo.hear(other, solo.notarize(other, proposition))
    assert solo.said(Notarization) == []
    solo.judge()
    assert len(solo.said(Notarization)) == 1


def test_two_votes_of_one_validator_count_once() -> None:
    solo = Solo()
    proposition = solo.about(1, solo.block(1))
    for _ in range(3):
        solo.hear(solo.others[0], solo.notarize(solo.others[0], proposition))
    solo.hear(solo.others[1], solo.notarize(solo.others[1], proposition))
    assert solo.said(Notarization) == []


@pytest.mark.parametrize(
    "change",
    [
        {"proposer": "WXYZ"},
        {"epoch": 1},
        {"height": 2},
        {"parent": b"x" * 32},
        {"timestamp_ms": GENESIS_TIME_MS},
    ],
    ids=["proposer", "epoch", "height", "parent", "timestamp"],
)
def test_replica_refuses_a_proposal_with_a_wrong_header(change: dict[str, object]) -> None:
    solo = Solo()
    solo.propose(1, solo.block(1, **change))  # type: ignore[arg-type]
    assert solo.all(VerifyBlock) == []
    assert solo.nullified() == [1]


def test_replica_refuses_a_header_of_another_view() -> None:
    solo = Solo()
    solo.propose(1, solo.block(5, height=1, proposer=solo.leader(1)))
    assert solo.nullified() == [1]


def test_replica_refuses_a_parent_view_that_is_not_below() -> None:
    solo = Solo()
    solo.propose(1, solo.block(1), parent_view=1)
    assert solo.nullified() == [1]


def test_replica_refuses_a_parent_below_the_final_view() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    solo.propose(2, solo.block(2, height=1), parent_view=0)
    assert solo.nullified() == [2]


def test_malformed_block_drops_the_leader_and_nullifies() -> None:
    solo = Solo()
    proposition = Proposition(0, 1, 0, b"d" * 32)
    solo.hear(solo.leader(1), solo.proposal(b"junk", proposition))
    assert solo.dropped() == [solo.leader(1)]
    assert solo.nullified() == [1]


def test_block_of_another_digest_drops_the_leader() -> None:
    solo = Solo()
    proposition = Proposition(0, 1, 0, b"d" * 32)
    solo.hear(solo.leader(1), solo.proposal(solo.block(1), proposition))
    assert solo.dropped() == [solo.leader(1)]


def test_proposal_from_another_than_the_leader_drops_it() -> None:
    solo = Solo()
    block = solo.block(1)
    other = next(name for name in solo.others if name != solo.leader(1))
    solo.hear(other, solo.proposal(block, solo.about(1, block), name=other))
    assert solo.dropped() == [other]
    assert solo.decoded == 0


def test_proposal_with_a_bad_signature_drops_the_leader_unread() -> None:
    solo = Solo()
    block = solo.block(1)
    forged = solo.proposal(block, solo.about(1, block), name=solo.me)
    solo.hear(solo.leader(1), forged)
    assert solo.dropped() == [solo.leader(1)]
    assert solo.decoded == 0


def test_early_proposal_is_kept_and_voted_for_on_entering() -> None:
    solo = Solo()
    first = solo.about(1, solo.block(1))
    second_block = solo.block(2, parent=first.digest)
    second = solo.propose(2, second_block)
    assert solo.all(VerifyBlock) == []
    solo.certify(1)
    solo.judge()
    assert solo.notarized() == [first, second]


def test_proposal_further_than_n_views_ahead_is_not_kept() -> None:
    solo = Solo()
    near, far = 1 + len(solo.names), 2 + len(solo.names)
    block = solo.block(far)
    solo.hear(solo.leader(far), solo.proposal(block, solo.about(far, block)))
    assert solo.decoded == 0
    block = solo.block(near)
    solo.hear(solo.leader(near), solo.proposal(block, solo.about(near, block)))
    assert solo.decoded == 1


# ---- leading


def test_leader_builds_on_the_tip_and_proposes() -> None:
    solo = Solo(lead=1)
    solo.pend()
    solo.wait(100)
    task = solo.last(BuildBlock)
    assert (task.view, task.parent, task.parent_height) == (1, GENESIS, 0)
    proposition = solo.build()
    assert proposition.parent_view == 0
    assert solo.notarized() == [proposition]
    assert isinstance(solo.records()[-1], VoteRecord)
    assert len(solo.all(BuildBlock)) == 1


def test_leader_nullifies_at_once_when_building_fails() -> None:
    solo = Solo(lead=1)
    solo.pend()
    solo.give(BuildFailed(1))
    assert solo.nullified() == [1]


def test_leader_ignores_a_block_for_a_view_it_left() -> None:
    solo = Solo(lead=1)
    solo.pend()
    task = solo.last(BuildBlock)
    solo.hear(solo.others[0], solo.nullification(1))
    data = solo.block(1)
    info = decode_block(data)
    assert info is not None
    solo.give(BlockBuilt(task.view, info, data))
    solo.give(BuildFailed(task.view))
    assert solo.notarized() == []


def test_leader_waits_for_the_block_interval() -> None:
    solo = Solo(lead=2)
    first, _ = solo.certify(1)
    solo.pend()
    assert solo.all(BuildBlock) == []
    solo.wait(49)
    assert solo.all(BuildBlock) == []
    solo.wait(1)
    assert solo.last(BuildBlock).parent == first.digest


def test_leader_takes_a_timestamp_above_the_parents() -> None:
    solo = Solo(lead=2)
    solo.certify(1, timestamp_ms=solo.wall + 1_500)
    solo.pend()
    solo.wait(50)
    assert solo.last(BuildBlock).timestamp_ms == solo.wall - 50 + 1_500 + 1


@pytest.mark.parametrize(("spare", "is_empty"), [(0, False), (-1, True)])
def test_leader_proposes_empty_blocks_when_too_much_is_unfinalised(
    spare: int, *, is_empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    solo = Solo(lead=2)
    _, block = solo.certify(1)
    monkeypatch.setattr(engine_module, "MAX_UNFINAL_BYTES", len(block) + spare)
    solo.pend()
    solo.wait(100)
    assert solo.last(BuildBlock).is_empty is is_empty


def test_leader_builds_over_nullified_views() -> None:
    solo = Solo(lead=3)
    first, _ = solo.certify(1)
    solo.hear(solo.others[0], solo.nullification(2))
    solo.pend()
    solo.wait(100)
    assert solo.last(BuildBlock).parent == first.digest
    assert solo.build().parent_view == 1


# ---- nullify


def test_leader_timer_without_a_proposal_nullifies() -> None:
    solo = Solo()
    solo.pend()
    solo.wait(50 + 150 + 2 * 200 - 1)
    assert solo.nullified() == []
    solo.wait(1)
    assert solo.nullified() == [1]


def test_advance_timer_without_certification_nullifies() -> None:
    solo = Solo()
    solo.propose(1, solo.block(1))
    solo.judge()
    solo.wait(50 + 150 + 3 * 200 + 300 - 1)
    assert solo.nullified() == []
    solo.wait(1)
    assert solo.nullified() == [1]


def test_replica_nullifies_when_the_leader_did() -> None:
    solo = Solo()
    leader = solo.leader(1)
    solo.hear(leader, solo.nullify(leader, 1))
    assert solo.nullified() == [1]


def test_replica_nullifies_when_f_plus_one_did_and_not_before() -> None:
    solo = Solo()
    followers = [name for name in solo.others if name != solo.leader(1)]
    solo.hear(followers[0], solo.nullify(followers[0], 1))
    assert solo.nullified() == []
    solo.hear(followers[1], solo.nullify(followers[1], 1))
    assert solo.nullified() == [1]
    assert solo.replica.view == 2


def test_replica_never_nullifies_what_it_finalized() -> None:
    solo = Solo()
    solo.certify(1)
    assert len(solo.finalized()) == 1
    for name in solo.others:
        solo.hear(name, solo.nullify(name, 1))
    solo.wait(3_000)
    assert 1 not in solo.nullified()


def test_replica_never_notarizes_what_it_nullified() -> None:
    solo = Solo()
    solo.pend()
    solo.wait(700)
    assert solo.nullified() == [1]
    solo.propose(1, solo.block(1))
    assert solo.notarized() == []


def test_replica_may_nullify_after_its_notarize() -> None:
    solo = Solo()
    solo.propose(1, solo.block(1))
    solo.judge()
    solo.wait(2_000)
    assert len(solo.notarized()) > 0
    assert set(solo.nullified()) == {1}


def test_nullification_of_a_later_view_is_held_and_used_on_arrival() -> None:
    solo = Solo()
    solo.hear(solo.others[0], solo.nullification(2))
    assert solo.replica.view == 1
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.replica.view == 3


def test_too_early_proposal_stays_pending_until_its_time() -> None:
    solo = Solo()
    solo.propose(1, solo.block(1, timestamp_ms=solo.wall + 2_300))
    assert solo.all(VerifyBlock) == []
    solo.wait(299)
    assert solo.all(VerifyBlock) == []
    solo.wait(1)
    assert len(solo.all(VerifyBlock)) == 1


def test_proposal_two_seconds_ahead_is_on_time() -> None:
    solo = Solo()
    solo.propose(1, solo.block(1, timestamp_ms=solo.wall + 2_000))
    assert len(solo.all(VerifyBlock)) == 1


@pytest.mark.parametrize(("behind_ms", "refused"), [(10_000, []), (10_001, [1])])
def test_proposal_far_behind_the_clock_is_refused(behind_ms: int, refused: list[int]) -> None:
    solo = Solo()
    solo.wall_offset += 60_000
    solo.propose(1, solo.block(1, timestamp_ms=solo.wall - behind_ms))
    assert solo.nullified() == refused


def test_clock_check_does_not_gate_certification() -> None:
    solo = Solo()
    block = solo.block(1, timestamp_ms=solo.wall + 60_000)
    proposition = solo.propose(1, block)
    assert solo.all(VerifyBlock) == []
    solo.hear(solo.others[0], solo.notarization(proposition))
    solo.judge()
    assert solo.finalized() == [proposition]


# ---- rest and repetition


def rested() -> Solo:
    """A replica in view 2 after one final empty block: the chain rests."""
    solo = Solo()
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    solo.sync()
    assert solo.replica.is_resting
    solo.log.clear()
    return solo


def test_view_rests_until_the_heartbeat() -> None:
    solo = rested()
    solo.wait(4_999)
    assert solo.replica.is_resting
    assert solo.log == []
    solo.wait(1)
    assert not solo.replica.is_resting


def test_pending_transaction_ends_the_rest() -> None:
    solo = rested()
    solo.pend()
    assert not solo.replica.is_resting


def test_proposal_ends_the_rest() -> None:
    solo = rested()
    solo.propose(2, solo.block(2, parent=solo.replica.tip.digest))
    assert not solo.replica.is_resting


def test_f_plus_one_nullifies_end_the_rest() -> None:
    solo = rested()
    followers = [name for name in solo.others if name != solo.leader(2)]
    for name in followers[:2]:
        solo.hear(name, solo.nullify(name, 2))
    assert solo.nullified() == [2]


def test_non_empty_block_that_is_not_final_ends_the_rest_after_delta() -> None:
    solo = Solo()
    solo.certify(1, transactions=(1,))
    assert solo.replica.is_resting
    solo.wait(199)
    assert solo.replica.is_resting
    solo.wait(1)
    assert not solo.replica.is_resting


def test_empty_block_that_is_not_final_lets_the_chain_rest() -> None:
    solo = Solo()
    solo.certify(1)
    solo.wait(4_999)
    assert solo.replica.is_resting


def test_stuck_replica_repeats_its_votes_and_entry_certificate() -> None:
    solo = rested()
    solo.pend()
    solo.wait(1_000)
    first = solo.said(Nullify)[0]
    solo.log.clear()
    solo.wait(1_000)
    assert solo.said(Nullify) == [first]
    assert len(solo.said(Finalization)) == 1


@pytest.mark.no_cover
def test_backing_off_waits_for_n_unfinalised_views_and_has_a_bound() -> None:
    solo = Solo()
    spans = []
    for view in range(1, 16):
        start = solo.now
        solo.pend()
        while view not in solo.nullified():
            solo.wait(1)
        spans.append(solo.now - start)
        solo.hear(solo.others[0], solo.nullification(view))
    assert spans[:3] == [600, 600, 600]
    assert spans[5] > 600
    assert max(spans) == 2 * 5_000 + 200
    assert spans[-1] == max(spans)


def test_each_finalisation_takes_back_one_step_of_backing_off() -> None:
    solo = Solo()
    for view in range(1, 9):
        solo.pend()
        while view not in solo.nullified():
            solo.wait(1)
        solo.hear(solo.others[0], solo.nullification(view))
    slow = solo.replica._engine.pace.delta_ms
    block = solo.block(9, height=1)
    proposition = solo.propose(9, block, parent_view=0)
    solo.judge()
    for name in solo.others:
        solo.hear(name, solo.notarize(name, proposition))
    solo.finish(proposition)
    assert (slow, solo.replica._engine.pace.delta_ms) == (5_000, 3_200)


# ---- verifying no more than needed


def test_votes_beyond_the_quorum_are_not_verified() -> None:
    solo = Solo(size=7)
    proposition = solo.propose(1, solo.block(1))
    solo.judge()
    for name in solo.others:
        solo.hear(name, solo.notarize(name, proposition))
    assert len(solo.said(Notarization)) == 1
    assert len(solo.verified) == 4


def test_signatures_seen_as_votes_are_not_verified_again_in_a_certificate() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    assert len(solo.verified) == 1
    solo.hear(solo.others[0], solo.notarization(proposition))
    assert len(solo.verified) == 3
    assert len(solo.said(Notarization)) == 1


def test_certificate_that_is_held_is_not_verified_again() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    before = len(solo.verified)
    for name in solo.others:
        solo.hear(name, solo.notarization(proposition))
    assert len(solo.verified) == before


def test_repeated_vote_is_not_verified_again() -> None:
    solo = Solo()
    vote = solo.nullify(solo.others[0], 3)
    for _ in range(5):
        solo.hear(solo.others[0], vote)
    assert len(solo.verified) == 1


def test_vote_with_a_bad_signature_drops_the_peer() -> None:
    solo = Solo()
    liar, other = solo.others[:2]
    solo.hear(liar, solo.nullify(other, 1))
    assert solo.dropped() == [liar]
    assert solo.evidence() == []


@pytest.mark.parametrize("kind", ["notarization", "nullification", "finalization"])
def test_certificate_with_a_bad_signature_drops_the_peer(kind: str) -> None:
    solo = Solo()
    proposition = solo.about(1, solo.block(1))
    good: Notarization | Nullification | Finalization
    if kind == "notarization":
        good = solo.notarization(proposition)
        bad = Notarization(proposition, good.signers, (*good.signatures[:-1], b"s" * 64))
        solo.hear(solo.others[0], bad)
    elif kind == "finalization":
        good = solo.finalization(proposition)
        solo.hear(
            solo.others[0],
            Finalization(proposition, good.signers, (*good.signatures[:-1], b"s" * 64)),
        )
    else:
        good = solo.nullification(1)
        solo.hear(
            solo.others[0],
            Nullification(good.body, good.signers, (*good.signatures[:-1], b"s" * 64)),
        )
    assert solo.dropped() == [solo.others[0]]
    assert solo.replica.view == 1
    assert solo.replica.final_view == 0


def test_certificate_of_fewer_than_the_quorum_drops_the_peer() -> None:
    solo = Solo()
    solo.hear(solo.others[0], solo.nullification(1, solo.others[:2]))
    assert solo.dropped() == [solo.others[0]]


def test_votes_of_strangers_and_of_oneself_are_ignored() -> None:
    solo = Solo()
    stranger = "ZZZZ"
    assert solo.hear(stranger, solo.nullify(solo.others[0], 1)) == []
    assert solo.hear(solo.me, solo.nullify(solo.me, 1)) == []
    assert solo.verified == []


# ---- finality


def test_finalization_moves_the_floor_before_the_body_is_here() -> None:
    solo = Solo()
    block = solo.block(5, height=1)
    proposition = solo.about(5, block, parent_view=0)
    solo.hear(solo.others[0], solo.finalization(proposition))
    assert solo.replica.final_view == 5
    assert solo.replica.view == 6
    assert solo.committed() == []


def test_replica_neither_proposes_nor_notarizes_until_the_final_body_is_here() -> None:
    solo = Solo(lead=2)
    first_block = solo.block(1)
    first = solo.about(1, first_block)
    solo.hear(solo.others[0], solo.finalization(first))
    solo.pend()
    solo.wait(200)
    assert solo.all(BuildBlock) == []
    solo.propose(3, solo.block(3, height=2, parent=first.digest), parent_view=1)
    assert solo.notarized() == []


def test_finalize_needs_the_notarization_even_when_others_finalize() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    solo.judge()
    solo.hear(solo.others[0], solo.finalize(solo.others[0], proposition))
    assert solo.said(Finalize) == []


def test_observer_follows_without_a_vote() -> None:
    solo = Solo(me="WXYZ", is_open=False)
    block = solo.block(1)
    proposition = solo.about(1, block)
    for name in solo.names:
        if name == solo.leader(1):
            solo.hear(name, solo.proposal(block, proposition))
        else:
            solo.hear(name, solo.notarize(name, proposition))
    solo.judge()
    assert solo.replica.view == 2
    for name in solo.names:
        solo.hear(name, solo.finalize(name, proposition))
    assert solo.committed() == [1]
    solo.wait(20_000)
    assert not any(isinstance(record, VoteRecord) for record in solo.records())
