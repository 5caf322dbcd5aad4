"""What is missing, whom it was asked of, and when to ask the next one.

Needs are declared, not queued: after every step the engine says what it lacks right now, and this
module keeps one request outstanding per need, in rotation over the peers that should have it. A
need that is no longer declared is dropped, an answer to a question not asked is ignored, and peers
that answer "I do not have it" are passed over at once until all were asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from atpar.consensus.effects import Send
from atpar.consensus.messages import BlockRequest, CertificatesRequest, SyncRequest
from atpar.consensus.types import PeerId


@dataclass(slots=True)
class _Ask:
    """One need: whom to ask, how often it was asked, and when the next attempt is due."""

    candidates: tuple[PeerId, ...]
    due_ms: int
    attempts: int = 0
    asked: PeerId | None = None
    refusals: set[PeerId] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class CertificatesNeed:
    """Certificates of either kind from a view on: asked after `grace_ms`, of `hint` first."""

    first_view: int
    hint: PeerId | None
    grace_ms: int


class CatchUp:
    """Outstanding requests of one replica, across epochs."""

    def __init__(self, *, participant: PeerId, retry_ms: int) -> None:
        self._me = participant
        self._retry_ms = retry_ms
        self._connected: dict[PeerId, None] = {}
        self._members: tuple[PeerId, ...] = ()
        self._epoch = 0
        self._bodies: dict[bytes, _Ask] = {}
        self._certificates: tuple[int, _Ask] | None = None
        self._sync: tuple[int, _Ask] | None = None

    def open_epoch(self, epoch: int, members: Sequence[PeerId]) -> None:
        """Forget needs of the epoch before; from now on ask members of this one."""
        at = members.index(self._me) + 1 if self._me in members else 0
        self._members = tuple(peer for peer in (*members[at:], *members[:at]) if peer != self._me)
        self._epoch = epoch
        self.clear()

    def clear(self) -> None:
        """Forget every need."""
        self._bodies.clear()
        self._certificates = self._sync = None

    def connect(self, peer: PeerId) -> None:
        """Note that a peer can be reached."""
        self._connected[peer] = None

    def disconnect(self, peer: PeerId, now_ms: int) -> None:
        """Note that a peer cannot be reached; what was asked of it is due again."""
        self._connected.pop(peer, None)
        for ask in self._get_asks():
            if ask.asked == peer:
                ask.asked = None
                ask.due_ms = now_ms

    def is_connected(self, peer: PeerId) -> bool:
        """Return whether a peer can be reached."""
        return peer in self._connected

    def need_bodies(self, wanted: Mapping[bytes, Sequence[PeerId]], due_ms: int) -> None:
        """Declare which blocks are lacking, each with the peers that should hold it."""
        for digest in [digest for digest in self._bodies if digest not in wanted]:
            del self._bodies[digest]
        for digest, holders in wanted.items():
            if digest not in self._bodies:
                self._bodies[digest] = _Ask(self._order(holders), due_ms)

    def need_certificates(self, need: CertificatesNeed | None, now_ms: int) -> None:
        """Declare from which view on certificates are lacking, or that none are."""
        if need is None:
            self._certificates = None
            return
        due_ms = now_ms + need.grace_ms
        held = self._certificates
        if held is not None and held[0] == need.first_view:
            if held[1].asked is None:
                held[1].due_ms = min(held[1].due_ms, due_ms)
            return
        hint = () if need.hint is None else (need.hint,)
        self._certificates = (need.first_view, _Ask(self._order(hint), due_ms))

    def need_sync(self, first_height: int | None, hint: PeerId | None, now_ms: int) -> None:
        """Declare from which height on final blocks are lacking, or that none are."""
        if first_height is None:
            self._sync = None
            return
        if self._sync is None or self._sync[0] != first_height:
            first = () if hint is None else (hint,)
            self._sync = (first_height, _Ask(self._order(first), now_ms))

    def is_wanted(self, digest: bytes) -> bool:
        """Return whether a block is lacking."""
        return digest in self._bodies

    def get_sync_height(self, peer: PeerId) -> int | None:
        """Return the height from which this peer was asked for final blocks last."""
        if self._sync is None or self._sync[1].asked != peer:
            return None
        return self._sync[0]

    def refuse_body(self, digest: bytes, peer: PeerId, now_ms: int) -> None:
        """Note that a peer does not have a block, or sent another: ask the next."""
        ask = self._bodies.get(digest)
        if ask is not None:
            self._pass_over(ask, peer, now_ms)

    def refuse_certificates(self, peer: PeerId, now_ms: int) -> None:
        """Note that a peer's answer did not fill the need, which still stands: ask the next."""
        if self._certificates is not None:
            self._pass_over(self._certificates[1], peer, now_ms)

    def refuse_sync(self, peer: PeerId, now_ms: int) -> bool:
        """Note that a peer has no final blocks for us. Return whether all were asked in vain."""
        if self._sync is None:
            return False
        ask = self._sync[1]
        self._pass_over(ask, peer, now_ms)
        return not ask.refusals

    def poll(self, now_ms: int) -> list[Send]:
        """Return the requests that are due now."""
        sends: list[Send] = []
        for digest, ask in self._bodies.items():
            peer = self._take_turn(ask, now_ms)
            if peer is not None:
                sends.append(Send(peer, BlockRequest(digest)))
        if self._certificates is not None:
            view, ask = self._certificates
            peer = self._take_turn(ask, now_ms)
            if peer is not None:
                sends.append(Send(peer, CertificatesRequest(self._epoch, view)))
        if self._sync is not None:
            height, ask = self._sync
            peer = self._take_turn(ask, now_ms)
            if peer is not None:
                sends.append(Send(peer, SyncRequest(self._epoch, height)))
        return sends

    @property
    def deadline_ms(self) -> int | None:
        """When the next request is due."""
        return min((ask.due_ms for ask in self._get_asks()), default=None)

    def _get_asks(self) -> Iterable[_Ask]:
        yield from self._bodies.values()
        if self._certificates is not None:
            yield self._certificates[1]
        if self._sync is not None:
            yield self._sync[1]

    def _order(self, first: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Members to ask: those named first, then the others, each once, never oneself."""
        named = dict.fromkeys(peer for peer in first if peer != self._me)
        return tuple(dict.fromkeys((*named, *self._members)))

    def _take_turn(self, ask: _Ask, now_ms: int) -> PeerId | None:
        if now_ms < ask.due_ms or not ask.candidates:
            return None
        ask.due_ms = now_ms + self._retry_ms
        count = len(ask.candidates)
        for step in range(count):
            peer = ask.candidates[(ask.attempts + step) % count]
            if peer in self._connected and peer not in ask.refusals:
                ask.attempts += step + 1
                ask.asked = peer
                return peer
        ask.asked = None
        ask.refusals.clear()
        return None

    def _pass_over(self, ask: _Ask, peer: PeerId, now_ms: int) -> None:
        if ask.asked != peer:
            return
        ask.asked = None
        ask.refusals.add(peer)
        if all(p in ask.refusals for p in ask.candidates if p in self._connected):
            ask.refusals.clear()
            ask.due_ms = now_ms + self._retry_ms
        else:
            ask.due_ms = now_ms
