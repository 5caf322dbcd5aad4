"""Fetching what is missing, serving what is held, and coming back after a crash."""

import pytest

from atpar.consensus import replica as replica_module
from atpar.consensus.catchup import CatchUp, Needs
from atpar.consensus.effects import (
    AlarmKind,
    Broadcast,
    BuildBlock,
    Cause,
    Commit,
    Persist,
    Send,
    ServeBlock,
    ServeSync,
    VerifyBlock,
)
from atpar.consensus.errors import JournalInvalid
from atpar.consensus.events import PeerConnected, PeerDisconnected, Ticked
from atpar.consensus.limits import MAX_CERTIFICATES_PER_ANSWER, MAX_TURNS_PER_PART
from atpar.consensus.messages import (
    BlockRequest,
    BlockResponse,
    CertificatesRequest,
    CertificatesResponse,
    Proposal,
    SyncRequest,
    SyncResponse,
    VotesRequest,
    VotesResponse,
)
from atpar.consensus.records import (
    BodyRecord,
    CertificateRecord,
    CertifiedRecord,
    JournalLostRecord,
    JournalRecord,
    VoteRecord,
)
from atpar.consensus.safety import GateState
from atpar.consensus.types import Tip
from atpar.ledger.certificates import Finalization, Nullification, Proposition
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.consensus.fakes import GENESIS, decode_block, digest_of
from tests.consensus.solo import Solo, opening

# ---- blocks by digest


def notarized_without_body(solo: Solo) -> tuple[Proposition, bytes]:
    block = solo.block(1)
    proposition = solo.about(1, block)
    solo.hear(solo.others[0], solo.notarization(proposition))
    return proposition, block


def test_missing_body_is_asked_of_the_signers_in_turn() -> None:
    solo = Solo()
    proposition, _ = notarized_without_body(solo)
    assert solo.sent(BlockRequest) == []
    solo.wait(100)
    assert len(solo.sent(BlockRequest)) == 1
    solo.wait(500)
    solo.wait(500)
    asked = [name for name in solo.others if solo.told(name, BlockRequest)]
    assert sorted(asked) == sorted(solo.others)
    assert set(solo.sent(BlockRequest)) == {BlockRequest(proposition.digest)}


def test_peer_without_the_body_is_passed_over_at_once() -> None:
    solo = Solo()
    proposition, block = notarized_without_body(solo)
    solo.wait(100)
    first = next(name for name in solo.others if solo.told(name, BlockRequest))
    solo.hear(first, BlockResponse(proposition.digest, b""))
    assert len(solo.sent(BlockRequest)) == 2
    assert len(solo.told(first, BlockRequest)) == 1
    second = next(n for n in solo.others if n != first and solo.told(n, BlockRequest))
    solo.hear(second, BlockResponse(proposition.digest, block))
    solo.judge()
    assert solo.replica.view == 2
    assert BodyRecord(block) in solo.records()


def test_another_block_than_the_one_asked_for_drops_the_peer() -> None:
    solo = Solo()
    proposition, _ = notarized_without_body(solo)
    solo.wait(100)
    first = next(name for name in solo.others if solo.told(name, BlockRequest))
    solo.hear(first, BlockResponse(proposition.digest, solo.block(3)))
    assert solo.dropped() == [first]
    assert len(solo.sent(BlockRequest)) == 2


def test_answer_that_was_not_asked_for_is_not_decoded() -> None:
    solo = Solo()
    block = solo.block(1)
    solo.hear(solo.others[0], BlockResponse(digest_of(block), block))
    assert solo.decoded == 0


def test_after_every_peer_refused_there_is_a_pause() -> None:
    solo = Solo()
    proposition, _ = notarized_without_body(solo)
    solo.wait(100)
    for _ in range(3):
        for name in solo.others:
            solo.hear(name, BlockResponse(proposition.digest, b""))
    assert len(solo.sent(BlockRequest)) == 3
    solo.wait(500)
    assert len(solo.sent(BlockRequest)) == 4


