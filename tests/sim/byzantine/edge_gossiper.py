"""Spreads transactions that expire, or begin to be valid, at the edge of a block's time, some to
these and others to those; and different ones under one id."""

from collections.abc import Iterable

from tests.sim.byzantine.actor import Actor, Out
from tests.sim.worlds import Treasury

WINDOWS = ((-1_000, 0), (-1_000, 60), (-1_000, 200), (-1_000, 1_000), (100, 700), (1_900, 2_100))
"""Milliseconds from now: from when, and until when."""


class EdgeGossiper(Actor):
    def poll(self) -> Iterable[Out]:
        cluster, rng = self.cluster, self.rng
        if rng.random() < 0.5:
            number = rng.getrandbits(100)
            window = rng.choice(WINDOWS)
            treasury = Treasury(cluster.genesis, cluster.ring, rng)
            for half in self.split():
                # Two payments under one id, each known to one half.
                treasury.start_at(number)
                tx = treasury.pay(cluster.wall_ms, window=window)
                for code in half:
                    for machine in cluster.by_code[code]:
                        cluster.gossip(self.machine, machine, tx)
        return ()
