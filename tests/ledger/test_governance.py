"""Proposals with maker and checker, parameters at a height, validator sets at an epoch."""

import pytest
from msgspec.structs import replace

from atpar.ledger.authority import (
    compute_bundle_hash,
    derive_governance,
    get_params,
    get_validators,
)
from atpar.ledger.blocks import compute_validators_hash
from atpar.ledger.codes import Code
from atpar.ledger.context import compute_entry_id
from atpar.ledger.hashing import HashTag
from atpar.ledger.limits import (
    DAY_MS,
    HOUR_MS,
    MAX_BUNDLE_BYTES,
    MAX_OPEN_PROPOSALS_PER_ACCOUNT,
    MAX_OPS_PER_TRANSACTION,
    MAX_PENDING_PARAMS,
    PARAM_RANGES,
)
from atpar.ledger.operations import (
    AccountChange,
    Approve,
    BundledOperation,
    Decision,
    NewValidator,
    OpenAccount,
    Propose,
    SetAsset,
    SetParams,
    SetParticipant,
    SetValidators,
    Transfer,
    Unfreeze,
    UpdateAccount,
)
from atpar.ledger.reads import get_account, get_hold, get_participant
from atpar.ledger.records import PENDING_PARAMS, PROPOSALS, Posting, Proposal, identify_validators
from atpar.ledger.types import ParticipantStatus, Role
from tests.ledger.test_holds import hold_op
from tests.ledger.test_members import new_participant, set_asset
from tests.ledger.world import (
    BANKS,
    HKD,
    World,
    make_certificate,
    make_document,
    make_params,
    make_terms,
    policy_of,
    possess_all,
    public,
    transfer,
)

GOV = "CHAIN/governance"


@pytest.fixture
def world() -> World:
    world = World()
    assert world.attest(10_000) is Code.OK
    return world


def propose(
    world: World, *ops: BundledOperation, sender: str, key: str, expires_in_ms: int = DAY_MS
) -> bytes:
    """Propose with one key, and return the proposal's id."""
    op = Propose(ops, world.now_ms + expires_in_ms)
    assert world.run(op, sender=sender, keys=[key]) is Code.OK
    return next(key for key, _ in world.view.scan(PROPOSALS, b"") if is_of(world, key, op))


def is_of(world: World, proposal: bytes, op: Propose) -> bool:
    found = get(world, proposal)
    return found is not None and found.bundle_hash == compute_bundle_hash(op.ops, op.expires_at_ms)


def get(world: World, proposal: bytes) -> Proposal | None:
    return world.view.get(PROPOSALS, proposal)


def decide(
    world: World,
    proposal: bytes,
    *,
    sender: str,
    key: str,
    decision: Decision = Decision.APPROVE,
    bundle_hash: bytes | None = None,
) -> Code:
    found = get(world, proposal)
    reviewed = found.bundle_hash if bundle_hash is None and found else bundle_hash or bytes(32)
    return world.run(Approve(proposal, reviewed, decision), sender=sender, keys=[key])


MINT = "JDCL/mint"


# ---- maker and checker


def test_two_people_of_one_account_complete_a_mint(world: World) -> None:
    proposal = propose(world, world.mint("ALFA/main", 100), sender=MINT, key="JDCL-m1")
    assert world.supply() == 0
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.OK
    assert world.supply() == 100
    assert get(world, proposal) is None
    assert world.executed[-1].postings == (Posting(0, 0, HKD, None, "ALFA/main", 100),)


def test_two_institutions_complete_one_exchange(world: World) -> None:
    world.fund("ALFA/main", 100)
    world.fund("CHRL/main", 100, "CNH.JDCL")
    legs = [
        transfer("ALFA/main", "CHRL/main", 10),
        transfer("CHRL/main", "ALFA/main", 9, "CNH.JDCL"),
    ]
    proposal = propose(world, *legs, sender="ALFA/main", key="ALFA-pay")
    assert decide(world, proposal, sender="CHRL/main", key="CHRL-pay") is Code.OK
    assert world.balance("ALFA/main", "CNH.JDCL").posted == 9
    assert world.balance("CHRL/main").posted == 10


