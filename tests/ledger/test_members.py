"""Participants, accounts and assets: keys, possession, roles that must be apart."""

import pytest
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.codes import Code
from atpar.ledger.operations import (
    AssetTerms,
    OpenAccount,
    Policy,
    Possession,
    SetAsset,
    SetParticipant,
    WeightedKey,
)
from atpar.ledger.reads import get_account, get_key_owner, get_participant, list_accounts
from atpar.ledger.types import ParticipantStatus, Role
from tests.ledger.world import (
    HKD,
    World,
    make_terms,
    policy_of,
    possess,
    possess_all,
    public,
    transfer,
)

GOV = "CHAIN/governance"


@pytest.fixture
def world() -> World:
    return World()


def new_participant(world: World, code: str = "ECHO", **changes: object) -> SetParticipant:
    op = SetParticipant(
        participant=code,
        lei=code.rjust(18, "0") + "00",
        bic=f"{code}HKH0",
        jurisdiction="HK",
        roles=(Role.BANK,),
        status=ParticipantStatus.ACTIVE,
        travel_key=None,
        admin_policy=policy_of(2, [f"{code}-a1", f"{code}-a2"]),
        possessions=possess_all(code, [f"{code}-a1", f"{code}-a2"], world.chain_id),
    )
    return replace(op, **changes)


def new_account(world: World, account: str, threshold: int, names: list[str]) -> OpenAccount:
    code = account[:4]
    known = {n for n in names if get_key_owner(world.view, public(n)) is not None}
    fresh = [name for name in names if name not in known]
    return OpenAccount(
        account, policy_of(threshold, names), False, possess_all(code, fresh, world.chain_id)
    )


# ---- participants


def test_governance_creates_a_participant_with_its_admin_account(world: World) -> None:
    assert world.run(new_participant(world), sender=GOV) is Code.OK
    assert get_participant(world.view, "ECHO") is not None
    admin = get_account(world.view, "ECHO/admin")
    assert admin is not None
    assert admin.policy.threshold == 2
    world.policies["ECHO/admin"] = (2, ("ECHO-a1", "ECHO-a2"))
    op = new_account(world, "ECHO/main", 1, ["ECHO-pay"])
    assert world.run(op, sender="ECHO/admin") is Code.OK


def test_governance_is_more_than_two_thirds_of_the_validators_administrators(world: World) -> None:
    op = new_participant(world)
    assert world.run(op, sender=GOV, keys=["ALFA-gov", "BRVO-gov"]) is Code.UNAUTHORISED
    assert world.run(op, sender="ALFA/admin") is Code.UNAUTHORISED
    assert world.run(op, sender=GOV, keys=["ALFA-gov", "BRVO-gov", "DLTA-gov"]) is Code.OK


def test_a_new_participant_needs_an_admin_policy_of_two_keys(world: World) -> None:
    op = new_participant(world)
    assert world.run(replace(op, admin_policy=None), sender=GOV) is Code.POLICY_INVALID
    weak = replace(op, admin_policy=policy_of(1, ["ECHO-a1", "ECHO-a2"]))
    assert world.run(weak, sender=GOV) is Code.POLICY_WEAK
    heavy = Policy(
        tuple(
            WeightedKey(key, 2 if i else 1)
            for i, key in enumerate(sorted(public(n) for n in ("ECHO-a1", "ECHO-a2")))
        ),
        2,
    )
    assert world.run(replace(op, admin_policy=heavy), sender=GOV) is Code.POLICY_WEAK
    assert world.run(replace(op, admin_policy=replace(heavy, threshold=3)), sender=GOV) is Code.OK


def test_an_existing_participant_is_changed_without_its_policy(world: World) -> None:
    op = new_participant(world)
    assert world.run(op, sender=GOV) is Code.OK
    assert world.run(op, sender=GOV) is Code.PARTICIPANT_EXISTS
    update = replace(op, admin_policy=None, possessions=(), bic="ECHOSGS0", jurisdiction="SG")
    assert world.run(update, sender=GOV) is Code.OK
    participant = get_participant(world.view, "ECHO")
    assert participant is not None
    assert participant.jurisdiction == "SG"


