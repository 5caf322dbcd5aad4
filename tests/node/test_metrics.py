"""Metrics: one registry per node, names that operators can rely on, bounded series."""

from prometheus_client.parser import text_string_to_metric_families

from atpar.node.metrics import Metrics

PROMISED = {
    "atpar_height",
    "atpar_view",
    "atpar_finality_seconds",
    "atpar_votes_missed",
    "atpar_timeouts",
    "atpar_mempool_transactions",
    "atpar_mempool_bytes",
    "atpar_verify_batch_size",
    "atpar_verify_seconds",
    "atpar_queue_depth",
    "atpar_peer_connected",
    "atpar_connections_dropped",
    "atpar_journal_fsync_seconds",
    "atpar_equivocations",
    "atpar_api_requests",
}


def read(metrics: Metrics) -> dict[str, object]:
    return {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}


def test_metrics_export_every_promised_name() -> None:
    assert set(read(Metrics())) >= PROMISED


def test_metrics_of_two_nodes_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.height.set(7)
    assert "atpar_height 7.0" in first.render().decode()
    assert "atpar_height 0.0" in second.render().decode()


def test_every_metric_has_a_description() -> None:
    for family in text_string_to_metric_families(Metrics().render().decode()):
        assert family.documentation, family.name


def test_finality_buckets_tell_a_hundred_milliseconds_from_half_a_second() -> None:
    metrics = Metrics()
    metrics.finality.observe(0.09)
    text = metrics.render().decode()
    assert 'atpar_finality_seconds_bucket{le="0.08"} 0.0' in text
    assert 'atpar_finality_seconds_bucket{le="0.1"} 1.0' in text
    assert 'atpar_finality_seconds_bucket{le="0.5"} 1.0' in text


def test_no_series_but_the_declared_ones_are_exported() -> None:
    assert "_created" not in Metrics().render().decode()
