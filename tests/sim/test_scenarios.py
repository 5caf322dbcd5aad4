"""Scenarios that have to be met at a chosen point, which a seed would meet by luck only.

Every one runs under the checkers of `checkers.py`: a broken rule fails the test where it happens.
"""

from collections import Counter

import pytest

from atpar.consensus.events import PeerConnected, PeerDisconnected
from atpar.consensus.leader import compute_leaders
from atpar.consensus.messages import Proposal, decode_message
from atpar.ledger.certificates import Finalization, Notarization, Nullification
from atpar.ledger.votes import Finalize, Notarize, Nullify
from atpar.node.datadir import read_position
from atpar.node.store import Store
from tests.sim.bench import Bench
from tests.sim.cluster import Machine

HOUR_MS = 3_600_000


def list_leaders(bench: Bench) -> list[Machine]:
    """Return the machines in the order in which they lead."""
    start = read_position(Store(bench.machines[0].engine)).start
    members = start.validators.members
    order = compute_leaders(bench.cluster.genesis.chain_id, start.validators)
    return [bench.cluster.machines[members[index].participant] for index in order]


def list_votes(machine: Machine, kind: type) -> list[object]:
    """Return what a machine broadcast of one kind of vote, proposals included."""
    votes = []
    for _, _, data in machine.sent:
        message = decode_message(data)
        vote = message.vote if isinstance(message, Proposal) else message
        if isinstance(vote, kind):
            votes.append(vote)
    return votes


