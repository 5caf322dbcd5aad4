"""Machine code that writes new values into the pages of a tree: most of what a block does to one.

`ledger/tree.py` says what a tree and `ledger/pages.py` what a page is. Where the entries that a
block changes are there already, nothing moves: leaves get new hashes and amounts, and the nodes
above them are hashed anew. That is done here, for all entries together; whatever else an item asks
for (an entry that comes or goes) is left to Python, which takes the pages as they are afterwards.
The pages hold the same bytes whoever wrote them, since what stands where depends on the contents.

Pages are found by Python, so it goes down the tree in rounds: `descend` says where in the pages of
a round the items belong, and which pages further down to fetch, joined, for the next. Then `apply`
goes up again: it writes slots, hashes nodes, and hands on each page's hash and change of sum.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from atpar.node.machine_code import DIGEST_BYTES, find_function
from atpar.node.tree_writer import ENTRY_FIELDS, GROUP_FIELDS

_Item = tuple[bytes, bytes | None, int, bytes]
"""As in `ledger.tree`: path, leaf hash (None deletes), amount, key."""


@dataclass(slots=True)
class _Round:
    """Pages of which none is above another, joined, and what is to be done in them."""

    keys: list[bytes]
    """Under which each page is kept."""
    data: bytearray
    offsets: "array[int]"
    """Where each page begins, and the last one ends."""
    entries: "array[int]"
    """Slots to write, page by page: where it is, its node (0: the page's own), that node's own
    slot, and 2 x item, or 2 x page of the next round + 1."""
    entry_ends: "array[int]"
    """Where the entries of each page end."""
    digests: "ctypes.Array[ctypes.c_char]"
    changes: "array[int]"
    """Of the sum of each page."""
    written: bytearray
    """Whether a page was changed at all."""

    def hand_over(self, nodes: dict[bytes, bytes | None]) -> None:
        """Put the pages that were changed among the nodes of a block."""
        data, ends = memoryview(self.data), self.offsets
        for place, key in enumerate(self.keys):
            if self.written[place]:
                nodes[key] = bytes(data[ends[place] : ends[place + 1]])


class TreeCode:
    """Writes values, see `atpar.ledger.tree.TreeCode`."""

    def __init__(self, engine: Any) -> None:
        """Use the functions of a module that `tree_writer.py` wrote to."""
        self._engine = engine
        size, address, text = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p
        down = (size, *[address] * 4, text, size, text, *[address] * 6)
        self._descend = find_function(engine, "descend", None, *down)
        up = (size, *[address] * 3, text, *[address] * 8)
        self._apply = find_function(engine, "apply", size, *up)

    def change_values(
        self,
        get_node: Callable[[bytes], bytes | None],
        nodes: dict[bytes, bytes | None],
        root_key: bytes,
        items: list[_Item],
    ) -> list[_Item]:
        """Write the items that change an entry that is there; return the others, in order.

        All of them, with nothing written, if a sum left 0..MAX_SUM: perhaps only because what goes
        has not gone yet. Python takes all changes together, and has the last word.

        Raises:
            AssertionError: a page is missing.
        """
        root = get_node(root_key)
        if root is None:
            return items
        placed = [item for item in items if item[1] is not None]
        if not placed:
            return items
        job = _Job(placed)
        pages = [(root_key, root, 0, len(placed), len(root_key))]
        rounds: list[_Round] = []
        while pages:
            done, groups = self._go_down(job, pages)
            rounds.append(done)
            pages = []
            for first, last, at in zip(groups[::3], groups[1::3], groups[2::3], strict=True):
                key = placed[first][0][:at]
                page = get_node(key)
                if page is None:
                    raise AssertionError(f"node missing at {key!r}")
                pages.append((key, page, first, last, at))
        if not self._go_up(job, rounds):
            return items
        for done in rounds:
            done.hand_over(nodes)
        if len(placed) == len(items) and not any(job.odd):
            return []
        odd = {item[0] for item, is_odd in zip(placed, job.odd, strict=True) if is_odd}
        return [item for item in items if item[1] is None or item[0] in odd]

    def _go_down(
        self, job: "_Job", pages: Sequence[tuple[bytes, bytes, int, int, int]]
    ) -> tuple[_Round, "array[int]"]:
        keys, contents, firsts, lasts, ats = zip(*pages, strict=True)
        count = len(keys)
        room = sum(lasts) - sum(firsts)
        done = _Round(
            keys=list(keys),
            data=bytearray().join(contents),
            offsets=array("I", accumulate(map(len, contents), initial=0)),
            entries=array("I", bytes(4 * ENTRY_FIELDS * room)),
            entry_ends=array("I", bytes(4 * count)),
            digests=ctypes.create_string_buffer(DIGEST_BYTES * count),
            changes=array("q", bytes(8 * count)),
            written=bytearray(count),
        )
        groups, group_count = array("I", bytes(4 * GROUP_FIELDS * room)), array("I", bytes(4))
        spans, places = array("I", [*firsts, *lasts]), array("I", ats)
        self._descend(
            count,
            _address(done.data),
            _address(done.offsets),
            _address(spans),
            _address(places),
            job.paths,
            job.stride,
            job.keys,
            _address(job.key_ends),
            _address(job.odd),
            _address(done.entries),
            _address(done.entry_ends),
            _address(groups),
            _address(group_count),
        )
        return done, groups[: GROUP_FIELDS * group_count[0]]

    def _go_up(self, job: "_Job", rounds: list[_Round]) -> bool:
        """Write the slots of all rounds, from the last on; return whether all sums are sums."""
        below: _Round | None = None
        for done in reversed(rounds):
            child = below or done  # the lowest round has no entries that look further down
            wrong = self._apply(
                len(done.keys),
                _address(done.data),
                _address(done.offsets),
                _address(done.entries),
                job.digests,
                _address(job.amounts),
                ctypes.addressof(child.digests),
                _address(child.changes),
                _address(child.written),
                _address(done.entry_ends),
                ctypes.addressof(done.digests),
                _address(done.changes),
                _address(done.written),
            )
            if wrong:
                return False
            below = done
        return True


class _Job:
    """The items of one update, side by side."""

    def __init__(self, items: Sequence[_Item]) -> None:
        paths, digests, amounts, keys = zip(*items, strict=True)
        # One more than there are: `_DescentWriter` looks at what comes next.
        self.paths = b"".join((*paths, bytes(len(paths[0]))))
        self.stride = len(paths[0])
        self.digests = b"".join(digests)
        self.amounts = array("Q", amounts)
        self.keys = b"".join(keys)
        self.key_ends = array("I", accumulate(map(len, keys), initial=0))
        self.odd = bytearray(len(items))
        """Whether an item is left to Python."""


def _address(memory: "array[Any] | bytearray") -> int:
    """Return where memory stands that is held by the caller, and keeps its size."""
    if isinstance(memory, array):
        return memory.buffer_info()[0]
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))
