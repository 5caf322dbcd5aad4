"""The life of a redemption: pending, then burned or returned, once; never by a timer."""

import datetime

import pytest
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.codes import Code
from atpar.ledger.limits import DAY_MS, MAX_OPEN_REDEMPTIONS_PER_ACCOUNT
from atpar.ledger.operations import Burn, Redeem, Release
from atpar.ledger.reads import (
    get_hold,
    is_blocked,
    is_overdue,
    list_open_holds,
    list_pending_by_due,
    list_redemptions,
)
from atpar.ledger.records import HoldKind, HoldStatus, Posting
from atpar.ledger.terms import compute_due
from atpar.ledger.types import Direction
from tests.ledger.test_payments import suspend
from tests.ledger.world import HKD, START_MS, World, make_document, make_terms, transfer

HOUR = 3_600_000


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


def status_of(world: World, redemption: bytes) -> HoldStatus:
    hold = get_hold(world.view, redemption)
    assert hold is not None
    return hold.status


# ---- redeem


def test_redeemed_coins_stay_supply_and_cannot_be_spent(world: World) -> None:
    world.redeem("ALFA/main", 600)
    balance = world.balance("ALFA/main")
    assert (balance.posted, balance.held, balance.available) == (1_000, 600, 400)
    assert world.supply() == 1_000
    assert world.run(transfer("ALFA/main", "BRVO/main", 401)) is Code.INSUFFICIENT_FUNDS
    assert world.run(transfer("ALFA/main", "BRVO/main", 400)) is Code.OK


def test_the_last_unit_can_be_redeemed_and_not_one_more(world: World) -> None:
    op = Redeem(HKD, "ALFA/main", 1_001, bytes(32))
    assert world.run(op) is Code.INSUFFICIENT_FUNDS
    assert world.run(replace(op, amount=1_000)) is Code.OK
    assert world.run(replace(op, amount=1)) is Code.INSUFFICIENT_FUNDS
    assert world.run(replace(op, amount=0)) is Code.AMOUNT_RANGE


def test_only_the_holder_redeems(world: World) -> None:
    op = Redeem(HKD, "ALFA/main", 1, bytes(32))
    assert world.run(op, sender="BRVO/main") is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/treasury") is Code.UNAUTHORISED


def test_redeeming_an_unknown_asset_fails_on_state(world: World) -> None:
    assert world.run(Redeem("EUR.JDCL", "ALFA/main", 1, bytes(32))) is Code.UNKNOWN_ASSET


def test_pending_redemptions_of_an_account_are_bounded(world: World) -> None:
    ops = [Redeem(HKD, "ALFA/main", 1, bytes(32))] * (MAX_OPEN_REDEMPTIONS_PER_ACCOUNT - 1)
    assert world.run(*ops) is Code.OK
    world.fund("ALFA/main", 10)
    assert world.run(ops[0], ops[0]) is Code.LIMIT_OF_ENTRIES
    assert world.run(ops[0]) is Code.OK
    assert world.run(ops[0]) is Code.LIMIT_OF_ENTRIES
    assert world.burn(world.hold_id()) is Code.UNKNOWN_HOLD
    oldest, _ = next(list_open_holds(world.view, HKD, "ALFA/main", HoldKind.REDEMPTION))
    assert world.burn(oldest) is Code.OK
    assert world.run(ops[0]) is Code.OK


def test_a_suspended_holder_still_redeems_and_is_still_paid(world: World) -> None:
    suspend(world, "ALFA")
    suspend(world, "JDCL")
    redemption = world.redeem("ALFA/main", 100)
    assert world.burn(redemption) is Code.OK
    other = world.redeem("ALFA/main", 100)
    assert world.release(other) is Code.OK


# ---- burn


