"""Lines cut between real validators: no quorum, no block; healed, every payment becomes final."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from atpar.cli.errors import OutcomeUnknown
from atpar.cli.testnet.faults import Fault
from atpar.cli.testnet.lifecycle import temporary_network
from atpar.cli.testnet.line_commands import give_order, heal_all
from atpar.cli.testnet.links import Order as LineOrder
from atpar.cli.testnet.network import wait_returned
from atpar.cli.testnet.record import TestnetRecord
from atpar.cli.testnet.run import Order, measure
from tests.processes.network import ignore, read_heights
from tests.processes.payer import ORDER, Payer


def network_with_lines(
    folder: Path, *, load_accounts: int
) -> AbstractContextManager[TestnetRecord]:
    return temporary_network(
        folder, ignore, validators=4, load_accounts=load_accounts, attest=True, profile="lan"
    )


def cut(folder: Path, record: TestnetRecord, apart: Sequence[int]) -> list[int]:
    """Cut these validators off from the others; return the heights then."""
    give_order(folder, record, LineOrder(apart=tuple(apart)))
    return read_heights(record)


def heal(folder: Path, record: TestnetRecord) -> None:
    give_order(folder, record, heal_all(record))


def test_halves_that_cannot_reach_each_other_wait_and_go_on_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with network_with_lines(tmp_path, load_accounts=ORDER.load_accounts) as record:
        payer = Payer(tmp_path, record)
        before = cut(tmp_path, record, [0, 1])
        payment = payer.make()
        with monkeypatch.context() as patient:
            patient.setattr("atpar.cli.testnet.officers.WAIT_S", 2)
            with pytest.raises(OutcomeUnknown):
                payer.officers.send(payment)
        # What had all its votes before the cut may become final after it.
        rises = [after - height for after, height in zip(read_heights(record), before, strict=True)]
        assert max(rises) <= 1, "blocks became final without a quorum"
        heal(tmp_path, record)
        payer.pay(payment)
        payer.check(tmp_path, record)


def test_majority_goes_on_and_the_one_cut_off_catches_up(tmp_path: Path) -> None:
    with network_with_lines(tmp_path, load_accounts=ORDER.load_accounts) as record:
        payer = Payer(tmp_path, record)
        before = cut(tmp_path, record, [3])
        for _ in range(5):
            payer.pay(payer.make())
        *majority, alone = read_heights(record)
        assert max(majority) >= before[3] + 5, "three of four are a quorum"
        assert alone <= before[3] + 1
        heal(tmp_path, record)
        wait_returned(tmp_path, record, 3)
        payer.pay(payer.make())
        payer.check(tmp_path, record)


def test_load_outlasts_a_cut_and_a_slow_validator(tmp_path: Path) -> None:
    faults = (Fault(0.5, "partition", "1+2"), Fault(2.0, "heal"), Fault(2.5, "slow", "3", 50))
    order = Order(validators=4, profile="lan", rate=60, duration_s=4, bulk=1, faults=faults)
    with network_with_lines(tmp_path, load_accounts=order.load_accounts) as record:
        report = measure(tmp_path, record, order, say=ignore)
    assert report.list_broken() == []
    assert report.finalized == report.submitted == order.count
