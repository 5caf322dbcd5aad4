"""Sends votes and certificates with one signature spoilt."""

from collections.abc import Iterable

from msgspec.structs import replace

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.certificates import Finalization, Notarization, Nullification
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.altering import flip
from tests.sim.byzantine.actor import Actor


class InvalidSignatures(Actor):
    def spoil(self, signature: bytes) -> bytes:
        return flip(signature, self.rng.randrange(64), self.rng.randrange(8))

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if self.rng.random() < 0.3:
            yield peer, message
            return
        match message:
            case Proposal():
                vote = replace(message.vote, signature=self.spoil(message.vote.signature))
                yield peer, replace(message, vote=vote)
            case Notarize() | Finalize() | Nullify():
                yield peer, replace(message, signature=self.spoil(message.signature))
            case Notarization() | Finalization() | Nullification():
                signatures = list(message.signatures)
                at = self.rng.randrange(len(signatures))
                signatures[at] = self.spoil(signatures[at])
                yield peer, replace(message, signatures=tuple(signatures))
            case _:
                yield peer, message
