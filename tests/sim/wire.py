"""An adversary on the wire who reads messages and drops those of some kinds, of some, to some.

Connections stay up meanwhile: nothing tells anybody. So a tip loses its finality, a boundary block
is proposed again and again, halves leave a view by different certificates, a leader is heard by a
few, and questions remain without an answer.
"""

import random
from typing import TYPE_CHECKING, Final

from atpar.consensus.messages import Proposal, decode_message
from atpar.ledger.certificates import Finalization, Notarization, Nullification
from atpar.ledger.errors import NonCanonical
from atpar.ledger.votes import Finalize, Notarize, Nullify

if TYPE_CHECKING:
    from tests.sim.cluster import Machine

OTHER: Final = type(None)
"""Stands for requests, answers, and what is no message."""
KINDS: Final[tuple[type, ...]] = (
    Proposal,
    Notarize,
    Nullify,
    Finalize,
    Notarization,
    Nullification,
    Finalization,
    OTHER,
)
TARGETS: Final[tuple[tuple[type, ...], ...]] = (
    (Finalize, Finalization),
    (Finalize,),
    (Notarization,),
    (Nullification,),
    (Notarization, Nullification, Finalization),
    (Proposal,),
    (Proposal, OTHER),
    (OTHER,),
)
"""What hurts most; half of the adversaries choose from here, the others at random."""


class Selective:
    """Drops messages. One per fault; `passes` is the cluster's filter."""

    def __init__(self, ids: list[str], rng: random.Random) -> None:
        if rng.random() < 0.5:
            self.kinds = frozenset(rng.choice(TARGETS))
        else:
            self.kinds = frozenset(rng.sample(KINDS, rng.randint(1, 3)))
        everybody = rng.random() < 0.3
        self.senders = ids if everybody else rng.sample(ids, rng.randint(1, len(ids)))
        self.receivers = ids if everybody else rng.sample(ids, rng.randint(1, len(ids)))
        self._last: tuple[bytes, type] = (b"", OTHER)

    def __str__(self) -> str:
        names = sorted("Other" if kind is OTHER else kind.__name__ for kind in self.kinds)
        return f"{'+'.join(names)} of {','.join(self.senders)} to {','.join(self.receivers)}"

    def passes(self, sender: "Machine", receiver: "Machine", data: bytes) -> bool:
        if sender.id not in self.senders or receiver.id not in self.receivers:
            return True
        return self._find_kind(data) not in self.kinds

    def _find_kind(self, data: bytes) -> type:
        if self._last[0] is not data:
            try:
                kind = type(decode_message(data))
            except NonCanonical:
                kind = OTHER
            self._last = (data, kind if kind in KINDS else OTHER)
        return self._last[1]
