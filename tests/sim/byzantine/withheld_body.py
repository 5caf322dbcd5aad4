"""Shows its proposals to just enough peers, answers no request for blocks, and lies about them."""

from collections.abc import Iterable

from atpar.consensus.messages import BlockResponse, Message, Proposal, SyncResponse
from tests.sim.byzantine.actor import Actor


class WithheldBody(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        match message:
            case Proposal():
                peers = self.peers
                self.rng.shuffle(peers)
                least = max(1, (len(peers) + 1) // 3)
                shown = peers[: self.rng.randint(least, len(peers))]
                for code in peers:
                    yield code, message if code in shown else message.vote
            case BlockResponse():
                lie = self.rng.choice((b"", self.rng.randbytes(100)))
                yield peer, BlockResponse(message.digest, lie)
            case SyncResponse():
                yield peer, SyncResponse(message.first_height, (), None)
            case _:
                yield peer, message
