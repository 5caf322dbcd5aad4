"""Answers every question with something true that is of no use: old, short, or much too late."""

from collections.abc import Iterable

from atpar.consensus.messages import (
    BlockResponse,
    CertificatesResponse,
    Message,
    SyncResponse,
    VotesResponse,
)
from atpar.node.store import Store
from tests.sim.byzantine.actor import Actor

MOST = 50


class OutdatedAnswers(Actor):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.certificates: list[CertificatesResponse] = []
        self.votes: list[VotesResponse] = []

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        late_ms = self.rng.choice((0, 0, 450, 490, 900))
        match message:
            case CertificatesResponse():
                self.certificates = [*self.certificates, message][:MOST]
                answer: Message = self.rng.choice(self.certificates)
            case VotesResponse():
                self.votes = [*self.votes, message][:MOST]
                answer = self.rng.choice(self.votes)
            case SyncResponse() if message.blocks:
                answer = self.shorten(message)
            case BlockResponse():
                answer = message
                late_ms = 490
            case _:
                yield peer, message
                return
        self.send_later(late_ms, peer, *self.pack(answer))

    def shorten(self, message: SyncResponse) -> SyncResponse:
        """Return the first block alone, with its own finalization if it has one."""
        store = Store(self.machine.engine)
        proof = store.get_finalization(message.first_height)
        return SyncResponse(message.first_height, message.blocks[:1], proof)
