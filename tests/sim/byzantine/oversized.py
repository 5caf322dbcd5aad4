"""Sends far too much of everything: bytes, votes, certificates, requests, blocks."""

from collections.abc import Iterable

from atpar.consensus.limits import MAX_MESSAGE_BYTES
from atpar.consensus.messages import (
    BlockRequest,
    CertificatesRequest,
    CertificatesResponse,
    Lane,
    Proposal,
    SyncRequest,
    VotesRequest,
    encode_message,
)
from atpar.ledger.certificates import Proposition
from tests.sim.byzantine.actor import Actor, Out

HUGE = bytes(MAX_MESSAGE_BYTES + 1)


class Oversized(Actor):
    def poll(self) -> Iterable[Out]:
        rng = self.rng
        epoch = self.machine.running.progress.epoch
        view = self.machine.running.progress.view
        kind = rng.randrange(7)
        if kind == 0:
            yield None, Lane(rng.randrange(3)), HUGE[: rng.choice((0, 1, len(HUGE)))]
        elif kind == 1:
            for ahead in range(50):
                yield None, *self.pack(self.nullify(epoch, view + ahead))
        elif kind == 2:
            for _ in range(50):
                about = Proposition(epoch, view + 1, view, rng.randbytes(32))
                yield None, *self.pack(self.notarize(about))
        elif kind == 3:
            for _ in range(30):
                yield None, *self.pack(BlockRequest(rng.randbytes(32)))
                yield None, *self.pack(SyncRequest(epoch, rng.randint(1, 10)))
                yield None, *self.pack(CertificatesRequest(epoch, rng.randint(0, 10)))
                yield None, *self.pack(VotesRequest(epoch))
        elif kind == 4:
            about = Proposition(epoch, view, max(0, view - 1), rng.randbytes(32))
            yield None, *self.pack(Proposal(self.notarize(about), HUGE[: 1 << 16]))
        elif kind == 5:
            yield None, Lane.FETCH, encode_message(CertificatesResponse(()))
        else:
            yield None, Lane.VOTES, rng.randbytes(rng.randint(0, 300))
