"""Admission: each refusal with its own code, nothing verified twice, nothing forged let in."""

from collections.abc import Sequence
from typing import cast

import pytest
import trio
import trio.testing

from atpar.ledger.blocks import Header
from atpar.ledger.codes import Code
from atpar.ledger.keys import SignedTriple
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.transactions import Transaction, decode_transaction, encode_envelope
from atpar.node import admission as admission_module
from atpar.node.admission import Admission, Outcome, Result
from atpar.node.executor import Tip
from atpar.node.limits import (
    ADMISSION_SLICE_BYTES,
    CLIENT_BACKLOG_BLOCKS,
    CLIENTS_PATIENCE_S,
    VERIFY_PIECE_SIGNATURES,
)
from atpar.node.mempool import Added, Mempool
from atpar.node.metrics import Metrics
from atpar.node.verifier import Priority, Verifier
from tests.ledger.world import HOUR_MS, World, transfer


class Desk:
    """An admission over the test world, with everything that it counts on."""

    def __init__(self, *, max_count: int = 100, max_signatures: int = 1_000) -> None:
        self.world = World()
        self.mempool = Mempool(max_count=max_count)
        self.metrics = Metrics()
        self.verifier = Verifier(workers=0, metrics=self.metrics, max_signatures=max_signatures)
        self.admitted: list[Transaction] = []
        self.judged_on: list[bytes] = []
        self.final = 0
        self.verified: set[bytes] = set()
        self.admission = Admission(
            chain_id=self.world.chain_id,
            get_final=self.get_final,
            admit=self.admit,
            mempool=self.mempool,
            verifier=self.verifier,
            get_wall_ms=lambda: self.world.now_ms,
            is_verified=self.verified.__contains__,
        )

    def get_final(self) -> Tip:
        """Stand for the last final block: all that is asked of it are its digest and its state."""
        return Tip(cast("Header", None), b"%032d" % self.final, self.world.view)

    def admit(self, transactions: Sequence[Transaction], judged_on: bytes) -> list[Added]:
        self.admitted += transactions
        self.judged_on.append(judged_on)
        return [self.mempool.add(tx) for tx in transactions]

    async def submit(self, *envelopes: bytes) -> list[Outcome]:
        return await self.admission.admit(envelopes, Priority.CLIENTS)

    async def submit_one(self, envelope: bytes) -> Outcome:
        (outcome,) = await self.submit(envelope)
        return outcome

    def pay(self, amount: int = 5, **given: object) -> Transaction:
        op = transfer("ALFA/main", "BRVO/main", amount)
        return self.world.make(op, sender="ALFA/main", **given)  # type: ignore[arg-type]

    def count_verified(self) -> int:
        name = "atpar_verify_batch_size_sum"
        found = self.metrics.registry.get_sample_value(name, {"priority": "clients"})
        return int(found or 0)


async def test_good_transaction_is_admitted_with_its_own_hash() -> None:
    desk = Desk()
    tx = desk.pay()
    outcome = await desk.submit_one(tx.raw)
    assert (outcome.result, outcome.first) == (Result.ADMITTED, tx.hash)
    assert desk.mempool.get(tx.hash) is desk.admitted[0]


async def test_each_refusal_has_its_own_code() -> None:
    desk = Desk()
    now = desk.world.now_ms
    good = desk.pay()
    pair = (good.signatures[0].key, bytes(64))
    cases = {
        Code.TOO_LARGE: bytes(MAX_TRANSACTION_BYTES + 1),
        Code.NON_CANONICAL: good.raw + b"\0",
        Code.UNSUPPORTED_VERSION: desk.pay(version=2).raw,
        Code.WRONG_CHAIN: desk.pay(chain_id=bytes(32)).raw,
        Code.NO_OPERATIONS: desk.world.make(sender="ALFA/main").raw,
        Code.WINDOW_INVALID: desk.pay(window=(now, now + 48 * HOUR_MS)).raw,
        Code.NOT_YET_VALID: desk.pay(window=(now + 1, now + 2)).raw,
        Code.EXPIRED: desk.pay(window=(now - 2, now - 1)).raw,
        Code.AMOUNT_RANGE: desk.pay(0).raw,
        Code.UNKNOWN_ACCOUNT: desk.world.make(
            transfer("ALFA/gone", "BRVO/main", 5), sender="ALFA/gone", keys=["ALFA-m1"]
        ).raw,
        Code.BAD_SIGNATURE: encode_envelope(good.body_bytes, [pair]),
        Code.UNAUTHORISED: encode_envelope(good.body_bytes, []),
    }
    for code, raw in cases.items():
        outcome = await desk.submit_one(raw)
        assert (outcome.result, outcome.code) == (Result.REFUSED, code), outcome.message
    assert desk.admitted == []
    assert len(desk.mempool) == 0