def test_the_chain_is_no_participant_and_roles_are_sorted(world: World) -> None:
    op = new_participant(world)
    assert world.run(replace(op, participant="CHAIN"), sender=GOV) is Code.VALUE_INVALID
    twice = replace(op, roles=(Role.BANK, Role.BANK))
    assert world.run(twice, sender=GOV) is Code.VALUE_INVALID
    unsorted = replace(op, roles=(Role.ISSUER, Role.BANK))
    assert world.run(unsorted, sender=GOV) is Code.VALUE_INVALID


def test_a_licence_in_use_cannot_be_taken_away(world: World) -> None:
    op = new_participant(world, "CUST", admin_policy=None, possessions=(), roles=(Role.BANK,))
    assert world.run(op, sender=GOV) is Code.ROLE_MISSING
    issuer = replace(op, participant="JDCL", roles=(Role.CUSTODIAN,))
    assert world.run(issuer, sender=GOV) is Code.ROLE_MISSING
    more = replace(op, roles=(Role.BANK, Role.CUSTODIAN))
    assert world.run(more, sender=GOV) is Code.OK
    assert world.run(replace(op, roles=(Role.CUSTODIAN,)), sender=GOV) is Code.OK
    assert world.run(replace(op, participant="ALFA", roles=()), sender=GOV) is Code.OK


# ---- keys


def test_a_new_key_needs_a_proof_of_possession_for_this_participant_and_chain(
    world: World,
) -> None:
    op = new_account(world, "ALFA/new", 1, ["ALFA-new"])
    for proofs in (
        (),
        possess_all("ALFA", ["ALFA-new"]),
        possess_all("BRVO", ["ALFA-new"], world.chain_id),
        possess_all("ALFA", ["ALFA-other"], world.chain_id),
        (Possession(public("ALFA-new"), bytes(64)),),
    ):
        assert world.run(replace(op, possessions=proofs), sender="ALFA/admin") is (
            Code.POSSESSION_MISSING
        )
    assert world.run(op, sender="ALFA/admin") is Code.OK
    assert get_key_owner(world.view, public("ALFA-new")) == "ALFA"


def test_a_known_key_of_ones_own_needs_no_proof_and_a_spare_proof_does_no_harm(
    world: World,
) -> None:
    op = OpenAccount("ALFA/second", policy_of(1, ["ALFA-pay"]), False, ())
    assert world.run(op, sender="ALFA/admin") is Code.OK
    spare = replace(
        op, account="ALFA/third", possessions=possess_all("ALFA", ["ALFA-pay"], world.chain_id)
    )
    assert world.run(spare, sender="ALFA/admin") is Code.OK


def test_a_key_belongs_to_one_participant_for_ever(world: World) -> None:
    op = OpenAccount(
        "BRVO/new",
        policy_of(1, ["ALFA-pay"]),
        False,
        possess_all("BRVO", ["ALFA-pay"], world.chain_id),
    )
    assert world.run(op, sender="BRVO/admin") is Code.KEY_TAKEN
    vote = replace(op, policy=policy_of(1, ["ALFA-vote"]))
    assert world.run(vote, sender="BRVO/admin") is Code.KEY_TAKEN


IDENTITY = (1).to_bytes(32, "little")


@pytest.mark.parametrize(
    "key", [bytes(32), IDENTITY, b"\xff" * 32, (2**255 - 18).to_bytes(32, "little")]
)
def test_keys_of_small_order_or_another_encoding_are_not_registered(
    world: World, key: bytes
) -> None:
    policy = Policy((WeightedKey(key, 1),), 1)
    proofs = (Possession(key, IDENTITY + bytes(32)),)
    op = OpenAccount("ALFA/new", policy, False, proofs)
    assert world.run(op, sender="ALFA/admin") is Code.KEY_INVALID


