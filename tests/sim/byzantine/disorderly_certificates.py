"""Holds certificates back and then floods its peers with them: nullifications first here,
notarizations first there, the newest before the oldest, again and again."""

from collections.abc import Iterable

from atpar.consensus.messages import CertificatesResponse, Lane, Message, decode_message
from atpar.ledger.certificates import Certificate, Finalization, Notarization, Nullification
from atpar.ledger.errors import NonCanonical
from tests.sim.byzantine.actor import Actor, Out

MOST = 60
KINDS = (Notarization, Nullification, Finalization)


class DisorderlyCertificates(Actor):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.kept: list[Certificate] = []

    def keep(self, message: object) -> bool:
        if not isinstance(message, Notarization | Nullification | Finalization):
            return False
        if message not in self.kept:
            self.kept.append(message)
            del self.kept[:-MOST]
        return True

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if isinstance(message, CertificatesResponse):
            some = list(message.certificates)
            self.rng.shuffle(some)
            yield peer, CertificatesResponse(tuple(some[: self.rng.randint(0, len(some))]))
        elif not self.keep(message):
            yield peer, message

    def hear(self, peer: str, lane: Lane, data: bytes) -> bool:
        if lane is not Lane.FETCH:
            try:
                self.keep(decode_message(data))
            except NonCanonical:
                return True
        return True

    def poll(self) -> Iterable[Out]:
        for code in self.peers:
            if self.rng.random() < 0.3:
                order = list(KINDS)
                self.rng.shuffle(order)
                for kind in order:
                    for held in reversed(self.kept):
                        if isinstance(held, kind) and self.rng.random() < 0.7:
                            yield code, *self.pack(held)
