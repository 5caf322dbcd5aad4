"""Reads answer what the state holds, at the time they are asked about."""

import pytest

from atpar.ledger import reads
from atpar.ledger.codes import Code
from atpar.ledger.limits import DAY_MS
from atpar.ledger.operations import Limit, Propose, SetControls, SetParams
from atpar.ledger.records import HoldKind, Setter
from atpar.ledger.types import Role
from tests.ledger.test_holds import place
from tests.ledger.world import BANKS, CNH, HKD, ROLES, World


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


def test_participants_and_accounts(world: World) -> None:
    view = world.view
    assert [code for code, _ in reads.list_participants(view)] == sorted(ROLES)
    alfa = reads.get_participant(view, "ALFA")
    assert alfa is not None
    assert alfa.roles == (Role.BANK,)
    assert reads.get_participant(view, "ZULU") is None
    assert reads.get_account(view, "ALFA/nobody") is None
    assert len(list(reads.list_accounts(view, "ALFA"))) == 3
    assert not list(reads.list_accounts(view, "ALF"))
    assert reads.get_key_owner(view, bytes(32)) is None


def test_balances_of_an_account(world: World) -> None:
    world.fund("ALFA/main", 7, CNH)
    found = {code: balance.posted for code, balance in reads.list_balances(world.view, "ALFA/main")}
    assert found == {HKD: 1_000, CNH: 7}
    assert not list(reads.list_balances(world.view, "BRVO/main"))
    assert reads.get_balance(world.view, HKD, "BRVO/main").available == 0


def test_assets_and_what_stands_behind_them(world: World) -> None:
    view = world.view
    assert [code for code, _ in reads.list_assets(view)] == [CNH, HKD]
    assert reads.compute_coverage(view, "EUR.JDCL", now_ms=world.now_ms) is None
    fresh = reads.compute_coverage(view, HKD, now_ms=world.now_ms)
    assert fresh is not None
    assert (fresh.supply, fresh.backing, fresh.ratio_bps) == (1_000, 1_000, 10_000)
    assert not fresh.underbacked
    assert not fresh.stale
    assert fresh.overdue == 0
    never = reads.compute_coverage(view, CNH, now_ms=world.now_ms)
    assert never is not None
    assert never.stale
    assert (never.ratio_bps, never.attestation_age_ms, never.audit_age_ms) == (None, None, None)
    old = reads.compute_coverage(view, HKD, now_ms=world.now_ms + 2 * DAY_MS)
    assert old is not None
    assert old.stale
    world.now_ms += 40 * DAY_MS
    assert world.run(world.attestation(1_000)) is Code.OK
    unaudited = reads.compute_coverage(world.view, HKD, now_ms=world.now_ms)
    assert unaudited is not None
    assert unaudited.stale


def test_overdue_redemptions_are_counted(world: World) -> None:
    first = world.redeem("ALFA/main", 1)
    world.advance(DAY_MS)
    world.redeem("ALFA/main", 1)
    hold = reads.get_hold(world.view, first)
    assert hold is not None
    assert hold.redemption is not None
    due_ms = hold.redemption.due_ms
    for now_ms, overdue in ((due_ms, 0), (due_ms + 1, 1), (due_ms + 9 * DAY_MS, 2)):
        coverage = reads.compute_coverage(world.view, HKD, now_ms=now_ms)
        assert coverage is not None
        assert coverage.overdue == overdue
    assert len(list(reads.list_open_holds(world.view, HKD, "ALFA/main", HoldKind.REDEMPTION))) == 2


def test_holds_claims_controls_proposals_and_parameters_to_come(world: World) -> None:
    hold = place(world, 5)
    redemption = world.redeem("ALFA/main", 5)
    view = world.view
    placed, asked = reads.get_hold(view, hold), reads.get_hold(view, redemption)
    assert placed is not None
    assert asked is not None
    assert placed.payment is not None
    expiry_ms = reads.compute_hold_expiry(view, placed, now_ms=world.now_ms)
    assert expiry_ms == placed.payment.expires_at_ms
    assert reads.compute_hold_expiry(view, asked, now_ms=world.now_ms) is None
    assert list(reads.list_claims(view, "BRVO/main")) == [(hold, placed)]
    control = SetControls("JDCL/admin", HKD, "ALFA/main", None, 2, None, Limit(10, DAY_MS))
    assert world.run(control, sender="JDCL/admin") is Code.OK
    stated = dict(reads.list_controls(view, HKD, "ALFA/main"))
    assert stated[Setter.ISSUER].tier == 2
    assert reads.get_tier(view, HKD, "ALFA/main", now_ms=world.now_ms) == 2
    op = Propose((world.mint("ALFA/main", 1),), world.now_ms + DAY_MS)
    assert world.run(op, sender="JDCL/mint", keys=["JDCL-m1"]) is Code.OK
    ((proposal_id, proposal),) = reads.list_proposals(view)
    assert reads.get_proposal(view, proposal_id) == proposal
    assert world.run(SetParams("delta_ms", 300, 999), sender="CHAIN/governance") is Code.OK
    assert list(reads.list_pending_params(view)) == [(999, "delta_ms", 300)]


def test_unknown_things_are_none(world: World) -> None:
    view = world.view
    assert reads.get_hold(view, bytes(32)) is None
    assert reads.get_freeze(view, bytes(32)) is None
    assert reads.get_asset(view, "EUR.JDCL") is None
    assert reads.get_supply(view, "EUR.JDCL") is None
    assert reads.get_reserve(view, "EUR.JDCL") is None
    assert reads.get_tx_record(view, "ALFA/main", bytes(16)) is None
    assert reads.get_quota_level(view, HKD, "ALFA/main", now_ms=0) == 0
    assert len(BANKS) == 4
