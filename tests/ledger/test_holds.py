"""Payment holds: escrow, hash locks, delivery versus payment, claims sold; each ends once."""

from hashlib import sha256

import pytest
from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.limits import DAY_MS, HOUR_MS, MAX_OPEN_HOLDS_PER_ACCOUNT
from atpar.ledger.operations import (
    Assign,
    Burn,
    Capture,
    Condition,
    Hold,
    PauseChange,
    PauseScope,
    Redeem,
    Release,
    SetPause,
)
from atpar.ledger.reads import get_hold, list_open_holds
from atpar.ledger.records import CLAIMS, HoldKind, HoldStatus
from atpar.ledger.records import Hold as HoldRecord
from atpar.ledger.spans import compute_expiry
from atpar.ledger.state import Base
from atpar.ledger.types import Direction
from tests.ledger.test_payments import suspend
from tests.ledger.world import CNH, HKD, World, make_document, make_terms, transfer

FREE = Condition((), None, None, None)


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


def hold_op(world: World, amount: int = 600, **changes: object) -> Hold:
    op = Hold(
        asset=HKD,
        debtor="ALFA/main",
        creditor="BRVO/main",
        amount=amount,
        uetr=bytes(16),
        purpose="",
        reference="",
        travel_rule_hash=None,
        travel_rule_ack=False,
        expires_at_ms=world.now_ms + DAY_MS,
        condition=FREE,
        assignable=True,
    )
    return replace(op, **changes)


def place(world: World, amount: int = 600, **changes: object) -> bytes:
    op = hold_op(world, amount, **changes)
    assert world.run(op, sender=op.debtor) is Code.OK
    return world.hold_id()


def record(world: World, hold: bytes) -> HoldRecord:
    found = get_hold(world.view, hold)
    assert found is not None
    return found


def capture(
    world: World, hold: bytes, amount: int, *, by: tuple[str, ...] = (), **changes: object
) -> Code:
    op = replace(Capture(hold, amount, None, None, False), **changes)
    return world.run(op, sender=record(world, hold).creditor, by=by)


def pause(world: World, *scopes: PauseScope) -> None:
    op = SetPause(HKD, PauseChange.PAUSE, tuple(sorted(scopes)))
    assert world.run(op, sender="JDCL/pause") is Code.OK


def resume(world: World, *scopes: PauseScope) -> None:
    op = SetPause(HKD, PauseChange.RESUME, tuple(sorted(scopes)))
    assert world.run(op, sender="JDCL/unpause") is Code.OK


# ---- placing


def test_held_money_is_reserved_and_still_the_debtors(world: World) -> None:
    hold = place(world)
    balance = world.balance("ALFA/main")
    assert (balance.posted, balance.held, balance.holds) == (1_000, 600, 1)
    assert world.run(transfer("ALFA/main", "CHRL/main", 401)) is Code.INSUFFICIENT_FUNDS
    assert world.run(hold_op(world, 401), sender="ALFA/main") is Code.INSUFFICIENT_FUNDS
    assert [h for h, _ in list_open_holds(world.view, HKD, "ALFA/main", HoldKind.PAYMENT)] == [hold]


def test_a_hold_is_checked_like_a_payment(world: World) -> None:
    op = hold_op(world)
    assert world.run(replace(op, amount=0), sender="ALFA/main") is Code.AMOUNT_RANGE
    assert world.run(replace(op, creditor="ALFA/main"), sender="ALFA/main") is Code.SAME_ACCOUNT
    assert world.run(replace(op, asset="EUR.JDCL"), sender="ALFA/main") is Code.UNKNOWN_ASSET
    assert world.run(replace(op, creditor="BRVO/x"), sender="ALFA/main") is Code.UNKNOWN_CREDITOR
    assert world.run(op, sender="BRVO/main") is Code.UNAUTHORISED
    world.freeze("BRVO/main", direction=Direction.CREDIT)
    assert world.run(op, sender="ALFA/main") is Code.CREDITOR_REFUSED
    world.freeze("ALFA/main", direction=Direction.DEBIT)
    assert world.run(op, sender="ALFA/main") is Code.ACCOUNT_FROZEN
    suspend(world, "ALFA")
    assert world.run(op, sender="ALFA/main") is Code.PARTICIPANT_SUSPENDED


