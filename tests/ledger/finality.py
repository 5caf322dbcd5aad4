"""Finalizations and proofs over the blocks of a `World`, signed by its four validators."""

from collections.abc import Sequence

from msgspec.structs import replace

from atpar.ledger.blocks import (
    Header,
    ValidatorKey,
    ValidatorSetId,
    compute_digest,
    compute_validators_hash,
)
from atpar.ledger.certificates import (
    Finalization,
    Proposition,
    compute_vote_bytes,
    encode_bitmap,
)
from atpar.ledger.hashing import SignKind
from atpar.ledger.proofs import BoundaryStep, FinalityProof, TrustRoot, compute_trust_root
from tests.ledger.world import BANKS, World, key_of, public

QUORUM = (0, 1, 2)


def list_headers(world: World) -> list[Header]:
    """Return all headers by height, genesis first."""
    return [world.genesis.header, *(executed.header for executed in world.executed)]


def sign_finalization(
    chain_id: bytes,
    proposition: Proposition,
    *,
    signers: Sequence[int] = QUORUM,
    banks: Sequence[str] = BANKS,
    kind: SignKind = SignKind.FINALIZE,
) -> Finalization:
    message = compute_vote_bytes(kind, chain_id, proposition)
    signatures = tuple(key_of(f"{banks[i]}-vote").sign(message).signature for i in signers)
    return Finalization(proposition, encode_bitmap(signers, len(banks)), signatures)


def propose(header: Header) -> Proposition:
    return Proposition(header.epoch, header.view, max(0, header.view - 1), compute_digest(header))


def finalize(
    world: World, height: int, *, top: int | None = None, signers: Sequence[int] = QUORUM
) -> FinalityProof:
    """Return the proof that a block is final, by a finalization of the block at `top`."""
    headers = list_headers(world)
    top = height if top is None else top
    finalization = sign_finalization(world.chain_id, propose(headers[top]), signers=signers)
    return FinalityProof(finalization, tuple(headers[h] for h in range(top, height - 1, -1)))


def get_trust(world: World) -> TrustRoot:
    return compute_trust_root(world.genesis.document)


def make_set(epoch: int, banks: Sequence[str]) -> ValidatorSetId:
    members = tuple(ValidatorKey(bank, public(f"{bank}-vote")) for bank in banks)
    return ValidatorSetId(epoch, members)


def make_boundary(
    header: Header,
    validators: ValidatorSetId,
    following: ValidatorSetId,
    *,
    banks: Sequence[str] = BANKS,
    again_after: int = 0,
) -> BoundaryStep:
    """Return the step over a block made from `header` that ends the epoch of `validators`.

    With `again_after` the block was finalised that many views later, proposed again.
    """
    boundary = replace(
        header,
        epoch=validators.epoch,
        validators_hash=compute_validators_hash(validators),
        next_validators_hash=compute_validators_hash(following),
    )
    proposition = replace(propose(boundary), view=boundary.view + again_after)
    finalization = sign_finalization(header.chain_id, proposition, banks=banks)
    return BoundaryStep(FinalityProof(finalization, (boundary,)), following)
