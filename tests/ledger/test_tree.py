"""The Merkle-sum tree: shape from contents alone, sums at every level, proofs of both kinds."""

import random
from collections.abc import Iterable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from atpar.ledger import tree as tree_module
from atpar.ledger.codec import Codec, encode
from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.limits import MAX_SUM, MAX_TREE_DEPTH, MAX_TREE_ID_BYTES, MAX_TREE_KEY_BYTES
from atpar.ledger.pages import MAX_SMALL_BYTES, TOP
from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay, View
from atpar.ledger.stateroot import AssetRow, SectionRoot, compute_state_root
from atpar.ledger.tree import (
    EMPTY_ROOT,
    TreeChange,
    TreeRoot,
    compute_asset_tree,
    compute_leaf_hash,
    compute_section_tree,
    get_root,
    update_tree,
)
from atpar.ledger.treeproofs import TreeLeaf, TreeProof, TreeStep, prove, verify_tree_proof
from tests.altering import flip

TREE = compute_asset_tree("HKD.JDCL")
PROOF = Codec[TreeProof](TreeProof, name="tree proof", max_bytes=100_000)
Contents = dict[bytes, tuple[bytes, int]]


def list_changes(contents: Contents) -> list[TreeChange]:
    return [TreeChange(key, value, amount) for key, (value, amount) in contents.items()]


class Kept:
    """A tree on a backing, as a node keeps it, beside the plain contents it should hold."""

    def __init__(
        self, contents: Contents | None = None, *, tree: bytes = TREE, cache_bytes: int = 100_000
    ) -> None:
        self.tree = tree
        self.backing = MemoryBacking()
        self.base = Base(self.backing, cache_node_bytes=cache_bytes)
        self.contents: Contents = {}
        if contents:
            self.apply(list_changes(contents))

    def apply(self, changes: Iterable[TreeChange]) -> TreeRoot:
        overlay = Overlay(self.base)
        changes = list(changes)
        root = update_tree(overlay, self.tree, changes)
        self.backing.apply(overlay.encode_writes())
        self.base.absorb(overlay)
        for key, value, amount in changes:
            if value is None:
                self.contents.pop(key, None)
            else:
                self.contents[key] = (value, amount)
        return root

    @property
    def nodes(self) -> dict[bytes, bytes]:
        return self.backing.spaces.get(TREE_NODES, {})

    def prove(self, key: bytes) -> TreeProof:
        return prove(self.base, self.tree, key, lambda found: self.contents[found][0])

    def verify(self, key: bytes, proof: TreeProof | None = None) -> TreeLeaf | None:
        proof = self.prove(key) if proof is None else proof
        root = get_root(self.base, self.tree)
        return verify_tree_proof(proof, tree=self.tree, key=key, root=root)

    def check(self) -> None:
        fresh = Kept(self.contents, tree=self.tree)
        assert fresh.nodes == self.nodes, "the shape depends on more than the contents"
        root = get_root(self.base, self.tree)
        assert root == get_root(fresh.base, self.tree)
        assert root == reference_root(self.tree, self.contents)
        assert root.total == sum(amount for _, amount in self.contents.values())


# ---- the definition, word for word


def reference_root(tree: bytes, contents: Contents) -> TreeRoot:
    """The root as the module's docstring defines it, without any of its shortcuts."""
    leaves = [
        (sha256(b"atpar/key/v1\0" + key).hexdigest(), key, value, amount)
        for key, (value, amount) in contents.items()
    ]
    return TreeRoot(*reference_node(tree, leaves, 0)) if leaves else EMPTY_ROOT


def reference_node(
    tree: bytes, leaves: list[tuple[str, bytes, bytes, int]], depth: int
) -> tuple[bytes, int]:
    head = bytes([len(tree)]) + tree + bytes(15 - len(tree))
    occupancy, slots, total = 0, b"", 0
    for nibble in range(16):
        below = [leaf for leaf in leaves if int(leaf[0][depth], 16) == nibble]
        if not below:
            continue
        if len(below) == 1:
            _, key, value, amount = below[0]
            body = head + bytes([len(key)]) + key + value
            digest = sha256(b"atpar/leaf/v1\0" + body).digest()
        else:
            digest, amount = reference_node(tree, below, depth + 1)
        occupancy |= 1 << nibble
        slots += digest + amount.to_bytes(8, "big")
        total += amount
    node = b"atpar/node/v1\0" + head + occupancy.to_bytes(2, "big") + slots
    return sha256(node).digest(), total


