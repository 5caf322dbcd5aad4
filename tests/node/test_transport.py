"""The validator network on real loopback sockets: one connection a pair, priorities, returns."""

import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from atpar.node.errors import AddressUnavailable, Halted
from atpar.node.framing import Channel
from atpar.node.identity import Roots, create_root
from atpar.node.limits import MAX_QUEUED_PROPOSAL_BYTES, SEND_BATCH_BYTES
from atpar.node.metrics import Metrics
from atpar.node.peers import Drop, PeerSpec, Received
from tests.node.network import (
    CODES,
    FAST,
    Node,
    get_root,
    make_network,
    make_roots,
    open_listener,
    port_of,
    running,
    start,
    wait_connected,
)
from tests.patience import DEADLINE_S


async def receive(node: Node) -> Received:
    with trio.fail_after(DEADLINE_S):
        return await node.network.inbox.receive()


async def wait_sent(node: Node) -> None:
    """Wait until a node's connections have sent everything that was queued."""
    with trio.fail_after(DEADLINE_S):
        for peer in node.network.peers.values():
            while peer.queue.bytes or peer.session is None or peer.session.is_writing:
                await trio.sleep(0.001)


async def test_four_nodes_connect_and_every_message_arrives_once(tmp_path: Path) -> None:
    async with running(tmp_path, CODES) as nodes:
        for node in nodes:
            node.network.broadcast(Channel.VOTES, node.network.own.encode())
        for node in nodes:
            received = [await receive(node) for _ in range(3)]
            others = sorted(set(CODES) - {node.network.own})
            assert sorted(message.peer for message in received) == others
            assert all(message.payload.decode() == message.peer for message in received)
            assert len(node.network.inbox) == 0


