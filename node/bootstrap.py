"""Whom to connect with before the chain is here: a proof of a later epoch's validators.

A new node knows the founding members from the genesis document. Where those have left, or changed
their root certificates since, it is given a proof of the record of a later set, as any validator's
API hands it out. It is checked against genesis like every proof, through all epochs in between, so
it may come from anybody; an old one only names members who may have gone.
"""

from pathlib import Path

from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.genesis import GenesisDocument
from atpar.ledger.proofs import (
    PROOF_FILE,
    ProofFile,
    RecordClaim,
    compute_trust_root,
    parse_proof,
    verify_proof,
)
from atpar.ledger.records import CURRENT, VALIDATORS, ValidatorSet
from atpar.node.errors import StartRefused


def verify_announced(file: ProofFile, document: GenesisDocument) -> ValidatorSet:
    """Return the validator set that a proof shows to be registered on the document's chain.

    Raises:
        ProofInvalid: it does not hold, or shows something else.
    """
    claim = verify_proof(file, compute_trust_root(document)).claim
    if (
        isinstance(claim, RecordClaim)
        and (claim.section, claim.key) == (VALIDATORS.name, CURRENT)
        and isinstance(claim.record, ValidatorSet)
    ):
        return claim.record
    raise ProofInvalid("proof: not of the validators in force: see /v1/validators?proof=1")


def load_announced(path: Path | None, document: GenesisDocument) -> ValidatorSet | None:
    """Return the validator set that the file of `node.bootstrap` proves, if there is one.

    Raises:
        StartRefused: it cannot be read, or proves no set of this chain.
    """
    if path is None:
        return None
    try:
        data = path.read_bytes()
        is_json = data.lstrip()[:1] == b"{"
        return verify_announced(parse_proof(data) if is_json else PROOF_FILE.decode(data), document)
    except OSError as error:
        raise StartRefused(f"node.bootstrap {path}: {error.strerror}") from error
    except (ProofInvalid, NonCanonical) as error:
        raise StartRefused(f"node.bootstrap {path}: {error}") from error
