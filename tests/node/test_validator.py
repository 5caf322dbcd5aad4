"""Four whole validators in virtual time: they pay, crash, stay away, catch up and meet liars."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from atpar.consensus.effects import AlarmKind, BuildBlock, Cause, VerifyBlock
from atpar.consensus.messages import (
    BlockRequest,
    Lane,
    Proposal,
    SyncRequest,
    decode_message,
    encode_message,
)
from atpar.consensus.records import BodyRecord, encode_record
from atpar.consensus.types import Timing
from atpar.ledger.blocks import BLOCK, compute_digest
from atpar.ledger.certificates import Proposition, check_certificate, compute_vote_bytes
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.hashing import SignKind
from atpar.ledger.limits import MAX_BLOCK_OPS
from atpar.ledger.merkle import compute_root
from atpar.ledger.records import BALANCES, NO_BALANCE, balance_key
from atpar.ledger.state import MemoryBacking
from atpar.ledger.transactions import Transaction, decode_transaction, encode_envelope
from atpar.ledger.votes import Notarize
from atpar.node import actions
from atpar.node.bodies import describe
from atpar.node.errors import JournalLost
from atpar.node.executor import Executor, ParentUnknown
from atpar.node.limits import MAX_HELD_BLOCKS
from atpar.node.mempool import Added
from atpar.node.store import Store
from tests.ledger.world import HKD, key_of, transfer
from tests.node.cluster import Cluster, CrashingKeyValue, Node

CODES = ("ALFA", "BRVO", "CHRL", "DLTA")


def make_cluster(*, funded: bool = True, **options: object) -> Cluster:
    """Return a running cluster in which ALFA/main holds a million."""
    cluster = Cluster(**options)
    cluster.start()
    if funded:
        cluster.world.advance(1_000)
        cluster.world.fund("ALFA/main", 1_000_000)
        for block in cluster.world.executed:
            settle(cluster, *block.transactions)
    return cluster


def settle(cluster: Cluster, *txs: Transaction, within_ms: int = 5_000) -> None:
    cluster.submit(*txs)
    assert cluster.run(within_ms, until=lambda: cluster.is_final_everywhere(*txs))


def pay(cluster: Cluster, amount: int = 1) -> Transaction:
    return cluster.world.make(transfer("ALFA/main", "BRVO/main", amount), sender="ALFA/main")


def posted(node: Node, account: str) -> int:
    balance = Store(node.engine).get_final().view.get(BALANCES, balance_key(HKD, account))
    return 0 if balance is None else balance.posted


def count_votes(node: Node) -> dict[tuple[str, int], set[bytes]]:
    """Return the distinct votes that left a node, by kind and view."""
    votes: dict[tuple[str, int], set[bytes]] = {}
    for _, _, data in node.sent:
        message = decode_message(data)
        if isinstance(message, Proposal):
            message = message.vote
        body = getattr(message, "proposition", None) or getattr(message, "body", None)
        if hasattr(message, "signature") and body is not None:
            votes.setdefault((type(message).__name__, body.view), set()).add(encode(message))
    return votes


def check_votes(cluster: Cluster) -> None:
    """No node ever signed two notarizes, or nullify and finalize, in one view."""
    for node in cluster.nodes.values():
        votes = count_votes(node)
        for (kind, view), found in votes.items():
            assert len(found) == 1, (node.code, kind, view)
            assert not (kind == "Finalize" and ("Nullify", view) in votes), (node.code, view)


# ---- the good path


def test_payment_is_final_on_all_in_a_few_network_delays() -> None:
    cluster = make_cluster()
    tx = pay(cluster, 250)
    submitted = cluster.now_ms
    settle(cluster, tx)
    assert cluster.now_ms - submitted < 100
    cluster.run(1_000)
    for node in cluster.nodes.values():
        assert posted(node, "BRVO/main") == 250
        assert not node.alarms
        assert not node.faults
        place = cluster.find_final(node.code, tx)
        assert place is not None
        assert node.store is not None
        receipts = node.store.get_receipts(place[0])
        assert receipts is not None
        assert receipts[place[1]].code == 0
    assert len(cluster.state_roots()) == 1
    check_votes(cluster)


def test_under_load_a_leader_waits_for_more_payments_but_not_once_the_block_is_full() -> None:
    cluster = rested_cluster()
    for node in cluster.nodes.values():
        node.running.block_gap_ms = 200
    took = []
    for full_at in (MAX_BLOCK_OPS, MAX_BLOCK_OPS, 1):
        for node in cluster.nodes.values():
            node.running.mempool.block_ops = full_at
        began = cluster.now_ms
        settle(cluster, pay(cluster, 5))
        took.append(cluster.now_ms - began)
    first, second, third = took
    assert first < 100  # the last proposal is long ago
    assert 150 < second < 350
    assert third < 100
    assert not any(node.alarms or node.faults for node in cluster.nodes.values())
    check_votes(cluster)


def test_a_leader_never_waits_for_payments_past_its_own_timer() -> None:
    cluster = rested_cluster(timing=Timing(delta_ms=20, build_allowance_ms=60))
    for node in cluster.nodes.values():
        node.running.block_gap_ms = 5_000
    began = cluster.now_ms
    for amount in range(1, 9):
        settle(cluster, pay(cluster, amount))
    assert cluster.now_ms - began < 8 * 150
    for node in cluster.nodes.values():
        assert not [kind for kind, _ in count_votes(node) if kind == "Nullify"]
    check_votes(cluster)


def test_a_block_that_has_to_be_empty_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = rested_cluster()
    for node in cluster.nodes.values():
        node.running.block_gap_ms = 200
    monkeypatch.setattr("atpar.consensus.engine.MAX_UNFINAL_BYTES", -1)
    before = cluster.nodes["ALFA"].height
    tx = pay(cluster)
    cluster.submit(tx)
    cluster.run(2_000)
    assert cluster.nodes["ALFA"].height - before > 20  # 10 with the gap
    assert not cluster.is_final_everywhere(tx)


def test_every_final_block_is_proven_by_a_certificate_and_headers() -> None:
    cluster = make_cluster()
    for _ in range(5):
        settle(cluster, pay(cluster))
    genesis = cluster.world.genesis
    store = Store(cluster.nodes["CHRL"].engine)
    for height in range(1, store.position.height + 1):
        path = store.get_finality_path(height)
        assert path is not None
        check_certificate(path.finalization, genesis.chain_id, genesis.validators.members)
        assert path.finalization.proposition.digest == compute_digest(path.headers[0])
        for upper, lower in zip(path.headers, path.headers[1:], strict=False):
            assert upper.parent == compute_digest(lower)
        assert path.headers[-1].height == height


def test_replaying_the_blocks_from_genesis_gives_the_same_state() -> None:
    cluster = make_cluster()
    for amount in range(1, 6):
        settle(cluster, pay(cluster, amount), pay(cluster, amount + 100))
    genesis = cluster.world.genesis
    store = Store(cluster.nodes["ALFA"].engine)
    backing = MemoryBacking()
    backing.apply(genesis.overlay.encode_writes())
    executor = Executor(
        backing, chain_id=genesis.chain_id, header=genesis.header, digest=genesis.digest
    )
    for height in range(1, store.position.height + 1):
        block = store.get_block(height)
        assert block is not None
        txs = [decode_transaction(raw) for raw in block.transactions]
        executed = executor.verify(compute_digest(block.header), block, txs)
        assert executed.header.state_root == block.header.state_root
        executor.finalize(executed.digest)
        backing.apply(executed.overlay.encode_writes())
        executor.absorb(executed.digest)
    for space, table in backing.spaces.items():
        assert dict(store.scan(space, b"")) == table


def test_transactions_in_flight_are_neither_lost_nor_paid_twice() -> None:
    cluster = make_cluster()
    payments = [pay(cluster) for _ in range(200)]
    for tx in payments:
        cluster.submit(tx)
        cluster.run(2)
    assert cluster.run(5_000, until=lambda: cluster.is_final_everywhere(*payments))
    for node in cluster.nodes.values():
        seen = [tx.hash for block in node.finals for tx in block.transactions]
        assert len(seen) == len(set(seen))
        assert posted(node, "BRVO/main") == 200
        assert len(node.running.mempool) == 0


def test_same_transaction_again_is_known_after_it_is_final() -> None:
    cluster = make_cluster()
    tx = pay(cluster)
    settle(cluster, tx)
    assert cluster.submit(tx) == [Added.DUPLICATE]
    world = cluster.world
    other = world.make(
        transfer("ALFA/main", "BRVO/main", 9), sender="ALFA/main", tx_id=tx.body.tx_id
    )
    assert cluster.submit(other) == [Added.ID_REUSED]
    height = cluster.nodes["ALFA"].height
    cluster.run(500)
    assert cluster.nodes["ALFA"].height <= height + 1


def test_idle_chain_rests_and_wakes_at_once() -> None:
    cluster = make_cluster()
    cluster.run(2_000)
    height = cluster.nodes["ALFA"].height
    cluster.run(20_000)
    assert cluster.nodes["ALFA"].height - height <= 5
    submitted = cluster.now_ms
    settle(cluster, pay(cluster))
    assert cluster.now_ms - submitted < 100


def test_expired_transaction_leaves_the_mempool_with_a_reason() -> None:
    cluster = make_cluster()
    now = cluster.wall_ms
    late = cluster.world.make(
        transfer("ALFA/main", "BRVO/main", 1), sender="ALFA/main", window=(now - 10, now - 5)
    )
    cluster.submit(late, to=["ALFA"])
    settle(cluster, pay(cluster))
    cluster.run(10)
    dropped = cluster.nodes["ALFA"].dropped
    assert [(d.transaction.hash, d.code) for d in dropped] == [(late.hash, Code.EXPIRED)]
    assert len(cluster.nodes["ALFA"].running.mempool) == 0


def test_two_envelopes_of_one_id_run_once_and_the_other_is_dropped() -> None:
    cluster = make_cluster()
    first = pay(cluster, 10)
    second = cluster.world.make(
        transfer("ALFA/main", "BRVO/main", 20), sender="ALFA/main", tx_id=first.body.tx_id
    )
    cluster.submit(first, to=["ALFA", "BRVO"])
    cluster.submit(second, to=["CHRL", "DLTA"])
    cluster.run(3_000)
    assert posted(cluster.nodes["ALFA"], "BRVO/main") in (10, 20)
    assert {len(node.running.mempool) for node in cluster.nodes.values()} == {0}
    codes = {d.code for node in cluster.nodes.values() for d in node.dropped}
    assert codes == {Code.ID_REUSED}
    assert len(cluster.state_roots()) == 1


def test_same_seed_gives_the_same_bytes_in_the_same_order() -> None:
    def trace(seed: int) -> list[tuple[str, int, str, bytes]]:
        cluster = make_cluster(seed=seed)
        for number in range(15):
            cluster.submit(pay(cluster))
            cluster.run(20)
            if number == 5:
                cluster.crash("CHRL", tail=1)
            if number == 9:
                cluster.start("CHRL")
        cluster.run(2_000)
        return [(n.code, *sent) for n in cluster.nodes.values() for sent in n.sent]

    first = trace(7)
    assert first == trace(7)
    assert first != trace(8)


# ---- crashes


@pytest.mark.parametrize("tail", [0, None, 7])
def test_all_crash_under_load_and_nothing_final_is_lost(tail: int | None) -> None:
    cluster = make_cluster()
    for number in range(60):
        cluster.submit(pay(cluster, number + 1))
        cluster.run(3)
    reported = {code: list(node.finals) for code, node in cluster.nodes.items()}
    assert any(block.transactions for block in reported["ALFA"])
    cluster.crash(tail=tail)
    cluster.start()
    cluster.run(3_000)
    for code, blocks in reported.items():
        store = Store(cluster.nodes[code].engine)
        for block in blocks:
            assert store.get_block_bytes(block.header.height) == block.block_bytes
            assert store.get_receipts(block.header.height) == block.receipts
    settle(cluster, pay(cluster))
    assert len(cluster.state_roots()) == 1
    check_votes(cluster)


def test_crash_at_any_moment_keeps_votes_and_blocks_consistent() -> None:
    cluster = make_cluster(seed=3)
    for round_ in range(25):
        for _ in range(3):
            cluster.submit(pay(cluster))
        cluster.run(5 + round_ * 3)
        victim = CODES[round_ % 4]
        cluster.crash(victim, tail=(0, None, 1)[round_ % 3])
        cluster.run(round_ % 7)
        cluster.start(victim)
    settle(cluster, pay(cluster))
    cluster.run(2_000)
    assert len(cluster.state_roots()) == 1
    assert all(node.halt is None for node in cluster.nodes.values())
    check_votes(cluster)


def test_commit_lost_in_a_crash_is_made_up_from_the_journal_alone() -> None:
    cluster = make_cluster(commit_ms=10_000_000, funded=False)
    cluster.run(2_000)
    node = cluster.nodes["ALFA"]
    assert node.height == 0
    final = node.running.executor.final
    assert final.header.height >= 1
    cluster.crash()
    cluster.commit_ms = 1
    cluster.start("ALFA")
    cluster.run(100)
    assert node.height >= final.header.height
    assert node.store is not None
    assert node.store.find_height(final.digest) == final.header.height


def test_payments_go_on_with_one_validator_down_and_it_catches_up() -> None:
    cluster = make_cluster()
    cluster.crash("DLTA")
    paid = 0
    for _ in range(20):
        settle(cluster, pay(cluster), within_ms=10_000)
        paid += 1
    away = cluster.nodes["DLTA"]
    assert away.height < cluster.nodes["ALFA"].height - 10
    cluster.start("DLTA")
    target = cluster.nodes["ALFA"].height
    assert cluster.run(10_000, until=lambda: away.height >= target)
    settle(cluster, pay(cluster))
    cluster.run(1_000)
    assert posted(away, "BRVO/main") == paid + 1
    assert len(cluster.state_roots()) == 1
    assert away.running.progress.is_ready
    check_votes(cluster)


def test_observer_follows_from_an_empty_disk_without_a_vote() -> None:
    cluster = make_cluster()
    for _ in range(10):
        settle(cluster, pay(cluster))
    cluster.nodes["AUDT"] = cluster._make_node("AUDT")
    cluster.start("AUDT")
    target = cluster.nodes["ALFA"].height
    assert cluster.run(10_000, until=lambda: cluster.nodes["AUDT"].height >= target)
    settle(cluster, pay(cluster))
    assert count_votes(cluster.nodes["AUDT"]) == {}
    assert cluster.nodes["AUDT"].running.progress.is_ready


def test_partitioned_minority_stops_and_joins_again() -> None:
    cluster = make_cluster()
    cluster.cut("CHRL")
    for _ in range(10):
        cluster.submit(pay(cluster), to=["ALFA", "BRVO", "DLTA"])
        cluster.run(700)
    behind = cluster.nodes["CHRL"]
    assert not behind.running.progress.is_ready
    assert behind.height < cluster.nodes["ALFA"].height
    cluster.heal()
    assert cluster.run(10_000, until=lambda: len(cluster.state_roots()) == 1)
    settle(cluster, pay(cluster))
    check_votes(cluster)


def test_no_quorum_no_finality_then_everything_goes_on() -> None:
    cluster = make_cluster()
    cluster.cut("ALFA", "BRVO")
    heights = {code: node.height for code, node in cluster.nodes.items()}
    tx = pay(cluster)
    cluster.submit(tx)
    cluster.run(10_000)
    for code, node in cluster.nodes.items():
        assert node.height <= heights[code] + 1
        assert not node.running.progress.is_ready
    cluster.heal()
    assert cluster.run(10_000, until=lambda: cluster.is_final_everywhere(tx))
    check_votes(cluster)


def test_journal_is_rewritten_without_what_is_committed() -> None:
    cluster = make_cluster()
    for _ in range(10):
        settle(cluster, pay(cluster))
    cluster.run(1_000)
    node = cluster.nodes["BRVO"]
    assert node.journal is not None
    before = node.journal.size
    node.journal.rewrite(node.running.compact_journal())
    assert node.journal.size < before / 4
    cluster.crash()
    cluster.start()
    settle(cluster, pay(cluster))
    check_votes(cluster)


def test_lost_store_is_fetched_again_and_dropped_votes_still_bind() -> None:
    cluster = make_cluster()
    for _ in range(10):
        settle(cluster, pay(cluster))
    cluster.run(1_000)
    node = cluster.nodes["BRVO"]
    assert node.journal is not None
    node.journal.rewrite(node.running.compact_journal())
    cluster.crash("BRVO")
    node.engine = cluster._make_node("BRVO").engine
    cut = cluster.nodes["BRVO"].height
    assert cut == 0
    # Nobody tells it anything: it must not begin to vote in views it has voted in.
    cluster.cut("BRVO")
    cluster.start("BRVO")
    cluster.run(10_000)
    assert not node.running.progress.is_ready
    cluster.heal()
    assert cluster.run(10_000, until=lambda: len(cluster.state_roots()) == 1)
    settle(cluster, pay(cluster))
    assert node.running.progress.is_ready
    check_votes(cluster)


# ---- disks that fail at every step


def run_with_a_victim(cluster: Cluster, victim: Node) -> None:
    """Pay while the victim's disk stops it; then bring it back and see that all agree."""
    for _ in range(12):
        cluster.submit(pay(cluster))
        cluster.run(60)
        if not victim.is_up:
            break
    assert not victim.is_up, "the disk was to stop it"
    cluster.run(200)
    victim.disk.cut_at = None
    cluster.start(victim.code)
    settle(cluster, pay(cluster), within_ms=10_000)
    cluster.run(500)
    assert len(cluster.state_roots()) == 1
    assert victim.halt is None
    assert not victim.alarms
    check_votes(cluster)


