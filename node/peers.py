"""What a node keeps for each peer: what waits to go out, what came in, and how it behaved.

Everything here is bounded per peer and never blocks the sender of a message. A peer that reads
too slowly loses the oldest proposals and votes (newer ones matter more) and the newest gossip and
fetch answers (their holders send them again), each counted, while votes are always taken first.
A peer that sends too fast is read more slowly. A peer that breaks the protocol is dropped and kept
out for a time that doubles.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

import trio

from atpar.node.framing import HEADER_BYTES, Channel, encode_header
from atpar.node.limits import (
    BAN_FIRST_S,
    BAN_FORGET_S,
    BAN_MAX_S,
    CONNECTION_BURST,
    CONNECTIONS_PER_S,
    INBOX_PEER_BYTES,
    MAX_AWAY_VOTES,
    MAX_QUEUED_CONTROL_BYTES,
    MAX_QUEUED_FETCH_BYTES,
    MAX_QUEUED_FRAMES,
    MAX_QUEUED_PROPOSAL_BYTES,
    MAX_QUEUED_SNAPSHOT_BYTES,
    MAX_QUEUED_TRANSACTION_BYTES,
    MAX_QUEUED_VOTE_BYTES,
    MAX_REMEMBERED_ADDRESSES,
    RATE_BYTES_PER_S,
    RATE_FRAMES_PER_S,
    SEND_BATCH_BYTES,
)


class Drop(StrEnum):
    """Why a connection was closed: the label of the metric."""

    HANDSHAKE = "handshake"
    """No TLS, or a certificate that no registered root issued."""
    TIMEOUT = "timeout"
    """Too slow to show who it is."""
    EVICTED = "evicted"
    """Too many strangers at once; this one had waited longest."""
    FLOOD = "flood"
    """Too many connections a second from one address."""
    UNREGISTERED = "unregistered"
    WRONG_PEER = "wrong_peer"
    """Another institution answers at the address."""
    HELLO = "hello"
    """Another chain, another protocol version, or no hello at all."""
    BANNED = "banned"
    FAULT = "fault"
    """It sent what no honest peer sends."""
    IDLE = "idle"
    STALLED = "stalled"
    """It does not read what we send."""
    CLOSED = "closed"
    """It closed, or the network did."""
    DEPARTED = "departed"
    """It is no member any more, or its root certificate is not registered any more."""
    REPLACED = "replaced"
    """A newer connection to the same peer took over."""


class Received(NamedTuple):
    """One message from an identified peer."""

    peer: str
    channel: Channel
    payload: bytes


class _Bound(NamedTuple):
    """How much of one channel may wait for a peer, and which end makes room."""

    max_bytes: int
    max_frames: int
    drops_oldest: bool


_BOUNDS: Final = {
    Channel.CONTROL: _Bound(MAX_QUEUED_CONTROL_BYTES, MAX_QUEUED_FRAMES, drops_oldest=True),
    Channel.VOTES: _Bound(MAX_QUEUED_VOTE_BYTES, MAX_QUEUED_FRAMES, drops_oldest=True),
    Channel.PROPOSALS: _Bound(MAX_QUEUED_PROPOSAL_BYTES, MAX_QUEUED_FRAMES, drops_oldest=True),
    Channel.FETCH: _Bound(MAX_QUEUED_FETCH_BYTES, MAX_QUEUED_FRAMES, drops_oldest=False),
    Channel.TRANSACTIONS: _Bound(
        MAX_QUEUED_TRANSACTION_BYTES, MAX_QUEUED_FRAMES, drops_oldest=False
    ),
    Channel.SNAPSHOT: _Bound(MAX_QUEUED_SNAPSHOT_BYTES, MAX_QUEUED_FRAMES, drops_oldest=False),
}
MAX_QUEUED_BYTES: Final = sum(bound.max_bytes for bound in _BOUNDS.values())
"""Most bytes that can wait for one peer, whatever happens."""


@dataclass(slots=True)
class _Lane:
    frames: deque[tuple[float, bytes]] = field(default_factory=deque)
    """(earliest time to send, payload)"""
    bytes: int = 0


class SendQueue:
    """Frames that wait for one peer, by channel. `put` never waits; one task takes."""

    def __init__(self, on_drop: Callable[[Channel], None] = lambda _channel: None) -> None:
        self._lanes = {channel: _Lane() for channel in Channel}
        self._on_drop = on_drop
        self._wakeup = trio.Event()
        self.bytes = 0
        """Payload bytes waiting, all channels."""
        self.delay_s = 0.0
        """Added to every frame, to play a long or slow line. Zero outside experiments."""

    def __len__(self) -> int:
        return sum(len(lane.frames) for lane in self._lanes.values())

    def put(self, channel: Channel, payload: bytes, *, wakes: bool = True) -> None:
        """Queue a frame; at a bound the channel's oldest or this one is dropped and counted.

        `wakes`: whether to tell the task that takes; otherwise the caller takes, or calls `wake`.
        """
        lane = self._lanes[channel]
        bound = _BOUNDS[channel]
        while lane.frames and (
            len(lane.frames) >= bound.max_frames or lane.bytes + len(payload) > bound.max_bytes
        ):
            self._on_drop(channel)
            if not bound.drops_oldest:
                return
            self._pop(lane)
        due = trio.current_time() + self.delay_s if self.delay_s else 0.0
        lane.frames.append((due, payload))
        lane.bytes += len(payload)
        self.bytes += len(payload)
        if wakes:
            self._wakeup.set()

    def wake(self) -> None:
        """Tell the task that takes that there is something to do."""
        self._wakeup.set()

    def take(self, *, max_bytes: int = SEND_BATCH_BYTES) -> bytes:
        """Return the next frames as one run of bytes, votes first; empty when nothing is due.

        More than `max_bytes` only if the first frame alone is larger.
        """
        now = trio.current_time() if self.delay_s else inf
        pieces: list[bytes] = []
        size = 0
        for channel, lane in self._lanes.items():
            while lane.frames and lane.frames[0][0] <= now:
                length = HEADER_BYTES + len(lane.frames[0][1])
                if pieces and size + length > max_bytes:
                    return b"".join(pieces)
                payload = self._pop(lane)
                pieces += (encode_header(channel, payload), payload)
                size += length
        return b"".join(pieces)

    async def wait(self) -> None:
        """Wait until `take` may return something."""
        self._wakeup = trio.Event()
        due = min((lane.frames[0][0] for lane in self._lanes.values() if lane.frames), default=inf)
        with trio.move_on_at(due):
            await self._wakeup.wait()

    def forget(self) -> None:
        """Drop what a peer that is away will not need when it returns: all but the last votes."""
        for channel, lane in self._lanes.items():
            keep = MAX_AWAY_VOTES if channel is Channel.VOTES else 0
            while len(lane.frames) > keep:
                self._pop(lane)

    def put_while_away(self, channel: Channel, payload: bytes) -> None:
        """Keep a frame for a peer that is not connected, if it is one of the last votes."""
        self._on_drop(channel)
        if channel is Channel.VOTES:
            self.put(channel, payload)
            self.forget()

    def _pop(self, lane: _Lane) -> bytes:
        _, payload = lane.frames.popleft()
        lane.bytes -= len(payload)
        self.bytes -= len(payload)
        return payload


class Inbox:
    """Messages that wait for their one reader: votes first, peers in turn, bounded per peer.

    Readers of connections `put` and so wait when their peer's share is full: that peer is read
    more slowly, the others are not. What may be lost is `offer`ed instead.
    """

    def __init__(self, *, max_peer_bytes: int = INBOX_PEER_BYTES) -> None:
        self.max_peer_bytes = max_peer_bytes
        self._lanes: dict[Channel, dict[str, deque[bytes]]] = {c: {} for c in Channel}
        self._bytes: dict[str, int] = {}
        self._room: dict[str, trio.Event] = {}
        self._arrival = trio.Event()
        self._emptied = trio.Event()
        self._count = 0
        self.on_arrival: Callable[[], None] = lambda: None
        """Called at each message taken, for a reader that waits for other things too."""

    def __len__(self) -> int:
        return self._count

    def offer(self, message: Received) -> bool:
        """Take a message unless its peer's share is full; return whether it was taken.

        A peer's share may be passed by its last message, so that any message finds room.
        """
        held = self._bytes.get(message.peer, 0)
        if held and held + len(message.payload) > self.max_peer_bytes:
            return False
        self._bytes[message.peer] = held + len(message.payload) + HEADER_BYTES
        self._lanes[message.channel].setdefault(message.peer, deque()).append(message.payload)
        self._count += 1
        self._arrival.set()
        self.on_arrival()
        return True

    async def put(self, message: Received) -> None:
        """Take a message, waiting while its peer's share is full."""
        while not self.offer(message):
            event = self._room.setdefault(message.peer, trio.Event())
            await event.wait()

    def receive_nowait(self) -> Received:
        """Return the next message.

        Raises:
            trio.WouldBlock: there is none.
        """
        for channel, lanes in self._lanes.items():
            if lanes:
                peer = next(iter(lanes))
                queue = lanes.pop(peer)
                payload = queue.popleft()
                if queue:
                    lanes[peer] = queue  # to the end: the other peers first
                self._release(peer, len(payload) + HEADER_BYTES)
                return Received(peer, channel, payload)
        raise trio.WouldBlock

    async def receive(self) -> Received:
        """Return the next message, waiting for one."""
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                self._arrival = trio.Event()
                await self._arrival.wait()

    async def wait_empty(self) -> None:
        """Wait until the reader has taken everything."""
        while self._count:
            await self._emptied.wait()

    def _release(self, peer: str, size: int) -> None:
        self._count -= 1
        if not self._count:
            emptied, self._emptied = self._emptied, trio.Event()
            emptied.set()
        left = self._bytes[peer] - size
        if left:
            self._bytes[peer] = left
        else:
            del self._bytes[peer]
        event = self._room.pop(peer, None)
        if event is not None:
            event.set()


