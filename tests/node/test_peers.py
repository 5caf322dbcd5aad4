"""What is kept for a peer: queues at and past their bounds, rates, bans."""

import pytest
import trio
import trio.testing

from atpar.node.framing import HEADER_BYTES, Channel, Frame, FrameDecoder
from atpar.node.limits import (
    BAN_FORGET_S,
    BAN_MAX_S,
    CONNECTION_BURST,
    MAX_AWAY_VOTES,
    MAX_PROPOSAL_FRAME_BYTES,
    MAX_QUEUED_FRAMES,
    MAX_QUEUED_TRANSACTION_BYTES,
    MAX_QUEUED_VOTE_BYTES,
    MAX_REMEMBERED_ADDRESSES,
)
from atpar.node.peers import (
    MAX_QUEUED_BYTES,
    AddressLimits,
    Bans,
    Inbox,
    PeerSpec,
    RateLimit,
    Received,
    SendQueue,
    parse_address,
)
from tests.patience import DEADLINE_S


def take_all(queue: SendQueue) -> list[Frame]:
    decoder = FrameDecoder()
    frames: list[Frame] = []
    while run := queue.take():
        frames += decoder.feed(run)
    return frames


async def test_votes_go_first_whatever_was_queued_before() -> None:
    queue = SendQueue()
    for channel in reversed(Channel):
        queue.put(channel, channel.name.encode())
    assert [frame.channel for frame in take_all(queue)] == sorted(Channel)
    assert (len(queue), queue.bytes) == (0, 0)


async def test_frames_are_joined_up_to_the_batch_size() -> None:
    queue = SendQueue()
    for _ in range(10):
        queue.put(Channel.VOTES, bytes(95))
    assert len(queue.take(max_bytes=500)) == 500
    assert len(queue.take(max_bytes=499)) == 400
    queue.put(Channel.PROPOSALS, bytes(10_000))
    assert len(queue.take(max_bytes=50)) == 100
    assert len(queue.take(max_bytes=50)) == 10_000 + HEADER_BYTES
    assert queue.take() == b""


async def test_full_vote_queue_loses_its_oldest() -> None:
    dropped: list[Channel] = []
    queue = SendQueue(dropped.append)
    for number in range(MAX_QUEUED_FRAMES):
        queue.put(Channel.VOTES, number.to_bytes(4, "big"))
    assert dropped == []
    queue.put(Channel.VOTES, b"new")
    assert dropped == [Channel.VOTES]
    frames = take_all(queue)
    assert (frames[0].payload, frames[-1].payload) == ((1).to_bytes(4, "big"), b"new")


async def test_full_gossip_queue_loses_its_newest() -> None:
    dropped: list[Channel] = []
    queue = SendQueue(dropped.append)
    queue.put(Channel.TRANSACTIONS, b"old")
    size = 512 * 1024
    fit = (MAX_QUEUED_TRANSACTION_BYTES - 3) // size
    for _ in range(fit):
        queue.put(Channel.TRANSACTIONS, bytes(size))
    assert dropped == []
    queue.put(Channel.TRANSACTIONS, bytes(size))
    assert dropped == [Channel.TRANSACTIONS]
    assert take_all(queue)[0].payload == b"old"


async def test_slow_peer_holds_bounded_memory_and_keeps_its_votes() -> None:
    queue = SendQueue()
    block = bytes(MAX_PROPOSAL_FRAME_BYTES)
    batch = bytes(256 * 1024)
    for number in range(200):
        queue.put(Channel.TRANSACTIONS, batch)
        queue.put(Channel.PROPOSALS, block)
        queue.put(Channel.FETCH, block)
        queue.put(Channel.VOTES, number.to_bytes(4, "big"))
        assert queue.bytes <= MAX_QUEUED_BYTES
    votes = [frame for frame in take_all(queue) if frame.channel is Channel.VOTES]
    assert len(votes) == 200


async def test_vote_bytes_are_bounded_too() -> None:
    queue = SendQueue()
    for _ in range(100):
        queue.put(Channel.VOTES, bytes(60_000))
    assert MAX_QUEUED_VOTE_BYTES - 60_000 < queue.bytes <= MAX_QUEUED_VOTE_BYTES


async def test_only_the_last_votes_wait_for_a_peer_that_is_away() -> None:
    queue = SendQueue()
    queue.put(Channel.PROPOSALS, b"block")
    queue.forget()
    assert queue.bytes == 0
    for number in range(MAX_AWAY_VOTES + 1):
        queue.put_while_away(Channel.VOTES, bytes([number]))
        queue.put_while_away(Channel.FETCH, b"request")
    frames = take_all(queue)
    assert [frame.payload[0] for frame in frames] == list(range(1, MAX_AWAY_VOTES + 1))


async def test_waiting_for_a_queue_ends_with_the_next_frame() -> None:
    queue = SendQueue()
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.wait)
            await trio.testing.wait_all_tasks_blocked()
            queue.put(Channel.VOTES, b"vote")
    assert queue.take()


async def test_delayed_frames_are_due_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    queue = SendQueue()
    queue.delay_s = 2.0
    queue.put(Channel.VOTES, b"1")
    await trio.sleep(1)
    queue.put(Channel.VOTES, b"2")
    assert queue.take() == b""
    await queue.wait()
    assert trio.current_time() == pytest.approx(2.0)
    assert queue.take()[HEADER_BYTES:] == b"1"
    await queue.wait()
    assert trio.current_time() == pytest.approx(3.0)
    assert queue.take()[HEADER_BYTES:] == b"2"


