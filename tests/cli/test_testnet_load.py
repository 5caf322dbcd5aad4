"""The open-loop load generator, on a clock that jumps and nodes that are fakes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from atpar.cli.testnet.load import (
    DRAIN_S,
    MAX_BATCH,
    MAX_BATCH_BYTES,
    MAX_TICK_S,
    RESEND_AFTER_S,
    RESEND_CHECK_S,
    TICK_S,
    Load,
    Verdict,
    compute_tick_s,
)
from atpar.cli.testnet.payments import Signed
from atpar.cli.testnet.wire import Unreachable
from atpar.ledger.codes import Code


def make_payments(count: int) -> list[Signed]:
    return [Signed(b"raw-%d" % n, b"hash-%d" % n) for n in range(count)]


@dataclass
class FakeNode:
    """Takes envelopes, and calls `on_final` for each after `delay_s`."""

    nursery: trio.Nursery
    delay_s: float | None = 0.1
    answer: Callable[[bytes], Verdict] = lambda _: Verdict(accepted=True)
    up: bool = True
    on_final: Callable[[bytes, int], None] = lambda _hash, _code: None
    received: list[tuple[float, bytes]] = field(default_factory=list)

    async def submit(self, envelopes: Sequence[bytes]) -> list[Verdict]:
        await trio.lowlevel.checkpoint()
        if not self.up:
            raise Unreachable("down")
        now = trio.current_time()
        self.received += [(now, raw) for raw in envelopes]
        verdicts = [self.answer(raw) for raw in envelopes]
        if self.delay_s is not None:
            for raw, verdict in zip(envelopes, verdicts, strict=True):
                if verdict.accepted:
                    self.nursery.start_soon(self._finalise, raw)
        return verdicts

    async def _finalise(self, raw: bytes) -> None:
        assert self.delay_s is not None
        await trio.sleep(self.delay_s)
        self.on_final(raw.replace(b"raw", b"hash"), Code.OK)


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


async def test_load_counts_latency_from_the_scheduled_instant(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    node = FakeNode(nursery, delay_s=0.1)
    load = Load(make_payments(50), [node], rate=100)
    node.on_final = load.note_final
    await load.run()
    samples = load.tally.final_after_ms
    assert len(samples) == 50
    assert all(100 - 1e-6 <= sample <= 100 + TICK_S * 1000 + 1e-6 for sample in samples.values())
    assert (load.tally.submitted, load.tally.lost, load.tally.failed) == (50, 0, {})


@pytest.mark.parametrize(
    ("rate", "tick_s"), [(1, 0.01), (1_000, 0.01), (2_000, 0.02), (5_000, 0.05), (40_000, 0.05)]
)
def test_ticks_grow_with_the_rate_up_to_a_bound(rate: float, tick_s: float) -> None:
    assert compute_tick_s(rate) == pytest.approx(tick_s)


async def test_busy_load_sends_many_payments_in_one_request(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    node = FakeNode(nursery, delay_s=0.1)
    load = Load(make_payments(1_000), [node], rate=50, transfers=100)
    node.on_final = load.note_final
    await load.run()
    assert len({at for at, _ in node.received}) <= 20.0 / MAX_TICK_S + 1
    assert max(load.tally.final_after_ms.values()) <= 100 + MAX_TICK_S * 1000 + 1e-6


async def test_load_waits_as_long_as_fates_become_known(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    node = FakeNode(nursery, delay_s=None)
    load = Load(make_payments(4), [node], rate=100)

    async def finish_slowly() -> None:
        for number in range(3):
            await trio.sleep(0.9)
            load.note_final(b"hash-%d" % number, Code.OK)

    start = trio.current_time()
    nursery.start_soon(finish_slowly)
    await load.run(drain_s=1.0)
    # Three intervals with a fate each, and one without.
    assert 3.6 < trio.current_time() - start < 4.2
    assert (len(load.tally.succeeded), load.tally.lost) == (3, 1)


async def test_load_is_patient_with_nodes_that_are_slow_for_all(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    node = FakeNode(nursery, delay_s=1.5)
    load = Load(make_payments(400), [node], rate=100)
    node.on_final = load.note_final
    await load.run()
    late = FakeNode(nursery, delay_s=2.5)
    again = Load(make_payments(400), [late], rate=100)
    late.on_final = again.note_final
    again._usual_s = 2.5
    await again.run()
    assert len(node.received) == len(late.received) == 400


async def test_requests_of_large_payments_stay_within_a_request_body(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    sizes: list[int] = []

    class Node(FakeNode):
        async def submit(self, envelopes: Sequence[bytes]) -> list[Verdict]:
            sizes.append(sum(map(len, envelopes)))
            return await super().submit(envelopes)

    size = MAX_BATCH_BYTES // 3
    payments = [Signed(b"raw-%d" % n + bytes(size - 5), b"hash-%d" % n) for n in range(8)]
    node = Node(nursery, delay_s=None)
    load = Load(payments, [node], rate=10_000)
    await load.run(drain_s=RESEND_AFTER_S + 1)
    assert max(sizes) == MAX_BATCH_BYTES // size * size
    assert len(sizes) > 3


async def test_load_keeps_sending_while_nothing_becomes_final(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    node = FakeNode(nursery, delay_s=None)
    load = Load(make_payments(100), [node], rate=100)
    start = trio.current_time()
    await load.run(drain_s=1.0)
    first = {raw: at for at, raw in reversed(node.received)}
    assert len(first) == 100
    assert max(first.values()) - start <= 1.0 + TICK_S + 1e-6
    assert load.tally.lost == 100


async def test_load_sends_the_same_bytes_again_to_another_node(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    deaf = FakeNode(nursery, delay_s=None)
    good = FakeNode(nursery, delay_s=0.1)
    load = Load(make_payments(1), [deaf, good], rate=100)
    good.on_final = load.note_final
    await load.run()
    assert [raw for _, raw in deaf.received] == [raw for _, raw in good.received] == [b"raw-0"]
    assert load.tally.final_after_ms[0] >= RESEND_AFTER_S * 1000
    assert load.tally.lost == 0


async def test_load_passes_over_a_node_that_does_not_answer(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    dead = FakeNode(nursery, up=False)
    good = FakeNode(nursery, delay_s=0.05)
    load = Load(make_payments(40), [dead, good], rate=200)
    good.on_final = load.note_final
    await load.run()
    assert load.tally.lost == 0
    assert max(load.tally.final_after_ms.values()) < 100


async def test_load_soon_tries_again_what_reached_no_node(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    node = FakeNode(nursery, delay_s=0.05, up=False)
    load = Load(make_payments(2 * MAX_BATCH), [node, node], rate=2 * MAX_BATCH)
    node.on_final = load.note_final
    nursery.start_soon(load.run)
    await trio.sleep(3.0)
    assert load.tally.final_after_ms == {}
    node.up = True
    await trio.sleep(RESEND_CHECK_S + 0.06)
    assert load.tally.count_settled() == 2 * MAX_BATCH
    assert len(node.received) == 2 * MAX_BATCH


async def test_load_comes_back_when_a_node_asks_for_patience(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    seen: list[bytes] = []

    def refuse_once(raw: bytes) -> Verdict:
        seen.append(raw)
        if len(seen) == 1:
            return Verdict(accepted=False, code=Code.MEMPOOL_FULL, retry_after_s=1.0)
        return Verdict(accepted=True)

    node = FakeNode(nursery, delay_s=0.1, answer=refuse_once)
    load = Load(make_payments(1), [node], rate=100)
    node.on_final = load.note_final
    await load.run()
    assert seen == [b"raw-0", b"raw-0"]
    assert load.tally.lost == 0
    assert load.tally.failed == {}
    assert load.tally.final_after_ms[0] >= 1_100


async def test_load_counts_a_definitive_refusal_as_failed_and_not_as_lost(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    node = FakeNode(nursery, answer=lambda _: Verdict(accepted=False, code=Code.BAD_SIGNATURE))
    load = Load(make_payments(3), [node], rate=100)
    await load.run()
    assert load.tally.failed == dict.fromkeys(range(3), Code.BAD_SIGNATURE)
    assert load.tally.lost == 0


async def test_load_counts_a_failed_receipt_as_failed_and_final(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    load = Load(make_payments(1), [FakeNode(nursery, delay_s=None)], rate=100)
    nursery.start_soon(load.run)
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(0.1)
    load.note_final(b"hash-0", Code.INSUFFICIENT_FUNDS)
    assert load.tally.failed == {0: Code.INSUFFICIENT_FUNDS}
    assert load.tally.succeeded == []
    assert load.tally.lost == 0


async def test_load_reports_what_is_unknown_after_the_drain_as_lost(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    load = Load(make_payments(2), [FakeNode(nursery, delay_s=None)], rate=100)
    await load.run()
    assert load.tally.lost == 2
    assert trio.current_time() - start >= DRAIN_S