@pytest.mark.parametrize("tail", [0, 1, 25, None])
@pytest.mark.parametrize("step", range(24))
def test_power_cut_at_every_journal_write_and_fsync(step: int, tail: int | None) -> None:
    cluster = make_cluster(funded=False)
    cluster.run(500)
    cluster.crash_tail = tail
    victim = cluster.nodes["BRVO"]
    victim.disk.cut_at = victim.disk.steps + step
    run_with_a_victim(cluster, victim)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("step", range(4))
def test_power_cut_before_and_after_every_commit(step: int, keeps: bool) -> None:
    cluster = make_cluster(funded=False)
    cluster.run(500)
    victim = cluster.nodes["CHRL"]
    assert victim.store is not None
    victim.engine = CrashingKeyValue(victim.engine.values, crash_at=step, keeps=keeps)
    victim.store._engine = victim.engine
    run_with_a_victim(cluster, victim)


def test_power_cut_of_all_at_the_same_commit_is_made_up_from_journals() -> None:
    for keeps in (False, True):
        cluster = make_cluster()
        for node in cluster.nodes.values():
            assert node.store is not None
            node.engine = CrashingKeyValue(node.engine.values, crash_at=1, keeps=keeps)
            node.store._engine = node.engine
        payments = [pay(cluster) for _ in range(6)]
        for tx in payments:
            cluster.submit(tx)
            cluster.run(60)
        assert not any(node.is_up for node in cluster.nodes.values())
        before = {block.digest for node in cluster.nodes.values() for block in node.finals}
        cluster.start()
        settle(cluster, pay(cluster), within_ms=10_000)
        for node in cluster.nodes.values():
            store = Store(node.engine)
            assert all(store.find_height(digest) is not None for digest in before)
        check_votes(cluster)