def test_the_lowest_code_wins_among_key_faults(world: World) -> None:
    """A taken key, an invalid key and a key without proof in one policy."""
    keys = sorted([public("BRVO-pay"), IDENTITY, public("ALFA-fresh")])
    policy = Policy(tuple(WeightedKey(key, 1) for key in keys), 1)
    op = OpenAccount("ALFA/new", policy, False, ())
    assert world.run(op, sender="ALFA/admin") is Code.POSSESSION_MISSING
    fresh = possess("ALFA", "ALFA-fresh", world.chain_id)
    assert world.run(replace(op, possessions=(fresh,)), sender="ALFA/admin") is (
        Code.POSSESSION_MISSING
    )
    both = tuple(sorted((fresh, Possession(IDENTITY, IDENTITY + bytes(32))), key=lambda p: p.key))
    assert world.run(replace(op, possessions=both), sender="ALFA/admin") is Code.KEY_TAKEN


# ---- accounts


def test_accounts_are_opened_by_the_participants_admin(world: World) -> None:
    op = new_account(world, "ALFA/new", 1, ["ALFA-new"])
    assert world.run(op, sender="ALFA/main") is Code.UNAUTHORISED
    assert world.run(op, sender="BRVO/admin") is Code.UNAUTHORISED
    assert world.run(op, sender="ALFA/admin", keys=["ALFA-a1"]) is Code.UNAUTHORISED
    assert world.run(op, sender="ALFA/admin") is Code.OK
    assert world.run(op, sender="ALFA/admin") is Code.ACCOUNT_EXISTS
    assert [a for a, _ in list_accounts(world.view, "ALFA")] == [
        "ALFA/admin",
        "ALFA/main",
        "ALFA/new",
        "ALFA/other",
    ]


def test_the_admin_account_cannot_be_opened_twice(world: World) -> None:
    op = new_account(world, "ALFA/admin", 1, ["ALFA-new"])
    assert world.run(op, sender="ALFA/admin") is Code.ACCOUNT_EXISTS


def test_no_account_opens_under_an_unknown_participant(world: World) -> None:
    op = new_account(world, "ZULU/main", 1, ["ZULU-new"])
    assert world.run(op, sender="ALFA/admin") is Code.UNKNOWN_ACCOUNT


@pytest.mark.parametrize("threshold", [0, 3])
def test_a_policy_can_be_satisfied_and_not_by_nobody(world: World, threshold: int) -> None:
    op = new_account(world, "ALFA/new", threshold, ["ALFA-pay", "ALFA-a1"])
    assert world.run(op, sender="ALFA/admin") is Code.POLICY_INVALID


def test_a_policys_keys_are_sorted_and_named_once(world: World) -> None:
    keys = policy_of(1, ["ALFA-pay", "ALFA-a1"]).keys
    for wrong in (keys[::-1], (keys[0], keys[0]), ()):
        op = OpenAccount("ALFA/new", Policy(wrong, 1), False, ())
        assert world.run(op, sender="ALFA/admin") is Code.POLICY_INVALID


def test_possessions_are_sorted_and_named_once(world: World) -> None:
    op = new_account(world, "ALFA/new", 1, ["ALFA-n1", "ALFA-n2"])
    assert world.run(replace(op, possessions=op.possessions[::-1]), sender="ALFA/admin") is (
        Code.VALUE_INVALID
    )
    assert world.run(op, sender="ALFA/admin") is Code.OK


def test_m_of_n_policies_ask_for_their_weight(world: World) -> None:
    op = new_account(world, "ALFA/board", 2, ["ALFA-b1", "ALFA-b2", "ALFA-b3"])
    assert world.run(op, sender="ALFA/admin") is Code.OK
    world.fund("ALFA/board", 10)
    pay = transfer("ALFA/board", "BRVO/main", 1)
    assert world.run(pay, keys=["ALFA-b2"]) is Code.UNAUTHORISED
    assert world.run(pay, keys=["ALFA-b2", "ALFA-pay"]) is Code.UNINVOLVED_SIGNATURE
    assert world.run(pay, keys=["ALFA-b2", "ALFA-b3"]) is Code.OK
    assert world.run(pay, keys=["ALFA-b1", "ALFA-b2", "ALFA-b3"]) is Code.OK


