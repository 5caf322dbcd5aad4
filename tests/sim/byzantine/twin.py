"""Two honest machines with one key, each of which sees part of the network."""

from collections.abc import Iterable

from atpar.consensus.messages import Lane
from tests.sim.byzantine.actor import Actor, Out


class Twin(Actor):
    """One of the two. Who hears which of them is changed by the scenario."""

    def change(self, peer: str | None, lane: Lane, data: bytes) -> Iterable[Out]:
        yield peer, lane, data