@pytest.mark.no_cover
def test_idle_hour_has_heartbeats_and_no_nullification() -> None:
    bench = Bench()
    cluster = bench.cluster
    before = bench.machines[0].height
    cluster.keeps_sent = True
    for _ in range(60):
        cluster.run(HOUR_MS // 60)
        for machine in bench.machines:
            cluster.compact(machine)
    for machine in bench.machines:
        assert list_votes(machine, Nullify) == []
        # A heartbeat every 5 s, and the tip made final: no view more.
        assert HOUR_MS // 5_500 < machine.height - before < HOUR_MS // 4_500
    fast = [
        bench.time(bench.treasury.pay(cluster.wall_ms), m, within_ms=1_000) for m in bench.machines
    ]
    assert max(fast) < 200, "nobody was marked inactive"


@pytest.mark.parametrize(("count", "is_held"), [(1, True), (3, False)])
def test_leader_does_not_count_what_blocks_on_the_way_carry(count: int, *, is_held: bool) -> None:
    """Three payments fill a block; three are in blocks that are not final, `count` are new."""
    bench = Bench()
    cluster = bench.cluster
    cluster.keeps_sent = True
    cluster.filter = lambda _sender, _receiver, data: (
        not isinstance(decode_message(data), Finalize | Finalization)
    )

    def submit(number: int) -> bytes:
        for _ in range(number):
            tx = bench.treasury.pay(cluster.wall_ms)
            assert cluster.submit(bench.machines[0], tx)
        return tx.raw

    def is_carried(raw: bytes) -> bool:
        return any(
            isinstance(message := decode_message(data), Proposal) and raw in message.block
            for machine in bench.machines
            for _, _, data in machine.sent
        )

    first = submit(3)
    assert cluster.run(1_000, until=lambda: is_carried(first))
    for machine in bench.machines:
        machine.running.block_gap_ms = 250
        machine.running.mempool.block_ops = 3
    cluster.run(40)  # the others have taken up the block
    began = cluster.now_ms
    second = submit(count)
    assert cluster.run(1_000, until=lambda: is_carried(second))
    assert {len(machine.running.mempool) for machine in bench.machines} == {3 + count}
    assert (cluster.now_ms - began > 150) is is_held


def test_boundary_block_is_proposed_again_until_it_is_final() -> None:
    bench = Bench(epoch_blocks=8)
    cluster = bench.cluster
    while bench.machines[0].height < 6:
        bench.pay()
    cluster.keeps_sent = True
    cluster.filter = lambda _sender, _receiver, data: (
        not isinstance(decode_message(data), Finalize | Finalization)
    )
    waiting = [bench.treasury.pay(cluster.wall_ms) for _ in range(6)]
    for tx in waiting:
        cluster.submit(bench.machines[0], tx)
        cluster.run(200)
    cluster.run(2_000)
    votes = list_votes(bench.machines[1], Notarize)
    proposals = Counter(vote.proposition.digest for vote in votes if isinstance(vote, Notarize))
    assert max(proposals.values()) > 10
    cluster.filter = None
    assert cluster.run(3_000, until=lambda: cluster.is_final_everywhere(*waiting))
    assert {m.running.epoch_start.epoch for m in bench.machines} == {1}


@pytest.mark.parametrize(
    ("offset_ms", "finalizes"), [(-5_000, True), (-20_000, True), (20_000, False)]
)
def test_notarized_block_is_certified_whatever_the_clock_says(
    *, offset_ms: int, finalizes: bool
) -> None:
    """The clock keeps one back from notarizing what others propose; from nothing else.

    Blocks that look too old are given up at once, and then not finalized; but they are followed.
    """
    bench = Bench()
    wrong = bench.machines[1]
    wrong.clock.offset_ms = offset_ms
    bench.cluster.keeps_sent = True
    for _ in range(8):
        bench.time(bench.treasury.pay(bench.cluster.wall_ms), bench.machines[0], within_ms=5_000)
    assert bool(list_votes(wrong, Finalize)) is finalizes


@pytest.mark.parametrize("validators", [4, 7])
def test_halves_that_left_a_view_by_different_certificates_come_together(validators: int) -> None:
    """One half sees only notarizations, the other only nullifications; then everything."""
    bench = Bench(validators=validators)
    cluster = bench.cluster
    first = {machine.id for machine in bench.machines[: validators // 2]}

    def passes(_sender: Machine, receiver: Machine, data: bytes) -> bool:
        message = decode_message(data)
        if receiver.id in first:
            return not isinstance(message, Nullify | Nullification)
        return not isinstance(message, Notarize | Notarization | Finalize | Finalization)

    cluster.filter = passes
    waiting = [bench.treasury.pay(cluster.wall_ms) for _ in range(5)]
    for tx in waiting:
        cluster.submit(bench.machines[0], tx)
        cluster.run(1_500)
    cluster.filter = None
    assert cluster.run(3_000, until=lambda: cluster.is_final_everywhere(*waiting))


@pytest.mark.parametrize("validators", [4, 7, 10, 31])
def test_adjacent_dead_leaders_cost_nothing_once_they_are_known(validators: int) -> None:
    bench = Bench(validators=validators)
    leaders = list_leaders(bench)
    faults = (validators - 1) // 3
    bench.cluster.crash(*(machine.id for machine in leaders[:faults]))
    bench.pay()
    alive = leaders[faults:]
    count = 2 * validators if validators < 31 else 8
    took = [
        bench.time(
            bench.treasury.pay(bench.cluster.wall_ms), alive[turn % len(alive)], within_ms=5_000
        )
        for turn in range(count)
    ]
    assert max(took) < 400


def test_leader_that_f_plus_one_wrongly_take_for_lost_costs_its_view_and_no_more() -> None:
    bench = Bench(validators=7)
    leaders = list_leaders(bench)
    suspected, accusers = leaders[3], leaders[:3]
    for machine in accusers:
        bench.cluster.put(machine, PeerDisconnected(suspected.code))
    took = []
    for turn in range(14):
        tx = bench.treasury.pay(bench.cluster.wall_ms)
        took.append(bench.time(tx, leaders[turn % 7], within_ms=5_000))
    assert max(took) < 2_000
    for machine in accusers:
        bench.cluster.put(machine, PeerConnected(suspected.code))
    bench.pay(7)
    took = [
        bench.time(bench.treasury.pay(bench.cluster.wall_ms), leaders[turn], within_ms=5_000)
        for turn in range(7)
    ]
    assert max(took) < 300
