"""Executed blocks above the last final state, stacked as overlays by digest.

Every notarizable block is executed once, here, on its parent's view: by its proposer when it
builds, by everyone else when they verify. The results stay until finalisation chooses among them.

    base (on disk) <- final, batch under way <- final, batch under way <- tip candidates ...

Finalising happens in two steps. `finalize` moves the final tip at once and drops every block that
does not descend from it; the overlays of the newly final blocks stay where they are, since the disk
does not hold them yet. `absorb` follows when the batch is synced: the base takes over the bottom
overlay and its children are re-pointed to the base, which frees it. In between, reads through the
overlays shadow the disk with equal values, so it does not matter when exactly the batch lands.

A node that catches up, or whose disk lags, holds hundreds of blocks above the base, and a read
would pass through all of their overlays. So every sixteen overlays in a row are merged into one
that later blocks stand on instead, every sixteen merged ones into a larger one, and so on: a read
passes a few dozen at most. Merged overlays are never changed, so blocks on older parents see what
they saw before.

Pure: no disk but the backing it reads, no clock. Owned by one task.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from atpar.ledger.blocks import Block, Header
from atpar.ledger.errors import Refused
from atpar.ledger.execute import Executed, Template, build_block, execute_block
from atpar.ledger.state import Backing, Base, Overlay, View
from atpar.ledger.transactions import Transaction
from atpar.node.limits import MAX_SPECULATIVE_BLOCKS, MERGED_OVERLAYS


@dataclass(frozen=True, slots=True)
class Tip:
    """A block and the state after it."""

    header: Header
    digest: bytes
    view: View


class Stopwatch(Protocol):
    """Who wants to know what execution costs. The caller's clock, not ours."""

    def start(self) -> None:
        """An execution begins."""

    def stop(self, transactions: Sequence[Transaction]) -> None:
        """It ended; the block carries these."""


class ParentUnknown(Exception):
    """The parent of a block is not executed here. The caller provides it first."""


class _Merged(Overlay):
    """The writes of several overlays in a row, as one."""

    __slots__ = ("rank",)

    def __init__(self, run: Sequence[Overlay], *, rank: int) -> None:
        """Merge a run, newest first; the parent is that of its oldest."""
        super().__init__(run[-1].parent)
        self.rank = rank
        for overlay in reversed(run):
            for section_id, table in overlay.tables.items():
                self.tables.setdefault(section_id, {}).update(table)
            self.sections.update(overlay.sections)
            self.nodes.update(overlay.nodes)


def _merge_runs(top: Overlay) -> Overlay:
    """Return a view equal to `top` in which no long run of overlays of one size is left."""
    rank = 0
    while True:
        run: list[Overlay] = []
        cursor: View = top
        while isinstance(cursor, Overlay) and len(run) < MERGED_OVERLAYS:
            if (cursor.rank if isinstance(cursor, _Merged) else 0) != rank:
                break
            run.append(cursor)
            cursor = cursor.parent
        if len(run) < MERGED_OVERLAYS:
            return top
        rank += 1
        top = _Merged(run, rank=rank)


