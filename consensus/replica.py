"""One validator's part in Simplex, as a state machine without I/O.

(The protocol in prose and the deviations from the paper follow with the implementation.)
"""

from collections.abc import Sequence

from atpar.consensus.effects import Effect
from atpar.consensus.events import Event
from atpar.consensus.records import JournalRecord
from atpar.consensus.types import EpochStart, Ports, ReplicaConfig, Tip


class Replica:
    """One validator (or observer) of one chain, across epochs.

    Signatures are verified in here, through `Ports.verify`, and only where the answer is needed: a
    vote that is new and counts, a certificate that is not held yet (minus the signatures already
    checked as votes). So the caller passes decoded messages on, unchecked.

    `now_ms` is a monotonic clock with any origin; `wall_ms` is UTC since the Unix epoch and decides
    only the timestamp of own blocks and the clock check on proposed ones.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        ports: Ports,
        *,
        start: EpochStart,
        tip: Tip,
        records: Sequence[JournalRecord],
    ) -> None:
        """Restore a replica from the store's tip and the journal.

        `start` and `tip`: the epoch that the next block belongs to, and the last final block in
        the store (when that is the boundary of epoch e, `start` is epoch e+1 and `tip` equals it).
        `records`: the whole journal in order; empty means lost, so `node init` writes the first
        EpochOpenedRecord. Records of other epochs are skipped.
        """
        raise NotImplementedError

    @property
    def deadline_ms(self) -> int | None:
        """When the next `Ticked` is due on the monotonic clock; None: nothing to wait for.

        Read it after every turn.
        """
        raise NotImplementedError

    def start(self, *, now_ms: int, wall_ms: int) -> list[Effect]:
        """Begin, once, before any `handle`: re-executes what the journal certified, and asks."""
        raise NotImplementedError

    def handle(self, event: Event, *, now_ms: int, wall_ms: int) -> list[Effect]:
        """Take in one event and return what is to be done, in order."""
        raise NotImplementedError

    def compact_journal(self) -> list[JournalRecord]:
        """Return the records that are still needed, in order, to replace the journal with.

        Call it between turns (effects of the last one persisted) when the file has grown past a
        bound; write them to a new file, fsync, and rename. What a synced commit covers is left out.
        """
        raise NotImplementedError