# ---- assets


def set_asset(asset: str = HKD, terms: AssetTerms | None = None, **changes: object) -> SetAsset:
    op = SetAsset(asset, asset[4:], asset[:3], 2, terms or make_terms())
    return replace(op, **changes)


REST = ["REGU/watch"]


def test_a_new_asset_needs_issuer_regulator_and_governance(world: World) -> None:
    op = set_asset("EUR.JDCL")
    assert world.run(op, sender="JDCL/admin") is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/admin", by=REST) is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/admin", by=[GOV]) is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/admin", by=[*REST, GOV]) is Code.OK
    assert world.supply("EUR.JDCL") == 0
    assert world.attest(100, "EUR.JDCL") is Code.OK


def test_terms_change_by_issuer_and_regulator(world: World) -> None:
    op = set_asset(terms=make_terms(cap=5))
    assert world.run(op, sender="JDCL/admin") is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/admin", by=REST) is Code.OK
    assert world.attest(100) is Code.OK
    assert world.run(world.mint("ALFA/main", 6)) is Code.CAP_EXCEEDED


def test_scale_never_changes_and_the_code_says_currency_and_issuer(world: World) -> None:
    assert world.run(set_asset(scale=3), sender="JDCL/admin", by=REST) is Code.ASSET_IMMUTABLE
    for op in (set_asset(currency="USD"), set_asset(issuer="ALFA")):
        assert world.run(op, sender="JDCL/admin", by=REST) is Code.VALUE_INVALID


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"cap": -1}, Code.AMOUNT_RANGE),
        ({"cap": 10**18}, Code.AMOUNT_RANGE),
        ({"travel_rule_from": -1}, Code.AMOUNT_RANGE),
        ({"holidays": (2, 1)}, Code.VALUE_INVALID),
        ({"holidays": (1, 1)}, Code.VALUE_INVALID),
        ({"minters": ("JDCL/mint", "JDCL/mint")}, Code.VALUE_INVALID),
        ({"treasury": "JDCL/nobody"}, Code.ROLE_MISSING),
        ({"minters": ("ALFA/nobody",)}, Code.ROLE_MISSING),
        ({"treasury": "JDCL/compliance"}, Code.POLICY_WEAK),
        ({"minters": ("ALFA/main",)}, Code.POLICY_WEAK),
        ({"compliance_release": "JDCL/compliance"}, Code.POLICY_WEAK),
        ({"seizure": "JDCL/compliance"}, Code.POLICY_WEAK),
        ({"unpauser": "JDCL/pause"}, Code.POLICY_WEAK),
        ({"treasury": "JDCL/mint"}, Code.ROLE_CONFLICT),
        ({"minters": ("CUST/reserve",)}, Code.ROLE_CONFLICT),
        ({"minters": ("JDCL/mint", "JDCL/treasury")}, Code.ROLE_CONFLICT),
        ({"pauser": "JDCL/unpause"}, Code.ROLE_CONFLICT),
        ({"compliance": "JDCL/release"}, Code.ROLE_CONFLICT),
    ],
)
def test_terms_are_refused_when_roles_do_not_fit(
    world: World, change: dict[str, object], code: Code
) -> None:
    op = set_asset(terms=make_terms(**change))
    assert world.run(op, sender="JDCL/admin", by=REST) is code


