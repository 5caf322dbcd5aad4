"""Hostile connections on loopback: each is dropped and counted, the node lives, memory holds."""

import gc
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from atpar.ledger.codec import encode
from atpar.node.config import NetworkSection
from atpar.node.control import CONTROL, PROTOCOL_VERSION, Hello, Welcome
from atpar.node.framing import Channel, FrameDecoder, encode_frame
from atpar.node.identity import Credential, create_root, issue_leaf
from atpar.node.limits import (
    CONNECTION_BURST,
    MAX_UNIDENTIFIED_CONNECTIONS,
)
from atpar.node.peers import Drop
from tests.node.network import (
    CHAIN,
    CODES,
    FAST,
    Node,
    get_root,
    make_roots,
    running,
    wait_connected,
    write_leaf,
)
from tests.patience import DEADLINE_S

Stream = trio.SSLStream[trio.SocketStream]
QUICK = msgspec.structs.replace(FAST, handshake_timeout_ms=300)


_opened: list[trio.SocketStream] = []


@pytest.fixture(autouse=True)
async def _close_sockets() -> AsyncIterator[None]:
    yield
    while _opened:
        await trio.aclose_forcefully(_opened.pop())


def running_pair(
    folder: Path, section: NetworkSection = FAST
) -> AbstractAsyncContextManager[list[Node]]:
    """Run ALFA and BRVO. Only BRVO dials: no connection of theirs is one too many, and ended."""
    return running(folder, CODES[:2], section=section, observers=CODES[1:2])


async def connect(node: Node) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    _opened.append(stream)
    return stream


async def connect_tls(node: Node, folder: Path, leaf: Credential | None) -> Stream:
    """Dial a node as a hostile client with any certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=make_roots().pem)
    if leaf is not None:
        context.load_cert_chain(*write_leaf(folder, "EVIL", leaf))
    stream = trio.SSLStream(await connect(node), context)
    await stream.do_handshake()
    return stream


async def is_closed(stream: trio.abc.ReceiveStream) -> bool:
    """Return whether the node ends the connection (anything it says before is ignored)."""
    with trio.move_on_after(DEADLINE_S):
        try:
            while await stream.receive_some(65_536):
                pass
        except (trio.BrokenResourceError, OSError):
            pass
        return True
    return False


async def join_as(node: Node, folder: Path, code: str) -> Stream:
    """Become the peer `code` of a node whose own code is lower: it welcomes."""
    stream = await connect_tls(node, folder, issue_leaf(get_root(code), code))
    hello = Hello(PROTOCOL_VERSION, CHAIN, bytes(16))
    await stream.send_all(encode_frame(Channel.CONTROL, encode(hello)))
    decoder = FrameDecoder()
    with trio.fail_after(DEADLINE_S):
        while True:
            for frame in decoder.feed(bytes(await stream.receive_some(65_536))):
                if isinstance(CONTROL.decode(frame.payload), Welcome):
                    return stream


async def check_alive(nodes: list[Node]) -> None:
    """The honest pair still exchanges messages."""
    alfa, brvo = nodes[:2]
    await wait_connected(alfa, 1)
    await wait_connected(brvo, 1)
    alfa.network.send("BRVO", Channel.VOTES, b"alive")
    with trio.fail_after(DEADLINE_S):
        assert (await brvo.network.inbox.receive()).payload == b"alive"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: bank\r\n\r\n",
        bytes(5),
        b"\x16\x03\x01\xff\xff" * 9,
        b"\xff" * 4096,
    ],
)
async def test_garbage_before_tls_is_dropped_and_counted(tmp_path: Path, garbage: bytes) -> None:
    async with running_pair(tmp_path) as nodes:
        before = nodes[0].count_dropped(Drop.HANDSHAKE)
        stream = await connect(nodes[0])
        await stream.send_all(garbage)
        assert await is_closed(stream)
        assert nodes[0].count_dropped(Drop.HANDSHAKE) == before + 1
        await check_alive(nodes)


def count_strangers(node: Node) -> int:
    """Return how many connections ended over a certificate."""
    return node.count_dropped(Drop.HANDSHAKE) + node.count_dropped(Drop.UNREGISTERED)


def expired_leaf() -> Credential:
    past = datetime.now(UTC) - timedelta(days=1)
    return issue_leaf(get_root("CHRL"), "CHRL", not_before=past - timedelta(days=9), not_after=past)


@pytest.mark.parametrize(
    "leaf",
    [
        pytest.param(None, id="none"),
        pytest.param(issue_leaf(create_root("CHRL"), "CHRL"), id="unregistered-root"),
        pytest.param(create_root("CHRL"), id="self-signed"),
        pytest.param(expired_leaf(), id="expired"),
        pytest.param(get_root("CHRL"), id="the-root-itself"),
    ],
)
async def test_wrong_certificate_is_dropped_and_counted(
    tmp_path: Path, leaf: Credential | None
) -> None:
    async with running_pair(tmp_path) as nodes:
        before = count_strangers(nodes[0])
        try:
            stream = await connect_tls(nodes[0], tmp_path, leaf)
        except trio.BrokenResourceError:
            pass
        else:
            assert await is_closed(stream)
        await nodes[0].wait_until(lambda: count_strangers(nodes[0]) == before + 1)
        await check_alive(nodes)


async def test_leaf_of_a_registered_root_that_is_no_peer_is_refused(tmp_path: Path) -> None:
    """DLTA's root is registered, but only ALFA and BRVO are peers of this network."""
    async with running(tmp_path, CODES[:2]) as nodes:
        stream = await connect_tls(nodes[0], tmp_path, issue_leaf(get_root("DLTA"), "BRVO"))
        assert await is_closed(stream)
        assert nodes[0].count_dropped(Drop.UNREGISTERED) == 1
        await check_alive(nodes)


