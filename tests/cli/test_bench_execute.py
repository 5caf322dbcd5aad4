"""`atpar bench execute`: what it measures is whole blocks on states of several sizes."""

from atpar.cli.bench.execute import measure


def test_every_size_has_a_figure_for_single_payments_and_for_runs() -> None:
    """Both states are on the disk before the first is opened: no store survives a fork."""
    report = measure(sizes=(300, 900), blocks=2, transfers=200, seed=1)
    assert [(row["accounts"], row["transfers_per_tx"]) for row in report.rows] == [
        (300, 1),
        (300, 100),
        (900, 1),
        (900, 100),
    ]
    for row in report.rows:
        us, least = float(row["us"]), float(row["us_min"])
        assert 0 < least <= us + 0.01
        assert float(row["decode_us"]) + float(row["checks_apply_receipt_us"]) <= us + 0.02
