"""Evidence on the ledger: recorded once for each kind, by an administrator, and never forged."""

from hashlib import sha512

import pytest
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.codes import Code
from atpar.ledger.epochs import open_epoch
from atpar.ledger.errors import NonCanonical, Refused
from atpar.ledger.evidence import (
    ConflictingFinalize,
    ConflictingNotarize,
    Evidence,
    NullifyFinalize,
    decode_evidence,
    encode_evidence,
)
from atpar.ledger.execute import build_block, simulate
from atpar.ledger.invariants import check_invariants
from atpar.ledger.limits import DAY_MS, EVIDENCE_EPOCHS, MAX_EVIDENCE_PER_EPOCH
from atpar.ledger.operations import Approve, Decision, Propose, RecordEvidence, SetValidators
from atpar.ledger.reads import get_recorded_evidence, list_recorded_evidence
from atpar.ledger.records import PROPOSALS, RecordedEvidence, number_key
from atpar.ledger.state import Overlay, View
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, compute_signed_bytes
from tests.altering import flip
from tests.ledger import curve
from tests.ledger.evidence import cast, make_pair, sign
from tests.ledger.test_governance import GOV, add_echo, members_of, run_to
from tests.ledger.test_payments import suspend
from tests.ledger.world import World, key_of, make_document, make_params, possess_all, public

KINDS: tuple[type[Vote], ...] = (Notarize, Finalize, Nullify)
AUDITOR = "AUDT/admin"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def short() -> World:
    """A chain with epochs of eight blocks."""
    return World(make_document(params=make_params(epoch_blocks=8)))


def pair(world: World, kind: type[Vote] = Notarize, **changes: object) -> Evidence:
    return make_pair(kind, chain_id=world.chain_id, **changes)  # type: ignore[arg-type]


def record(world: World, evidence: Evidence, by: str = AUDITOR) -> Code:
    return world.run(RecordEvidence(by, evidence), sender=by)


# ---- what is recorded


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_evidence_is_recorded_with_both_messages(
    world: World, kind: type[Vote]
) -> None:
    evidence = pair(world, kind)
    assert get_recorded_evidence(world.view, evidence) is None
    assert record(world, evidence) is Code.OK
    header = world.header
    expected = RecordedEvidence(evidence, AUDITOR, header.height, header.timestamp_ms)
    assert list(list_recorded_evidence(world.view)) == [expected]
    assert get_recorded_evidence(world.view, evidence) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_is_recorded_once_whoever_brings_it_and_with_whichever_blocks(
    world: World, kind: type[Vote]
) -> None:
    assert record(world, pair(world, kind)) is Code.OK
    for again in (
        pair(world, kind),
        pair(world, kind, blocks=(2, 1)),
        pair(world, kind, blocks=(3, 4)),
    ):
        assert record(world, again, "BRVO/admin") is Code.EVIDENCE_RECORDED
    (kept,) = list_recorded_evidence(world.view)
    assert kept.evidence == pair(world, kind)


def test_kinds_views_and_validators_are_recorded_apart(world: World) -> None:
    pieces = [
        *(pair(world, kind) for kind in KINDS),
        pair(world, view=4),
        pair(world, view=2**63 - 1),
        pair(world, code="CHRL"),
    ]
    for evidence in pieces:
        assert record(world, evidence) is Code.OK
    assert {encode_evidence(r.evidence) for r in list_recorded_evidence(world.view)} == {
        encode_evidence(evidence) for evidence in pieces
    }


def test_two_pieces_of_one_kind_in_one_transaction_change_nothing(world: World) -> None:
    ops = [RecordEvidence(AUDITOR, pair(world, blocks=b)) for b in ((1, 2), (3, 4))]
    assert world.run(*ops, sender=AUDITOR) is Code.EVIDENCE_RECORDED
    assert list(list_recorded_evidence(world.view)) == []


# ---- who may


@pytest.mark.parametrize("by", ["ALFA/admin", "BRVO/admin", "AUDT/admin", "REGU/admin"])
def test_the_administrators_of_any_participant_record(world: World, by: str) -> None:
    assert record(world, pair(world), by) is Code.OK


def test_a_suspended_participant_still_records(world: World) -> None:
    suspend(world, "ALFA")
    assert record(world, pair(world), "ALFA/admin") is Code.OK


@pytest.mark.parametrize("by", ["ALFA/main", "JDCL/treasury", GOV])
def test_other_accounts_record_nothing(world: World, by: str) -> None:
    assert record(world, pair(world), by) is Code.VALUE_INVALID
    assert "administrative account" in world.refusals[0]


def test_an_administrative_account_that_does_not_exist_records_nothing(world: World) -> None:
    op = RecordEvidence("ZULU/admin", pair(world))
    assert world.run(op, sender=AUDITOR) is Code.UNKNOWN_ACCOUNT


