"""Controls: tiers that expire or are revoked, limits by setter and class, to the exact amount."""

import pytest
from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.controls import compute_tier
from atpar.ledger.limits import DAY_MS, HOUR_MS, LIMIT_PERIOD_RANGE_MS
from atpar.ledger.operations import Limit, Redeem, SetControls
from tests.ledger.test_holds import capture, hold_op, place
from tests.ledger.world import HKD, START_MS, World, make_document, make_terms, transfer

SETTERS = ("ALFA/admin", "JDCL/admin", "REGU/watch")


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 10_000)
    return world


def controls(account: str | None = "ALFA/main", **changes: object) -> SetControls:
    op = SetControls(
        by="ALFA/admin",
        asset=HKD,
        account=account,
        tier_class=None,
        tier=None,
        tier_expires_at_ms=None,
        limit=None,
    )
    return replace(op, **changes)


def state(world: World, op: SetControls) -> Code:
    return world.run(op, sender=op.by)


def limit(world: World, amount: int, period_ms: int = DAY_MS, **changes: object) -> None:
    op = controls(limit=Limit(amount, period_ms), **changes)
    assert state(world, op) is Code.OK


# ---- limits


def test_a_limit_is_used_to_the_exact_amount(world: World) -> None:
    limit(world, 100)
    assert world.run(transfer("ALFA/main", "BRVO/main", 101)) is Code.LIMIT_EXCEEDED
    assert world.run(transfer("ALFA/main", "BRVO/main", 60)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 41)) is Code.LIMIT_EXCEEDED
    assert world.run(transfer("ALFA/main", "BRVO/main", 40)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED


def test_a_failed_payment_uses_nothing_of_a_limit(world: World) -> None:
    limit(world, 20_000)
    assert world.run(transfer("ALFA/main", "BRVO/main", 15_000)) is Code.INSUFFICIENT_FUNDS
    ops = [transfer("ALFA/main", "BRVO/main", n) for n in (6_000, 6_000)]
    assert world.run(*ops) is Code.INSUFFICIENT_FUNDS
    limit(world, 10_000)
    assert world.run(transfer("ALFA/main", "BRVO/main", 10_000)) is Code.OK


def test_limits_count_within_one_transaction(world: World) -> None:
    limit(world, 100)
    ops = [transfer("ALFA/main", "BRVO/main", n) for n in (60, 41)]
    assert world.run(*ops) is Code.LIMIT_EXCEEDED
    assert world.executed[-1].receipts[0].failed_op == 1


def test_a_day_is_a_day_of_the_assets_calendar(world: World) -> None:
    """Midnight in Hong Kong is 16:00 UTC."""
    limit(world, 100)
    midnight_ms = START_MS + 16 * HOUR_MS
    world.now_ms = midnight_ms - 2
    assert world.run(transfer("ALFA/main", "BRVO/main", 100)) is Code.OK
    world.now_ms = midnight_ms - 1
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED
    world.now_ms = midnight_ms
    assert world.run(transfer("ALFA/main", "BRVO/main", 100)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED


def test_the_tightest_of_several_setters_limits_applies(world: World) -> None:
    for by, amount in zip(SETTERS, (300, 200, 100), strict=True):
        limit(world, amount, by=by)
    assert world.run(transfer("ALFA/main", "BRVO/main", 101)) is Code.LIMIT_EXCEEDED
    assert world.run(transfer("ALFA/main", "BRVO/main", 100)) is Code.OK
    assert state(world, controls(by="REGU/watch")) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 101)) is Code.LIMIT_EXCEEDED
    assert world.run(transfer("ALFA/main", "BRVO/main", 100)) is Code.OK
    assert state(world, controls(by="JDCL/admin")) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 100)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED


def test_a_setter_cannot_loosen_what_another_set(world: World) -> None:
    limit(world, 100, by="REGU/watch")
    limit(world, 10_000, by="ALFA/admin")
    assert state(world, controls(by="ALFA/admin")) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 101)) is Code.LIMIT_EXCEEDED


def test_zero_is_a_limit(world: World) -> None:
    limit(world, 0)
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED


def test_a_new_hold_counts_once_and_its_capture_does_not(world: World) -> None:
    limit(world, 100)
    hold = place(world, 60)
    assert world.run(hold_op(world, 41), sender="ALFA/main") is Code.LIMIT_EXCEEDED
    assert capture(world, hold, 60) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 40)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED


def test_redeeming_and_being_paid_use_nothing(world: World) -> None:
    limit(world, 10)
    assert world.run(Redeem(HKD, "ALFA/main", 5_000, bytes(32))) is Code.OK
    world.fund("BRVO/main", 100)
    assert world.run(transfer("BRVO/main", "ALFA/main", 100)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 10)) is Code.OK


def test_a_class_limit_is_counted_by_account(world: World) -> None:
    for account in ("ALFA/main", "ALFA/other"):
        assert state(world, controls(account, tier=1)) is Code.OK
    cap = controls(None, tier_class=1, by="JDCL/admin", limit=Limit(100, DAY_MS))
    assert state(world, cap) is Code.OK
    assert world.run(transfer("ALFA/main", "ALFA/other", 100)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED
    assert world.run(transfer("ALFA/other", "BRVO/main", 100)) is Code.OK
    assert state(world, controls(tier=2)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 500)) is Code.OK


def test_a_class_of_tier_zero_is_everyone_unknown(world: World) -> None:
    cap = controls(None, tier_class=0, by="REGU/watch", limit=Limit(10, DAY_MS))
    assert state(world, cap) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 11)) is Code.LIMIT_EXCEEDED


