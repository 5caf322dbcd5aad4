"""Finality over a simulated wide area, as the submitter sees it, open-loop.

Every pair of validators has a round-trip time of its own, drawn once; every message varies around
half of it. Payments arrive on schedule whether or not earlier ones are final. The time counts from
the scheduled instant to the moment at which the submitter's own node reports the block final and
on its disk. Crashed validators lose their power: nothing tells the others.
"""

import random
from dataclasses import dataclass, field

from atpar.consensus.leader import compute_leaders
from atpar.node.datadir import read_position
from atpar.node.store import Store
from tests.sim.cluster import Cluster
from tests.sim.crypto import Keyring
from tests.sim.network import Link, Network
from tests.sim.profiles import NO_EPOCHS
from tests.sim.runner import compute_percentile
from tests.sim.scenario import Recorder
from tests.sim.worlds import Treasury, get_codes, make_genesis, make_values

WORK_MS = 4
FSYNC_MS = 1
WARM_UP_MS = 3_000
AFTERMATH_MS = 5_000
"""The first seconds after the crash, reported by themselves."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured."""

    validators: int
    rtt_ms: tuple[int, int]
    jitter_percent: float
    rate_per_s: float
    crashed: int
    seconds: int
    seed: int = 0


@dataclass
class Figures:
    """Times from submission to finality at the submitter, by when the payment was submitted."""

    calm: list[int] = field(default_factory=list)
    aftermath: list[int] = field(default_factory=list)
    steady: list[int] = field(default_factory=list)
    unfinal: int = 0


class Wide:
    """One cluster with the distances of a wide area."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        n = setting.validators
        name = f"wan/{n}/{setting.crashed}/{setting.seed}"
        self.rng = random.Random(name)
        ring = Keyring(is_real=False)
        self.checkers = Recorder(lambda: self.cluster, faults=(n - 1) // 3, ring=ring)
        genesis = make_genesis(n, 0, NO_EPOCHS)
        network = Network(random.Random(f"{name}/network"), Link())
        self.cluster = Cluster(
            genesis=genesis,
            values=make_values(n, 0, NO_EPOCHS),
            codes=get_codes(n),
            ring=ring,
            network=network,
            watcher=self.checkers,
        )
        self.treasury = Treasury(genesis, ring, random.Random(f"{name}/payments"))
        codes = sorted(self.cluster.machines)
        for index, one in enumerate(codes):
            for other in codes[:index]:
                half = self.rng.uniform(*setting.rtt_ms) / 2
                spread = half * setting.jitter_percent / 100
                for way in ((one, other), (other, one)):
                    network.links[way] = Link((half - spread, half + spread))
        for machine in self.cluster.machines.values():
            machine.work_ms, machine.fsync_ms = WORK_MS, FSYNC_MS
        self.checkers.honest = frozenset(codes)
        self.placed: dict[bytes, int] = {}
        """Transaction hash -> the instant at which it was due."""
        self.done: dict[bytes, int] = {}

    def begin(self) -> None:
        self.cluster.start()
        self.cluster.run(1_000)
        tx = self.treasury.fund(self.cluster.wall_ms)
        self.cluster.submit(next(iter(self.cluster.machines.values())), tx)
        self.cluster.run(WARM_UP_MS)

    def plan_payments(self, until_ms: int) -> None:
        """Lay out payments from now on, at random instants."""
        at = float(self.cluster.now_ms)
        while True:
            at += self.rng.expovariate(self.setting.rate_per_s) * 1_000
            if at >= until_ms:
                return
            self.cluster.timeline.at(round(at), self.pay)

    def pay(self) -> None:
        up = [m for m in self.cluster.machines.values() if m.is_up]
        machine = self.rng.choice(up)
        tx = self.treasury.pay(self.cluster.wall_ms)
        if self.cluster.submit(machine, tx):
            self.placed[tx.hash] = self.cluster.now_ms
            self.checkers.waiting[tx.hash] = (machine.id, self.cluster.now_ms)

    def crash_adjacent_leaders(self, count: int) -> list[str]:
        """Cut the power of validators that lead one after the other; nobody is told."""
        some = next(iter(self.cluster.machines.values()))
        start = read_position(Store(some.engine)).start
        leaders = compute_leaders(self.cluster.genesis.chain_id, start.validators)
        members = [member.participant for member in start.validators.members]
        first = self.rng.randrange(len(leaders))
        codes = [members[leaders[(first + step) % len(leaders)]] for step in range(count)]
        for code in codes:
            machine = self.cluster.machines[code]
            machine.validator = machine.store = machine.journal = None
        return codes


def measure(setting: Setting) -> Figures:
    """Run one setting and return its figures."""
    wide = Wide(setting)
    wide.begin()
    begun = wide.cluster.now_ms
    span = setting.seconds * 1_000
    end = begun + span + (AFTERMATH_MS + span if setting.crashed else 0)
    figures = Figures()
    wide.plan_payments(end)
    wide.cluster.run(span)
    crashed_at = wide.cluster.now_ms
    gone: list[str] = []
    if setting.crashed:
        gone = wide.crash_adjacent_leaders(setting.crashed)
        wide.cluster.run(end - crashed_at)
    wide.cluster.run(10_000)
    lost = {name for name, (machine, _) in wide.checkers.waiting.items() if machine in gone}
    for tx_hash, at in wide.placed.items():
        taken = wide.checkers.taken.get(tx_hash)
        if taken is None:
            figures.unfinal += tx_hash not in lost
        elif at < crashed_at - 2_000 or not setting.crashed:
            figures.calm.append(taken)
        elif crashed_at <= at < crashed_at + AFTERMATH_MS:
            figures.aftermath.append(taken)
        elif at >= crashed_at + AFTERMATH_MS:
            figures.steady.append(taken)
    return figures


def measure_heal(setting: Setting, *, cut_ms: int) -> tuple[int, int]:
    """Split the validators in two, heal, and return (first payment final, everything final)."""
    wide = Wide(setting)
    wide.begin()
    cluster = wide.cluster
    ids = sorted(cluster.machines)
    wide.rng.shuffle(ids)
    wide.plan_payments(cluster.now_ms + cut_ms)
    cluster.cut(*ids[: len(ids) // 2])
    cluster.run(cut_ms)
    healed = cluster.now_ms
    cluster.heal()
    before = len(wide.checkers.transactions)
    cluster.run(30_000, until=lambda: len(wide.checkers.transactions) > before)
    first = cluster.now_ms - healed
    wide.pay()
    cluster.run(30_000, until=lambda: not wide.checkers.waiting)
    return first, cluster.now_ms - healed


def summarize(values: list[int]) -> dict[str, int | None]:
    return {
        "count": len(values),
        "p50": compute_percentile(values, 50),
        "p99": compute_percentile(values, 99),
        "max": max(values, default=None),
    }