def test_nobody_records_in_the_name_of_another(world: World) -> None:
    op = RecordEvidence("ALFA/admin", pair(world))
    assert world.run(op, sender="BRVO/admin") is Code.UNAUTHORISED
    assert world.run(op, sender="ALFA/admin", keys=["ALFA-a1"]) is Code.UNAUTHORISED
    assert world.run(op, sender="BRVO/admin", by=["ALFA/admin"]) is Code.OK


def test_two_officers_record_without_passing_a_file(world: World) -> None:
    propose = Propose((RecordEvidence(AUDITOR, pair(world)),), world.now_ms + DAY_MS)
    assert world.run(propose, sender=AUDITOR, keys=["AUDT-a1"]) is Code.OK
    assert list(list_recorded_evidence(world.view)) == []
    ((proposal, found),) = world.view.scan(PROPOSALS, b"")
    approve = Approve(proposal, found.bundle_hash, Decision.APPROVE)
    assert world.run(approve, sender=AUDITOR, keys=["AUDT-a2"]) is Code.OK
    assert len(list(list_recorded_evidence(world.view))) == 1


# ---- what is no evidence


@pytest.mark.parametrize("kind", KINDS)
def test_forged_votes_are_no_evidence(world: World, kind: type[Vote]) -> None:
    for key in ("ALFA-vote", "BRVO-gov", "BRVO-a1"):
        assert record(world, pair(world, kind, key=key)) is Code.EVIDENCE_INVALID


@pytest.mark.parametrize("kind", KINDS)
def test_one_forged_vote_of_the_two_is_enough_to_refuse(world: World, kind: type[Vote]) -> None:
    good, forged = pair(world, kind), pair(world, kind, key="ALFA-vote")
    for name in good.__struct_fields__[1:]:
        mixed = replace(good, **{name: getattr(forged, name)})
        assert record(world, mixed) is Code.EVIDENCE_INVALID
    assert record(world, good) is Code.OK


def test_the_same_vote_twice_is_no_evidence(world: World) -> None:
    notarize, finalize = pair(world), pair(world, Finalize)
    assert isinstance(notarize, ConflictingNotarize)
    assert isinstance(finalize, ConflictingFinalize)
    twice = [
        replace(notarize, second=notarize.first),
        replace(finalize, first=finalize.second),
        # Ed25519 lets a signer sign one message in two ways: still one message.
        replace(notarize, second=replace(notarize.first, signature=bytes(64))),
    ]
    for evidence in twice:
        assert record(world, evidence) is Code.VALUE_INVALID
        assert "both messages say the same" in world.refusals[0]


def test_votes_of_different_views_or_epochs_are_no_evidence(world: World) -> None:
    first, later = pair(world), pair(world, view=4)
    assert isinstance(first, ConflictingNotarize)
    assert isinstance(later, ConflictingNotarize)
    other = pair(world, epoch=1)
    assert isinstance(other, ConflictingNotarize)
    for second, why in ((later.second, "views 3 and 4"), (other.second, "epochs 0, 1")):
        assert record(world, replace(first, second=second)) is Code.VALUE_INVALID
        assert why in world.refusals[0]


def test_votes_passed_off_as_another_kind_are_no_evidence(world: World) -> None:
    notarize, finalize = pair(world), pair(world, Finalize)
    given_up = pair(world, Nullify)
    assert isinstance(notarize, ConflictingNotarize)
    assert isinstance(finalize, ConflictingFinalize)
    assert isinstance(given_up, NullifyFinalize)
    as_finalize = [Finalize(v.proposition, v.signature) for v in (notarize.first, notarize.second)]
    as_notarize = [Notarize(v.proposition, v.signature) for v in (finalize.first, finalize.second)]
    swapped: list[Evidence] = [
        ConflictingFinalize("BRVO", as_finalize[0], as_finalize[1]),
        ConflictingNotarize("BRVO", as_notarize[0], as_notarize[1]),
        # A notarize and a nullify in one view are what honest validators send when a view fails.
        NullifyFinalize("BRVO", given_up.nullify, as_finalize[0]),
    ]
    for evidence in swapped:
        assert record(world, evidence) is Code.EVIDENCE_INVALID


def test_a_nullify_beside_a_finalize_of_another_view_is_no_evidence(world: World) -> None:
    """Giving up view 3 does not exclude finalizing in view 4."""
    given_up, later = pair(world, Nullify), pair(world, Nullify, view=4)
    assert isinstance(given_up, NullifyFinalize)
    assert isinstance(later, NullifyFinalize)
    honest = replace(given_up, finalize=later.finalize)
    assert record(world, honest) is Code.VALUE_INVALID


def test_votes_of_another_chain_are_no_evidence(world: World) -> None:
    for chain_id in (bytes(32), flip(world.chain_id)):
        assert record(world, make_pair(chain_id=chain_id)) is Code.EVIDENCE_INVALID