class RateLimit:
    """A token bucket that answers how long to wait; time is in seconds from any origin."""

    def __init__(self, *, per_s: float, burst: float) -> None:
        self.per_s = per_s
        self.burst = burst
        self._tokens = burst
        self._at = -inf

    def charge(self, amount: float, *, now: float) -> float:
        """Spend tokens, going into debt if need be; return the seconds until it is paid."""
        self._gain(now)
        self._tokens -= amount
        return max(0.0, -self._tokens / self.per_s)

    def spend(self, amount: float, *, now: float) -> bool:
        """Spend tokens if they are there; return whether they were."""
        self._gain(now)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def _gain(self, now: float) -> None:
        gained = 0.0 if self._at == -inf else (now - self._at) * self.per_s
        self._tokens = min(self.burst, self._tokens + gained)
        self._at = now


class AddressLimits:
    """One bucket of accepted connections for each address that has lately connected."""

    def __init__(self) -> None:
        self._limits: OrderedDict[str, RateLimit] = OrderedDict()

    def is_flooding(self, address: str, *, now: float) -> bool:
        """Count a connection from an address; return whether it is one too many."""
        limit = self._limits.get(address)
        if limit is None:
            limit = RateLimit(per_s=CONNECTIONS_PER_S, burst=CONNECTION_BURST)
            self._limits[address] = limit
            if len(self._limits) > MAX_REMEMBERED_ADDRESSES:
                self._limits.popitem(last=False)
        self._limits.move_to_end(address)
        return not limit.spend(1, now=now)


