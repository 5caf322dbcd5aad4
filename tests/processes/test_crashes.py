"""Validators killed with SIGKILL under load: nothing final is lost, nothing happens twice."""

from pathlib import Path

from atpar.cli.testnet.faults import Fault
from atpar.cli.testnet.run import Order, measure
from tests.processes.network import ignore, running_network


def run_with_faults(folder: Path, *faults: Fault) -> None:
    order = Order(validators=4, profile="lan", rate=60, duration_s=6, bulk=1, faults=faults)
    with running_network(folder, load_accounts=order.load_accounts) as record:
        report = measure(folder, record, order, say=ignore)
    assert report.list_broken() == []
    assert report.finalized == report.submitted == order.count


def test_killed_validator_returns_and_no_payment_is_lost_or_made_twice(tmp_path: Path) -> None:
    run_with_faults(tmp_path, Fault(1.5, "kill", "3"), Fault(3.5, "restart", "3"))


def test_all_killed_at_once_go_on_and_what_was_final_stays_final(tmp_path: Path) -> None:
    run_with_faults(tmp_path, Fault(2.0, "kill", "all"), Fault(2.5, "restart", "all"))
