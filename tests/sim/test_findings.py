"""What the simulator found in the code it runs, kept as small scenarios."""

import random

from atpar.consensus.effects import AlarmKind
from atpar.ledger.transactions import Transaction
from tests.sim.cluster import Cluster, MachineStore
from tests.sim.crypto import Keyring
from tests.sim.network import Link, Network
from tests.sim.profiles import NO_EPOCHS
from tests.sim.worlds import Treasury, get_codes, make_genesis, make_values


class Bench:
    """A small cluster that pays on demand."""

    def __init__(self, *, validators: int = 4, epoch_blocks: int = NO_EPOCHS) -> None:
        genesis = make_genesis(validators, 0, epoch_blocks)
        ring = Keyring(is_real=False)
        self.cluster = Cluster(
            genesis=genesis,
            values=make_values(validators, 0, epoch_blocks),
            codes=get_codes(validators),
            ring=ring,
            network=Network(random.Random(1), Link((5, 10))),
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


def test_store_lost_beside_a_compacted_journal_leaves_the_right_to_vote() -> None:
    """`compact_journal` keeps a finalization without the votes in it: no sign of a loss."""
    bench = Bench()
    bench.pay(3)
    cluster = bench.cluster
    machine = cluster.machines["CHRL"]
    cluster.run(50)
    cluster.compact(machine)
    bench.pay()
    cluster.crash("CHRL")
    machine.engine = MachineStore(cluster.values)
    assert cluster.boot(machine)
    cluster.run(1_000)
    cluster.crash("DLTA")
    # The other three are a quorum only if this one votes.
    bench.pay(2)
    assert not [a for a in machine.alarms if a.kind is AlarmKind.JOURNAL_LOST]
