"""`atpar bench state`: the state it builds on the disk is one that blocks run on."""

from pathlib import Path

from atpar.cli.bench.state import build_state, measure
from atpar.cli.bench.world import FUNDED, build_chain
from atpar.cli.testnet.recipe import HKD
from atpar.ledger.commitment import read_state_table
from atpar.node.store import open_store


def test_state_on_the_disk_has_a_tree_that_sums_to_its_supply(tmp_path: Path) -> None:
    chain = build_chain(0, seed=1)
    build_state(chain, tmp_path / "chain.db", 3_000)
    store = open_store(tmp_path / "chain.db", chain_id=chain.chain_id)
    rows = {row.asset: row for row in read_state_table(store.get_final().view).assets}
    store.close()
    assert rows[HKD].posted == rows[HKD].supply == 3_000 * FUNDED


def test_report_holds_memory_and_times() -> None:
    (row,) = measure(accounts=2_000, blocks=2, transactions=100, seed=1).rows
    assert row["accounts"] == 2_000
    assert 0 < row["rss_start_mib"] <= row["rss_peak_mib"]
