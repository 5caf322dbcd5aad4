"""The final chain as far as it was handed over: the tip, what waits for bodies, what is synced."""

from atpar.consensus.blocks import Body, BodyPool
from atpar.consensus.effects import AlarmKind
from atpar.consensus.errors import SafetyStop
from atpar.consensus.types import Tip
from atpar.ledger.certificates import Finalization


class FinalChain:
    """Where the commits stand in one epoch. Owned by an `Engine`."""

    def __init__(self, tip: Tip) -> None:
        self.tip = tip
        """The last block handed over in a Commit."""
        self.view = tip.view
        """The highest final view known: the floor. Its block may not be here yet."""
        self.digest = tip.digest
        self.finalization = tip.finalization
        self.target: Finalization | None = None
        """The finalization of a range of blocks, to be committed before the floor's."""
        self.synced_view = tip.view
        """The final view that the store has synced: what the journal need not cover."""
        self._unsynced: list[tuple[int, int]] = []
        """(height, view) of commits that the store has not synced."""

    @property
    def is_whole(self) -> bool:
        """Whether every block known to be final was handed over."""
        return self.tip.digest == self.digest

    def raise_floor(self, finalization: Finalization) -> None:
        """Take a higher finalization as the floor. It never moves backwards."""
        assert finalization.proposition.view > self.view
        self.view = finalization.proposition.view
        self.digest = finalization.proposition.digest
        self.finalization = finalization

    def get_next(self) -> Finalization | None:
        """Return the finalization to commit up to next, if blocks are lacking below one."""
        target = self.target or self.finalization
        if target is None or target.proposition.digest == self.tip.digest:
            self.target = None
            return None if self.is_whole else self.finalization
        return target

    def find_path(self, target: Finalization, pool: BodyPool) -> tuple[list[Body], bytes | None]:
        """Return the bodies down from a final block, highest first, and the first digest lacking.

        Raises:
            SafetyStop: the block does not descend from the tip, so two final blocks conflict.
        """
        path: list[Body] = []
        digest = target.proposition.digest
        while digest != self.tip.digest:
            body = pool.get(digest)
            if body is None:
                return path, digest
            info = body.info
            above = info.height - self.tip.height
            if above < 1 or (above == 1 and info.parent != self.tip.digest):
                raise SafetyStop(
                    AlarmKind.CONFLICTING_CERTIFICATES,
                    f"final block {target.proposition.digest.hex()} does not descend from the"
                    f" final block {self.tip.digest.hex()} at height {self.tip.height}",
                )
            path.append(body)
            digest = info.parent
        return path, None

    def advance(self, last: Body, target: Finalization) -> None:
        """Note that everything up to a block was handed over in a Commit."""
        info = last.info
        self.tip = Tip(info.digest, info.height, info.timestamp_ms, target)
        self._unsynced.append((info.height, target.proposition.view))
        self.target = None

    def note_synced(self, height: int) -> None:
        """Note that the store has synced everything up to a height."""
        for synced_height, view in self._unsynced:
            if synced_height <= height:
                self.synced_view = view
        self._unsynced = [entry for entry in self._unsynced if entry[0] > height]
