"""The known traps of the design, each of which was a real defect somewhere."""

import pytest

from atpar.consensus import engine as engine_module
from atpar.consensus.effects import (
    AlarmKind,
    Broadcast,
    BuildBlock,
    Halt,
    Persist,
    VerifyBlock,
)
from atpar.consensus.events import BlockVerdict, Ticked
from atpar.consensus.messages import (
    BlockRequest,
    BlockResponse,
    CertificatesRequest,
    CertificatesResponse,
    VotesResponse,
)
from atpar.consensus.records import JournalLostRecord, JournalRecord
from atpar.consensus.safety import GateState
from atpar.ledger.certificates import Notarization, Proposition
from atpar.ledger.evidence import ConflictingNotarize
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.consensus.cluster import Cluster
from tests.consensus.solo import Solo, opening


def time_out(solo: Solo, view: int) -> None:
    solo.pend()
    for _ in range(30):
        if view in solo.nullified():
            return
        solo.wait(100)
    raise AssertionError(f"view {view} did not time out")


def test_trap_1_no_finalize_vote_for_a_view_that_timed_out() -> None:
    solo = Solo()
    block = solo.block(1)
    proposition = solo.propose(1, block)
    solo.judge()
    time_out(solo, 1)
    for name in solo.others:
        solo.hear(name, solo.notarize(name, proposition))
    assert solo.replica.view == 2
    assert solo.finalized() == []
    records: list[JournalRecord] = [opening(), *solo.records()]
    again = Solo(records=records)
    again.judge()
    assert again.replica.view == 2
    assert again.finalized() == []


def test_trap_2_groups_with_different_certificates_of_one_view_come_together() -> None:
    solo = Solo()
    first_block = solo.block(1)
    first = solo.about(1, first_block)
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.replica.view == 2
    second_block = solo.block(2, parent=first.digest)
    leader = solo.leader(2)
    second = solo.propose(2, second_block)
    assert solo.told(leader, CertificatesRequest) == [CertificatesRequest(0, 1)]
    solo.hear(leader, CertificatesResponse((solo.notarization(first),)))
    solo.wait(100)
    asked = solo.sent(BlockRequest)
    assert asked == [BlockRequest(first.digest)]
    solo.hear(leader, BlockResponse(first.digest, first_block))
    solo.judge()
    solo.judge()
    assert solo.notarized() == [second]
    assert solo.finalized() == [first]


def test_trap_2_certified_split_heals_in_a_cluster() -> None:
    """Finalizes are lost, one node sees the notarization, the others nullify the view."""
    cluster = Cluster()
    cluster.boot()
    cluster.pay(1_000)
    chosen = cluster.names[0]
    blocked = cluster.nodes[chosen].replica
    assert blocked is not None

    def spoil(source: str, target: str, message: object) -> object:
        if isinstance(message, Notarize | Notarization) and target != chosen:
            return None
        return message

    cluster.message_filter = spoil  # type: ignore[assignment]
    transaction = cluster.submit()
    cluster.run(1_500)
    cluster.message_filter = None
    cluster.run_until(lambda: cluster.is_final(transaction), 3_000)


def test_trap_3_either_kind_of_certificate_is_a_valid_answer() -> None:
    solo = Solo()
    first = solo.about(1, solo.block(1))
    solo.hear(solo.others[0], solo.nullification(1))
    solo.propose(2, solo.block(2, parent=first.digest))
    leader = solo.leader(2)
    solo.hear(leader, CertificatesResponse((solo.nullification(1),)))
    assert solo.dropped() == []
    asked = [name for name in solo.others if solo.told(name, CertificatesRequest)]
    assert len(asked) == 2
    both = CertificatesResponse((solo.notarization(first), solo.nullification(1)))
    solo.hear(next(name for name in asked if name != leader), both)
    solo.wait(100)
    assert solo.sent(BlockRequest) == [BlockRequest(first.digest)]


@pytest.mark.parametrize("late_verdict", [True, False])
def test_trap_4_late_verdict_is_about_its_own_block_only(*, late_verdict: bool) -> None:
    solo = Solo()
    proposed = solo.propose(1, solo.block(1))
    other_block = solo.block(1, transactions=(1,))
    other = solo.about(1, other_block)
    solo.hear(solo.others[0], solo.notarization(other))
    solo.give(BlockVerdict(proposed, late_verdict))
    assert solo.finalized() == []
    assert solo.halts() == []
    solo.wait(100)
    solo.hear(solo.others[0], BlockResponse(other.digest, other_block))
    task = solo.last(VerifyBlock)
    assert task.proposition == other
    solo.give(BlockVerdict(other, is_valid=True))
    assert solo.replica.view == 2
    assert solo.finalized() == []


def test_trap_5_verified_vote_is_not_replaced_by_an_unverified_one() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    voter = next(name for name in solo.others if name != solo.leader(1))
    good = solo.notarize(voter, proposition)
    solo.hear(voter, good)
    other = Proposition(0, 1, 0, b"o" * 32)
    solo.hear(voter, Notarize(other, b"x" * 64))
    solo.hear(voter, Notarize(proposition, b"y" * 64))
    assert solo.evidence() == []
    solo.judge()
    assert good.signature in solo.said(Notarization)[0].signatures


