"""The stack of speculative blocks: built once, verified once, folded without changing any read."""

import pytest
from msgspec.structs import replace

from atpar.ledger.blocks import compute_digest
from atpar.ledger.errors import BlockInvalid
from atpar.ledger.execute import Executed
from atpar.ledger.records import ACCOUNTS, BALANCES, balance_key
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.transactions import Transaction
from atpar.node.executor import Executor, ParentUnknown
from tests.ledger.world import HKD, World, transfer


def make_world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000_000)
    return world


def make_executor(world: World, *, max_blocks: int = 256) -> Executor:
    return Executor(
        world.backing,
        chain_id=world.chain_id,
        header=world.header,
        digest=world.digest,
        max_blocks=max_blocks,
    )


def pay(world: World, amount: int, *, debtor: str = "ALFA/main") -> Transaction:
    return world.make(transfer(debtor, "BRVO/main", amount), sender=debtor)


def build(executor: Executor, parent: bytes, *txs: Transaction, view: int = 1) -> Executed:
    tip = executor.get_tip(parent)
    executed, refused = executor.build(
        parent_digest=parent,
        epoch=0,
        view=tip.header.view + view,
        timestamp_ms=tip.header.timestamp_ms + 10 + view,
        proposer="ALFA",
        candidates=txs,
    )
    assert refused == []
    return executed


def posted(executor: Executor, digest: bytes, account: str) -> int:
    balance = executor.get_tip(digest).view.get(BALANCES, balance_key(HKD, account))
    return 0 if balance is None else balance.posted


def test_building_is_verifying_once() -> None:
    world = make_world()
    executor, other = make_executor(world), make_executor(world)
    built = build(executor, world.digest, pay(world, 5))
    assert executor.verify(built.digest, built.block, built.transactions) is built
    verified = other.verify(built.digest, built.block, built.transactions)
    assert verified is not built
    assert verified.header == built.header
    assert verified.receipts == built.receipts
    assert other.verify(built.digest, built.block, built.transactions) is verified


def test_unknown_parent_is_said_so_and_changes_nothing() -> None:
    world = make_world()
    executor, other = make_executor(world), make_executor(world)
    first = build(executor, world.digest)
    second = build(executor, first.digest)
    with pytest.raises(ParentUnknown):
        other.verify(second.digest, second.block, ())
    with pytest.raises(ParentUnknown):
        build(other, first.digest)
    with pytest.raises(ParentUnknown):
        other.finalize(second.digest)
    assert len(other) == 0


def test_block_with_another_root_is_invalid_and_not_kept() -> None:
    world = make_world()
    executor = make_executor(world)
    built = build(make_executor(world), world.digest, pay(world, 5))
    forged = replace(built.block, header=replace(built.header, state_root=bytes(32)))
    digest = compute_digest(forged.header)
    with pytest.raises(BlockInvalid, match="state_root"):
        executor.verify(digest, forged, built.transactions)
    assert digest not in executor


def test_siblings_see_only_their_own_branch() -> None:
    world = make_world()
    executor = make_executor(world)
    left = build(executor, world.digest, pay(world, 5), view=1)
    right = build(executor, world.digest, pay(world, 70), view=2)
    above = build(executor, right.digest, pay(world, 600))
    assert posted(executor, left.digest, "BRVO/main") == 5
    assert posted(executor, right.digest, "BRVO/main") == 70
    assert posted(executor, above.digest, "BRVO/main") == 670
    assert posted(executor, world.digest, "BRVO/main") == 0
    assert executor.collect_hashes(above.digest) == {
        right.transactions[0].hash,
        above.transactions[0].hash,
    }


def test_finalize_moves_the_tip_and_drops_what_does_not_descend_from_it() -> None:
    world = make_world()
    executor = make_executor(world)
    loser = build(executor, world.digest, pay(world, 1), view=1)
    orphan = build(executor, loser.digest, pay(world, 2))
    first = build(executor, world.digest, pay(world, 3), view=2)
    second = build(executor, first.digest, pay(world, 4))
    late_loser = build(executor, first.digest, pay(world, 5), view=9)
    third = build(executor, second.digest, pay(world, 6))
    assert executor.finalize(second.digest) == [first, second]
    assert executor.final.digest == second.digest
    assert executor.base_height == world.header.height
    for gone in (loser, orphan, late_loser):
        assert gone.digest not in executor
    assert posted(executor, third.digest, "BRVO/main") == 13
    assert executor.finalize(second.digest) == []
    assert executor.finalize(first.digest) == []
    assert executor.finalize(third.digest) == [third]


def test_absorbing_frees_overlays_and_changes_no_read() -> None:
    world = make_world()
    executor = make_executor(world)
    blocks = []
    digest = world.digest
    for amount in range(1, 8):
        blocks.append(build(executor, digest, pay(world, amount)))
        digest = blocks[-1].digest
    total = sum(range(1, 8))
    for block in blocks:
        executor.finalize(block.digest)
        world.backing.apply(block.overlay.encode_writes())
        # The batch is on the disk; the overlays above still shadow it with the same values.
        assert posted(executor, digest, "BRVO/main") == total
        executor.absorb(block.digest)
        assert executor.base_height == block.header.height
        assert posted(executor, digest, "BRVO/main") == total
        assert count_depth(executor, digest) == blocks[-1].header.height - block.header.height
    assert len(executor) == 0
    assert posted(executor, digest, "ALFA/main") == 1_000_000 - total


