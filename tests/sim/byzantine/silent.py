"""Hears everything and says nothing; or, now and then, nothing for a while."""

from collections.abc import Iterable

from atpar.consensus.messages import Lane
from tests.sim.byzantine.actor import Actor, Out


class Silent(Actor):
    until_ms = 0
    is_mute = True

    def change(self, peer: str | None, lane: Lane, data: bytes) -> Iterable[Out]:
        now = self.cluster.now_ms
        if now >= self.until_ms:
            self.is_mute = self.rng.random() < 0.8
            self.until_ms = now + self.rng.randint(500, 5_000)
        if not self.is_mute:
            yield peer, lane, data