def test_trap_6_full_pool_forgets_no_vote_and_fetches_the_body_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solo = Solo()
    first_block = solo.block(1)
    first = solo.about(1, first_block)
    block = solo.block(2, parent=first.digest)
    monkeypatch.setattr(engine_module, "MAX_HELD_BODY_BYTES", len(block) - 1)
    second = solo.propose(2, block)
    assert solo.decoded == 0
    solo.hear(solo.leader(1), solo.proposal(first_block, first))
    solo.judge()
    for name in solo.others:
        solo.hear(name, solo.notarize(name, first))
    assert solo.replica.view == 2
    for name in solo.others:
        solo.hear(name, solo.notarize(name, second))
    assert solo.said(Notarization)[-1].proposition == second
    solo.wait(100)
    assert solo.sent(BlockRequest) == [BlockRequest(second.digest)]
    solo.hear(solo.leader(2), BlockResponse(second.digest, block))
    solo.judge()
    assert solo.replica.view == 3


def test_trap_6_body_at_the_bound_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    solo = Solo()
    block = solo.block(2)
    monkeypatch.setattr(engine_module, "MAX_HELD_BODY_BYTES", len(block))
    solo.propose(2, block)
    assert solo.decoded == 1


def test_trap_7_tip_does_not_stay_unfinalised_when_the_network_goes_idle() -> None:
    solo = Solo(lead=2)
    solo.certify(1, transactions=(1,))
    assert solo.all(BuildBlock) == []
    solo.wait(300)
    assert solo.last(BuildBlock).view == 2


def test_trap_7_lost_finalizes_are_made_up_for_in_a_cluster() -> None:
    cluster = Cluster().boot()
    cluster.pay(1_000)
    cluster.run(500)
    lost: list[int] = []

    def lose(source: str, target: str, message: object) -> object:
        if isinstance(message, Finalize) and len(lost) < 9:
            lost.append(message.proposition.view)
            return None
        return message

    cluster.message_filter = lose  # type: ignore[assignment]
    assert cluster.pay(3_000) < 1_000
    assert lost


def test_trap_8_notarized_block_that_is_invalid_here_halts() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    solo.hear(solo.others[0], solo.notarization(proposition))
    solo.judge(is_valid=False)
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.DIVERGENCE]
    solo.log.clear()
    solo.wait(60_000)
    solo.hear(solo.others[0], solo.nullification(1))
    assert solo.log == []
    assert solo.replica.is_halted
    assert solo.replica.deadline_ms is None


def test_trap_8_invalid_block_that_becomes_notarized_halts() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    solo.judge(is_valid=False)
    assert solo.nullified() == [1]
    solo.hear(solo.others[0], solo.notarization(proposition))
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.DIVERGENCE]


def test_trap_8_invalid_block_that_becomes_final_halts() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    solo.judge(is_valid=False)
    effects = solo.hear(solo.others[0], solo.finalization(proposition))
    assert isinstance(effects[-1], Halt)
    assert not any(isinstance(effect, Broadcast) for effect in effects)


def test_trap_9_votes_only_for_a_window_and_certificates_for_any_view() -> None:
    solo = Solo()
    size = len(solo.names)
    voter = solo.others[0]
    solo.hear(voter, solo.nullify(voter, 1 + size))
    assert len(solo.verified) == 1
    for view in range(2 + size, 200):
        solo.hear(voter, solo.nullify(voter, view))
        solo.hear(voter, solo.notarize(voter, Proposition(0, view, 0, b"d" * 32)))
    assert len(solo.verified) == 1
    assert len(solo.replica._engine.book.views) == 1
    solo.hear(voter, solo.nullification(10_000))
    assert len(solo.replica._engine.book.views) == 2
    assert solo.replica.view == 1


def test_trap_10_certified_parent_view_with_another_block_in_the_header() -> None:
    solo = Solo()
    solo.certify(1)
    solo.propose(2, solo.block(2, parent=b"o" * 32))
    assert solo.nullified() == [2]
    assert len(solo.all(VerifyBlock)) == 1


def test_trap_10_notarized_block_with_another_parent_in_the_header_halts() -> None:
    solo = Solo()
    solo.certify(1)
    block = solo.block(2, parent=b"o" * 32)
    proposition = solo.propose(2, block)
    solo.hear(solo.others[0], solo.notarization(proposition))
    assert [halt.kind for halt in solo.halts()] == [AlarmKind.DIVERGENCE]


def test_trap_11_timer_does_not_nullify_while_a_finalize_awaits_its_fsync() -> None:
    solo = Solo()
    proposition = solo.propose(1, solo.block(1))
    solo.judge()
    last = solo.others[-1]
    for name in solo.others[:-1]:
        solo.hear(name, solo.notarize(name, proposition))
    if not solo.finalized():
        solo.hear(last, solo.notarize(last, proposition))
    effects = solo.give(Ticked())
    solo.now += 10_000
    effects += solo.give(Ticked())
    assert solo.finalized() == [proposition]
    assert 1 not in solo.nullified()


