"""The search for the highest rate that holds."""

from typing import Any

import pytest
from click.testing import CliRunner

from atpar.cli.bench import commands
from atpar.cli.bench.search import CLOSE_ENOUGH, MAX_TRIALS, find_highest_rate


@pytest.mark.parametrize("limit", [130.0, 999.0, 1_000.0, 1_001.0, 4_321.0, 9_000.0])
def test_search_ends_close_below_the_limit(limit: float) -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = find_highest_rate(holds, start=1_000.0)
    assert found == max(rate for rate in tried if rate <= limit)
    assert limit / CLOSE_ENOUGH <= found <= limit
    assert len(tried) == len(set(tried)) <= MAX_TRIALS


@pytest.mark.parametrize(("start", "limit"), [(1.0, 5.0), (10.0, 10.5), (3.0, 0.1), (0.4, 0.3)])
def test_no_rate_is_tried_twice_however_low(start: float, limit: float) -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    find_highest_rate(holds, start=start)
    assert len(tried) == len(set(tried))
    assert min(tried) > 0


def test_nothing_that_holds_is_none() -> None:
    tried: list[float] = []
    assert find_highest_rate(lambda rate: bool(tried.append(rate)), start=100.0) is None
    assert len(tried) == MAX_TRIALS


def test_a_machine_without_a_limit_ends_the_search() -> None:
    tried: list[float] = []
    found = find_highest_rate(lambda rate: not tried.append(rate), start=100.0)
    assert len(tried) == MAX_TRIALS
    assert found == tried[-1]


def run_search(monkeypatch: pytest.MonkeyPatch, limit: float, **broken: Any) -> int:
    """Search from 100/s on with runs that are fast up to a limit; return the exit code."""

    def run(rate: float, **_: Any) -> tuple[int, dict[str, Any]]:
        row = {"rate": rate, "tps": rate, "lost": 0, "failed": 0, "state_roots_equal": True}
        row |= {"conservation": True, "p99_ms": 100.0 if rate <= limit else 9_000.0}
        return (1, row | broken) if broken and rate > limit else (0, row)

    monkeypatch.setattr(commands, "_run_testnet", run)
    command = ["testnet", "--rate", "100", "--find-p99-ms", "2000", "--json"]
    done = CliRunner().invoke(commands.bench_command, command, standalone_mode=False)
    code: int = done.return_value
    return code


def test_too_slow_is_no_failure_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_search(monkeypatch, 150.0) == 0


def test_a_search_in_which_nothing_held_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_search(monkeypatch, 0.0) == 1


@pytest.mark.parametrize("broken", ["state_roots_equal", "conservation"])
def test_a_broken_promise_fails_the_search(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    assert run_search(monkeypatch, 150.0, **{broken: False}) == 1
