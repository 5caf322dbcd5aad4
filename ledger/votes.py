"""Votes as signed statements: what each kind says, the bytes it signs, and how one is checked.

Votes carry no signer: under whose key a vote must verify is known from elsewhere, from the
connection it came by or from the evidence that holds it. Collecting votes, and when to cast one, is
the business of `consensus/`; the numbers in front of them are those of its table of messages.
"""

from collections.abc import Callable
from typing import assert_never

from atpar.ledger.certificates import NullifyBody, Proposition, compute_vote_bytes
from atpar.ledger.codec import Wire
from atpar.ledger.hashing import SignKind
from atpar.ledger.types import SignatureBytes

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, sign bytes, signature) -> valid under the one signature rule."""


class Notarize(Wire, frozen=True, tag=16):
    """I verified this block and, in this view, vote for no other."""

    proposition: Proposition
    signature: SignatureBytes


class Nullify(Wire, frozen=True, tag=17):
    """I shall not finalize anything in this view."""

    body: NullifyBody
    signature: SignatureBytes


class Finalize(Wire, frozen=True, tag=18):
    """I hold the notarization of this block, certified it, and never nullify its view."""

    proposition: Proposition
    signature: SignatureBytes


Vote = Notarize | Nullify | Finalize


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
