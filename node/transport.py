"""The validator network: one mutually authenticated TLS 1.3 connection per pair of peers.

**Who.** The peers and their roots are known in advance; a connection belongs to the participant
whose registered root issued the certificate it showed, whoever dialled. Until then it can hold
a few seconds and no frame at all, and strangers together are bounded.

**One connection.** Both sides dial, because either may be the one that came back. Of the two, the
participant with the lower code decides: once both hellos are in, it answers `Welcome` with a
rising number on the connection it chose, the newest. The other side uses a connection only after
its welcome and never goes back to a lower number, so both always end up with the same one and a
dead connection is replaced as soon as its peer dials again.

**Sending** never waits: see `peers.SendQueue`. Messages for a peer that is away are dropped, all
but the last votes; consensus asks again for what it needs.

Source of bounds: `node/limits.py`; durations: `[network]` of the configuration.
"""

import contextlib
import errno
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from atpar.ledger.codec import encode
from atpar.ledger.errors import NonCanonical
from atpar.node.config import NetworkSection
from atpar.node.control import (
    CONTROL,
    INSTANCE_BYTES,
    PROTOCOL_VERSION,
    Control,
    Hello,
    Ping,
    Pong,
    Welcome,
)
from atpar.node.errors import AddressUnavailable, PeerFault
from atpar.node.framing import Channel, Frame, FrameDecoder, encode_frame
from atpar.node.identity import Roots, make_contexts
from atpar.node.limits import (
    DIAL_HEAD_START_S,
    GOSSIP_INBOX_PEER_BYTES,
    LISTEN_BACKLOG,
    MAX_UNIDENTIFIED_CONNECTIONS,
    SEND_NOW_BYTES,
)
from atpar.node.logs import get_logger
from atpar.node.metrics import Metrics
from atpar.node.peers import (
    AddressLimits,
    Bans,
    Drop,
    Inbox,
    PeerCounters,
    PeerSpec,
    Received,
    SendQueue,
    make_byte_limit,
    make_rate_limits,
)
from atpar.node.tls import TlsStream

_SETTLED_AFTER_S: Final = 5.0
"""A connection that held this long resets the back-off."""

log = get_logger("transport")


class _Dropped(Exception):
    """Ends one connection, with the reason that is counted and logged."""

    def __init__(self, drop: Drop, message: str) -> None:
        super().__init__(message)
        self.drop = drop


@dataclass(eq=False, slots=True)
class _Session:
    """One connection whose peer is known."""

    stream: TlsStream
    decoder: FrameDecoder
    instance: bytes
    leaf: bytes
    """The certificate that it showed, DER."""
    early: list[Frame]
    """Frames that arrived right behind the welcome."""
    number: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    dropped: _Dropped | None = None
    pings: dict[int, float] = field(default_factory=dict)
    is_writing: bool = False
    """Whether its task is sending at the moment."""