def test_the_maker_is_not_the_checker(world: World) -> None:
    proposal = propose(world, world.mint("ALFA/main", 100), sender=MINT, key="JDCL-m1")
    assert decide(world, proposal, sender=MINT, key="JDCL-m1") is Code.SAME_SIGNER
    both = Approve(proposal, get(world, proposal).bundle_hash, Decision.APPROVE)  # type: ignore[union-attr]
    assert world.run(both, sender=MINT, keys=["JDCL-m1", "JDCL-m2"]) is Code.SAME_SIGNER
    assert world.supply() == 0


def test_a_bundle_that_one_key_would_satisfy_still_waits_for_a_second(world: World) -> None:
    world.fund("ALFA/main", 100)
    pay = transfer("ALFA/main", "BRVO/main", 1)
    proposal = propose(world, pay, sender="ALFA/main", key="ALFA-pay")
    assert decide(world, proposal, sender="ALFA/main", key="ALFA-pay") is Code.SAME_SIGNER
    assert world.balance("BRVO/main").posted == 0


def test_a_key_decides_once(world: World) -> None:
    op = new_participant(world)
    proposal = propose(world, op, sender=GOV, key="ALFA-gov")
    assert decide(world, proposal, sender=GOV, key="BRVO-gov") is Code.OK
    assert decide(world, proposal, sender=GOV, key="BRVO-gov") is Code.SAME_SIGNER
    assert get_participant(world.view, "ECHO") is None
    assert decide(world, proposal, sender=GOV, key="CHRL-gov") is Code.OK
    assert get_participant(world.view, "ECHO") is not None


def test_strangers_neither_propose_nor_decide(world: World) -> None:
    op = Propose((world.mint("ALFA/main", 1),), world.now_ms + DAY_MS)
    for sender, key in (("ALFA/main", "ALFA-pay"), ("JDCL/treasury", "JDCL-t1")):
        assert world.run(op, sender=sender, keys=[key]) in (
            Code.UNAUTHORISED,
            Code.UNINVOLVED_SIGNATURE,
        )
    assert world.run(op, sender=MINT, keys=["ALFA-pay"]) is Code.UNINVOLVED_SIGNATURE
    assert world.run(op, sender=MINT, keys=[]) is Code.UNAUTHORISED
    proposal = propose(world, world.mint("ALFA/main", 100), sender=MINT, key="JDCL-m1")
    assert decide(world, proposal, sender=MINT, key="ALFA-pay") is Code.UNINVOLVED_SIGNATURE
    assert decide(world, proposal, sender="ALFA/main", key="ALFA-pay") is not Code.OK
    assert world.supply() == 0


def test_an_officer_may_speak_from_an_account_that_its_key_alone_satisfies(world: World) -> None:
    own = OpenAccount("JDCL/officer", policy_of(1, ["JDCL-m2"]), False, ())
    assert world.run(own, sender="JDCL/admin") is Code.OK
    proposal = propose(world, world.mint("ALFA/main", 100), sender=MINT, key="JDCL-m1")
    assert decide(world, proposal, sender="JDCL/officer", key="JDCL-m2") is Code.OK
    assert world.supply() == 100


def test_one_key_does_not_speak_for_the_sender_of_anything_else(world: World) -> None:
    op = Propose((world.mint("ALFA/main", 1),), world.now_ms + DAY_MS)
    mixed = [op, world.mint("ALFA/main", 1)]
    assert world.run(*mixed, sender=MINT, keys=["JDCL-m1"]) is Code.UNAUTHORISED
    assert world.run(*mixed, sender=MINT) is Code.OK


# ---- the bundle


def test_a_bundle_takes_effect_whole_or_the_approval_fails_and_it_stays_open(
    world: World,
) -> None:
    bundle = [world.mint("ALFA/main", 6_000), world.mint("BRVO/main", 4_001)]
    proposal = propose(world, *bundle, sender=MINT, key="JDCL-m1")
    before = get(world, proposal)
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.RESERVE_SHORT
    assert get(world, proposal) == before
    assert world.supply() == 0
    assert world.attest(20_000) is Code.OK
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.OK
    assert world.supply() == 10_001


def test_what_was_reviewed_is_what_runs(world: World) -> None:
    proposal = propose(world, world.mint("ALFA/main", 1), sender=MINT, key="JDCL-m1")
    wrong = decide(world, proposal, sender=MINT, key="JDCL-m2", bundle_hash=bytes([1] * 32))
    assert wrong is Code.UNKNOWN_PROPOSAL
    assert decide(world, bytes(32), sender=MINT, key="JDCL-m2") is Code.UNKNOWN_PROPOSAL
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.OK
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.UNKNOWN_PROPOSAL


