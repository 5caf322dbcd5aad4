"""Proposes blocks that are executed correctly but carry a transaction nobody signed properly."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.transactions import Transaction, decode_transaction, encode_envelope
from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.blocks import rebuild
from tests.sim.worlds import Treasury


class InvalidTransaction(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Proposal):
            yield peer, message
            return
        candidates = [self.forge() for _ in range(self.rng.randint(1, 3))]
        pending = self.machine.running.mempool.list_pending(limit=3)
        candidates += [self.spoil(tx) if self.rng.random() < 0.5 else tx for tx in pending]
        bad = rebuild(self, message, later_ms=0, candidates=candidates)
        yield peer, message if bad is None else bad

    def forge(self) -> Transaction:
        """Return a payment out of somebody's account with a signature that does not verify."""
        cluster = self.cluster
        treasury = Treasury(cluster.genesis, cluster.ring, self.rng)
        treasury.start_at(self.rng.getrandbits(100))
        return self.spoil(treasury.pay(cluster.wall_ms))

    def spoil(self, tx: Transaction) -> Transaction:
        """Return the same transaction, id and all, with signatures of nobody."""
        signatures = [(s.key, self.rng.randbytes(64)) for s in tx.signatures]
        return decode_transaction(encode_envelope(tx.body_bytes, signatures))