def test_another_period_starts_counting_anew(world: World) -> None:
    limit(world, 100)
    assert world.run(transfer("ALFA/main", "BRVO/main", 100)) is Code.OK
    limit(world, 100, HOUR_MS)
    assert world.run(transfer("ALFA/main", "BRVO/main", 100)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.LIMIT_EXCEEDED


# ---- who may state what


def test_controls_come_from_participant_issuer_and_regulator(world: World) -> None:
    for by in SETTERS:
        assert state(world, controls(by=by, tier=1)) is Code.OK
    for by in ("BRVO/admin", "ALFA/main", "CUST/reserve", "REGU/admin"):
        assert state(world, controls(by=by, tier=1)) is Code.ROLE_MISSING
    cap = controls(None, tier_class=1, limit=Limit(1, DAY_MS))
    assert state(world, cap) is Code.ROLE_MISSING
    assert world.run(controls(), sender="JDCL/admin") is Code.UNAUTHORISED


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"account": "ALFA/nobody"}, Code.UNKNOWN_TARGET),
        ({"asset": "EUR.JDCL"}, Code.UNKNOWN_ASSET),
        ({"tier_class": 1}, Code.VALUE_INVALID),
        ({"account": None}, Code.VALUE_INVALID),
        ({"account": None, "tier_class": 1, "tier": 1}, Code.VALUE_INVALID),
        ({"tier_expires_at_ms": 5}, Code.VALUE_INVALID),
        ({"limit": Limit(-1, DAY_MS)}, Code.AMOUNT_RANGE),
        ({"limit": Limit(10**18, DAY_MS)}, Code.AMOUNT_RANGE),
        ({"limit": Limit(1, LIMIT_PERIOD_RANGE_MS[0] - 1)}, Code.VALUE_INVALID),
        ({"limit": Limit(1, LIMIT_PERIOD_RANGE_MS[0])}, Code.OK),
        ({"limit": Limit(1, LIMIT_PERIOD_RANGE_MS[1])}, Code.OK),
        ({"limit": Limit(1, LIMIT_PERIOD_RANGE_MS[1] + 1)}, Code.VALUE_INVALID),
    ],
)
def test_controls_name_one_target_and_possible_values(
    world: World, changes: dict[str, object], code: Code
) -> None:
    assert state(world, controls(**changes)) is code  # type: ignore[arg-type]


# ---- tiers


@pytest.fixture
def tiered() -> World:
    return World(make_document(terms=make_terms(min_kyc_tier=2)))


def test_an_asset_with_a_tier_asks_it_of_payer_and_payee(tiered: World) -> None:
    world = tiered
    assert world.attest(1_000) is Code.OK
    assert world.run(world.mint("ALFA/main", 100)) is Code.CREDITOR_REFUSED
    assert state(world, controls(tier=2)) is Code.OK
    assert world.run(world.mint("ALFA/main", 100)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.CREDITOR_REFUSED
    assert state(world, controls("BRVO/main", by="BRVO/admin", tier=3)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.OK
    assert state(world, controls(tier=1)) is Code.OK
    assert world.run(transfer("ALFA/main", "BRVO/main", 1)) is Code.NOT_ELIGIBLE
    assert world.run(Redeem(HKD, "ALFA/main", 1, bytes(32))) is Code.OK


def test_a_revoked_tier_stays_revoked_whatever_others_state(tiered: World) -> None:
    world = tiered
    assert state(world, controls(tier=5)) is Code.OK
    revoked = controls(by="JDCL/admin", tier=0, tier_expires_at_ms=1)
    assert state(world, revoked) is Code.OK
    assert state(world, controls(tier=9)) is Code.OK
    assert compute_tier(world.view, HKD, "ALFA/main", world.now_ms) == 0
    assert state(world, controls(by="JDCL/admin")) is Code.OK
    assert compute_tier(world.view, HKD, "ALFA/main", world.now_ms) == 9


def test_a_tier_ends_at_its_expiry(tiered: World) -> None:
    world = tiered
    expires_at_ms = world.now_ms + 1_000
    assert state(world, controls(tier=3, tier_expires_at_ms=expires_at_ms)) is Code.OK
    assert compute_tier(world.view, HKD, "ALFA/main", expires_at_ms - 1) == 3
    assert compute_tier(world.view, HKD, "ALFA/main", expires_at_ms) == 0
    assert state(world, controls(by="REGU/watch", tier=2)) is Code.OK
    assert compute_tier(world.view, HKD, "ALFA/main", expires_at_ms - 1) == 2
    assert compute_tier(world.view, HKD, "ALFA/main", expires_at_ms) == 2


def test_a_claim_is_captured_only_while_both_sides_are_eligible(tiered: World) -> None:
    world = tiered
    assert world.attest(1_000) is Code.OK
    for account in ("ALFA/main", "BRVO/main"):
        assert state(world, controls(account, by="JDCL/admin", tier=2)) is Code.OK
    assert world.run(world.mint("ALFA/main", 100)) is Code.OK
    hold = place(world, 50)
    assert state(world, controls("BRVO/main", by="REGU/watch", tier=0)) is Code.OK
    assert capture(world, hold, 1) is Code.CREDITOR_REFUSED
    assert state(world, controls("BRVO/main", by="REGU/watch")) is Code.OK
    assert state(world, controls(by="REGU/watch", tier=0)) is Code.OK
    assert capture(world, hold, 1) is Code.NOT_ELIGIBLE
    assert state(world, controls(by="REGU/watch")) is Code.OK
    assert capture(world, hold, 1) is Code.OK
