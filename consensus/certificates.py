"""Forming certificates from counted votes, and checking those that others formed."""

from collections.abc import Mapping
from typing import assert_never

from atpar.consensus.validators import ValidatorSet
from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
    compute_certificate_triples,
    decode_bitmap,
    encode_bitmap,
)
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.votes import Finalize, Notarize, Nullify, Verify, Vote


def get_statement(certificate: Certificate) -> Proposition | NullifyBody:
    """Return what the certificate's votes sign."""
    if isinstance(certificate, Nullification):
        return certificate.body
    return certificate.proposition


def build_certificate(votes: Mapping[int, Vote], validators: ValidatorSet) -> Certificate:
    """Return the certificate of verified votes of one kind for one statement, by signer index."""
    indexes = sorted(votes)
    signers = encode_bitmap(indexes, validators.size)
    signatures = tuple(votes[index].signature for index in indexes)
    match votes[indexes[0]]:
        case Notarize(proposition):
            return Notarization(proposition, signers, signatures)
        case Nullify(body):
            return Nullification(body, signers, signatures)
        case Finalize(proposition):
            return Finalization(proposition, signers, signatures)
        case other:
            assert_never(other)


def check_certificate(
    certificate: Certificate,
    *,
    chain_id: bytes,
    validators: ValidatorSet,
    verify: Verify,
    known: Mapping[int, bytes],
) -> None:
    """Check a certificate of the set's epoch completely.

    `known`: signer index -> signature already verified for this very statement and kind; equal
    ones are not verified again.

    Raises:
        ProofInvalid: no quorum, or a signature that does not verify; the message names which.
    """
    triples = compute_certificate_triples(certificate, chain_id, validators.members)
    signers = decode_bitmap(certificate.signers, validators.size)
    for index, (key, message, signature) in zip(signers, triples, strict=True):
        if known.get(index) != signature and not verify(key, message, signature):
            raise ProofInvalid(f"signature of validator {index}: does not verify")


def split_certificate(certificate: Certificate, validators: ValidatorSet) -> dict[int, Vote]:
    """Return the votes that a checked certificate is made of, by signer index."""
    signers = decode_bitmap(certificate.signers, validators.size)
    pairs = zip(signers, certificate.signatures, strict=True)
    match certificate:
        case Notarization(proposition):
            return {index: Notarize(proposition, signature) for index, signature in pairs}
        case Nullification(body):
            return {index: Nullify(body, signature) for index, signature in pairs}
        case Finalization(proposition):
            return {index: Finalize(proposition, signature) for index, signature in pairs}
        case _:
            assert_never(certificate)
