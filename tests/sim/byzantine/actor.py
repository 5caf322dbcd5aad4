"""What every misbehaving validator is made of: its keys, and a hand on what it sends and hears."""

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from atpar.consensus.messages import Lane, Message, decode_message, encode_message, get_lane
from atpar.ledger.certificates import NullifyBody, Proposition, compute_vote_bytes
from atpar.ledger.hashing import SignKind
from atpar.ledger.votes import Finalize, Notarize, Nullify

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster, Machine

Out = tuple[str | None, Lane, bytes]
"""(peer, or None for all; lane; bytes)."""


class Actor:
    """An honest validator's shadow. Subclasses override `change`, `hear` and `poll`."""

    def __init__(self, cluster: "Cluster", machine: "Machine", rng: random.Random) -> None:
        self.cluster = cluster
        self.machine = machine
        self.rng = rng

    # ---- what subclasses override

    def change(self, peer: str | None, lane: Lane, data: bytes) -> Iterable[Out]:
        """Return what leaves instead of a message."""
        message = decode_message(data)
        for target, changed in self.rewrite(peer, message):
            yield target, get_lane(changed), encode_message(changed)

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        """Return what leaves instead of a message, while it is still a message."""
        yield peer, message

    def hear(self, peer: str, lane: Lane, data: bytes) -> bool:
        """Take note of what arrives; return whether the validator inside may hear it too."""
        return True

    def poll(self) -> Iterable[Out]:
        """Return what to send without a reason, a few times a second."""
        return ()

    # ---- tools

    @property
    def peers(self) -> list[str]:
        return [code for code in self.cluster.by_code if code != self.machine.code]

    def sign(self, kind: SignKind, body: Proposition | NullifyBody, *, chain: bytes = b"") -> bytes:
        chain_id = chain or self.cluster.genesis.chain_id
        message = compute_vote_bytes(kind, chain_id, body)
        return self.cluster.ring.sign(f"{self.machine.code}-vote", message)

    def notarize(self, proposition: Proposition, **options: bytes) -> Notarize:
        return Notarize(proposition, self.sign(SignKind.NOTARIZE, proposition, **options))

    def finalize(self, proposition: Proposition, **options: bytes) -> Finalize:
        return Finalize(proposition, self.sign(SignKind.FINALIZE, proposition, **options))

    def nullify(self, epoch: int, view: int, **options: bytes) -> Nullify:
        body = NullifyBody(epoch, view)
        return Nullify(body, self.sign(SignKind.NULLIFY, body, **options))

    def split(self) -> tuple[list[str], list[str]]:
        """Return the peers in two random halves."""
        peers = self.peers
        self.rng.shuffle(peers)
        cut = self.rng.randint(1, max(1, len(peers) - 1))
        return peers[:cut], peers[cut:]

    def send_later(self, delay_ms: int, peer: str | None, lane: Lane, data: bytes) -> None:
        """Send after a while, if the machine still runs."""

        def send() -> None:
            if self.machine.is_up:
                self.cluster.transmit(self.machine, peer, lane, data)

        self.cluster.after(delay_ms, send)

    def pack(self, message: Message) -> tuple[Lane, bytes]:
        return get_lane(message), encode_message(message)
