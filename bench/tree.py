"""Root update per touched balance: blocks of transfers between random accounts of one asset.

    python -m bench.tree [--accounts 1000 1000000] [--blocks 20] [--transfers 1000] [--json FILE]

Prints a table; with `--json FILE` (`-` for stdout) writes the figures with machine, commit and
command. Beside each figure stands the floor: hashing alone (key, leaf, and every touched node) in
the same run, because machines are noisy and ratios are not.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay
from atpar.ledger.tree import TreeChange, compute_asset_tree, get_root, update_tree

TREE = compute_asset_tree("HKD.JDCL")
BUILD_CHUNK = 50_000
BALANCE_BYTES = 24


def compute_key(index: int) -> bytes:
    return b"ALFA/customer-%07d" % index


def compute_change(index: int, amount: int) -> TreeChange:
    return TreeChange(compute_key(index), amount.to_bytes(BALANCE_BYTES, "big"), amount)


def build_accounts(backing: MemoryBacking, accounts: int) -> float:
    """Return seconds per account for filling an empty tree."""
    start = time.perf_counter()
    for first in range(0, accounts, BUILD_CHUNK):
        overlay = Overlay(Base(backing))
        last = min(first + BUILD_CHUNK, accounts)
        update_tree(overlay, TREE, [compute_change(i, 1_000) for i in range(first, last)])
        backing.apply(overlay.encode_writes())
    return (time.perf_counter() - start) / accounts


def measure_floor(*, balances: int, nodes: int) -> float:
    """Return the seconds that the hashing alone of one such block takes."""
    key, leaf, node = bytes(32), bytes(80), bytes(642)
    start = time.perf_counter()
    for _ in range(balances):
        sha256(key).digest()
        sha256(leaf).digest()
    for _ in range(nodes):
        sha256(b"atpar/node/v1\0aHKD.JDCL" + node).digest()
    return time.perf_counter() - start


def measure(accounts: int, *, blocks: int, transfers: int, seed: int) -> dict[str, float]:
    rng, backing = random.Random(seed), MemoryBacking()
    build_s = build_accounts(backing, accounts)
    base, per_balance, floors, nodes_written = Base(backing), [], [], 0
    for _ in range(blocks):
        touched = sorted({rng.randrange(accounts) for _ in range(2 * transfers)})
        changes = [compute_change(i, rng.randrange(2_000)) for i in touched]
        rng.shuffle(changes)
        overlay = Overlay(base)
        start = time.perf_counter()
        update_tree(overlay, TREE, changes)
        per_balance.append((time.perf_counter() - start) / len(changes))
        nodes_written += len(overlay.nodes)
        floor = measure_floor(balances=len(changes), nodes=len(overlay.nodes))
        floors.append(floor / len(changes))
        backing.apply(overlay.encode_writes())
    stored = backing.spaces[TREE_NODES]
    assert get_root(base, TREE).total >= 0
    return {
        "accounts": accounts,
        "transfers_per_block": transfers,
        "blocks": blocks,
        "update_us_per_balance_p50": round(statistics.median(per_balance) * 1e6, 2),
        "update_us_per_balance_min": round(min(per_balance) * 1e6, 2),
        "update_us_per_balance_max": round(max(per_balance) * 1e6, 2),
        "hashing_alone_us_per_balance": round(statistics.median(floors) * 1e6, 2),
        "nodes_written_per_balance": round(nodes_written / blocks / len(changes), 2),
        "build_us_per_account": round(build_s * 1e6, 2),
        "nodes": len(stored),
        "node_bytes_per_account": round(sum(map(len, stored.values())) / accounts, 1),
    }


def get_commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tree", description=__doc__)
    parser.add_argument("--accounts", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--transfers", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the figures here, - for stdout")
    args = parser.parse_args(argv)
    results = []
    for accounts in args.accounts:
        row = measure(accounts, blocks=args.blocks, transfers=args.transfers, seed=args.seed)
        results.append(row)
        if args.json != "-":
            print("  ".join(f"{name} {value:,}" for name, value in row.items()))
    if args.json:
        report = {
            "bench": "tree",
            "command": " ".join(["python -m bench.tree", *(argv or sys.argv[1:])]),
            "commit": get_commit(),
            "machine": f"{platform.processor() or platform.machine()}, "
            f"Python {platform.python_version()}",
            "results": results,
        }
        text = json.dumps(report, indent=2)
        if args.json == "-":
            print(text)
        else:
            Path(args.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