def test_disconnected_peers_are_not_asked_and_their_requests_go_to_others() -> None:
    solo = Solo()
    solo.give(PeerDisconnected(solo.others[1]))
    notarized_without_body(solo)
    solo.wait(100)
    first = next(name for name in solo.others if solo.told(name, BlockRequest))
    solo.give(PeerDisconnected(first))
    asked = [name for name in solo.others if solo.told(name, BlockRequest)]
    assert len(asked) == 2
    assert solo.others[1] not in asked


def test_a_late_message_of_a_lost_peer_does_not_get_it_asked() -> None:
    solo = Solo()
    lost = solo.others[1]
    solo.give(PeerDisconnected(lost))
    solo.hear(lost, solo.nullify(lost, 1))
    notarized_without_body(solo)
    solo.wait(5_000)
    asked = {name for name in solo.others if solo.told(name, BlockRequest)}
    assert asked == {name for name in solo.others if name != lost}


def test_with_nobody_connected_nothing_is_asked() -> None:
    catchup = CatchUp(participant="ME00", retry_ms=500)
    catchup.open_epoch(0, ["ME00", "PEER"])
    needs = Needs()
    needs.add_certificates(3, None, grace_ms=0)
    catchup.declare(needs, 0, body_grace_ms=0)
    assert catchup.poll(0) == []
    assert catchup.deadline_ms == 500
    catchup.connect("PEER")
    assert catchup.poll(500) == [Send("PEER", CertificatesRequest(0, 3))]
    catchup.declare(Needs(), 600, body_grace_ms=0)
    assert catchup.deadline_ms is None


def test_body_of_a_final_block_is_fetched_and_committed() -> None:
    solo = Solo()
    first_block = solo.block(1)
    first = solo.about(1, first_block)
    second_block = solo.block(2, parent=first.digest)
    second = solo.about(2, second_block)
    solo.hear(solo.others[0], solo.finalization(second))
    solo.wait(100)
    solo.hear(solo.others[0], BlockResponse(second.digest, second_block))
    solo.wait(100)
    assert BlockRequest(first.digest) in solo.sent(BlockRequest)
    solo.hear(solo.others[0], BlockResponse(first.digest, first_block))
    solo.judge()
    assert solo.last(VerifyBlock).cause is Cause.FINAL
    solo.judge()
    assert solo.committed() == [1, 2]
    assert not solo.replica.is_catching_up


# ---- certificates


def test_laggard_fetches_the_certificates_in_between() -> None:
    solo = Solo()
    for view in (2, 3):
        solo.hear(solo.others[0], solo.nullification(view))
    assert solo.sent(CertificatesRequest) == []
    solo.wait(200)
    assert solo.sent(CertificatesRequest) == [CertificatesRequest(0, 1)]
    asked = next(name for name in solo.others if solo.told(name, CertificatesRequest))
    solo.hear(asked, CertificatesResponse((solo.nullification(1),)))
    assert solo.replica.view == 4
    solo.wait(2_000)
    assert len(solo.sent(CertificatesRequest)) == 1


def test_certificate_far_above_is_followed_at_once() -> None:
    solo = Solo()
    solo.hear(solo.others[0], solo.nullification(9))
    assert solo.sent(CertificatesRequest) == [CertificatesRequest(0, 1)]


def test_missing_nullification_below_a_proposal_is_fetched() -> None:
    solo = Solo(lead=2)
    first, _ = solo.certify(1)
    third_block = solo.block(3, height=2, parent=first.digest)
    third = solo.propose(3, third_block, parent_view=1)
    solo.hear(solo.others[0], solo.notarization(third))
    solo.judge()
    assert solo.replica.view == 4
    solo.log.clear()
    fourth_block = solo.block(4, height=2, parent=first.digest)
    solo.propose(4, fourth_block, parent_view=1)
    leader = solo.leader(4)
    assert solo.told(leader, CertificatesRequest) == [CertificatesRequest(0, 2)]
    nullifications = (solo.nullification(2), solo.nullification(3))
    solo.hear(leader, CertificatesResponse(nullifications))
    assert len(solo.all(VerifyBlock)) == 1
    solo.judge()
    assert len(solo.notarized()) == 1