def test_a_hold_needs_travel_rule_data_like_a_payment() -> None:
    world = World(make_document(terms=make_terms(travel_rule_from=100)))
    world.fund("ALFA/main", 1_000)
    op = hold_op(world, 100)
    assert world.run(op, sender="ALFA/main") is Code.TRAVEL_RULE_MISSING
    known = replace(op, travel_rule_hash=bytes(32), travel_rule_ack=True)
    assert world.run(known, sender="ALFA/main") is Code.OK


def test_arbiters_exist_and_are_sorted(world: World) -> None:
    unknown = hold_op(world, condition=Condition(("CHRL/nobody",), None, None, None))
    assert world.run(unknown, sender="ALFA/main") is Code.UNKNOWN_TARGET
    lost = replace(unknown, creditor="BRVO/nobody")
    assert world.run(lost, sender="ALFA/main") is Code.UNKNOWN_CREDITOR
    twice = hold_op(world, condition=Condition(("CHRL/main", "CHRL/main"), None, None, None))
    assert world.run(twice, sender="ALFA/main") is Code.VALUE_INVALID


def test_a_hold_that_has_expired_cannot_be_placed(world: World) -> None:
    op = hold_op(world, expires_at_ms=world.header.timestamp_ms + 1)
    assert world.run(op, sender="ALFA/main") is Code.HOLD_EXPIRED
    later = hold_op(world, expires_at_ms=world.header.timestamp_ms + 2)
    assert world.run(later, sender="ALFA/main") is Code.OK


def test_open_holds_of_an_account_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_OPEN_HOLDS_PER_ACCOUNT == 10_000
    monkeypatch.setattr("atpar.ledger.holds.MAX_OPEN_HOLDS_PER_ACCOUNT", 2)
    first = place(world, 10)
    place(world, 10)
    assert world.run(hold_op(world, 1), sender="ALFA/main") is Code.LIMIT_OF_ENTRIES
    split = Assign(first, "CHRL/main", 5, None, False)
    assert world.run(split, sender="BRVO/main", by=["CHRL/main"]) is Code.LIMIT_OF_ENTRIES
    assert world.run(replace(split, amount=10), sender="BRVO/main", by=["CHRL/main"]) is Code.OK


# ---- capturing


def test_a_capture_pays_the_creditor_in_parts_up_to_the_hold(world: World) -> None:
    hold = place(world)
    assert capture(world, hold, 601) is Code.INSUFFICIENT_FUNDS
    assert capture(world, hold, 200) is Code.OK
    assert capture(world, hold, 401) is Code.INSUFFICIENT_FUNDS
    assert capture(world, hold, 400) is Code.OK
    assert capture(world, hold, 1) is Code.HOLD_NOT_PENDING
    assert world.balance("BRVO/main").posted == 600
    assert world.balance("ALFA/main").holds == 0
    ended = record(world, hold)
    assert (ended.status, ended.captured, ended.open) == (HoldStatus.ENDED, 600, 0)


def test_a_final_capture_returns_the_rest(world: World) -> None:
    hold = place(world)
    assert capture(world, hold, 250, final=True) is Code.OK
    assert world.balance("ALFA/main").available == 750
    ended = record(world, hold)
    assert (ended.captured, ended.released, ended.status) == (250, 350, HoldStatus.ENDED)


def test_only_the_creditor_captures(world: World) -> None:
    hold = place(world)
    op = Capture(hold, 1, None, None, False)
    assert world.run(op, sender="ALFA/main") is Code.UNAUTHORISED
    assert world.run(op, sender="CHRL/main", by=["BRVO/main"]) is Code.OK
    assert world.run(replace(op, hold=bytes(32)), sender="BRVO/main") is Code.UNKNOWN_HOLD


def test_arbiters_sign_every_capture(world: World) -> None:
    condition = Condition(("CHRL/main", "DLTA/main"), None, None, None)
    hold = place(world, condition=condition)
    assert capture(world, hold, 1) is Code.UNAUTHORISED
    assert capture(world, hold, 1, by=("CHRL/main",)) is Code.UNAUTHORISED
    assert capture(world, hold, 1, by=("CHRL/main", "DLTA/main")) is Code.OK


def test_a_hash_lock_opens_to_its_preimage_only(world: World) -> None:
    condition = Condition((), sha256(b"secret").digest(), None, None)
    hold = place(world, condition=condition)
    assert capture(world, hold, 1) is Code.CONDITION_UNMET
    assert capture(world, hold, 1, preimage=b"guess") is Code.CONDITION_UNMET
    assert capture(world, hold, 1, preimage=b"secret") is Code.OK


