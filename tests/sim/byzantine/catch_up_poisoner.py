"""Leads whoever catches up astray: ranges that go on in blocks which nobody ever finalised."""

from collections.abc import Iterable

from msgspec.structs import replace

from atpar.consensus.limits import MAX_SYNC_BLOCKS
from atpar.consensus.messages import Message, SyncRequest, SyncResponse, VotesResponse
from atpar.ledger.blocks import BLOCK, Block, Header, compute_digest
from atpar.ledger.codec import encode
from atpar.ledger.merkle import compute_root
from atpar.node.store import Store
from tests.sim.byzantine.actor import Actor, Out


class CatchUpPoisoner(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, SyncResponse):
            yield peer, message
            return
        kind = self.rng.randrange(5)
        if kind == 0:
            return
        kept = message.blocks[: self.rng.randint(0, len(message.blocks))] if kind == 1 else ()
        forged = self.forge(message.first_height, kept)
        yield peer, SyncResponse(message.first_height, (*kept, *forged), None)

    def forge(self, first_height: int, kept: tuple[bytes, ...]) -> list[bytes]:
        """Return some blocks that link to what the asker has, and are nobody's."""
        store = Store(self.machine.engine)
        if kept:
            parent: Header | None = BLOCK.decode(kept[-1]).header
        else:
            parent = store.get_header(first_height - 1)
        if parent is None:
            return []
        empty = compute_root([])
        blocks = []
        room = MAX_SYNC_BLOCKS - len(kept)
        # Genesis is of epoch 0 as well, and an asker's epoch is that of its next block.
        epoch = self.machine.running.progress.epoch
        for _ in range(min(room, self.rng.choice((1, 1, 3, 40)))):
            parent = replace(
                parent,
                epoch=epoch,
                view=parent.view + 1,
                parent=compute_digest(parent),
                height=parent.height + 1,
                timestamp_ms=parent.timestamp_ms + 1,
                state_root=self.rng.randbytes(32),
                tx_root=empty,
                tx_count=0,
            )
            blocks.append(encode(Block(parent, ())))
        return blocks

    def poll(self) -> Iterable[Out]:
        """Claim now and then to be ahead, so that peers ask."""
        if self.rng.random() < 0.3:
            progress = self.machine.running.progress
            for code in self.split()[0]:
                yield code, *self.pack(VotesResponse(progress.epoch + 1, (), None))
                yield code, *self.pack(SyncRequest(progress.epoch + 1, 1))
