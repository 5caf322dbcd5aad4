"""Votes properly, for other epochs and far views."""

from collections.abc import Iterable

from msgspec.structs import replace

from atpar.consensus.messages import Message, VotesRequest
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.sim.byzantine.actor import Actor


class WrongEpoch(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if self.rng.random() < 0.5:
            yield peer, message
        shift = self.rng.choice((1, 1, 2, 1_000_000))
        if isinstance(message, Notarize | Finalize):
            about = message.proposition
            about = replace(about, epoch=about.epoch + shift)
            vote = self.notarize(about) if isinstance(message, Notarize) else self.finalize(about)
            yield peer, vote
            yield peer, self.notarize(replace(about, epoch=message.proposition.epoch, view=10**9))
        elif isinstance(message, Nullify):
            yield peer, self.nullify(message.body.epoch + shift, message.body.view)
            yield peer, self.nullify(message.body.epoch, message.body.view + 10**6)
            yield peer, VotesRequest(message.body.epoch + shift)
