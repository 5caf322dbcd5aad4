"""The gateway over four real drivers: what a client is told, and when."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
import trio.testing

from atpar.consensus.effects import AlarmKind
from atpar.ledger.codes import Code
from atpar.ledger.transactions import Transaction, decode_transaction, encode_envelope
from atpar.node import actions
from atpar.node.admission import Admission
from atpar.node.finals import RecentFinals
from atpar.node.framing import Channel
from atpar.node.gateway import NodeState, PeerState, TransactionState, TxStatus
from atpar.node.gossip import BATCH, Gossip
from atpar.node.limits import (
    CLIENTS_YIELD_S,
    MAX_ALARMS_SHOWN,
    MAX_RECENT_STATES,
    MAX_SUBMISSIONS_ADMITTED,
    MAX_SUBMISSIONS_WAITING,
    RETRY_AFTER_MS,
)
from atpar.node.local_gateway import LocalGateway, _remember
from atpar.node.peers import Inbox, PeerSpec, Received
from atpar.node.verifier import Verifier
from atpar.node.votewatch import VoteWatch
from tests.ledger.world import HOUR_MS, transfer
from tests.node.drivers import Hub
from tests.node.network import make_network
from tests.node.test_driver import CODES, fund, make_hub
from tests.patience import DEADLINE_S

UETR = bytes(range(16))


@dataclass
class HubGossip:
    """Gossip's network: hands batches to the other drivers as if they had admitted them."""

    hub: Hub
    gossip_inbox: Inbox

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        transactions = [decode_transaction(raw) for raw in BATCH.decode(payload).envelopes]
        self.hub.members[peer].driver.admit(transactions)

    def broadcast(self, channel: Channel, payload: bytes) -> None:
        for code in self.hub.members:
            if code != "ALFA":
                self.send(code, channel, payload)

    def drop_peer(self, peer: str, reason: str) -> None:
        raise AssertionError(reason)


