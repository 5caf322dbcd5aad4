"""Evidence as a file: what convinces anyone that a validator signed two excluding messages.

The file carries the steps from the genesis set to the set of the epoch in which it happened, so it
is checked with the genesis document alone, years later, with no node at hand.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from atpar.ledger.blocks import ValidatorSetId
from atpar.ledger.codec import Codec, Wire
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.evidence import (
    ConflictingFinalize,
    ConflictingNotarize,
    Evidence,
    NullifyFinalize,
    encode_evidence,
    get_place,
    verify_evidence,
)
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.jsonform import JsonInvalid, from_json, operation_name, parse_json, to_json
from atpar.ledger.limits import MAX_EPOCH_STEPS, MAX_PROOF_BYTES
from atpar.ledger.proofs import EpochStep, TrustRoot, follow_epochs

FORMAT: Final = "atpar-evidence/1"
KINDS: Final[dict[type[Evidence], str]] = {
    ConflictingNotarize: "two notarizes for different blocks in one view",
    ConflictingFinalize: "two finalizes for different blocks in one view",
    NullifyFinalize: "a nullify and a finalize in one view",
}


class EvidenceFile(Wire, frozen=True):
    """What `atpar evidence export` writes and `atpar verify` checks."""

    format: Literal["atpar-evidence/1"]
    epochs: Annotated[tuple[EpochStep, ...], Meta(max_length=MAX_EPOCH_STEPS)]
    """From the genesis set to that of the epoch in which it happened."""
    evidence: ConflictingNotarize | ConflictingFinalize | NullifyFinalize


EVIDENCE_FILE = Codec[EvidenceFile](EvidenceFile, name="evidence", max_bytes=MAX_PROOF_BYTES)


def compute_evidence_id(evidence: Evidence) -> bytes:
    """Return the 32 bytes that name a piece of evidence."""
    return compute_hash(HashTag.PROOF, encode_evidence(evidence))


def get_kind(kind: type[Evidence]) -> str:
    """Return the name of a kind of evidence: `conflicting_notarize`."""
    return operation_name(kind)


def build_evidence_file(evidence: Evidence, epochs: tuple[EpochStep, ...]) -> EvidenceFile:
    """Return the file form of evidence; `epochs` lead to its epoch."""
    return EvidenceFile(FORMAT, epochs, evidence)


def parse_evidence_file(data: bytes) -> EvidenceFile:
    """Return the evidence of its JSON bytes, unverified.

    Raises:
        ProofInvalid: not the JSON form of an evidence file; names the field.
    """
    try:
        value = parse_json(data, max_bytes=2 * MAX_PROOF_BYTES)
        file = from_json(EvidenceFile, value)
    except JsonInvalid as error:
        raise ProofInvalid(str(error)) from error
    if to_json(file) != value:
        raise ProofInvalid("document: not as evidence is written (hex is in lower case): altered")
    return file


def render_evidence_file(file: EvidenceFile) -> bytes:
    """Return an evidence file as readable JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(to_json(file)), indent=2) + b"\n"


def verify_evidence_file(file: EvidenceFile, trust: TrustRoot) -> ValidatorSetId:
    """Check an evidence file completely; return the set of the epoch that it is about.

    Raises:
        ProofInvalid: it does not show what it claims; the message names the part.
    """
    members = follow_epochs(file.epochs, trust)[-1].validators
    epoch, _ = get_place(file.evidence)
    if epoch != members.epoch:
        raise ProofInvalid(f"evidence: of epoch {epoch}, the steps lead to epoch {members.epoch}")
    verify_evidence(file.evidence, trust.chain_id, members)
    return members
