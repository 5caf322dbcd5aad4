"""Portable evidence: two messages signed by one validator that no honest one both sends.

A piece of evidence convinces anyone who knows the chain id and the validator set of its epoch. An
invalid signature is never evidence: it proves nothing about the owner of the key.
"""

from typing import assert_never

from atpar.ledger.blocks import ValidatorSetId
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.keys import verify
from atpar.ledger.types import ParticipantCode
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, get_body, verify_vote


class ConflictingNotarize(Wire, frozen=True, tag=1):
    """Two notarizes for different P in one view."""

    participant: ParticipantCode
    first: Notarize
    second: Notarize


class ConflictingFinalize(Wire, frozen=True, tag=2):
    """Two finalizes for different P in one view."""

    participant: ParticipantCode
    first: Finalize
    second: Finalize


class NullifyFinalize(Wire, frozen=True, tag=3):
    """A nullify and a finalize in one view."""

    participant: ParticipantCode
    nullify: Nullify
    finalize: Finalize


Evidence = ConflictingNotarize | ConflictingFinalize | NullifyFinalize

EVIDENCE = Codec[Evidence](Evidence, name="evidence", max_bytes=1_024)


def encode_evidence(evidence: Evidence) -> bytes:
    """Return the canonical bytes of a piece of evidence."""
    return encode(evidence)


def decode_evidence(data: bytes) -> Evidence:
    """Return the evidence of `data`.

    Raises:
        NonCanonical: not one canonical piece of evidence.
    """
    return EVIDENCE.decode(data)


def _get_pair(evidence: Evidence) -> tuple[Vote, Vote]:
    match evidence:
        case ConflictingNotarize(_, first, second):
            return first, second
        case ConflictingFinalize(_, one, other):
            return one, other
        case NullifyFinalize(_, nullify, finalize):
            return nullify, finalize
        case _:
            assert_never(evidence)


def get_number(kind: type[Evidence]) -> int:
    """Return the number of a kind of evidence, which stands in front of its bytes."""
    number = kind.__struct_config__.tag
    assert isinstance(number, int), number
    return number


def get_place(evidence: Evidence) -> tuple[int, int]:
    """Return the epoch and view in which it happened."""
    body = get_body(_get_pair(evidence)[0])
    return body.epoch, body.view


def find_pair_fault(evidence: Evidence) -> str | None:
    """Return why one honest validator may send both messages, or None if none does."""
    first, second = _get_pair(evidence)
    body, other = get_body(first), get_body(second)
    if (other.epoch, other.view) != (body.epoch, body.view):
        return f"views {body.view} and {other.view} of epochs {body.epoch}, {other.epoch}"
    if body == other:
        return "both messages say the same"
    return None


def verify_evidence(evidence: Evidence, chain_id: bytes, validators: ValidatorSetId) -> None:
    """Check that the two messages exclude each other and are signed by the named validator.

    Raises:
        ProofInvalid: another epoch, not a member, messages that one honest validator may both
            send, or a signature that does not verify.
    """
    epoch, code = get_place(evidence)[0], evidence.participant
    if epoch != validators.epoch:
        raise ProofInvalid(f"evidence: of epoch {epoch}, the set is of epoch {validators.epoch}")
    key = next((m.vote_key for m in validators.members if m.participant == code), None)
    if key is None:
        raise ProofInvalid(f"evidence: {code} is no validator of epoch {epoch}")
    fault = find_pair_fault(evidence)
    if fault is not None:
        raise ProofInvalid(f"evidence: {fault}")
    for vote in _get_pair(evidence):
        if not verify_vote(vote, chain_id=chain_id, public_key=key, verify=verify):
            raise ProofInvalid(f"evidence: the {type(vote).__name__} signature does not verify")


def build_evidence(participant: str, earlier: Vote, later: Vote) -> Evidence:
    """Return the evidence that two conflicting votes of one validator are."""
    match earlier, later:
        case Notarize(), Notarize():
            return ConflictingNotarize(participant, earlier, later)
        case Finalize(), Finalize():
            return ConflictingFinalize(participant, earlier, later)
        case Nullify(), Finalize():
            return NullifyFinalize(participant, earlier, later)
        case Finalize(), Nullify():
            return NullifyFinalize(participant, later, earlier)
        case _:
            raise AssertionError(f"{earlier} and {later} do not conflict")
