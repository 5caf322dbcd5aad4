"""New values in a tree's pages: the bytes that Python writes, whoever writes them."""

import random
from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atpar.ledger.hashing import FEW, HashTag
from atpar.ledger.limits import MAX_SUM, MAX_TREE_ID_BYTES, MAX_TREE_KEY_BYTES
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.tree import Change, Item, TreeCode, TreeRoot, get_root, update_tree_by
from atpar.node.ledger_code import make_ledger_code
from tests.node.machine_code import needs_code

pytestmark = needs_code
TREE = b"aHKD.JDCL"


@pytest.fixture(scope="module")
def code() -> TreeCode:
    return make_ledger_code().tree


class Ground:
    """One tree on a disk, changed block by block."""

    def __init__(self, code: TreeCode | None, *, tree: bytes = TREE) -> None:
        self.backing = MemoryBacking()
        self.base = Base(self.backing)
        self._code = code
        self._tree = tree

    def update(self, changes: Sequence[Change]) -> tuple[TreeRoot, dict[bytes, bytes | None]]:
        overlay = Overlay(self.base)
        root = update_tree_by(self._code, overlay, self._tree, changes)
        self.backing.apply(overlay.encode_writes())
        self.base.absorb(overlay)
        return root, overlay.nodes


def name_keys(count: int) -> list[bytes]:
    return [b"ALFA/customer-%d" % number for number in range(count)]


def check_histories(code: TreeCode, rng: random.Random, keys: list[bytes], rates: Sequence[float]):
    """Change two trees alike, with so much deletion in each block, and compare every page."""
    plain, fast = Ground(None), Ground(code)
    for rate in rates:
        changes: list[Change] = []
        for key in rng.sample(keys, rng.randrange(1, len(keys) + 1)):
            is_gone = rng.random() < rate
            value = None if is_gone else rng.randbytes(rng.randrange(1, 40))
            changes.append((key, value, 0 if is_gone else rng.randrange(2**40)))
        expected, found = plain.update(changes), fast.update(changes)
        assert found[0] == expected[0]
        assert fast.backing.spaces == plain.backing.spaces


