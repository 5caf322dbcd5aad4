"""`atpar bench verify`: what it reports, and what processor times amount to."""

import os
from collections.abc import Sequence

import pytest

from atpar.cli.bench.verify import compute_cpu_ratio, measure
from atpar.node.known_keys import KnownKeys


def test_report_has_a_row_for_each_number_of_workers() -> None:
    report = measure(workers=(0, 1), signatures=1_000, rounds=2, seed=1)
    assert [row["workers"] for row in report.rows] == [0, 1]
    for row in report.rows:
        assert all(float(row[name]) > 0 for name in ("ratio", "ratio_total", "library_cpu_us"))
    assert report.rows[0]["workers_cpu_us"] == 0


def test_a_verifier_that_believes_everything_has_no_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def believe(_self: KnownKeys, keys: Sequence[bytes], *_: Sequence[bytes]) -> list[bool]:
        return [True] * len(keys)

    monkeypatch.setattr(KnownKeys, "verify_columns", believe)
    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="not the library's")):
        measure(workers=(0,), signatures=1_000, rounds=1, seed=1)


@pytest.mark.parametrize(
    ("workers", "workers_us", "node_us", "cores", "ratio"),
    [
        (0, 0.0, 40.0, 2, 1.0),
        (1, 40.0, 2.0, 2, 1.0),  # the worker is the limit
        (2, 40.0, 4.0, 2, 40 / 22),  # the cores are
        (2, 40.0, 0.0, 4, 2.0),
        (8, 40.0, 8.0, 64, 5.0),  # the node process is
    ],
)
def test_processor_times_amount_to_what_the_narrowest_place_lets_through(
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    workers_us: float,
    node_us: float,
    cores: int,
    ratio: float,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    found = compute_cpu_ratio(workers, library_us=40.0, workers_us=workers_us, node_us=node_us)
    assert found == pytest.approx(ratio)