async def test_one_bad_envelope_spoils_no_other_of_its_batch() -> None:
    desk = Desk()
    good = [desk.pay() for _ in range(40)]
    forged = encode_envelope(good[0].body_bytes, [(good[0].signatures[0].key, bytes(64))])
    raws = [tx.raw for tx in good]
    outcomes = await desk.submit(b"junk", *raws[:20], forged, *raws[20:])
    results = [outcome.result for outcome in outcomes]
    assert results.count(Result.ADMITTED) == 40
    assert [i for i, result in enumerate(results) if result is Result.REFUSED] == [0, 21]
    assert [tx.hash for tx in desk.admitted] == [tx.hash for tx in good]


async def test_same_envelope_again_is_known_and_costs_no_signature_check() -> None:
    desk = Desk()
    tx = desk.pay()
    await desk.submit_one(tx.raw)
    verified = desk.count_verified()
    outcome = await desk.submit_one(tx.raw)
    assert (outcome.result, outcome.first) == (Result.KNOWN, tx.hash)
    assert desk.count_verified() == verified
    assert len(desk.admitted) == 1


async def test_what_a_block_brought_before_costs_no_signature_check() -> None:
    desk = Desk()
    seen, fresh = desk.pay(), desk.pay()
    forged = encode_envelope(seen.body_bytes, [(seen.signatures[0].key, bytes(64))])
    desk.verified.add(seen.hash)
    outcomes = await desk.submit(fresh.raw, seen.raw)
    assert [outcome.result for outcome in outcomes] == [Result.ADMITTED] * 2
    assert desk.count_verified() == 1
    assert {tx.hash for tx in desk.admitted} == {seen.hash, fresh.hash}
    desk.mempool.discard(seen.hash)
    assert (await desk.submit_one(forged)).code is Code.BAD_SIGNATURE


async def test_what_a_block_brings_during_the_check_is_not_checked_again() -> None:
    desk = Desk(max_count=2_000)
    payments = [desk.pay() for _ in range(8 * VERIFY_PIECE_SIGNATURES)]

    async def take_block() -> None:
        while not desk.admitted:
            await trio.lowlevel.checkpoint()
        desk.verified.update(tx.hash for tx in payments)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_block)
        outcomes = await desk.submit(*(tx.raw for tx in payments))
    assert {outcome.result for outcome in outcomes} == {Result.ADMITTED}
    assert desk.count_verified() <= 3 * VERIFY_PIECE_SIGNATURES  # before, and under way
    assert desk.admitted == payments


async def test_what_is_held_is_told_before_the_rest_is_checked_and_nothing_else_is() -> None:
    desk = Desk(max_count=2_000)
    payments = [desk.pay() for _ in range(3 * VERIFY_PIECE_SIGNATURES)]
    forged = encode_envelope(payments[1].body_bytes, [(payments[1].signatures[0].key, bytes(64))])
    raws = [payments[0].raw, forged, *(tx.raw for tx in payments[2:]), payments[0].raw]
    held: list[list[Transaction]] = []
    checked: list[int] = []

    def note(run: list[Transaction]) -> None:
        held.append(run)
        checked.append(desk.count_verified())

    await desk.admission.admit(raws, Priority.CLIENTS, on_held=note)
    assert checked == [VERIFY_PIECE_SIGNATURES * n for n in (1, 2, 3)]
    assert [tx.hash for run in held for tx in run] == [
        tx.hash for tx in payments if tx is not payments[1]
    ]
    held.clear()
    await desk.admission.admit(raws[:5], Priority.CLIENTS, on_held=note)
    assert held == []