# ---- divergence


def test_notarized_block_that_a_finalization_overtook_is_no_divergence() -> None:
    cluster = rested_cluster()
    node = cluster.nodes["ALFA"]
    validator = node.running
    _, message = forge_proposal(cluster, [pay(cluster, 5)])
    proposal = decode_message(message)
    assert isinstance(proposal, Proposal)
    block = BLOCK.decode(proposal.block)
    for _ in range(3):
        settle(cluster, pay(cluster))
    assert block.header.parent not in validator.executor
    task = VerifyBlock(
        proposal.vote.proposition,
        describe(block.header, compute_digest(block.header)),
        proposal.block,
        Cause.NOTARIZED,
    )
    # Its signatures come back only now, when the state it stood on is gone.
    validator._work.append(task)
    decided = validator.work(now_ms=cluster.now_ms, wall_ms=cluster.wall_ms)
    asked = [each for each in decided if isinstance(each, actions.VerifySignatures)]
    given = actions.SignaturesVerified(asked[0].digest, [True] * len(asked[0].triples))
    decided = validator.handle(given, now_ms=cluster.now_ms, wall_ms=cluster.wall_ms)
    assert not [each for each in decided if isinstance(each, actions.Halt | actions.Alarm)]
    assert validator.halted is None
    settle(cluster, pay(cluster))