def test_who_has_no_vote_cannot_be_accused(world: World) -> None:
    for code, key in (("AUDT", "AUDT-a1"), ("ZULU", "BRVO-vote"), ("ALFA", "BRVO-vote")):
        assert record(world, pair(world, code=code, key=key)) is Code.EVIDENCE_INVALID


def test_any_changed_byte_is_refused(world: World) -> None:
    reached = set()
    for kind in KINDS:
        data = encode_evidence(pair(world, kind))
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1
            reached.add(judge_bytes(world, bytes(changed)))
    assert reached == {
        Code.NON_CANONICAL,
        Code.VALUE_INVALID,
        Code.EVIDENCE_INVALID,
    }


def judge_bytes(world: World, data: bytes) -> Code:
    """Return what becomes of a transaction with these bytes as evidence."""
    try:
        return outcome(world, world.view, decode_evidence(data))
    except NonCanonical:
        return Code.NON_CANONICAL
    except Refused as refusal:
        return refusal.code


def test_a_vote_that_honest_validators_count_cannot_be_denied(world: World) -> None:
    """Evidence follows the one signature rule: with the cofactor, as ZIP 215 has it."""
    secret = bytearray(sha512(bytes(key_of("BRVO-vote"))).digest()[:32])
    secret[0] &= 248
    secret[31] = secret[31] & 127 | 64
    honest = pair(world)
    assert isinstance(honest, ConflictingNotarize)
    message = compute_signed_bytes(honest.second, world.chain_id)
    key, signature = curve.sign_crafted(
        int.from_bytes(secret, "little"),
        message,
        nonce=7,
        torsion_a=curve.IDENTITY,
        torsion_r=curve.TORSION[1],
    )
    assert key == public("BRVO-vote")
    point = curve.multiply(int.from_bytes(secret, "little"), curve.BASE)
    assert not curve.verify_cofactorless(point, key, message, signature)
    crafted = replace(honest.second, signature=signature)
    assert record(world, replace(honest, second=crafted)) is Code.OK


# ---- epochs


def test_the_set_of_the_votes_own_epoch_counts(short: World) -> None:
    world = short
    add_echo(world)
    fresh = possess_all("ECHO", ["ECHO-vote", "ECHO-gov"], world.chain_id)
    rotated = possess_all("ALFA", ["ALFA-v2"], world.chain_id)
    op = SetValidators(
        members_of("ALFA", "BRVO", "CHRL", "ECHO", ALFA="ALFA-v2"),
        tuple(sorted((*fresh, *rotated), key=lambda proof: proof.key)),
    )
    assert world.run(op, sender=GOV) is Code.OK
    for early in (pair(world, epoch=1, code="ECHO"), pair(world, epoch=1, code="DLTA")):
        assert record(world, early) is Code.UNKNOWN_EPOCH
    run_to(world, 8)
    # Who left answers for the epochs in which it voted, under the key that it had then.
    assert record(world, pair(world, epoch=0, code="DLTA")) is Code.OK
    assert record(world, pair(world, epoch=1, code="DLTA")) is Code.EVIDENCE_INVALID
    assert record(world, pair(world, epoch=1, code="ECHO")) is Code.OK
    assert record(world, pair(world, epoch=0, code="ECHO")) is Code.EVIDENCE_INVALID
    assert record(world, pair(world, epoch=0, code="ALFA")) is Code.OK
    assert record(world, pair(world, epoch=1, code="ALFA")) is Code.EVIDENCE_INVALID
    assert record(world, pair(world, epoch=1, code="ALFA", key="ALFA-v2")) is Code.OK
    assert record(world, pair(world, epoch=2)) is Code.UNKNOWN_EPOCH


def test_votes_moved_to_another_epoch_are_no_evidence(short: World) -> None:
    world = short
    run_to(world, 8)
    first = pair(world, epoch=0)
    assert isinstance(first, ConflictingNotarize)
    moved = [
        replace(vote, proposition=replace(vote.proposition, epoch=1))
        for vote in (first.first, first.second)
    ]
    assert record(world, ConflictingNotarize("BRVO", moved[0], moved[1])) is Code.EVIDENCE_INVALID
    assert record(world, first) is Code.OK


