"""The recovery document: how a chain goes on when fewer than a quorum of validators can vote.

Too many lost journals or lost machines stop a chain for good, because nobody may vote on guesses.
Then the administrators of a quorum of the stopped epoch sign, off the machines, at which final
block the next epoch starts and who votes in it. The epoch before is over, so no vote of it can
contradict one of the next.

Nodes and offline verifiers check a document by the same function. It needs the administrators of
the epoch that stopped, as the state after the document's block registers them: a key that was
rotated out before counts for nothing, and one that only a later epoch would name does not yet.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from atpar.ledger.blocks import ValidatorKey
from atpar.ledger.certificates import compute_quorum
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.keys import verify_batch
from atpar.ledger.limits import MAX_ABANDONED_BLOCKS, MAX_VALIDATORS, MIN_VALIDATORS
from atpar.ledger.records import Validator, ValidatorSet
from atpar.ledger.types import Count, Hash, Height, ParticipantCode, SignatureBytes


class RecoveryBody(Wire, frozen=True):
    """What the administrators sign."""

    epoch: Count
    """The epoch that opens: one above the one that stopped."""
    height: Height
    """Of the highest final block, on which the epoch starts."""
    digest: Hash
    members: Annotated[tuple[ValidatorKey, ...], Meta(max_length=MAX_VALIDATORS)]
    """Who votes in it, in order: each as the stopped epoch or the one after it registers him."""
    abandoned: Annotated[tuple[Hash, ...], Meta(max_length=MAX_ABANDONED_BLOCKS)]
    """Digests, sorted, of blocks above that a validator voted to finalise and that the
    administrators declare never to have become final. Such a vote makes its validator refuse every
    document that does not name the block: it may be final on a machine that nobody reached."""


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
    following: ValidatorSet | None,
) -> ValidatorSet:
    """Check a document against the epoch that stopped; return the set of the epoch that it opens.

    `stopped` and `following` are the records `current` and `next` of the state after its block.
    That the block is the one that the caller knows to be final is for the caller to check.

    Raises:
        ProofInvalid: not the next epoch, an impossible set, unsorted or foreign signatures, fewer
            than the quorum, or one that does not verify.
    """
    opened = seat_members(document.body, stopped=stopped, following=following)
    _check_signatures(document, chain_id, stopped)
    return opened


def seat_members(
    body: RecoveryBody, *, stopped: ValidatorSet, following: ValidatorSet | None
) -> ValidatorSet:
    """Return the set that a document opens, whoever signed it.

    Raises:
        ProofInvalid: not the next epoch, or an impossible set.
    """
    if body.epoch != stopped.epoch + 1:
        raise ProofInvalid(f"recovery: opens epoch {body.epoch}, expected {stopped.epoch + 1}")
    if list(body.abandoned) != sorted(set(body.abandoned)):
        raise ProofInvalid("recovery: abandoned: not sorted, or one stands twice")
    count = len(body.members)
    if not MIN_VALIDATORS <= count <= MAX_VALIDATORS:
        raise ProofInvalid(
            f"recovery: {count} validators, allowed {MIN_VALIDATORS}..{MAX_VALIDATORS}"
        )
    if len({member.participant for member in body.members}) != count:
        raise ProofInvalid("recovery: a participant stands twice in the validator set")
    members = [
        find_member(member.participant, stopped, following, vote_key=member.vote_key)
        for member in body.members
    ]
    return ValidatorSet(body.epoch, tuple(members))


def find_member(
    participant: str,
    stopped: ValidatorSet,
    following: ValidatorSet | None,
    *,
    vote_key: bytes | None = None,
) -> Validator:
    """Return a participant's entry in the stopped set or, failing that, in the one after it.

    Raises:
        ProofInvalid: it has none, or none under that vote key.
    """
    for registered in (stopped, following):
        for member in () if registered is None else registered.members:
            if member.participant == participant and vote_key in (None, member.vote_key):
                return member
    raise ProofInvalid(
        f"recovery: {participant} is registered neither in the stopped set nor in the next, or "
        "under another vote key"
    )


def _check_signatures(document: RecoveryDocument, chain_id: bytes, stopped: ValidatorSet) -> None:
    names = [signature.participant for signature in document.signatures]
    if names != sorted(set(names)):
        raise ProofInvalid("recovery: signatures are not sorted by participant, or repeat one")
    quorum = compute_quorum(len(stopped.members))
    if len(names) < quorum:
        raise ProofInvalid(f"recovery: {len(names)} signatures, the quorum is {quorum}")
    keys = [_find_admin_key(name, stopped) for name in names]
    message = compute_recovery_bytes(document.body, chain_id)
    signatures = [signed.signature for signed in document.signatures]
    triples = [(key, message, each) for key, each in zip(keys, signatures, strict=True)]
    for name, valid in zip(names, verify_batch(triples), strict=True):
        if not valid:
            raise ProofInvalid(f"recovery: the signature of {name} does not verify")


def _find_admin_key(participant: str, stopped: ValidatorSet) -> bytes:
    for member in stopped.members:
        if member.participant == participant:
            return member.admin_key
    raise ProofInvalid(f"recovery: {participant} is no validator of epoch {stopped.epoch}")


def list_administrators(documents: Sequence[RecoveryDocument]) -> list[str]:
    """Return, sorted, who signed every one of these documents."""
    signed = [{each.participant for each in document.signatures} for document in documents]
    return sorted(set.intersection(*signed)) if signed else []
