"""Votes as signed statements: their bodies, sign bytes, and how one is checked."""

from collections.abc import Callable
from typing import assert_never

from atpar.consensus.messages import Finalize, Notarize, Nullify, Vote
from atpar.ledger.certificates import NullifyBody, Proposition, compute_vote_bytes
from atpar.ledger.hashing import SignKind

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, sign bytes, signature) -> valid under the one signature rule."""


def get_body(vote: Vote) -> Proposition | NullifyBody:
    """Return what the vote signs, without its kind."""
    return vote.body if isinstance(vote, Nullify) else vote.proposition


def get_kind(vote: Vote) -> SignKind:
    """Return the kind that stands in the vote's sign bytes."""
    match vote:
        case Notarize():
            return SignKind.NOTARIZE
        case Nullify():
            return SignKind.NULLIFY
        case Finalize():
            return SignKind.FINALIZE
        case _:
            assert_never(vote)


def compute_signed_bytes(vote: Vote, chain_id: bytes) -> bytes:
    """Return the bytes that the vote's signature covers."""
    return compute_vote_bytes(get_kind(vote), chain_id, get_body(vote))


def verify_vote(vote: Vote, *, chain_id: bytes, public_key: bytes, verify: Verify) -> bool:
    """Return whether the vote's signature is valid under that key."""
    return verify(public_key, compute_signed_bytes(vote, chain_id), vote.signature)