def test_trap_12_wiped_disk_does_not_vote() -> None:
    solo = Solo(records=[], is_open=False)
    assert solo.replica.gate_state is GateState.LOST
    solo.propose(1, solo.block(1))
    solo.judge()
    solo.wait(10_000)
    assert solo.records() == []
    assert (solo.notarized(), solo.nullified()) == ([], [])


def test_trap_12_wiped_disk_that_looks_like_a_first_start_does_not_vote() -> None:
    solo = Solo(is_open=False)
    assert solo.replica.gate_state is GateState.ASKING
    old = solo.notarize(solo.me, solo.about(1, solo.block(1)))
    solo.hear(solo.others[0], VotesResponse(0, (old,), None))
    assert solo.replica.gate_state is GateState.LOST
    assert JournalLostRecord(0) in solo.records()
    assert [alarm.kind for alarm in solo.alarms()] == [AlarmKind.JOURNAL_LOST]
    for name in solo.others:
        solo.hear(name, VotesResponse(0, (), None))
    assert solo.replica.gate_state is GateState.LOST
    solo.wait(10_000)
    assert solo.nullified() == []


def test_trap_12_restored_image_does_not_vote() -> None:
    healthy = Solo()
    proposition, _ = healthy.certify(1)
    records: list[JournalRecord] = [opening(), *healthy.records()]
    rolled_back = records[:3]
    solo = Solo(records=rolled_back, is_open=False)
    finalize = solo.finalize(solo.me, proposition)
    solo.hear(solo.others[0], VotesResponse(0, (finalize,), None))
    assert solo.replica.gate_state is GateState.LOST
    intact = Solo(records=records, is_open=False)
    intact.hear(intact.others[0], VotesResponse(0, (finalize,), None))
    intact.hear(intact.others[1], VotesResponse(0, (finalize,), None))
    assert intact.replica.gate_state is GateState.OPEN


def test_trap_12_lost_journal_stays_lost_after_another_restart() -> None:
    solo = Solo(is_open=False)
    old = solo.nullify(solo.me, 3)
    solo.hear(solo.others[0], VotesResponse(0, (old,), None))
    again = Solo(records=[opening(), *solo.records()], is_open=False)
    assert again.replica.gate_state is GateState.LOST


def test_trap_12_own_vote_in_a_certificate_that_the_journal_misses_closes_the_gate() -> None:
    solo = Solo()
    names = [solo.me, *solo.others[:2]]
    solo.hear(solo.others[0], solo.nullification(1, names))
    assert solo.replica.gate_state is GateState.LOST
    assert JournalLostRecord(0) in solo.records()


def test_trap_13_one_double_voter_does_not_veto_every_finalize() -> None:
    solo = Solo()
    liar = next(name for name in solo.others if name != solo.leader(1))
    proposition = solo.propose(1, solo.block(1))
    solo.judge()
    other = Proposition(0, 1, 0, b"o" * 32)
    solo.hear(liar, solo.notarize(liar, other))
    solo.hear(liar, solo.notarize(liar, proposition))
    evidence = solo.evidence()[0].evidence
    assert isinstance(evidence, ConflictingNotarize)
    assert evidence.participant == liar
    for name in solo.others:
        solo.hear(name, solo.notarize(name, proposition))
    assert solo.finalized() == [proposition]


def test_trap_13_leader_that_double_votes_gets_no_finalize() -> None:
    solo = Solo()
    leader = solo.leader(1)
    proposition = solo.propose(1, solo.block(1))
    solo.hear(leader, solo.notarize(leader, Proposition(0, 1, 0, b"o" * 32)))
    solo.judge()
    assert solo.notarized() == []
    solo.hear(solo.others[0], solo.notarization(proposition))
    assert solo.replica.view == 2
    assert solo.finalized() == []


@pytest.mark.no_cover
def test_trap_14_idle_hour_has_heartbeats_only() -> None:
    cluster = Cluster().boot()
    cluster.pay(1_000)
    before = cluster.checker_height()
    cluster.run(3_600_000)
    assert 650 <= cluster.checker_height() - before <= 720
    assert not cluster.checker.nullified
    engine = cluster.nodes[cluster.names[0]].replica
    assert engine is not None
    pace = engine._engine.pace
    assert not any(pace.is_inactive(index, cluster.now) for index in range(4))
    assert cluster.pay(300) < 200


def test_votes_are_journaled_in_the_turn_that_sends_them() -> None:
    solo = Solo()
    solo.propose(1, solo.block(1))
    effects = solo.judge()
    persisted = [effect.record for effect in effects if isinstance(effect, Persist)]
    for vote in [*solo.said(Notarize), *solo.said(Nullify)]:
        assert any(getattr(record, "vote", None) == vote for record in persisted)