class Peer:
    """One registered peer: its queue, its connection if there is one, its record."""

    def __init__(self, spec: PeerSpec, metrics: Metrics) -> None:
        self.spec = spec
        self.counters = PeerCounters()
        self.queue = SendQueue(self._count_drop)
        self.bans = Bans()
        self.rtt_s: float | None = None
        """Smoothed round trip of pings, queueing included."""
        self.since_s = trio.current_time()
        """When the present connection, or the lack of one, began (trio's clock)."""
        self.is_dialing = False
        self.dialing = trio.CancelScope()
        """Ends the task that dials it."""
        self.session: _Session | None = None
        """The connection in use."""
        self._changed = trio.Event()
        self._metrics = metrics
        self._sent = metrics.peer_bytes.labels(spec.participant, "sent")
        self._received = metrics.peer_bytes.labels(spec.participant, "received")
        self._connected = metrics.peer_connected.labels(spec.participant)

    @property
    def participant(self) -> str:
        """Its code."""
        return self.spec.participant

    @property
    def is_connected(self) -> bool:
        """Whether messages reach it now."""
        return self.session is not None

    @property
    def is_banned(self) -> bool:
        """Whether it is kept out for a while."""
        return self.bans.is_banned(now=trio.current_time())

    async def wait_disconnected(self) -> None:
        """Wait until there is no connection."""
        while self.session is not None:
            await self._changed.wait()

    def _count_drop(self, channel: Channel) -> None:
        self.counters.dropped[channel] += 1
        self._metrics.peer_dropped.labels(self.participant, channel.name.lower()).inc()

    def count_sent(self, size: int) -> None:
        """Count bytes handed to the connection."""
        self.counters.bytes_sent += size
        self._sent.inc(size)

    def count_received(self, size: int) -> None:
        """Count bytes read from the connection."""
        self.counters.bytes_received += size
        self._received.inc(size)

    def use(self, session: _Session | None) -> None:
        """Make a session (or none) the connection."""
        self.session = session
        self.since_s = trio.current_time()
        self._connected.set(0 if session is None else 1)
        if session is None:
            self.queue.forget()
        changed, self._changed = self._changed, trio.Event()
        changed.set()