async def test_no_signature_is_never_a_good_one() -> None:
    desk = Desk()
    bare = decode_transaction(encode_envelope(desk.pay().body_bytes, []))
    desk.verified.add(bare.hash)
    assert (await desk.submit_one(bare.raw)).result is Result.REFUSED
    assert desk.admitted == []


async def test_copies_in_one_batch_are_checked_once_and_answered_alike() -> None:
    desk = Desk()
    tx = desk.pay()
    outcomes = await desk.submit(tx.raw, tx.raw, tx.raw)
    assert {outcome.result for outcome in outcomes} == {Result.ADMITTED}
    assert desk.count_verified() == len(tx.signatures)
    assert len(desk.admitted) == 1


async def test_executed_id_answers_with_the_first_envelope() -> None:
    desk = Desk()
    tx = desk.pay()
    desk.world.block(tx)
    again = await desk.submit_one(tx.raw)
    assert (again.result, again.first) == (Result.KNOWN, tx.hash)
    other = desk.pay(6, tx_id=tx.body.tx_id)
    refused = await desk.submit_one(other.raw)
    assert (refused.result, refused.code) == (Result.REFUSED, Code.ID_REUSED)


async def test_executed_envelope_is_known_even_after_its_window() -> None:
    desk = Desk()
    tx = desk.pay()
    desk.world.block(tx)
    desk.world.advance(3 * HOUR_MS)
    outcome = await desk.submit_one(tx.raw)
    assert (outcome.result, outcome.first) == (Result.KNOWN, tx.hash)
    other = await desk.submit_one(desk.pay(6, tx_id=tx.body.tx_id, window=(0, 1)).raw)
    assert (other.result, other.code) == (Result.REFUSED, Code.EXPIRED)


async def test_pending_id_with_another_body_is_refused() -> None:
    desk = Desk()
    tx = desk.pay()
    await desk.submit_one(tx.raw)
    other = await desk.submit_one(desk.pay(6, tx_id=tx.body.tx_id).raw)
    assert (other.result, other.code) == (Result.REFUSED, Code.ID_REUSED)
    # Of several broken rules the first in the order of codes is reported.
    expired = await desk.submit_one(desk.pay(6, tx_id=tx.body.tx_id, window=(0, 1)).raw)
    assert expired.code is Code.EXPIRED
    unsigned = encode_envelope(desk.pay(6, tx_id=tx.body.tx_id).body_bytes, [])
    assert (await desk.submit_one(unsigned)).code is Code.ID_REUSED


async def test_transaction_that_became_final_during_its_check_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    tx = desk.pay()
    check, held = desk.verifier.verify, []

    async def check_slowly(triples: Sequence[SignedTriple], priority: Priority) -> list[bool]:
        desk.world.block(tx)
        return await check(triples, priority)

    def find_it_final(transactions: Sequence[Transaction], _judged_on: bytes) -> list[Added]:
        held.extend(transactions)
        return [Added.DUPLICATE for _ in transactions]

    monkeypatch.setattr(desk.verifier, "verify", check_slowly)
    monkeypatch.setattr(desk.admission, "_admit", find_it_final)
    outcome = await desk.submit_one(tx.raw)
    assert held == [tx]
    assert (outcome.result, outcome.first) == (Result.KNOWN, tx.hash)


async def test_full_mempool_refuses_before_any_signature_is_checked() -> None:
    desk = Desk(max_count=4)
    outcomes = await desk.submit(*(desk.pay().raw for _ in range(2)))
    assert [outcome.result for outcome in outcomes] == [Result.ADMITTED] * 2
    verified = desk.count_verified()
    full = await desk.submit_one(desk.pay().raw)
    assert (full.result, full.code) == (Result.NO_ROOM, Code.MEMPOOL_FULL)
    assert desk.count_verified() == verified


async def test_stopped_verifier_refuses_for_now() -> None:
    desk = Desk()
    desk.verifier._is_stopped = True
    outcome = await desk.submit_one(desk.pay().raw)
    assert (outcome.result, outcome.code) == (Result.NO_ROOM, Code.NOT_READY)
    assert desk.admitted == []