def test_not_before_counts_to_the_millisecond(world: World) -> None:
    world.now_ms = world.header.timestamp_ms + 10
    start_ms = world.now_ms + 1_000
    hold = place(world, condition=Condition((), None, start_ms, None))
    world.now_ms = start_ms - 1
    assert capture(world, hold, 1) is Code.CONDITION_UNMET
    world.now_ms = start_ms
    assert capture(world, hold, 1) is Code.OK


def test_the_agreed_document_is_named(world: World) -> None:
    bill = sha256(b"bill of lading").digest()
    hold = place(world, condition=Condition((), None, None, bill))
    assert capture(world, hold, 1) is Code.CONDITION_UNMET
    assert capture(world, hold, 1, document_hash=bytes(32)) is Code.CONDITION_UNMET
    assert capture(world, hold, 1, document_hash=bill) is Code.OK


def test_delivery_versus_payment_is_two_captures_in_one_transaction(world: World) -> None:
    world.fund("BRVO/main", 500, CNH)
    cash = place(world, 600)
    goods = place(world, 500, asset=CNH, debtor="BRVO/main", creditor="ALFA/main")
    ops = [Capture(cash, 600, None, None, True), Capture(goods, 501, None, None, True)]
    assert world.run(*ops, sender="ALFA/main", by=["BRVO/main"]) is Code.INSUFFICIENT_FUNDS
    assert world.balance("BRVO/main").posted == 0
    ops[1] = replace(ops[1], amount=500)
    assert world.run(*ops, sender="ALFA/main", by=["BRVO/main"]) is Code.OK
    assert world.balance("ALFA/main", CNH).posted == 500


def test_a_redemption_is_not_captured_and_a_hold_is_not_burned(world: World) -> None:
    redemption = world.redeem("ALFA/main", 10)
    op = Capture(redemption, 1, None, None, False)
    assert world.run(op, sender="JDCL/treasury") is Code.WRONG_HOLD_KIND
    hold = place(world)
    burn = Burn(hold, bytes(16), world.now_ms)
    assert world.run(burn, sender="JDCL/treasury", by=["CUST/reserve"]) is Code.WRONG_HOLD_KIND
    assign = Assign(redemption, "CHRL/main", 1, None, False)
    assert world.run(assign, sender="JDCL/treasury", by=["CHRL/main"]) is Code.WRONG_HOLD_KIND


# ---- expiry and release


def test_a_hold_can_be_captured_to_its_last_millisecond(world: World) -> None:
    hold = place(world)
    terms = record(world, hold).payment
    assert terms is not None
    world.now_ms = terms.expires_at_ms
    assert capture(world, hold, 1) is Code.OK
    assert world.release(hold, by="ALFA/main") is Code.OK


def test_an_expired_hold_goes_back_to_the_debtor_and_nowhere_else(world: World) -> None:
    hold = place(world)
    assert world.release(hold, by="ALFA/main") is Code.NOT_RELEASABLE
    assert world.release(hold, by="CHRL/main") is Code.NOT_RELEASABLE
    world.advance(2 * DAY_MS)
    assert capture(world, hold, 1) is Code.HOLD_EXPIRED
    assign = Assign(hold, "CHRL/main", 1, None, False)
    assert world.run(assign, sender="BRVO/main", by=["CHRL/main"]) is Code.HOLD_EXPIRED
    assert world.release(hold, by="ALFA/main") is Code.OK
    assert world.balance("ALFA/main").available == 1_000
    assert world.release(hold, by="ALFA/main") is Code.HOLD_NOT_PENDING
    assert world.release(hold, by="BRVO/main") is Code.HOLD_NOT_PENDING


def test_the_creditor_may_let_go_at_any_time(world: World) -> None:
    hold = place(world)
    assert capture(world, hold, 100) is Code.OK
    assert world.release(hold, by="BRVO/main") is Code.OK
    ended = record(world, hold)
    assert (ended.captured, ended.released) == (100, 500)


def test_nothing_happens_by_itself_when_a_hold_expires(world: World) -> None:
    hold = place(world)
    world.advance(100 * DAY_MS)
    world.block()
    assert record(world, hold).status is HoldStatus.PENDING
    assert world.balance("ALFA/main").held == 600


# ---- freezes and pauses


