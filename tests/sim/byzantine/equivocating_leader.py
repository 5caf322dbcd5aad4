"""Proposes one block to some and another to the others, and votes for both."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.blocks import build_rival


class EquivocatingLeader(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Proposal) or peer is not None:
            yield peer, message
            return
        rival = build_rival(self, message)
        if rival is None:
            yield peer, message
            return
        first, second = self.split()
        for code in first:
            yield code, message
        for code in second:
            yield code, rival
        if self.rng.random() < 0.3:
            # Now and then everybody sees both.
            yield None, rival.vote
