"""Spreads admitted transactions to the other validators, and takes theirs in.

A transaction goes out once, from the node that admitted it for a client, to every peer (the
network is a full mesh), many to a frame; so whoever leads next has it. A peer that connects gets
what is pending. Gossip may be lost (a slow peer's queue overflows): the node that admitted a
transaction proposes it when it leads, and reminds other leaders of it while it waits.

What comes in is judged like a client's envelope, at a higher priority. An honest validator never
passes on what is malformed or badly signed, so that drops the peer; what is refused on state may
be a matter of timing, so it only counts against the peer's allowance.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Annotated, Final, Protocol

import trio
from msgspec import Meta

from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.codes import Code
from atpar.ledger.errors import NonCanonical
from atpar.ledger.transactions import Transaction
from atpar.node.admission import Admission, Outcome, Result
from atpar.node.framing import Channel
from atpar.node.limits import (
    GOSSIP_ENVELOPES_PER_S,
    GOSSIP_INTERVAL_S,
    GOSSIP_REFUSAL_COST,
    GOSSIP_REMIND_S,
    GOSSIP_TAKE_BYTES,
    MAX_GOSSIP_ENVELOPES,
    MAX_GREETING_TRANSACTIONS,
    MAX_REMINDERS,
    MAX_TRANSACTIONS_FRAME_BYTES,
)
from atpar.node.mempool import Mempool
from atpar.node.metrics import Metrics
from atpar.node.peers import Inbox, RateLimit, Received
from atpar.node.verifier import Priority

_ENVELOPE_OVERHEAD_BYTES: Final = 5
_FRAME_OVERHEAD_BYTES: Final = 16

_FAULTS: Final = frozenset(
    {
        Code.TOO_LARGE,
        Code.NON_CANONICAL,
        Code.UNSUPPORTED_VERSION,
        Code.WRONG_CHAIN,
        Code.NO_OPERATIONS,
        Code.TOO_MANY_OPERATIONS,
        Code.TOO_MANY_SIGNATURES,
        Code.SIGNATURES_UNSORTED,
        Code.AMOUNT_RANGE,
        Code.VALUE_INVALID,
        Code.BAD_SIGNATURE,
    }
)
"""Refusals that depend on the bytes alone: an honest peer would have refused them too."""

_GOOD: Final = (Result.ADMITTED, Result.KNOWN)


class Batch(Wire, frozen=True):
    """The payload of a frame of the channel TRANSACTIONS."""

    envelopes: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=MAX_GOSSIP_ENVELOPES)]


BATCH = Codec[Batch](Batch, name="gossip", max_bytes=MAX_TRANSACTIONS_FRAME_BYTES)


class GossipNetwork(Protocol):
    """What gossip needs of the validator network."""

    gossip_inbox: Inbox

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        """Queue a message for one peer."""

    def broadcast(self, channel: Channel, payload: bytes) -> None:
        """Queue a message for every peer."""

    def drop_peer(self, peer: str, reason: str) -> None:
        """Close a peer's connection for a fault."""


