"""Gives views up before they begin, towards some of its peers, and supports them towards the
others, so that views keep changing and nobody knows why."""

from collections.abc import Iterable

from atpar.consensus.messages import Finalize, Message, Notarize
from tests.sim.byzantine.actor import Actor, Out


class Churner(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Notarize | Finalize):
            yield peer, message
            return
        about = message.proposition
        first, second = self.split()
        for code in first:
            yield code, message
        for code in second:
            yield code, self.nullify(about.epoch, about.view)

    def poll(self) -> Iterable[Out]:
        progress = self.machine.running.progress
        for code in self.split()[0]:
            for ahead in range(self.rng.randint(0, len(self.cluster.by_code))):
                yield code, *self.pack(self.nullify(progress.epoch, progress.view + ahead))
