"""Repeats the traffic of the epoch before while the next one begins, and votes in both."""

from collections.abc import Iterable

from msgspec.structs import replace

from atpar.consensus.messages import (
    CertificatesRequest,
    Finalize,
    Lane,
    Message,
    Notarize,
    Nullify,
    SyncRequest,
    VotesRequest,
)
from tests.sim.byzantine.actor import Actor, Out

MOST = 150


class EpochEcho(Actor):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.epoch = 0
        self.current: list[tuple[Lane, bytes]] = []
        self.before: list[tuple[Lane, bytes]] = []

    def keep(self, lane: Lane, data: bytes) -> None:
        epoch = self.machine.running.progress.epoch
        if epoch != self.epoch:
            self.epoch, self.before, self.current = epoch, self.current, []
        self.current.append((lane, data))
        del self.current[:-MOST]

    def hear(self, peer: str, lane: Lane, data: bytes) -> bool:
        if lane is not Lane.FETCH:
            self.keep(lane, data)
        return True

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        yield peer, message
        self.keep(*self.pack(message))
        if isinstance(message, Notarize | Finalize):
            shift = self.rng.choice((-1, 1))
            epoch = max(0, message.proposition.epoch + shift)
            about = replace(message.proposition, epoch=epoch)
            yield peer, self.notarize(about)
            yield peer, self.nullify(epoch, about.view)
        elif isinstance(message, Nullify):
            yield peer, self.nullify(message.body.epoch + 1, message.body.view)

    def poll(self) -> Iterable[Out]:
        epoch = self.machine.running.progress.epoch
        for _ in range(6):
            if self.before:
                yield None, *self.rng.choice(self.before)
        code = self.rng.choice(self.peers)
        other = max(0, epoch + self.rng.choice((-1, 1)))
        yield code, *self.pack(VotesRequest(other))
        yield code, *self.pack(CertificatesRequest(other, 1))
        yield code, *self.pack(SyncRequest(other, self.rng.randint(1, 30)))
