"""The recovery document: how a chain goes on when fewer than Q validators are able to vote.

Too many lost journals or lost machines stop a chain for good, because nobody may vote on guesses.
Then the administrators of Q validators of the stopped epoch sign, off the machines, at which final
block the next epoch starts and who votes in it. Every node is given the document by its operator;
the epoch before is over, so no vote of it can contradict one of the next.

The administrators make sure that the block is the highest final one that any of them has: a node
whose final tip is another refuses the document.
"""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from atpar.consensus.types import EpochStart, Tip
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.blocks import ValidatorKey
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.limits import MAX_VALIDATORS
from atpar.ledger.types import Count, Hash, Height, ParticipantCode, SignatureBytes
from atpar.ledger.votes import Verify


class RecoveryBody(Wire, frozen=True):
    """What the administrators sign."""

    epoch: Count
    """The epoch that opens: one above the one that stopped."""
    height: Height
    """Of the highest final block, on which the epoch starts."""
    digest: Hash
    members: Annotated[tuple[ValidatorKey, ...], Meta(max_length=MAX_VALIDATORS)]
    """Who votes in it, in order."""


class AdminSignature(Wire, frozen=True):
    """One administrator's signature (kind `recovery`) over the body."""

    participant: ParticipantCode
    signature: SignatureBytes


class RecoveryDocument(Wire, frozen=True):
    """The body and its signatures, sorted by participant, without duplicates."""

    body: RecoveryBody
    signatures: Annotated[tuple[AdminSignature, ...], Meta(max_length=MAX_VALIDATORS)]


RECOVERY = Codec[RecoveryDocument](RecoveryDocument, name="recovery document", max_bytes=65_536)


def compute_recovery_bytes(body: RecoveryBody, chain_id: bytes) -> bytes:
    """Return the bytes that each administrator signs."""
    return compute_sign_bytes(SignKind.RECOVERY, chain_id, encode(body))


def check_recovery(
    document: RecoveryDocument,
    *,
    chain_id: bytes,
    stopped: ValidatorSet,
    admin_keys: Mapping[str, bytes],
    verify: Verify,
) -> None:
    """Check a document against the set of the epoch that stopped and its administrators' keys.

    Raises:
        ProofInvalid: not the next epoch, an impossible set, unsorted or foreign signatures, fewer
            than the quorum, or one that does not verify.
    """
    body = document.body
    if body.epoch != stopped.epoch + 1:
        raise ProofInvalid(f"recovery: opens epoch {body.epoch}, expected {stopped.epoch + 1}")
    try:
        ValidatorSet(body.epoch, body.members)
    except ValueError as error:
        raise ProofInvalid(f"recovery: {error}") from error
    names = [signature.participant for signature in document.signatures]
    if names != sorted(set(names)):
        raise ProofInvalid("recovery: signatures are not sorted by participant, or repeat one")
    if len(names) < stopped.quorum:
        raise ProofInvalid(f"recovery: {len(names)} signatures, the quorum is {stopped.quorum}")
    message = compute_recovery_bytes(body, chain_id)
    for signed in document.signatures:
        key = admin_keys.get(signed.participant)
        if key is None or stopped.get_index(signed.participant) is None:
            raise ProofInvalid(
                f"recovery: {signed.participant} is no validator of epoch {stopped.epoch}"
            )
        if not verify(key, message, signed.signature):
            raise ProofInvalid(f"recovery: the signature of {signed.participant} does not verify")


def open_recovered(document: RecoveryDocument, tip: Tip) -> EpochStart:
    """Return the epoch that a checked document opens on this node's final tip.

    Raises:
        ProofInvalid: the tip is another block: fetch what is missing, or ask the administrators.
    """
    body = document.body
    if (body.height, body.digest) != (tip.height, tip.digest):
        raise ProofInvalid(
            f"recovery: starts at block {body.height} {body.digest.hex()}, the final tip here is"
            f" {tip.height} {tip.digest.hex()}"
        )
    validators = ValidatorSet(body.epoch, body.members)
    return EpochStart(validators, tip.digest, tip.height, tip.timestamp_ms)