def test_certificates_are_served_with_the_final_one_first() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    second, _ = solo.certify(2, parent=first.digest)
    solo.hear(solo.others[0], solo.nullification(3))
    solo.hear(solo.others[0], CertificatesRequest(0, 1))
    held = solo.told(solo.others[0], CertificatesResponse)[-1].certificates
    assert [type(c).__name__ for c in held] == ["Finalization", "Notarization", "Nullification"]
    solo.hear(solo.others[0], CertificatesRequest(0, 3))
    held = solo.told(solo.others[0], CertificatesResponse)[-1].certificates
    assert held == (solo.nullification(3),)
    assert second.view == 2


def test_served_certificates_are_bounded() -> None:
    solo = Solo()
    for view in range(1, MAX_CERTIFICATES_PER_ANSWER + 5):
        solo.hear(solo.others[0], solo.nullification(view))
    solo.hear(solo.others[0], CertificatesRequest(0, 1))
    held = solo.told(solo.others[0], CertificatesResponse)[-1].certificates
    assert len(held) == MAX_CERTIFICATES_PER_ANSWER
    assert isinstance(held[0], Nullification)
    assert held[0].body.view == 1


def test_bad_certificate_in_an_answer_drops_the_peer_and_ends_the_answer() -> None:
    solo = Solo()
    answer = CertificatesResponse((solo.nullification(1, solo.others[:2]), solo.nullification(1)))
    solo.hear(solo.others[0], answer)
    assert solo.dropped() == [solo.others[0]]
    assert solo.replica.view == 1


def test_peer_that_nullifies_an_old_view_gets_the_entry_certificate_seldom() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    behind = solo.others[0]
    for _ in range(3):
        solo.hear(behind, solo.nullify(behind, 1))
    assert len(solo.told(behind, type(solo.notarization(proposition)))) == 1
    solo.now += 500
    other = solo.others[1]
    solo.hear(other, solo.nullify(other, 1))
    assert len(solo.told(other, type(solo.notarization(proposition)))) == 1


def test_peer_far_behind_is_helped_whatever_it_says() -> None:
    solo = Solo()
    block = solo.block(50, height=1)
    proposition = solo.about(50, block, parent_view=0)
    solo.hear(solo.others[0], solo.finalization(proposition))
    behind = solo.others[1]
    solo.hear(behind, solo.notarize(behind, Proposition(0, 2, 0, b"d" * 32)))
    assert len(solo.told(behind, Finalization)) == 1
    behind = solo.others[2]
    solo.hear(behind, solo.nullification(3))
    assert len(solo.told(behind, Finalization)) == 1


# ---- ranges


def long_chain(solo: Solo, length: int) -> list[bytes]:
    blocks: list[bytes] = []
    parent = GENESIS
    for view in range(1, length + 1):
        blocks.append(solo.block(view, parent=parent))
        parent = digest_of(blocks[-1])
    return blocks


def start_sync(solo: Solo, length: int = 40) -> tuple[list[bytes], str]:
    """The replica learns a far finalization and asks somebody for a range."""
    blocks = long_chain(solo, length)
    last = solo.about(length, blocks[-1])
    solo.hear(solo.others[0], solo.finalization(last))
    solo.wait(100)
    solo.hear(solo.others[0], BlockResponse(last.digest, blocks[-1]))
    request = SyncRequest(0, 1)
    assert solo.sent(SyncRequest) == [request]
    asked = next(name for name in solo.others if solo.told(name, SyncRequest))
    return blocks, asked


def judge_all(solo: Solo) -> None:
    answered = 0
    while answered != len(solo.all(VerifyBlock)):
        answered = len(solo.all(VerifyBlock))
        solo.judge()