@pytest.mark.parametrize("count", [FEW, 17, 60, 300, 1_200, 5_000])
def test_histories_of_trees_of_any_size(code: TreeCode, count: int) -> None:
    rng = random.Random(count)
    for _ in range(max(1, 2_000 // count)):
        check_histories(code, rng, name_keys(count), [0, 0, 0, 0.2, 0, 0.02, 0, 0.9, 0, 0])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sets(st.binary(min_size=1, max_size=60), min_size=8, max_size=80))
def test_histories_of_keys_of_any_length(code: TreeCode, seed: int, keys: set[bytes]) -> None:
    check_histories(code, random.Random(seed), sorted(keys), [0, 0.3, 0, 0.1, 0])


class Counting:
    """Uses the code, and counts what it leaves to Python."""

    def __init__(self, code: TreeCode) -> None:
        self._code = code
        self.left: list[int] = []

    def change_values(self, get_node, nodes, root_key, items: list[Item]) -> list[Item]:
        rest = self._code.change_values(get_node, nodes, root_key, items)
        assert [item for item in items if item in rest] == rest
        self.left.append(len(rest))
        return rest


def test_new_values_are_all_written_by_the_code_and_only_they(code: TreeCode) -> None:
    counting = Counting(code)
    ground, keys = Ground(counting), name_keys(3_000)
    ground.update([(key, b"old", 1) for key in keys])
    assert counting.left == [3_000]
    ground.update([(key, b"new", 2) for key in keys])
    assert counting.left == [3_000, 0]
    ground.update([(key, b"new", 2) for key in keys[:50]] + [(b"strange", b"new", 2)])
    assert counting.left[2] == 1 or counting.left[2] == 2, "a leaf may share its slot"
    ground.update([(key, None, 0) for key in keys[:20]] + [(key, b"x", 3) for key in keys[50:90]])
    assert 20 <= counting.left[3] < 60


@pytest.mark.parametrize("count", [FEW - 1, FEW])
def test_a_few_changes_are_left_to_python(code: TreeCode, count: int) -> None:
    counting = Counting(code)
    ground, keys = Ground(counting), name_keys(100)
    ground.update([(key, b"old", 1) for key in keys])
    ground.update([(key, b"new", 1) for key in keys[:count]])
    assert len(counting.left) == 1 + (count == FEW)


def test_ids_and_keys_of_the_largest_size(code: TreeCode) -> None:
    tree = b"t" * MAX_TREE_ID_BYTES
    keys = [b"%04d" % n + b"k" * (MAX_TREE_KEY_BYTES - 4) for n in range(200)]
    results = []
    for each in (None, code):
        ground = Ground(each, tree=tree)
        ground.update([(key, key, 1) for key in keys])
        ground.update([(key, b"n" + key, 2) for key in keys])
        results.append((get_root(ground.base, tree), ground.backing.spaces))
    assert results[0] == results[1]


# ---- sums


def test_sums_up_to_the_limit(code: TreeCode) -> None:
    keys = name_keys(100)
    results = []
    for each in (None, code):
        ground = Ground(each)
        ground.update([(key, b"v", 0) for key in keys])
        highest = ground.update([(keys[0], b"v", MAX_SUM), *((k, b"v", 0) for k in keys[1:50])])
        moved = ground.update(
            [(keys[0], b"v", 0), (keys[1], b"v", MAX_SUM), *((k, b"w", 0) for k in keys[2:50])]
        )
        assert highest[0].total == moved[0].total == MAX_SUM
        results.append((highest, moved))
    assert results[0] == results[1]


@pytest.mark.parametrize("amount", [2**62 - 1, 2**62, MAX_SUM])
def test_all_the_money_moves_from_an_entry_that_goes(code: TreeCode, amount: int) -> None:
    """New values are written before anything goes: for a moment there is twice the money."""
    keys = name_keys(100)
    nibbles = {key: sha256(HashTag.KEY.value + key).hexdigest()[0] for key in keys}
    first = keys[0]
    other = next(key for key in keys[1:] if nibbles[key] == nibbles[first])
    results = []
    for each in (None, code):
        ground = Ground(each)
        ground.update([(key, b"v", amount if key == first else 0) for key in keys])
        rest = [key for key in keys if key not in (first, other)]
        moved = [(first, None, 0), (other, b"w", amount), *((key, b"w", 0) for key in rest[:20])]
        results.append((ground.update(moved)[0], ground.backing.spaces))
        assert results[-1][0].total == amount
    assert results[0] == results[1]


@pytest.mark.parametrize("count", [2, 3, 16, 40, 90])
def test_a_sum_above_the_limit_is_noticed_wherever_it_arises(code: TreeCode, count: int) -> None:
    """Also where it would be in range again modulo 2^64."""
    keys = name_keys(100)
    ground = Ground(code)
    ground.update([(key, b"v", 0) for key in keys])
    changes = [(key, b"v", MAX_SUM if n < count else 1) for n, key in enumerate(keys)]
    with pytest.raises(AssertionError, match="sum"):
        ground.update(changes)


def test_a_sum_above_the_limit_at_the_root_alone_is_noticed(code: TreeCode) -> None:
    keys = name_keys(FEW + 1)
    ground = Ground(code)
    ground.update([(key, b"v", 0) for key in keys])
    half = MAX_SUM // 2 + 1
    with pytest.raises(AssertionError, match="sum"):
        ground.update([(key, b"v", half if n < 2 else 0) for n, key in enumerate(keys)])


def test_a_missing_page_is_an_error(code: TreeCode) -> None:
    ground, keys = Ground(code), name_keys(3_000)
    ground.update([(key, b"old", 1) for key in keys])
    pages = ground.backing.spaces[255]
    longest = max(pages, key=len)
    del pages[longest]
    overlay = Overlay(Base(ground.backing))
    with pytest.raises(AssertionError, match="node missing"):
        update_tree_by(code, overlay, TREE, [(key, b"new", 1) for key in keys])


def test_values_are_written_over_those_of_the_blocks_below(code: TreeCode) -> None:
    """Pages come from overlays on overlays, as blocks stand that are not final yet."""
    keys = name_keys(500)
    roots = []
    for each in (None, code):
        ground = Ground(each)
        ground.update([(key, b"old", 1) for key in keys])
        view = Overlay(ground.base)
        for height in range(4):
            view = Overlay(view)
            some = keys[height * 40 : height * 40 + 90]
            root = update_tree_by(each, view, TREE, [(key, b"%d" % height, height) for key in some])
        roots.append((root, view.nodes))
    assert roots[0] == roots[1]
