"""Two proofs of one chain must tell one history: finding the fork when they do not.

A verifier believes a quorum: of an epoch's validators that a block is final, of the administrators
of an epoch that stopped that the next one opens where they say. More of them than the chain bears
could tell two verifiers two stories, each of which checks. Neither can see that alone; whoever
holds both proofs can, and can name those who signed both.
"""

from atpar.ledger.blocks import compute_digest
from atpar.ledger.errors import ForkFound
from atpar.ledger.proofs import Opening, Verified
from atpar.ledger.recovery import list_administrators


def check_one_history(first: Verified, second: Verified) -> None:
    """Check that two verified proofs can be of one chain without forks.

    Raises:
        ForkFound: they contradict each other; the message has both sides.
    """
    if first.chain_id != second.chain_id:
        raise ForkFound(f"two chains: {first.chain_id.hex()} and {second.chain_id.hex()}")
    begun = {opening.validators.epoch: opening for opening in second.epochs}
    for opening in first.epochs:
        other = begun.get(opening.validators.epoch)
        if other is not None:
            _check_opening(opening, other)
    _check_end(first, second)
    _check_end(second, first)
    known = _list_final(second)
    for height, digest in _list_final(first).items():
        if known.get(height, digest) != digest:
            raise ForkFound(
                f"two final blocks at height {height}: {digest.hex()} and {known[height].hex()}"
            )


def _check_opening(first: Opening, second: Opening) -> None:
    starts = {each.start for each in (first, second) if each.start is not None}
    if first.validators == second.validators and len(starts) < 2:
        return
    documents = [each.document for each in (first, second) if each.document is not None]
    both = list_administrators(documents) if len(documents) > 1 else []
    raise ForkFound(
        f"epoch {first.validators.epoch} was opened twice: {_describe(first)}, and "
        f"{_describe(second)}" + (f"; signed both documents: {', '.join(both)}" if both else "")
    )


def _describe(opening: Opening) -> str:
    by = "by the block before" if opening.document is None else "by a recovery document"
    members = ", ".join(member.participant for member in opening.validators.members)
    if opening.start is None:
        return f"{by} for {members}"
    return f"{by}, {opening.start.height} {compute_digest(opening.start).hex()}, for {members}"


def _list_final(verified: Verified) -> dict[int, bytes]:
    """Return the final blocks that a proof has shown, by height."""
    starts = [opening.start for opening in verified.epochs if opening.start is not None]
    known = {start.height: compute_digest(start) for start in starts}
    return {**known, verified.block.height: verified.block.digest}


def _check_end(first: Verified, second: Verified) -> None:
    """Check that a block does not stand above the one at which its epoch ended."""
    epoch = first.block.epoch
    for opening in second.epochs:
        start = opening.start
        ended = opening.validators.epoch == epoch + 1
        if ended and start is not None and first.block.height > start.height:
            by = "a recovery document" if opening.document is not None else "its last block"
            raise ForkFound(
                f"epoch {epoch} ended at height {start.height} by {by}, and its validators made "
                f"block {first.block.height} {first.block.digest.hex()} final"
            )
