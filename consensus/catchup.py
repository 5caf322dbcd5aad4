"""What is missing, whom it was asked of, and when to ask the next one.

Needs are declared, not queued: after every step the engine says what it lacks right now, and this
module keeps one request outstanding per need, in rotation over the peers that should have it. A
need that is no longer declared is dropped, an answer to a question not asked is ignored, and peers
that answer "I do not have it" are passed over at once until all were asked. An answer may come
after the next peer was asked already: over a slow line every answer does.

Ranges of final blocks are fetched from one peer after the other, so that one which answers little,
or late, holds nobody up. Parts that no certificate proves yet are asked of one peer alone, whose
word they are; when it falls silent the range begins anew with the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from atpar.consensus.effects import Send
from atpar.consensus.limits import MAX_TURNS_PER_PART
from atpar.consensus.messages import BlockRequest, CertificatesRequest, SyncRequest
from atpar.consensus.types import PeerId


@dataclass(slots=True)
class _Ask:
    """One need: whom to ask, how often it was asked, and when the next attempt is due."""

    candidates: tuple[PeerId, ...]
    due_ms: int
    attempts: int = 0
    asked: PeerId | None = None
    all_asked: set[PeerId] = field(default_factory=set)
    """Everyone who was asked: an answer may be late."""
    unanswered: set[PeerId] = field(default_factory=set)
    refusals: set[PeerId] = field(default_factory=set)
    turns: int = 0
    """How often somebody was, or should have been, asked."""


@dataclass(slots=True)
class Needs:
    """What is lacking right now."""

    bodies: dict[bytes, list[PeerId]] = field(default_factory=dict)
    """Digest of a block -> who should hold it."""
    first_view: int | None = None
    """Certificates of either kind are lacking from this view on."""
    view_hint: PeerId | None = None
    view_grace_ms: int = 0
    """How long to wait for certificates to come by themselves."""
    first_height: int | None = None
    """Final blocks are lacking from this height on."""
    height_hint: PeerId | None = None
    is_continued: bool = False
    """Those go on where unproven blocks of the hinted peer end: only it is asked."""

    def add_certificates(self, first_view: int, hint: PeerId | None, *, grace_ms: int) -> None:
        """Lack certificates from a view on; the lowest view and the shortest grace win."""
        if self.first_view is None:
            self.first_view, self.view_grace_ms = first_view, grace_ms
        self.first_view = min(self.first_view, first_view)
        self.view_grace_ms = min(self.view_grace_ms, grace_ms)
        self.view_hint = self.view_hint or hint


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
        self._served: PeerId | None = None
        """Who gave, or failed to give, a range last: the next one is asked of others first."""

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

    def is_connected(self, peer: PeerId) -> bool:
        """Return whether a peer can be reached."""
        return peer in self._connected

    def disconnect(self, peer: PeerId, now_ms: int) -> None:
        """Note that a peer cannot be reached; what was asked of it is due again."""
        self._connected.pop(peer, None)
        for ask in self._get_asks():
            if ask.asked == peer:
                ask.asked = None
                ask.due_ms = now_ms

    def declare(self, needs: Needs, now_ms: int, *, body_grace_ms: int) -> None:
        """Take what is lacking now in place of what was lacking before.

        A need that stands already keeps its turn; a new one is asked about at once, or after its
        grace.
        """
        for digest in [digest for digest in self._bodies if digest not in needs.bodies]:
            del self._bodies[digest]
        for digest, holders in needs.bodies.items():
            if digest not in self._bodies:
                self._bodies[digest] = _Ask(self._order(holders), now_ms + body_grace_ms)
        self._renew_certificates(needs, now_ms + needs.view_grace_ms)
        self._renew_sync(needs, now_ms)

    def _renew_certificates(self, needs: Needs, due_ms: int) -> None:
        held, first, hint = self._certificates, needs.first_view, needs.view_hint
        if first is None:
            self._certificates = None
        elif held is None or held[0] != first:
            self._certificates = first, _Ask(self._order(() if hint is None else (hint,)), due_ms)
        elif held[1].attempts == 0:
            held[1].due_ms = min(held[1].due_ms, due_ms)

    def _renew_sync(self, needs: Needs, now_ms: int) -> None:
        held, first, hint = self._sync, needs.first_height, needs.height_hint
        if first is None:
            self._sync = None
        elif held is None or held[0] != first:
            order = self._order_sync(hint, is_continued=needs.is_continued)
            self._sync = first, _Ask(order, now_ms)

    def _order_sync(self, hint: PeerId | None, *, is_continued: bool) -> tuple[PeerId, ...]:
        """Whom to ask for a range: the hinted one first, whoever served last at the end."""
        hinted = () if hint is None else (hint,)
        if is_continued:
            return hinted
        served = self._served
        at = self._members.index(served) + 1 if served in self._members else 0
        turned = (*self._members[at:], *self._members[:at])
        first = () if hint == served else hinted
        return tuple(dict.fromkeys((*first, *turned, *hinted)))

    def is_wanted(self, digest: bytes) -> bool:
        """Return whether a block is lacking."""
        return digest in self._bodies

    def get_sync_height(self, peer: PeerId) -> int | None:
        """Return the height from which this peer was asked for final blocks."""
        if self._sync is None or peer not in self._sync[1].all_asked:
            return None
        return self._sync[0]

    def note_served(self, peer: PeerId) -> None:
        """Note that a peer gave a range, or failed in the middle of one."""
        self._served = peer

    def is_sync_stuck(self, now_ms: int) -> bool:
        """Return whether the peer that unproven blocks came from was asked in vain to go on."""
        ask = None if self._sync is None else self._sync[1]
        return ask is not None and ask.turns >= MAX_TURNS_PER_PART and ask.due_ms <= now_ms

    def refuse_body(self, digest: bytes, peer: PeerId, now_ms: int) -> None:
        """Note that a peer does not have a wanted block, or sent another: ask the next."""
        self._pass_over(self._bodies[digest], peer, now_ms)

    def refuse_certificates(self, peer: PeerId, now_ms: int) -> None:
        """Note that a peer's answer did not fill the need, which still stands: ask the next."""
        if self._certificates is not None:
            self._pass_over(self._certificates[1], peer, now_ms)

    def refuse_sync(self, peer: PeerId, now_ms: int) -> bool:
        """Note that an asked peer has no final blocks. Return whether all were asked in vain."""
        assert self._sync is not None
        return self._pass_over(self._sync[1], peer, now_ms)

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
        if ask.turns and ask.turns % count == 0:
            # Who did not have it may have it by now, while others do not answer at all.
            ask.refusals.clear()
        ask.turns += 1
        for step in range(count):
            peer = ask.candidates[(ask.attempts + step) % count]
            if peer in self._connected and peer not in ask.refusals:
                ask.attempts += step + 1
                ask.asked = peer
                ask.all_asked.add(peer)
                ask.unanswered.add(peer)
                return peer
        ask.asked = None
        ask.refusals.clear()
        return None

    def _pass_over(self, ask: _Ask, peer: PeerId, now_ms: int) -> bool:
        """Ask the next instead of a peer that refused. Return whether all were asked in vain."""
        if peer not in ask.unanswered:
            return False
        ask.unanswered.discard(peer)
        ask.refusals.add(peer)
        if ask.asked not in (None, peer):
            return False
        ask.asked = None
        is_vain = all(p in ask.refusals for p in ask.candidates if p in self._connected)
        ask.due_ms = now_ms + self._retry_ms if is_vain else now_ms
        if is_vain:
            ask.refusals.clear()
        return is_vain