def test_block_met_again_while_its_signatures_are_checked_is_judged_once() -> None:
    """Consensus forgets a nullified view's block, and fetches it when others certified it."""
    cluster = rested_cluster()
    txs = [pay(cluster, 5), pay(cluster, 6)]
    leader, message = forge_proposal(cluster, txs)
    validator = next(node for node in cluster.nodes.values() if node.code != leader).running
    proposal = decode_message(message)
    assert isinstance(proposal, Proposal)
    header = BLOCK.decode(proposal.block).header
    info = describe(header, compute_digest(header))
    asked: list[actions.VerifySignatures] = []
    for cause in (Cause.PROPOSED, Cause.NOTARIZED):
        validator._work.append(VerifyBlock(proposal.vote.proposition, info, proposal.block, cause))
        decided = validator.work(now_ms=cluster.now_ms, wall_ms=cluster.wall_ms)
        asked += [each for each in decided if isinstance(each, actions.VerifySignatures)]
        validator.verified.add(txs[0].hash)  # it came by gossip meanwhile
    assert len(asked) == 1
    for each in asked:
        given = actions.SignaturesVerified(each.digest, [True] * len(each.triples))
        validator.handle(given, now_ms=cluster.now_ms, wall_ms=cluster.wall_ms)
    assert info.digest in validator.executor


