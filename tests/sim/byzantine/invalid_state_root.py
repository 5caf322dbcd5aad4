"""Proposes blocks whose header claims something that is not so."""

from collections.abc import Iterable

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.blocks import BLOCK
from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.blocks import alter_header


class InvalidStateRoot(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Proposal):
            yield peer, message
            return
        header = BLOCK.decode(message.block).header
        noise = self.rng.randbytes(32)
        lie = self.rng.choice(
            (
                {"state_root": noise},
                {"receipt_root": noise},
                {"next_validators_hash": noise},
                {"parent": noise},
                {"height": header.height + 1},
                {"timestamp_ms": header.timestamp_ms + 3_600_000},
                {"timestamp_ms": header.timestamp_ms - 3_600_000},
                {"view": header.view + 1},
                {"proposer": "ZZZZ"},
                {"tx_count": header.tx_count + 1},
            )
        )
        yield peer, alter_header(self, message, **lie)
