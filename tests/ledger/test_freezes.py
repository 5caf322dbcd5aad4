"""Freezes: directional, partial, stacked; they limit balances and never authority."""

import pytest
from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.limits import MAX_AMOUNT, MAX_FREEZES_PER_ACCOUNT
from atpar.ledger.operations import Freeze, Unfreeze
from atpar.ledger.reads import get_account, get_freeze, list_freezes
from atpar.ledger.types import Direction
from tests.ledger.world import CNH, HKD, World, transfer


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


ORDER = Freeze("ALFA/main", HKD, Direction.BOTH, None, "JDCL/compliance", bytes(32), 0)


def test_each_direction_blocks_its_side_only(world: World) -> None:
    out = transfer("ALFA/main", "BRVO/main", 1)
    back = transfer("BRVO/main", "ALFA/main", 1)
    assert world.run(out, out, out) is Code.OK
    debit = world.freeze("ALFA/main", direction=Direction.DEBIT)
    assert world.run(out) is Code.ACCOUNT_FROZEN
    assert world.run(back) is Code.OK
    assert world.unfreeze(debit) is Code.OK
    credit = world.freeze("ALFA/main", direction=Direction.CREDIT)
    assert world.run(out) is Code.OK
    assert world.run(back) is Code.CREDITOR_REFUSED
    assert world.unfreeze(credit) is Code.OK
    world.freeze("ALFA/main", direction=Direction.BOTH)
    assert world.run(out) is Code.ACCOUNT_FROZEN
    assert world.run(back) is Code.CREDITOR_REFUSED


def test_a_freeze_of_one_asset_leaves_the_other(world: World) -> None:
    world.fund("ALFA/main", 10, CNH)
    world.freeze("ALFA/main", HKD)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1, CNH)) is Code.OK


def test_a_regulators_freeze_covers_all_assets(world: World) -> None:
    world.fund("ALFA/main", 10, CNH)
    freeze = world.freeze("ALFA/main", None, by="REGU/admin")
    for asset in (HKD, CNH):
        assert world.run(transfer("ALFA/main", "BRVO/main", 1, asset)) is Code.ACCOUNT_FROZEN
    assert world.unfreeze(freeze, by="JDCL/release") is Code.UNAUTHORISED
    assert world.unfreeze(freeze, by="REGU/admin") is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK


def test_a_regulators_order_by_one_key_is_lifted_by_two(world: World) -> None:
    freeze = world.freeze("ALFA/main", None, by="REGU/watch")
    assert world.unfreeze(freeze, by="REGU/watch") is Code.UNAUTHORISED
    assert world.unfreeze(freeze, by="REGU/admin") is Code.OK


def test_a_frozen_amount_stays_and_the_rest_moves(world: World) -> None:
    world.freeze("ALFA/main", direction=Direction.DEBIT, amount=600)
    assert world.balance("ALFA/main").available == 400
    assert world.run(transfer("ALFA/main", "BRVO/main", 401)) is Code.AMOUNT_BLOCKED
    assert world.run(transfer("ALFA/main", "BRVO/main", 1_001)) is Code.INSUFFICIENT_FUNDS
    assert world.run(transfer("ALFA/main", "BRVO/main", 400)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.AMOUNT_BLOCKED


def test_an_amount_both_ways_also_refuses_every_credit(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK
    world.freeze("ALFA/main", direction=Direction.BOTH, amount=600)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK
    assert world.run(transfer("BRVO/main", "ALFA/main", 1)) is Code.CREDITOR_REFUSED


def test_more_can_be_frozen_than_there_is_and_new_money_is_caught(world: World) -> None:
    world.freeze("ALFA/main", direction=Direction.DEBIT, amount=5_000)
    assert world.balance("ALFA/main").available == 0
    world.fund("ALFA/main", 3_000)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.AMOUNT_BLOCKED
    world.fund("ALFA/main", 1_001)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK


def test_an_account_without_a_balance_can_be_frozen(world: World) -> None:
    freeze = world.freeze("BRVO/other", direction=Direction.DEBIT, amount=5)
    assert world.balance("BRVO/other").frozen == 5
    assert world.unfreeze(freeze) is Code.OK


def test_orders_stack_and_each_is_lifted_on_its_own(world: World) -> None:
    first = world.freeze("ALFA/main", direction=Direction.DEBIT, amount=300)
    second = world.freeze("ALFA/main", direction=Direction.DEBIT, amount=300)
    whole = world.freeze("ALFA/main", direction=Direction.DEBIT)
    assert world.balance("ALFA/main").frozen == 600
    assert world.unfreeze(whole) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 401)) is Code.AMOUNT_BLOCKED
    assert world.unfreeze(first) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 401)) is Code.OK
    assert [f for f, _ in list_freezes(world.view, "ALFA/main")] == [second]


