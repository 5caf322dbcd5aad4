"""What goes wrong in a run, decided by the seed: a profile is a choice of kinds of faults."""

import random
from dataclasses import dataclass
from typing import Final

from atpar.ledger.limits import MAX_BLOCK_OPS
from atpar.node.limits import MAX_BLOCK_GAP_S
from tests.sim.network import Link

PROFILES: Final = (
    "honest",
    "lossy",
    "partition",
    "crash",
    "disk",
    "byzantine",
    "twins",
    "epoch",
    "selective",
    "recovery",
    "all",
)
KINDS: Final = (
    "lossy",
    "partition",
    "crash",
    "disk",
    "byzantine",
    "twins",
    "epoch",
    "clock",
    "selective",
)
RECOVERY_SHARE: Final = 0.05
"""Of the runs of `all`: too many journals are lost, and only a document reopens the chain."""
NO_EPOCHS: Final = 1_000_000
FEW_OPS: Final = 8
"""Fill a block; the transactions here have fewer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run before it begins."""

    kinds: frozenset[str]
    """Kinds of faults that may happen."""
    active_ms: int
    """How long faults go on."""
    link: Link
    is_slow_network: bool
    epoch_blocks: int
    spares: int
    """Participants beyond the validators: observers, which join where there are epochs."""
    rate_per_s: float
    is_signed: bool
    """Whether signatures are real."""
    liars: int
    """Byzantine or forgetful validators, at most f."""
    block_gap_ms: int
    """How long leaders wait for more payments, as they do under load."""
    block_ops: int
    """Operations that fill a block, so that nobody waits for more."""


def make_plan(profile: str, rng: random.Random, validators: int) -> Plan:
    """Decide what a run is made of."""
    if profile == "honest":
        kinds: frozenset[str] = frozenset()
    elif profile == "all":
        kinds = frozenset(kind for kind in KINDS if rng.random() < 0.4)
        if "byzantine" in kinds and "twins" in kinds and rng.random() < 0.5:
            kinds -= {"twins"}
        if rng.random() < RECOVERY_SHARE:
            # Nobody lies, and no other journal is lost: administrators rely on what they find.
            kinds = kinds - {"byzantine", "twins", "disk"} | {"recovery"}
    else:
        kinds = frozenset({profile})
    latency = rng.choice(((1.0, 3.0), (5.0, 30.0), (10.0, 60.0), (40.0, 110.0)))
    link = Link(latency)
    if "lossy" in kinds:
        link = Link(
            latency,
            loss=rng.choice((0, 10, 50, 150)),
            duplication=rng.choice((0, 20, 100)),
            reordering=rng.choice((0, 50, 300)),
            hiccup=rng.choice((0, 10, 30)),
            hiccup_ms=rng.randint(50, 1_500),
        )
    has_epochs = "epoch" in kinds or ("disk" in kinds and rng.random() < 0.5)
    has_observer = "epoch" in kinds or (bool(kinds) and rng.random() < 0.1)
    return Plan(
        kinds=kinds,
        active_ms=rng.randint(5_000, 14_000),
        link=link,
        is_slow_network=latency[1] > 50,
        epoch_blocks=rng.randint(4, 16) if has_epochs else NO_EPOCHS,
        spares=1 if has_observer else 0,
        rate_per_s=rng.choice((0.5, 2.0, 4.0, 8.0, 16.0)),
        is_signed=rng.random() < 0.02,
        liars=(validators - 1) // 3,
        block_gap_ms=rng.choice((0, 0, round(MAX_BLOCK_GAP_S * 1_000))),
        block_ops=rng.choice((MAX_BLOCK_OPS, FEW_OPS)),
    )
