"""A small cluster for scenarios that are written out by hand."""

import random

from atpar.ledger.transactions import Transaction
from tests.sim.byzantine.actor import Actor
from tests.sim.cluster import Cluster, Machine
from tests.sim.crypto import Keyring
from tests.sim.network import Link, Network
from tests.sim.profiles import NO_EPOCHS
from tests.sim.scenario import Recorder
from tests.sim.worlds import Treasury, get_codes, make_genesis, make_values


class Bench:
    """A small cluster that pays on demand."""

    def __init__(self, *, validators: int = 4, epoch_blocks: int = NO_EPOCHS) -> None:
        genesis = make_genesis(validators, 0, epoch_blocks)
        ring = Keyring(is_real=False)
        self.checkers = Recorder(lambda: self.cluster, faults=(validators - 1) // 3, ring=ring)
        self.checkers.honest = frozenset(get_codes(validators))
        self.cluster = Cluster(
            genesis=genesis,
            values=make_values(validators, 0, epoch_blocks),
            codes=get_codes(validators),
            ring=ring,
            network=Network(random.Random(1), Link((5, 10))),
            watcher=self.checkers,
        )
        self.treasury = Treasury(genesis, ring, random.Random(2))
        self.cluster.start()
        self.settle(self.treasury.fund(self.cluster.wall_ms))

    def pay(self, count: int = 1) -> None:
        for _ in range(count):
            self.settle(self.treasury.pay(self.cluster.wall_ms))

    def settle(self, tx: Transaction) -> None:
        cluster = self.cluster
        machine = next(m for m in cluster.machines.values() if m.is_up)
        assert cluster.submit(machine, tx)
        assert cluster.run(5_000, until=lambda: cluster.is_final_everywhere(tx))

    def corrupt(self, machine: Machine, kind: type[Actor], seed: int) -> None:
        """Let a machine misbehave from now on."""
        machine.actor = kind(self.cluster, machine, random.Random(seed))
        self.checkers.honest -= {machine.code}

    @property
    def machines(self) -> list[Machine]:
        return list(self.cluster.machines.values())

    def time(self, tx: Transaction, machine: Machine, *, within_ms: int) -> int:
        """Submit to one machine; return after how long it is final on all that run."""
        cluster, begun = self.cluster, self.cluster.now_ms
        assert cluster.submit(machine, tx)
        assert cluster.run(within_ms, until=lambda: cluster.is_final_everywhere(tx))
        return cluster.now_ms - begun