def test_a_freeze_of_either_party_blocks_the_capture(world: World) -> None:
    hold = place(world)
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT)
    assert capture(world, hold, 1) is Code.ACCOUNT_FROZEN
    assert world.unfreeze(freeze) is Code.OK
    freeze = world.freeze("ALFA/main", direction=Direction.CREDIT)
    assert capture(world, hold, 1) is Code.OK
    assert world.unfreeze(freeze) is Code.OK
    freeze = world.freeze("BRVO/main", direction=Direction.CREDIT)
    assert capture(world, hold, 1) is Code.CREDITOR_REFUSED
    assert world.unfreeze(freeze) is Code.OK
    world.freeze("BRVO/main", direction=Direction.DEBIT)
    assert capture(world, hold, 1) is Code.OK


def test_release_to_the_debtor_stays_possible_under_any_freeze(world: World) -> None:
    hold = place(world)
    world.freeze("ALFA/main")
    world.freeze("BRVO/main", None, by="REGU/admin")
    pause(world, *PauseScope)
    assert world.release(hold, by="BRVO/main") is Code.OK


def test_a_capture_leaves_frozen_amounts_untouched(world: World) -> None:
    hold = place(world)
    world.freeze("ALFA/main", direction=Direction.DEBIT, amount=401)
    assert capture(world, hold, 600) is Code.AMOUNT_BLOCKED
    assert capture(world, hold, 599) is Code.OK
    assert world.balance("ALFA/main").posted == 401
    assert capture(world, hold, 1) is Code.AMOUNT_BLOCKED


def test_a_suspended_party_still_captures_earlier_holds(world: World) -> None:
    hold = place(world)
    suspend(world, "ALFA")
    suspend(world, "BRVO")
    assert capture(world, hold, 600) is Code.OK


def test_time_under_a_freeze_extends_the_hold(world: World) -> None:
    hold = place(world)
    terms = record(world, hold).payment
    assert terms is not None
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT)
    start_ms = world.header.timestamp_ms
    world.advance(3 * DAY_MS)
    assert world.release(hold, by="ALFA/main") is Code.NOT_RELEASABLE
    assert world.unfreeze(freeze) is Code.OK
    expiry_ms = terms.expires_at_ms + world.header.timestamp_ms - start_ms
    assert compute_expiry(world.view, record(world, hold), world.now_ms) == expiry_ms
    world.now_ms = expiry_ms
    assert capture(world, hold, 1) is Code.OK
    world.now_ms = expiry_ms + 1
    assert capture(world, hold, 1) is Code.HOLD_EXPIRED


def test_overlapping_reasons_extend_by_their_union(world: World) -> None:
    hold = place(world)
    terms = record(world, hold).payment
    assert terms is not None
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT)
    start_ms = world.header.timestamp_ms
    world.advance(HOUR_MS)
    other = world.freeze("BRVO/main", None, by="REGU/admin")
    world.advance(HOUR_MS)
    pause(world, PauseScope.CAPTURE)
    assert world.unfreeze(freeze) is Code.OK
    world.advance(HOUR_MS)
    assert world.unfreeze(other, by="REGU/admin") is Code.OK
    world.advance(HOUR_MS)
    resume(world, PauseScope.CAPTURE)
    first = world.header.timestamp_ms - start_ms
    world.advance(HOUR_MS)
    pause(world, PauseScope.CAPTURE)
    again_ms = world.header.timestamp_ms
    world.advance(HOUR_MS)
    resume(world, PauseScope.CAPTURE)
    second = world.header.timestamp_ms - again_ms
    expected = terms.expires_at_ms + first + second
    assert compute_expiry(world.view, record(world, hold), world.now_ms) == expected


def test_a_freeze_after_the_expiry_revives_nothing(world: World) -> None:
    hold = place(world)
    world.advance(DAY_MS + 1_000)
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT)
    world.advance(DAY_MS)
    assert world.unfreeze(freeze) is Code.OK
    assert capture(world, hold, 1) is Code.HOLD_EXPIRED
    assert world.release(hold, by="ALFA/main") is Code.OK


def test_a_freeze_from_before_the_hold_counts_from_the_hold(world: World) -> None:
    freeze = world.freeze("BRVO/main", direction=Direction.DEBIT)
    world.advance(HOUR_MS)
    hold = place(world)
    assert world.unfreeze(freeze) is Code.OK
    terms = record(world, hold).payment
    assert terms is not None
    expiry_ms = compute_expiry(world.view, record(world, hold), world.now_ms)
    assert expiry_ms == terms.expires_at_ms
    pause(world, PauseScope.CAPTURE)
    world.advance(HOUR_MS)
    second = place(world, 1)
    placed_ms = world.header.timestamp_ms
    world.advance(HOUR_MS)
    resume(world, PauseScope.CAPTURE)
    later = record(world, second)
    assert later.payment is not None
    stood_ms = world.header.timestamp_ms - placed_ms
    expected = later.payment.expires_at_ms + stood_ms
    assert compute_expiry(world.view, later, world.now_ms) == expected