def test_far_behind_replica_fetches_ranges_oldest_first() -> None:
    solo = Solo()
    blocks, asked = start_sync(solo)
    assert solo.replica.is_catching_up
    run = tuple(blocks[:25])
    solo.hear(asked, SyncResponse(1, run, solo.finalization(solo.about(25, blocks[24]))))
    judge_all(solo)
    assert solo.committed() == list(range(1, 26))
    assert solo.last(Commit).finalization.proposition.view == 25
    solo.wait(100)
    for height in range(39, 25, -1):
        solo.wait(1_000)
        digest = digest_of(blocks[height - 1])
        if BlockRequest(digest) in solo.sent(BlockRequest):
            solo.hear(solo.others[0], BlockResponse(digest, blocks[height - 1]))
    judge_all(solo)
    assert solo.committed() == list(range(1, 41))


def test_range_in_parts_waits_for_the_certificate() -> None:
    solo = Solo()
    blocks, asked = start_sync(solo)
    solo.hear(asked, SyncResponse(1, tuple(blocks[:10]), None))
    assert solo.all(VerifyBlock) == []
    assert solo.told(asked, SyncRequest)[-1] == SyncRequest(0, 11)
    solo.hear(
        asked, SyncResponse(11, tuple(blocks[10:30]), solo.finalization(solo.about(30, blocks[29])))
    )
    judge_all(solo)
    assert solo.committed() == list(range(1, 31))


def test_range_parts_past_the_bound_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    solo = Solo()
    blocks, asked = start_sync(solo)
    size = sum(map(len, blocks[:10]))
    monkeypatch.setattr(replica_module, "MAX_PENDING_RUN_BYTES", size)
    solo.hear(asked, SyncResponse(1, tuple(blocks[:10]), None))
    assert solo.told(asked, SyncRequest)[-1] == SyncRequest(0, 11)
    solo.hear(asked, SyncResponse(11, (blocks[10],), None))
    assert solo.sent(SyncRequest)[-1] == SyncRequest(0, 1)
    assert solo.told(asked, SyncRequest)[-1] == SyncRequest(0, 11)


def fork(solo: Solo, count: int) -> tuple[bytes, ...]:
    """Return blocks that link to the tip, and that nobody ever proposed."""
    blocks: list[bytes] = []
    parent = GENESIS
    for height in range(1, count + 1):
        blocks.append(solo.block(100 + height, height=height, parent=parent))
        parent = digest_of(blocks[-1])
    return tuple(blocks)


def test_part_of_one_peer_is_never_held_against_another() -> None:
    """A liar sends blocks that nothing proves, and falls silent: the range begins anew."""
    solo = Solo()
    blocks, liar = start_sync(solo)
    solo.hear(liar, SyncResponse(1, fork(solo, 3), None))
    assert solo.sent(SyncRequest)[-1] == SyncRequest(0, 4)
    for _ in range(MAX_TURNS_PER_PART - 1):
        solo.wait(500)
    assert solo.told(liar, SyncRequest)[1:] == [SyncRequest(0, 4)] * MAX_TURNS_PER_PART
    assert solo.sent(SyncRequest)[-1] == SyncRequest(0, 4)
    solo.wait(500)
    honest = [name for name in solo.others if name != liar and solo.told(name, SyncRequest)]
    assert len(honest) == 1
    assert solo.told(honest[0], SyncRequest)[-1] == SyncRequest(0, 1)
    final = solo.finalization(solo.about(25, blocks[24]))
    solo.hear(honest[0], SyncResponse(1, tuple(blocks[:25]), final))
    judge_all(solo)
    assert solo.committed() == list(range(1, 26))
    assert solo.dropped() == []