class Desk:
    """ALFA's gateway in a hub of drivers."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub = hub
        member = hub.members["ALFA"]
        validator = member.driver.validator
        self.validator = validator
        self.metrics = member.metrics
        self.verifier = Verifier(workers=0, metrics=self.metrics)
        admission = Admission(
            chain_id=hub.world.chain_id,
            get_final=lambda: validator.final,
            admit=member.driver.admit,
            mempool=validator.mempool,
            verifier=self.verifier,
            get_wall_ms=hub.clock.wall_ms,
        )
        self.gossip = Gossip(
            network=HubGossip(hub, Inbox()),
            admission=admission,
            mempool=validator.mempool,
            metrics=self.metrics,
        )
        self.network = make_network(
            folder,
            "ALFA",
            [PeerSpec(code, "127.0.0.1", 9) for code in CODES],
            metrics=self.metrics,
        )
        self.gateway = LocalGateway(
            validator=validator,
            store=member.store,
            admission=admission,
            gossip=self.gossip,
            network=self.network,
            votes=VoteWatch(
                own="ALFA",
                get_set=lambda: validator.epoch_start.validators,
                clock=hub.clock,
                metrics=self.metrics,
            ),
            clock=hub.clock,
            metrics=self.metrics,
            chain_name="test-world",
            version="0",
        )
        self.gateway.state = NodeState.CATCHING_UP
        member.driver._observer = self.gateway

    def pay(self, amount: int = 1, **given: object) -> Transaction:
        op = transfer("ALFA/main", "BRVO/main", amount, uetr=UETR)
        return self.hub.world.make(op, sender="ALFA/main", **given)  # type: ignore[arg-type]


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    hub = make_hub(folder)
    (folder / "tls").mkdir()
    with trio.fail_after(DEADLINE_S):
        async with hub.running(*CODES) as nursery:
            await fund(hub)
            made = Desk(hub, folder / "tls")
            await nursery.start(made.gossip.run)
            yield made


async def test_payment_is_accepted_and_then_final_with_its_place(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        (state,) = await made.gateway.submit([tx.raw])
        assert (state.status, state.tx_hash) == (TxStatus.ACCEPTED, tx.hash)
        (state,) = await made.gateway.wait_final([tx.hash], timeout_s=DEADLINE_S)
        assert state.status is TxStatus.FINAL
        assert state.code is Code.OK
        assert state.placement is not None
        block = made.gateway.reader.get_block(state.placement.height)
        assert block is not None
        assert block.transactions[state.placement.index] == tx.raw
        count = made.metrics.registry.get_sample_value("atpar_finality_seconds_count")
        assert count == 1


async def test_same_bytes_again_answer_with_the_first_receipt(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        await made.gateway.submit([tx.raw])
        (again,) = await made.gateway.submit([tx.raw])
        assert again.status in (TxStatus.ACCEPTED, TxStatus.PROPOSED)
        (first,) = await made.gateway.wait_final([tx.hash], timeout_s=DEADLINE_S)
        (last,) = await made.gateway.submit([tx.raw])
        assert last == first
        made.gateway._finals = RecentFinals()
        assert await made.gateway.lookup([tx.hash]) == [first]


async def test_same_id_with_another_body_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        other = made.pay(2, tx_id=tx.body.tx_id)
        await made.gateway.submit([tx.raw])
        await made.gateway.wait_final([tx.hash], timeout_s=DEADLINE_S)
        (state,) = await made.gateway.submit([other.raw])
        assert (state.status, state.code) == (TxStatus.REJECTED, Code.ID_REUSED)
        (known,) = await made.gateway.lookup([other.hash])
        assert known.status is TxStatus.UNKNOWN


async def test_refused_envelope_is_remembered_with_its_code(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        forged = encode_envelope(tx.body_bytes, [(tx.signatures[0].key, bytes(64))])
        states = await made.gateway.submit([forged, b"junk", tx.raw])
        codes = [state.code for state in states]
        assert codes == [Code.BAD_SIGNATURE, Code.NON_CANONICAL, Code.OK]
        assert await made.gateway.lookup([states[0].tx_hash]) == [states[0]]
        (waited,) = await made.gateway.wait_final([states[0].tx_hash], timeout_s=0.0)
        assert waited.status is TxStatus.REJECTED


async def test_unknown_hash_is_unknown_and_a_wait_for_it_ends_at_the_timeout(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as made:
        states = await made.gateway.wait_final([bytes(32), bytes(32)], timeout_s=0.01)
        assert [state.status for state in states] == [TxStatus.UNKNOWN] * 2
        assert made.gateway._waiters == {}


async def test_wait_for_settled_and_open_ones_ends_with_the_last(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        first, second = made.pay(), made.pay(2)
        await made.gateway.submit([first.raw])
        await made.gateway.wait_final([first.hash], timeout_s=DEADLINE_S)
        await made.gateway.submit([second.raw])
        hashes = [first.hash, second.hash, first.hash, second.hash]
        states = await made.gateway.wait_final(hashes, timeout_s=DEADLINE_S)
        assert [state.tx_hash for state in states] == hashes
        assert {state.status for state in states} == {TxStatus.FINAL}
        assert made.gateway._waiters == {}


async def test_transaction_is_found_by_its_own_names(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        await made.gateway.submit([tx.raw])
        pending = await made.gateway.find(sender="ALFA/main", tx_id=tx.body.tx_id)
        assert pending is not None
        assert pending.tx_hash == tx.hash
        await made.gateway.wait_final([tx.hash], timeout_s=DEADLINE_S)
        found = await made.gateway.find(sender="ALFA/main", tx_id=tx.body.tx_id)
        assert found is not None
        assert found.status is TxStatus.FINAL
        assert await made.gateway.find(sender="BRVO/main", tx_id=tx.body.tx_id) is None
        second = made.pay(2)
        made.validator.mempool.add(second)
        by_uetr = await made.gateway.find_by_uetr(UETR)
        assert [state.tx_hash for state in by_uetr] == [tx.hash, second.hash]


async def test_transaction_that_lost_its_id_is_rejected(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        made.gateway.on_dropped(actions.DropTransaction(tx, Code.ID_REUSED, "another was first"))
        (state,) = await made.gateway.lookup([tx.hash])
        assert (state.status, state.code) == (TxStatus.REJECTED, Code.ID_REUSED)


async def test_other_envelope_of_a_final_body_is_answered_with_the_final_one(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        await made.gateway.submit([tx.raw])
        (first,) = await made.gateway.wait_final([tx.hash], timeout_s=DEADLINE_S)
        twin = decode_transaction(encode_envelope(tx.body_bytes, []))
        made.gateway.on_dropped(actions.DropTransaction(twin, Code.OK, "another was first"))
        assert await made.gateway.lookup([twin.hash]) == [first]


async def test_expired_transaction_is_reported_expired(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        made.gateway.on_dropped(actions.DropTransaction(tx, Code.EXPIRED, "too late"))
        (state,) = await made.gateway.lookup([tx.hash])
        assert (state.status, state.code) == (TxStatus.EXPIRED, Code.EXPIRED)


async def test_node_that_cannot_judge_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        made.gateway.state = NodeState.STARTING
        (state,) = await made.gateway.submit([tx.raw])
        assert (state.status, state.code) == (TxStatus.REJECTED, Code.NOT_READY)
        assert state.retry_after_ms is not None


async def test_stopping_ends_waits_with_what_is_known(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        answers = []

        async def wait() -> None:
            answers.append(await made.gateway.wait_final([bytes(32)], timeout_s=DEADLINE_S))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not made.gateway._waiters:
                await trio.lowlevel.checkpoint()
            made.gateway.stop()
        assert answers[0][0].status is TxStatus.UNKNOWN
        (state,) = await made.gateway.submit([made.pay().raw])
        assert state.code is Code.NOT_READY


async def test_status_names_everything_that_an_operator_needs(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        await made.gateway.submit([tx.raw])
        await made.gateway.wait_final([tx.hash], timeout_s=DEADLINE_S)
        status = await made.gateway.status()
        assert status.state is NodeState.READY
        assert (status.participant, status.is_validator) == ("ALFA", True)
        assert (status.validators, status.quorum) == (4, 3)
        assert status.height == made.gateway.reader.get_final().header.height
        assert await made.gateway.wait_height_above(status.height - 1) >= status.height
        validators = await made.gateway.validators()
        assert [validator.participant for validator in validators] == list(CODES)
        assert any(validator.last_vote_view is not None for validator in validators)
        peers = await made.gateway.peers()
        assert [peer.participant for peer in peers] == list(CODES[1:])
        assert {peer.state for peer in peers} == {PeerState.DISCONNECTED}


async def test_alarms_stay_in_sight_and_bounded(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        for number in range(MAX_ALARMS_SHOWN + 1):
            alarm = actions.Alarm(AlarmKind.EQUIVOCATION, f"number {number}")
            made.gateway.on_alarm(alarm)
            made.gateway.on_alarm(alarm)
        alarms = (await made.gateway.status()).alarms
        assert len(alarms) == MAX_ALARMS_SHOWN
        assert alarms[-1] == f"equivocation: number {MAX_ALARMS_SHOWN}"


async def test_submissions_wait_up_to_a_bound_and_one_more_is_asked_to_come_back(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as made:
        *waiting, refused = [made.pay() for _ in range(MAX_SUBMISSIONS_WAITING + 1)]
        states: dict[bytes, TransactionState] = {}

        async def submit(tx: Transaction) -> None:
            (states[tx.hash],) = await made.gateway.submit([tx.raw])

        busy = [object() for _ in range(MAX_SUBMISSIONS_ADMITTED)]
        for each in busy:
            made.gateway._submissions.acquire_on_behalf_of_nowait(each)
        async with trio.open_nursery() as nursery:
            for tx in waiting:
                nursery.start_soon(submit, tx)
            while made.gateway._submissions.statistics().tasks_waiting < MAX_SUBMISSIONS_WAITING:
                await trio.lowlevel.checkpoint()
            await submit(refused)
            state = states[refused.hash]
            assert (state.status, state.code) == (TxStatus.REJECTED, Code.MEMPOOL_FULL)
            assert state.retry_after_ms == RETRY_AFTER_MS
            for each in busy:
                made.gateway._submissions.release_on_behalf_of(each)
        assert {states[tx.hash].status for tx in waiting} == {TxStatus.ACCEPTED}


async def test_submission_lets_gossip_go_first_but_not_for_ever(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        tx = made.pay()
        made.network.gossip_inbox.offer(Received("BRVO", Channel.TRANSACTIONS, b"unread"))
        began = trio.current_time()
        (state,) = await made.gateway.submit([tx.raw])
        assert state.status is TxStatus.ACCEPTED
        assert trio.current_time() - began >= CLIENTS_YIELD_S
        made.network.gossip_inbox.receive_nowait()


async def test_remembered_states_are_bounded() -> None:
    book: OrderedDict[bytes, int] = OrderedDict()
    for number in range(MAX_RECENT_STATES + 1):
        _remember(book, number.to_bytes(4, "big"), number)
    assert len(book) == MAX_RECENT_STATES
    assert (0).to_bytes(4, "big") not in book


async def test_window_is_judged_by_the_nodes_own_clock(tmp_path: Path) -> None:
    async with desk(tmp_path) as made:
        now = made.hub.clock.wall_ms()
        late = made.pay(window=(now - HOUR_MS, now - 1))
        early = made.pay(window=(now + HOUR_MS, now + 2 * HOUR_MS))
        states = await made.gateway.submit([late.raw, early.raw])
        assert [state.code for state in states] == [Code.EXPIRED, Code.NOT_YET_VALID]
