"""The driver over real files and LevelDB: persist, then send; commits beside the loop; faults."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from atpar.consensus.effects import AlarmKind
from atpar.consensus.messages import Lane, Proposal, SyncRequest, decode_message, encode_message
from atpar.ledger.keys import SignedTriple
from atpar.ledger.transactions import Transaction
from atpar.ledger.votes import Notarize, Nullify
from atpar.node import actions
from atpar.node import driver as driver_module
from atpar.node.errors import DiskFault, Halted, VerifierBusy
from atpar.node.framing import Channel
from atpar.node.journal import replay
from atpar.node.limits import (
    MAX_SERVES_PER_PEER,
    MAX_TIMER_DEFERRALS,
    MAX_TURN_MESSAGES,
    MAX_UNSYNCED_COMMITS,
)
from atpar.node.peers import Received
from tests.ledger.world import World, transfer
from tests.node.drivers import Hub
from tests.patience import DEADLINE_S

CODES = ("ALFA", "BRVO", "CHRL", "DLTA")


def make_hub(folder: Path) -> Hub:
    world = World()
    world.advance(1_000)
    world.fund("ALFA/main", 1_000_000)
    hub = Hub(folder, world)
    for code in CODES:
        hub.prepare(code)
    return hub


async def fund(hub: Hub) -> None:
    for block in hub.world.executed:
        hub.submit(*block.transactions)
        for member in hub.members.values():
            await member.witness.wait_final(*block.transactions)


def pay(hub: Hub, amount: int = 1) -> Transaction:
    return hub.world.make(transfer("ALFA/main", "BRVO/main", amount), sender="ALFA/main")


async def test_four_drivers_pay_over_real_disks(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    async with hub.running(*CODES):
        await fund(hub)
        payments = [pay(hub, n + 1) for n in range(20)]
        for tx in payments:
            hub.submit(tx)
        for member in hub.members.values():
            await member.witness.wait_final(*payments)
            place = member.store.find_transaction(payments[-1].hash)
            assert place is not None
            assert not member.links.dropped
            assert not member.witness.alarms
            assert member.metrics.registry.get_sample_value("atpar_height") >= place[0]
    assert not hub.members


async def test_no_vote_leaves_before_an_fsync_that_follows_its_record(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    async with hub.running(*CODES):
        await fund(hub)
    synced: set[str] = set()
    votes = 0
    for code, what, payload in hub.log:
        if what == "fsync":
            synced.add(code)
        elif isinstance(decode_message(payload), Notarize | Nullify | Proposal):
            votes += 1
            assert code in synced, "a vote before any fsync"
    assert votes > 10


async def test_votes_sent_are_in_the_journal(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    async with hub.running(*CODES):
        await fund(hub)
    for code in CODES:
        journal = replay((tmp_path / code / "votes.journal").read_bytes())
        kept = b"".join(journal.records)
        for sender, what, payload in hub.log:
            message = decode_message(payload) if what == "send" else None
            if sender == code and isinstance(message, Notarize):
                assert message.signature in kept


async def test_restart_of_all_goes_on_where_they_were(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    async with hub.running(*CODES):
        await fund(hub)
        before = pay(hub)
        hub.submit(before)
        for member in hub.members.values():
            await member.witness.wait_final(before)
        heights = {code: m.store.position.height for code, m in hub.members.items()}
    async with hub.running(*CODES):
        after = pay(hub)
        hub.submit(after)
        for code, member in hub.members.items():
            await member.witness.wait_final(after)
            assert member.store.find_transaction(before.hash) is not None
            assert member.store.position.height > heights[code]


async def test_one_that_was_away_catches_up(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    async with hub.running("ALFA", "BRVO", "CHRL") as nursery:
        await fund(hub)
        payments = [pay(hub) for _ in range(5)]
        for tx in payments:
            hub.submit(tx)
            await hub.members["ALFA"].witness.wait_final(tx)
        member = hub.open("DLTA")
        await nursery.start(member.driver.run)
        hub.connect("DLTA")
        await member.witness.wait_final(*payments)
        with trio.fail_after(10):
            while not member.driver.validator.progress.is_ready:
                await trio.sleep(0.01)
    hub.close("DLTA")


async def test_failed_fsync_ends_the_node_and_nothing_is_sent(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    with pytest.raises(DiskFault, match="Input/output error"):
        await run_with_a_broken_disk(hub)
    for code in list(hub.members):
        hub.close(code)


async def run_with_a_broken_disk(hub: Hub) -> None:
    failed: list[DiskFault] = []

    async def run_alfa(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await hub.open("ALFA").driver.run(task_status=task_status)
        except DiskFault as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(run_alfa)
        for code in CODES[1:]:
            await nursery.start(hub.open(code).driver.run)
        hub.connect(*CODES)
        await fund(hub)
        hub.broken.add("ALFA")
        mark = len(hub.log)
        tx = pay(hub)
        hub.submit(tx)
        await hub.members["BRVO"].witness.wait_final(tx)
        sent = [decode_message(p) for code, what, p in hub.log[mark:] if code == "ALFA"]
        assert not [m for m in sent if isinstance(m, Notarize | Nullify | Proposal)]
        nursery.cancel_scope.cancel()
    raise failed[0]


async def test_failed_commit_ends_the_node_and_the_journal_makes_up_for_it(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    failed: list[DiskFault] = []
    ended = trio.Event()

    async def run_alfa(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await hub.open("ALFA").driver.run(task_status=task_status)
        except DiskFault as error:
            failed.append(error)
            ended.set()

    def refuse(_blocks: object) -> None:
        raise DiskFault("chain.db: No space left on device")

    async with trio.open_nursery() as nursery:
        await nursery.start(run_alfa)
        for code in CODES[1:]:
            await nursery.start(hub.open(code).driver.run)
        hub.connect(*CODES)
        await fund(hub)
        hub.members["ALFA"].store.commit = refuse
        tx = pay(hub)
        hub.submit(tx)
        await hub.members["BRVO"].witness.wait_final(tx)
        await ended.wait()
        nursery.cancel_scope.cancel()
    for code in list(hub.members):
        hub.close(code)
    assert "No space left" in str(failed[0])
    async with hub.running("ALFA"):
        await hub.members["ALFA"].witness.wait_final(tx)


async def test_halt_ends_the_node_without_a_further_message(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    member = hub.open("ALFA")
    member.driver.validator.start = lambda **_: [
        actions.Halt(AlarmKind.DIVERGENCE, "another state root"),
        actions.Broadcast(Lane.VOTES, b"never"),
    ]
    with pytest.raises(Halted, match="another state root"):
        await member.driver.run()
    assert member.witness.halts
    assert not [entry for entry in hub.log if entry[2] == b"never"]
    hub.close("ALFA")


async def test_unexpected_channel_drops_the_peer(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    async with hub.running("ALFA"):
        member = hub.members["ALFA"]
        member.links.inbox.offer(Received("BRVO", Channel.SNAPSHOT, b"x"))
        member.links.inbox.offer(Received("CHRL", Channel.VOTES, b"garbage"))
        with trio.fail_after(DEADLINE_S):
            while len(member.links.dropped) < 2:
                await trio.sleep(0.001)
        assert {peer for peer, _ in member.links.dropped} == {"BRVO", "CHRL"}


async def test_peer_that_asks_for_too_much_at_once_is_served_a_bounded_number(
    tmp_path: Path,
) -> None:
    hub = make_hub(tmp_path)
    async with hub.running("ALFA"):
        member = hub.members["ALFA"]
        answers = [entry for entry in hub.log if entry[0] == "ALFA"]
        for _ in range(MAX_SERVES_PER_PEER + 5):
            member.driver._perform(actions.Serve("BRVO", SyncRequest(0, 1)))
        assert member.driver._serving == {"BRVO": MAX_SERVES_PER_PEER}
        with trio.fail_after(DEADLINE_S):
            while member.driver._serving:
                await trio.sleep(0.001)
        assert not answers


async def test_flood_of_messages_is_taken_in_bounded_turns_and_timers_still_act(
    tmp_path: Path,
) -> None:
    hub = make_hub(tmp_path)
    member = hub.open("ALFA")
    driver, inbox = member.driver, member.links.inbox
    member.driver.validator.start(now_ms=0, wall_ms=hub.clock.wall_ms())
    vote = encode_message(SyncRequest(0, 1))
    for _ in range(MAX_TURN_MESSAGES + 1):
        inbox.offer(Received("BRVO", Channel.FETCH, vote))
    assert len(list(driver._take_inputs())) == MAX_TURN_MESSAGES
    assert len(inbox) == 1
    late_ms = hub.clock.now_ms() + 10_000_000
    fired = [driver._is_timer_due(late_ms) for _ in range(2 * MAX_TIMER_DEFERRALS + 2)]
    assert fired.count(True) == 2
    assert fired[MAX_TIMER_DEFERRALS]
    inbox.receive_nowait()
    assert driver._is_timer_due(late_ms)
    assert not driver._is_timer_due(-1)
    hub.close("ALFA")


async def test_loop_waits_for_the_disk_once_too_many_commits_are_under_way(
    tmp_path: Path,
) -> None:
    hub = make_hub(tmp_path)
    member = hub.open("ALFA")
    driver = member.driver
    driver._unsynced = MAX_UNSYNCED_COMMITS
    with trio.fail_after(DEADLINE_S):
        await driver._finish_turn([])
    driver._unsynced = MAX_UNSYNCED_COMMITS + 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver._finish_turn, [])
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        driver._unsynced -= 1
        driver._commits_room.set()
    hub.close("ALFA")


async def test_busy_verifier_is_asked_again(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    member = hub.open("ALFA")
    attempts = 0

    async def verify(triples: Sequence[SignedTriple]) -> list[bool]:
        nonlocal attempts
        attempts += 1
        await trio.lowlevel.checkpoint()
        if attempts < 3:
            raise VerifierBusy("full")
        return [True] * len(triples)

    member.driver._verify_triples = verify
    with trio.fail_after(DEADLINE_S):
        await member.driver._verify(actions.VerifySignatures(bytes(32), []))
    assert attempts == 3
    assert list(member.driver._queue) == [actions.SignaturesVerified(bytes(32), [])]
    hub.close("ALFA")


async def test_journal_is_rewritten_once_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "JOURNAL_COMPACT_BYTES", 20_000)
    hub = make_hub(tmp_path)
    async with hub.running(*CODES):
        await fund(hub)
        for _ in range(30):
            tx = pay(hub)
            hub.submit(tx)
            await hub.members["ALFA"].witness.wait_final(tx)
        sizes = [member.journal.size for member in hub.members.values()]
    assert max(sizes) < 60_000
    async with hub.running(*CODES):
        tx = pay(hub)
        hub.submit(tx)
        await hub.members["ALFA"].witness.wait_final(tx)