# ---- shape


def make_contents(count: int, *, seed: int = 1) -> Contents:
    rng = random.Random(seed)
    return {b"ALFA/%d" % i: (b"value %d" % i, rng.randrange(10**6)) for i in range(count)}


def test_empty_tree_is_a_constant() -> None:
    kept = Kept()
    assert get_root(kept.base, TREE) == EMPTY_ROOT == TreeRoot(bytes(32), 0)
    assert kept.apply([]) == EMPTY_ROOT
    assert kept.apply([TreeChange(b"absent", None)]) == EMPTY_ROOT
    assert kept.nodes == {}


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 200, 3_000])
def test_root_is_that_of_the_definition(count: int) -> None:
    Kept(make_contents(count)).check()


def test_order_and_batching_leave_no_trace() -> None:
    contents = make_contents(300)
    expected = get_root(Kept(contents).base, TREE)
    changes = list_changes(contents)
    for seed in range(4):
        rng = random.Random(seed)
        rng.shuffle(changes)
        kept, at = Kept(), 0
        while at < len(changes):
            size = rng.choice([1, 2, 50, 300])
            root = kept.apply(changes[at : at + size])
            at += size
        assert root == expected
        assert kept.nodes == Kept(contents).nodes


def test_deleting_everything_leaves_nothing() -> None:
    kept = Kept(make_contents(500))
    keys = list(kept.contents)
    random.Random(3).shuffle(keys)
    for at in range(0, 500, 50):
        kept.apply([TreeChange(key, None) for key in keys[at : at + 50]])
        kept.check()
    assert kept.nodes == {}


def test_single_entry_sits_below_the_root_node() -> None:
    kept = Kept({b"only": (b"value", 5)})
    assert len(kept.nodes) == 1
    kept.check()


def find_keys_sharing(nibbles: int, count: int = 2) -> list[bytes]:
    """Return keys whose hashes start alike for exactly so many nibbles, pairwise at least."""
    seen: dict[str, list[bytes]] = {}
    number = 0
    while True:
        key = b"key %d" % number
        prefix = sha256(b"atpar/key/v1\0" + key).hexdigest()[:nibbles]
        seen.setdefault(prefix, []).append(key)
        if len(seen[prefix]) == count:
            return seen[prefix]
        number += 1


@pytest.mark.parametrize("nibbles", [1, 2, 3, 4])
def test_chain_of_nodes_grows_and_collapses_with_its_second_leaf(nibbles: int) -> None:
    first, second = find_keys_sharing(nibbles)
    kept = Kept({first: (b"1", 1)})
    alone = dict(kept.nodes)
    kept.apply([TreeChange(second, b"2", 2)])
    kept.check()
    assert len(kept.prove(first).steps) == nibbles + 1
    kept.apply([TreeChange(second, None)])
    assert kept.nodes == alone


def find_long_keys(lengths: tuple[int, int]) -> list[bytes]:
    """Two keys of these lengths in one slot of the root, in different ones of the node below."""
    found: list[bytes] = []
    for number in range(10_000):
        key = (b"%d." % number).ljust(lengths[len(found)], b"x")
        digest = sha256(b"atpar/key/v1\0" + key).digest()[0]
        if digest >> 4 == 5 and digest & 15 == len(found):
            found.append(key)
            if len(found) == 2:
                return found
    raise AssertionError("no such keys")


