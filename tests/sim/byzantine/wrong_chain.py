"""Signs its votes for another chain."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.sim.byzantine.actor import Actor

OTHER = b"\x07" * 32


class WrongChain(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        match message:
            case Proposal():
                vote = self.notarize(message.vote.proposition, chain=OTHER)
                yield peer, Proposal(vote, message.block)
            case Notarize():
                yield peer, self.notarize(message.proposition, chain=OTHER)
            case Finalize():
                yield peer, self.finalize(message.proposition, chain=OTHER)
            case Nullify():
                yield peer, self.nullify(message.body.epoch, message.body.view, chain=OTHER)
            case _:
                yield peer, message