def test_holds_made_by_a_bundle_have_ids_of_their_own(world: World) -> None:
    world.fund("ALFA/main", 100)
    bundle = [hold_op(world, 10), hold_op(world, 20), transfer("BRVO/main", "ALFA/main", 1)]
    world.fund("BRVO/main", 1)
    proposal = propose(world, *bundle, sender="ALFA/main", key="ALFA-pay")
    assert decide(world, proposal, sender="BRVO/main", key="BRVO-pay") is Code.OK
    for index, amount in ((0, 10), (1, 20)):
        hold = get_hold(world.view, compute_entry_id(HashTag.HOLD, "ALFA/main", proposal, index))
        assert hold is not None
        assert hold.amount == amount


def test_an_empty_a_faulty_and_an_oversized_bundle_are_refused(world: World) -> None:
    expires = world.now_ms + DAY_MS
    assert world.run(Propose((), expires), sender=MINT, keys=["JDCL-m1"]) is Code.NO_OPERATIONS
    zero = Propose((world.mint("ALFA/main", 0),), expires)
    assert world.run(zero, sender=MINT, keys=["JDCL-m1"]) is Code.AMOUNT_RANGE
    pay = transfer("ALFA/main", "BRVO/main", 1, reference="x" * 35)
    count = MAX_BUNDLE_BYTES // 100
    large = Propose((pay,) * (2 * count), expires)
    assert world.run(large, sender="ALFA/main") is Code.TOO_LARGE


def test_a_bundle_about_what_does_not_exist_is_refused(world: World) -> None:
    op = Propose((Unfreeze(bytes(32), ""),), world.now_ms + DAY_MS)
    assert world.run(op, sender="JDCL/release", keys=["JDCL-r1"]) is Code.UNKNOWN_FREEZE
    lost = transfer("ALFA/nobody", "BRVO/main", 1)
    op = Propose((lost,), world.now_ms + DAY_MS)
    assert world.run(op, sender="ALFA/main") is Code.UNKNOWN_TARGET


def test_what_vanished_meanwhile_fails_the_approval(world: World) -> None:
    freeze = world.freeze("ALFA/main")
    proposal = propose(world, Unfreeze(freeze, ""), sender="JDCL/release", key="JDCL-r1")
    assert world.unfreeze(freeze) is Code.OK
    assert decide(world, proposal, sender="JDCL/release", key="JDCL-r2") is Code.UNKNOWN_FREEZE
    assert get(world, proposal) is not None


def test_a_principal_that_closed_meanwhile_fails_the_approval(world: World) -> None:
    world.fund("BRVO/main", 5)
    ops: list[Transfer] = [
        transfer("BRVO/main", "ALFA/main", 1),
        transfer("ALFA/other", "BRVO/main", 1),
    ]
    proposal = propose(world, *ops, sender="ALFA/other", key="ALFA-pay")
    close = UpdateAccount("ALFA/other", AccountChange.UPDATE, None, None, True, None)
    assert world.run(close, sender="ALFA/other") is Code.OK
    assert decide(world, proposal, sender="BRVO/main", key="BRVO-pay") is Code.ACCOUNT_CLOSED


# ---- rotation in the middle


def rotate(
    world: World, account: str, threshold: int, names: list[str], signing: list[str]
) -> None:
    op = UpdateAccount(
        account, AccountChange.UPDATE, policy_of(threshold, names), None, False, None
    )
    assert world.run(op, sender=account, keys=signing) is Code.OK


def test_approvals_are_weighed_under_the_policies_in_force(world: World) -> None:
    """The maker's key is rotated away: its approval no longer counts."""
    proposal = propose(world, world.mint("ALFA/main", 1), sender=MINT, key="JDCL-m1")
    rotate(world, MINT, 2, ["JDCL-m2", "JDCL-m3"], ["JDCL-m1", "JDCL-m2", "JDCL-m3"])
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.OK
    assert world.supply() == 0
    assert decide(world, proposal, sender=MINT, key="JDCL-m1") is not Code.OK
    assert decide(world, proposal, sender=MINT, key="JDCL-m3") is Code.OK
    assert world.supply() == 1


