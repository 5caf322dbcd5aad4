"""Passes the votes and proposals of others off as its own, and proposes in views of others."""

from collections.abc import Iterable

from msgspec.structs import replace

from atpar.consensus.messages import Lane, Proposal, decode_message
from atpar.ledger.errors import NonCanonical
from atpar.ledger.votes import Notarize
from tests.sim.byzantine.actor import Actor, Out


class Impersonator(Actor):
    last: tuple[Lane, bytes] | None = None

    def hear(self, peer: str, lane: Lane, data: bytes) -> bool:
        if lane is not Lane.FETCH and self.rng.random() < 0.2:
            self.last = lane, data
        return True

    def poll(self) -> Iterable[Out]:
        if self.last is None:
            return
        lane, data = self.last
        yield None, lane, data
        try:
            message = decode_message(data)
        except NonCanonical:
            return
        if isinstance(message, Proposal):
            # Its own vote on the block of another leader's view.
            mine = Notarize(
                message.vote.proposition, self.notarize(message.vote.proposition).signature
            )
            yield None, *self.pack(replace(message, vote=mine))
