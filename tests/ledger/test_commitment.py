"""The kept trees are those of the records, whatever blocks came, forked, merged or were dropped."""

import random

import pytest

from atpar.ledger import records
from atpar.ledger.codec import encode
from atpar.ledger.commitment import SECTION_TREES, commit_state, read_state_table
from atpar.ledger.execute import Template, build_block, execute_block
from atpar.ledger.records import Balance, Supply
from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay, View
from atpar.ledger.transactions import decode_transaction
from atpar.ledger.tree import TreeRoot, compute_asset_tree, get_root
from atpar.ledger.treeproofs import prove, verify_tree_proof
from tests.ledger.world import BANKS, HKD, World, default_genesis, transfer


def rebuild(view: View) -> tuple[bytes, dict[bytes, bytes]]:
    """Return the state root and all tree nodes made anew from a view's records."""
    backing = MemoryBacking()
    overlay = Overlay(Base(backing))
    for section in records.SECTIONS:
        for key, record in view.scan(section, b""):
            overlay.put(section, key, record)
    root = commit_state(overlay)
    backing.apply(overlay.encode_writes())
    return root, backing.spaces[TREE_NODES]


def change_at_random(overlay: Overlay, rng: random.Random) -> None:
    """Move money between accounts that come and go, and records of other sections with them."""
    for _ in range(rng.randrange(12)):
        account = f"ALFA/c{rng.randrange(60)}"
        key, supply_key = records.balance_key(HKD, account), HKD.encode()
        before = overlay.get(records.BALANCES, key) or records.NO_BALANCE
        posted = rng.choice([0, 0, rng.randrange(1_000), before.posted])
        if posted:
            overlay.put(records.BALANCES, key, Balance(posted, 0, 0, 0, 0, 0))
        else:
            overlay.delete(records.BALANCES, key)
        supply = overlay.get(records.SUPPLIES, supply_key) or records.NO_SUPPLY
        minted = supply.minted + max(0, posted - before.posted)
        burned = supply.burned + max(0, before.posted - posted)
        overlay.put(records.SUPPLIES, supply_key, Supply(minted, burned))
        quota = rng.randbytes(1)
        if rng.random() < 0.5:
            overlay.delete(records.KEYS, quota)
        else:
            overlay.put(records.KEYS, quota, records.KeyOwner("ALFA"))


def test_stacked_forked_merged_and_dropped_overlays_keep_the_trees_of_their_records() -> None:
    rng = random.Random(11)
    backing = MemoryBacking()
    backing.apply(default_genesis().overlay.encode_writes())
    base = Base(backing, cache_node_bytes=20_000)
    for _ in range(25):
        stack: list[Overlay] = []
        for _ in range(rng.randrange(1, 5)):
            parent: View = stack[-1] if stack else base
            forks = [Overlay(parent) for _ in range(rng.randrange(1, 3))]
            for fork in forks:
                change_at_random(fork, rng)
                assert commit_state(fork) == rebuild(fork)[0]
            stack.append(rng.choice(forks))
        merged = Overlay(base)
        for overlay in stack:
            overlay.merge_into(merged)
        assert rebuild(merged)[0] == rebuild(stack[-1])[0]
        taken = merged if rng.random() < 0.3 else stack[0]
        backing.apply(taken.encode_writes())
        base.absorb(taken)
        assert backing.spaces[TREE_NODES] == rebuild(base)[1], "no node is lost or left behind"


def test_rolled_back_transactions_leave_no_trace_in_the_root() -> None:
    rng = random.Random(12)
    overlay = Overlay(Base(MemoryBacking()))
    default_genesis().overlay.merge_into(overlay)
    for _ in range(40):
        overlay.checkpoint()
        change_at_random(overlay, rng)
        if rng.random() < 0.5:
            overlay.rollback()
    assert commit_state(overlay) == rebuild(overlay)[0]


def test_two_blocks_on_one_parent_do_not_disturb_each_other() -> None:
    world = World()
    world.fund("ALFA/main", 1_000)
    built = []
    for view, amount in ((1, 10), (2, 700)):
        template = Template(
            epoch=0,
            view=world.header.view + view,
            parent=world.header,
            parent_digest=world.digest,
            timestamp_ms=world.header.timestamp_ms + view,
            proposer=BANKS[view],
        )
        tx = world.make(transfer("ALFA/main", "BRVO/main", amount), sender="ALFA/main")
        executed, refused = build_block(world.view, template, [tx], chain_id=world.chain_id)
        assert not refused
        built.append(executed)
    for executed in built:
        again = execute_block(
            world.view,
            world.header,
            world.digest,
            executed.block,
            [decode_transaction(raw) for raw in executed.block.transactions],
            chain_id=world.chain_id,
        )
        assert again.header == executed.header
        assert rebuild(executed.overlay)[0] == executed.header.state_root
    world.adopt(built[1])
    assert rebuild(world.view) == (world.header.state_root, world.backing.spaces[TREE_NODES])


def test_every_record_of_every_proven_section_has_a_proof_to_the_root() -> None:
    world = World()
    world.fund("ALFA/main", 1_000)
    world.redeem("ALFA/main", 10)
    world.freeze("BRVO/main")
    table = read_state_table(world.view)
    roots = {row.section: row.root for row in table.sections}
    for section, tree in SECTION_TREES:
        found = dict(world.view.scan(section, b""))
        for key, record in found.items():
            proof = prove(world.view, tree, key, lambda k, s=found: encode(s[k]))
            leaf = verify_tree_proof(proof, tree=tree, key=key, root=TreeRoot(roots[section.id], 0))
            assert leaf is not None
            assert leaf.value == encode(record)


def test_sum_of_balances_is_the_root_of_the_assets_tree() -> None:
    world = World()
    world.fund("ALFA/main", 1_000)
    for bank in ("BRVO", "CHRL", "DLTA"):
        world.run(transfer("ALFA/main", f"{bank}/main", 100))
    assert get_root(world.view, compute_asset_tree(HKD)).total == 1_000 == world.supply()


def test_state_whose_balances_are_not_its_supply_cannot_be_committed() -> None:
    overlay = Overlay(Base(MemoryBacking()))
    default_genesis().overlay.merge_into(overlay)
    key = records.balance_key(HKD, "ALFA/main")
    overlay.put(records.BALANCES, key, Balance(1, 0, 0, 0, 0, 0))
    with pytest.raises(AssertionError, match=r"HKD\.JDCL: posted 1, supply 0"):
        commit_state(overlay)
