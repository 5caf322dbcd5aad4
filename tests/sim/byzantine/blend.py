"""Two misbehaviours at once: what one of them lets out passes through the other."""

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from atpar.consensus.messages import Lane
from atpar.ledger.errors import NonCanonical
from tests.sim.byzantine.actor import Actor, Out

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster, Machine


class Blend(Actor):
    def __init__(
        self,
        cluster: "Cluster",
        machine: "Machine",
        rng: random.Random,
        kinds: Sequence[type[Actor]],
    ) -> None:
        super().__init__(cluster, machine, rng)
        self.inner, self.outer = (kind(cluster, machine, rng) for kind in kinds)

    def change(self, peer: str | None, lane: Lane, data: bytes) -> Iterable[Out]:
        for each in self.inner.change(peer, lane, data):
            yield from self.pass_on(each)

    def pass_on(self, given: Out) -> Iterable[Out]:
        try:
            yield from self.outer.change(*given)
        except NonCanonical:
            # The other one made it unreadable.
            yield given

    def hear(self, peer: str, lane: Lane, data: bytes) -> bool:
        heard = [each.hear(peer, lane, data) for each in (self.inner, self.outer)]
        return all(heard)

    def poll(self) -> Iterable[Out]:
        yield from self.inner.poll()
        yield from self.outer.poll()