class Network:
    """Connections to all registered peers. `run` owns every task; the rest never waits.

    Attributes:
        inbox: votes, proposals, fetch and snapshot messages, for the driver. A peer whose share
            is full is read more slowly.
        gossip_inbox: transaction frames, for gossip. What finds no room is ignored and counted.
    """

    def __init__(
        self,
        *,
        own: str,
        chain_id: bytes,
        peers: Sequence[PeerSpec],
        roots: Roots,
        certificate: Path,
        key: Path,
        section: NetworkSection,
        metrics: Metrics,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Raises:
            IdentityInvalid: our certificate and key cannot be used.
        """
        self.own = own
        self.inbox = Inbox()
        self.gossip_inbox = Inbox(max_peer_bytes=GOSSIP_INBOX_PEER_BYTES)
        self.peers = {p.participant: Peer(p, metrics) for p in peers if p.participant != own}
        self.on_change: Callable[[str, bool], None] = lambda _peer, _connected: None
        """Called when a peer's connection stands (True) or is gone (False). Must not wait."""
        self.on_vote: Callable[[str, bytes], None] = lambda _peer, _payload: None
        """Called with each frame of the channel VOTES, before anyone has checked it."""
        self.dismissed: set[str] = set()
        """Members that have left and know it."""
        self._chain_id = chain_id
        self._roots = roots
        self._section = section
        self._metrics = metrics
        self._messages = {c: metrics.messages.labels(c.name.lower()) for c in Channel}
        # Jitter and a nonce, neither of them secret.
        self._rng = rng or random.Random()  # noqa: S311
        self._instance = self._rng.randbytes(INSTANCE_BYTES)
        self._accepting, self._dialing = make_contexts(roots, certificate, key)
        self._strangers: dict[trio.CancelScope, None] = {}
        self._addresses = AddressLimits()
        self._welcomes = 0
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._joined: dict[str, Peer] | None = None
        """Whom something was sent to within `at_once`; None outside."""
        self._voted: dict[str, Peer] = {}
        """Those of them whom a vote was sent to."""

    # ---- for the driver and gossip: plain calls that never wait

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        """Queue a message for one peer. An unknown peer (one that has left) is ignored."""
        target = self.peers.get(peer)
        if target is None:
            return
        if target.is_connected and self._joined is not None:
            target.queue.put(channel, payload, wakes=False)
            self._joined[peer] = target
            if channel is Channel.VOTES:
                self._voted[peer] = target
        elif target.is_connected:
            target.queue.put(channel, payload)
        else:
            target.queue.put_while_away(channel, payload)

    def broadcast(self, channel: Channel, payload: bytes) -> None:
        """Queue a message for every peer."""
        for peer in self.peers:
            self.send(peer, channel, payload)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Send what is sent inside at the end of it, together, and not when tasks have their turn.

        A busy loop gives them one after milliseconds, and votes go three such ways to a block.
        Every peer gets its votes before any peer gets a block, which is milliseconds of encryption.
        Nothing waits: what a connection does not take is left to its task. An exception inside
        stops the node: then nothing is sent.
        """
        joined: dict[str, Peer] = {}
        voted: dict[str, Peer] = {}
        self._joined, self._voted = joined, voted
        try:
            yield
        finally:
            self._joined, self._voted = None, {}
        for peer in voted.values():
            self._send_now(peer, max_bytes=1)  # one run: votes are the first in it
        for peer in joined.values():
            self._send_now(peer, max_bytes=SEND_NOW_BYTES)
            if len(peer.queue) or (peer.session is not None and peer.session.stream.has_unsent):
                peer.queue.wake()

    def _send_now(self, peer: Peer, *, max_bytes: int) -> None:
        """Send runs of frames until so many bytes are sent; nothing while the peer's task sends."""
        session = peer.session
        if session is None or session.dropped is not None:
            return
        sent = 0
        is_free = not (session.is_writing or session.stream.has_unsent or peer.queue.delay_s)
        while is_free and sent < max_bytes and (run := peer.queue.take()):
            try:
                is_free = session.stream.send_now(run)
            except trio.BrokenResourceError as error:
                self._end(peer, _Dropped(Drop.CLOSED, _describe(error)), session)
                return
            sent += len(run)
            peer.count_sent(len(run))

    def drop_peer(self, peer: str, reason: str) -> None:
        """Close a peer's connection for a fault and keep it out for a while, longer each time."""
        target = self.peers.get(peer)
        if target is not None:
            self._ban(target, reason)
            self._end(target, _Dropped(Drop.FAULT, reason))

    def dismiss_peer(self, peer: str) -> None:
        """Close the connection to a member that has left, and refuse it from now on."""
        self.dismissed.add(peer)
        self._remove(peer)

    def _remove(self, peer: str) -> None:
        target = self.peers.pop(peer, None)
        if target is not None:
            target.dialing.cancel()
            self._end(target, _Dropped(Drop.DEPARTED, "no member any more"))

    def update_peers(self, peers: Sequence[PeerSpec], roots: Roots) -> None:
        """Take over another set of peers and registered roots, while running.

        Peers that are not named any more are dismissed, new ones dialled, others kept as they are
        unless the root that issued their certificate is gone.
        """
        # OpenSSL keeps the former roots; `Roots.identify` is what decides.
        for context in (self._accepting, self._dialing):
            context.load_verify_locations(cadata=roots.pem)
        self._roots = roots
        wanted = {spec.participant: spec for spec in peers if spec.participant != self.own}
        for code in [code for code in self.peers if code not in wanted]:
            self._remove(code)
        for code, spec in wanted.items():
            peer = self.peers.get(code)
            if peer is None:
                peer = self.peers[code] = Peer(spec, self._metrics)
                log.info("peer registered", peer=code, address=spec.address)
                self._start_dialing(peer)
            elif peer.spec != spec:
                was_dialled, peer.spec = bool(peer.spec.host), spec
                if not was_dialled:
                    self._start_dialing(peer)
            if peer.session is not None and roots.identify(peer.session.leaf) != code:
                self._end(peer, _Dropped(Drop.DEPARTED, "its root is not registered any more"))

    def _start_dialing(self, peer: Peer) -> None:
        if self._nursery is not None and peer.spec.host:
            self._nursery.start_soon(self._keep_dialing, peer)

    def set_delay(self, peer: str, delay_s: float) -> None:
        """Delay everything sent to a peer, to play a slow line."""
        target = self.peers.get(peer)
        if target is not None:
            target.queue.delay_s = delay_s

    @property
    def connected(self) -> list[str]:
        """Codes of the peers that messages reach now."""
        return [code for code, peer in self.peers.items() if peer.is_connected]

    @property
    def strangers(self) -> int:
        """Accepted connections that have not shown yet who they are."""
        return len(self._strangers)

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Wait until a condition on connections or counters holds; checked at each change."""
        while not is_true():
            await self._changed.wait()

    def observe(self) -> None:
        """Bring the gauges up to date; called before metrics are rendered."""
        for code, peer in self.peers.items():
            self._metrics.peer_queued_bytes.labels(code).set(peer.queue.bytes)
        self._metrics.queue_depth.labels("inbox").set(len(self.inbox))
        self._metrics.queue_depth.labels("gossip_inbox").set(len(self.gossip_inbox))
        self._metrics.queue_depth.labels("strangers").set(len(self._strangers))

    # ---- tasks

    async def listen(self, host: str, port: int) -> list[trio.SocketListener]:
        """Return listeners for `run`; separate, so that a port in use is known at once.

        Raises:
            AddressUnavailable: the port is in use, or the address is not of this machine.
        """
        try:
            return await trio.open_tcp_listeners(port, host=host, backlog=LISTEN_BACKLOG)
        except OSError as error:
            reason = "in use" if error.errno == errno.EADDRINUSE else str(error)
            raise AddressUnavailable(f"network.listen {host}:{port}: {reason}") from error

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and dial until cancelled. Owns the listeners and closes them."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in self.peers.values():
                self._start_dialing(peer)
            await nursery.start(trio.serve_listeners, self._accept, list(listeners))
            task_status.started()

    async def _accept(self, tcp: trio.SocketStream) -> None:
        """Serve one accepted connection; nothing it does reaches further than its own end."""
        if self._is_flood(tcp):
            self._count(Drop.FLOOD)
            await trio.aclose_forcefully(tcp)
            return
        with trio.CancelScope() as scope:
            if len(self._strangers) >= MAX_UNIDENTIFIED_CONNECTIONS:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                oldest.cancel()
                self._count(Drop.EVICTED)
            self._strangers[scope] = None
            try:
                stream = TlsStream(tcp, self._accepting, server_side=True)
                async with self._closing(stream, None):
                    peer, session = await self._identify(stream, expected=None)
                    self._strangers.pop(scope, None)
                    await self._serve(peer, session)
            finally:
                self._strangers.pop(scope, None)
                with contextlib.suppress(OSError):
                    await trio.aclose_forcefully(tcp)

    def _is_flood(self, tcp: trio.SocketStream) -> bool:
        try:
            address = str(tcp.socket.getpeername()[0])
        except OSError:  # it has gone already
            return False
        return self._addresses.is_flooding(address, now=trio.current_time())

    async def _keep_dialing(self, peer: Peer) -> None:
        """Dial a peer until it is dismissed."""
        with peer.dialing:
            await self._dial_repeatedly(peer)

    async def _dial_repeatedly(self, peer: Peer) -> None:
        """Dial a peer whenever there is no connection to it, ever more slowly."""
        shortest_s = self._section.reconnect_min_ms / 1000
        longest_s = self._section.reconnect_max_ms / 1000
        wait_s = 0.0 if self.own < peer.participant else DIAL_HEAD_START_S
        while True:
            if peer.is_connected:
                began = peer.since_s
                await peer.wait_disconnected()
                if trio.current_time() - began > _SETTLED_AFTER_S:
                    wait_s = shortest_s
            banned_s = peer.bans.until - trio.current_time()
            await trio.sleep(max(wait_s * self._rng.uniform(0.5, 1.0), banned_s))
            if not peer.is_connected:
                await self._dial(peer)
                wait_s = min(max(2 * wait_s, shortest_s), longest_s)

    async def _dial(self, peer: Peer) -> None:
        """Dial once, and serve the connection if it comes to be used."""
        peer.is_dialing = True
        try:
            with trio.move_on_after(self._section.handshake_timeout_ms / 1000) as scope:
                tcp = await trio.open_tcp_stream(peer.spec.host, peer.spec.port)
        except OSError as error:
            log.debug("peer not reachable", peer=peer.participant, reason=str(error))
            return
        finally:
            peer.is_dialing = False
        if scope.cancelled_caught:
            log.debug("peer not reachable", peer=peer.participant, reason="no answer in time")
            return
        stream = TlsStream(tcp, self._dialing)
        async with self._closing(stream, peer):
            _, session = await self._identify(stream, expected=peer)
            await self._serve(peer, session)

    @asynccontextmanager
    async def _closing(self, stream: TlsStream, dialled: Peer | None) -> AsyncIterator[None]:
        """Close a stream whatever happens; count and log why it ended."""
        try:
            yield
        except _Dropped as dropped:
            self._count(dropped.drop)
            code = dialled.participant if dialled is not None else None
            log.debug("connection refused", peer=code, drop=dropped.drop, reason=str(dropped))
        finally:
            with contextlib.suppress(OSError):
                await trio.aclose_forcefully(stream)

    # ---- who is it?

    async def _identify(self, stream: TlsStream, *, expected: Peer | None) -> tuple[Peer, _Session]:
        """Return the peer at the other end, after TLS, hello and welcome.

        Raises:
            _Dropped: it is nobody we know, it is too slow, or its connection is not needed.
        """
        with trio.move_on_after(self._section.handshake_timeout_ms / 1000):
            try:
                return await self._shake_hands(stream, expected)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                raise _Dropped(Drop.HANDSHAKE, _describe(error)) from error
            except (PeerFault, NonCanonical) as error:
                raise _Dropped(Drop.HELLO, str(error)) from error
        raise _Dropped(Drop.TIMEOUT, "handshake not finished in time")

    async def _shake_hands(self, stream: TlsStream, expected: Peer | None) -> tuple[Peer, _Session]:
        await stream.do_handshake()
        leaf = stream.get_peer_certificate()
        peer = self._find_peer(leaf, expected)
        if expected is not None and peer.is_connected:
            raise _Dropped(Drop.REPLACED, "it reached us while we were dialling")
        hello = Hello(PROTOCOL_VERSION, self._chain_id, self._instance)
        await stream.send_all(encode_frame(Channel.CONTROL, encode(hello)))
        decoder = FrameDecoder()
        theirs, early = await _receive_control(stream, decoder, [])
        instance = self._check_hello(peer, theirs)
        session = _Session(stream, decoder, instance, leaf, early)
        if self.own < peer.participant:
            if expected is not None and peer.is_connected:
                raise _Dropped(Drop.REPLACED, "it reached us while we were dialling")
            self._welcomes += 1
            session.number = self._welcomes
            await stream.send_all(encode_frame(Channel.CONTROL, encode(Welcome(session.number))))
        else:
            welcome, session.early = await _receive_control(stream, decoder, early)
            if not isinstance(welcome, Welcome):
                raise _Dropped(Drop.HELLO, f"{type(welcome).__name__} instead of a welcome")
            session.number = welcome.number
        return peer, session

    def _find_peer(self, leaf: bytes, expected: Peer | None) -> Peer:
        """Return the peer that a finished TLS handshake proved."""
        code = self._roots.identify(leaf)
        peer = None if code is None else self.peers.get(code)
        if peer is None:
            who = "nobody registered" if code is None else code
            raise _Dropped(Drop.UNREGISTERED, f"the certificate belongs to {who}")
        if expected is not None and peer is not expected:
            raise _Dropped(
                Drop.WRONG_PEER,
                f"{peer.participant} answers at {expected.spec.address}, "
                f"expected {expected.participant}",
            )
        if peer.is_banned:
            raise _Dropped(Drop.BANNED, f"{peer.participant} is kept out for now")
        return peer

    def _check_hello(self, peer: Peer, hello: Control) -> bytes:
        """Return the instance that a hello names, after checking that we can talk at all."""
        if not isinstance(hello, Hello):
            raise _Dropped(Drop.HELLO, f"{type(hello).__name__} instead of a hello")
        if hello.protocol != PROTOCOL_VERSION:
            message = f"protocol {hello.protocol}, ours is {PROTOCOL_VERSION}"
        elif hello.chain_id != self._chain_id:
            message = f"chain {hello.chain_id.hex()[:16]}, ours is {self._chain_id.hex()[:16]}"
        else:
            return hello.instance
        log.warning("peer speaks of something else", peer=peer.participant, reason=message)
        raise _Dropped(Drop.HELLO, message)

    # ---- a connection in use

    async def _serve(self, peer: Peer, session: _Session) -> None:
        """Exchange frames on a connection until it ends."""
        if self.peers.get(peer.participant) is not peer:
            raise _Dropped(Drop.DEPARTED, f"{peer.participant} left during the handshake")
        current = peer.session
        if current is not None:
            if current.instance == session.instance and session.number < current.number:
                raise _Dropped(Drop.REPLACED, "a newer connection is in use")
            self._end(peer, _Dropped(Drop.REPLACED, "a newer connection took over"))
        peer.use(session)
        peer.counters.connections += 1
        log.info("peer connected", peer=peer.participant, number=session.number)
        self._announce(peer, connected=True)
        try:
            with session.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, peer, session)
                    nursery.start_soon(self._ping, peer, session)
                    nursery.start_soon(self._read, peer, session)
        finally:
            if peer.session is session:
                peer.use(None)
            self._report_end(peer, session)

    def _report_end(self, peer: Peer, session: _Session) -> None:
        if session.dropped is not None:
            peer.counters.last_drop = f"{session.dropped.drop}: {session.dropped}"
            self._metrics.connections_dropped.labels(session.dropped.drop.value).inc()
            log.info(
                "peer disconnected",
                peer=peer.participant,
                drop=session.dropped.drop.value,
                reason=str(session.dropped),
            )
        if not peer.is_connected:
            self._announce(peer, connected=False)
        self._wake()

    async def _write(self, peer: Peer, session: _Session) -> None:
        """Send what is queued, in runs of frames; a peer that does not read is dropped."""
        patience_s = self._section.idle_timeout_ms / 1000
        while True:
            run = peer.queue.take()
            if not run and not session.stream.has_unsent:
                await peer.queue.wait()
                continue
            session.is_writing = True
            with trio.move_on_after(patience_s) as scope:
                try:
                    await session.stream.send_all(run)
                    # What the system takes at once is sent without a wait: others have a turn too.
                    await trio.lowlevel.checkpoint()
                except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                    self._end(peer, _Dropped(Drop.CLOSED, _describe(error)), session)
                    return
            if scope.cancelled_caught:
                self._end(peer, _Dropped(Drop.STALLED, "does not read what we send"), session)
                return
            session.is_writing = False
            peer.count_sent(len(run))

    async def _ping(self, peer: Peer, session: _Session) -> None:
        """Ask now and then whether the peer is still there, and how far away."""
        interval_s = self._section.ping_interval_ms / 1000
        number = 0
        while True:
            number += 1
            session.pings = {number: trio.current_time()}  # an older one will not be missed
            peer.queue.put(Channel.CONTROL, encode(Ping(number)))
            await trio.sleep(interval_s * self._rng.uniform(0.8, 1.0))

    async def _read(self, peer: Peer, session: _Session) -> None:
        """Take in frames, as fast as the limits of the peer allow."""
        limits = make_rate_limits()
        by_bytes = make_byte_limit()
        idle_s = self._section.idle_timeout_ms / 1000
        frames = session.early
        try:
            while True:
                for frame in frames:
                    await self._pause(limits[frame.channel].charge(1, now=trio.current_time()))
                    await self._dispatch(peer, session, frame)
                data = await _receive(session.stream, idle_s)
                peer.count_received(len(data))
                await self._pause(by_bytes.charge(len(data), now=trio.current_time()))
                frames = session.decoder.feed(data)
        except _Dropped as dropped:
            self._end(peer, dropped, session)
        except (PeerFault, NonCanonical) as error:
            self._ban(peer, str(error))
            self._end(peer, _Dropped(Drop.FAULT, str(error)), session)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            self._end(peer, _Dropped(Drop.CLOSED, _describe(error)), session)

    @staticmethod
    async def _pause(seconds: float) -> None:
        if seconds > 0:
            await trio.sleep(seconds)

    async def _dispatch(self, peer: Peer, session: _Session, frame: Frame) -> None:
        peer.counters.frames_received += 1
        self._messages[frame.channel].inc()
        message = Received(peer.participant, frame.channel, frame.payload)
        match frame.channel:
            case Channel.CONTROL:
                self._handle_control(peer, session, CONTROL.decode(frame.payload))
            case Channel.TRANSACTIONS:
                if not self.gossip_inbox.offer(message):
                    peer.counters.ignored += 1
                    self._metrics.queue_dropped.labels("gossip_inbox").inc()
            case _:
                if frame.channel is Channel.VOTES:
                    self.on_vote(peer.participant, frame.payload)
                await self.inbox.put(message)

    def _handle_control(self, peer: Peer, session: _Session, message: Control) -> None:
        match message:
            case Ping(number):
                peer.queue.put(Channel.CONTROL, encode(Pong(number)))
            case Pong(number):
                sent_at = session.pings.pop(number, None)
                if sent_at is not None:
                    sample = trio.current_time() - sent_at
                    peer.rtt_s = sample if peer.rtt_s is None else 0.8 * peer.rtt_s + 0.2 * sample
            case Hello() | Welcome():
                raise PeerFault(f"{type(message).__name__} on a connection in use")

    # ---- ends

    def _end(self, peer: Peer, dropped: _Dropped, session: _Session | None = None) -> None:
        """End a session of a peer (the present one unless given); the first reason counts."""
        target = session or peer.session
        if target is not None:
            if target.dropped is None:
                target.dropped = dropped
            target.scope.cancel()

    def _ban(self, peer: Peer, reason: str) -> None:
        length_s = peer.bans.ban(now=trio.current_time())
        log.warning("peer kept out", peer=peer.participant, seconds=length_s, reason=reason)

    def _count(self, drop: Drop) -> None:
        self._metrics.connections_dropped.labels(drop.value).inc()
        self._wake()

    def _announce(self, peer: Peer, *, connected: bool) -> None:
        self.on_change(peer.participant, connected)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


async def _receive(stream: TlsStream, idle_s: float) -> bytes:
    """Return the next bytes of a connection in use, never none."""
    with trio.move_on_after(idle_s):
        data = await stream.receive_some()
        if not data:
            raise _Dropped(Drop.CLOSED, "closed by the peer")
        return data
    raise _Dropped(Drop.IDLE, f"silent for {idle_s} s")


async def _receive_control(
    stream: TlsStream, decoder: FrameDecoder, frames: list[Frame]
) -> tuple[Control, list[Frame]]:
    """Return the next control message and the frames that came with it."""
    while not frames:
        data = await stream.receive_some()
        if not data:
            raise _Dropped(Drop.CLOSED, "closed during the handshake")
        frames = decoder.feed(data)
    first, *rest = frames
    if first.channel is not Channel.CONTROL:
        raise PeerFault(f"{first.channel.name} frame during the handshake")
    return CONTROL.decode(first.payload), rest


def _describe(error: BaseException) -> str:
    """Return an error with its cause: trio wraps what the ssl module says."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        return cause.reason or str(cause)
    return str(cause or error) or type(error).__name__
