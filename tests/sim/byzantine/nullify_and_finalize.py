"""Gives every view up and finalizes it as well."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.certificates import Proposition
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.sim.byzantine.actor import Actor


class NullifyAndFinalize(Actor):
    last: Proposition | None = None

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        yield peer, message
        if isinstance(message, Proposal):
            self.last = message.vote.proposition
        if isinstance(message, Notarize | Finalize):
            self.last = message.proposition
            yield peer, self.nullify(message.proposition.epoch, message.proposition.view)
            yield peer, self.finalize(message.proposition)
        elif isinstance(message, Nullify) and self.last is not None:
            about = self.last
            if (about.epoch, about.view) == (message.body.epoch, message.body.view):
                yield peer, self.finalize(about)
