"""The signing gate: what it binds, and what it refuses."""

import pytest

from atpar.consensus.safety import GateState, SigningGate
from atpar.ledger.certificates import Notarization, NullifyBody, Proposition
from atpar.ledger.hashing import SignKind
from atpar.ledger.votes import Finalize, Notarize, Nullify

P = Proposition(0, 5, 4, b"p" * 32)
OTHER = Proposition(0, 5, 4, b"o" * 32)
NULLIFY = NullifyBody(0, 5)


def notarization(proposition: Proposition = P) -> Notarization:
    return Notarization(proposition, b"\x07", (b"s" * 64,) * 3)


def make_gate(state: GateState = GateState.OPEN, *, floor: int = 0) -> SigningGate:
    return SigningGate(
        chain_id=b"c" * 32, sign=lambda data: data[:64].ljust(64), epoch=0, floor=floor, state=state
    )


def test_gate_signs_each_kind_once() -> None:
    gate = make_gate()
    assert isinstance(gate.cast(SignKind.NOTARIZE, P), Notarize)
    assert isinstance(gate.cast(SignKind.FINALIZE, P, notarization=notarization()), Finalize)
    assert gate.cast(SignKind.NOTARIZE, P) is None
    assert gate.cast(SignKind.FINALIZE, P, notarization=notarization()) is None
    assert len(gate.get_votes()) == 2


def test_gate_refuses_a_second_notarize_in_a_view() -> None:
    gate = make_gate()
    gate.cast(SignKind.NOTARIZE, P)
    assert gate.cast(SignKind.NOTARIZE, OTHER) is None


def test_gate_refuses_notarize_after_nullify_but_not_the_other_way_round() -> None:
    gate = make_gate()
    assert isinstance(gate.cast(SignKind.NULLIFY, NULLIFY), Nullify)
    assert gate.cast(SignKind.NOTARIZE, P) is None
    gate = make_gate()
    gate.cast(SignKind.NOTARIZE, P)
    assert isinstance(gate.cast(SignKind.NULLIFY, NULLIFY), Nullify)
    assert gate.cast(SignKind.NULLIFY, NULLIFY) is None


def test_gate_refuses_finalize_after_nullify_and_nullify_after_finalize() -> None:
    gate = make_gate()
    gate.cast(SignKind.NULLIFY, NULLIFY)
    assert gate.cast(SignKind.FINALIZE, P, notarization=notarization()) is None
    gate = make_gate()
    gate.cast(SignKind.FINALIZE, P, notarization=notarization())
    assert gate.cast(SignKind.NULLIFY, NULLIFY) is None


def test_gate_refuses_finalize_without_the_notarization_of_that_block() -> None:
    gate = make_gate()
    assert gate.cast(SignKind.FINALIZE, P) is None
    assert gate.cast(SignKind.FINALIZE, P, notarization=notarization(OTHER)) is None


def test_gate_finalizes_what_it_did_not_notarize() -> None:
    gate = make_gate()
    gate.cast(SignKind.NOTARIZE, OTHER)
    assert gate.cast(SignKind.FINALIZE, P, notarization=notarization()) is not None


def test_gate_refuses_votes_at_and_below_the_floor() -> None:
    gate = make_gate(floor=5)
    assert gate.cast(SignKind.NOTARIZE, P) is None
    assert gate.cast(SignKind.NULLIFY, NULLIFY) is None
    gate = make_gate(floor=4)
    gate.raise_floor(3)
    assert gate.cast(SignKind.NOTARIZE, P) is not None
    gate.raise_floor(5)
    assert gate.cast(SignKind.FINALIZE, P, notarization=notarization()) is None


def test_gate_refuses_votes_of_another_epoch() -> None:
    gate = make_gate()
    assert gate.cast(SignKind.NULLIFY, NullifyBody(1, 5)) is None


@pytest.mark.parametrize("state", [GateState.ASKING, GateState.LOST, GateState.OBSERVING])
def test_closed_gate_signs_nothing(state: GateState) -> None:
    gate = make_gate(state)
    assert gate.cast(SignKind.NOTARIZE, P) is None
    assert gate.cast(SignKind.NULLIFY, NULLIFY) is None


def test_gate_without_a_key_observes() -> None:
    gate = SigningGate(chain_id=b"c" * 32, sign=None, epoch=0, floor=0, state=GateState.OPEN)
    assert gate.state is GateState.OBSERVING
    assert gate.cast(SignKind.NULLIFY, NULLIFY) is None


def test_restored_votes_bind_and_come_out_identical() -> None:
    gate = make_gate()
    votes = [
        Notarize(P, b"1" * 64),
        Finalize(P, b"2" * 64),
        Nullify(NullifyBody(0, 6), b"3" * 64),
    ]
    for vote in votes:
        gate.restore(vote)
    assert gate.get_votes() == votes
    assert gate.cast(SignKind.NOTARIZE, OTHER) is None
    assert gate.cast(SignKind.NULLIFY, NULLIFY) is None
    later = Proposition(0, 6, 5, b"q" * 32)
    assert gate.cast(SignKind.FINALIZE, later, notarization=notarization(later)) is None


def test_gate_knows_what_it_cast_whatever_the_signature() -> None:
    gate = make_gate()
    gate.restore(Notarize(P, b"1" * 64))
    assert gate.has_cast(Notarize(P, b"9" * 64))
    assert not gate.has_cast(Notarize(OTHER, b"1" * 64))
    assert not gate.has_cast(Finalize(P, b"1" * 64))
    assert not gate.has_cast(Nullify(NULLIFY, b"1" * 64))


def test_gate_forgets_only_what_is_synced_as_final() -> None:
    gate = make_gate()
    for view in (5, 6):
        gate.restore(Nullify(NullifyBody(0, view), b"3" * 64))
    gate.forget_through(5)
    assert gate.get_nullify(5) is None
    assert gate.get_nullify(6) is not None


def test_gate_forgets_nothing_while_peers_are_asked_for_its_votes() -> None:
    gate = make_gate(GateState.ASKING)
    gate.restore(Nullify(NULLIFY, b"3" * 64))
    gate.forget_through(9)
    assert gate.get_nullify(5) is not None


def test_late_finalize_and_early_nullify_are_legal() -> None:
    gate = make_gate()
    assert gate.cast(SignKind.NULLIFY, NullifyBody(0, 9)) is not None
    assert gate.cast(SignKind.FINALIZE, P, notarization=notarization()) is not None
