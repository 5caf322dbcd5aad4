"""Root update per touched balance: blocks of transfers between random accounts of one asset.

Beside each figure stands the floor, measured in the same run: nothing but hashing the
same keys, leaves and nodes. Machines are noisy; the ratio of the two is not. `cpu` is processor
time, which other processes on the machine disturb less than the clock.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from atpar.ledger.codec import encode
from atpar.ledger.hashing import HashTag
from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay
from atpar.ledger.tree import TreeChange, compute_asset_tree, get_root, update_tree
from atpar.ledger.treeproofs import prove, verify_tree_proof
from atpar.node.service import relax_collector

TREE = compute_asset_tree("HKD.JDCL")
BUILD_CHUNK = 50_000
PROOFS = 200


def compute_key(index: int) -> bytes:
    return b"ALFA/customer-%07d" % index


def compute_value(amount: int) -> bytes:
    return encode((amount, 0, 0, 0, 0, 0))


def compute_change(index: int, amount: int) -> TreeChange:
    return TreeChange(compute_key(index), compute_value(amount), amount)


class Accounts:
    """The balances of one asset, as a node keeps them, beside a plain list of amounts."""

    def __init__(self, count: int) -> None:
        self.backing = MemoryBacking()
        self.base = Base(self.backing)
        self.amounts = [0] * count

    def update(self, changes: Sequence[TreeChange]) -> tuple[float, float, dict[bytes, Any]]:
        """Apply changes like a block; return wall and processor seconds, and what was written."""
        overlay = Overlay(self.base)
        cpu, wall = time.process_time(), time.perf_counter()
        update_tree(overlay, TREE, changes)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.backing.apply(overlay.encode_writes())
        self.base.absorb(overlay)
        for key, _, amount in changes:
            self.amounts[int(key.rpartition(b"-")[2])] = amount
        return wall, cpu, overlay.nodes


def measure_floor(accounts: Accounts, changes: Sequence[TreeChange]) -> float:
    """Return the processor seconds that hashing alone takes for one such block.

    The nodes on the ways to the changed entries, each once, and the keys and leaves themselves.
    """
    nodes: dict[str, bytes] = {}
    for key, _, _ in changes:
        proof = prove(accounts.base, TREE, key, lambda _: b"")
        path = sha256(HashTag.KEY.value + key).hexdigest()
        for depth, step in enumerate(proof.steps):
            nodes[path[:depth]] = bytes(32 + 40 * step.occupancy.bit_count())
    start = time.process_time()
    for key, value, _ in changes:
        sha256(key).digest()
        sha256(value or b"").digest()
    for node in nodes.values():
        sha256(node).digest()
    return time.process_time() - start


def measure_each(call: Callable[[int], Any], indexes: Sequence[int]) -> float:
    """Return the median microseconds of a call."""
    times = []
    for index in indexes:
        start = time.perf_counter()
        call(index)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1e6, 1)


def measure_proofs(accounts: Accounts, rng: random.Random) -> dict[str, float]:
    root, base = get_root(accounts.base, TREE), accounts.base
    indexes = [rng.randrange(len(accounts.amounts)) for _ in range(PROOFS)]
    proofs = {}

    def build(index: int) -> None:
        value = compute_value(accounts.amounts[index])
        proofs[index] = prove(base, TREE, compute_key(index), lambda _: value)

    def verify(index: int) -> None:
        leaf = verify_tree_proof(proofs[index], tree=TREE, key=compute_key(index), root=root)
        assert leaf is not None
        assert leaf.amount == accounts.amounts[index]

    return {
        "prove_us": measure_each(build, indexes),
        "verify_us": measure_each(verify, indexes),
        "proof_bytes": statistics.median(len(encode(proof)) for proof in proofs.values()),
    }


def measure(count: int, *, blocks: int, transfers: int, seed: int) -> dict[str, float]:
    rng, accounts = random.Random(seed), Accounts(count)
    build_s = 0.0
    for first in range(0, count, BUILD_CHUNK):
        chunk = range(first, min(first + BUILD_CHUNK, count))
        build_s += accounts.update([compute_change(i, 1_000) for i in chunk])[0]
    relax_collector()
    walls, cpus, floors, written, touched = [], [], [], 0, 0
    for _ in range(blocks):
        indexes = list({rng.randrange(count) for _ in range(2 * transfers)})
        rng.shuffle(indexes)
        changes = [compute_change(i, rng.randrange(2_000)) for i in indexes]
        wall, cpu, nodes = accounts.update(changes)
        floors.append(measure_floor(accounts, changes) / len(changes) * 1e6)
        walls.append(wall / len(changes) * 1e6)
        cpus.append(cpu / len(changes) * 1e6)
        written += len(nodes)
        touched += len(changes)
    assert get_root(accounts.base, TREE).total == sum(accounts.amounts)
    stored = accounts.backing.spaces[TREE_NODES].values()
    return {
        "accounts": count,
        "update_us_p50": round(statistics.median(walls), 2),
        "update_us_min": round(min(walls), 2),
        "update_us_max": round(max(walls), 2),
        "cpu_us_p50": round(statistics.median(cpus), 2),
        "hashing_us_p50": round(statistics.median(floors), 2),
        "ratio_to_hashing": round(statistics.median(cpus) / statistics.median(floors), 2),
        "pages_written": round(written / touched, 2),
        "build_us": round(build_s / count * 1e6, 2),
        "page_bytes": round(sum(map(len, stored)) / count, 1),
        **measure_proofs(accounts, rng),
    }
