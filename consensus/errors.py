"""The consensus layer's errors.

    ConsensusError              root
    ├── SafetyStop(kind)        going on could harm the ledger: the replica halts
    └── JournalInvalid          the journal holds what no replica of this chain wrote

A peer's fault is not an exception here: it becomes a `DropPeer` effect. A broken invariant of ours
is an `AssertionError` and stops the node.
"""

from atpar.consensus.effects import AlarmKind


class ConsensusError(Exception):
    """Root of everything the consensus layer raises on purpose."""


class SafetyStop(ConsensusError):
    """Going on could harm the ledger. Raised inside the layer; callers see the Halt effect."""

    def __init__(self, kind: AlarmKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class JournalInvalid(ConsensusError):
    """A journal record does not belong to this chain: the wrong file, or not our writing."""