def test_a_burn_takes_the_coins_out_of_supply_once(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    assert world.burn(redemption) is Code.OK
    assert (world.supply(), world.balance("ALFA/main").posted) == (400, 400)
    assert world.executed[-1].postings == (Posting(0, 0, HKD, "ALFA/main", None, 600),)
    assert world.burn(redemption) is Code.HOLD_NOT_PENDING
    assert world.release(redemption) is Code.HOLD_NOT_PENDING
    assert world.supply() == 400
    assert status_of(world, redemption) is HoldStatus.BURNED


def test_a_burn_needs_treasury_and_custodian(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    op = Burn(redemption, world.next_id(), world.now_ms)
    assert world.run(op, sender="JDCL/treasury") is Code.UNAUTHORISED
    assert world.run(op, sender="CUST/reserve") is Code.UNAUTHORISED
    assert world.run(op, sender="ALFA/main") is Code.UNAUTHORISED
    assert world.run(op, sender="CUST/reserve", by=["JDCL/treasury"]) is Code.OK


def test_double_redemption_is_two_holds_on_two_amounts(world: World) -> None:
    first, second = world.redeem("ALFA/main", 600), world.redeem("ALFA/main", 400)
    assert first != second
    assert world.run(Redeem(HKD, "ALFA/main", 1, bytes(32))) is Code.INSUFFICIENT_FUNDS
    assert world.burn(first) is Code.OK
    assert world.burn(second) is Code.OK
    assert world.supply() == 0
    assert world.view.get(records.BALANCES, records.balance_key(HKD, "ALFA/main")) is None


def test_a_payout_reference_burns_once(world: World) -> None:
    first, second = world.redeem("ALFA/main", 1), world.redeem("ALFA/main", 1)
    assert world.burn(first, payout_ref=bytes(16)) is Code.OK
    assert world.burn(second, payout_ref=bytes(16)) is Code.PAYOUT_REUSED
    assert world.burn(second, payout_ref=bytes([1] * 16)) is Code.OK


def test_two_burns_of_one_redemption_in_one_transaction_fail_whole(world: World) -> None:
    redemption = world.redeem("ALFA/main", 5)
    ops = [Burn(redemption, world.next_id(), world.now_ms) for _ in range(2)]
    assert world.run(*ops, sender="JDCL/treasury", by=["CUST/reserve"]) is Code.HOLD_NOT_PENDING
    assert status_of(world, redemption) is HoldStatus.PENDING


def test_a_payout_is_dated_between_the_redemption_and_the_block(world: World) -> None:
    redemption = world.redeem("ALFA/main", 5)
    placed_at_ms = world.header.timestamp_ms
    world.advance(1_000)
    assert world.burn(redemption, paid_at_ms=placed_at_ms - 1) is Code.PAYOUT_MISDATED
    assert world.burn(redemption, paid_at_ms=world.header.timestamp_ms + 2) is Code.PAYOUT_MISDATED
    assert world.burn(redemption, paid_at_ms=placed_at_ms) is Code.OK


def test_an_unknown_redemption_cannot_be_burned(world: World) -> None:
    assert world.burn(bytes(32)) is Code.UNKNOWN_HOLD
    assert world.release(bytes(32)) is Code.UNKNOWN_HOLD


# ---- release


def test_a_failed_payout_gives_the_coins_back_once(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    assert world.release(redemption) is Code.OK
    assert world.balance("ALFA/main").available == 1_000
    assert world.release(redemption) is Code.HOLD_NOT_PENDING
    assert world.burn(redemption) is Code.HOLD_NOT_PENDING
    assert status_of(world, redemption) is HoldStatus.RETURNED


def test_only_the_treasury_releases_a_redemption(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    assert world.release(redemption, by="ALFA/main") is Code.NOT_RELEASABLE
    assert world.release(redemption, by="CUST/reserve") is Code.NOT_RELEASABLE
    op = Release(redemption, "JDCL/treasury", "")
    assert world.run(op, sender="ALFA/main") is Code.UNAUTHORISED


# ---- due times


def ms(text: str) -> int:
    """Return the milliseconds of a time in Hong Kong."""
    hong_kong = datetime.timezone(datetime.timedelta(hours=8))
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=hong_kong)
    return int(moment.timestamp()) * 1_000


def day(text: str) -> int:
    return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("sla", "holidays", "asked", "due"),
    [
        (1, (), "2025-12-01T10:00", "2025-12-02T23:59:59"),  # Monday -> Tuesday
        (1, (), "2025-12-01T23:59:59", "2025-12-02T23:59:59"),
        (1, (), "2025-12-02T00:00", "2025-12-03T23:59:59"),
        (1, (), "2025-12-05T10:00", "2025-12-08T23:59:59"),  # Friday -> Monday
        (1, (), "2025-12-06T10:00", "2025-12-08T23:59:59"),  # Saturday -> Monday
        (1, (), "2025-12-07T10:00", "2025-12-08T23:59:59"),
        (2, (), "2025-12-04T10:00", "2025-12-08T23:59:59"),
        (1, ("2025-12-25", "2025-12-26"), "2025-12-24T10:00", "2025-12-29T23:59:59"),
        (5, (), "2025-12-01T10:00", "2025-12-08T23:59:59"),
        (0, (), "2025-12-01T10:00", "2025-12-01T23:59:59"),
        (0, (), "2025-12-06T10:00", "2025-12-08T23:59:59"),
        (0, ("2025-12-08",), "2025-12-06T10:00", "2025-12-09T23:59:59"),
    ],
)
def test_due_is_the_end_of_the_nth_business_day(
    sla: int, holidays: tuple[str, ...], asked: str, due: str
) -> None:
    days = tuple(day(text) for text in holidays)
    terms = make_terms(redemption_sla_days=sla, holidays=days)
    assert compute_due(terms, ms(asked)) == ms(due) + 999


def test_a_calendar_west_of_greenwich_has_its_own_days() -> None:
    terms = make_terms(utc_offset_minutes=-300)
    asked = START_MS + 4 * HOUR  # Sunday 23:00 in New York
    assert compute_due(terms, asked) == START_MS + 5 * HOUR + DAY_MS - 1


def test_an_overdue_redemption_stops_mints_until_it_ends(world: World) -> None:
    redemption = world.redeem("ALFA/main", 10)
    hold = get_hold(world.view, redemption)
    assert hold is not None
    assert hold.redemption is not None
    due_ms = hold.redemption.due_ms
    world.now_ms = due_ms - 2
    assert world.attest(5_000) is Code.OK
    world.now_ms = due_ms
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK
    assert not is_overdue(hold, now_ms=due_ms)
    assert is_overdue(hold, now_ms=due_ms + 1)
    assert world.run(world.mint("ALFA/main", 1)) is Code.REDEMPTION_OVERDUE
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK
    assert world.burn(redemption) is Code.OK
    assert world.attest(5_000) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK


def test_no_timer_ever_releases_a_redemption(world: World) -> None:
    redemption = world.redeem("ALFA/main", 10)
    world.advance(1_000 * DAY_MS)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK
    assert status_of(world, redemption) is HoldStatus.PENDING
    assert world.burn(redemption) is Code.OK


def test_redemptions_are_listed_by_due_time_and_by_status() -> None:
    world = World(make_document(terms=make_terms(redemption_sla_days=2)))
    world.fund("ALFA/main", 100)
    late = world.redeem("ALFA/main", 1)
    assert [r for r, _ in list_pending_by_due(world.view, HKD)] == [late]
    assert world.burn(late) is Code.OK
    pending = world.redeem("ALFA/main", 2)
    assert [r for r, _ in list_pending_by_due(world.view, HKD)] == [pending]
    assert {r for r, _ in list_redemptions(world.view, asset=HKD)} == {late, pending}
    burned = list_redemptions(world.view, status=HoldStatus.BURNED)
    assert [r for r, _ in burned] == [late]
    assert not list(list_redemptions(world.view, asset="CNH.JDCL"))


# ---- frozen while pending


def test_a_frozen_redemption_burns_only_if_paid_before_the_freeze(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    world.advance(1_000)
    world.freeze("ALFA/main", direction=Direction.DEBIT)
    frozen_at_ms = world.header.timestamp_ms
    world.advance(1_000)
    assert world.burn(redemption, paid_at_ms=frozen_at_ms + 1) is Code.REDEMPTION_BLOCKED
    assert world.burn(redemption, paid_at_ms=frozen_at_ms) is Code.REDEMPTION_BLOCKED
    assert world.burn(redemption, paid_at_ms=frozen_at_ms - 1) is Code.OK


def test_a_frozen_redemption_can_be_released_so_that_the_money_stays(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    world.freeze("ALFA/main")
    assert world.release(redemption) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.ACCOUNT_FROZEN
    assert world.burn(redemption) is Code.HOLD_NOT_PENDING


def test_a_freeze_of_credits_does_not_touch_a_redemption(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    world.freeze("ALFA/main", direction=Direction.CREDIT)
    assert world.burn(redemption) is Code.OK


def test_a_frozen_amount_blocks_the_burn_that_would_invade_it(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    world.advance(10)
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT, amount=401)
    assert world.burn(redemption) is Code.REDEMPTION_BLOCKED
    assert world.unfreeze(freeze) is Code.OK
    world.freeze("ALFA/main", direction=Direction.DEBIT, amount=400)
    assert world.burn(redemption) is Code.OK
    assert world.balance("ALFA/main").posted == 400


def test_freezes_for_all_assets_block_a_burn_too(world: World) -> None:
    redemption = world.redeem("ALFA/main", 600)
    freeze = world.freeze("ALFA/main", None, by="REGU/watch")
    assert world.burn(redemption) is Code.REDEMPTION_BLOCKED
    assert world.unfreeze(freeze, by="REGU/admin") is Code.OK
    assert world.burn(redemption) is Code.OK


def test_a_frozen_redemptions_clock_stops(world: World) -> None:
    redemption = world.redeem("ALFA/main", 10)
    before = get_hold(world.view, redemption)
    freeze = world.freeze("ALFA/main")
    frozen_at_ms = world.header.timestamp_ms
    frozen = get_hold(world.view, redemption)
    assert before is not None
    assert frozen is not None
    assert before.redemption is not None
    assert is_blocked(frozen)
    world.advance(30 * DAY_MS)
    assert not is_overdue(frozen, now_ms=world.now_ms)
    assert world.attest(5_000) is Code.OK
    assert world.run(world.mint("BRVO/main", 1)) is Code.OK
    assert world.unfreeze(freeze) is Code.OK
    stood_ms = world.header.timestamp_ms - frozen_at_ms
    after = get_hold(world.view, redemption)
    assert after is not None
    assert after.redemption is not None
    assert after.redemption.due_ms == before.redemption.due_ms + stood_ms
    assert world.run(world.mint("BRVO/main", 1)) is Code.OK
    world.now_ms = after.redemption.due_ms + 1
    assert world.attest(5_000) is Code.OK
    assert world.run(world.mint("BRVO/main", 1)) is Code.REDEMPTION_OVERDUE


def test_stacked_freezes_stop_the_clock_once_and_start_it_at_the_last(world: World) -> None:
    redemption = world.redeem("ALFA/main", 10)
    before = get_hold(world.view, redemption)
    first = world.freeze("ALFA/main")
    start_ms = world.header.timestamp_ms
    second = world.freeze("ALFA/main", None, by="REGU/admin")
    world.advance(DAY_MS)
    assert world.unfreeze(first) is Code.OK
    still = get_hold(world.view, redemption)
    world.advance(DAY_MS)
    assert world.unfreeze(second, by="REGU/admin") is Code.OK
    after = get_hold(world.view, redemption)
    assert before is not None
    assert still is not None
    assert after is not None
    assert before.redemption is not None
    assert after.redemption is not None
    assert is_blocked(still)
    stood_ms = world.header.timestamp_ms - start_ms
    assert after.redemption.due_ms == before.redemption.due_ms + stood_ms


def test_a_redemption_that_was_overdue_before_the_freeze_is_overdue_after_it(world: World) -> None:
    redemption = world.redeem("ALFA/main", 10)
    world.advance(10 * DAY_MS)
    assert world.attest(5_000) is Code.OK
    assert world.run(world.mint("BRVO/main", 1)) is Code.REDEMPTION_OVERDUE
    freeze = world.freeze("ALFA/main")
    assert world.run(world.mint("BRVO/main", 1)) is Code.OK
    assert world.unfreeze(freeze) is Code.OK
    assert world.run(world.mint("BRVO/main", 1)) is Code.REDEMPTION_OVERDUE
    assert status_of(world, redemption) is HoldStatus.PENDING


def test_what_is_redeemed_while_partly_frozen_has_a_running_clock(world: World) -> None:
    world.freeze("ALFA/main", direction=Direction.DEBIT, amount=500)
    assert world.run(Redeem(HKD, "ALFA/main", 501, bytes(32))) is Code.AMOUNT_BLOCKED
    redemption = world.redeem("ALFA/main", 500)
    hold = get_hold(world.view, redemption)
    assert hold is not None
    assert not is_blocked(hold)
    assert world.burn(redemption) is Code.OK
