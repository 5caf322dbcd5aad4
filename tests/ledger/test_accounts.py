"""Changing accounts: rotation, closing, and recovery after 48 hours."""

import pytest
from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.limits import DAY_MS, RECOVERY_DELAY_MS
from atpar.ledger.operations import (
    AccountChange,
    Assign,
    Policy,
    Redeem,
    SetAsset,
    UpdateAccount,
    Void,
    WeightedKey,
)
from atpar.ledger.reads import get_account, get_key_owner
from atpar.ledger.records import AccountStatus
from atpar.ledger.transactions import decode_transaction, encode_envelope
from atpar.ledger.types import Direction
from tests.ledger.test_holds import capture, place
from tests.ledger.world import BANKS, HKD, World, make_terms, policy_of, public, transfer

GOV = "CHAIN/governance"


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


def update(account: str = "ALFA/main", **changes: object) -> UpdateAccount:
    op = UpdateAccount(account, AccountChange.UPDATE, None, None, False, None)
    return replace(op, **changes)


def status(world: World, account: str) -> AccountStatus:
    found = get_account(world.view, account)
    assert found is not None
    return found.status


# ---- rotation


def test_the_current_policy_and_each_new_key_sign_a_rotation(world: World) -> None:
    op = update(policy=policy_of(1, ["ALFA-new"]))
    assert world.run(op, sender="ALFA/main") is Code.UNAUTHORISED
    assert world.run(op, sender="ALFA/main", keys=["ALFA-new"]) is Code.UNAUTHORISED
    assert world.run(op, sender="ALFA/main", keys=["ALFA-new", "ALFA-pay"]) is Code.OK
    assert get_key_owner(world.view, public("ALFA-new")) == "ALFA"
    pay = transfer("ALFA/main", "BRVO/main", 1)
    assert world.run(pay) is Code.UNINVOLVED_SIGNATURE
    assert world.run(pay, keys=["ALFA-new"]) is Code.OK


def test_a_key_that_stays_need_not_sign(world: World) -> None:
    grown = policy_of(1, ["ALFA-pay", "ALFA-new"])
    op = update(policy=grown)
    assert world.run(op, sender="ALFA/main", keys=["ALFA-pay", "ALFA-new"]) is Code.OK
    back = update(policy=policy_of(1, ["ALFA-pay"]))
    assert world.run(back, sender="ALFA/main", keys=["ALFA-pay"]) is Code.OK


def test_a_rotation_cannot_take_another_participants_or_a_bad_key(world: World) -> None:
    op = update(policy=policy_of(1, ["BRVO-pay"]))
    assert world.run(op, sender="ALFA/main", keys=["ALFA-pay", "BRVO-pay"]) is Code.KEY_TAKEN
    empty = update(policy=Policy((), 0))
    assert world.run(empty, sender="ALFA/main") is Code.POLICY_INVALID
    small = Policy((WeightedKey((1).to_bytes(32, "little"), 1),), 1)
    tx = world.make(update(policy=small), sender="ALFA/main")
    assert world.apply(tx) is Code.UNAUTHORISED
    pairs = [(s.key, s.signature) for s in tx.signatures]
    forged = [*pairs, ((1).to_bytes(32, "little"), bytes(64))]
    assert world.apply(decode_transaction(encode_envelope(tx.body_bytes, forged))) is (
        Code.KEY_INVALID
    )


def test_a_rotation_keeps_the_rules_of_the_roles_it_plays(world: World) -> None:
    weak = update("JDCL/treasury", policy=policy_of(1, ["JDCL-t1", "JDCL-t2"]))
    assert world.run(weak, sender="JDCL/treasury") is Code.POLICY_WEAK
    shared = update("JDCL/treasury", policy=policy_of(2, ["JDCL-t1", "JDCL-m1"]))
    keys = ["JDCL-t1", "JDCL-t2", "JDCL-m1"]
    assert world.run(shared, sender="JDCL/treasury", keys=keys) is Code.ROLE_CONFLICT
    admin = update("ALFA/admin", policy=policy_of(1, ["ALFA-a1", "ALFA-a2"]))
    assert world.run(admin, sender="ALFA/admin") is Code.POLICY_WEAK
    more = update("JDCL/treasury", policy=policy_of(2, ["JDCL-t1", "JDCL-t2", "JDCL-t3"]))
    keys = ["JDCL-t1", "JDCL-t2", "JDCL-t3"]
    assert world.run(more, sender="JDCL/treasury", keys=keys) is Code.OK