def test_node_whose_state_differs_halts_and_the_others_go_on() -> None:
    cluster = make_cluster()
    cluster.crash("DLTA")
    sick = cluster.nodes["DLTA"]
    # A balance that was changed since the tree's pages were written would be noticed at the start.
    sick.engine.write(Store(sick.engine)._get_held().list_pages())
    key = b"s" + bytes((BALANCES.id,)) + balance_key(HKD, "ALFA/main")
    sick.engine.values[key] = encode(replace(NO_BALANCE, posted=5))
    cluster.start("DLTA")
    cluster.run(500)
    others = [node for node in cluster.nodes.values() if node is not sick]
    tx = pay(cluster, 7)
    cluster.submit(tx)
    assert cluster.run(
        5_000, until=lambda: all(cluster.find_final(n.code, tx) is not None for n in others)
    )
    cluster.run(2_000)
    assert sick.halt is not None
    assert "divergence" in sick.halt.kind
    assert not sick.running.progress.is_ready
    assert sick.running.deadline_ms is None
    mark = len(sick.sent)
    cluster.submit(pay(cluster))
    cluster.run(2_000)
    assert len(sick.sent) == mark


def test_node_is_not_ready_before_it_heard_how_far_the_chain_is() -> None:
    cluster = make_cluster(latency_ms=(50, 50))
    cluster.crash("DLTA")
    for _ in range(5):
        settle(cluster, pay(cluster), within_ms=20_000)
    cluster.start("DLTA")
    node = cluster.nodes["DLTA"]
    target = cluster.nodes["ALFA"].height
    seen_ready_behind = False
    while node.height < target:
        cluster.run(1)
        ready = node.running.progress.is_ready
        seen_ready_behind |= ready and node.running.progress.final_height < target
        assert cluster.now_ms < 100_000
    assert not seen_ready_behind


