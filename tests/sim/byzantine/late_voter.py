"""Votes late, and only for the side that is losing: for a block once its view is given up, and
against it once it is notarized."""

from collections.abc import Iterable

from atpar.consensus.messages import (
    Finalize,
    Lane,
    Message,
    Notarize,
    Nullify,
    Proposal,
    decode_message,
)
from atpar.ledger.certificates import Notarization, Nullification, Proposition
from atpar.ledger.errors import NonCanonical
from tests.sim.byzantine.actor import Actor

MOST = 64


class LateVoter(Actor):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.seen: dict[tuple[int, int], Proposition] = {}

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if isinstance(message, Notarize | Nullify | Finalize):
            delay = self.rng.randint(200, 2_000)
            self.send_later(delay, peer, *self.pack(message))
        else:
            yield peer, message

    def hear(self, peer: str, lane: Lane, data: bytes) -> bool:
        try:
            message = decode_message(data)
        except NonCanonical:
            return True
        match message:
            case Proposal(vote, _):
                self.note(vote.proposition)
            case Notarization(proposition):
                self.note(proposition)
                self.say(self.nullify(proposition.epoch, proposition.view))
            case Nullification(body):
                about = self.seen.get((body.epoch, body.view))
                if about is not None:
                    self.say(self.notarize(about))
                    self.say(self.finalize(about))
            case _:
                pass
        return True

    def note(self, about: Proposition) -> None:
        self.seen[about.epoch, about.view] = about
        if len(self.seen) > MOST:
            del self.seen[next(iter(self.seen))]

    def say(self, message: Message) -> None:
        """Tell some of the peers, soon."""
        for code in self.split()[0]:
            self.send_later(self.rng.randint(0, 300), code, *self.pack(message))