class Gossip:
    """Owns the two loops of gossip. `announce` and `greet` never wait."""

    def __init__(
        self,
        *,
        network: GossipNetwork,
        admission: Admission,
        mempool: Mempool,
        metrics: Metrics,
    ) -> None:
        self._network = network
        self._admission = admission
        self._mempool = mempool
        self._metrics = metrics
        self._outgoing: dict[bytes, Transaction] = {}
        self._waiting: dict[bytes, float] = {}
        """Hash -> when it was last sent, of what clients brought here; the longest ago first."""
        self._wakeup = trio.Event()
        self._allowances: dict[str, RateLimit] = {}

    def announce(self, transactions: Iterable[Transaction]) -> None:
        """Send transactions that a client brought here to every peer, soon."""
        now = trio.current_time()
        for tx in transactions:
            self._outgoing[tx.hash] = tx
            self._waiting[tx.hash] = now
        if self._outgoing:
            self._wakeup.set()

    def greet(self, peer: str) -> None:
        """Send what is pending to a peer that has just connected."""
        pending = self._mempool.list_pending(limit=MAX_GREETING_TRANSACTIONS)
        for payload in pack_batches([tx.raw for tx in pending]):
            self._network.send(peer, Channel.TRANSACTIONS, payload)

    def remind(self, leader: str) -> list[Transaction]:
        """Send the leader of a new view what clients brought here and what has waited for long.

        Called at each view, so it looks only at entries that are due or gone. Returns what it sent.
        """
        now = trio.current_time()
        reminders: list[Transaction] = []
        for tx_hash, sent in list(islice(self._waiting.items(), 2 * MAX_REMINDERS)):
            tx = self._mempool.get(tx_hash)
            if tx is not None and (now - sent < GOSSIP_REMIND_S or len(reminders) == MAX_REMINDERS):
                break
            del self._waiting[tx_hash]
            if tx is not None:
                self._waiting[tx_hash] = now
                reminders.append(tx)
        for payload in pack_batches([tx.raw for tx in reminders]):
            self._network.send(leader, Channel.TRANSACTIONS, payload)
        return reminders

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send and receive until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            nursery.start_soon(self._receive)
            task_status.started()

    async def _send(self) -> None:
        """Broadcast what was announced; at once when idle, in larger frames under load."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            outgoing, self._outgoing = self._outgoing, {}
            # What became final or was dropped meanwhile is of no use to anyone.
            raws = [tx.raw for tx in outgoing.values() if tx.hash in self._mempool]
            for payload in pack_batches(raws):
                self._network.broadcast(Channel.TRANSACTIONS, payload)
            await trio.sleep(GOSSIP_INTERVAL_S)

    async def _receive(self) -> None:
        """Judge what peers send, a bounded amount at a time."""
        inbox = self._network.gossip_inbox
        while True:
            messages = [await inbox.receive()]
            size = len(messages[0].payload)
            while size < GOSSIP_TAKE_BYTES:
                try:
                    messages.append(inbox.receive_nowait())
                except trio.WouldBlock:
                    break
                size += len(messages[-1].payload)
            await self.take_in(messages)

    async def take_in(self, messages: Sequence[Received]) -> None:
        """Judge the transactions of some frames and hold the good ones."""
        sources: list[str] = []
        raws: list[bytes] = []
        for message in messages:
            envelopes = self._unpack(message)
            raws += envelopes
            sources += [message.peer] * len(envelopes)
        outcomes = await self._admission.admit(raws, Priority.GOSSIP)
        for peer, outcome in zip(sources, outcomes, strict=True):
            if outcome.result not in _GOOD:
                self._hold_to_account(peer, outcome)

    def _unpack(self, message: Received) -> Sequence[bytes]:
        """Return the envelopes of a frame."""
        try:
            batch = BATCH.decode(message.payload)
        except NonCanonical as error:
            self._network.drop_peer(message.peer, str(error))
            return []
        if self._charge(message.peer, len(batch.envelopes)):
            self._metrics.queue_dropped.labels("gossip_allowance").inc()
            return []
        return batch.envelopes

    def _hold_to_account(self, peer: str, outcome: Outcome) -> None:
        if outcome.result is Result.REFUSED:
            self._charge(peer, GOSSIP_REFUSAL_COST)
            if outcome.code in _FAULTS:
                reason = f"gossiped a transaction with {outcome.code.name}: {outcome.message}"
                self._network.drop_peer(peer, reason)
        elif outcome.result is Result.NO_ROOM:
            self._metrics.queue_dropped.labels("gossip_mempool").inc()

    def _charge(self, peer: str, amount: int) -> bool:
        """Charge a peer's allowance; return whether it has used more than it may."""
        allowance = self._allowances.get(peer)
        if allowance is None:
            allowance = RateLimit(per_s=GOSSIP_ENVELOPES_PER_S, burst=2 * GOSSIP_ENVELOPES_PER_S)
            self._allowances[peer] = allowance
        return allowance.charge(amount, now=trio.current_time()) > 0


def pack_batches(raws: Sequence[bytes]) -> list[bytes]:
    """Return the payloads that carry envelopes, each within the bounds of a frame."""
    payloads = []
    batch: list[bytes] = []
    size = _FRAME_OVERHEAD_BYTES
    for raw in raws:
        length = len(raw) + _ENVELOPE_OVERHEAD_BYTES
        full = len(batch) == MAX_GOSSIP_ENVELOPES or size + length > MAX_TRANSACTIONS_FRAME_BYTES
        if batch and full:
            payloads.append(encode(Batch(tuple(batch))))
            batch, size = [], _FRAME_OVERHEAD_BYTES
        batch.append(raw)
        size += length
    if batch:
        payloads.append(encode(Batch(tuple(batch))))
    return payloads
