"""Lines cut between real validators: no quorum, no block; healed, every payment becomes final."""

from itertools import pairwise
from pathlib import Path

from atpar.cli.testnet.ask import ask
from atpar.cli.testnet.faults import Fault
from atpar.cli.testnet.lifecycle import temporary_network
from atpar.cli.testnet.run import Order, Report, measure
from tests.processes.network import ignore


def run_with_lines(folder: Path, *faults: Fault) -> tuple[Report, list[int]]:
    """Return the report, and the milliseconds between neighbouring blocks."""
    order = Order(validators=4, profile="lan", rate=60, duration_s=6, bulk=1, faults=faults)
    network = temporary_network(
        folder,
        ignore,
        validators=4,
        load_accounts=order.load_accounts,
        attest=True,
        profile="lan",
    )
    with network as record:
        report = measure(folder, record, order, say=ignore)
        api = record.validators[0].api
        times = []
        for height in range(1, report.height + 1):
            block = ask(api, f"/v1/blocks/{height}?limit=1")
            assert block is not None
            times.append(int(block["header"]["timestamp_ms"]))
    assert report.list_broken() == []
    assert report.finalized == report.submitted == order.count
    return report, [after - before for before, after in pairwise(times)]


def test_halves_that_cannot_reach_each_other_wait_and_go_on_together(tmp_path: Path) -> None:
    cut = (Fault(1.5, "partition", "1+2"), Fault(4.0, "heal"))
    _, gaps_ms = run_with_lines(tmp_path, *cut)
    assert max(gaps_ms) > 2_000, "blocks became final without a quorum"


def test_majority_goes_on_and_the_one_cut_off_catches_up(tmp_path: Path) -> None:
    faults = (Fault(1.0, "partition", "4"), Fault(4.0, "heal"), Fault(4.5, "slow", "3", 50))
    _, gaps_ms = run_with_lines(tmp_path, *faults)
    assert max(gaps_ms) < 2_500, "three of four are a quorum"