def test_the_receive_policy_can_change_alone(world: World) -> None:
    assert world.run(update("BRVO/main", reference_required=True), sender="BRVO/main") is Code.OK
    pay = transfer("ALFA/main", "BRVO/main", 1)
    assert world.run(pay) is Code.REFERENCE_REQUIRED
    assert world.run(update("BRVO/main", reference_required=False), sender="BRVO/main") is Code.OK
    assert world.run(pay) is Code.OK


def test_governance_has_no_policy_to_change(world: World) -> None:
    op = update(GOV, policy=policy_of(1, ["ALFA-gov"]))
    assert world.run(op, sender=GOV) is Code.UNKNOWN_TARGET


@pytest.mark.parametrize(
    "changes",
    [
        {"regulator": "REGU/admin"},
        {"change": AccountChange.RECOVER, "policy": policy_of(1, ["ALFA-new"])},
        {"change": AccountChange.RECOVER, "regulator": "REGU/admin"},
        {
            "change": AccountChange.RECOVER,
            "regulator": "REGU/admin",
            "policy": policy_of(1, ["ALFA-new"]),
            "close": True,
        },
        {"change": AccountChange.CANCEL, "reference_required": True},
        {"change": AccountChange.CANCEL, "policy": policy_of(1, ["ALFA-new"])},
    ],
)
def test_a_change_says_one_thing(world: World, changes: dict[str, object]) -> None:
    assert world.run(update(**changes), sender="ALFA/main") is Code.VALUE_INVALID  # type: ignore[arg-type]


# ---- closing


def close(world: World, account: str) -> Code:
    return world.run(update(account, close=True), sender=account)


def test_an_empty_account_closes_at_once_and_for_ever(world: World) -> None:
    assert close(world, "ALFA/other") is Code.OK
    assert status(world, "ALFA/other") is AccountStatus.CLOSED
    assert world.run(transfer("ALFA/main", "ALFA/other", 1)) is Code.CREDITOR_REFUSED
    assert close(world, "ALFA/other") is Code.ACCOUNT_CLOSED
    assert world.run(transfer("ALFA/other", "ALFA/main", 1)) is Code.ACCOUNT_CLOSED
    assert world.run(Void(), sender="ALFA/other") is Code.OK


def test_closing_refuses_credits_at_once_and_ends_with_the_last_unit(world: World) -> None:
    assert close(world, "ALFA/main") is Code.OK
    assert status(world, "ALFA/main") is AccountStatus.CLOSING
    assert world.run(world.mint("ALFA/main", 1)) is Code.CREDITOR_REFUSED
    assert world.run(transfer("ALFA/main", "BRVO/main", 999)) is Code.OK
    assert status(world, "ALFA/main") is AccountStatus.CLOSING
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK
    assert status(world, "ALFA/main") is AccountStatus.CLOSED


def test_a_failed_last_payment_does_not_close(world: World) -> None:
    assert close(world, "ALFA/main") is Code.OK
    ops = [transfer("ALFA/main", "BRVO/main", 1_000), transfer("BRVO/main", "ALFA/other", 2_000)]
    assert world.run(*ops, by=["BRVO/main"]) is Code.INSUFFICIENT_FUNDS
    assert status(world, "ALFA/main") is AccountStatus.CLOSING


def test_a_redemption_keeps_an_account_open_until_it_is_burned(world: World) -> None:
    redemption = world.redeem("ALFA/main", 1_000)
    assert close(world, "ALFA/main") is Code.OK
    assert status(world, "ALFA/main") is AccountStatus.CLOSING
    assert world.burn(redemption) is Code.OK
    assert status(world, "ALFA/main") is AccountStatus.CLOSED
    op = Redeem(HKD, "ALFA/main", 1, bytes(32))
    assert world.run(op) is Code.ACCOUNT_CLOSED


