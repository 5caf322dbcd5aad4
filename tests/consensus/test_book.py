"""The book of votes: what is verified when, and what becomes evidence."""

import pytest

from atpar.consensus import book as book_module
from atpar.consensus import engine as engine_module
from atpar.consensus.effects import AlarmKind, Halt, ReportEvidence
from atpar.consensus.safety import GateState
from atpar.ledger.certificates import NullifyBody, Proposition
from atpar.ledger.evidence import (
    ConflictingFinalize,
    ConflictingNotarize,
    Evidence,
    NullifyFinalize,
)
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.consensus.solo import Solo

OTHER = Proposition(0, 1, 0, b"o" * 32)


def found(solo: Solo) -> list[Evidence]:
    return [report.evidence for report in solo.evidence()]


def test_two_finalizes_are_evidence() -> None:
    solo = Solo()
    liar = solo.others[0]
    proposition = solo.about(1, solo.block(1))
    first, second = solo.finalize(liar, proposition), solo.finalize(liar, OTHER)
    solo.hear(liar, first)
    solo.hear(liar, second)
    assert found(solo) == [ConflictingFinalize(liar, first, second)]
    assert [alarm.kind for alarm in solo.alarms()] == [AlarmKind.EQUIVOCATION]


@pytest.mark.parametrize("nullify_first", [True, False])
def test_nullify_and_finalize_are_evidence(*, nullify_first: bool) -> None:
    solo = Solo()
    liar = solo.others[0]
    nullify, finalize = solo.nullify(liar, 1), solo.finalize(liar, OTHER)
    for vote in (nullify, finalize) if nullify_first else (finalize, nullify):
        solo.hear(liar, vote)
    assert found(solo) == [NullifyFinalize(liar, nullify, finalize)]


def test_late_vote_that_was_kept_unverified_becomes_evidence_with_its_rival() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    liar = solo.others[-1]
    verified = len(solo.verified)
    solo.hear(liar, solo.nullify(liar, 1))
    assert len(found(solo)) == 1
    assert len(solo.verified) > verified


def test_unverified_vote_with_a_bad_signature_is_no_evidence() -> None:
    solo = Solo(size=7)
    proposition = solo.propose(1, solo.block(1))
    solo.hear(solo.others[0], solo.notarization(proposition, solo.others[:5]))
    liar = solo.others[5]
    junk = Notarize(OTHER, b"j" * 64)
    solo.hear(liar, junk)
    assert solo.dropped() == []
    solo.hear(liar, solo.notarize(liar, proposition))
    assert found(solo) == []


def test_vote_in_a_certificate_that_conflicts_with_an_earlier_one_is_evidence() -> None:
    solo = Solo()
    liar = next(name for name in solo.others if name != solo.leader(1))
    proposition = solo.propose(1, solo.block(1))
    first = solo.notarize(liar, OTHER)
    solo.hear(liar, first)
    solo.hear(solo.others[0], solo.notarization(proposition))
    second = solo.notarize(liar, proposition)
    assert found(solo) == [ConflictingNotarize(liar, first, second)]


def test_leaders_other_proposal_in_a_certificate_is_equivocation() -> None:
    solo = Solo()
    leader = solo.leader(1)
    solo.propose(1, solo.block(1))
    rival_block = solo.block(1, transactions=(3,))
    rival = solo.about(1, rival_block)
    solo.hear(solo.others[0], solo.notarization(rival))
    evidence = found(solo)[0]
    assert isinstance(evidence, ConflictingNotarize)
    assert evidence.participant == leader
    state = solo.replica._engine.book.views[1]
    assert state.equivocated


def test_certificates_valid_vote_takes_the_place_of_an_unverified_bad_one() -> None:
    solo = Solo(size=7)
    proposition, _ = solo.certify(1)
    liar = solo.others[5]
    state = solo.replica._engine.book.views[1]
    assert liar in solo.names
    index = solo.names.index(liar)
    state.finalizes.pop(index, None)
    state.add(index, Finalize(proposition, b"j" * 64), proposition, is_verified=False)
    names = [*solo.others[1:5], liar]
    solo.hear(solo.others[0], solo.finalization(proposition, names))
    good = solo.finalize(liar, proposition)
    assert state.finalizes[index] == good
    assert state.is_verified(index, good, proposition)