class Bans:
    """How long a peer stays out: each ban twice as long as the last, forgotten after a while."""

    def __init__(self) -> None:
        self.until = -inf
        self._next_s = BAN_FIRST_S

    def ban(self, *, now: float) -> float:
        """Start a ban; return its length in seconds."""
        if now - self.until > BAN_FORGET_S:
            self._next_s = BAN_FIRST_S
        length = self._next_s
        self._next_s = min(2 * length, BAN_MAX_S)
        self.until = now + length
        return length

    def is_banned(self, *, now: float) -> bool:
        """Return whether the peer is to be kept out."""
        return now < self.until


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """A registered peer. One without an address (an observer) dials us."""

    participant: str
    host: str = ""
    port: int = 0

    @property
    def address(self) -> str:
        """host:port, or empty."""
        if not self.host:
            return ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of `host:port`, the host of IPv6 without its brackets."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


@dataclass(slots=True)
class PeerCounters:
    """What passed between us and a peer since this node started."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_received: int = 0
    connections: int = 0
    dropped: dict[Channel, int] = field(default_factory=lambda: dict.fromkeys(Channel, 0))
    """Outgoing messages that were dropped because it was slow or away."""
    ignored: int = 0
    """Incoming gossip that found no room here."""
    last_drop: str = ""
    """Why the last connection ended, in words."""


def make_rate_limits() -> Mapping[Channel, RateLimit]:
    """Return new buckets for the frames of one connection, by channel."""
    return {
        channel: RateLimit(per_s=RATE_FRAMES_PER_S, burst=RATE_FRAMES_PER_S) for channel in Channel
    }


def make_byte_limit() -> RateLimit:
    """Return a new bucket for the bytes of one connection."""
    return RateLimit(per_s=RATE_BYTES_PER_S, burst=RATE_BYTES_PER_S)