@pytest.mark.parametrize(
    ("change", "outgoing", "code"),
    [
        ({"custodian": "JDCL/seizure"}, "CUST/reserve", Code.ROLE_CONFLICT),
        ({"auditor": "CUST/admin"}, "AUDT/sign", Code.ROLE_CONFLICT),
        ({"custodian": "ALFA/admin"}, "CUST/reserve", Code.ROLE_MISSING),
        ({"auditor": "ALFA/admin"}, "AUDT/sign", Code.ROLE_MISSING),
        ({"custodian": "CUST/admin"}, "CUST/reserve", Code.OK),
    ],
)
def test_independent_roles_are_licensed_and_apart(
    world: World, change: dict[str, object], outgoing: str, code: Code
) -> None:
    op = set_asset(terms=make_terms(**change))
    assert world.run(op, sender="JDCL/admin", by=REST) is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/admin", by=[*REST, outgoing]) is code


def test_the_lowest_code_wins_among_role_faults(world: World) -> None:
    """A missing minter, a conflict and a weak treasury in one set of terms."""
    terms = make_terms(treasury="JDCL/compliance", pauser="JDCL/unpause", minters=("ALFA/nobody",))
    op = set_asset(terms=terms, scale=3)
    assert world.run(op, sender="JDCL/admin", by=REST) is Code.POLICY_WEAK
    op = set_asset(terms=replace(terms, treasury="JDCL/treasury"), scale=3)
    assert world.run(op, sender="JDCL/admin", by=REST) is Code.ROLE_CONFLICT
    op = set_asset(terms=make_terms(minters=("ALFA/nobody",)), scale=3)
    assert world.run(op, sender="JDCL/admin", by=REST) is Code.ROLE_MISSING


def test_governance_replaces_a_custodian_that_does_not_agree(world: World) -> None:
    op = set_asset(terms=make_terms(custodian="CUST/admin"))
    assert world.run(op, sender="JDCL/admin", by=[*REST, GOV]) is Code.OK
    assert world.run(world.attestation(5)) is Code.UNAUTHORISED
    assert world.run(world.attestation(5), sender="CUST/admin") is Code.OK


def test_a_new_regulator_signs_beside_the_outgoing_one(world: World) -> None:
    op = set_asset(terms=make_terms(regulator="REGU/admin"))
    assert world.run(op, sender="JDCL/admin", by=["REGU/watch"]) is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/admin", by=["REGU/admin"]) is Code.UNAUTHORISED
    assert world.run(op, sender="JDCL/admin", by=["REGU/admin", "REGU/watch"]) is Code.OK


def test_governance_keys_are_strangers_where_nobody_is_replaced(world: World) -> None:
    assert world.run(set_asset(), sender="JDCL/admin", by=[*REST, GOV]) is (
        Code.UNINVOLVED_SIGNATURE
    )


def test_an_asset_of_an_unknown_issuer_has_no_principal(world: World) -> None:
    op = set_asset("EUR.ZULU")
    assert world.run(op, sender="JDCL/admin", by=[*REST, GOV]) is Code.UNKNOWN_ACCOUNT


def test_an_issuer_needs_the_licence(world: World) -> None:
    op = set_asset("EUR.ALFA")
    assert world.run(op, sender="ALFA/admin", by=[*REST, GOV]) is Code.ROLE_MISSING


def test_the_number_of_assets_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atpar.ledger.members.MAX_ASSETS", 3)
    assert world.run(set_asset("EUR.JDCL"), sender="JDCL/admin", by=[*REST, GOV]) is Code.OK
    assert world.run(set_asset("USD.JDCL"), sender="JDCL/admin", by=[*REST, GOV]) is (
        Code.LIMIT_OF_ENTRIES
    )
    assert world.run(set_asset("EUR.JDCL"), sender="JDCL/admin", by=REST) is Code.OK


def test_supply_pauses_and_reserve_survive_a_change_of_terms(world: World) -> None:
    world.fund("ALFA/main", 100)
    before = world.view.get(records.RESERVES, HKD.encode())
    assert world.run(set_asset(), sender="JDCL/admin", by=REST) is Code.OK
    assert world.view.get(records.RESERVES, HKD.encode()) == before
    assert world.supply() == 100