def count_depth(executor: Executor, digest: bytes) -> int:
    """Return how many overlays a read may pass before the base."""
    view = executor.get_tip(digest).view
    depth = 0
    while isinstance(view, Overlay):
        depth += 1
        view = view.parent
    assert isinstance(view, Base)
    return depth


def test_several_commits_under_way_are_absorbed_at_once() -> None:
    world = make_world()
    executor = make_executor(world)
    first = build(executor, world.digest, pay(world, 1))
    second = build(executor, first.digest, pay(world, 2))
    tip = build(executor, second.digest, pay(world, 4))
    executor.finalize(first.digest)
    executor.finalize(second.digest)
    for block in (first, second):
        world.backing.apply(block.overlay.encode_writes())
    executor.absorb(second.digest)
    assert len(executor) == 1
    assert posted(executor, tip.digest, "BRVO/main") == 7
    assert posted(executor, second.digest, "BRVO/main") == 3


def test_building_goes_on_while_the_disk_lags_far_behind() -> None:
    world = make_world()
    executor = make_executor(world)
    blocks = []
    for amount in range(1, 20):
        blocks.append(build(executor, executor.final.digest, pay(world, amount)))
        executor.finalize(blocks[-1].digest)
    for block in blocks:
        world.backing.apply(block.overlay.encode_writes())
        executor.absorb(block.digest)
    assert posted(executor, executor.final.digest, "BRVO/main") == sum(range(1, 20))
    fresh = Base(world.backing)
    key = balance_key(HKD, "BRVO/main")
    assert fresh.get(BALANCES, key) == executor.final.view.get(BALANCES, key)


def test_reads_stay_short_and_right_above_hundreds_of_blocks() -> None:
    world = make_world()
    executor = make_executor(world, max_blocks=1_000)
    digest, blocks = world.digest, []
    for amount in range(1, 301):
        blocks.append(build(executor, digest, pay(world, amount)))
        digest = blocks[-1].digest
    assert count_depth(executor, digest) < 48
    for at in (0, 14, 15, 16, 17, 254, 255, 256, 299):
        assert posted(executor, blocks[at].digest, "BRVO/main") == sum(range(1, at + 2))
    # A fork from the middle sees its own parent, not what was merged later.
    fork = build(executor, blocks[40].digest, pay(world, 1_000), view=7)
    assert posted(executor, fork.digest, "BRVO/main") == sum(range(1, 42)) + 1_000
    again = make_executor(world, max_blocks=1_000)
    for block in blocks:
        again.verify(block.digest, block.block, block.transactions)
    # Absorbing in uneven steps, with the disk behind, changes nothing that is read.
    executor.finalize(digest)
    for block in blocks:
        world.backing.apply(block.overlay.encode_writes())
    for step in (0, 6, 15, 100, 290, 299):
        executor.absorb(blocks[step].digest)
        assert posted(executor, digest, "BRVO/main") == sum(range(1, 301))
        for above in blocks[step + 1 :: 23]:
            expected = sum(range(1, blocks.index(above) + 2))
            assert posted(executor, above.digest, "BRVO/main") == expected
    assert len(executor) == 0


def test_full_stack_forgets_an_unfinal_leaf_never_a_parent() -> None:
    world = make_world()
    executor = make_executor(world, max_blocks=4)
    trunk = build(executor, world.digest, pay(world, 1), view=1)
    leaves = [build(executor, trunk.digest, pay(world, 10 + i), view=2 + i) for i in range(3)]
    assert len(executor) == 4
    another = build(executor, trunk.digest, pay(world, 99), view=9)
    assert len(executor) == 4
    assert leaves[0].digest not in executor
    assert trunk.digest in executor
    assert another.digest in executor
    again = executor.verify(leaves[0].digest, leaves[0].block, leaves[0].transactions)
    assert again.header == leaves[0].header


def test_pinned_blocks_are_never_forgotten() -> None:
    world = make_world()
    executor = make_executor(world, max_blocks=3)
    pinned = build(executor, world.digest, pay(world, 1), view=1)
    executor.pin(pinned.digest)
    for number in range(6):
        build(executor, world.digest, pay(world, 10 + number), view=2 + number)
    assert len(executor) == 3
    assert pinned.digest in executor


def test_replay_from_genesis_gives_the_same_roots() -> None:
    world = make_world()
    for amount in (5, 7, 11):
        world.block(pay(world, amount), pay(world, amount + 1))
    backing = MemoryBacking()
    backing.apply(world.genesis.overlay.encode_writes())
    executor = Executor(
        backing,
        chain_id=world.chain_id,
        header=world.genesis.header,
        digest=world.genesis.digest,
    )
    for block in world.executed:
        again = executor.verify(block.digest, block.block, block.transactions)
        assert again.header.state_root == block.header.state_root
        executor.finalize(block.digest)
        backing.apply(again.overlay.encode_writes())
        executor.absorb(block.digest)
    assert executor.final.digest == world.digest
    assert backing.spaces == world.backing.spaces
    assert executor.final.view.get(ACCOUNTS, b"ALFA/main") is not None
