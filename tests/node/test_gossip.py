"""Gossip: once to every peer, in bounded frames; liars are dropped, floods are ignored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio
import trio.testing

from atpar.ledger.codec import encode
from atpar.ledger.transactions import Transaction, encode_envelope
from atpar.node.framing import Channel
from atpar.node.gossip import BATCH, Batch, Gossip, pack_batches
from atpar.node.limits import (
    GOSSIP_ENVELOPES_PER_S,
    GOSSIP_REFUSAL_COST,
    GOSSIP_REMIND_S,
    MAX_GOSSIP_ENVELOPES,
    MAX_GREETING_TRANSACTIONS,
    MAX_REMINDERS,
    MAX_TRANSACTIONS_FRAME_BYTES,
)
from atpar.node.peers import Inbox, Received
from tests.node.test_admission import Desk
from tests.node.transactions import make_transaction


class FakeNetwork:
    def __init__(self) -> None:
        self.gossip_inbox = Inbox()
        self.sent: list[tuple[str, bytes]] = []
        self.dropped: list[tuple[str, str]] = []

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        assert channel is Channel.TRANSACTIONS
        self.sent.append((peer, payload))

    def broadcast(self, channel: Channel, payload: bytes) -> None:
        self.send("*", channel, payload)

    def drop_peer(self, peer: str, reason: str) -> None:
        self.dropped.append((peer, reason))


class Setting(Desk):
    def __init__(self) -> None:
        super().__init__(max_count=10_000)
        self.network = FakeNetwork()
        self.gossip = Gossip(
            network=self.network,
            admission=self.admission,
            mempool=self.mempool,
            metrics=self.metrics,
        )

    async def receive(self, peer: str, *raws: bytes) -> None:
        payload = encode(Batch(tuple(raws)))
        await self.gossip.take_in([Received(peer, Channel.TRANSACTIONS, payload)])

    def list_sent(self) -> list[bytes]:
        return [raw for _, payload in self.network.sent for raw in BATCH.decode(payload).envelopes]


@contextmanager
def holding(setting: Setting, transactions: Sequence[Transaction]) -> Iterator[None]:
    for tx in transactions:
        setting.mempool.add(tx)
    yield


async def test_announced_transactions_go_to_everyone_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    setting = Setting()
    transactions = [make_transaction(number) for number in range(10)]
    with holding(setting, transactions):
        async with trio.open_nursery() as nursery:
            await nursery.start(setting.gossip.run)
            setting.gossip.announce(transactions[:5])
            setting.gossip.announce(transactions[3:])
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert setting.list_sent() == [tx.raw for tx in transactions]
    assert {peer for peer, _ in setting.network.sent} == {"*"}


async def test_what_left_the_mempool_is_not_sent(autojump_clock: trio.testing.MockClock) -> None:
    setting = Setting()
    kept, gone = make_transaction(1), make_transaction(2)
    with holding(setting, [kept]):
        async with trio.open_nursery() as nursery:
            await nursery.start(setting.gossip.run)
            setting.gossip.announce([kept, gone])
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert setting.list_sent() == [kept.raw]


async def test_peer_that_connects_gets_what_is_pending_up_to_a_bound() -> None:
    setting = Setting()
    count = MAX_GREETING_TRANSACTIONS + 1
    with holding(setting, [make_transaction(number) for number in range(count)]):
        setting.gossip.greet("BRVO")
    assert len(setting.list_sent()) == MAX_GREETING_TRANSACTIONS
    assert {peer for peer, _ in setting.network.sent} == {"BRVO"}


async def test_received_transactions_are_admitted() -> None:
    setting = Setting()
    transactions = [setting.pay() for _ in range(3)]
    await setting.receive("BRVO", *(tx.raw for tx in transactions))
    assert [tx.hash for tx in setting.admitted] == [tx.hash for tx in transactions]
    assert setting.network.dropped == []
    assert setting.network.sent == []


async def test_known_transactions_are_passed_over() -> None:
    setting = Setting()
    tx = setting.pay()
    await setting.receive("BRVO", tx.raw)
    await setting.receive("CHRL", tx.raw)
    assert len(setting.admitted) == 1
    assert setting.network.dropped == []


async def test_frames_in_the_inbox_are_judged(autojump_clock: trio.testing.MockClock) -> None:
    setting = Setting()
    transactions = [setting.pay() for _ in range(5)]
    async with trio.open_nursery() as nursery:
        await nursery.start(setting.gossip.run)
        for tx in transactions:
            payload = encode(Batch((tx.raw,)))
            setting.network.gossip_inbox.offer(Received("BRVO", Channel.TRANSACTIONS, payload))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(setting.admitted) == 5


async def test_peer_that_gossips_nonsense_is_dropped() -> None:
    setting = Setting()
    frame = Received("BRVO", Channel.TRANSACTIONS, b"\xc1nonsense")
    await setting.gossip.take_in([frame])
    await setting.gossip.take_in([frame._replace(peer="CHRL", payload=encode(Batch(())))])
    await setting.receive("DLTA", b"no envelope")
    assert [peer for peer, _ in setting.network.dropped] == ["BRVO", "CHRL", "DLTA"]


async def test_peer_that_gossips_a_forgery_is_dropped_and_the_rest_admitted() -> None:
    setting = Setting()
    tx, good = setting.pay(), setting.pay()
    forged = encode_envelope(tx.body_bytes, [(tx.signatures[0].key, bytes(64))])
    payloads = [("BRVO", forged), ("CHRL", good.raw)]
    await setting.gossip.take_in(
        [Received(peer, Channel.TRANSACTIONS, encode(Batch((raw,)))) for peer, raw in payloads]
    )
    assert [peer for peer, _ in setting.network.dropped] == ["BRVO"]
    assert [held.hash for held in setting.admitted] == [good.hash]


async def test_refusal_on_state_is_no_fault_but_uses_up_the_allowance() -> None:
    setting = Setting()
    expired = setting.pay(window=(setting.world.now_ms - 2, setting.world.now_ms - 1)).raw
    for _ in range(2 * GOSSIP_ENVELOPES_PER_S // (100 * GOSSIP_REFUSAL_COST) + 1):
        await setting.receive("BRVO", *[expired] * 100)
    assert setting.network.dropped == []
    good = setting.pay()
    await setting.receive("BRVO", good.raw)
    assert setting.admitted == []
    await setting.receive("CHRL", good.raw)
    assert len(setting.admitted) == 1


def test_batches_respect_both_bounds_of_a_frame() -> None:
    big = bytes(256 * 1024)
    payloads = pack_batches([big] * 10)
    assert all(len(payload) <= MAX_TRANSACTIONS_FRAME_BYTES for payload in payloads)
    assert sum(len(BATCH.decode(payload).envelopes) for payload in payloads) == 10
    small = [bytes([i % 256]) for i in range(MAX_GOSSIP_ENVELOPES + 1)]
    sizes = [len(BATCH.decode(payload).envelopes) for payload in pack_batches(small)]
    assert sizes == [MAX_GOSSIP_ENVELOPES, 1]
    assert pack_batches([]) == []


async def test_leader_is_reminded_of_what_waited_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    setting = Setting()
    transactions = [make_transaction(number) for number in range(3)]
    with holding(setting, transactions):
        setting.gossip.announce(transactions[:2])
        setting.gossip.remind("BRVO")
        assert setting.network.sent == []
        await trio.sleep(GOSSIP_REMIND_S)
        setting.mempool.discard(transactions[0].hash)
        assert setting.gossip.remind("BRVO") == [transactions[1]]
        assert [peer for peer, _ in setting.network.sent] == ["BRVO"]
        assert setting.list_sent() == [transactions[1].raw]
        setting.gossip.remind("CHRL")
        assert len(setting.network.sent) == 1
        await trio.sleep(GOSSIP_REMIND_S)
        setting.gossip.remind("CHRL")
        assert [peer for peer, _ in setting.network.sent] == ["BRVO", "CHRL"]


async def test_one_view_reminds_of_a_bounded_number(
    autojump_clock: trio.testing.MockClock,
) -> None:
    setting = Setting()
    transactions = [make_transaction(number) for number in range(MAX_REMINDERS + 1)]
    with holding(setting, transactions):
        setting.gossip.announce(transactions)
        await trio.sleep(GOSSIP_REMIND_S)
        setting.gossip.remind("BRVO")
        assert len(setting.list_sent()) == MAX_REMINDERS
        setting.gossip.remind("CHRL")
        assert setting.list_sent()[MAX_REMINDERS:] == [transactions[-1].raw]
