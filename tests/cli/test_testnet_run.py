"""What a measured run is asked for, what it reports, and when it fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from atpar.cli.errors import WrongUsage
from atpar.cli.testnet.faults import Fault, parse_faults
from atpar.cli.testnet.figures import summarise_finality
from atpar.cli.testnet.payments import LoadAccount, PaymentRing
from atpar.cli.testnet.run import Order, Report
from atpar.ledger.transactions import decode_transaction
from atpar.node.signer import LocalSigner
from tests.cli.helpers import run

ORDER = Order(validators=4, profile="lan", rate=200, duration_s=30, bulk=1, faults=())
GOOD = Report(
    order=ORDER,
    submitted=6000,
    finalized=6000,
    failed=0,
    lost=0,
    active_s=30.05,
    finality=summarise_finality([50.0] * 6000),
    height=512,
    state_roots_equal=True,
    conservation=True,
    failures={},
    processor_s={"v1": 1.5, "v2": 1.2, "client": 0.6},
    details=(),
)


def test_report_has_exactly_the_documented_keys() -> None:
    found = GOOD.as_json()
    assert list(found) == [
        "validators",
        "profile",
        "duration_s",
        "submitted",
        "finalized",
        "failed",
        "lost",
        "tps",
        "transfers_per_s",
        "finality_ms",
        "height",
        "state_roots_equal",
        "conservation",
        "faults",
        "processor_us",
    ]
    assert list(found["finality_ms"]) == ["p50", "p99", "p999", "max"]
    assert found["tps"] == pytest.approx(199.7, abs=0.05)


def test_report_divides_processor_time_by_final_transactions() -> None:
    assert GOOD.as_json()["processor_us"] == {
        "v1": 250.0,
        "v2": 200.0,
        "client": 100.0,
        "sum": 550.0,
    }


def test_good_run_breaks_no_promise() -> None:
    assert GOOD.list_broken() == []


@pytest.mark.parametrize(
    "change",
    [
        {"lost": 1},
        {"failed": 1, "failures": {"EXPIRED": 1}},
        {"state_roots_equal": False},
        {"conservation": False},
    ],
)
def test_each_broken_promise_is_named(change: dict[str, object]) -> None:
    assert len(replace(GOOD, **change).list_broken()) == 1  # type: ignore[arg-type]


def test_faults_come_in_order_of_time() -> None:
    found = parse_faults(kills=["3@10"], restarts=["v3@20.5"], listed="kill:all@15, restart:all@16")
    assert found == (
        Fault(10.0, "kill", "3"),
        Fault(15.0, "kill", "all"),
        Fault(16.0, "restart", "all"),
        Fault(20.5, "restart", "3"),
    )


def test_faults_of_the_lines_are_read_and_shown() -> None:
    found = parse_faults(
        kills=[], restarts=[], listed="slow:v4=300@7, partition:1+v2@3.5,heal@5, partition:3@6"
    )
    assert [fault.as_json() for fault in found] == [
        {"at_s": 3.5, "action": "partition", "validator": "1+2"},
        {"at_s": 5.0, "action": "heal", "validator": None},
        {"at_s": 6.0, "action": "partition", "validator": "3"},
        {"at_s": 7.0, "action": "slow", "validator": "4", "ms": 300},
    ]
    assert all(fault.changes_lines for fault in found)


@pytest.mark.parametrize(
    "listed",
    [
        "kill",
        "kill:3",
        "kill:@3",
        "slow:3@1",
        "kill:3@-1",
        "kill:3@x",
        "heal:1@3",
        "partition:@1",
        "partition:all@1",
        "slow:3=-1@1",
    ],
)
def test_unclear_faults_are_refused(listed: str) -> None:
    with pytest.raises(WrongUsage, match="not a fault"):
        parse_faults(kills=[], restarts=[], listed=listed)


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        ("kill:5@1", "no validator '5'"),
        ("kill:0@1", "no validator"),
        ("kill:3@10", "load ends"),
        ("partition:1+5@1", "no validator '5'"),
        ("partition:1+2+3+4@1", "all validators on one side"),
        ("slow:1=60001@1", "60001 ms, at most 60000"),
    ],
)
def test_faults_that_could_not_happen_are_refused_before_the_start(listed: str, text: str) -> None:
    result = run("testnet", "run", "--duration", "10", "--faults", listed)
    assert result.exit_code == 2
    assert text in result.err
    assert "genesis sealed" not in result.err


@pytest.mark.parametrize("command", [("stop",), ("kill", "1"), ("restart", "1")])
def test_commands_on_no_testnet_leave_no_folder(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = run("testnet", *command, "--dir", tmp_path / "none")
    assert result.exit_code == 3
    assert "no testnet in" in result.err
    assert not (tmp_path / "none").exists()


def test_testnet_is_not_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    result = run("testnet", "prepare", "--dir", tmp_path)
    assert result.exit_code == 2
    assert "letter.txt" in result.err
    assert not (tmp_path / "genesis.json").exists()


def test_folder_that_cannot_be_made_is_no_internal_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("testnet", "prepare", "--dir", tmp_path / "file" / "x")
    assert result.exit_code == 3


def make_ring(*, bulk: int) -> PaymentRing:
    accounts = [LoadAccount(f"ALFA/load-{n}", LocalSigner(bytes([n]) * 32)) for n in range(1, 4)]
    return PaymentRing(bytes(32), accounts, bulk=bulk)


def test_payments_are_signed_and_all_different() -> None:
    making = make_ring(bulk=2).make(now_ms=1_700_000_000_000)
    made = [next(making) for _ in range(6)]
    assert len({payment.hash for payment in made}) == 6
    first = decode_transaction(made[0].raw)
    assert first.hash == made[0].hash
    assert first.body.sender == "ALFA/load-1"
    assert len(first.body.ops) == 2


def test_expected_balances_count_each_success_once() -> None:
    ring = make_ring(bulk=5)
    making = ring.make(now_ms=1_700_000_000_000)
    made = [next(making) for _ in range(4)]
    succeeded = iter([made[0].hash, made[1].hash, made[3].hash])
    assert ring.compute_expected(100, succeeded) == {
        "ALFA/load-1": 90,
        "ALFA/load-2": 105,
        "ALFA/load-3": 105,
    }