@pytest.mark.parametrize("how", ["empty", "broken"])
def test_part_that_does_not_go_on_begins_anew_with_another_peer(how: str) -> None:
    solo = Solo()
    blocks, liar = start_sync(solo)
    solo.hear(liar, SyncResponse(1, fork(solo, 3), None))
    solo.hear(liar, SyncResponse(4, () if how == "empty" else (blocks[3],), None))
    assert solo.dropped() == ([] if how == "empty" else [liar])
    assert solo.told(liar, SyncRequest)[-1] == SyncRequest(0, 4)
    assert solo.sent(SyncRequest)[-1] == SyncRequest(0, 1)


def test_answer_that_comes_after_the_next_peer_was_asked_is_taken() -> None:
    """Over a slow line every range comes later than the next request goes out."""
    solo = Solo()
    blocks, asked = start_sync(solo)
    solo.wait(500)
    assert len(solo.sent(SyncRequest)) == 2
    final = solo.finalization(solo.about(25, blocks[24]))
    solo.hear(asked, SyncResponse(1, tuple(blocks[:25]), final))
    judge_all(solo)
    assert solo.committed() == list(range(1, 26))


def test_ranges_are_asked_of_one_peer_after_the_other() -> None:
    """Or a peer that answers with one block, as late as it may, would hold us back for good."""
    solo = Solo()
    blocks, asked = start_sync(solo)
    served = []
    for height in range(1, 5):
        served.append(asked)
        final = solo.finalization(solo.about(height, blocks[height - 1]))
        solo.hear(asked, SyncResponse(height, (blocks[height - 1],), final))
        judge_all(solo)
        asked = next(
            name
            for name in solo.others
            if SyncRequest(0, height + 1) in solo.told(name, SyncRequest)
        )
    assert sorted(served[:3]) == sorted(solo.others)
    assert served[3] == served[0]


def test_peers_that_had_nothing_are_asked_again_while_another_is_silent() -> None:
    solo = Solo()
    _, silent = start_sync(solo)
    others = [name for name in solo.others if name != silent]
    solo.wait(500)
    for _ in others:
        asked = next(n for n in others if len(solo.told(n, SyncRequest)) == 1)
        solo.hear(asked, SyncResponse(1, (), None))
        others.remove(asked)
    for _ in range(6):
        solo.wait(500)
    assert all(len(solo.told(name, SyncRequest)) > 1 for name in solo.others)


def test_refusal_that_comes_late_leaves_the_next_peer_its_time() -> None:
    solo = Solo()
    _, slow = start_sync(solo)
    solo.wait(500)
    assert len(solo.sent(SyncRequest)) == 2
    solo.hear(slow, SyncResponse(1, (), None))
    assert len(solo.sent(SyncRequest)) == 2
    solo.wait(500)
    assert len(solo.told(slow, SyncRequest)) == 1


def test_repeated_refusals_ask_nobody_again() -> None:
    solo = Solo()
    _, asked = start_sync(solo)
    for _ in range(5):
        solo.hear(asked, SyncResponse(1, (), None))
    assert len(solo.sent(SyncRequest)) == 2


def test_range_with_a_forged_certificate_drops_the_peer_and_asks_another() -> None:
    solo = Solo()
    blocks, asked = start_sync(solo)
    bad = solo.finalization(solo.about(25, blocks[24]), solo.others[:2])
    solo.hear(asked, SyncResponse(1, tuple(blocks[:25]), bad))
    assert solo.dropped() == [asked]
    assert solo.all(VerifyBlock) == []
    others = [name for name in solo.others if name != asked and solo.told(name, SyncRequest)]
    assert len(others) == 1


@pytest.mark.parametrize("fault", ["gap", "junk", "order", "certificate", "epoch"])
def test_range_that_does_not_link_drops_the_peer(fault: str) -> None:
    solo = Solo()
    blocks, asked = start_sync(solo)
    run = blocks[:20]
    final = solo.finalization(solo.about(20, blocks[19]))
    if fault == "gap":
        run = [*blocks[:5], *blocks[6:20]]
    elif fault == "junk":
        run = [b"junk"]
    elif fault == "order":
        run = [blocks[1], blocks[0]]
    elif fault == "certificate":
        final = solo.finalization(solo.about(21, blocks[20]))
    else:
        run = [solo.block(1, epoch=1)]
    solo.hear(asked, SyncResponse(1, tuple(run), final))
    assert solo.dropped() == [asked]
    assert solo.committed() == []


