"""Dates its blocks to the very bounds of what peers take: the last instant ahead, the last one
behind, or one millisecond after the parent."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.blocks import BLOCK
from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.blocks import rebuild


class ClockEdgeLeader(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Proposal):
            yield peer, message
            return
        timing, rng = self.cluster.timing, self.rng
        skew = rng.choice((0, 0, rng.randint(-400, 400)))
        ahead = timing.clock_ahead_ms + rng.choice((-1, 0, 1)) + skew
        behind = -timing.clock_behind_ms + rng.choice((-1, 0, 1)) + skew
        date = self.cluster.wall_ms + rng.choice((ahead, ahead, behind))
        if rng.random() < 0.2:
            date = 0
        header = BLOCK.decode(message.block).header
        candidates = self.machine.running.mempool.list_pending(limit=5)
        for later_ms in (date - header.timestamp_ms, 0):
            changed = rebuild(self, message, later_ms=later_ms, candidates=candidates)
            if changed is not None:
                yield peer, changed
                return
        yield peer, message