async def test_name_in_the_certificate_makes_nobody_a_peer(tmp_path: Path) -> None:
    """A leaf that says BRVO but comes from CHRL's root is CHRL to everyone."""
    async with running(tmp_path, CODES[:3]) as nodes:
        alfa = nodes[0]
        leaf = issue_leaf(get_root("CHRL"), "BRVO")
        number = alfa.network.peers["BRVO"].session
        stream = await connect_tls(alfa, tmp_path, leaf)
        hello = Hello(PROTOCOL_VERSION, CHAIN, bytes(16))
        await stream.send_all(encode_frame(Channel.CONTROL, encode(hello)))
        await alfa.wait_dropped(Drop.REPLACED)
        assert alfa.network.peers["BRVO"].session is number


async def test_frame_of_four_gigabytes_ends_the_connection(tmp_path: Path) -> None:
    async with running(tmp_path, ("ALFA", "BRVO"), connected=False) as nodes:
        alfa, brvo = nodes
        brvo.scope.cancel()
        stream = await join_as(alfa, tmp_path, "BRVO")
        await wait_connected(alfa, 1)
        gc.collect()
        tracemalloc.start()
        await stream.send_all(b"\xff\xff\xff\xff" + b"\x02" + bytes(60_000))
        assert await is_closed(stream)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * 1024 * 1024
        assert alfa.count_dropped(Drop.FAULT) == 1
        assert alfa.network.peers["BRVO"].is_banned
        assert alfa.network.strangers == 0


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Channel.CONTROL, b"\xc1"),
        encode_frame(Channel.CONTROL, encode(Hello(PROTOCOL_VERSION, CHAIN, bytes(16)))),
        encode_frame(Channel.CONTROL, encode(Welcome(7))),
        b"\0\0\0\x02\x09x",
        bytes(4),
    ],
)
async def test_nonsense_on_a_connection_in_use_is_a_fault(tmp_path: Path, frame: bytes) -> None:
    async with running(tmp_path, ("ALFA", "BRVO"), connected=False) as nodes:
        alfa, brvo = nodes
        brvo.scope.cancel()
        stream = await join_as(alfa, tmp_path, "BRVO")
        await stream.send_all(frame)
        assert await is_closed(stream)
        assert alfa.count_dropped(Drop.FAULT) == 1


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Channel.VOTES, b"vote"),
        encode_frame(Channel.CONTROL, encode(Welcome(1))),
        encode_frame(Channel.CONTROL, b"\xc1"),
        encode_frame(Channel.CONTROL, encode(Hello(9, CHAIN, bytes(16)))),
        encode_frame(Channel.CONTROL, encode(Hello(PROTOCOL_VERSION, bytes(32), bytes(16)))),
        b"\xff\xff\xff\xff",
    ],
)
async def test_anything_but_our_hello_is_refused(tmp_path: Path, frame: bytes) -> None:
    async with running(tmp_path, ("ALFA", "BRVO"), connected=False) as nodes:
        alfa, brvo = nodes
        brvo.scope.cancel()
        stream = await connect_tls(alfa, tmp_path, issue_leaf(get_root("BRVO"), "BRVO"))
        await stream.send_all(frame)
        assert await is_closed(stream)
        await alfa.wait_dropped(Drop.HELLO)
        assert alfa.network.connected == []


async def test_slow_loris_is_dropped_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2], section=QUICK) as nodes:
        stream = await connect(nodes[0])

        async def drip() -> None:
            try:
                for byte in b"\x16\x03\x01\x02\x00\x01\x00" * 1_000:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.01)  # the attack itself is slow
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            await nodes[0].wait_dropped(Drop.TIMEOUT)
            nursery.cancel_scope.cancel()
        await check_alive(nodes)