def test_a_new_key_agrees_to_its_own_registration_by_approving(world: World) -> None:
    policy = policy_of(2, ["JDCL-m1", "JDCL-m2", "JDCL-m9"])
    op = UpdateAccount(MINT, AccountChange.UPDATE, policy, None, False, None)
    proposal = propose(world, op, sender=MINT, key="JDCL-m1")
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.OK
    assert get(world, proposal) is not None
    assert decide(world, proposal, sender=MINT, key="JDCL-m9") is Code.OK
    account = get_account(world.view, MINT)
    assert account is not None
    assert account.policy == policy


def test_a_key_that_nobody_knows_proposes_nothing_in_another_name(world: World) -> None:
    """It would use up the victim's ids, and its room for proposals."""
    op = UpdateAccount(
        "ALFA/main", AccountChange.UPDATE, policy_of(1, ["stranger"]), None, False, None
    )
    asked = Propose((op,), world.now_ms + DAY_MS)
    assert world.run(asked, sender="ALFA/main", keys=["stranger"]) is Code.UNAUTHORISED
    keys = ["CHRL-pay", "stranger"]
    assert world.run(asked, sender="CHRL/main", keys=keys) is Code.UNAUTHORISED


def test_a_key_that_another_bank_names_does_not_send_as_the_account(world: World) -> None:
    rotation = UpdateAccount(
        "ALFA/main", AccountChange.UPDATE, policy_of(1, ["stranger"]), None, False, None
    )
    payment = transfer("CHRL/main", "ALFA/main", 1)
    proposal = propose(world, payment, rotation, sender="CHRL/main", key="CHRL-pay")
    assert decide(world, proposal, sender="ALFA/main", key="stranger") is Code.UNAUTHORISED
    assert decide(world, proposal, sender="CHRL/main", key="stranger") is Code.OK


def test_the_bundles_that_one_transaction_is_about_are_bounded(world: World) -> None:
    """An approval is short, and its bundle long: a thousand of them cost seconds to judge."""
    half, one = MAX_OPS_PER_TRANSACTION // 2, transfer("ALFA/main", "BRVO/main", 1)
    expires_at_ms = world.now_ms + DAY_MS
    first, second = Propose((one,) * half, expires_at_ms), Propose((one,) * half, expires_at_ms)
    key = ["ALFA-pay"]
    assert world.run(first, second, sender="ALFA/main", keys=key) is Code.OK
    longer = Propose((one,) * (half + 1), expires_at_ms)
    code = world.run(first, longer, sender="ALFA/main", keys=key)
    assert code is Code.TOO_MANY_OPERATIONS
    asked = Propose((world.mint("ALFA/main", 1),) * half, expires_at_ms)
    assert world.run(asked, sender=MINT, keys=["JDCL-m1"]) is Code.OK
    proposal = compute_entry_id(HashTag.PROPOSAL, MINT, world.last.body.tx_id, 0)
    bundle_hash = compute_bundle_hash(asked.ops, expires_at_ms)
    rejections = [Approve(proposal, bundle_hash, Decision.REJECT)] * 3
    code = world.run(*rejections, sender=MINT, keys=["JDCL-m2"])
    assert code is Code.TOO_MANY_OPERATIONS
    code = world.run(*rejections[:2], sender=MINT, keys=["JDCL-m2"])
    assert code is Code.UNKNOWN_PROPOSAL


# ---- rejecting, withdrawing, expiring


def test_a_rejection_closes_only_what_can_no_longer_pass(world: World) -> None:
    rotate(world, MINT, 2, ["JDCL-m1", "JDCL-m2", "JDCL-m3"], ["JDCL-m1", "JDCL-m2", "JDCL-m3"])
    proposal = propose(world, world.mint("ALFA/main", 1), sender=MINT, key="JDCL-m1")
    reject = Decision.REJECT
    assert decide(world, proposal, sender=MINT, key="JDCL-m2", decision=reject) is Code.OK
    assert get(world, proposal) is not None
    assert decide(world, proposal, sender=MINT, key="JDCL-m2") is Code.SAME_SIGNER
    assert decide(world, proposal, sender=MINT, key="JDCL-m3") is Code.OK
    assert world.supply() == 1
    proposal = propose(world, world.mint("ALFA/main", 1), sender=MINT, key="JDCL-m1")
    for key in ("JDCL-m2", "JDCL-m3"):
        assert decide(world, proposal, sender=MINT, key=key, decision=reject) is Code.OK
    assert get(world, proposal) is None