def test_a_claim_keeps_an_account_open_until_it_is_gone(world: World) -> None:
    hold = place(world, 10)
    assert close(world, "BRVO/main") is Code.OK
    assert status(world, "BRVO/main") is AccountStatus.CLOSING
    assert capture(world, hold, 10) is Code.CREDITOR_REFUSED
    sale = Assign(hold, "CHRL/main", 10, None, False)
    assert world.run(sale, sender="BRVO/main", by=["CHRL/main"]) is Code.OK
    assert status(world, "BRVO/main") is AccountStatus.CLOSED


def test_a_freeze_keeps_an_account_open_until_it_is_lifted(world: World) -> None:
    for asset, by, lift in (
        (HKD, "JDCL/compliance", "JDCL/release"),
        (None, "REGU/admin", "REGU/admin"),
    ):
        account = "BRVO/other" if asset else "CHRL/other"
        freeze = world.freeze(account, asset, direction=Direction.DEBIT, by=by)
        assert close(world, account) is Code.OK
        assert status(world, account) is AccountStatus.CLOSING
        assert world.unfreeze(freeze, by=lift) is Code.OK
        assert status(world, account) is AccountStatus.CLOSED


def test_a_role_keeps_an_account_open_until_it_is_given_away(world: World) -> None:
    assert close(world, "JDCL/pause") is Code.OK
    assert status(world, "JDCL/pause") is AccountStatus.CLOSING
    for asset in ("CNH.JDCL", HKD):
        op = SetAsset(asset, "JDCL", asset[:3], 2, make_terms(pauser="JDCL/compliance"))
        assert world.run(op, sender="JDCL/admin", by=["REGU/watch"]) is Code.OK
    assert status(world, "JDCL/pause") is AccountStatus.CLOSED
    again = SetAsset(HKD, "JDCL", "HKD", 2, make_terms())
    assert world.run(again, sender="JDCL/admin", by=["REGU/watch"]) is Code.ROLE_MISSING


def test_an_admin_account_keeps_its_role_for_ever(world: World) -> None:
    assert close(world, "ALFA/admin") is Code.OK
    assert status(world, "ALFA/admin") is AccountStatus.CLOSING
    assert world.run(update("ALFA/admin", reference_required=True), sender="ALFA/admin") is Code.OK


# ---- recovery


def recover(
    account: str = "ALFA/main", key: str = "ALFA-new", policy: Policy | None = None
) -> UpdateAccount:
    return update(
        account,
        change=AccountChange.RECOVER,
        policy=policy or policy_of(1, [key]),
        regulator="REGU/admin",
    )


RECOVERERS = ["ALFA-a1", "ALFA-a2", "REGU-a1", "REGU-a2", "ALFA-new"]


def test_a_recovery_takes_effect_after_48_hours(world: World) -> None:
    assert world.run(recover(), sender="ALFA/admin", keys=RECOVERERS) is Code.OK
    effective_ms = world.header.timestamp_ms + RECOVERY_DELAY_MS
    pay = transfer("ALFA/main", "BRVO/main", 1)
    world.now_ms = effective_ms - 1
    assert world.run(pay, keys=["ALFA-new"]) is Code.UNINVOLVED_SIGNATURE
    world.now_ms = effective_ms
    assert world.run(pay, keys=["ALFA-new"]) is Code.OK
    assert world.run(pay) is Code.UNINVOLVED_SIGNATURE
    account = get_account(world.view, "ALFA/main")
    assert account is not None
    assert account.pending is None


def test_a_recovery_takes_admin_regulator_and_the_new_keys(world: World) -> None:
    op = recover()
    for missing in RECOVERERS:
        keys = [key for key in RECOVERERS if key != missing]
        assert world.run(op, sender="ALFA/admin", keys=keys) is Code.UNAUTHORISED
    stranger = replace(op, regulator="BRVO/admin")
    keys = ["ALFA-a1", "ALFA-a2", "BRVO-a1", "BRVO-a2", "ALFA-new"]
    assert world.run(stranger, sender="ALFA/admin", keys=keys) is Code.ROLE_MISSING
    assert world.run(op, sender="ALFA/main", keys=["ALFA-pay", "ALFA-new"]) is Code.UNAUTHORISED