def test_range_that_was_not_asked_for_is_ignored() -> None:
    solo = Solo()
    blocks, asked = start_sync(solo)
    other = next(name for name in solo.others if name != asked)
    decoded = solo.decoded
    final = solo.finalization(solo.about(20, blocks[19]))
    solo.hear(other, SyncResponse(1, tuple(blocks[:20]), final))
    solo.hear(asked, SyncResponse(2, tuple(blocks[1:20]), final))
    assert solo.decoded == decoded


def test_empty_range_asks_the_next_peer() -> None:
    solo = Solo()
    _, asked = start_sync(solo)
    solo.hear(asked, SyncResponse(1, (), None))
    assert len(solo.sent(SyncRequest)) == 2
    assert solo.dropped() == []


def test_final_block_that_does_not_descend_from_the_tip_halts() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    block = solo.block(2, parent=b"r" * 32)
    proposition = solo.about(2, block)
    solo.hear(solo.others[0], solo.finalization(proposition))
    solo.wait(100)
    solo.hear(solo.others[0], BlockResponse(proposition.digest, block))
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.CONFLICTING_CERTIFICATES]
    assert solo.committed() == [1]


# ---- conflicting certificates: more than f liars


def test_two_finalizations_of_one_view_halt() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    rival = Proposition(0, 1, 0, b"r" * 32)
    solo.hear(solo.others[0], solo.finalization(rival))
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.CONFLICTING_CERTIFICATES]


def test_nullification_of_the_final_view_halts() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    solo.hear(solo.others[0], solo.nullification(1))
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.CONFLICTING_CERTIFICATES]


def test_finalization_of_a_nullified_view_halts() -> None:
    solo = Solo()
    block = solo.block(1)
    solo.hear(solo.others[0], solo.nullification(1))
    solo.hear(solo.others[0], solo.finalization(solo.about(1, block)))
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.CONFLICTING_CERTIFICATES]


def test_two_notarizations_of_one_view_halt() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    rival = Proposition(0, 1, 0, b"r" * 32)
    assert first != rival
    solo.hear(solo.others[0], solo.notarization(rival))
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.CONFLICTING_CERTIFICATES]


def test_forged_conflicting_certificate_only_drops_the_peer() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    rival = Proposition(0, 1, 0, b"r" * 32)
    solo.hear(solo.others[0], solo.finalization(rival, solo.others[:2]))
    assert solo.halts() == []
    assert solo.dropped() == [solo.others[0]]


# ---- serving


def test_blocks_in_memory_are_served_and_others_left_to_the_caller() -> None:
    solo = Solo()
    first, block = solo.certify(1)
    peer = solo.others[0]
    solo.hear(peer, BlockRequest(first.digest))
    assert solo.told(peer, BlockResponse) == [BlockResponse(first.digest, block)]
    solo.finish(first)
    solo.sync()
    effects = solo.hear(peer, BlockRequest(first.digest))
    assert effects == [ServeBlock(peer, BlockRequest(first.digest))]
    effects = solo.hear(peer, SyncRequest(0, 1))
    assert effects == [ServeSync(peer, SyncRequest(0, 1))]


def test_peer_is_told_its_own_votes() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    peer = solo.others[0]
    solo.hear(peer, solo.nullify(peer, 3))
    solo.hear(peer, VotesRequest(0))
    votes = solo.told(peer, VotesResponse)[-1].votes
    assert votes == (solo.nullify(peer, 3), solo.notarize(peer, proposition))
    stranger = "ZZZZ"
    solo.hear(stranger, VotesRequest(0))
    assert solo.told(stranger, VotesResponse)[-1].votes == ()