def test_the_maker_withdraws_and_nobody_else(world: World) -> None:
    proposal = propose(world, world.mint("ALFA/main", 1), sender=MINT, key="JDCL-m1")
    withdraw = Decision.WITHDRAW
    code = decide(world, proposal, sender=MINT, key="JDCL-m2", decision=withdraw)
    assert code is Code.ROLE_MISSING
    assert decide(world, proposal, sender=MINT, key="JDCL-m1", decision=withdraw) is Code.OK
    assert get(world, proposal) is None


def test_a_proposal_can_be_approved_to_its_last_millisecond(world: World) -> None:
    late, later = (
        propose(
            world, world.mint("ALFA/main", n), sender=MINT, key="JDCL-m1", expires_in_ms=HOUR_MS
        )
        for n in (1, 2)
    )
    found = get(world, late)
    assert found is not None
    world.now_ms = found.expires_at_ms
    assert decide(world, late, sender=MINT, key="JDCL-m2") is Code.OK
    found = get(world, later)
    assert found is not None
    world.now_ms = found.expires_at_ms + 1
    assert decide(world, later, sender=MINT, key="JDCL-m2") is Code.PROPOSAL_EXPIRED
    again = Propose((world.mint("ALFA/main", 1),), world.header.timestamp_ms)
    assert world.run(again, sender=MINT, keys=["JDCL-m1"]) is Code.PROPOSAL_EXPIRED


def test_open_proposals_of_a_sender_are_bounded_and_expired_ones_make_room(world: World) -> None:
    ops = [
        Propose((world.mint("ALFA/main", n),), world.now_ms + HOUR_MS)
        for n in range(1, MAX_OPEN_PROPOSALS_PER_ACCOUNT + 1)
    ]
    assert world.run(*ops, sender=MINT, keys=["JDCL-m1"]) is Code.OK
    more = Propose((world.mint("ALFA/main", 99),), world.now_ms + 9 * HOUR_MS)
    assert world.run(more, sender=MINT, keys=["JDCL-m2"]) is Code.LIMIT_OF_ENTRIES
    assert (
        world.run(
            Propose((transfer("ALFA/main", "BRVO/main", 1),), world.now_ms + HOUR_MS),
            sender="ALFA/main",
        )
        is Code.OK
    )
    world.advance(2 * HOUR_MS)
    assert world.run(more, sender=MINT, keys=["JDCL-m2"]) is Code.OK
    waiting = [p for _, p in world.view.scan(PROPOSALS, b"") if p.sender == MINT]
    assert len(waiting) == 1


def test_replacing_a_custodian_can_be_proposed_to_governance_or_to_it(world: World) -> None:
    change: SetAsset = set_asset(terms=make_terms(custodian="CUST/admin"))
    proposal = propose(world, change, sender="JDCL/admin", key="JDCL-a1")
    assert decide(world, proposal, sender="JDCL/admin", key="JDCL-a2") is Code.OK
    assert decide(world, proposal, sender="REGU/watch", key="REGU-k1") is Code.OK
    assert decide(world, proposal, sender="CUST/reserve", key="CUST-k1") is Code.OK
    assert get(world, proposal) is not None
    for bank in BANKS[:3]:
        assert decide(world, proposal, sender=GOV, key=f"{bank}-gov") is Code.OK
    assert get(world, proposal) is None


# ---- parameters


def set_param(world: World, key: str, value: int, height: int) -> Code:
    return world.run(SetParams(key, value, height), sender=GOV)


def test_a_parameter_changes_at_its_height(world: World) -> None:
    height = world.header.height + 3
    assert set_param(world, "max_window_ms", 2 * HOUR_MS, height) is Code.OK
    while world.header.height < height:
        assert (get_params(world.view).max_window_ms == 2 * HOUR_MS) == (
            world.header.height >= height
        )
        world.block()
    assert get_params(world.view).max_window_ms == 2 * HOUR_MS
    assert not list(world.view.scan(PENDING_PARAMS, b""))


