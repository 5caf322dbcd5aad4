"""Tells of most transaction ids that they are unused, without asking the disk.

Before a payment is taken its id must be known to be unused, and to find nothing in a large database
takes longer than anything else that is asked of a payment. This is a Bloom filter: where one of an
id's bits is missing, the id is certainly unused; where all are there, it has to be looked up. The
bits are chosen by the hash of the process for bytes, whose key nobody outside knows, so nobody can
choose ids that are looked up.

**It must never deny an id that the ledger counts as used.** An id is added before it is written,
and until all of the hours that the ledger retains have been read once, in the background of a
start, nothing is denied. Ids that the ledger drops stay in it until the next start: they are looked
up, as without it.

Source: Putze, Sanders and Singler, *Cache-, Hash- and Space-Efficient Bloom Filters* (2009): all
bits of a key in one word.
"""

import threading
from array import array
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from atpar.node.limits import USED_IDS_PORTION, USED_IDS_WORDS

_MASKS: Final = [
    1 << (n & 63) | 1 << (n >> 6) | 1 << (n * 40_503 >> 7 & 63) | 1 << (n * 30_029 >> 9 & 63)
    for n in range(4_096)
]
"""Which bits of its word a key sets, by twelve bits of its hash: two at least, mostly four."""


class UsedIds:
    """Which ids may be used. One thread reads what is there; another adds what is written."""

    def __init__(self, *, words: int = USED_IDS_WORDS) -> None:
        """`words` of 64 bits: a power of two. Eight bits for an id deny 97 of 100 unused ones."""
        self._words = array("Q", bytes(8 * words))
        self._mask: Final = words - 1
        self._lock = threading.Lock()
        self.is_complete = False
        """Whether everything that was there has been added."""

    def may_hold(self, key: bytes) -> bool:
        """Return False only of a key that is certainly unused."""
        # A word is read in one step, so a reader needs no lock.
        chosen = hash(key)
        bits = _MASKS[chosen >> 40 & 4_095]
        return not self.is_complete or self._words[chosen & self._mask] & bits == bits

    def add_all(self, keys: Iterable[bytes]) -> None:
        """Add keys that are about to be written, or are there."""
        words, mask = self._words, self._mask
        with self._lock:  # two writers to one word would lose a bit
            for key in keys:
                chosen = hash(key)
                words[chosen & mask] |= _MASKS[chosen >> 40 & 4_095]

    def load(self, keys: Iterable[bytes], *, check: Callable[[], None] = lambda: None) -> None:
        """Add all keys that were there when those that followed were being added already.

        `check` is called now and then; what it raises ends this.
        """
        rest = iter(keys)
        while portion := list(islice(rest, USED_IDS_PORTION)):
            self.add_all(portion)
            check()
        self.is_complete = True
