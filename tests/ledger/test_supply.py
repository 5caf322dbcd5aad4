"""Attestation, mint and quota: what is minted is backed, fresh, within quota and cap."""

import pytest
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.codes import Code
from atpar.ledger.context import compute_entry_id
from atpar.ledger.hashing import HashTag
from atpar.ledger.invariants import check_invariants
from atpar.ledger.limits import DAY_MS, MAX_AMOUNT, MAX_UNAUDITED_ATTESTATIONS
from atpar.ledger.operations import Burn, Mint, Redeem, SetMintQuota
from atpar.ledger.reads import compute_coverage, get_quota_level
from atpar.ledger.records import Quota, number_key, pair_key
from atpar.ledger.supply import compute_level
from atpar.ledger.types import Direction, ParticipantStatus, Role
from tests.ledger.test_payments import suspend
from tests.ledger.world import CNH, HKD, World, make_document, make_terms, transfer


@pytest.fixture
def world() -> World:
    return World()


# ---- the reserve gate


def test_nothing_is_minted_before_the_first_attestation(world: World) -> None:
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_STALE


def test_nothing_is_minted_before_the_auditor_countersigned(world: World) -> None:
    assert world.run(world.attestation(1_000)) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_STALE
    assert world.run(world.countersignature()) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK


def test_the_whole_reserve_can_be_minted_and_not_a_unit_more(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    assert world.run(world.mint("ALFA/main", 1_001)) is Code.RESERVE_SHORT
    assert world.run(world.mint("ALFA/main", 1_000)) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_SHORT


def test_the_gate_counts_the_supply_after_the_mint(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    assert world.run(world.mint("ALFA/main", 600)) is Code.OK
    assert world.run(world.mint("ALFA/main", 401)) is Code.RESERVE_SHORT
    assert world.run(world.mint("ALFA/main", 400)) is Code.OK


def test_several_mints_in_one_transaction_are_gated_one_by_one(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    assert (
        world.run(world.mint("ALFA/main", 600), world.mint("BRVO/main", 401)) is Code.RESERVE_SHORT
    )
    assert world.supply() == 0


def test_overcollateral_is_exact_to_the_unit() -> None:
    world = World(make_document(terms=make_terms(overcollateral_bps=1)))
    assert world.attest(10_001) is Code.OK
    assert world.run(world.mint("ALFA/main", 10_001)) is Code.RESERVE_SHORT
    assert world.run(world.mint("ALFA/main", 10_000)) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_SHORT


def test_overcollateral_does_not_round_in_the_issuers_favour() -> None:
    world = World(make_document(terms=make_terms(overcollateral_bps=1)))
    assert world.attest(10_000) is Code.OK
    assert world.run(world.mint("ALFA/main", 10_000)) is Code.RESERVE_SHORT
    assert world.run(world.mint("ALFA/main", 9_999)) is Code.OK


def test_each_asset_has_its_own_reserve(world: World) -> None:
    assert world.attest(1_000, CNH) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_STALE
    assert world.run(world.mint("ALFA/main", 1_000, CNH)) is Code.OK


def test_a_shortfall_stops_minting_and_never_redeeming(world: World) -> None:
    world.fund("ALFA/main", 1_000)
    assert world.attest(999) is Code.OK
    coverage = compute_coverage(world.view, HKD, now_ms=world.now_ms)
    assert coverage is not None
    assert coverage.underbacked
    assert coverage.ratio_bps == 9_990
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_SHORT
    redemption = world.redeem("ALFA/main", 500)
    assert world.burn(redemption) is Code.OK


# ---- age of attestation and audit


def test_an_attestation_is_fresh_to_the_last_millisecond_of_its_age(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    reserve = world.view.get(records.RESERVES, HKD.encode())
    assert reserve is not None
    world.now_ms = reserve.as_of_ms + DAY_MS
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK
    world.now_ms = reserve.as_of_ms + DAY_MS + 1
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_STALE


def test_age_counts_from_as_of_not_from_the_attestations_block(world: World) -> None:
    world.advance(DAY_MS)
    as_of_ms = world.now_ms - DAY_MS + 10
    assert world.run(world.attestation(1_000, as_of_ms=as_of_ms)) is Code.OK
    assert world.run(world.countersignature()) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK
    world.advance(20)
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_STALE


def test_the_audit_has_an_age_of_its_own(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    audited = world.view.get(records.RESERVES, HKD.encode())
    assert audited is not None
    world.now_ms = audited.audited_as_of_ms + 30 * DAY_MS - 5
    assert world.run(world.attestation(1_000)) is Code.OK
    world.now_ms = audited.audited_as_of_ms + 30 * DAY_MS
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_STALE
    assert world.run(world.countersignature()) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK


# ---- attesting


def test_only_the_custodian_attests_and_only_the_auditor_countersigns(world: World) -> None:
    op = world.attestation(1_000)
    assert world.run(op, sender="JDCL/treasury") is Code.UNAUTHORISED
    assert world.run(op, sender="AUDT/sign") is Code.UNAUTHORISED
    assert world.run(op) is Code.OK
    assert world.run(world.countersignature(), sender="CUST/reserve") is Code.UNAUTHORISED
    assert world.run(replace(op, by=Role.REGULATOR, sequence=2)) is Code.VALUE_INVALID


def test_sequences_follow_one_another_without_a_gap(world: World) -> None:
    assert world.run(world.attestation(5, sequence=0)) is Code.ATTESTATION_SEQUENCE
    assert world.run(world.attestation(5, sequence=2)) is Code.ATTESTATION_SEQUENCE
    assert world.run(world.attestation(5, sequence=1)) is Code.OK
    assert world.run(world.attestation(5, sequence=1)) is Code.ATTESTATION_SEQUENCE
    assert world.run(world.attestation(5, sequence=2)) is Code.OK


def test_as_of_never_goes_back_and_never_ahead_of_the_block(world: World) -> None:
    world.advance(1_000)
    first = world.now_ms - 10
    assert world.run(world.attestation(5, as_of_ms=first)) is Code.OK
    assert world.run(world.attestation(5, as_of_ms=first - 1)) is Code.ATTESTATION_OLD
    world.advance(10)
    assert world.run(world.attestation(5, as_of_ms=world.now_ms + 1)) is Code.ATTESTATION_OLD
    assert world.run(world.attestation(5, as_of_ms=first)) is Code.OK
    world.advance(10)
    assert world.run(world.attestation(5, as_of_ms=world.now_ms)) is Code.OK


def test_zero_is_a_statement_and_a_negative_reserve_is_none(world: World) -> None:
    assert world.run(world.attestation(0)) is Code.OK
    assert world.run(world.attestation(-1)) is Code.AMOUNT_RANGE
    assert world.run(world.attestation(MAX_AMOUNT)) is Code.OK
    assert world.run(world.attestation(MAX_AMOUNT + 1)) is Code.AMOUNT_RANGE


def test_the_auditor_signs_what_the_custodian_stated_or_nothing(world: World) -> None:
    assert world.run(world.countersignature()) is Code.ATTESTATION_SEQUENCE
    assert world.run(world.attestation(1_000)) is Code.OK
    op = world.countersignature()
    for change in (
        {"amount": 999},
        {"as_of_ms": op.as_of_ms - 1},
        {"report_hash": bytes(32)},
        {"paid_not_burned": (bytes(32),)},
    ):
        assert world.run(replace(op, **change)) is Code.ATTESTATION_MISMATCH
    assert world.run(replace(op, sequence=2)) is Code.ATTESTATION_SEQUENCE
    assert world.run(op) is Code.OK
    assert world.run(op) is Code.ATTESTATION_SEQUENCE


def test_the_auditor_may_countersign_an_older_sequence_on_its_own_cycle(world: World) -> None:
    assert world.run(world.attestation(1_000)) is Code.OK
    first = world.countersignature()
    assert world.run(world.attestation(1_100)) is Code.OK
    second = world.countersignature()
    assert world.run(world.attestation(1_200)) is Code.OK
    assert world.run(second) is Code.OK
    assert world.run(first) is Code.ATTESTATION_SEQUENCE
    reserve = world.view.get(records.RESERVES, HKD.encode())
    assert reserve is not None
    assert (reserve.sequence, reserve.audited_sequence) == (3, 2)
    assert reserve.audited_as_of_ms == second.as_of_ms


def test_very_old_sequences_can_no_longer_be_countersigned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atpar.ledger.supply.MAX_UNAUDITED_ATTESTATIONS", 2)
    assert MAX_UNAUDITED_ATTESTATIONS > 2
    stated = []
    for amount in (1, 2, 3):
        assert world.run(world.attestation(amount)) is Code.OK
        stated.append(world.countersignature())
    assert world.view.get(records.ATTESTATIONS, HKD.encode() + b"|" + number_key(1)) is None
    assert world.run(stated[0]) is Code.ATTESTATION_SEQUENCE
    assert world.run(stated[1]) is Code.OK


def test_an_unknown_asset_has_nobody_to_attest_it(world: World) -> None:
    op = replace(world.attestation(1), asset="EUR.JDCL")
    assert world.run(op, sender="CUST/reserve") is Code.UNKNOWN_ASSET
    assert world.run(op, sender="ALFA/main", by=["CUST/reserve"]) is Code.UNKNOWN_ASSET


# ---- R between as_of and the next attestation


def test_a_burn_after_as_of_lowers_what_backs_the_next_mint(world: World) -> None:
    world.fund("ALFA/main", 1_000)
    redemption = world.redeem("ALFA/main", 400)
    assert world.burn(redemption) is Code.OK
    assert world.backing_of() == 600
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_SHORT


def test_a_listed_pending_redemption_keeps_supply_backed(world: World) -> None:
    """The payout left the reserve, the coins are still supply: attested 600 backs 1,000."""
    world.fund("ALFA/main", 1_000)
    redemption = world.redeem("ALFA/main", 400)
    world.advance(10)
    assert world.attest(600, paid=[redemption]) is Code.OK
    assert world.backing_of() == 1_000
    assert world.burn(redemption) is Code.OK
    assert world.backing_of() == 600
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_SHORT


def test_burns_between_as_of_and_the_attestations_block_count(world: World) -> None:
    """Burns count from `as_of`, also those before the attestation's own block."""
    world.fund("ALFA/main", 1_000)
    redemption = world.redeem("ALFA/main", 400)
    world.advance(1_000)
    as_of_ms = world.now_ms
    world.advance(1_000)
    assert world.burn(redemption) is Code.OK
    world.advance(1_000)
    assert world.run(world.attestation(1_000, as_of_ms=as_of_ms)) is Code.OK
    assert world.backing_of() == 600
    assert world.run(world.countersignature()) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.RESERVE_SHORT


def test_a_burn_at_the_very_time_of_an_attestation_is_covered_by_it(world: World) -> None:
    """Only burns after as_of lower R; one block has one time."""
    world.fund("ALFA/main", 1_000)
    first, second = world.redeem("ALFA/main", 100), world.redeem("ALFA/main", 200)
    world.now_ms = world.header.timestamp_ms + 10
    attest = world.make(world.attestation(800, paid=[second]), sender="CUST/reserve")
    burns = [
        world.make(
            Burn(redemption, world.next_id(), world.now_ms),
            sender="JDCL/treasury",
            by=["CUST/reserve"],
        )
        for redemption in (first, second)
    ]
    assert world.block(attest, *burns) == [Code.OK] * 3
    assert world.backing_of() == 800
    assert check_invariants(world.view) == []


def test_a_burned_redemption_may_be_listed_if_burned_after_as_of(world: World) -> None:
    world.fund("ALFA/main", 1_000)
    redemption = world.redeem("ALFA/main", 400)
    world.advance(1_000)
    as_of_ms = world.now_ms
    world.advance(1_000)
    assert world.burn(redemption) is Code.OK
    listed = world.attestation(600, as_of_ms=as_of_ms, paid=[redemption])
    assert world.run(listed) is Code.OK
    assert world.backing_of() == 600


def test_a_redemption_burned_by_as_of_cannot_be_listed(world: World) -> None:
    world.fund("ALFA/main", 1_000)
    redemption = world.redeem("ALFA/main", 400)
    assert world.burn(redemption) is Code.OK
    burned_at_ms = world.header.timestamp_ms
    world.advance(1_000)
    at_burn = world.attestation(600, paid=[redemption], as_of_ms=burned_at_ms)
    assert world.run(at_burn) is Code.REDEMPTION_LISTED
    assert world.run(replace(at_burn, as_of_ms=burned_at_ms - 1)) is Code.OK


def test_a_redemption_can_be_listed_once_and_only_if_it_qualifies(world: World) -> None:
    world.fund("ALFA/main", 1_000)
    world.fund("ALFA/main", 1_000, CNH)
    other = world.redeem("ALFA/main", 10, CNH)
    redemption = world.redeem("ALFA/main", 10)
    placed_at_ms = world.header.timestamp_ms
    world.advance(1_000)
    twice = replace(world.attestation(990), paid_not_burned=(redemption, redemption))
    assert world.run(twice) is Code.VALUE_INVALID
    unsorted = replace(twice, paid_not_burned=tuple(sorted((redemption, other), reverse=True)))
    assert world.run(unsorted) is Code.VALUE_INVALID
    assert world.run(world.attestation(1, paid=[other])) is Code.REDEMPTION_LISTED
    assert world.run(world.attestation(1, paid=[bytes(32)])) is Code.UNKNOWN_HOLD
    early = world.attestation(990, paid=[redemption], as_of_ms=placed_at_ms - 1)
    assert world.run(early) is Code.REDEMPTION_LISTED
    assert world.run(replace(early, as_of_ms=placed_at_ms)) is Code.OK
    assert world.release(redemption, also=["CUST/reserve"]) is Code.OK
    assert world.run(world.attestation(1, paid=[redemption])) is Code.REDEMPTION_LISTED


def test_releasing_a_listed_redemption_lowers_the_backing(world: World) -> None:
    """The list counted coins as paid for that are money again: R falls until attested anew."""
    world.fund("ALFA/main", 1_000)
    redemption = world.redeem("ALFA/main", 400)
    assert world.attest(600, paid=[redemption]) is Code.OK
    assert world.release(redemption) is Code.UNAUTHORISED
    assert world.release(redemption, also=["CUST/reserve"]) is Code.OK
    assert world.backing_of() == 600
    assert world.attest(1_000) is Code.OK
    assert world.backing_of() == 1_000


# ---- cap, funding, quota


def test_the_cap_is_exact() -> None:
    world = World(make_document(terms=make_terms(cap=500)))
    assert world.attest(1_000) is Code.OK
    assert world.run(world.mint("ALFA/main", 501)) is Code.CAP_EXCEEDED
    assert world.run(world.mint("ALFA/main", 500)) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.CAP_EXCEEDED


def test_a_funding_reference_mints_once_per_asset_for_ever(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    assert world.attest(1_000, CNH) is Code.OK
    mint = world.mint("ALFA/main", 10)
    assert world.run(mint) is Code.OK
    assert world.run(replace(mint, amount=20, creditor="BRVO/main")) is Code.FUNDING_REUSED
    assert world.run(replace(mint, asset=CNH)) is Code.OK
    other = world.mint("ALFA/main", 10)
    assert world.run(other, other) is Code.FUNDING_REUSED


def test_a_failed_mint_does_not_use_up_its_funding_reference(world: World) -> None:
    assert world.attest(10) is Code.OK
    mint = world.mint("ALFA/main", 11)
    assert world.run(mint) is Code.RESERVE_SHORT
    assert world.run(replace(mint, amount=10)) is Code.OK


def test_mint_needs_two_keys_and_the_minters_role(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    mint = world.mint("ALFA/main", 10)
    assert world.run(mint, keys=["JDCL-m1"]) is Code.UNAUTHORISED
    assert world.run(replace(mint, minter="ALFA/main")) is Code.ROLE_MISSING
    assert world.run(mint) is Code.OK


def test_a_quota_is_used_up_to_the_last_unit(world: World) -> None:
    assert world.attest(10**14) is Code.OK
    quota = SetMintQuota(HKD, "JDCL/mint", 1_000, 0)
    assert world.run(quota, sender="JDCL/treasury") is Code.OK
    assert world.run(world.mint("ALFA/main", 1_001)) is Code.QUOTA_EXCEEDED
    assert world.run(world.mint("ALFA/main", 999)) is Code.OK
    assert world.run(world.mint("ALFA/main", 2)) is Code.QUOTA_EXCEEDED
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.QUOTA_EXCEEDED


def test_a_quota_refills_at_the_exact_millisecond(world: World) -> None:
    assert world.attest(10**14) is Code.OK
    for capacity in (0, 10):
        op = SetMintQuota(HKD, "JDCL/mint", capacity, 1)
        assert world.run(op, sender="JDCL/treasury") is Code.OK
    refilled_ms = world.header.timestamp_ms + DAY_MS
    assert get_quota_level(world.view, HKD, "JDCL/mint", now_ms=refilled_ms - 1) == 0
    assert get_quota_level(world.view, HKD, "JDCL/mint", now_ms=refilled_ms) == 1
    world.now_ms = refilled_ms - 2
    assert world.attest(10**14) is Code.OK
    world.now_ms = refilled_ms - 1
    mint = world.mint("ALFA/main", 1)
    tx = world.make(mint, sender="JDCL/mint")
    world.now_ms = refilled_ms
    assert world.apply(tx) is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.QUOTA_EXCEEDED


def test_refill_keeps_every_fraction_however_often_it_is_read() -> None:
    """A thousand odd steps give what one step gives."""
    quota = Quota(10**12, 86_399_999, 0, 0, 0)
    stepped = quota
    now_ms = 0
    for step in range(1, 1_001):
        now_ms += step % 97 + 1
        units, remainder = compute_level(stepped, now_ms)
        stepped = replace(stepped, units=units, remainder=remainder, updated_ms=now_ms)
    assert (stepped.units, stepped.remainder) == compute_level(quota, now_ms)
    assert stepped.units == 86_399_999 * now_ms // DAY_MS


def test_a_full_quota_keeps_no_fraction() -> None:
    quota = Quota(100, 1, 99, DAY_MS - 1, 0)
    assert compute_level(quota, 1) == (100, 0)
    assert compute_level(quota, 0) == (99, DAY_MS - 1)
    assert compute_level(quota, -5) == (99, DAY_MS - 1)


def test_setting_a_quota_never_raises_what_may_be_minted_now(world: World) -> None:
    assert world.attest(10**14) is Code.OK
    for capacity, refill, level in ((1_000, 0, 1_000), (10**6, 0, 1_000), (10, 0, 10), (50, 0, 10)):
        op = SetMintQuota(HKD, "JDCL/mint", capacity, refill)
        assert world.run(op, sender="JDCL/treasury") is Code.OK
        assert get_quota_level(world.view, HKD, "JDCL/mint", now_ms=world.now_ms) == level


def test_a_new_minters_quota_starts_empty() -> None:
    world = World(make_document(terms=make_terms(minters=("BRVO/admin", "JDCL/mint"))))
    assert world.attest(1_000) is Code.OK
    mint = replace(world.mint("BRVO/main", 1), minter="BRVO/admin")
    assert world.run(mint) is Code.QUOTA_EXCEEDED
    op = SetMintQuota(HKD, "BRVO/admin", 100, DAY_MS)
    assert world.run(op, sender="JDCL/treasury") is Code.OK
    assert world.view.get(records.QUOTAS, pair_key(HKD, "BRVO/admin")).units == 0  # type: ignore[union-attr]
    world.advance(1)
    assert world.run(mint) is Code.OK


def test_a_quota_is_the_treasurys_to_set_and_for_minters_only(world: World) -> None:
    op = SetMintQuota(HKD, "JDCL/mint", 5, 5)
    assert world.run(op, sender="JDCL/mint") is Code.UNAUTHORISED
    assert world.run(replace(op, minter="ALFA/main"), sender="JDCL/treasury") is Code.ROLE_MISSING
    assert world.run(replace(op, capacity=-1), sender="JDCL/treasury") is Code.AMOUNT_RANGE
    over = replace(op, refill_per_day=MAX_AMOUNT + 1)
    assert world.run(over, sender="JDCL/treasury") is Code.AMOUNT_RANGE
    unknown = replace(op, asset="EUR.JDCL")
    assert world.run(unknown, sender="JDCL/treasury") is Code.UNKNOWN_ASSET
    assert world.run(op, sender="JDCL/treasury") is Code.OK


# ---- who may not


def test_a_suspended_issuer_neither_mints_nor_sets_quotas(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    suspend(world, "JDCL")
    assert world.run(world.mint("ALFA/main", 1)) is Code.PARTICIPANT_SUSPENDED
    op = SetMintQuota(HKD, "JDCL/mint", 5, 5)
    assert world.run(op, sender="JDCL/treasury") is Code.PARTICIPANT_SUSPENDED
    suspend(world, "JDCL", ParticipantStatus.ACTIVE)
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK


def test_a_suspended_custodian_still_attests_and_burns(world: World) -> None:
    world.fund("ALFA/main", 100)
    redemption = world.redeem("ALFA/main", 40)
    suspend(world, "CUST")
    assert world.attest(100) is Code.OK
    assert world.burn(redemption) is Code.OK


def test_nothing_is_minted_to_who_cannot_be_credited(world: World) -> None:
    assert world.attest(1_000) is Code.OK
    assert world.run(world.mint("ALFA/nobody", 1)) is Code.UNKNOWN_CREDITOR
    freeze = world.freeze("ALFA/main", direction=Direction.CREDIT)
    assert world.run(world.mint("ALFA/main", 1)) is Code.CREDITOR_REFUSED
    assert world.unfreeze(freeze) is Code.OK
    world.freeze("ALFA/main", direction=Direction.DEBIT)
    assert world.run(world.mint("ALFA/main", 1)) is Code.OK
    suspend(world, "BRVO")
    assert world.run(world.mint("BRVO/main", 1)) is Code.CREDITOR_REFUSED


def test_minting_an_unknown_asset_fails_on_state(world: World) -> None:
    mint = world.mint("ALFA/main", 1, "EUR.JDCL")
    assert world.run(mint) is Code.UNKNOWN_ASSET
    assert world.run(replace(mint, reversal_of=bytes(32))) is Code.UNKNOWN_ASSET


# ---- all that was ever minted


def test_the_counter_of_all_mints_stays_in_range() -> None:
    """Nine rounds of nearly 10**18 fit into 63 bits, the tenth does not."""
    world = World(make_document(terms=make_terms(cap=MAX_AMOUNT)))
    assert world.attest(MAX_AMOUNT) is Code.OK
    top = SetMintQuota(HKD, "JDCL/mint", MAX_AMOUNT, MAX_AMOUNT)
    assert world.run(top, sender="JDCL/treasury") is Code.OK
    for _ in range(9):
        world.advance(DAY_MS)
        assert world.attest(MAX_AMOUNT) is Code.OK
        assert world.run(world.mint("ALFA/main", MAX_AMOUNT)) is Code.OK
        redemption = world.redeem("ALFA/main", MAX_AMOUNT)
        assert world.burn(redemption) is Code.OK
    world.advance(DAY_MS)
    assert world.attest(MAX_AMOUNT) is Code.OK
    assert world.run(world.mint("ALFA/main", MAX_AMOUNT)) is Code.OVERFLOW
    rest = 2**63 - 1 - 9 * MAX_AMOUNT
    assert world.run(world.mint("ALFA/main", rest + 1)) is Code.OVERFLOW
    assert world.run(world.mint("ALFA/main", rest)) is Code.OK


# ---- reversals


def reversal(world: World, redemption: bytes, amount: int, creditor: str = "ALFA/main") -> Mint:
    return world.mint(creditor, amount, reversal_of=redemption)


@pytest.fixture
def burned(world: World) -> bytes:
    world.fund("ALFA/main", 1_000)
    redemption = world.redeem("ALFA/main", 400)
    assert world.burn(redemption) is Code.OK
    assert world.attest(1_000) is Code.OK
    return redemption


def test_returned_fiat_is_minted_back_to_the_holder_up_to_the_burn(
    world: World, burned: bytes
) -> None:
    op = reversal(world, burned, 300)
    assert world.run(op) is Code.UNAUTHORISED
    assert world.run(op, by=["CUST/reserve"]) is Code.OK
    assert world.attest(2_000) is Code.OK
    assert world.run(reversal(world, burned, 101), by=["CUST/reserve"]) is Code.REVERSAL_MISMATCH
    assert world.run(reversal(world, burned, 100), by=["CUST/reserve"]) is Code.OK
    assert world.run(reversal(world, burned, 1), by=["CUST/reserve"]) is Code.REVERSAL_MISMATCH


def test_a_reversal_goes_to_the_original_holder_only(world: World, burned: bytes) -> None:
    op = reversal(world, burned, 1, "BRVO/main")
    assert world.run(op, by=["CUST/reserve"]) is Code.REVERSAL_MISMATCH


def test_a_reversal_is_exempt_from_quota_and_not_from_the_gate(world: World, burned: bytes) -> None:
    assert world.run(SetMintQuota(HKD, "JDCL/mint", 0, 0), sender="JDCL/treasury") is Code.OK
    assert world.run(world.mint("ALFA/main", 1)) is Code.QUOTA_EXCEEDED
    assert world.run(reversal(world, burned, 100), by=["CUST/reserve"]) is Code.OK
    assert world.attest(700) is Code.OK
    assert world.run(reversal(world, burned, 1), by=["CUST/reserve"]) is Code.RESERVE_SHORT


def test_a_reversal_uses_up_its_funding_reference_too(world: World, burned: bytes) -> None:
    op = reversal(world, burned, 1)
    assert world.run(op, by=["CUST/reserve"]) is Code.OK
    assert world.run(op, by=["CUST/reserve"]) is Code.FUNDING_REUSED


def test_only_a_burn_can_be_reversed(world: World, burned: bytes) -> None:
    pending = world.redeem("ALFA/main", 10)
    assert world.run(reversal(world, pending, 1), by=["CUST/reserve"]) is Code.REVERSAL_MISMATCH
    assert world.run(reversal(world, bytes(32), 1), by=["CUST/reserve"]) is Code.UNKNOWN_HOLD
    assert world.attest(1_000, CNH) is Code.OK
    other = world.mint("ALFA/main", 1, CNH, reversal_of=burned)
    assert world.run(other, by=["CUST/reserve"]) is Code.WRONG_HOLD_KIND


def test_a_burn_cannot_be_made_in_the_transaction_that_redeems(world: World) -> None:
    """Principals are judged on the state before: nobody burns without treasury and custodian."""
    world.fund("ALFA/main", 100)
    tx_id = world.next_id()
    redemption = compute_entry_id(HashTag.HOLD, "ALFA/main", tx_id, 0)
    ops = [Redeem(HKD, "ALFA/main", 10, bytes(32)), Burn(redemption, bytes(16), world.now_ms)]
    tx = world.make(*ops, sender="ALFA/main", tx_id=tx_id)
    assert world.apply(tx) is Code.UNKNOWN_HOLD
    assert world.executed[-1].receipts[0].failed_op == 1
    assert world.balance("ALFA/main").held == 0


def test_supply_follows_mints_and_burns_and_nothing_else(world: World) -> None:
    world.fund("ALFA/main", 1_000)
    assert world.run(transfer("ALFA/main", "BRVO/main", 300)) is Code.OK
    world.freeze("BRVO/main")
    assert world.supply() == 1_000
    redemption = world.redeem("ALFA/main", 100)
    assert world.supply() == 1_000
    assert world.burn(redemption) is Code.OK
    assert world.supply() == 900
