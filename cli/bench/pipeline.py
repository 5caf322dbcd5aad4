"""One validator's whole way of a payment, stage by stage: no network, one process, a real disk.

    admission   envelopes in: canonical decoding, rules, signature (in line), mempool
    leader      what the next block carries, execution, roots, the block's bytes
    voter       the block's bytes in, execution, roots compared
    journal     the block appended to votes.journal, with its fsync
    commit      one synced LevelDB batch: state, block, receipts, indexes; the mempool freed

Every validator pays admission, voter (or leader), journal and commit for every payment. Stages are
processor time, threads included; the waits for the disk are given beside them.
"""

import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import trio

from atpar.cli.bench.report import Report, compute_median
from atpar.cli.bench.world import START_MS, Chain, build_chain, make_payments
from atpar.ledger.certificates import Finalization, Proposition
from atpar.ledger.codec import encode
from atpar.ledger.execute import Executed
from atpar.ledger.records import SECTIONS
from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay
from atpar.node.admission import Admission, Result
from atpar.node.bodies import decode_body
from atpar.node.executor import Executor
from atpar.node.journal import OsDisk, encode_frame
from atpar.node.mempool import Mempool
from atpar.node.metrics import Metrics
from atpar.node.store import FinalBlock, Store, create_store, open_store
from atpar.node.verifier import Priority, Verifier

T = TypeVar("T")

ACCOUNTS_COUNT: Final = 10_000
BATCH: Final = 100
"""Envelopes that arrive together."""
BLOCK_TIME_MS: Final = 100
STAGES: Final = ("admission", "leader", "voter", "journal", "commit")


def build_store(folder: Path, chain: Chain) -> Store:
    """Return a store on the disk that begins with the chain's state."""
    whole = Overlay(Base(MemoryBacking()))
    for section in SECTIONS:
        for key, record in chain.base.scan(section, b""):
            whole.put(section, key, record)
    whole.nodes.update(chain.backing.scan(TREE_NODES, b""))
    path = folder / "chain.db"
    create_store(
        path, chain_id=chain.chain_id, header=chain.header, digest=chain.digest, overlay=whole
    )
    return open_store(path, chain_id=chain.chain_id)


def make_final_block(executed: Executed, data: bytes) -> FinalBlock:
    """Return an executed block with a finalization of its own, as the store takes it."""
    header = executed.header
    proposition = Proposition(0, header.view, header.view - 1, executed.digest)
    return FinalBlock(
        header=header,
        digest=executed.digest,
        block_bytes=data,
        transactions=executed.transactions,
        receipts=executed.receipts,
        postings=executed.postings,
        overlay=executed.overlay,
        finalization=Finalization(proposition, b"\x07", (bytes(64),) * 3),
        finalized_height=header.height,
    )


class Line:
    """One validator's parts, and what each stage took for each block."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self.chain = chain
        self.store = build_store(folder, chain)
        self.mempool = Mempool()
        self.metrics = Metrics()
        self.leader = self._make_executor()
        self.voter = self._make_executor()
        self.admission = Admission(
            chain_id=chain.chain_id,
            get_final=lambda: self.voter.final,
            admit=lambda transactions, _digest: [self.mempool.add(tx) for tx in transactions],
            mempool=self.mempool,
            verifier=Verifier(workers=0, metrics=self.metrics),
            get_wall_ms=lambda: START_MS,
        )
        self.journal = OsDisk().open_append(folder / "votes.journal", size=0)
        self.cpu: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.wall: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def _make_executor(self) -> Executor:
        chain = self.chain
        return Executor(
            self.store, chain_id=chain.chain_id, header=chain.header, digest=chain.digest
        )

    async def run_block(self, raws: Sequence[bytes]) -> None:
        """Take payments from envelopes to the disk."""
        await self._time("admission", len(raws), lambda: self._admit(raws))
        built, data = await self._time("leader", len(raws), self._lead)
        assert len(built.transactions) == len(raws)
        await self._time("voter", len(raws), lambda: self._vote(built.digest, data))
        await self._time("journal", len(raws), lambda: self._journal(data))
        await self._time("commit", len(raws), lambda: self._commit(built.digest, data))
        self.leader.finalize(built.digest)
        self.leader.absorb(built.digest)

    async def _time(self, stage: str, count: int, work: Callable[[], Awaitable[T]]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        found = await work()
        self.cpu[stage].append((time.process_time() - cpu) / count * 1e6)
        self.wall[stage].append((time.perf_counter() - wall) / count * 1e6)
        return found

    async def _admit(self, raws: Sequence[bytes]) -> None:
        for start in range(0, len(raws), BATCH):
            outcomes = await self.admission.admit(raws[start : start + BATCH], Priority.GOSSIP)
            assert all(outcome.result is Result.ADMITTED for outcome in outcomes)

    async def _lead(self) -> tuple[Executed, bytes]:
        parent = self.leader.final
        time_ms = parent.header.timestamp_ms + BLOCK_TIME_MS
        executed, refused = self.leader.build(
            parent_digest=parent.digest,
            epoch=0,
            view=parent.header.view + 1,
            timestamp_ms=time_ms,
            proposer="ALFA",
            candidates=self.mempool.take(time_ms=time_ms),
        )
        assert not refused
        return executed, encode(executed.block)

    async def _vote(self, digest: bytes, data: bytes) -> None:
        body = decode_body(data, chain_id=self.chain.chain_id, mempool=self.mempool)
        assert body is not None
        assert body.transactions is not None
        self.voter.verify(digest, body.block, body.transactions)

    async def _journal(self, data: bytes) -> None:
        self.journal.write(encode_frame(data))
        self.journal.sync()

    async def _commit(self, digest: bytes, data: bytes) -> None:
        (executed,) = self.voter.finalize(digest)
        block = make_final_block(executed, data)
        self.store.commit([block])
        self.voter.absorb(digest)
        self.mempool.commit(executed.transactions)

    def close(self) -> None:
        """Close the files."""
        self.journal.close()
        self.store.close()


def measure(*, blocks: int, transactions: int, bulk: int, seed: int) -> Report:
    """Return what each stage costs per transfer, and what the sum allows."""
    chain = build_chain(ACCOUNTS_COUNT, seed=seed)
    rng = random.Random(seed)
    made = [
        [p.raw for p in make_payments(chain, transactions, bulk=bulk, rng=rng, is_signed=True)]
        for _ in range(blocks + 1)
    ]
    with tempfile.TemporaryDirectory(prefix="atpar-bench-") as folder:
        line = Line(chain, Path(folder))

        async def run() -> None:
            for raws in made:
                await line.run_block(raws)

        trio.run(run)
        line.close()
    rows: list[dict[str, float | int | str]] = []
    total = 0.0
    for stage in STAGES:
        # The first block warms the caches.
        cpu = compute_median(line.cpu[stage][1:]) / bulk
        total += 0.0 if stage == "leader" else cpu
        wall = compute_median(line.wall[stage][1:]) / bulk
        rows.append({"stage": stage, "cpu_us": round(cpu, 2), "wall_us": round(wall, 2)})
    rows.append({"stage": "as voter", "cpu_us": round(total, 2), "wall_us": ""})
    notes = [
        f"per transfer; blocks of {transactions} transactions of {bulk} transfers each",
        (
            f"one validator on one core: at most {1e6 / total:,.0f} transfers a second, network,"
            f" consensus and API not counted; four on two cores: {5e5 / total:,.0f}"
        ),
    ]
    return Report("pipeline", rows, notes)