async def test_inbox_gives_votes_first_and_peers_in_turn() -> None:
    inbox = Inbox()
    for peer in ("ALFA", "ALFA", "ALFA", "BRVO"):
        inbox.offer(Received(peer, Channel.FETCH, b"f"))
    inbox.offer(Received("BRVO", Channel.VOTES, b"v"))
    taken = [inbox.receive_nowait() for _ in range(5)]
    assert [(m.peer, m.payload) for m in taken] == [
        ("BRVO", b"v"),
        ("ALFA", b"f"),
        ("BRVO", b"f"),
        ("ALFA", b"f"),
        ("ALFA", b"f"),
    ]
    with pytest.raises(trio.WouldBlock):
        inbox.receive_nowait()
    assert len(inbox) == 0


async def test_inbox_refuses_past_the_share_of_one_peer_only() -> None:
    inbox = Inbox(max_peer_bytes=100)
    message = Received("ALFA", Channel.TRANSACTIONS, bytes(45))
    assert inbox.offer(message)
    assert inbox.offer(message)
    assert not inbox.offer(message)
    assert inbox.offer(message._replace(peer="BRVO"))
    inbox.receive_nowait()
    assert inbox.offer(message)


async def test_message_larger_than_the_share_still_finds_room_alone() -> None:
    inbox = Inbox(max_peer_bytes=10)
    assert inbox.offer(Received("ALFA", Channel.FETCH, bytes(100)))
    assert not inbox.offer(Received("ALFA", Channel.FETCH, b""[:0] + b"x"))


async def test_peer_with_a_full_share_waits_and_others_do_not() -> None:
    inbox = Inbox(max_peer_bytes=100)
    big = Received("ALFA", Channel.FETCH, bytes(90))
    done = []

    async def put() -> None:
        await inbox.put(big)
        done.append(True)

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            await inbox.put(big)
            nursery.start_soon(put)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            await inbox.put(big._replace(peer="BRVO"))
            assert (await inbox.receive()).peer == "ALFA"
        assert done == [True]
        assert [(await inbox.receive()).peer for _ in range(2)] == ["BRVO", "ALFA"]


async def test_receive_waits_for_a_message() -> None:
    inbox = Inbox()
    received = []

    async def receive() -> None:
        received.append(await inbox.receive())

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            inbox.offer(Received("ALFA", Channel.VOTES, b"v"))
    assert received == [("ALFA", Channel.VOTES, b"v")]


def test_rate_limit_lets_a_burst_pass_and_then_the_rate() -> None:
    limit = RateLimit(per_s=10, burst=20)
    assert limit.charge(20, now=0.0) == 0.0
    assert limit.charge(1, now=0.0) == pytest.approx(0.1)
    assert limit.charge(1, now=0.2) == 0.0
    assert limit.charge(1, now=0.2) == pytest.approx(0.1)
    assert limit.charge(20, now=100.0) == 0.0
    assert limit.charge(1, now=100.0) == pytest.approx(0.1)


def test_rate_limit_that_is_spent_refuses_without_debt() -> None:
    limit = RateLimit(per_s=10, burst=2)
    assert [limit.spend(1, now=0.0) for _ in range(4)] == [True, True, False, False]
    assert limit.spend(1, now=0.1)
    assert not limit.spend(1, now=0.1)


def test_connections_are_limited_by_address() -> None:
    limits = AddressLimits()
    for _ in range(CONNECTION_BURST):
        assert not limits.is_flooding("10.0.0.1", now=0.0)
    assert limits.is_flooding("10.0.0.1", now=0.0)
    assert not limits.is_flooding("10.0.0.2", now=0.0)
    assert not limits.is_flooding("10.0.0.1", now=1.0)
    for number in range(MAX_REMEMBERED_ADDRESSES):
        limits.is_flooding(f"host {number}", now=1.0)
    assert len(limits._limits) == MAX_REMEMBERED_ADDRESSES


def test_bans_double_up_to_a_bound_and_are_forgotten() -> None:
    bans = Bans()
    now = 0.0
    lengths = []
    for _ in range(12):
        lengths.append(bans.ban(now=now))
        now = bans.until
        assert not bans.is_banned(now=now)
        assert bans.is_banned(now=now - 0.1)
    assert lengths[:4] == [1, 2, 4, 8]
    assert lengths[-1] == BAN_MAX_S
    assert bans.ban(now=now + BAN_FORGET_S + 1) == 1


def test_addresses_have_a_host_and_a_port() -> None:
    assert parse_address("127.0.0.1:7201") == ("127.0.0.1", 7201)
    assert parse_address("[::1]:7201") == ("::1", 7201)
    assert PeerSpec("ALFA", "::1", 7201).address == "[::1]:7201"
    assert PeerSpec("ALFA", "bank.example", 7201).address == "bank.example:7201"
    assert PeerSpec("AUDT").address == ""


async def test_wait_empty_returns_once_the_last_message_is_taken() -> None:
    inbox = Inbox()
    emptied = []

    async def wait() -> None:
        await inbox.wait_empty()
        emptied.append(True)

    with trio.fail_after(DEADLINE_S):
        await inbox.wait_empty()
        inbox.offer(Received("ALFA", Channel.TRANSACTIONS, b"1"))
        inbox.offer(Received("BRVO", Channel.TRANSACTIONS, b"2"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            inbox.receive_nowait()
            await trio.testing.wait_all_tasks_blocked()
            assert emptied == []
            inbox.receive_nowait()
        assert emptied == [True]
