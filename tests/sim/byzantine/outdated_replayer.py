"""Repeats what it and others said long ago, whole or in part, as its own."""

from collections.abc import Iterable

from atpar.consensus.messages import Lane
from tests.sim.byzantine.actor import Actor, Out

MOST = 400


class OutdatedReplayer(Actor):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.kept: list[tuple[Lane, bytes]] = []

    def _keep(self, lane: Lane, data: bytes) -> None:
        if len(self.kept) < MOST:
            self.kept.append((lane, data))
        elif self.rng.random() < 0.1:
            self.kept[self.rng.randrange(MOST)] = (lane, data)

    def change(self, peer: str | None, lane: Lane, data: bytes) -> Iterable[Out]:
        self._keep(lane, data)
        yield peer, lane, data

    def hear(self, peer: str, lane: Lane, data: bytes) -> bool:
        if self.rng.random() < 0.3:
            self._keep(lane, data)
        return True

    def poll(self) -> Iterable[Out]:
        for _ in range(4):
            if self.kept:
                lane, data = self.rng.choice(self.kept)
                yield None, lane, data
