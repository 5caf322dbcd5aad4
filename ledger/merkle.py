"""Merkle trees over lists, as RFC 6962 has them: root, inclusion path, verification.

The transactions and the receipts of a block hang in one each, so the inclusion proofs are the
standard ones and any Certificate Transparency library can check them.

Source: RFC 6962 section 2.1; verification as RFC 9162 section 2.1.3.2.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import find_many_hashes

_begin_leaf: Final = sha256(b"\0").copy
_begin_pair: Final = sha256(b"\1").copy
"""Copies of a hash after its prefix: cheaper than putting the prefix in front of what follows."""

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of no entries."""


def compute_leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry."""
    running = _begin_leaf()
    running.update(entry)
    return running.digest()


def compute_root(entries: Sequence[bytes]) -> bytes:
    """Return the 32-byte root over the entries, in order."""
    if not entries:
        return EMPTY_ROOT
    many = find_many_hashes(len(entries))
    if many is not None:
        return many.compute_root(entries)
    level = list(map(compute_leaf_hash, entries))
    while len(level) > 1:
        level = _climb(level)
    return level[0]


def build_path(entries: Sequence[bytes], index: int) -> list[bytes]:
    """Return the inclusion path of one entry: its siblings' hashes, lowest first."""
    return get_path(build_levels(entries), index)


def build_levels(entries: Sequence[bytes]) -> list[list[bytes]]:
    """Return the hashes of every level, entries first, the root last: for many paths of a tree."""
    levels = [list(map(compute_leaf_hash, entries))]
    while len(levels[-1]) > 1:
        levels.append(_climb(levels[-1]))
    return levels


def get_path(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """Return the inclusion path of one entry out of a tree's levels."""
    if not 0 <= index < len(levels[0]):
        raise IndexError(f"entry {index} of {len(levels[0])}")
    path = []
    for level in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index //= 2
    return path


def _climb(level: Sequence[bytes]) -> list[bytes]:
    """Return the level above: pairs are hashed, an odd last hash moves up as it is.

    The same tree as the RFC's recursion, which splits at the largest power of two below the size.
    """
    above = []
    for left, right in zip(level[::2], level[1::2], strict=False):
        running = _begin_pair()
        running.update(left + right)
        above.append(running.digest())
    if len(level) % 2:
        above.append(level[-1])
    return above


def verify_path(
    entry: bytes, *, index: int, count: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that `entry` is number `index` of the `count` entries under `root`.

    Raises:
        ProofInvalid: it is not, or the path has another length than that place needs.
    """
    if not 0 <= index < count:
        raise ProofInvalid(f"index {index} of {count} entries")
    digest, last, at = compute_leaf_hash(entry), count - 1, index
    for sibling in path:
        if last == 0:
            raise ProofInvalid(f"path: {len(path)} hashes, too many for entry {index} of {count}")
        if at % 2 or at == last:
            digest = sha256(b"\1" + sibling + digest).digest()
            while not at % 2 and at:
                at, last = at // 2, last // 2
        else:
            digest = sha256(b"\1" + digest + sibling).digest()
        at, last = at // 2, last // 2
    if last:
        raise ProofInvalid(f"path: {len(path)} hashes, too few for entry {index} of {count}")
    if digest != root:
        raise ProofInvalid(f"path: leads to {digest.hex()}, the root is {root.hex()}")
