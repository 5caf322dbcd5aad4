"""What consensus knows about blocks, epochs and time: plain values handed in by the caller.

A block is an opaque digest here. The caller decodes its bytes once, in a pure function that is
injected (`Ports.decode_block`), and gives the few header fields that the protocol's rules name.
Peers are named by their participant code everywhere, because an index into a validator set means
something else in the next epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from atpar.consensus.limits import (
    BLOCK_INTERVAL_MS,
    BUILD_ALLOWANCE_MS,
    CLOCK_AHEAD_MS,
    CLOCK_BEHIND_MS,
    DELTA_MS,
    HEARTBEAT_MS,
    MAX_DELTA_MS,
    RETRY_MS,
    SKIP_TIMEOUT_MS,
    VERIFY_ALLOWANCE_MS,
)
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.certificates import Finalization

PeerId = str
"""Participant code of the peer at the other end of an authenticated connection."""


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """The fields of a decoded block that consensus rules name. `digest` is H(header)."""

    digest: bytes
    epoch: int
    view: int
    """The view of the header: a re-proposed boundary block keeps its first one."""
    height: int
    parent: bytes
    proposer: str
    timestamp_ms: int
    has_transactions: bool


@dataclass(frozen=True, slots=True)
class EpochStart:
    """Where an epoch begins: its set, and the block that is final at its view 0.

    That block is genesis for epoch 0, the boundary block of the epoch before otherwise (or the
    highest final block, when a recovery document opened the epoch).
    """

    validators: ValidatorSet
    digest: bytes
    height: int
    timestamp_ms: int

    @property
    def epoch(self) -> int:
        """The epoch that begins."""
        return self.validators.epoch

    def compute_boundary(self, epoch_blocks: int) -> int:
        """Return the height of its last block, as the ledger counts."""
        return (self.height // epoch_blocks + 1) * epoch_blocks


@dataclass(frozen=True, slots=True)
class Tip:
    """The last block that the store holds as final."""

    digest: bytes
    height: int
    timestamp_ms: int
    finalization: Finalization | None
    """None exactly when the block is the epoch's start; its view is then 0."""

    @property
    def view(self) -> int:
        """The view that is final: of the certificate, which a re-proposal makes the later one."""
        return 0 if self.finalization is None else self.finalization.proposition.view


@dataclass(frozen=True, slots=True)
class Timing:
    """Every duration of the protocol, in milliseconds."""

    delta_ms: int = DELTA_MS
    max_delta_ms: int = MAX_DELTA_MS
    build_allowance_ms: int = BUILD_ALLOWANCE_MS
    verify_allowance_ms: int = VERIFY_ALLOWANCE_MS
    retry_ms: int = RETRY_MS
    skip_timeout_ms: int = SKIP_TIMEOUT_MS
    heartbeat_ms: int = HEARTBEAT_MS
    block_interval_ms: int = BLOCK_INTERVAL_MS
    clock_ahead_ms: int = CLOCK_AHEAD_MS
    clock_behind_ms: int = CLOCK_BEHIND_MS

    def __post_init__(self) -> None:
        if not 0 < self.delta_ms <= self.max_delta_ms:
            raise ValueError(f"delta {self.delta_ms} ms is not within 1..{self.max_delta_ms} ms")
        longest = 3 * self.delta_ms + self.build_allowance_ms + self.verify_allowance_ms
        longest += self.block_interval_ms
        if self.skip_timeout_ms <= longest:
            raise ValueError(
                f"skip timeout {self.skip_timeout_ms} ms is not above the advance timer's"
                f" {longest} ms"
            )
        if min(self.retry_ms, self.heartbeat_ms) <= 0 or self.block_interval_ms < 0:
            raise ValueError(
                "retry and heartbeat must be positive, the block interval not negative"
            )


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What one replica is told once."""

    chain_id: bytes
    participant: str
    """Own participant code. Not in the epoch's set: an observer, which follows and never votes."""
    epoch_blocks: int
    """Blocks in an epoch. Its boundary is the next block whose height is a multiple of this: an
    epoch that a recovery document opened in between is shorter."""
    timing: Timing = Timing()


@dataclass(frozen=True, slots=True)
class Ports:
    """The pure functions that a replica calls. None of them does I/O or reads a clock."""

    sign: Callable[[bytes], bytes] | None
    """Sign bytes -> 64-byte signature by the own vote key. None: never votes."""
    verify: Callable[[bytes, bytes, bytes], bool]
    """(public key, sign bytes, signature) -> valid. `atpar.ledger.keys.verify` outside tests."""
    decode_block: Callable[[bytes], BlockInfo | None]
    """Block bytes -> info, or None when they are not one canonical block of this chain.

    Only form is checked here (canonical, chain id, limits, tx_root over the envelopes if cheap);
    rules that need state belong to VerifyBlock. The caller may keep the decoded block by digest.
    """
    holds_key: Callable[[bytes], bool] = lambda _key: True
    """Whether `sign` signs for a vote key that an epoch registers of this participant. A member
    whose new key is not here yet, or whose old one is gone, observes that epoch."""
