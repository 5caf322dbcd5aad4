"""What a large state costs one validator: memory, disk, and time per payment.

The state is built on the disk by a process of its own, so that what this one holds afterwards is
what a validator holds: the real store, an executor with its caches, and blocks of random payments
that are executed, committed and absorbed until the caches are full. Signatures, network and API are
not here; what they hold has bounds of its own (`node/limits.py`).
"""

import multiprocessing
import random
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from atpar.cli.bench.pipeline import BLOCK_TIME_MS, make_final_block
from atpar.cli.bench.report import Report, compute_median
from atpar.cli.bench.world import (
    FUNDED,
    KEYS,
    Chain,
    build_chain,
    decode_all,
    make_payments,
    name_account,
)
from atpar.cli.testnet.recipe import HKD, build_policy
from atpar.ledger.codec import encode
from atpar.ledger.commitment import commit_state
from atpar.ledger.hashing import HashTag
from atpar.ledger.records import (
    ACCOUNTS,
    BALANCES,
    SECTIONS,
    SUPPLIES,
    Account,
    AccountStatus,
    Balance,
    Supply,
    balance_key,
)
from atpar.ledger.state import TREE_NODES, Base, MemoryBacking, Overlay
from atpar.ledger.tree import TreeChange, compute_asset_tree, update_tree
from atpar.node.executor import Executor
from atpar.node.kv import LevelKeyValue, Write
from atpar.node.store import Store, open_store, write_genesis

BATCH: Final = 50_000
"""Records that are written together."""
PARTS: Final = 256
"""The balances' tree is built in as many parts, by the first byte of the key's hash."""


def build_state(chain: Chain, path: Path, accounts: int) -> None:
    """Write a store with so many funded accounts.

    The accounts' own tree keeps its genesis entries: payments do not touch it.
    """
    whole = Overlay(Base(MemoryBacking()))
    for section in SECTIONS:
        for key, record in chain.base.scan(section, b""):
            whole.put(section, key, record)
    whole.nodes.update(chain.backing.scan(TREE_NODES, b""))
    path.mkdir(parents=True)
    engine = LevelKeyValue(path, create=True)
    write_genesis(
        engine, chain_id=chain.chain_id, header=chain.header, digest=chain.digest, overlay=whole
    )
    batch: list[Write] = []
    for write in _list_records(chain, accounts):
        batch.append(write)
        if len(batch) >= BATCH:
            engine.write(batch)
            batch.clear()
    engine.write(batch)
    _build_tree(engine, accounts)
    supply = Overlay(Base(Store(engine)))
    supply.put(SUPPLIES, HKD.encode(), Supply(accounts * FUNDED, 0))
    commit_state(supply)
    engine.write(
        (b"s" + bytes((space,)) + key, data) for space, key, data in supply.encode_writes()
    )
    engine.close()


def _list_records(chain: Chain, count: int) -> Iterator[Write]:
    policies = [build_policy(1, [signer.public_key]) for signer in chain.signers]
    encoded = [encode(Account(policy, False, AccountStatus.OPEN, 0, None)) for policy in policies]
    balance = encode(Balance(FUNDED, 0, 0, 0, 0, 0))
    accounts, balances = b"s" + bytes((ACCOUNTS.id,)), b"s" + bytes((BALANCES.id,))
    for index in range(count):
        name = name_account(index)
        yield accounts + name.encode(), encoded[index % KEYS]
        yield balances + balance_key(HKD, name), balance


def _build_tree(engine: LevelKeyValue, count: int) -> None:
    parts = [array("I") for _ in range(PARTS)]
    prefix = HashTag.KEY.value
    for index in range(count):
        parts[sha256(prefix + name_account(index).encode()).digest()[0]].append(index)
    value, tree = encode(Balance(FUNDED, 0, 0, 0, 0, 0)), compute_asset_tree(HKD)
    store, space = Store(engine), b"s" + bytes((TREE_NODES,))
    for part in parts:
        overlay = Overlay(Base(store))
        names = [name_account(index).encode() for index in part]
        update_tree(overlay, tree, [TreeChange(name, value, FUNDED) for name in names])
        engine.write((space + key, page) for key, page in overlay.nodes.items())


def read_memory() -> dict[str, float]:
    """Return this process's resident memory in MiB: now, the most there was, and files mapped."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssFile"):
            found[name] = round(int(rest.split()[0]) / 1024, 1)
    return found


def run_blocks(
    chain: Chain, store: Store, *, blocks: int, transactions: int, seed: int
) -> dict[str, float]:
    """Execute, commit and absorb blocks of payments; return processor time per payment."""
    executor = Executor(store, chain_id=chain.chain_id, header=chain.header, digest=chain.digest)
    rng, spent = random.Random(seed), dict[str, list[float]](execute=[], commit=[])
    for _ in range(blocks):
        made = make_payments(chain, transactions, bulk=1, rng=rng, is_signed=False)
        candidates = decode_all([payment.raw for payment in made])
        parent, start = executor.final, time.process_time()
        built, refused = executor.build(
            parent_digest=parent.digest,
            epoch=0,
            view=parent.header.view + 1,
            timestamp_ms=parent.header.timestamp_ms + BLOCK_TIME_MS,
            proposer="ALFA",
            candidates=candidates,
        )
        assert not refused
        between = time.process_time()
        executor.finalize(built.digest)
        store.commit([make_final_block(built, encode(built.block))])
        executor.absorb(built.digest)
        spent["execute"].append((between - start) / transactions * 1e6)
        spent["commit"].append((time.process_time() - between) / transactions * 1e6)
    return {f"{name}_us": round(compute_median(times), 2) for name, times in spent.items()}


@contextmanager
def provide_state(accounts: int, *, seed: int) -> Iterator[tuple[Chain, Path]]:
    """Within the block, provide a chain with so many accounts, and the folder of its store.

    To be entered before this process opens any store: LevelDB's thread does not survive a fork.
    """
    with tempfile.TemporaryDirectory(prefix="atpar-bench-") as folder:
        path = Path(folder) / "chain.db"
        chain = build_chain(0, seed=seed)
        # Forked, so that both have the same chain: its certificates are new each time.
        builder = multiprocessing.get_context("fork").Process(
            target=build_state, args=(chain, path, accounts)
        )
        builder.start()
        builder.join()
        assert builder.exitcode == 0, builder.exitcode
        chain.accounts = accounts
        yield chain, path


@contextmanager
def open_state(chain: Chain, path: Path) -> Iterator[Store]:
    """Within the block, provide the open store of a chain, which stands on it."""
    store = open_store(path, chain_id=chain.chain_id)
    chain.base = Base(store)
    try:
        yield store
    finally:
        store.close()


def measure(*, accounts: int, blocks: int, transactions: int, seed: int) -> Report:
    """Return what a state of this size takes."""
    start = time.perf_counter()
    with provide_state(accounts, seed=seed) as (chain, path), open_state(chain, path) as store:
        built_s, before = time.perf_counter() - start, read_memory()
        times = run_blocks(chain, store, blocks=blocks, transactions=transactions, seed=seed)
        after = read_memory()
        disk = sum(file.stat().st_size for file in path.iterdir())
    row = {
        "accounts": accounts,
        "blocks": blocks,
        "rss_start_mib": before["VmRSS"],
        "rss_peak_mib": after["VmHWM"],
        "of_it_files_mib": after["RssFile"],
        **times,
        "disk_bytes_an_account": round(disk / accounts, 1),
        "build_s": round(built_s, 1),
    }
    return Report("state", [row], ["processor time per payment, resident memory of this process"])
