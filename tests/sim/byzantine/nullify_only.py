"""Gives up every view at once, and never votes for a block."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.sim.byzantine.actor import Actor


class NullifyOnly(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if isinstance(message, Proposal):
            vote = message.vote.proposition
            yield peer, self.nullify(vote.epoch, vote.view)
        elif isinstance(message, Notarize | Finalize):
            yield peer, self.nullify(message.proposition.epoch, message.proposition.view)
            yield peer, self.nullify(message.proposition.epoch, message.proposition.view + 1)
        elif isinstance(message, Nullify):
            yield peer, message
