"""Breaks its connections and comes back at once, again and again; speaks only to some meanwhile."""

from collections.abc import Iterable

from atpar.consensus.messages import Lane
from tests.sim.byzantine.actor import Actor, Out


class Flapping(Actor):
    def change(self, peer: str | None, lane: Lane, data: bytes) -> Iterable[Out]:
        if self.rng.random() < 0.7:
            yield peer, lane, data
        else:
            for code in self.split()[0] if peer is None else [peer]:
                yield code, lane, data

    def poll(self) -> Iterable[Out]:
        cluster = self.cluster
        for code in self.peers:
            for other in cluster.by_code[code]:
                if self.rng.random() < 0.3 and other.is_up:
                    cluster.break_connection(self.machine, other, self.rng.choice((1, 50, 300)))
        return ()