def test_pausing_and_resuming_in_one_block_leaves_no_span(world: World) -> None:
    add = SetPause(HKD, PauseChange.PAUSE, (PauseScope.CAPTURE,))
    lift = replace(add, change=PauseChange.RESUME)
    assert world.run(add, lift, sender="JDCL/pause", by=["JDCL/unpause"]) is Code.OK
    assert world.run(add, sender="JDCL/pause") is Code.OK
    assert world.run(add, sender="JDCL/pause") is Code.OK
    assert world.run(lift, sender="JDCL/unpause") is Code.OK


# ---- assigning


def assign(
    world: World, hold: bytes, amount: int, to: str = "CHRL/main", **changes: object
) -> Code:
    op = replace(Assign(hold, to, amount, None, False), **changes)
    return world.run(op, sender=record(world, hold).creditor, by=[to])


def test_a_claim_is_sold_whole(world: World) -> None:
    hold = place(world)
    assert assign(world, hold, 600) is Code.OK
    assert record(world, hold).creditor == "CHRL/main"
    op = Capture(hold, 1, None, None, False)
    assert world.run(op, sender="BRVO/main") is Code.UNAUTHORISED
    assert capture(world, hold, 600) is Code.OK
    assert world.balance("CHRL/main").posted == 600
    assert not list(world.view.scan(CLAIMS, b""))


def test_a_claim_is_split_and_both_parts_add_up(world: World) -> None:
    hold = place(world)
    assert assign(world, hold, 250) is Code.OK
    part = world.hold_id()
    old, new = record(world, hold), record(world, part)
    assert (old.open, old.assigned, new.open, new.amount) == (350, 250, 250, 250)
    assert world.balance("ALFA/main").held == 600
    assert capture(world, part, 250) is Code.OK
    assert capture(world, hold, 350) is Code.OK
    assert world.balance("CHRL/main").posted == 250
    assert world.balance("BRVO/main").posted == 350


def test_selling_takes_both_creditors_and_never_the_debtor(world: World) -> None:
    hold = place(world)
    op = Assign(hold, "CHRL/main", 600, None, False)
    assert world.run(op, sender="BRVO/main") is Code.UNAUTHORISED
    assert world.run(op, sender="CHRL/main") is Code.UNAUTHORISED
    assert world.run(op, sender="CHRL/main", by=["BRVO/main"]) is Code.OK


def test_what_cannot_be_assigned(world: World) -> None:
    tied = place(world, 10, assignable=False)
    assert assign(world, tied, 10) is Code.NOT_ASSIGNABLE
    hold = place(world, 10)
    assert assign(world, hold, 11) is Code.NOT_ASSIGNABLE
    assert assign(world, hold, 1, "ALFA/main") is Code.NOT_ASSIGNABLE
    assert assign(world, hold, 1, "BRVO/main") is Code.NOT_ASSIGNABLE
    assert assign(world, hold, 0) is Code.AMOUNT_RANGE
    assert capture(world, hold, 10) is Code.OK
    assert assign(world, hold, 1) is Code.HOLD_NOT_PENDING


def test_every_party_of_an_assignment_is_checked_anew(world: World) -> None:
    hold = place(world)
    for account, code in (
        ("ALFA/main", Code.ACCOUNT_FROZEN),
        ("BRVO/main", Code.ACCOUNT_FROZEN),
        ("CHRL/main", Code.CREDITOR_REFUSED),
    ):
        freeze = world.freeze(account)
        assert assign(world, hold, 1) is code
        assert world.unfreeze(freeze) is Code.OK
    pause(world, PauseScope.HOLD)
    assert assign(world, hold, 1) is Code.PAUSED
    resume(world, PauseScope.HOLD)
    suspend(world, "CHRL")
    assert assign(world, hold, 1) is Code.CREDITOR_REFUSED
    suspend(world, "BRVO")
    assert assign(world, hold, 1, "DLTA/main") is Code.PARTICIPANT_SUSPENDED
    governance = Assign(hold, "CHAIN/governance", 1, None, False)
    assert world.run(governance, sender="BRVO/main", by=["CHAIN/governance"]) is (
        Code.UNKNOWN_CREDITOR
    )


