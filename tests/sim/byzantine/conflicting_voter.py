"""Votes for what its peers propose, and for something else too."""

from collections.abc import Iterable

from msgspec.structs import replace

from atpar.consensus.messages import Message
from atpar.ledger.votes import Finalize, Notarize
from tests.sim.byzantine.actor import Actor


class ConflictingVoter(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Notarize | Finalize):
            yield peer, message
            return
        other = replace(message.proposition, digest=self.rng.randbytes(32))
        make = self.notarize if isinstance(message, Notarize) else self.finalize
        first, second = self.split()
        for code in first:
            yield code, message
        for code in second:
            yield code, make(other)
        if self.rng.random() < 0.5:
            yield peer, message
