"""What a proposed block must satisfy beside its execution: pure checks on its header fields."""

from dataclasses import dataclass
from enum import Enum

from atpar.consensus.types import BlockInfo, Timing
from atpar.ledger.certificates import Proposition


@dataclass(frozen=True, slots=True)
class Parent:
    """The certified (or final) block that a proposal builds on."""

    digest: bytes
    height: int
    timestamp_ms: int
    is_boundary: bool


class Timeliness(Enum):
    """What the clock says about a live proposal's timestamp."""

    ON_TIME = "on time"
    EARLY = "early"
    LATE = "late"


def find_fault(
    proposition: Proposition, info: BlockInfo, parent: Parent, *, leader: str
) -> str | None:
    """Return what is wrong with a block on its certified parent, or None.

    On a boundary block the only valid proposal is that same block again, whose header keeps its
    first view and proposer.
    """
    if parent.is_boundary:
        if proposition.digest != parent.digest:
            return f"block {info.digest.hex()} on the boundary block {parent.digest.hex()}"
        return None
    if (info.epoch, info.view) != (proposition.epoch, proposition.view):
        return (
            f"header of epoch {info.epoch} view {info.view}, proposed in epoch"
            f" {proposition.epoch} view {proposition.view}"
        )
    if info.proposer != leader:
        return f"header of proposer {info.proposer}, the leader is {leader}"
    if info.parent != parent.digest:
        return f"header.parent {info.parent.hex()}, certified is {parent.digest.hex()}"
    if info.height != parent.height + 1:
        return f"height {info.height} on a parent of height {parent.height}"
    if info.timestamp_ms <= parent.timestamp_ms:
        return f"timestamp {info.timestamp_ms} is not above the parent's {parent.timestamp_ms}"
    return None


def judge_time(info: BlockInfo, *, wall_ms: int, timing: Timing) -> Timeliness:
    """Return whether a live proposal's timestamp is near enough to the clock here."""
    if info.timestamp_ms - wall_ms > timing.clock_ahead_ms:
        return Timeliness.EARLY
    if wall_ms - info.timestamp_ms > timing.clock_behind_ms:
        return Timeliness.LATE
    return Timeliness.ON_TIME
