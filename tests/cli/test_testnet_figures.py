from atpar.cli.testnet.figures import Finality, get_percentile, summarise_finality


def test_percentile_is_a_measured_value_by_nearest_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert get_percentile(ordered, 0.5) == 50
    assert get_percentile(ordered, 0.99) == 99
    assert get_percentile(ordered, 0.999) == 100
    assert get_percentile(ordered, 1.0) == 100
    assert get_percentile([7.0], 0.001) == 7


def test_one_slow_payment_of_a_thousand_shows_in_max_and_not_in_p99() -> None:
    found = summarise_finality([10.0] * 999 + [900.0])
    assert (found.p50, found.p99, found.p999, found.max) == (10.0, 10.0, 10.0, 900.0)


def test_summary_of_nothing_is_null() -> None:
    assert summarise_finality([]) == Finality(None, None, None, None)