def test_sets_are_kept_for_a_bounded_number_of_epochs() -> None:
    world = World()
    overlay = Overlay(world.view)
    current = overlay.get(records.VALIDATORS, records.CURRENT)
    assert current is not None
    for epoch in range(1, EVIDENCE_EPOCHS):
        open_epoch(overlay, replace(current, epoch=epoch))
    kept = [int.from_bytes(key, "big") for key, _ in overlay.scan(records.VOTERS, b"")]
    assert kept == list(range(EVIDENCE_EPOCHS))
    assert check_invariants(overlay) == []
    assert outcome(world, overlay, pair(world, epoch=0)) is Code.OK
    open_epoch(overlay, replace(current, epoch=EVIDENCE_EPOCHS))
    assert check_invariants(overlay) == []
    assert outcome(world, overlay, pair(world, epoch=0)) is Code.UNKNOWN_EPOCH
    assert outcome(world, overlay, pair(world, epoch=1)) is Code.OK
    assert outcome(world, overlay, pair(world, epoch=EVIDENCE_EPOCHS)) is Code.OK


def outcome(world: World, view: View, evidence: Evidence) -> Code:
    tx = world.make(RecordEvidence(AUDITOR, evidence), sender=AUDITOR)
    return Code(simulate(view, world.header, tx, chain_id=world.chain_id, now_ms=world.now_ms).code)


def test_the_set_fixed_for_the_next_epoch_is_used_up_when_one_opens(world: World) -> None:
    overlay = Overlay(world.view)
    current = overlay.get(records.VALIDATORS, records.CURRENT)
    assert current is not None
    overlay.put(records.VALIDATORS, records.NEXT, current)
    open_epoch(overlay, replace(current, epoch=1))
    assert overlay.get(records.VALIDATORS, records.NEXT) is None
    voters = overlay.get(records.VOTERS, number_key(1))
    assert voters == records.identify_validators(replace(current, epoch=1))


# ---- bounds


def test_records_against_one_validator_in_one_epoch_are_bounded(short: World) -> None:
    world = short
    run_to(world, 8)
    ops = [
        RecordEvidence(AUDITOR, pair(world, view=view))
        for view in range(1, MAX_EVIDENCE_PER_EPOCH + 1)
    ]
    assert world.run(*ops, sender=AUDITOR) is Code.OK
    for kind in KINDS:
        more = pair(world, kind, view=MAX_EVIDENCE_PER_EPOCH + 1)
        assert record(world, more) is Code.LIMIT_OF_ENTRIES
    assert record(world, pair(world, view=1)) is Code.EVIDENCE_RECORDED
    assert record(world, pair(world, code="CHRL")) is Code.OK
    assert record(world, pair(world, epoch=1)) is Code.OK


def test_a_code_that_begins_like_another_is_counted_apart(world: World) -> None:
    prefixes = {records.evidence_prefix(code, 0) for code in ("BRVO", "BRVO1")}
    assert not any(a.startswith(b) for a in prefixes for b in prefixes if a != b)


@pytest.mark.parametrize("bundled", [False, True])
def test_the_votes_of_evidence_count_as_signatures_of_the_block(
    world: World, monkeypatch: pytest.MonkeyPatch, *, bundled: bool
) -> None:
    op = RecordEvidence(AUDITOR, pair(world))
    tx, signatures = world.make(op, sender=AUDITOR), 2 + 2
    if bundled:
        propose = Propose((op,), world.now_ms + DAY_MS)
        assert world.run(propose, sender=AUDITOR, keys=["AUDT-a1"]) is Code.OK
        ((proposal, found),) = world.view.scan(PROPOSALS, b"")
        approve = Approve(proposal, found.bundle_hash, Decision.APPROVE)
        tx, signatures = world.make(approve, sender=AUDITOR, keys=["AUDT-a2"]), 1 + 2
    for room in (signatures - 1, signatures):
        monkeypatch.setattr("atpar.ledger.execute.MAX_BLOCK_SIGNATURES", room)
        built, _ = build_block(world.view, world.make_template(), [tx], chain_id=world.chain_id)
        assert len(built.transactions) == (room == signatures)


def test_the_lowest_code_is_reported(short: World) -> None:
    """Recorded before anything is verified; an unknown epoch before either."""
    world = short
    assert record(world, pair(world)) is Code.OK
    assert record(world, pair(world, key="ALFA-vote")) is Code.EVIDENCE_RECORDED
    assert record(world, pair(world, epoch=1, key="ALFA-vote")) is Code.UNKNOWN_EPOCH
    assert Code.UNKNOWN_EPOCH < Code.EVIDENCE_RECORDED < Code.LIMIT_OF_ENTRIES
    assert Code.LIMIT_OF_ENTRIES < Code.EVIDENCE_INVALID


def test_the_largest_evidence_fits_its_bound() -> None:
    largest = 2**63 - 1
    votes = [
        sign(cast(kind, epoch=largest, view=largest), "BRVO-vote", bytes(32))
        for kind in (Nullify, Finalize)
    ]
    assert isinstance(votes[0], Nullify)
    assert isinstance(votes[1], Finalize)
    data = encode_evidence(NullifyFinalize("BRVOBRVO", votes[0], votes[1]))
    assert decode_evidence(data).participant == "BRVOBRVO"
