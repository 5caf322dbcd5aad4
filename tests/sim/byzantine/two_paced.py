"""Prompt towards some peers and late towards the others, who therefore see another order."""

from collections.abc import Iterable

from atpar.consensus.messages import Lane
from tests.sim.byzantine.actor import Actor, Out


class TwoPaced(Actor):
    until_ms = 0
    late_ms = 0
    slighted: frozenset[str] = frozenset()

    def change(self, peer: str | None, lane: Lane, data: bytes) -> Iterable[Out]:
        now = self.cluster.now_ms
        if now >= self.until_ms:
            self.until_ms = now + self.rng.randint(1_000, 5_000)
            self.late_ms = self.rng.choice((150, 450, 590, 610, 1_100, 2_900, 3_100))
            self.slighted = frozenset(self.split()[0])
        for code in self.peers if peer is None else [peer]:
            if code in self.slighted:
                self.send_later(self.late_ms, code, lane, data)
            else:
                yield code, lane, data
