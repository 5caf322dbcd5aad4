"""What the simulator found in the code it runs, kept as small scenarios."""

from collections.abc import Iterable

import pytest

from atpar.consensus.effects import AlarmKind
from atpar.consensus.messages import Message, Proposal, SyncResponse
from atpar.ledger.operations import AccountChange, UpdateAccount
from tests.ledger.world import BANKS, POLICIES, policy_of, transfer
from tests.sim.bench import Bench
from tests.sim.byzantine.blocks import rebuild
from tests.sim.byzantine.catch_up_poisoner import CatchUpPoisoner
from tests.sim.byzantine.invalid_transaction import InvalidTransaction
from tests.sim.byzantine.outdated_answers import OutdatedAnswers
from tests.sim.clock import MAX_PLANNED_EVENTS, Timeline
from tests.sim.cluster import Machine, MachineStore


def test_store_lost_beside_a_compacted_journal_leaves_the_right_to_vote() -> None:
    """`compact_journal` keeps a finalization without the votes in it: no sign of a loss."""
    bench = Bench()
    bench.pay(3)
    cluster = bench.cluster
    machine = cluster.machines["CHRL"]
    cluster.run(50)
    cluster.compact(machine)
    bench.pay()
    cluster.crash("CHRL")
    machine.engine = MachineStore(cluster.values)
    bench.checkers.forget_tip(machine)
    assert cluster.boot(machine)
    cluster.run(1_000)
    cluster.crash("DLTA")
    # The other three are a quorum only if this one votes.
    bench.pay(2)
    assert not [a for a in machine.alarms if a.kind is AlarmKind.JOURNAL_LOST]


class Spoiler(InvalidTransaction):
    """Proposes what is pending everywhere, under signatures of nobody."""

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        bad = None
        if isinstance(message, Proposal):
            pending = self.machine.running.mempool.list_pending(limit=5)
            bad = rebuild(self, message, later_ms=0, candidates=[self.spoil(tx) for tx in pending])
        yield peer, bad or message


def test_envelope_of_a_known_id_with_other_signatures_is_never_final() -> None:
    bench = Bench()
    cluster = bench.cluster
    liar, honest = cluster.machines["ALFA"], cluster.machines["BRVO"]
    bench.corrupt(liar, Spoiler, 3)
    for _ in range(12):
        cluster.submit(honest, bench.treasury.pay(cluster.wall_ms))
        cluster.run(250)
    carried = [tx for block in honest.finals for tx in block.transactions]
    assert len(carried) > 5
    for tx in carried:
        assert all(cluster.ring.verify_batch(tx.compute_triples()))


def test_connection_that_breaks_while_it_is_broken_returns_once() -> None:
    """Seed 881 of `all`: each return greeted a liar, which broke the connection twice as often."""
    bench = Bench()
    cluster = bench.cluster
    one, other = cluster.machines["ALFA"], cluster.machines["BRVO"]
    connected: list[str] = []
    connect = cluster.connect

    def count(a: Machine, b: Machine) -> None:
        connected.append(f"{a.id}-{b.id}")
        connect(a, b)

    cluster.connect = count  # type: ignore[method-assign]
    for _ in range(3):
        cluster.break_connection(one, other, 100)
    cluster.run(1_000)
    assert connected == ["ALFA-BRVO"]
    bench.pay()


def test_storm_of_messages_is_reported_before_it_fills_the_memory() -> None:
    timeline = Timeline()
    for _ in range(MAX_PLANNED_EVENTS):
        timeline.at(1, print)
    with pytest.raises(OverflowError, match="a storm"):
        timeline.at(1, print)


@pytest.mark.parametrize("seed", range(6))
def test_validator_that_catches_up_holds_no_liars_blocks_against_the_honest(seed: int) -> None:
    """A liar answers the question for final blocks with some of its own and falls silent."""
    bench = Bench()
    cluster = bench.cluster
    cluster.crash("DLTA")
    bench.pay(40)
    # The first one that DLTA asks.
    liar, late = cluster.machines["ALFA"], cluster.machines["DLTA"]
    bench.corrupt(liar, CatchUpPoisoner, seed)
    cluster.boot(late)
    assert cluster.run(6_000, until=lambda: late.height >= cluster.machines["BRVO"].height)
    assert [peer for peer, _ in late.faults if peer != "ALFA"] == []


class Miser(OutdatedAnswers):
    """Gives one block at a time, as late as it may without being passed over."""

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if isinstance(message, SyncResponse) and message.blocks:
            self.send_later(480, peer, *self.pack(self.shorten(message)))
        else:
            yield peer, message


def test_peer_that_gives_little_and_late_does_not_hold_up_whoever_catches_up() -> None:
    bench = Bench()
    cluster = bench.cluster
    cluster.crash("DLTA")
    bench.pay(60)
    liar, late = cluster.machines["ALFA"], cluster.machines["DLTA"]
    bench.corrupt(liar, Miser, 0)
    cluster.boot(late)
    assert cluster.run(2_000, until=lambda: late.height >= cluster.machines["BRVO"].height)


def test_transaction_that_lost_its_signer_is_dropped_before_its_validator_leads() -> None:
    """Nobody takes it any more, so nobody else could say so: seed 5845 of `all` at n = 4."""
    bench = Bench(validators=7)
    cluster, treasury = bench.cluster, bench.treasury
    holder = cluster.machines["CHRL"]
    account = f"{BANKS[0]}/main"
    keys = list(POLICIES[account][1])
    cluster.cut("CHRL")
    late = treasury.make(
        transfer(account, f"{BANKS[1]}/main", 1), sender=account, keys=keys, now_ms=cluster.wall_ms
    )
    assert cluster.submit(holder, late)
    successors = [f"{name}-next" for name in keys]
    change = UpdateAccount(
        account, AccountChange.UPDATE, policy_of(1, successors), None, False, None
    )
    rotation = treasury.make(change, sender=account, keys=keys + successors, now_ms=cluster.wall_ms)
    assert cluster.submit(cluster.machines["ALFA"], rotation)
    cluster.run(3_000)
    cluster.heal()
    assert cluster.run(
        20_000, until=lambda: any(d.transaction.hash == late.hash for d in holder.dropped)
    )
    assert late.hash not in bench.checkers.transactions
