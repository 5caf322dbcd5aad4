"""Proposes so late that the block arrives when timers fire: at some just before, at some after."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from atpar.consensus.pacemaker import Pacemaker
from tests.sim.byzantine.actor import Actor


class LastMomentLeader(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Proposal):
            yield peer, message
            return
        times = Pacemaker(self.cluster.timing, size=1, quorum=1, me=None)
        times.wake(0)
        assert times.leader_at is not None
        assert times.advance_at is not None
        waited = self.cluster.timing.block_interval_ms
        goal = self.rng.choice((times.leader_at, times.leader_at, times.advance_at)) - waited
        low, high = self.cluster.network.default.latency_ms
        for code in self.peers if peer is None else [peer]:
            delay = goal - round((low + high) / 2) + self.rng.randint(-30, 30)
            self.send_later(max(0, delay), code, *self.pack(message))