# ---- starting again


def test_first_vote_waits_for_enough_answers() -> None:
    solo = Solo(is_open=False)
    solo.propose(1, solo.block(1))
    solo.judge()
    assert solo.notarized() == []
    solo.hear(solo.others[0], VotesResponse(0, (), None))
    solo.hear(solo.others[0], VotesResponse(0, (), None))
    assert solo.notarized() == []
    solo.hear(solo.others[1], VotesResponse(0, (), None))
    assert len(solo.notarized()) == 1


def test_question_for_own_votes_is_repeated_until_answered() -> None:
    solo = Solo(is_open=False)
    solo.wait(3_000)
    asked = [e for e in solo.all(Broadcast) if isinstance(e.message, VotesRequest)]
    assert len(asked) == 3
    solo.open()
    solo.log.clear()
    solo.wait(3_000)
    assert [e for e in solo.all(Broadcast) if isinstance(e.message, VotesRequest)] == []


def test_answers_of_strangers_and_forged_votes_do_not_count() -> None:
    solo = Solo(is_open=False)
    solo.hear("ZZZZ", VotesResponse(0, (), None))
    solo.hear("YYYY", VotesResponse(0, (), None))
    forged = Nullify(solo.nullify(solo.me, 3).body, b"f" * 64)
    for name in solo.others[:2]:
        solo.hear(name, VotesResponse(0, (forged,), None))
    assert solo.dropped() == solo.others[:2]
    assert solo.replica.gate_state is GateState.ASKING


def test_answer_brings_the_floor_with_it() -> None:
    solo = Solo(is_open=False)
    proposition = solo.about(9, solo.block(9, height=1), parent_view=0)
    solo.hear(solo.others[0], VotesResponse(0, (), solo.finalization(proposition)))
    assert solo.replica.final_view == 9


def test_restart_binds_votes_and_repeats_identical_bytes() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    solo.judge()
    vote = solo.said(Notarize)[0]
    again = Solo(records=[opening(), *solo.records()])
    again.propose(1, again.block(1, transactions=(5,)))
    assert again.notarized() == []
    effects = again.give(PeerConnected(again.others[0]))
    assert Send(again.others[0], vote) in effects
    assert vote.proposition == proposition


def test_restarted_leader_repeats_its_proposal() -> None:
    solo = Solo(lead=1)
    solo.build()
    proposal = solo.last_proposal()
    again = Solo(lead=1, records=[opening(), *solo.records()])
    assert again.all(BuildBlock) == []
    effects = again.give(PeerConnected(again.others[0]))
    assert Send(again.others[0], proposal) in effects


def test_restart_re_executes_certified_bodies_and_goes_on() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    second, _ = solo.certify(2, parent=first.digest)
    records: list[JournalRecord] = [opening(), *solo.records()]
    again = Solo(records=records)
    assert [e.proposition for e in again.all(VerifyBlock)] == [first]
    judge_all(again)
    assert again.replica.view == 3
    assert again.said(Finalize) == []
    again.finish(second)
    assert again.committed() == [1, 2]


def test_restart_commits_what_the_journal_proves_final() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    again = Solo(records=[opening(), *solo.records()])
    assert again.replica.final_view == 1
    judge_all(again)
    assert again.committed() == [1]


def test_restart_finalizes_what_was_certified_but_not_voted_for() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    records: list[JournalRecord] = [opening()]
    for record in solo.records():
        if isinstance(record, VoteRecord) and isinstance(record.vote, Finalize):
            break
        records.append(record)
    again = Solo(records=records, is_open=False)
    judge_all(again)
    assert again.finalized() == []
    again.open()
    assert again.finalized() == [first]


def test_restart_with_a_different_execution_halts() -> None:
    solo = Solo()
    solo.certify(1)
    again = Solo(records=[opening(), *solo.records()])
    again.judge(is_valid=False)
    assert [halt.kind for halt in again.halts()] == [AlarmKind.DIVERGENCE]