@pytest.mark.parametrize("key", sorted(PARAM_RANGES))
def test_parameters_stay_in_their_range(world: World, key: str) -> None:
    low, high = PARAM_RANGES[key]
    height = world.header.height + 100
    for value in (low - 1, high + 1):
        if value >= 0:
            assert set_param(world, key, value, height) is Code.PARAM_RANGE
    fixed = key == "epoch_blocks"
    assert set_param(world, key, high if key != "max_window_ms" else low, height) is (
        Code.PARAM_RANGE if fixed else Code.OK
    )


def test_a_parameter_is_known_and_changes_in_the_future(world: World) -> None:
    assert set_param(world, "gas_price", 1, 10**6) is Code.PARAM_RANGE
    assert set_param(world, "heartbeat_ms", 1_000, world.header.height + 1) is Code.PARAM_RANGE
    assert set_param(world, "heartbeat_ms", 1_000, world.header.height + 2) is Code.OK
    op = SetParams("heartbeat_ms", 1_000, 10**6)
    assert world.run(op, sender="ALFA/admin") is Code.UNAUTHORISED


def test_retention_never_falls_below_the_window_at_any_height(world: World) -> None:
    base = world.header.height
    day = DAY_MS
    assert set_param(world, "tx_id_retention_ms", day, base + 100) is Code.OK
    assert set_param(world, "max_window_ms", 2 * day, base + 50) is Code.PARAM_RANGE
    assert set_param(world, "max_window_ms", 2 * day, base + 100) is Code.PARAM_RANGE
    assert set_param(world, "tx_id_retention_ms", 3 * day, base + 100) is Code.OK
    assert set_param(world, "max_window_ms", 2 * day, base + 100) is Code.OK


def test_pending_parameter_changes_are_bounded(world: World) -> None:
    height = world.header.height + 1_000
    ops = [SetParams("heartbeat_ms", 1_000 + n, height + n) for n in range(MAX_PENDING_PARAMS)]
    assert world.run(*ops, sender=GOV) is Code.OK
    assert set_param(world, "heartbeat_ms", 5_000, height + 999) is Code.LIMIT_OF_ENTRIES
    assert set_param(world, "heartbeat_ms", 5_000, height) is Code.OK


# ---- validators


def members_of(*codes: str, **changes: str) -> tuple[NewValidator, ...]:
    return tuple(
        NewValidator(
            participant=code,
            vote_key=public(changes.get(code, f"{code}-vote")),
            admin_key=public(f"{code}-gov"),
            root_certificate=make_certificate(code),
            address=f"{code.lower()}.test:7101",
        )
        for code in codes
    )


def add_echo(world: World) -> None:
    assert world.run(new_participant(world), sender=GOV) is Code.OK


@pytest.fixture
def short() -> World:
    """A chain with epochs of eight blocks."""
    return World(make_document(params=make_params(epoch_blocks=8)))


def run_to(world: World, height: int) -> None:
    while world.header.height < height:
        world.block()


def test_the_next_set_takes_over_at_the_boundary(short: World) -> None:
    world = short
    add_echo(world)
    keys = ["ECHO-vote", "ECHO-gov"]
    op = SetValidators(members_of(*BANKS, "ECHO"), possess_all("ECHO", keys, world.chain_id))
    assert world.run(op, sender=GOV) is Code.OK
    first = world.genesis.header.validators_hash
    run_to(world, 7)
    assert world.header.next_validators_hash == first
    world.block()
    boundary = world.header
    assert (boundary.height, boundary.validators_hash) == (8, first)
    current = get_validators(world.view)
    assert (current.epoch, len(current.members)) == (1, 5)
    assert boundary.next_validators_hash == compute_validators_hash(identify_validators(current))
    world.block()
    assert world.header.validators_hash == boundary.next_validators_hash
    assert world.header.next_validators_hash == boundary.next_validators_hash
    quorum = [f"{code}-gov" for code in ("ALFA", "BRVO", "CHRL")]
    more = SetParams("heartbeat_ms", 1_000, 10**6)
    assert world.run(more, sender=GOV, keys=quorum) is Code.UNAUTHORISED
    assert world.run(more, sender=GOV, keys=[*quorum, "ECHO-gov"]) is Code.OK


