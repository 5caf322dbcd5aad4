"""Votes and certificates as bytes: what validators sign, and how anyone checks a quorum of it.

This is the part of consensus that an offline verifier needs, so it lives in the lowest layer.
Collecting votes, and when to cast one, is the business of `consensus/`.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from atpar.ledger.blocks import ValidatorKey
from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.keys import SignedTriple, verify_batch
from atpar.ledger.limits import MAX_VALIDATORS
from atpar.ledger.types import Count, Hash, SignatureBytes

Bitmap = Annotated[bytes, Meta(min_length=1, max_length=(MAX_VALIDATORS + 7) // 8)]
"""Bit i (least significant first) set: validator i of the epoch's ordered set signed."""
Signatures = Annotated[tuple[SignatureBytes, ...], Meta(max_length=MAX_VALIDATORS)]
"""One for each set bit, in order of the validators' indexes."""


class Proposition(Wire, frozen=True):
    """What notarize and finalize votes are about, called P in the protocol."""

    epoch: Count
    view: Count
    parent_view: Count
    digest: Hash


class NullifyBody(Wire, frozen=True):
    """What a nullify vote signs: this view shall have no finalised block."""

    epoch: Count
    view: Count


class Notarization(Wire, frozen=True, tag=1):
    """A quorum of notarize votes for one P."""

    proposition: Proposition
    signers: Bitmap
    signatures: Signatures


class Nullification(Wire, frozen=True, tag=2):
    """A quorum of nullify votes for one view."""

    body: NullifyBody
    signers: Bitmap
    signatures: Signatures


class Finalization(Wire, frozen=True, tag=3):
    """A quorum of finalize votes for one P: the block of P and all its ancestors are final."""

    proposition: Proposition
    signers: Bitmap
    signatures: Signatures


Certificate = Notarization | Nullification | Finalization

MAX_CERTIFICATE_BYTES = 128 + MAX_VALIDATORS * 70
FINALIZATION = Codec[Finalization](
    Finalization, name="finalization", max_bytes=MAX_CERTIFICATE_BYTES
)


def compute_quorum(validators: int) -> int:
    """Return n - f with f = (n - 1) // 3, the votes that make a certificate."""
    return validators - (validators - 1) // 3


def compute_vote_bytes(kind: SignKind, chain_id: bytes, body: Proposition | NullifyBody) -> bytes:
    """Return the bytes that a vote of this kind signs."""
    return compute_sign_bytes(kind, chain_id, encode(body))


def encode_bitmap(indexes: Sequence[int], validators: int) -> bytes:
    """Return the signer bitmap for validator indexes, in (n + 7) // 8 bytes."""
    bits = 0
    for index in indexes:
        bits |= 1 << index
    return bits.to_bytes((validators + 7) // 8, "little")


def decode_bitmap(bitmap: bytes, validators: int) -> list[int]:
    """Return the signers' indexes in ascending order.

    Raises:
        ProofInvalid: wrong length for n validators, or a bit beyond the last validator.
    """
    expected = (validators + 7) // 8
    if len(bitmap) != expected:
        raise ProofInvalid(f"signers: {len(bitmap)} bytes, expected {expected}")
    bits = int.from_bytes(bitmap, "little")
    if bits >> validators:
        raise ProofInvalid(f"signers: a bit is set beyond validator {validators - 1}")
    return [index for index in range(validators) if bits >> index & 1]


def compute_certificate_triples(
    certificate: Certificate, chain_id: bytes, members: Sequence[ValidatorKey]
) -> list[SignedTriple]:
    """Return the signatures to check for a certificate, in signer order.

    Raises:
        ProofInvalid: fewer signers than the quorum, or signatures that do not match the bitmap.
    """
    signers = decode_bitmap(certificate.signers, len(members))
    quorum = compute_quorum(len(members))
    if len(signers) < quorum:
        raise ProofInvalid(f"signers: {len(signers)}, the quorum is {quorum}")
    if len(certificate.signatures) != len(signers):
        raise ProofInvalid(f"signatures: {len(certificate.signatures)} for {len(signers)} signers")
    match certificate:
        case Notarization(proposition):
            message = compute_vote_bytes(SignKind.NOTARIZE, chain_id, proposition)
        case Nullification(body):
            message = compute_vote_bytes(SignKind.NULLIFY, chain_id, body)
        case Finalization(proposition):
            message = compute_vote_bytes(SignKind.FINALIZE, chain_id, proposition)
    return [
        (members[index].vote_key, message, signature)
        for index, signature in zip(signers, certificate.signatures, strict=True)
    ]


def check_certificate(
    certificate: Certificate, chain_id: bytes, members: Sequence[ValidatorKey]
) -> None:
    """Check a certificate completely against the ordered members of its epoch.

    The caller has matched the certificate's epoch to the members.

    Raises:
        ProofInvalid: no quorum, or a signature that does not verify; the message names which.
    """
    triples = compute_certificate_triples(certificate, chain_id, members)
    for position, valid in enumerate(verify_batch(triples)):
        if not valid:
            raise ProofInvalid(f"signatures[{position}]: does not verify")