# ---- the composition in detail


def build_on(cluster: Cluster, node: Node, parent: bytes, *, view: int) -> list[actions.Action]:
    """Let a node build for a view, as its replica would ask it to."""
    tip = node.running.executor.get_tip(parent)
    stamp = tip.header.timestamp_ms + 1_000
    node.running._work.append(BuildBlock(0, view, parent, tip.header.height, stamp, is_empty=False))
    return node.running.work(now_ms=cluster.now_ms, wall_ms=cluster.wall_ms)


def test_transaction_refused_on_a_parent_that_is_not_final_gets_another_chance() -> None:
    cluster = rested_cluster()
    node = cluster.nodes["ALFA"]
    validator = node.running
    first = pay(cluster, 10)
    rival = cluster.world.make(
        transfer("ALFA/main", "BRVO/main", 20), sender="ALFA/main", tx_id=first.body.tx_id
    )
    final = validator.executor.final
    ours = validator.executor.build(
        parent_digest=final.digest,
        epoch=0,
        view=10_000,
        timestamp_ms=final.header.timestamp_ms + 500,
        proposer="ALFA",
        candidates=[first],
    )[0]
    assert validator.admit([rival]) == [Added.ADDED]
    decided = build_on(cluster, node, ours.digest, view=10_001)
    assert not [each for each in decided if isinstance(each, actions.DropTransaction)]
    assert rival.hash in validator._suspects
    assert rival.hash in validator.mempool
    # The block with its rival comes to nothing; the next final state lets it run.
    settle(cluster, pay(cluster))
    assert validator._suspects == {}
    settle(cluster, rival)


def test_what_became_final_while_it_was_checked_is_not_held() -> None:
    """A judgement on the present final block stands; one on an older block is made again."""
    cluster = rested_cluster()
    validator = cluster.nodes["ALFA"].running
    judged_on = validator.final.digest
    paid, other = pay(cluster, 10), pay(cluster, 11)
    settle(cluster, paid)
    assert validator.admit([paid], judged_on=judged_on) == [Added.DUPLICATE]
    assert validator.admit([paid]) == [Added.DUPLICATE]
    assert paid.hash not in validator.mempool
    assert validator.admit([other], judged_on=validator.final.digest) == [Added.ADDED]


def test_transaction_refused_on_the_final_state_is_dropped_with_the_reason() -> None:
    cluster = rested_cluster()
    node = cluster.nodes["ALFA"]
    used = pay(cluster, 10)
    settle(cluster, used)
    cluster.run(10)
    rival = cluster.world.make(
        transfer("ALFA/main", "BRVO/main", 20), sender="ALFA/main", tx_id=used.body.tx_id
    )
    node.running.mempool.add(rival)  # as if it had slipped in
    decided = build_on(cluster, node, node.running.executor.final.digest, view=10_000)
    dropped = [each for each in decided if isinstance(each, actions.DropTransaction)]
    assert [(each.transaction.hash, each.code) for each in dropped] == [
        (rival.hash, Code.ID_REUSED)
    ]
    assert rival.hash not in node.running.mempool


def test_building_on_an_unknown_parent_fails_and_nothing_else() -> None:
    cluster = rested_cluster()
    node = cluster.nodes["ALFA"]
    node.running._work.append(BuildBlock(0, 10_000, bytes(32), 1, 1, is_empty=False))
    node.running.work(now_ms=cluster.now_ms, wall_ms=cluster.wall_ms)
    assert node.running.halted is None
    settle(cluster, pay(cluster))


def test_forgotten_block_is_executed_again_when_it_is_needed() -> None:
    cluster = rested_cluster()
    node = cluster.nodes["ALFA"]
    validator = node.running
    final = validator.executor.final
    build_on(cluster, node, final.digest, view=10_000)
    (first,) = [
        d
        for d, (height, _) in validator._block_bytes.items()
        if d in validator.executor and height > final.header.height
    ]
    build_on(cluster, node, first, view=10_001)
    (second,) = [
        d for d, (height, _) in validator._block_bytes.items() if height == final.header.height + 2
    ]
    for digest in (second, first):
        del validator.executor._blocks[digest], validator.executor._views[digest]
    validator._restore_block(second)
    assert first in validator.executor
    assert second in validator.executor
    with pytest.raises(ParentUnknown):
        validator._restore_block(bytes(32))