def test_every_boundary_begins_an_epoch_even_with_the_same_members(short: World) -> None:
    world = short
    hashes = set()
    for epoch in range(3):
        run_to(world, 8 * (epoch + 1))
        assert get_validators(world.view).epoch == epoch + 1
        hashes.add(world.header.next_validators_hash)
    assert len(hashes) == 3


def test_the_last_word_before_the_boundary_counts(short: World) -> None:
    world = short
    for code in ("ALFA-v2", "ALFA-v3"):
        op = SetValidators(
            members_of(*BANKS, ALFA=code), possess_all("ALFA", [code], world.chain_id)
        )
        assert world.run(op, sender=GOV) is Code.OK
    run_to(world, 8)
    assert get_validators(world.view).members[0].vote_key == public("ALFA-v3")


def test_a_validator_set_has_known_members_and_their_own_keys(world: World) -> None:
    add_echo(world)
    known = possess_all("ECHO", ["ECHO-vote", "ECHO-gov"], world.chain_id)
    stranger = SetValidators(members_of(*BANKS, "ZULU"), ())
    assert world.run(stranger, sender=GOV) is Code.UNKNOWN_PARTICIPANT
    unproven = SetValidators(members_of(*BANKS, "ECHO"), known[:1])
    assert world.run(unproven, sender=GOV) is Code.POSSESSION_MISSING
    taken = SetValidators(members_of(*BANKS, "ECHO", ECHO="ALFA-pay"), known)
    assert world.run(taken, sender=GOV) is Code.KEY_TAKEN
    worst = SetValidators(members_of(*BANKS, "ECHO", ALFA="BRVO-pay"), known[:1])
    assert world.run(worst, sender=GOV) is Code.POSSESSION_MISSING
    unsorted = SetValidators(members_of(*BANKS, "ECHO"), known[::-1])
    assert world.run(unsorted, sender=GOV) is Code.VALUE_INVALID
    assert world.run(SetValidators(members_of(*BANKS, "ECHO"), known), sender=GOV) is Code.OK
    assert world.run(SetValidators(members_of(*BANKS), ()), sender="ALFA/admin") is (
        Code.UNAUTHORISED
    )


def test_an_unsafe_quorum_is_refused(world: World) -> None:
    four = members_of(*BANKS)
    cases = [
        four[:3],
        (
            *four[:3],
            replace(
                four[3],
                participant="ALFA",
                vote_key=public("ALFA-pay"),
                admin_key=public("ALFA-a1"),
            ),
        ),
        (*four[:3], replace(four[3], vote_key=public("DLTA-gov"))),
        (*four[:3], replace(four[3], root_certificate=four[0].root_certificate)),
        (*four[:3], replace(four[3], address=four[0].address)),
    ]
    for members in cases:
        assert world.run(SetValidators(members, ()), sender=GOV) is Code.QUORUM_UNSAFE


def test_newcomers_are_too_few_to_stop_the_chain(world: World) -> None:
    """Of four, one may be new; of five also one; a quorum sits in the current set."""
    proofs = []
    for code in ("ECHO", "FOXT"):
        assert world.run(new_participant(world, code), sender=GOV) is Code.OK
        proofs += possess_all(code, [f"{code}-vote", f"{code}-gov"], world.chain_id)
    known = tuple(sorted(proofs, key=lambda proof: proof.key))
    for codes, code in (
        (("ALFA", "BRVO", "ECHO", "FOXT"), Code.QUORUM_UNSAFE),
        ((*BANKS, "ECHO", "FOXT"), Code.QUORUM_UNSAFE),
        (("ALFA", "BRVO", "CHRL", "ECHO"), Code.OK),
        ((*BANKS, "ECHO"), Code.OK),
    ):
        assert world.run(SetValidators(members_of(*codes), known), sender=GOV) is code


def test_governance_switches_with_the_set_and_with_nothing_else(world: World) -> None:
    before = derive_governance(get_validators(world.view))
    op = SetParticipant(
        "ALFA",
        "ALFA".rjust(18, "0") + "00",
        "ALFAHKH0",
        "HK",
        (Role.BANK,),
        ParticipantStatus.SUSPENDED,
        None,
        None,
        (),
    )
    assert world.run(op, sender=GOV) is Code.OK
    assert world.run(SetValidators(members_of(*BANKS), ()), sender=GOV) is Code.OK
    world.block()
    assert derive_governance(get_validators(world.view)) == before