async def test_messages_of_a_channel_keep_their_order(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        for number in range(500):
            alfa.network.send("BRVO", Channel.FETCH, number.to_bytes(2, "big"))
        received = [(await receive(brvo)).payload for _ in range(500)]
        assert received == [number.to_bytes(2, "big") for number in range(500)]


async def test_largest_frames_arrive_whole(tmp_path: Path) -> None:
    block = bytes(range(256)) * 16_384
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        brvo.network.send("ALFA", Channel.PROPOSALS, block)
        assert await receive(alfa) == ("BRVO", Channel.PROPOSALS, block)


async def test_transactions_arrive_in_their_own_inbox(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        alfa.network.broadcast(Channel.TRANSACTIONS, b"batch")
        with trio.fail_after(DEADLINE_S):
            message = await brvo.network.gossip_inbox.receive()
        assert message == ("ALFA", Channel.TRANSACTIONS, b"batch")


async def test_pair_keeps_one_connection_when_both_dial(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        alfa.network.send("BRVO", Channel.VOTES, b"1")
        await receive(brvo)
        brvo.network.send("ALFA", Channel.VOTES, b"2")
        await receive(alfa)
        assert alfa.network.connected == ["BRVO"]
        assert brvo.network.connected == ["ALFA"]
        sessions = alfa.network.peers["BRVO"].session, brvo.network.peers["ALFA"].session
        assert sessions[0] is not None
        assert sessions[1] is not None
        assert sessions[0].number == sessions[1].number


async def test_observer_without_address_dials_in(tmp_path: Path) -> None:
    async with running(tmp_path, ("ALFA", "BRVO"), observers=("ALFA",)) as (alfa, brvo):
        brvo.network.broadcast(Channel.VOTES, b"certificate")
        assert (await receive(alfa)).peer == "BRVO"


async def test_peer_that_returns_is_connected_again(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:3]) as nodes, trio.open_nursery() as nursery:
        alfa, brvo, chrl = nodes
        changes: list[tuple[str, bool]] = []
        alfa.network.on_change = lambda peer, connected: changes.append((peer, connected))
        port = chrl.port
        chrl.scope.cancel()
        await wait_connected(alfa, 1)
        await wait_connected(brvo, 1)
        await trio.testing.wait_all_tasks_blocked()
        with socket.socket() as holder:  # nobody else is given the port meanwhile
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", port))
            metrics = Metrics()
            specs = [PeerSpec(n.network.own, "127.0.0.1", n.port) for n in (alfa, brvo)]
            network = make_network(tmp_path, "CHRL", specs, metrics=metrics)
            again = await start(nursery, network, metrics, await open_listener(port))
        await wait_connected(again, 2)
        await wait_connected(alfa, 2)
        # Both dial, so a second connection may take the place of the first.
        assert [changes[0], changes[-1]] == [("CHRL", False), ("CHRL", True)]
        alfa.network.broadcast(Channel.VOTES, b"welcome back")
        assert (await receive(again)).payload == b"welcome back"
        nursery.cancel_scope.cancel()


async def test_last_votes_wait_for_a_peer_that_is_away_and_nothing_else_does(
    tmp_path: Path,
) -> None:
    away = await open_listener()
    here = await open_listener()
    specs = [
        PeerSpec("ALFA", "127.0.0.1", port_of(here)),
        PeerSpec("BRVO", "127.0.0.1", port_of(away)),
    ]
    async with trio.open_nursery() as nursery:
        metrics = Metrics()
        network = make_network(tmp_path, "ALFA", specs, metrics=metrics)
        for number in range(100):
            network.send("BRVO", Channel.VOTES, bytes([number]))
            network.send("BRVO", Channel.PROPOSALS, bytes(1000))
            network.send("BRVO", Channel.TRANSACTIONS, bytes(1000))
        assert network.peers["BRVO"].queue.bytes == 64
        await start(nursery, network, metrics, here)
        metrics = Metrics()
        brvo = await start(
            nursery, make_network(tmp_path, "BRVO", specs, metrics=metrics), metrics, away
        )
        received = [(await receive(brvo)).payload[0] for _ in range(64)]
        assert received == list(range(36, 100))
        nursery.cancel_scope.cancel()


async def test_dropped_peer_stays_out_twice_as_long_each_time(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        peer = alfa.network.peers["BRVO"]
        for length in (1, 2, 4):
            before = trio.current_time()
            alfa.network.drop_peer("BRVO", "sent nonsense")
            assert before + length <= peer.bans.until <= trio.current_time() + length
        assert peer.is_banned
        peer.bans.until += 3_600
        await wait_connected(alfa, 0)
        await brvo.wait_until(lambda: brvo.network.connected == [])
        await alfa.wait_dropped(Drop.BANNED)
        peer.bans.until = trio.current_time()
        await wait_connected(alfa, 1)


async def test_peer_of_another_chain_is_refused(tmp_path: Path) -> None:
    here, there = await open_listener(), await open_listener()
    specs = [
        PeerSpec("ALFA", "127.0.0.1", port_of(here)),
        PeerSpec("BRVO", "127.0.0.1", port_of(there)),
    ]
    async with trio.open_nursery() as nursery:
        metrics = Metrics()
        network = make_network(tmp_path, "ALFA", specs, metrics=metrics)
        alfa = await start(nursery, network, metrics, here)
        metrics = Metrics()
        network = make_network(tmp_path, "BRVO", specs, metrics=metrics, chain_id=bytes(32))
        await start(nursery, network, metrics, there)
        await alfa.wait_dropped(Drop.HELLO)
        assert alfa.network.connected == []
        nursery.cancel_scope.cancel()


async def test_another_institution_at_an_address_is_refused(tmp_path: Path) -> None:
    here, there = await open_listener(), await open_listener()
    specs = [PeerSpec("BRVO", "127.0.0.1", port_of(there)), PeerSpec("CHRL", "127.0.0.1", 9)]
    async with trio.open_nursery() as nursery:
        metrics = Metrics()
        network = make_network(tmp_path, "ALFA", specs, metrics=metrics)
        alfa = await start(nursery, network, metrics, here)
        metrics = Metrics()
        await start(nursery, make_network(tmp_path, "CHRL", [], metrics=metrics), metrics, there)
        await alfa.wait_dropped(Drop.WRONG_PEER)
        assert alfa.network.connected == []
        nursery.cancel_scope.cancel()


async def test_round_trip_is_measured(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, _):
        with trio.fail_after(DEADLINE_S):
            while alfa.network.peers["BRVO"].rtt_s is None:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert 0 < (alfa.network.peers["BRVO"].rtt_s or 0) < DEADLINE_S


async def test_delayed_line_delays_and_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        alfa.network.set_delay("BRVO", 0.2)
        began = trio.current_time()
        for number in range(10):
            alfa.network.send("BRVO", Channel.VOTES, bytes([number]))
        received = [(await receive(brvo)).payload[0] for _ in range(10)]
        assert received == list(range(10))
        assert trio.current_time() - began >= 0.2


async def test_port_in_use_is_said_clearly(tmp_path: Path) -> None:
    taken = await open_listener()
    network = make_network(tmp_path, "ALFA", [])
    with pytest.raises(AddressUnavailable, match=rf"127\.0\.0\.1:{port_of(taken)}: in use"):
        await network.listen("127.0.0.1", port_of(taken))
    await taken.aclose()


async def test_silent_connection_is_dropped_as_idle(tmp_path: Path) -> None:
    quick = msgspec.structs.replace(FAST, idle_timeout_ms=100, ping_interval_ms=99)
    async with running(tmp_path, CODES[:2], section=quick, connected=False) as (alfa, brvo):
        await wait_connected(alfa, 1)
        for peer in (*alfa.network.peers.values(), *brvo.network.peers.values()):
            peer.queue.delay_s = 60.0
        await alfa.wait_dropped(Drop.IDLE)


async def test_unknown_peer_is_ignored(tmp_path: Path) -> None:
    network = make_network(tmp_path, "ALFA", [])
    network.send("GONE", Channel.VOTES, b"")
    network.drop_peer("GONE", "left")
    network.set_delay("GONE", 1.0)


async def test_member_that_joins_is_dialled_and_one_that_leaves_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:3]) as (alfa, brvo, chrl):
        roots = make_roots(CODES[:2])
        alfa.network.update_peers([alfa.network.peers["BRVO"].spec], roots)
        await alfa.wait_dropped(Drop.UNREGISTERED)
        assert alfa.network.connected == ["BRVO"]
        back = PeerSpec("CHRL", "127.0.0.1", chrl.port)
        alfa.network.update_peers([alfa.network.peers["BRVO"].spec, back], make_roots(CODES[:3]))
        await alfa.wait_until(lambda: set(alfa.network.connected) == {"BRVO", "CHRL"})
        alfa.network.dismiss_peer("BRVO")
        await brvo.wait_until(lambda: "ALFA" not in brvo.network.connected)
        assert alfa.network.dismissed == {"BRVO"}


async def test_old_and_new_root_overlap_until_the_old_one_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        specs = [alfa.network.peers["BRVO"].spec]
        new = create_root("BRVO")
        known = [(code, get_root(code).certificate) for code in CODES[:2]]
        alfa.network.update_peers(specs, Roots([*known, ("BRVO", new.certificate)]))
        alfa.network.send("BRVO", Channel.VOTES, b"still here")
        assert (await receive(brvo)).payload == b"still here"
        assert alfa.network.connected == ["BRVO"]
        alfa.network.update_peers(specs, Roots([known[0], ("BRVO", new.certificate)]))
        await alfa.wait_until(lambda: alfa.network.connected == [])
        await alfa.wait_dropped(Drop.UNREGISTERED)


async def test_what_is_sent_at_once_leaves_before_any_other_task_runs(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        peer = alfa.network.peers["BRVO"]
        await wait_sent(alfa)
        before = peer.counters.bytes_sent
        with alfa.network.at_once():
            alfa.network.broadcast(Channel.PROPOSALS, bytes(1_000))
            alfa.network.send("BRVO", Channel.VOTES, b"vote")
            assert peer.counters.bytes_sent == before
        assert peer.counters.bytes_sent > before + 1_000
        assert not peer.queue.bytes
        # Together, and votes first.
        assert (await receive(brvo)).payload == b"vote"
        assert (await receive(brvo)).payload == bytes(1_000)


async def test_order_is_kept_where_some_is_sent_at_once_and_some_is_not(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        expected = []
        for number in range(200):
            payload = b"%d" % number * (20_000 if number % 7 == 0 else 1)
            expected.append(payload)
            if number % 3:
                alfa.network.broadcast(Channel.PROPOSALS, payload)
            else:
                with alfa.network.at_once():
                    alfa.network.broadcast(Channel.PROPOSALS, payload)
            if number % 5 == 0:
                await trio.lowlevel.checkpoint()
            if number % 20 == 19:
                assert [(await receive(brvo)).payload for _ in range(20)] == expected[-20:]


async def test_a_peer_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, brvo):
        queue = alfa.network.peers["BRVO"].queue
        block = bytes(MAX_QUEUED_PROPOSAL_BYTES // 3)
        sent = 0
        while not queue.bytes:  # the system takes no more: the rest waits, within the bounds
            with alfa.network.at_once():
                alfa.network.broadcast(Channel.PROPOSALS, block)
            sent += 1
            assert sent < 100
        for _ in range(5):
            with alfa.network.at_once():
                alfa.network.broadcast(Channel.PROPOSALS, block)
        assert queue.bytes <= MAX_QUEUED_PROPOSAL_BYTES
        for _ in range(sent):
            assert (await receive(brvo)).payload == block


async def test_votes_for_every_peer_are_written_before_bulk_for_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = bytes(1024 * 1024)
    written: list[tuple[str, int]] = []

    def spy(code: str, send_now: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        def write(data: bytes) -> bool:
            written.append((code, len(data)))
            return send_now(data)

        return write

    async with running(tmp_path, CODES[:3]) as (alfa, brvo, chrl):
        await wait_sent(alfa)
        for code, peer in alfa.network.peers.items():
            assert peer.session is not None
            stream = peer.session.stream
            monkeypatch.setattr(stream, "send_now", spy(code, stream.send_now))
        with alfa.network.at_once():
            alfa.network.broadcast(Channel.PROPOSALS, block)
            alfa.network.send("CHRL", Channel.VOTES, b"vote")
        assert written[0][0] == "CHRL"
        assert written[0][1] < 100
        assert [code for code, size in written if size > len(block)] == ["BRVO", "CHRL"]
        assert (await receive(chrl)).payload == b"vote"
        assert (await receive(brvo)).payload == (await receive(chrl)).payload == block


async def test_empty_frame_that_a_turn_leaves_behind_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atpar.node.transport.SEND_NOW_BYTES", 1)
    section = msgspec.structs.replace(FAST, ping_interval_ms=60_000, idle_timeout_ms=120_000)
    async with running(tmp_path, CODES[:2], section=section) as (alfa, brvo):
        await wait_sent(alfa)
        await trio.testing.wait_all_tasks_blocked(0.05)
        block = bytes(SEND_BATCH_BYTES)  # a run of its own
        with alfa.network.at_once():
            alfa.network.broadcast(Channel.PROPOSALS, block)
            alfa.network.broadcast(Channel.FETCH, b"")
        assert [(await receive(brvo)).payload for _ in range(2)] == [block, b""]


def halt_while_sending(node: Node) -> None:
    with node.network.at_once():
        node.network.broadcast(Channel.VOTES, b"vote")
        raise Halted("a safety stop")


async def test_nothing_is_sent_at_once_when_the_turn_fails(tmp_path: Path) -> None:
    async with running(tmp_path, CODES[:2]) as (alfa, _brvo):
        await wait_sent(alfa)
        before = alfa.network.peers["BRVO"].counters.bytes_sent
        with pytest.raises(Halted):
            halt_while_sending(alfa)
        assert alfa.network.peers["BRVO"].counters.bytes_sent == before