def test_the_current_policy_cancels_a_recovery(world: World) -> None:
    cancel = update(change=AccountChange.CANCEL)
    assert world.run(cancel, sender="ALFA/main") is Code.UNKNOWN_PROPOSAL
    assert world.run(recover(), sender="ALFA/admin", keys=RECOVERERS) is Code.OK
    assert world.run(cancel, sender="ALFA/admin") is Code.UNAUTHORISED
    assert world.run(cancel, sender="ALFA/main") is Code.OK
    world.advance(3 * DAY_MS)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK


def test_a_second_schedule_replaces_the_first_and_starts_anew(world: World) -> None:
    assert world.run(recover(), sender="ALFA/admin", keys=RECOVERERS) is Code.OK
    world.advance(DAY_MS)
    keys = [*RECOVERERS[:-1], "ALFA-newer"]
    assert world.run(recover(key="ALFA-newer"), sender="ALFA/admin", keys=keys) is Code.OK
    effective_ms = world.header.timestamp_ms + RECOVERY_DELAY_MS
    pay = transfer("ALFA/main", "BRVO/main", 1)
    world.now_ms = effective_ms - 1
    assert world.run(pay) is Code.OK
    world.now_ms = effective_ms
    assert world.run(pay, keys=["ALFA-newer"]) is Code.OK


def test_a_recovery_that_breaks_a_role_now_is_refused_at_once(world: World) -> None:
    op = recover("JDCL/treasury", policy=policy_of(1, ["JDCL-t9"]))
    keys = ["JDCL-a1", "JDCL-a2", "REGU-a1", "REGU-a2", "JDCL-t9"]
    assert world.run(op, sender="JDCL/admin", keys=keys) is Code.POLICY_WEAK


def test_governance_and_a_regulator_recover_an_admin_account(world: World) -> None:
    op = recover("ALFA/admin", policy=policy_of(2, ["ALFA-n1", "ALFA-n2"]))
    keys = ["REGU-a1", "REGU-a2", "ALFA-n1", "ALFA-n2"]
    assert world.run(op, sender="ALFA/admin", keys=[*keys, "ALFA-a1", "ALFA-a2"]) is (
        Code.UNAUTHORISED
    )
    governance = [f"{bank}-gov" for bank in BANKS[:3]]
    assert world.run(op, sender=GOV, keys=[*keys, *governance]) is Code.OK
    world.advance(RECOVERY_DELAY_MS + 1)
    rotate = update("ALFA/admin", reference_required=True)
    assert world.run(rotate, sender="ALFA/admin", keys=["ALFA-n1", "ALFA-n2"]) is Code.OK


def test_a_recovery_that_would_break_a_role_by_then_lapses(world: World) -> None:
    """Scheduled while the account had no role; by now it is a minter and needs two keys."""
    strong = update(policy=policy_of(2, ["ALFA-pay", "ALFA-second"]))
    assert world.run(strong, sender="ALFA/main", keys=["ALFA-pay", "ALFA-second"]) is Code.OK
    world.policies["ALFA/main"] = (2, ("ALFA-pay", "ALFA-second"))
    assert world.run(recover(), sender="ALFA/admin", keys=RECOVERERS) is Code.OK
    op = SetAsset(HKD, "JDCL", "HKD", 2, make_terms(minters=("ALFA/main", "JDCL/mint")))
    assert world.run(op, sender="JDCL/admin", by=["REGU/watch"]) is Code.OK
    world.advance(3 * DAY_MS)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK
    account = get_account(world.view, "ALFA/main")
    assert account is not None
    assert account.pending is None
    assert account.policy == policy_of(2, ["ALFA-pay", "ALFA-second"])


def test_a_closed_account_is_not_recovered(world: World) -> None:
    op = recover("ALFA/other")
    assert world.run(op, sender="ALFA/admin", keys=RECOVERERS) is Code.OK
    assert close(world, "ALFA/other") is Code.OK
    world.advance(3 * DAY_MS)
    world.block()
    account = get_account(world.view, "ALFA/other")
    assert account is not None
    assert (account.status, account.pending) == (AccountStatus.CLOSED, None)
    assert world.run(op, sender="ALFA/admin", keys=RECOVERERS) is Code.ACCOUNT_CLOSED
    nobody = recover("ALFA/nobody")
    assert world.run(nobody, sender="ALFA/admin", keys=RECOVERERS) is Code.UNKNOWN_ACCOUNT
