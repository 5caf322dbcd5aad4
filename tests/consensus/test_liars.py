"""Up to f validators misbehave, each in its own way: payments stay safe and go on."""

import pytest

from atpar.ledger.evidence import ConflictingNotarize, NullifyFinalize
from tests.consensus.cluster import Cluster, Link
from tests.consensus.liars import LIARS


def run_with(name: str, *, size: int, seed: int) -> Cluster:
    cluster = Cluster(size, seed=seed, link=Link(loss=0.02, latency_ms=(1, 40))).boot()
    for liar in cluster.random.sample(list(cluster.names), (size - 1) // 3):
        cluster.nodes[liar].tamper = LIARS[name]
    cluster.crash_probability = 0.0007
    for _ in range(15):
        cluster.submit()
        cluster.run(cluster.random.randrange(1, 1_000))
    cluster.crash_probability = 0
    cluster.link = Link()
    cluster.run(3_000)
    cluster.settle()
    return cluster


@pytest.mark.parametrize("name", LIARS)
@pytest.mark.parametrize(("size", "seed"), [(4, 1), (4, 2), (7, 3)])
def test_payments_go_on_beside_liars(name: str, size: int, seed: int) -> None:
    cluster = run_with(name, size=size, seed=seed)
    for _ in range(6):
        cluster.pay(6_000)


def test_double_votes_become_evidence_against_the_liar_only() -> None:
    cluster = run_with("vote_twice", size=4, seed=1)
    liar = next(node.name for node in cluster.nodes.values() if node.tamper is not None)
    for _ in range(6):
        cluster.pay(6_000)
    reports = [report.evidence for node in cluster.live for report in node.evidence]
    assert {evidence.participant for evidence in reports} == {liar}
    assert {type(evidence) for evidence in reports} <= {ConflictingNotarize, NullifyFinalize}