@pytest.mark.parametrize("ops", [1, 200])
async def test_batch_lets_other_tasks_run(ops: int) -> None:
    desk = Desk()
    turns = []

    async def other() -> None:
        while True:
            turns.append(1)
            await trio.lowlevel.checkpoint()

    op = transfer("ALFA/main", "BRVO/main", 1)
    raw = desk.world.make(*[op] * ops, sender="ALFA/main").raw
    slices = 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        # One envelope many times: nothing but admission takes time here.
        await desk.submit(*[raw] * ((slices + 1) * ADMISSION_SLICE_BYTES // len(raw)))
        nursery.cancel_scope.cancel()
    assert len(turns) >= slices // 2  # a slice ends with an envelope, however long


async def test_what_became_final_between_two_slices_is_seen_by_the_second() -> None:
    desk = Desk()
    tx = desk.pay()
    copies = [tx.raw] * (3 * ADMISSION_SLICE_BYTES // len(tx.raw))

    async def execute() -> None:
        desk.world.block(tx)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(execute)
        outcomes = await desk.submit(*copies)
    assert outcomes[-1].result is Result.KNOWN
    assert outcomes[-1].first == tx.hash


async def test_clients_wait_while_several_blocks_are_pending_and_peers_do_not() -> None:
    desk = Desk()
    desk.mempool.block_ops = 1
    held = [desk.pay(1 + number) for number in range(CLIENT_BACKLOG_BLOCKS)]
    for tx in held:
        assert (await desk.submit_one(tx.raw)).result is Result.ADMITTED
    late = desk.pay(900)
    outcome = await desk.submit_one(late.raw)
    assert (outcome.result, outcome.code) == (Result.NO_ROOM, Code.MEMPOOL_FULL)
    assert (await desk.submit_one(held[0].raw)).result is Result.KNOWN
    (gossiped,) = await desk.admission.admit([late.raw], Priority.GOSSIP)
    assert gossiped.result is Result.ADMITTED


async def test_refusals_name_the_field_the_key_and_both_bodies() -> None:
    desk = Desk()
    good = desk.pay()
    key = good.signatures[0].key
    forged = await desk.submit_one(encode_envelope(good.body_bytes, [(key, bytes(64))]))
    assert forged.message == f"signatures[0] by key {key.hex()} does not verify"
    gone = transfer("ALFA/gone", "BRVO/main", 5)
    for sender, field in (("ALFA/gone", "sender"), ("ALFA/main", "ops[0].debtor")):
        tx = desk.world.make(gone, sender=sender, keys=["ALFA-m1"])
        outcome = await desk.submit_one(tx.raw)
        assert outcome.message == f"{field}: no account ALFA/gone"


@pytest.mark.parametrize("runs_first", [True, False])
async def test_reused_id_shows_both_body_hashes(runs_first: bool) -> None:
    desk = Desk()
    first = desk.pay(5)
    other = desk.pay(6, tx_id=first.body.tx_id)
    if runs_first:
        desk.world.block(first)
    else:
        await desk.submit_one(first.raw)
    outcome = await desk.submit_one(other.raw)
    assert outcome.code is Code.ID_REUSED
    assert outcome.message.startswith("tx_id: ")
    assert first.body_hash.hex() in outcome.message
    assert other.body_hash.hex() in outcome.message


async def test_clients_stand_behind_gossip_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission_module, "CLIENTS_PATIENCE_S", 0.1)
    desk = Desk()
    forged = [
        encode_envelope(tx.body_bytes, [(tx.signatures[0].key, bytes(64))])
        for tx in (desk.pay() for _ in range(100))
    ]

    async def gossip(raws: Sequence[bytes]) -> None:
        while True:
            await desk.admission.admit(raws, Priority.GOSSIP)

    async with trio.open_nursery() as nursery:
        for raws in (forged[:50], forged[50:]):
            nursery.start_soon(gossip, raws)
        await trio.lowlevel.checkpoint()
        began = trio.current_time()
        with trio.fail_after(10):
            outcome = await desk.submit_one(desk.pay().raw)
        assert outcome.result is Result.ADMITTED
        assert trio.current_time() - began >= 0.1
        nursery.cancel_scope.cancel()


class SlowVerifier:
    """Finds everything good, one transaction at a time, and clients' only while no gossip waits."""

    portion = 1

    def __init__(self, **seconds: float) -> None:
        self.seconds = {Priority[name.upper()]: taken for name, taken in seconds.items()}
        self.asked: list[tuple[bytes, Priority]] = []
        """Message and priority of each call, in order."""
        self.gossip = 0

    async def verify(self, triples: Sequence[SignedTriple], priority: Priority) -> list[bool]:
        self.asked.append((triples[0][1], priority))
        self.gossip += priority is Priority.GOSSIP
        try:
            while self.gossip and priority is Priority.CLIENTS:
                await trio.sleep(0.001)
            await trio.sleep(self.seconds[priority])
        finally:
            self.gossip -= priority is Priority.GOSSIP
        return [True] * len(triples)

    def list_asked(self, tx: Transaction) -> list[Priority]:
        message = tx.compute_triples()[0][1]
        return [priority for asked, priority in self.asked if asked == message]


async def test_long_submission_without_gossip_stays_a_clients_and_is_checked_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    verifier = desk.admission._verifier = SlowVerifier(clients=0.4 * CLIENTS_PATIENCE_S)
    payments = [desk.pay() for _ in range(8)]
    outcomes = await desk.submit(*(tx.raw for tx in payments))
    assert {outcome.result for outcome in outcomes} == {Result.ADMITTED}
    assert [verifier.list_asked(tx) for tx in payments] == [[Priority.CLIENTS]] * 8


async def test_only_while_gossip_goes_on_are_impatient_clients_level_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    each = 0.1 * CLIENTS_PATIENCE_S
    verifier = desk.admission._verifier = SlowVerifier(clients=each, gossip=each)
    payments = [desk.pay() for _ in range(10)]
    gossip = [desk.pay() for _ in range(15)]

    async def take_in() -> None:
        for tx in gossip:
            await desk.admission.admit([tx.raw], Priority.GOSSIP)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_in)
        await trio.sleep(each / 2)
        outcomes = await desk.submit(*(tx.raw for tx in payments))
    assert {outcome.result for outcome in outcomes} == {Result.ADMITTED}
    first, *later = [verifier.list_asked(tx) for tx in payments]
    assert first == [Priority.CLIENTS, Priority.GOSSIP]
    promoted = later.count([Priority.GOSSIP])
    assert 1 <= promoted <= 5
    assert later == [[Priority.GOSSIP]] * promoted + [[Priority.CLIENTS]] * (9 - promoted)
    assert all(verifier.list_asked(tx) == [Priority.GOSSIP] for tx in gossip)
    assert (desk.admission._gossip_checks, desk.admission._yielding) == (0, {})


async def test_gossip_that_returns_finds_late_portions_patient_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    verifier = desk.admission._verifier = SlowVerifier(clients=0.6 * CLIENTS_PATIENCE_S, gossip=0.1)
    payments = [desk.pay() for _ in range(4)]
    passed_on = [desk.pay() for _ in range(40)]

    async def take_in() -> None:
        await trio.sleep(1.3 * CLIENTS_PATIENCE_S)  # while the third is checked
        for tx in passed_on:
            await desk.admission.admit([tx.raw], Priority.GOSSIP)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_in)
        await desk.submit(*(tx.raw for tx in payments))
    assert [verifier.list_asked(tx) for tx in payments] == [
        [Priority.CLIENTS],
        [Priority.CLIENTS],
        [Priority.CLIENTS],
        [Priority.GOSSIP],
    ]


async def test_who_holds_them_is_told_on_which_final_block_they_were_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The final state may move while signatures are checked: the first judgement counts."""
    desk = Desk()
    check = desk.verifier.verify

    async def check_slowly(triples: Sequence[SignedTriple], priority: Priority) -> list[bool]:
        desk.final += 1
        return await check(triples, priority)

    monkeypatch.setattr(desk.verifier, "verify", check_slowly)
    for before in (0, 1):
        outcome = await desk.submit_one(desk.pay().raw)
        assert outcome.result is Result.ADMITTED
        assert desk.judged_on[-1] == b"%032d" % before
        assert desk.final == before + 1
