"""Votes that exclude each other, signed with the keys of the small world."""

from atpar.ledger.certificates import NullifyBody, Proposition
from atpar.ledger.evidence import Evidence, build_evidence
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, compute_signed_bytes
from tests.ledger.world import default_genesis, key_of

UNSIGNED = bytes(64)


def cast(kind: type[Vote], *, epoch: int, view: int, block: int = 1) -> Vote:
    """Return a vote without a signature, for block number so and so."""
    if kind is Nullify:
        return Nullify(NullifyBody(epoch, view), UNSIGNED)
    proposition = Proposition(epoch, view, 0, bytes([block]) * 32)
    return (Finalize if kind is Finalize else Notarize)(proposition, UNSIGNED)


def sign(vote: Vote, key: str, chain_id: bytes) -> Vote:
    signature = key_of(key).sign(compute_signed_bytes(vote, chain_id)).signature
    if isinstance(vote, Nullify):
        return Nullify(vote.body, signature)
    return type(vote)(vote.proposition, signature)


def make_pair(
    kind: type[Vote] = Notarize,
    *,
    chain_id: bytes | None = None,
    view: int = 3,
    epoch: int = 0,
    code: str = "BRVO",
    key: str | None = None,
    blocks: tuple[int, int] = (1, 2),
) -> Evidence:
    """Return evidence that a validator voted for two blocks, or gave up what it finalized.

    Of the small world's chain, unless another is named.
    """
    chain = chain_id or default_genesis().chain_id
    second = Finalize if kind is Nullify else kind
    votes = (
        cast(kind, epoch=epoch, view=view, block=blocks[0]),
        cast(second, epoch=epoch, view=view, block=blocks[1]),
    )
    name = key or f"{code}-vote"
    return build_evidence(code, *(sign(vote, name, chain) for vote in votes))
