import pytest

from atpar.cli.testnet.scrape import Window, read_counts

PAGE = """# HELP atpar_finality_seconds x
atpar_finality_seconds_bucket{le="0.05"} 10.0
atpar_finality_seconds_bucket{le="0.1"} 90.0
atpar_finality_seconds_bucket{le="+Inf"} 100.0
atpar_transactions_total{code="OK"} 95.0
atpar_transactions_total{code="EXPIRED"} 5.0
atpar_height 7.0
"""
EMPTY = 'atpar_finality_seconds_bucket{le="+Inf"} 0.0\natpar_transactions_total{code="OK"} 0.0\n'


def test_window_reports_rate_and_quantiles_of_what_grew() -> None:
    window = Window()
    window.note(read_counts([EMPTY, EMPTY], at_s=0.0))
    window.note(read_counts([PAGE, PAGE], at_s=10.0))
    assert window.compute_rate() == pytest.approx(10.0)
    assert window.compute_quantile_ms(0.05) == 50
    assert window.compute_quantile_ms(0.5) == 100
    assert window.compute_quantile_ms(0.99) == float("inf")


def test_quiet_window_has_no_finality() -> None:
    window = Window()
    window.note(read_counts([PAGE], at_s=0.0))
    window.note(read_counts([PAGE], at_s=1.0))
    assert window.compute_quantile_ms(0.5) is None
    assert window.compute_rate() == 0.0


def test_restarted_node_never_makes_the_rate_negative() -> None:
    window = Window()
    window.note(read_counts([PAGE], at_s=0.0))
    window.note(read_counts([EMPTY], at_s=1.0))
    assert window.compute_rate() == 0.0