def test_a_buyer_needs_travel_rule_data_too() -> None:
    world = World(make_document(terms=make_terms(travel_rule_from=100)))
    world.fund("ALFA/main", 1_000)
    hold = place(world, travel_rule_hash=bytes(32), travel_rule_ack=True)
    assert assign(world, hold, 100) is Code.TRAVEL_RULE_MISSING
    assert assign(world, hold, 99) is Code.OK
    assert assign(world, hold, 100, travel_rule_hash=bytes(32), travel_rule_ack=True) is Code.OK


def test_the_sellers_frozen_time_stays_with_the_claim(world: World) -> None:
    hold = place(world)
    terms = record(world, hold).payment
    assert terms is not None
    freeze = world.freeze("BRVO/main")
    start_ms = world.header.timestamp_ms
    world.advance(5 * DAY_MS)
    assert world.unfreeze(freeze) is Code.OK
    extended = terms.expires_at_ms + world.header.timestamp_ms - start_ms
    assert assign(world, hold, 100) is Code.OK
    for each in (world.hold_id(), hold):
        expiry_ms = compute_expiry(world.view, record(world, each), world.now_ms)
        assert expiry_ms == extended


def test_a_claim_without_end_stays_readable_when_it_is_sold_after_a_pause(world: World) -> None:
    """Time under a pause must not carry the expiry out of the range that a record can have."""
    hold = place(world, expires_at_ms=2**63 - 1)
    pause(world, PauseScope.CAPTURE)
    world.advance(DAY_MS)
    resume(world, PauseScope.CAPTURE)
    assert assign(world, hold, 600) is Code.OK
    stored = get_hold(Base(world.backing), hold)
    assert stored is not None
    assert stored.payment is not None
    assert stored.payment.expires_at_ms == 2**63 - 1


def test_governance_signs_but_holds_no_money(world: World) -> None:
    gov = "CHAIN/governance"
    assert world.run(transfer(gov, "ALFA/main", 1)) is Code.UNKNOWN_TARGET
    assert world.run(Redeem(HKD, gov, 1, bytes(32))) is Code.UNKNOWN_TARGET
    assert world.run(hold_op(world, debtor=gov), sender=gov) is Code.UNKNOWN_TARGET
    release = Release(place(world), gov, "")
    assert world.run(release, sender=gov) is Code.NOT_RELEASABLE


# ---- pauses by scope


def test_each_scope_pauses_its_own_operation(world: World) -> None:
    hold = place(world, 10)
    assert world.attest(5_000) is Code.OK
    attempts = {
        PauseScope.MINT: lambda: world.run(world.mint("ALFA/main", 1)),
        PauseScope.TRANSFER: lambda: world.run(transfer("ALFA/main", "BRVO/main", 1)),
        PauseScope.HOLD: lambda: world.run(hold_op(world, 1), sender="ALFA/main"),
        PauseScope.CAPTURE: lambda: capture(world, hold, 1),
    }
    for scope in PauseScope:
        pause(world, scope)
        for tried, attempt in attempts.items():
            assert attempt() is (Code.PAUSED if tried is scope else Code.OK)
        resume(world, scope)
        assert attempts[scope]() is Code.OK


def test_under_every_pause_the_duties_go_on(world: World) -> None:
    """Freezing, attesting, redeeming, burning and governing never stop."""
    pause(world, *PauseScope)
    redemption = world.redeem("ALFA/main", 10)
    assert world.burn(redemption) is Code.OK
    assert world.release(world.redeem("ALFA/main", 10)) is Code.OK
    assert world.attest(5_000) is Code.OK
    freeze = world.freeze("ALFA/main")
    assert world.unfreeze(freeze) is Code.OK
    suspend(world, "DLTA")
    assert world.run(transfer("ALFA/main", "BRVO/main", 1, CNH)) is Code.INSUFFICIENT_FUNDS


def test_pausing_and_resuming_are_two_accounts(world: World) -> None:
    add = SetPause(HKD, PauseChange.PAUSE, (PauseScope.MINT,))
    lift = replace(add, change=PauseChange.RESUME)
    assert world.run(add, sender="JDCL/unpause") is Code.UNAUTHORISED
    assert world.run(lift, sender="JDCL/pause") is Code.UNAUTHORISED
    assert world.run(replace(add, asset="EUR.JDCL"), sender="JDCL/pause") is Code.UNKNOWN_ASSET
    twice = replace(add, scopes=(PauseScope.MINT, PauseScope.MINT))
    assert world.run(twice, sender="JDCL/pause") is Code.VALUE_INVALID
    assert world.run(lift, sender="JDCL/unpause") is Code.OK
