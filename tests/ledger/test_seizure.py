"""Seizure by order: frozen money, then money inside holds, never a redemption."""

import pytest
from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.operations import Seize
from atpar.ledger.reads import get_freeze, get_hold, is_blocked
from atpar.ledger.records import HoldStatus, Posting
from atpar.ledger.types import Direction
from tests.ledger.test_holds import capture, place, record
from tests.ledger.test_payments import suspend
from tests.ledger.world import CNH, HKD, World, transfer

BOTH = ("JDCL/seizure", "REGU/watch")


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


def seize(world: World, freeze: bytes, amount: int, **changes: object) -> Code:
    op = replace(Seize(freeze, HKD, amount, "DLTA/main", bytes(32)), **changes)
    return world.run(op, sender=BOTH[0], by=[BOTH[1]])


def test_frozen_money_goes_to_the_destination_and_supply_stays(world: World) -> None:
    freeze = world.freeze("ALFA/main")
    assert seize(world, freeze, 400) is Code.OK
    assert world.balance("DLTA/main").posted == 400
    assert world.supply() == 1_000
    assert world.executed[-1].postings == (Posting(0, 0, HKD, "ALFA/main", "DLTA/main", 400),)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.ACCOUNT_FROZEN
    assert seize(world, freeze, 600) is Code.OK
    assert seize(world, freeze, 1) is Code.INSUFFICIENT_FUNDS


def test_seizing_takes_the_seizure_account_and_the_regulator(world: World) -> None:
    freeze = world.freeze("ALFA/main")
    op = Seize(freeze, HKD, 1, "DLTA/main", bytes(32))
    assert world.run(op, sender="JDCL/seizure") is Code.UNAUTHORISED
    assert world.run(op, sender="REGU/watch") is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/compliance") is Code.UNAUTHORISED
    assert world.run(op, sender="REGU/watch", by=["JDCL/seizure"]) is Code.OK


def test_unheld_money_goes_first_then_the_oldest_holds(world: World) -> None:
    oldest, middle, newest = (place(world, 200) for _ in range(3))
    freeze = world.freeze("ALFA/main")
    assert seize(world, freeze, 399) is Code.OK
    assert record(world, oldest).open == 200
    assert seize(world, freeze, 101) is Code.OK
    assert (record(world, oldest).open, record(world, middle).open) == (100, 200)
    assert seize(world, freeze, 250) is Code.OK
    assert record(world, oldest).status is HoldStatus.ENDED
    assert record(world, middle).open == 50
    assert record(world, newest).open == 200
    assert world.balance("ALFA/main").held == 250
    assert seize(world, freeze, 250) is Code.OK
    assert world.balance("ALFA/main").posted == 0
    assert capture(world, newest, 1) is Code.ACCOUNT_FROZEN


def test_a_redemption_is_out_of_reach(world: World) -> None:
    redemption = world.redeem("ALFA/main", 700)
    place(world, 100)
    freeze = world.freeze("ALFA/main")
    assert seize(world, freeze, 301) is Code.INSUFFICIENT_FUNDS
    assert seize(world, freeze, 300) is Code.OK
    hold = get_hold(world.view, redemption)
    assert hold is not None
    assert hold.open == 700
    assert world.release(redemption) is Code.OK
    assert seize(world, freeze, 700) is Code.OK


def test_an_order_for_an_amount_is_fulfilled_by_what_is_seized(world: World) -> None:
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT, amount=500)
    assert seize(world, freeze, 501) is Code.CONDITION_UNMET
    assert seize(world, freeze, 200) is Code.OK
    order = get_freeze(world.view, freeze)
    assert order is not None
    assert order.amount == 300
    assert world.balance("ALFA/main").frozen == 300
    assert world.balance("ALFA/main").available == 500
    assert seize(world, freeze, 300) is Code.OK
    assert get_freeze(world.view, freeze) is None
    assert seize(world, freeze, 1) is Code.UNKNOWN_FREEZE
    assert world.run(transfer("ALFA/main", "BRVO/main", 500)) is Code.OK


def test_a_seized_amount_restarts_the_clock_of_a_redemption_it_no_longer_blocks(
    world: World,
) -> None:
    redemption = world.redeem("ALFA/main", 700)
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT, amount=400)
    hold = get_hold(world.view, redemption)
    assert hold is not None
    assert is_blocked(hold)
    assert seize(world, freeze, 300) is Code.OK
    hold = get_hold(world.view, redemption)
    assert hold is not None
    assert is_blocked(hold)
    assert seize(world, freeze, 100) is Code.INSUFFICIENT_FUNDS
    assert world.unfreeze(freeze) is Code.OK
    hold = get_hold(world.view, redemption)
    assert hold is not None
    assert not is_blocked(hold)


def test_a_freeze_of_credits_gives_no_right_to_seize(world: World) -> None:
    freeze = world.freeze("ALFA/main", direction=Direction.CREDIT)
    assert seize(world, freeze, 1) is Code.CONDITION_UNMET


def test_a_regulators_freeze_for_all_assets_covers_each(world: World) -> None:
    world.fund("ALFA/main", 10, CNH)
    freeze = world.freeze("ALFA/main", None, by="REGU/admin")
    assert seize(world, freeze, 10, asset=CNH) is Code.OK
    assert seize(world, freeze, 1_000) is Code.OK


def test_an_order_of_one_asset_does_not_reach_another(world: World) -> None:
    world.fund("ALFA/main", 10, CNH)
    freeze = world.freeze("ALFA/main", HKD)
    assert seize(world, freeze, 1, asset=CNH) is Code.UNKNOWN_FREEZE
    assert seize(world, bytes(32), 1) is Code.UNKNOWN_FREEZE
    assert seize(world, freeze, 1, asset="EUR.JDCL") is Code.UNKNOWN_ASSET


def test_the_destination_can_be_credited(world: World) -> None:
    freeze = world.freeze("ALFA/main")
    assert seize(world, freeze, 1, destination="DLTA/nobody") is Code.UNKNOWN_CREDITOR
    assert seize(world, freeze, 1, destination="ALFA/main") is Code.CREDITOR_REFUSED
    world.freeze("DLTA/main", direction=Direction.CREDIT)
    assert seize(world, freeze, 1) is Code.CREDITOR_REFUSED
    suspend(world, "CHRL")
    assert seize(world, freeze, 1, destination="CHRL/main") is Code.CREDITOR_REFUSED
    assert seize(world, freeze, 0) is Code.AMOUNT_RANGE


def test_money_in_an_escrow_is_seized_and_the_rest_of_it_can_be_captured_later(
    world: World,
) -> None:
    hold = place(world, 1_000)
    freeze = world.freeze("ALFA/main", direction=Direction.DEBIT)
    assert seize(world, freeze, 400) is Code.OK
    assert world.unfreeze(freeze) is Code.OK
    assert capture(world, hold, 601) is Code.INSUFFICIENT_FUNDS
    assert capture(world, hold, 600) is Code.OK
    ended = record(world, hold)
    assert (ended.captured, ended.released, ended.status) == (600, 400, HoldStatus.ENDED)