def test_bytes_of_blocks_are_bounded_and_executed_ones_stay() -> None:
    cluster = rested_cluster()
    validator = cluster.nodes["ALFA"].running
    final = validator.executor.final
    build_on(cluster, cluster.nodes["ALFA"], final.digest, view=10_000)
    ours = [digest for digest in validator._block_bytes if digest in validator.executor]
    for number in range(MAX_HELD_BLOCKS + 10):
        validator._keep_bytes(number.to_bytes(32, "big"), final.header.height + 1, b"")
    assert len(validator._block_bytes) == MAX_HELD_BLOCKS
    assert all(digest in validator._block_bytes for digest in ours)
    settle(cluster, pay(cluster))
    settle(cluster, pay(cluster))
    cluster.run(10)
    assert len(validator._block_bytes) < 10


def test_two_votes_in_one_view_are_evidence_and_an_alarm() -> None:
    cluster = rested_cluster()
    node = cluster.nodes["ALFA"]
    view = node.running.progress.view
    for number in (1, 2):
        proposition = Proposition(0, view, view - 1, bytes([number]) * 32)
        data = compute_vote_bytes(SignKind.NOTARIZE, cluster.world.chain_id, proposition)
        vote = Notarize(proposition, key_of("BRVO-vote").sign(data).signature)
        feed(cluster, "ALFA", encode_message(vote), Lane.VOTES)
    assert {alarm.kind for alarm in node.alarms} == {AlarmKind.EQUIVOCATION}
    (evidence,) = [alarm.evidence for alarm in node.alarms if alarm.evidence is not None]
    assert evidence.participant == "BRVO"
    assert node.halt is None


def test_journal_of_another_chain_is_lost_not_replayed() -> None:
    cluster = make_cluster(funded=False)
    node = cluster.nodes["ALFA"]
    assert node.journal is not None
    node.journal.append([encode_record(BodyRecord(b"not a block"))])
    cluster.crash("ALFA")
    with pytest.raises(JournalLost, match="do not vote"):
        cluster.start("ALFA")


# ---- hostile peers


def feed(cluster: Cluster, code: str, data: bytes, lane: Lane, *, peer: str = "BRVO") -> Node:
    node = cluster.nodes[code]
    cluster._put(node, actions.PeerFrame(peer, lane, data))
    cluster.run(1)
    return node


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\xc1", b"\xff" * 40, b"\x91" * 5_000, encode([16, 1, 2]), encode({"a": 1})],
)
@pytest.mark.parametrize("lane", list(Lane))
def test_garbage_drops_the_peer_and_nothing_else(data: bytes, lane: Lane) -> None:
    cluster = make_cluster(funded=False)
    node = feed(cluster, "ALFA", data, lane)
    assert [peer for peer, _ in node.faults] == ["BRVO"]
    assert node.halt is None