class Executor:
    """The speculative blocks above one base."""

    def __init__(
        self,
        backing: Backing,
        *,
        chain_id: bytes,
        header: Header,
        digest: bytes,
        max_blocks: int = MAX_SPECULATIVE_BLOCKS,
    ) -> None:
        """Start at the block whose state the backing holds."""
        self._chain_id = chain_id
        self._base = Base(backing)
        self._base_header = header
        self._base_digest = digest
        self._max_blocks = max_blocks
        self._blocks: dict[bytes, Executed] = {}
        """Everything executed above the base, parents before children."""
        self._final_digest = digest
        self._pinned: set[bytes] = set()
        self.stopwatch: Stopwatch | None = None
        """Told how long each execution took; None where there is no clock."""
        self._views: dict[bytes, Overlay] = {}
        """What children of a block stand on."""

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, digest: object) -> bool:
        return digest in self._blocks or digest == self._base_digest

    @property
    def final(self) -> Tip:
        """The last final block. Its batch may still be on its way to the disk."""
        return self.get_tip(self._final_digest)

    @property
    def base_height(self) -> int:
        """Height of the last final block whose batch is on the disk."""
        return self._base_header.height

    def get(self, digest: bytes) -> Executed | None:
        """Return an executed block above the base, or None."""
        return self._blocks.get(digest)

    def get_tip(self, digest: bytes) -> Tip:
        """Return a block with its state.

        Raises:
            ParentUnknown: it is not executed here.
        """
        if digest == self._base_digest:
            return Tip(self._base_header, digest, self._base)
        executed = self._blocks.get(digest)
        if executed is None:
            raise ParentUnknown(f"block {digest.hex()[:16]} is not executed here")
        return Tip(executed.header, digest, self._views[digest])

    def collect_hashes(self, digest: bytes) -> set[bytes]:
        """Return the hashes of all transactions in a block and its ancestors above the base."""
        found: set[bytes] = set()
        while (executed := self._blocks.get(digest)) is not None:
            found.update(tx.hash for tx in executed.transactions)
            digest = executed.header.parent
        return found

    def build(
        self,
        *,
        parent_digest: bytes,
        epoch: int,
        view: int,
        timestamp_ms: int,
        proposer: str,
        candidates: Iterable[Transaction],
    ) -> tuple[Executed, list[tuple[Transaction, Refused]]]:
        """Build and keep a block; return it and the candidates that may not enter one.

        Raises:
            ParentUnknown: the parent is not executed here.
        """
        parent = self.get_tip(parent_digest)
        template = Template(epoch, view, parent.header, parent_digest, timestamp_ms, proposer)
        if self.stopwatch is not None:
            self.stopwatch.start()
        executed, refused = build_block(parent.view, template, candidates, chain_id=self._chain_id)
        self._keep(executed)
        return executed, refused

    def verify(self, digest: bytes, block: Block, transactions: Sequence[Transaction]) -> Executed:
        """Execute and keep a block, unless that was done before.

        The caller has checked the signatures of the transactions and that `digest` is the block's.

        Raises:
            ParentUnknown: the parent is not executed here.
            BlockInvalid: it breaks a rule, or its roots differ from what execution gives.
        """
        known = self._blocks.get(digest)
        if known is not None:
            return known
        parent = self.get_tip(block.header.parent)
        if self.stopwatch is not None:
            self.stopwatch.start()
        executed = execute_block(
            parent.view,
            parent.header,
            parent.digest,
            block,
            transactions,
            chain_id=self._chain_id,
        )
        assert executed.digest == digest
        self._keep(executed)
        return executed

    def pin(self, digest: bytes) -> None:
        """Never forget a block before finalisation decides about it: a quorum vouches for it."""
        self._pinned.add(digest)

    def _keep(self, executed: Executed) -> None:
        if self.stopwatch is not None:
            self.stopwatch.stop(executed.transactions)
        if executed.digest not in self._blocks and len(self._blocks) >= self._max_blocks:
            self._evict(keep=executed.header.parent)
        self._blocks[executed.digest] = executed
        self._views[executed.digest] = _merge_runs(executed.overlay)

    def _evict(self, *, keep: bytes) -> None:
        """Forget the oldest block that nobody vouched for and nothing was built upon.

        It can be executed again. Certified blocks stay whatever their number: consensus bounds how
        far views may run ahead of finality.
        """
        needed = {executed.header.parent for executed in self._blocks.values()} | self._pinned
        needed |= {keep, self._final_digest}
        for digest in self._blocks:
            if digest not in needed:
                del self._blocks[digest], self._views[digest]
                return

    def finalize(self, digest: bytes) -> list[Executed]:
        """Make a block and its ancestors final; return the newly final ones, oldest first.

        Every block that does not descend from it is dropped. A block at or below the final tip
        gives an empty list.

        Raises:
            ParentUnknown: it, or an ancestor, is not executed here. Nothing was changed.
        """
        path = self.find_path(digest)
        if path is None:
            raise ParentUnknown(f"block {digest.hex()[:16]} does not extend the final tip here")
        if not path:
            return []
        self._final_digest = digest
        keep = self._collect_final() | {digest}
        kept: dict[bytes, Executed] = {}
        for key, executed in self._blocks.items():
            if key in keep or (executed.header.parent in keep and self._is_above(executed)):
                kept[key] = executed
                keep.add(key)
        self._blocks = kept
        self._views = {key: self._views[key] for key in kept}
        self._pinned &= kept.keys()
        return path

    def _is_above(self, executed: Executed) -> bool:
        return executed.header.height > self.final.header.height

    def find_path(self, digest: bytes) -> list[Executed] | None:
        """Return the blocks from above the final tip up to a block, oldest first.

        Empty for a block at or below the final tip that is still held, or is the base. None where
        a block in between is missing, or the block does not descend from the final tip.
        """
        if digest == self._final_digest or digest in self._collect_final():
            return []
        path: list[Executed] = []
        while digest != self._final_digest:
            executed = self._blocks.get(digest)
            if executed is None:
                return None
            path.append(executed)
            digest = executed.header.parent
        path.reverse()
        return path

    def _collect_final(self) -> set[bytes]:
        """Return the digests from the base up to the final tip."""
        found = {self._base_digest}
        digest = self._final_digest
        while digest != self._base_digest:
            found.add(digest)
            digest = self._blocks[digest].header.parent
        return found

    def absorb(self, digest: bytes) -> None:
        """Move the base up to a final block whose batch, and those below it, are on the disk."""
        path: list[Executed] = []
        cursor = digest
        while cursor != self._base_digest:
            executed = self._blocks[cursor]
            path.append(executed)
            cursor = executed.header.parent
        for executed in reversed(path):
            self._base.absorb(executed.overlay)
            self._base_header, self._base_digest = executed.header, executed.digest
            del self._blocks[executed.digest], self._views[executed.digest]
        for child in self._blocks.values():
            if child.header.parent == self._base_digest:
                child.overlay.parent = self._base
