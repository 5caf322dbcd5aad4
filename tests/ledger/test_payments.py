"""Transfers: who may pay whom, what refuses it, and that money is never made on the way."""

import pytest
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.codes import Code
from atpar.ledger.context import Context
from atpar.ledger.limits import MAX_AMOUNT
from atpar.ledger.operations import Policy, SetParticipant
from atpar.ledger.payments import post
from atpar.ledger.records import Posting, balance_key
from atpar.ledger.state import Overlay
from atpar.ledger.types import Direction, ParticipantStatus
from tests.ledger.world import CNH, HKD, ROLES, World, make_document, make_terms, transfer


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


def suspend(
    world: World, code: str, status: ParticipantStatus = ParticipantStatus.SUSPENDED
) -> None:
    op = SetParticipant(
        code, code.rjust(18, "0") + "00", f"{code}HKH0", "HK", ROLES[code], status, None, None, ()
    )
    assert world.run(op, sender="CHAIN/governance") is Code.OK


def test_a_transfer_moves_exactly_its_amount(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", 250)) is Code.OK
    assert world.balance("ALFA/main").posted == 750
    assert world.balance("BRVO/main").posted == 250
    assert world.supply() == 1_000


def test_the_last_unit_can_be_paid_and_leaves_no_record(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", 1_000)) is Code.OK
    assert world.view.get(records.BALANCES, balance_key(HKD, "ALFA/main")) is None
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.INSUFFICIENT_FUNDS


def test_one_unit_more_than_available_is_refused(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", 1_001)) is Code.INSUFFICIENT_FUNDS
    assert world.run(transfer("ALFA/main", "BRVO/main", 1_000)) is Code.OK


def test_money_of_one_asset_does_not_pay_in_another(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", 1, CNH)) is Code.INSUFFICIENT_FUNDS


@pytest.mark.parametrize("amount", [0, -1, -(2**63), MAX_AMOUNT + 1, 2**63 - 1])
def test_amounts_out_of_range_never_enter_a_block(world: World, amount: int) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", amount)) is Code.AMOUNT_RANGE


def test_the_largest_amount_is_a_matter_of_funds(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", MAX_AMOUNT)) is Code.INSUFFICIENT_FUNDS


def test_paying_oneself_never_enters_a_block(world: World) -> None:
    assert world.run(transfer("ALFA/main", "ALFA/main", 1)) is Code.SAME_ACCOUNT


def test_post_to_oneself_makes_no_money(world: World) -> None:
    overlay = Overlay(world.view)
    ctx = Context(overlay, chain_id=world.chain_id, height=9, now_ms=world.now_ms)
    post(ctx, HKD, debtor="ALFA/main", creditor="ALFA/main", amount=600)
    balance = overlay.get(records.BALANCES, balance_key(HKD, "ALFA/main"))
    assert balance is not None
    assert balance.posted == 1_000


def test_unknown_asset_and_creditor_fail_on_state(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", 1, "USD.JDCL")) is Code.UNKNOWN_ASSET
    assert world.run(transfer("ALFA/main", "BRVO/nobody", 1)) is Code.UNKNOWN_CREDITOR
    assert world.run(transfer("ALFA/main", "CHAIN/governance", 1)) is Code.UNKNOWN_CREDITOR


def test_all_operations_of_a_transaction_take_effect_or_none(world: World) -> None:
    ops = [transfer("ALFA/main", "BRVO/main", 600), transfer("ALFA/main", "CHRL/main", 401)]
    assert world.run(*ops) is Code.INSUFFICIENT_FUNDS
    assert world.executed[-1].receipts[0].failed_op == 1
    assert world.executed[-1].postings == ()
    assert world.balance("BRVO/main").posted == 0
    assert world.run(*[replace(op, amount=500) for op in ops]) is Code.OK


def test_money_received_in_a_transaction_can_be_paid_on_in_it(world: World) -> None:
    ops = [transfer("ALFA/main", "BRVO/main", 100), transfer("BRVO/main", "CHRL/main", 100)]
    assert world.run(*ops, by=["BRVO/main"]) is Code.OK
    assert world.balance("CHRL/main").posted == 100


def test_payment_versus_payment_is_one_transaction(world: World) -> None:
    world.fund("CHRL/main", 500, CNH)
    legs = [transfer("ALFA/main", "CHRL/main", 100), transfer("CHRL/main", "ALFA/main", 90, CNH)]
    assert world.run(*legs) is Code.UNAUTHORISED
    assert world.run(*legs, by=["CHRL/main"]) is Code.OK
    assert world.balance("ALFA/main", CNH).posted == 90
    assert world.balance("CHRL/main").posted == 100


def test_payment_versus_payment_with_a_frozen_side_moves_nothing(world: World) -> None:
    world.fund("CHRL/main", 500, CNH)
    legs = [transfer("ALFA/main", "CHRL/main", 100), transfer("CHRL/main", "ALFA/main", 90, CNH)]
    world.freeze("CHRL/main", CNH, direction=Direction.DEBIT)
    assert world.run(*legs, by=["CHRL/main"]) is Code.ACCOUNT_FROZEN
    assert world.balance("ALFA/main").posted == 1_000
    world.freeze("ALFA/main", CNH, direction=Direction.CREDIT)
    assert world.run(*reversed(legs), by=["CHRL/main"], sender="ALFA/main") is Code.ACCOUNT_FROZEN


def test_postings_say_what_moved(world: World) -> None:
    ops = [transfer("ALFA/main", "BRVO/main", 1), transfer("ALFA/main", "CHRL/main", 2)]
    assert world.run(*ops) is Code.OK
    assert world.executed[-1].postings == (
        Posting(0, 0, HKD, "ALFA/main", "BRVO/main", 1),
        Posting(0, 1, HKD, "ALFA/main", "CHRL/main", 2),
    )


def test_a_receiver_may_ask_for_a_reference() -> None:
    document = make_document()
    accounts = tuple(
        replace(a, reference_required=True) if a.account == "BRVO/main" else a
        for a in document.accounts
    )
    world = World(replace(document, accounts=accounts))
    world.fund("ALFA/main", 10)
    pay = transfer("ALFA/main", "BRVO/main", 1)
    assert world.run(pay) is Code.REFERENCE_REQUIRED
    assert world.run(replace(pay, reference="   ")) is Code.REFERENCE_REQUIRED
    assert world.run(replace(pay, reference="INV-7")) is Code.OK


def test_travel_rule_data_is_asked_from_the_threshold_between_institutions() -> None:
    world = World(make_document(terms=make_terms(travel_rule_from=100)))
    world.fund("ALFA/main", 1_000)
    pay = transfer("ALFA/main", "BRVO/main", 100)
    assert world.run(pay) is Code.TRAVEL_RULE_MISSING
    assert world.run(replace(pay, travel_rule_hash=bytes(32))) is Code.TRAVEL_RULE_MISSING
    assert world.run(replace(pay, travel_rule_ack=True)) is Code.TRAVEL_RULE_MISSING
    assert world.run(replace(pay, amount=99)) is Code.OK
    assert world.run(replace(pay, creditor="ALFA/other")) is Code.OK
    assert world.run(replace(pay, travel_rule_hash=bytes(32), travel_rule_ack=True)) is Code.OK


def test_an_asset_with_a_kyc_tier_needs_both_sides_known() -> None:
    world = World(make_document(terms=make_terms(min_kyc_tier=2)))
    assert world.attest(100) is Code.OK
    assert world.run(world.mint("ALFA/main", 100)) is Code.CREDITOR_REFUSED


def test_a_suspended_participant_neither_pays_nor_is_paid(world: World) -> None:
    assert world.run(transfer("ALFA/main", "BRVO/main", 10)) is Code.OK
    suspend(world, "BRVO")
    assert world.run(transfer("BRVO/main", "ALFA/main", 1)) is Code.PARTICIPANT_SUSPENDED
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.CREDITOR_REFUSED
    suspend(world, "BRVO", ParticipantStatus.ACTIVE)
    assert world.run(transfer("BRVO/main", "ALFA/main", 1)) is Code.OK


def test_what_lies_with_the_creditor_looks_the_same_to_the_payer(world: World) -> None:
    """A frozen, a suspended and an ineligible creditor cannot be told apart."""
    messages = set()
    world.freeze("BRVO/main", direction=Direction.CREDIT)
    suspend(world, "CHRL")
    for creditor in ("BRVO/main", "CHRL/main"):
        assert world.run(transfer("ALFA/main", creditor, 1)) is Code.CREDITOR_REFUSED
        receipt = world.executed[-1].receipts[0]
        messages.add((receipt.code, receipt.failed_op))
    assert len(messages) == 1


def test_the_lowest_code_wins_when_several_rules_are_broken(world: World) -> None:
    """Frozen debtor, refusing creditor, no funds: reported in order of precedence."""
    pay = transfer("ALFA/main", "BRVO/main", 10_000)
    assert world.run(pay) is Code.INSUFFICIENT_FUNDS
    world.freeze("BRVO/main", direction=Direction.CREDIT)
    assert world.run(pay) is Code.CREDITOR_REFUSED
    world.freeze("ALFA/main", direction=Direction.DEBIT)
    assert world.run(pay) is Code.ACCOUNT_FROZEN
    suspend(world, "ALFA")
    assert world.run(pay) is Code.PARTICIPANT_SUSPENDED
    assert world.run(replace(pay, creditor="BRVO/nobody")) is Code.UNKNOWN_CREDITOR
    assert world.run(replace(pay, creditor="BRVO/nobody", asset="EUR.JDCL")) is Code.UNKNOWN_ASSET


def test_policy_of_the_debtor_is_asked_not_only_the_senders(world: World) -> None:
    op = transfer("ALFA/main", "BRVO/main", 1)
    assert world.run(op, sender="BRVO/main") is Code.UNAUTHORISED
    assert world.run(op, sender="BRVO/main", by=["ALFA/main"]) is Code.OK
    assert isinstance(world.view.get(records.ACCOUNTS, b"ALFA/main").policy, Policy)  # type: ignore[union-attr]