def test_small_node_of_leaves_stands_in_the_page_above_up_to_its_limit() -> None:
    room = MAX_SMALL_BYTES - TOP[0b11] - 2 - 2 * 2
    for keys, pages in ((room, 1), (room + 1, 2)):
        first, second = find_long_keys((room // 2, keys - room // 2))
        kept = Kept({first: (b"1", 1), second: (b"2", 2)})
        assert len(kept.nodes) == pages
        kept.apply([TreeChange(second, b"3", 3)])
        assert len(kept.nodes) == pages
        kept.check()
        kept.apply([TreeChange(second, None)])
        assert len(kept.nodes) == 1, "a page whose node went is not left behind"
        kept.apply([TreeChange(second, b"2", 2)])
        assert len(kept.nodes) == pages
        kept.check()


def test_large_tree_has_a_page_for_two_full_levels() -> None:
    kept = Kept(make_contents(6_000))
    lengths = {len(key) - len(TREE) - 1 for key in kept.nodes}
    assert 1 not in lengths, "the sixteen nodes below the root stand in its page"
    assert len(kept.nodes) < 700
    kept.check()


def test_leaf_is_replaced_by_another_below_the_same_prefix_in_one_batch() -> None:
    first, second, third = find_keys_sharing(2, 3)
    kept = Kept({first: (b"1", 1)})
    kept.apply([TreeChange(first, None), TreeChange(second, b"2", 2)])
    kept.check()
    kept.apply([TreeChange(third, b"3", 3), TreeChange(first, b"1", 1), TreeChange(second, None)])
    kept.check()
    kept.apply([TreeChange(key, None) for key in (first, second, third)])
    assert kept.nodes == {}


def test_last_change_of_one_key_counts() -> None:
    kept = Kept(make_contents(5))
    kept.apply([TreeChange(b"x", b"1", 1), TreeChange(b"x", b"2", 2)])
    kept.check()
    kept.apply([TreeChange(b"x", b"3", 3), TreeChange(b"x", None)])
    assert b"x" not in kept.contents
    kept.check()


def test_unchanged_value_writes_the_same_root() -> None:
    kept = Kept(make_contents(50))
    before = get_root(kept.base, TREE)
    assert kept.apply(list_changes(dict(list(kept.contents.items())[:9]))) == before


def test_overlays_see_their_own_nodes_and_leave_the_base_alone() -> None:
    kept = Kept(make_contents(40))
    before, nodes = get_root(kept.base, TREE), dict(kept.nodes)
    lower = Overlay(kept.base)
    first = update_tree(lower, TREE, [TreeChange(b"ALFA/1", b"new", 1)])
    upper = Overlay(lower)
    second = update_tree(upper, TREE, [TreeChange(b"ALFA/2", None)])
    sibling = Overlay(lower)
    assert get_root(sibling, TREE) == get_root(lower, TREE) == first
    assert get_root(upper, TREE) == second
    assert get_root(kept.base, TREE) == before
    assert kept.nodes == nodes


@pytest.mark.parametrize("count", [300, 6_000])
def test_changes_one_by_one_reach_every_place_of_a_large_tree(count: int) -> None:
    """A change that is alone in its pages takes a way of its own, down to where an entry goes."""
    kept, rng = Kept(make_contents(count)), random.Random(count)
    tops: list[View] = [kept.base]
    for step in range(150):
        overlay = Overlay(tops[-1])
        key = b"ALFA/%d" % rng.randrange(count + 40)
        value = None if step % 3 == 0 else b"other %d" % step
        update_tree(overlay, TREE, [TreeChange(key, value, 0 if value is None else step)])
        if value is None:
            kept.contents.pop(key, None)
        else:
            kept.contents[key] = (value, step)
        tops = [*tops[-3:], overlay]
        if len(tops) == 4:
            merged = Overlay(kept.base)
            for each in tops[1:]:
                assert isinstance(each, Overlay)
                each.merge_into(merged)
            kept.backing.apply(merged.encode_writes())
            kept.base.absorb(merged)
            tops = [kept.base]
    assert len(tops) == 1 + 150 % 3
    kept.check()


def test_update_touches_only_the_paths_of_its_changes() -> None:
    kept = Kept(make_contents(5_000))
    overlay = Overlay(kept.base)
    update_tree(overlay, TREE, [TreeChange(b"ALFA/77", b"new", 1)])
    assert len(overlay.nodes) <= 5
    touched = [key.removeprefix(bytes([len(TREE)]) + TREE) for key in overlay.nodes]
    path = sha256(b"atpar/key/v1\0ALFA/77").digest()
    nibbles = bytes(n for byte in path for n in divmod(byte, 16))
    assert all(nibbles.startswith(key) for key in touched)


class TreeMachine(RuleBasedStateMachine):
    """Any sequence of batches gives the tree that the contents alone define."""

    @initialize(count=st.integers(0, 40))
    def start(self, count: int) -> None:
        self.kept = Kept(make_contents(count))

    @rule(
        changes=st.lists(
            st.tuples(st.integers(0, 60), st.none() | st.integers(0, 10**6)), max_size=20
        )
    )
    def update(self, changes: list[tuple[int, int | None]]) -> None:
        self.kept.apply(
            TreeChange(b"ALFA/%d" % key, None)
            if amount is None
            else TreeChange(b"ALFA/%d" % key, b"new %d" % amount, amount)
            for key, amount in changes
        )

    @rule(key=st.integers(0, 60))
    def ask(self, key: int) -> None:
        name = b"ALFA/%d" % key
        found, expected = self.kept.verify(name), self.kept.contents.get(name)
        assert (found and (found.value, found.amount)) == expected

    @invariant()
    def is_sound(self) -> None:
        self.kept.check()


TreeMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestTreeMachine = TreeMachine.TestCase


# ---- ids, keys, amounts


def test_trees_do_not_mix() -> None:
    """The same entries under another id hash differently, and live under other node keys."""
    contents = make_contents(20)
    ids = [compute_asset_tree("HKD.JDCL"), compute_asset_tree("CNH.JDCL"), compute_section_tree(3)]
    assert len({get_root(Kept(contents, tree=tree).base, tree).hash for tree in ids}) == 3
    overlay = Overlay(Base(MemoryBacking()))
    for tree in ids:
        update_tree(overlay, tree, list_changes(contents))
    for tree in ids:
        assert get_root(overlay, tree) == get_root(Kept(contents, tree=tree).base, tree)


def test_ids_of_sections_and_assets_are_distinct() -> None:
    ids = [compute_section_tree(n) for n in range(256)]
    ids += [compute_asset_tree(code) for code in ("HKD.JDCL", "CNH.JDCL", "HKD.JDCLJDCL")]
    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) <= MAX_TREE_ID_BYTES


def test_boundary_between_key_and_value_is_hashed() -> None:
    assert compute_leaf_hash(TREE, b"ab", b"c") != compute_leaf_hash(TREE, b"a", b"bc")
    assert compute_leaf_hash(b"ab", b"c", b"d") != compute_leaf_hash(b"a", b"bc", b"d")


def test_keys_have_1_to_255_bytes() -> None:
    kept = Kept({b"k": (b"", 0), b"x" * MAX_TREE_KEY_BYTES: (b"v" * 1_000, 1)})
    kept.check()
    for key in (b"", b"x" * (MAX_TREE_KEY_BYTES + 1)):
        with pytest.raises(AssertionError, match="key of"):
            kept.apply([TreeChange(key, b"v", 1)])


def test_tree_ids_have_at_most_15_bytes() -> None:
    update_tree(Overlay(Base(MemoryBacking())), b"i" * 15, [TreeChange(b"k", b"v")])
    with pytest.raises(AssertionError, match="tree id"):
        update_tree(Overlay(Base(MemoryBacking())), b"i" * 16, [TreeChange(b"k", b"v")])


@pytest.mark.parametrize("amount", [-1, MAX_SUM + 1, 2**64])
def test_amount_out_of_range_is_a_broken_invariant(amount: int) -> None:
    with pytest.raises(AssertionError, match="amount"):
        Kept({b"k": (b"v", amount)})


def test_sum_at_its_limit_is_kept_and_one_more_is_refused() -> None:
    kept = Kept({b"a": (b"", MAX_SUM - 5), b"b": (b"", 5)})
    assert get_root(kept.base, TREE).total == MAX_SUM
    with pytest.raises(AssertionError, match="sum"):
        kept.apply([TreeChange(b"c", b"", 1)])
    with pytest.raises(AssertionError, match="sum"):
        kept.apply([TreeChange(b"b", b"", 6)])
    first, second = find_keys_sharing(3)
    with pytest.raises(AssertionError, match="sum"):
        Kept({first: (b"", MAX_SUM), second: (b"", 1)})


@pytest.mark.parametrize("cache_bytes", [0, 2, 5_000, 20_000, 10**9])
def test_cached_nodes_never_go_stale_and_stay_within_their_bound(cache_bytes: int) -> None:
    rng, kept = random.Random(5), Kept(make_contents(300), cache_bytes=cache_bytes)
    for _ in range(30):
        chosen = rng.sample(range(350), 12)
        kept.apply(
            TreeChange(b"ALFA/%d" % i, None) if rng.random() < 0.5 else
            TreeChange(b"ALFA/%d" % i, b"new", rng.randrange(100))
            for i in chosen
        )  # fmt: skip
        kept.check()
        assert kept.base.nodes.held_bytes <= cache_bytes


def test_sum_is_checked_at_every_level_of_a_deep_tree() -> None:
    contents = {key: (value, 0) for key, (value, _) in make_contents(3_000).items()}
    kept = Kept({**contents, b"huge": (b"", MAX_SUM)})
    for key in (b"ALFA/1", b"ALFA/2", b"ALFA/2999"):
        with pytest.raises(AssertionError, match="sum"):
            kept.apply([TreeChange(key, b"", 1)])
    root = kept.apply([TreeChange(b"huge", b"", 0), TreeChange(b"ALFA/1", b"", MAX_SUM)])
    assert root.total == MAX_SUM
    kept.check()


def test_lost_node_is_noticed() -> None:
    kept = Kept(make_contents(200), cache_bytes=0)
    below = next(key for key in kept.nodes if len(key) == len(TREE) + 2)
    del kept.nodes[below]
    nibble = below[-1]
    inside = [k for k in kept.contents if sha256(b"atpar/key/v1\0" + k).digest()[0] >> 4 == nibble]
    for keys in (inside[:1], inside):
        with pytest.raises(AssertionError, match="node missing"):
            kept.apply([TreeChange(key, b"new", 0) for key in keys])
    with pytest.raises(AssertionError, match="node missing"):
        kept.prove(inside[0])


# ---- proofs


@pytest.mark.parametrize("count", [1, 2, 17, 400])
def test_every_present_key_is_proven_with_value_and_amount(count: int) -> None:
    kept = Kept(make_contents(count))
    for key, (value, amount) in kept.contents.items():
        assert kept.verify(key) == TreeLeaf(key, value, amount)


@pytest.mark.parametrize("count", [0, 1, 2, 17, 400])
def test_absent_keys_are_proven_absent_by_slot_or_by_neighbour(count: int) -> None:
    kept, kinds = Kept(make_contents(count)), set()
    for number in range(100):
        key = b"BRVO/%d" % number
        proof = kept.prove(key)
        kinds.add((bool(proof.steps), proof.leaf is not None))
        assert kept.verify(key, proof) is None
    assert kinds <= {(False, False), (True, False), (True, True)}
    if count == 400:
        assert len(kinds) == 2


def test_proof_omits_empty_slots() -> None:
    kept = Kept({b"one": (b"1", 1), b"two": (b"2", 2)})
    (step, *_) = kept.prove(b"one").steps
    assert len(step.siblings) <= 40


def test_no_altered_byte_of_a_proof_passes() -> None:
    kept = Kept(make_contents(60))
    present, absent = b"ALFA/7", [b"BRVO/%d" % n for n in range(20)]
    for key in (present, *absent):
        proof = kept.prove(key)
        data = encode(proof)
        expected = kept.verify(key, PROOF.decode(data))
        assert (expected is None) == (key != present)
        for at in range(len(data)):
            for bit in range(8) if key == present else (0, 7):
                with pytest.raises((NonCanonical, ProofInvalid)):
                    kept.verify(key, PROOF.decode(flip(data, at, bit)))


def test_proof_for_one_key_says_nothing_of_another() -> None:
    kept = Kept(make_contents(60))
    root, passed = get_root(kept.base, TREE), 0
    for key in list(kept.contents)[:20]:
        proof = kept.prove(key)
        for other in list(kept.contents)[20:]:
            with pytest.raises(ProofInvalid):
                verify_tree_proof(proof, tree=TREE, key=other, root=root)
            passed += 1
    assert passed == 800


def test_present_key_cannot_be_proven_absent() -> None:
    """Cutting the path, emptying the slot, or showing a neighbour instead: all fail."""
    kept = Kept(make_contents(60))
    for key in list(kept.contents)[:10]:
        proof = kept.prove(key)
        *above, last = proof.steps
        path = sha256(b"atpar/key/v1\0" + key).hexdigest()
        nibble = int(path[len(above)], 16)
        neighbour = next(k for k in kept.contents if k != key)
        value, amount = kept.contents[neighbour]
        for lie in (
            TreeProof(proof.steps, None),
            TreeProof((), None),
            TreeProof(tuple(above), None),
            TreeProof((*above, replace(last, occupancy=last.occupancy & ~(1 << nibble))), None),
            TreeProof(proof.steps, TreeLeaf(neighbour, value, amount)),
            TreeProof((), proof.leaf),
        ):
            with pytest.raises(ProofInvalid):
                kept.verify(key, lie)


def test_total_is_never_believed() -> None:
    """The mutant of a verifier that trusts the total: sums are added up from the slots."""
    kept = Kept(make_contents(60))
    key, root = b"ALFA/7", get_root(kept.base, TREE)
    proof = kept.prove(key)
    for total in (root.total - 1, root.total + 1, 0):
        with pytest.raises(ProofInvalid, match="with the sum"):
            verify_tree_proof(proof, tree=TREE, key=key, root=TreeRoot(root.hash, total))
    step = proof.steps[0]
    lower = bytearray(step.siblings)
    lower[39] ^= 1
    with pytest.raises(ProofInvalid):
        kept.verify(
            key, TreeProof((replace(step, siblings=bytes(lower)), *proof.steps[1:]), proof.leaf)
        )


def test_sums_that_wrap_around_are_refused_at_every_level() -> None:
    """Two liabilities that would cancel modulo 2**64, under a root hash that matches."""
    huge = (2**64 - 10).to_bytes(8, "big")
    key = b"ALFA/1"
    nibble = int(sha256(b"atpar/key/v1\0" + key).hexdigest()[0], 16)
    step = TreeStep(1 << nibble | 1 << (nibble ^ 1), bytes(32) + huge)
    proof = TreeProof((step,), TreeLeaf(key, b"v", 20))
    for total in (10, 2**64 + 10):
        with pytest.raises(ProofInvalid, match="sum"):
            verify_tree_proof(proof, tree=TREE, key=key, root=TreeRoot(bytes(32), total))
    inner = TreeProof((TreeStep(1 << nibble, b""), step), proof.leaf)
    with pytest.raises(ProofInvalid):
        verify_tree_proof(inner, tree=TREE, key=key, root=TreeRoot(bytes(32), 10))


def test_steps_have_a_bound() -> None:
    steps = (TreeStep(0, b""),)
    assert PROOF.decode(encode(TreeProof(steps * MAX_TREE_DEPTH, None)))
    with pytest.raises(NonCanonical):
        PROOF.decode(encode(TreeProof(steps * (MAX_TREE_DEPTH + 1), None)))
    with pytest.raises(ProofInvalid):
        Kept(make_contents(3)).verify(b"x", TreeProof(steps * MAX_TREE_DEPTH, None))


def test_amount_of_another_tree_cannot_be_moved_in() -> None:
    """The proof of a balance in one asset verifies in no other, though contents are the same."""
    contents = make_contents(30)
    other = compute_asset_tree("CNH.JDCL")
    hkd, cnh = Kept(contents), Kept(contents, tree=other)
    proof = hkd.prove(b"ALFA/1")
    with pytest.raises(ProofInvalid):
        cnh.verify(b"ALFA/1", proof)


def test_leaf_cannot_pass_for_a_node_nor_a_node_for_a_leaf() -> None:
    assert len({tag.value for tag in tree_module.HashTag}) == len(tree_module.HashTag)
    tags = [tag.value for tag in tree_module.HashTag]
    assert not any(a != b and a.startswith(b) for a in tags for b in tags)


@given(st.dictionaries(st.binary(min_size=1, max_size=6), st.integers(0, 1_000), max_size=30))
def test_any_contents_are_proven_key_by_key(amounts: dict[bytes, int]) -> None:
    kept = Kept({key: (key[::-1], amount) for key, amount in amounts.items()})
    kept.check()
    for key in [*amounts, b"\x00" * 7, b"absent!"]:
        found = kept.verify(key)
        assert (found and found.amount) == amounts.get(key)


# ---- the state root


SECTIONS = (SectionRoot(1, bytes(32)), SectionRoot(3, b"\x01" * 32))
ROWS = (
    AssetRow("CNH.JDCL", b"\x02" * 32, 5, 5, 6, 7),
    AssetRow("HKD.JDCL", b"\x03" * 32, 8, 8, 9, 10),
)


def test_state_root_covers_every_field_and_count() -> None:
    roots = {compute_state_root(SECTIONS, ROWS)}
    tables: list[tuple] = [
        (SECTIONS[:1], ROWS),
        (SECTIONS, ROWS[:1]),
        (SECTIONS[::-1], ROWS),
        (SECTIONS, ROWS[::-1]),
        ((), ()),
        (SECTIONS, ()),
        ((), ROWS),
        ((replace(SECTIONS[0], section=2), SECTIONS[1]), ROWS),
        ((replace(SECTIONS[0], root=b"\x09" * 32), SECTIONS[1]), ROWS),
    ]
    tables += [
        (SECTIONS, (replace(ROWS[0], **{name: 99}), ROWS[1]))
        for name in ("posted", "supply", "attested", "as_of_ms")
    ]
    tables.append((SECTIONS, (replace(ROWS[0], asset="CNY.JDCL"), ROWS[1])))
    tables.append((SECTIONS, (replace(ROWS[0], root=bytes(32)), ROWS[1])))
    for sections, rows in tables:
        roots.add(compute_state_root(sections, rows))
    assert len(roots) == len(tables) + 1