def test_an_order_is_lifted_once(world: World) -> None:
    freeze = world.freeze("ALFA/main")
    assert get_freeze(world.view, freeze) is not None
    assert world.unfreeze(freeze) is Code.OK
    assert get_freeze(world.view, freeze) is None
    assert world.unfreeze(freeze) is Code.UNKNOWN_FREEZE
    assert world.unfreeze(bytes(32)) is Code.UNKNOWN_FREEZE
    again = Unfreeze(world.freeze("ALFA/main"), "")
    assert world.run(again, again, sender="JDCL/release") is Code.UNKNOWN_FREEZE


def test_freezing_takes_one_key_and_lifting_takes_two(world: World) -> None:
    assert world.run(ORDER, keys=["JDCL-c1"]) is Code.OK
    lift = Unfreeze(world.freeze_id(), "")
    assert world.run(lift, sender="JDCL/release", keys=["JDCL-r1"]) is Code.UNAUTHORISED
    assert world.run(lift, sender="JDCL/compliance") is Code.UNAUTHORISED
    assert world.run(lift, sender="JDCL/release") is Code.OK


def test_only_the_assets_compliance_and_regulators_may_order(world: World) -> None:
    for by in ("ALFA/main", "JDCL/release", "JDCL/treasury", "REGU/watch"):
        assert world.run(replace(ORDER, by=by)) is Code.ROLE_MISSING
    for by in ("JDCL/compliance", "ALFA/admin", "CUST/reserve"):
        assert world.run(replace(ORDER, by=by, asset=None)) is Code.ROLE_MISSING
    assert world.run(replace(ORDER, by="REGU/watch", asset=None)) is Code.OK
    assert world.run(ORDER, sender="ALFA/main") is Code.UNAUTHORISED


def test_an_order_names_an_account_and_an_asset_that_exist(world: World) -> None:
    assert world.run(replace(ORDER, account="ALFA/nobody")) is Code.UNKNOWN_TARGET
    assert world.run(replace(ORDER, asset="EUR.JDCL")) is Code.UNKNOWN_ASSET


@pytest.mark.parametrize(
    "account",
    [
        "CHAIN/governance",
        "JDCL/treasury",
        "JDCL/compliance",
        "JDCL/release",
        "JDCL/seizure",
        "JDCL/pause",
        "JDCL/unpause",
        "CUST/reserve",
        "AUDT/sign",
        "REGU/watch",
    ],
)
def test_accounts_that_run_the_asset_are_protected(world: World, account: str) -> None:
    assert world.run(replace(ORDER, account=account)) is Code.PROTECTED_ACCOUNT
    everywhere = replace(ORDER, account=account, asset=None, by="REGU/admin")
    assert world.run(everywhere) is Code.PROTECTED_ACCOUNT


def test_a_frozen_minter_still_mints_for_others(world: World) -> None:
    """Freezes limit balances, never authority."""
    world.freeze("JDCL/mint")
    assert world.run(world.mint("JDCL/mint", 1)) is Code.CREDITOR_REFUSED
    world.fund("ALFA/main", 1)


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_a_frozen_amount_has_the_range_of_amounts(world: World, amount: int) -> None:
    assert world.run(replace(ORDER, amount=amount)) is Code.AMOUNT_RANGE


def test_an_amount_makes_sense_for_debits_of_one_asset_only(world: World) -> None:
    assert world.run(replace(ORDER, amount=1, direction=Direction.CREDIT)) is Code.VALUE_INVALID
    everywhere = replace(ORDER, amount=1, asset=None, by="REGU/admin")
    assert world.run(everywhere) is Code.VALUE_INVALID


def test_orders_against_one_account_are_bounded_per_scope(world: World) -> None:
    assert world.run(*[ORDER] * MAX_FREEZES_PER_ACCOUNT) is Code.OK
    assert world.run(ORDER) is Code.LIMIT_OF_ENTRIES
    assert world.run(replace(ORDER, asset=CNH)) is Code.OK
    assert world.run(replace(ORDER, asset=None, by="REGU/admin")) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.ACCOUNT_FROZEN


def test_the_sum_of_frozen_amounts_stays_in_range(world: World) -> None:
    order = replace(ORDER, amount=MAX_AMOUNT, direction=Direction.DEBIT)
    assert world.run(*[order] * 9) is Code.OK
    assert world.run(order) is Code.OVERFLOW
    rest = 2**63 - 1 - 9 * MAX_AMOUNT
    assert world.run(replace(order, amount=rest + 1)) is Code.OVERFLOW
    assert world.run(replace(order, amount=rest)) is Code.OK


def test_the_account_shows_what_is_blocked_everywhere(world: World) -> None:
    world.freeze("ALFA/main", None, direction=Direction.CREDIT, by="REGU/admin")
    account = get_account(world.view, "ALFA/main")
    assert account is not None
    assert account.blocked == 2