def test_compacted_journal_restores_the_same_replica() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    solo.certify(2, parent=first.digest)
    solo.hear(solo.others[0], solo.nullification(3))
    before = solo.replica.compact_journal()
    assert BodyRecord(solo.all(VerifyBlock)[0].block) in before
    solo.sync()
    records = solo.replica.compact_journal()
    assert records[0] == opening()
    views = [
        record.certificate.body.view
        for record in records
        if isinstance(record, CertificateRecord) and isinstance(record.certificate, Nullification)
    ]
    assert views == [3]
    assert not any(
        isinstance(record, VoteRecord)
        and isinstance(record.vote, Notarize)
        and record.vote.proposition.view == 1
        for record in records
    )
    tip = Tip(first.digest, 1, solo.all(VerifyBlock)[0].info.timestamp_ms, solo.finalization(first))
    again = Solo(records=records, tip=tip)
    judge_all(again)
    assert again.replica.view == solo.replica.view
    assert again.replica.compact_journal() == records


def test_lost_journal_stays_lost_when_compacted() -> None:
    solo = Solo(is_open=False)
    solo.hear(solo.others[0], VotesResponse(0, (solo.nullify(solo.me, 3),), None))
    assert JournalLostRecord(0) in solo.replica.compact_journal()


def test_journal_with_a_foreign_block_is_refused() -> None:
    with pytest.raises(JournalInvalid):
        Solo(records=[opening(), BodyRecord(b"junk")])


def test_records_of_later_epochs_are_kept_for_their_time() -> None:
    solo = Solo()
    strange = solo.nullify(solo.me, 3, epoch=7)
    elsewhere = Proposition(7, 3, 2, b"e" * 32)
    certificate = Finalization(elsewhere, b"\x07", (b"s" * 64,) * 3)
    records: list[JournalRecord] = [
        opening(),
        opening(7),
        VoteRecord(strange),
        BodyRecord(solo.block(3, epoch=7)),
        CertificateRecord(certificate),
        CertifiedRecord(elsewhere),
    ]
    again = Solo(records=records)
    assert again.replica.compact_journal() == records
    assert again.replica.finalization is None
    assert again.replica.view == 1


def test_journal_that_was_never_opened_stays_so_when_compacted() -> None:
    solo = Solo(records=[], is_open=False)
    assert solo.replica.compact_journal() == [JournalLostRecord(0)]


def test_range_part_is_forgotten_when_the_tip_moved_otherwise() -> None:
    solo = Solo()
    blocks, asked = start_sync(solo)
    solo.hear(asked, SyncResponse(1, tuple(blocks[:10]), None))
    first = solo.about(1, blocks[0])
    engine = solo.replica._engine
    for block in blocks[:12]:
        info = decode_block(block)
        assert info is not None
        engine.add_body(info, block)
    engine.take_run(solo.finalization(solo.about(12, blocks[11])))
    solo.give(Ticked())
    judge_all(solo)
    assert solo.committed() == list(range(1, 13))
    solo.wait(2_000)
    height = solo.sent(SyncRequest)[-1].first_height
    asked = [name for name in solo.others if solo.told(name, SyncRequest)][-1]
    for name in solo.others:
        final = solo.finalization(solo.about(30, blocks[29]))
        solo.hear(name, SyncResponse(height, tuple(blocks[height - 1 : 30]), final))
    judge_all(solo)
    assert solo.committed() == list(range(1, 31))
    assert first.view == 1
    assert asked


def test_greeting_a_peer_says_how_to_enter_the_view() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    solo.finish(first)
    solo.sync()
    effects = solo.give(PeerConnected(solo.others[0]))
    assert [type(e.message) for e in effects if isinstance(e, Send)] == [Finalization]
    assert not any(isinstance(effect, Persist) for effect in effects)
    assert solo.said(Proposal) == []