def test_every_prefix_and_flip_of_a_real_message_is_survived() -> None:
    cluster = make_cluster()
    settle(cluster, pay(cluster))
    samples = {type(decode_message(d)).__name__: d for _, _, d in cluster.nodes["BRVO"].sent}
    assert {"Proposal", "Notarize", "Finalize"} <= set(samples)
    for data in samples.values():
        step = max(1, len(data) // 60)
        for position in range(0, len(data), step):
            flipped = bytearray(data)
            flipped[position] ^= 1 << (position % 8)
            for hostile in (data[:position], bytes(flipped), data + b"\0"):
                for lane in (Lane.VOTES, Lane.PROPOSALS):
                    feed(cluster, "ALFA", hostile, lane)
    assert cluster.nodes["ALFA"].halt is None
    cluster.run(500)
    settle(cluster, pay(cluster))


def test_message_on_another_lane_drops_the_peer() -> None:
    cluster = make_cluster(funded=False)
    request = encode_message(SyncRequest(0, 1))
    node = feed(cluster, "ALFA", request, Lane.VOTES)
    assert [peer for peer, _ in node.faults] == ["BRVO"]
    assert "VOTES lane" in node.faults[0][1]


def test_requests_for_things_that_are_not_there_are_answered_empty() -> None:
    cluster = make_cluster(funded=False)
    for request in (BlockRequest(bytes(32)), SyncRequest(0, 10**12), SyncRequest(7, 1)):
        node = feed(cluster, "ALFA", encode_message(request), Lane.FETCH)
        assert node.faults == []
        assert node.halt is None


def forge_proposal(
    cluster: Cluster, txs: Sequence[Transaction], *, state_root: bytes | None = None
) -> tuple[str, bytes]:
    """Let the next leader propose a block of its own making; return its code and the message."""
    node = cluster.nodes["ALFA"]
    progress = node.running.progress
    leader = progress.leader
    liar = cluster.nodes[leader].running
    executed, _ = liar.executor.build(
        parent_digest=liar.executor.final.digest,
        epoch=0,
        view=progress.view,
        timestamp_ms=cluster.wall_ms,
        proposer=leader,
        candidates=txs,
    )
    header = executed.header
    if state_root is not None:
        header = replace(header, state_root=state_root)
    block = replace(executed.block, header=header)
    parent = Store(cluster.nodes[leader].engine).get_finality_path(header.height - 1)
    assert parent is not None
    proposition = Proposition(
        0, progress.view, parent.finalization.proposition.view, compute_digest(header)
    )
    message = compute_vote_bytes(SignKind.NOTARIZE, cluster.world.chain_id, proposition)
    vote = Notarize(proposition, key_of(f"{leader}-vote").sign(message).signature)
    return leader, encode_message(Proposal(vote, encode(block)))


def deliver_forged(cluster: Cluster, leader: str, message: bytes) -> list[Node]:
    """Let all others see the leader's forged proposal, and silence the leader."""
    honest = [node for node in cluster.nodes.values() if node.code != leader]
    for node in honest:
        cluster._put(node, actions.PeerFrame(leader, Lane.PROPOSALS, message))
    cluster.crash(leader)
    cluster.run(100)
    return honest


def get_digest(message: bytes) -> bytes:
    proposal = decode_message(message)
    assert isinstance(proposal, Proposal)
    return proposal.vote.proposition.digest


def has_notarized(node: Node, digest: bytes) -> bool:
    return any(digest in data for _, _, data in node.sent)


def rested_cluster(**options: object) -> Cluster:
    cluster = make_cluster(**options)
    cluster.run(2_000)
    return cluster


def test_block_with_a_forged_signature_gets_no_vote() -> None:
    cluster = rested_cluster()
    good = pay(cluster, 5)
    forged = decode_transaction(
        encode_envelope(good.body_bytes, [(s.key, bytes(64)) for s in good.signatures])
    )
    leader, message = forge_proposal(cluster, [forged])
    for node in deliver_forged(cluster, leader, message):
        assert not has_notarized(node, get_digest(message))
    settle(cluster, good, within_ms=20_000)


def test_honest_proposal_by_the_same_road_does_get_votes() -> None:
    cluster = rested_cluster()
    leader, message = forge_proposal(cluster, [pay(cluster, 5)])
    for node in deliver_forged(cluster, leader, message):
        assert has_notarized(node, get_digest(message))


def test_block_with_a_wrong_state_root_gets_no_vote_and_an_alarm() -> None:
    cluster = rested_cluster()
    leader, message = forge_proposal(cluster, [pay(cluster, 5)], state_root=bytes(32))
    for node in deliver_forged(cluster, leader, message):
        assert not has_notarized(node, get_digest(message))
        assert any("state_root" in alarm.message for alarm in node.alarms)
    settle(cluster, pay(cluster), within_ms=20_000)


def test_body_that_does_not_match_its_header_is_no_body() -> None:
    cluster = rested_cluster()
    leader, message = forge_proposal(cluster, [pay(cluster, 5)])
    proposal = decode_message(message)
    assert isinstance(proposal, Proposal)
    block = BLOCK.decode(proposal.block)
    swapped = replace(block, transactions=(pay(cluster, 6).raw,))
    for node in deliver_forged(
        cluster, leader, encode_message(Proposal(proposal.vote, encode(swapped)))
    ):
        assert not has_notarized(node, proposal.vote.proposition.digest)
        assert node.halt is None


def test_unauthorised_transaction_in_a_block_gets_no_vote() -> None:
    cluster = rested_cluster()
    stolen = cluster.world.make(
        transfer("ALFA/main", "BRVO/main", 7), sender="ALFA/main", keys=["BRVO-pay"]
    )
    leader, message = forge_proposal(cluster, [pay(cluster, 5)])
    proposal = decode_message(message)
    assert isinstance(proposal, Proposal)
    block = BLOCK.decode(proposal.block)
    header = replace(block.header, tx_root=compute_root([stolen.hash]))
    proposition = replace(proposal.vote.proposition, digest=compute_digest(header))
    data = compute_vote_bytes(SignKind.NOTARIZE, cluster.world.chain_id, proposition)
    vote = Notarize(proposition, key_of(f"{leader}-vote").sign(data).signature)
    body = encode(replace(block, header=header, transactions=(stolen.raw,)))
    for node in deliver_forged(cluster, leader, encode_message(Proposal(vote, body))):
        assert not has_notarized(node, proposition.digest)
