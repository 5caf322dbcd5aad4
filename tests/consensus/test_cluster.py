"""The replica in a whole network: it is live and safe without faults and with the plain ones."""

import pytest

from tests.consensus.cluster import Cluster, Link


def test_four_honest_validators_finalise_payments() -> None:
    cluster = Cluster().boot()
    cluster.run(1_000)
    for _ in range(20):
        assert cluster.pay(500) < 200
    cluster.run(500)
    assert len({node.height for node in cluster.live}) == 1


@pytest.mark.parametrize("dead", range(4))
def test_payments_go_on_with_one_dead_of_four(dead: int) -> None:
    cluster = Cluster()
    names = [name for index, name in enumerate(cluster.names) if index != dead]
    cluster.boot(names)
    for _ in range(30):
        cluster.pay(3_000)


@pytest.mark.parametrize("seed", range(5))
def test_payments_go_on_over_lossy_links(seed: int) -> None:
    cluster = Cluster(seed=seed, link=Link(loss=0.1, duplicate=0.05)).boot()
    for _ in range(20):
        cluster.pay(20_000)


@pytest.mark.parametrize("seed", range(5))
def test_all_killed_and_restarted_goes_on(seed: int) -> None:
    cluster = Cluster(seed=seed).boot()
    for round_ in range(6):
        for _ in range(5):
            cluster.submit()
        cluster.run(37 * (round_ + seed + 1))
        for node in list(cluster.nodes.values()):
            cluster.kill(node)
        cluster.run(100)
        cluster.boot()
        cluster.resubmit()
        cluster.pay(6_000)


@pytest.mark.parametrize("seed", range(5))
def test_partition_heals_within_two_seconds(seed: int) -> None:
    cluster = Cluster(seed=seed, link=Link(latency_ms=(115, 135))).boot()
    cluster.pay(5_000)
    a, b, c, d = cluster.names
    cluster.partition((a, b), (c, d))
    transaction = cluster.submit()
    cluster.run(10_000)
    assert not cluster.is_final(transaction)
    cluster.heal()
    assert cluster.run_until(lambda: cluster.is_final(transaction), 5_000) < 2_000
    cluster.pay(1_500)


@pytest.mark.parametrize("seed", range(5))
def test_validator_that_was_away_catches_up(seed: int) -> None:
    cluster = Cluster(seed=seed).boot()
    cluster.pay(1_000)
    away = cluster.nodes[cluster.names[seed % 4]]
    cluster.kill(away)
    for _ in range(100):
        cluster.pay(3_000)
    away.boot()
    cluster.run_until(lambda: away.height >= cluster.checker_height() - 1, 5_000)
    for _ in range(5):
        cluster.pay(2_000)


def test_late_joiner_from_genesis_fetches_ranges() -> None:
    cluster = Cluster()
    cluster.sync_blocks = 16
    cluster.boot(cluster.names[:3])
    for _ in range(150):
        cluster.pay(3_000)
    late = cluster.nodes[cluster.names[3]]
    late.boot()
    cluster.run_until(lambda: late.height >= cluster.checker_height() - 1, 5_000)


def test_late_joiner_catches_up_with_an_idle_chain() -> None:
    cluster = Cluster()
    cluster.boot(cluster.names[:3])
    for _ in range(50):
        cluster.pay(3_000)
    cluster.run(1_000)
    late = cluster.nodes[cluster.names[3]]
    late.boot()
    cluster.run_until(lambda: late.height == cluster.checker_height(), 2_000)


@pytest.mark.parametrize("seed", range(12))
def test_random_crashes_lossy_links_and_partitions_stay_safe_and_live(seed: int) -> None:
    cluster = Cluster(seed=seed, link=Link(loss=0.05, duplicate=0.05, latency_ms=(1, 60))).boot()
    cluster.crash_probability = 0.002
    for _ in range(40):
        cluster.submit()
        cluster.run(cluster.random.randrange(1, 1_500))
        choice = cluster.random.random()
        if choice < 0.2:
            names = list(cluster.names)
            cluster.random.shuffle(names)
            cut = cluster.random.randrange(1, 4)
            cluster.partition(names[:cut], names[cut:])
        elif choice < 0.4:
            cluster.heal()
    cluster.crash_probability = 0
    cluster.link = Link()
    cluster.heal()
    cluster.run(3_000)
    cluster.settle()
    cluster.pay(5_000)
    cluster.pay(1_000)
