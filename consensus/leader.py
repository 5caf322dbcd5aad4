"""Who leads which view: a permutation of the epoch's validators, repeated.

The permutation is a function of chain, epoch and keys alone, so every node and every verifier finds
the same one; another epoch has another order, so no pair of institutions is adjacent for ever.
"""

from atpar.consensus.validators import ValidatorSet
from atpar.ledger.hashing import HashTag, compute_hash


def compute_leaders(chain_id: bytes, validators: ValidatorSet) -> tuple[int, ...]:
    """Return the order in which validators lead: view v is led by entry v mod n (an index)."""
    epoch = validators.epoch.to_bytes(8, "big")

    def rank(index: int) -> bytes:
        key = validators.members[index].vote_key
        return compute_hash(HashTag.LEADERS, chain_id, epoch, key)

    return tuple(sorted(range(validators.size), key=rank))