def test_evidence_against_one_validator_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_EVIDENCE_PER_VALIDATOR", 2)
    solo = Solo()
    liar = solo.others[0]
    for view in (1, 2, 3):
        solo.hear(liar, solo.nullify(liar, view))
        solo.hear(liar, solo.finalize(liar, Proposition(0, view, 0, b"o" * 32)))
    assert len(found(solo)) == 2


def test_conflicts_are_seen_for_n_views_below_the_final_one() -> None:
    size = 4
    solo = Solo()
    block = solo.block(20, height=1)
    solo.hear(solo.others[0], solo.finalization(solo.about(20, block, parent_view=0)))
    liar = solo.others[1]
    for view, evidence in ((20 - size, 1), (20 - size - 1, 1)):
        solo.hear(liar, solo.nullify(liar, view))
        solo.hear(liar, solo.finalize(liar, Proposition(0, view, 0, b"o" * 32)))
        assert len(found(solo)) == evidence


def test_safety_stop_keeps_the_evidence_that_led_to_it() -> None:
    solo = Solo()
    proposition, _ = solo.certify(1)
    solo.finish(proposition)
    effects = solo.hear(solo.others[0], solo.finalization(OTHER))
    assert any(isinstance(effect, ReportEvidence) for effect in effects)
    assert isinstance(effects[-1], Halt)


def test_gate_that_is_closed_is_not_closed_again() -> None:
    solo = Solo()
    names = [solo.me, *solo.others[:2]]
    solo.hear(solo.others[0], solo.nullification(1, names))
    solo.hear(solo.others[0], solo.nullification(2, names))
    assert solo.replica.gate_state is GateState.LOST
    assert len(solo.alarms()) == 1


def test_observer_reports_evidence_too() -> None:
    solo = Solo(me="WXYZ", is_open=False)
    liar = solo.names[0]
    solo.hear(liar, solo.nullify(liar, 1))
    solo.hear(liar, solo.finalize(liar, OTHER))
    assert len(found(solo)) == 1


def test_nearer_proposals_displace_bodies_further_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    solo = Solo(size=7)
    far, near = solo.block(5), solo.block(3)
    assert solo.me not in (solo.leader(5), solo.leader(3))
    monkeypatch.setattr(engine_module, "MAX_HELD_BODY_BYTES", len(near))
    about_far = solo.propose(5, far)
    pool = solo.replica._engine.pool
    assert pool.get(about_far.digest) is not None
    about_near = solo.propose(3, near)
    assert pool.get(about_far.digest) is None
    assert pool.get(about_near.digest) is not None
    solo.propose(6, solo.block(6))
    assert pool.get(about_near.digest) is not None
    assert pool.total_bytes == len(near)


def test_given_up_view_takes_no_body() -> None:
    solo = Solo()
    solo.hear(solo.others[0], solo.nullification(1))
    solo.propose(1, solo.block(1))
    assert solo.decoded == 0


def test_repeated_proposal_does_not_delay_the_next_leader() -> None:
    solo = Solo(lead=2)
    first, block = solo.certify(1)
    solo.pend()
    solo.wait(40)
    solo.hear(solo.leader(1), solo.proposal(block, first))
    solo.wait(10)
    assert solo.notarized() == [first]
    assert solo.replica.view == 2
    assert solo.replica._engine._building is not None


def test_votes_say_whose_they_are_by_connection_only() -> None:
    solo = Solo()
    speaker, owner = solo.others[:2]
    vote = Nullify(NullifyBody(0, 1), solo.nullify(owner, 1).signature)
    solo.hear(speaker, vote)
    assert solo.dropped() == [speaker]
    solo.hear(owner, vote)
    assert solo.dropped() == [speaker]
