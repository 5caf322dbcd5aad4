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
