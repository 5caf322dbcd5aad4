"""What a payment costs without its signature: decoding, checks, its effect and its receipt.

Blocks of payments between random accounts run through `ledger.execute` as a voter runs them, on a
state on the disk that another process built: what this one holds in memory is what a validator
holds. States of several sizes take turns. The roots (transactions, receipts, solvency tree) are
timed where they are computed and taken out of the sum: `bench tree` looks at them alone. Times are
processor time of the thread that executes, which others on the machine, and the store's own thread,
disturb less than the clock; the wall clock's median is given too.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TypeVar
from unittest.mock import patch

from atpar.cli.bench.pipeline import BLOCK_TIME_MS, make_final_block
from atpar.cli.bench.report import Report, compute_median
from atpar.cli.bench.state import open_state, provide_state
from atpar.cli.bench.world import START_MS, Chain, decode_all, make_payments
from atpar.ledger import execute
from atpar.ledger.codec import encode
from atpar.ledger.commitment import commit_state
from atpar.ledger.execute import Template, build_block, execute_block
from atpar.ledger.merkle import compute_root
from atpar.node.service import relax_collector
from atpar.node.store import Store

T = TypeVar("T")

BULK: Final = 100
WARM_UP: Final = 2
"""Blocks at the beginning of each round that are run and not counted."""
ROUND: Final = 10
"""Blocks of one kind in a row. Sizes take turns, so that a slow minute meets all of them."""


class Meter:
    """Runs blocks of one kind, each on top of the chain, and keeps what each stage took."""

    def __init__(self, chain: Chain, store: Store, *, transfers: int, bulk: int, seed: int) -> None:
        self.chain = chain
        self.store = store
        self.bulk = bulk
        self.count = max(1, transfers // bulk)
        self.rng = random.Random(seed + bulk)
        self.decode_us: list[float] = []
        self.run_us: list[float] = []
        self.roots_us: list[float] = []
        self.wall_us: list[float] = []

    def run_round(self, blocks: int) -> None:
        """Run some blocks to bring caches to where a running node has them, then count so many."""
        for number in range(WARM_UP + blocks):
            made = make_payments(
                self.chain, self.count, bulk=self.bulk, rng=self.rng, is_signed=False
            )
            raws = [payment.raw for payment in made]
            self.run_block(raws, units=self.count * self.bulk, is_counted=number >= WARM_UP)

    def run_block(self, raws: Sequence[bytes], *, units: int, is_counted: bool) -> None:
        """Build one block, execute it as a voter would, and make its state the base."""
        chain, parent = self.chain, self.chain.header
        time_ms = parent.timestamp_ms + BLOCK_TIME_MS
        template = Template(0, parent.view + 1, parent, chain.digest, time_ms, "ALFA")
        built, refused = build_block(
            chain.base, template, decode_all(raws), chain_id=chain.chain_id
        )
        assert not refused
        assert all(receipt.code == 0 for receipt in built.receipts)
        block = built.block
        gc.collect()
        wall, began = time.perf_counter(), time.thread_time()
        transactions = decode_all(raws)
        decoded = time.thread_time()
        with timing_roots() as spent:
            executed = execute_block(
                chain.base, parent, chain.digest, block, transactions, chain_id=chain.chain_id
            )
            ended, wall_ended = time.thread_time(), time.perf_counter()
        roots_s = sum(spent)
        if is_counted:
            self.decode_us.append((decoded - began) / units * 1e6)
            self.run_us.append((ended - decoded - roots_s) / units * 1e6)
            self.roots_us.append(roots_s / units * 1e6)
            self.wall_us.append((wall_ended - wall) / units * 1e6)
        self.store.commit([make_final_block(executed, encode(block))])
        chain.base.absorb(executed.overlay)
        chain.header, chain.digest = executed.header, executed.digest

    def describe(self) -> dict[str, float | int | str]:
        """Return the figures."""
        decode, run = compute_median(self.decode_us), compute_median(self.run_us)
        return {
            "accounts": self.chain.accounts,
            "transfers_per_tx": self.bulk,
            "decode_us": round(decode, 2),
            "checks_apply_receipt_us": round(run, 2),
            "us": round(decode + run, 2),
            "us_min": round(min(self.decode_us) + min(self.run_us), 2),
            "roots_us": round(compute_median(self.roots_us), 2),
            "wall_with_roots_us": round(compute_median(self.wall_us), 2),
        }


@contextmanager
def timing_roots() -> Iterator[list[float]]:
    """Within the block, collect the processor seconds of each root that execution computes.

    Timed in place, for what they cost the first time: done once more, they would find the pages of
    a large tree in the processor's cache.
    """
    spent: list[float] = []

    def timed(compute: Callable[[T], bytes]) -> Callable[[T], bytes]:
        def run(given: T) -> bytes:
            began = time.thread_time()
            root = compute(given)
            spent.append(time.thread_time() - began)
            return root

        return run

    roots: dict[str, Any] = {
        "commit_state": timed(commit_state),
        "compute_root": timed(compute_root),
    }
    with patch.multiple(execute, **roots):
        yield spent


def measure(*, sizes: Sequence[int], blocks: int, transfers: int, seed: int) -> Report:
    """Return the cost per transaction of single transfers, and per transfer in bulk."""
    meters: list[Meter] = []
    with ExitStack() as states:
        provided = [states.enter_context(provide_state(size, seed=seed)) for size in sizes]
        for chain, path in provided:
            store = states.enter_context(open_state(chain, path))
            meters += [
                Meter(chain, store, transfers=transfers, bulk=bulk, seed=seed) for bulk in (1, BULK)
            ]
        relax_collector()
        for done in range(0, blocks, ROUND):
            for meter in meters:
                meter.run_round(min(ROUND, blocks - done))
    rows = [meter.describe() for meter in meters]
    singles = [row for row in rows if row["transfers_per_tx"] == 1]
    ratio, of_least = (
        float(singles[-1][name]) / float(singles[0][name]) for name in ("us", "us_min")
    )
    notes = [
        (
            "us: decode + checks + apply + receipt, processor time; per transaction where it has"
            " one transfer, per transfer in bulk"
        ),
        (
            f"{singles[-1]['accounts']} accounts cost {ratio:.2f} times what"
            f" {singles[0]['accounts']} cost, and {of_least:.2f} times where nothing disturbs"
            " (us_min): other machines on the same memory slow the larger state more"
        ),
        f"blocks of {transfers} transfers between random accounts, from {START_MS} ms",
    ]
    return Report("execute", rows, notes)