async def test_half_open_connection_after_tls_is_dropped_in_time(tmp_path: Path) -> None:
    async with running_pair(tmp_path, section=QUICK) as nodes:
        leaf = issue_leaf(get_root("BRVO"), "BRVO")
        before = nodes[0].count_dropped(Drop.TIMEOUT)
        stream = await connect_tls(nodes[0], tmp_path, leaf)
        assert await is_closed(stream)
        assert nodes[0].count_dropped(Drop.TIMEOUT) == before + 1
        await check_alive(nodes)


async def test_flood_of_connections_is_bounded_and_the_network_lives(tmp_path: Path) -> None:
    flood = MAX_UNIDENTIFIED_CONNECTIONS * 3
    section = msgspec.structs.replace(FAST, handshake_timeout_ms=60_000)  # evicted, not timed out
    async with running(tmp_path, CODES[:2], section=section) as nodes:
        alfa = nodes[0]
        for _ in range(flood):
            await connect(alfa)
            assert alfa.network.strangers <= MAX_UNIDENTIFIED_CONNECTIONS
        await alfa.wait_dropped(Drop.EVICTED, flood - MAX_UNIDENTIFIED_CONNECTIONS)
        assert alfa.network.strangers <= MAX_UNIDENTIFIED_CONNECTIONS
        await check_alive(nodes)


async def test_flood_beyond_the_rate_is_closed_before_tls(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as nodes:
        count = 0
        while not nodes[0].count_dropped(Drop.FLOOD):
            await trio.aclose_forcefully(await connect(nodes[0]))
            count += 1
            assert count < 10 * CONNECTION_BURST
        assert count > CONNECTION_BURST
        await check_alive(nodes)


async def test_newcomer_gets_in_during_a_flood(tmp_path: Path) -> None:
    async with running(tmp_path, ("ALFA", "BRVO"), connected=False) as nodes:
        alfa, brvo = nodes
        brvo.scope.cancel()
        for _ in range(MAX_UNIDENTIFIED_CONNECTIONS * 2):
            await connect(alfa)
        await join_as(alfa, tmp_path, "BRVO")
        await wait_connected(alfa, 1)


async def test_peer_that_never_reads_costs_bounded_memory(tmp_path: Path) -> None:
    section = msgspec.structs.replace(FAST, idle_timeout_ms=500, ping_interval_ms=100)
    async with running(tmp_path, ("ALFA", "BRVO"), section=section, connected=False) as nodes:
        alfa, brvo = nodes
        brvo.scope.cancel()
        stream = await join_as(alfa, tmp_path, "BRVO")
        await wait_connected(alfa, 1)
        peer = alfa.network.peers["BRVO"]
        block = bytes(4 * 1024 * 1024)

        async def keep_pinging() -> None:
            while True:
                await stream.send_all(encode_frame(Channel.VOTES, b"I am fine"))
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_pinging)
            for _ in range(100):
                alfa.network.send("BRVO", Channel.PROPOSALS, block)
            assert peer.queue.bytes < 4 * len(block)
            assert peer.counters.dropped[Channel.PROPOSALS] > 90
            # Where this process is held up as long as ALFA waits, its own pings are late too.
            await alfa.wait_until(
                lambda: alfa.count_dropped(Drop.STALLED) or alfa.count_dropped(Drop.IDLE)
            )
            nursery.cancel_scope.cancel()
        assert peer.queue.bytes == 0


async def test_flood_of_an_identified_peer_is_read_no_faster_than_the_driver(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ("ALFA", "BRVO"), connected=False) as nodes:
        alfa, brvo = nodes
        brvo.scope.cancel()
        stream = await join_as(alfa, tmp_path, "BRVO")
        await wait_connected(alfa, 1)
        block = encode_frame(Channel.PROPOSALS, bytes(1024 * 1024))
        gossip = encode_frame(Channel.TRANSACTIONS, bytes(1024 * 1024))
        inbox, gossip_inbox = alfa.network.inbox, alfa.network.gossip_inbox

        async def flood() -> None:
            while True:
                await stream.send_all(gossip + block)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with trio.fail_after(DEADLINE_S):
                while not alfa.network.peers["BRVO"].counters.ignored:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                await trio.testing.wait_all_tasks_blocked(0.03)  # until nothing is read any more
            held = sum(inbox._bytes.values()) + sum(gossip_inbox._bytes.values())
            nursery.cancel_scope.cancel()
        assert held <= inbox.max_peer_bytes + gossip_inbox.max_peer_bytes + 2 * len(block)
