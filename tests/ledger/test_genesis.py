"""The genesis document: every inconsistency names its field; a sound one starts the chain."""

import json
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from atpar.ledger.authority import get_params, get_validators
from atpar.ledger.blocks import compute_digest, compute_validators_hash
from atpar.ledger.errors import GenesisInvalid
from atpar.ledger.genesis import (
    GenesisDocument,
    build_genesis,
    check_genesis,
    compute_chain_id,
    parse_genesis,
    render_genesis,
)
from atpar.ledger.invariants import check_invariants
from atpar.ledger.operations import Policy, WeightedKey
from atpar.ledger.types import Role
from tests.ledger.world import (
    World,
    make_certificate,
    make_document,
    make_params,
    make_terms,
    policy_of,
    possess_all,
    public,
    sign_document,
)

Change = Callable[[GenesisDocument], GenesisDocument]


def test_a_sound_document_starts_a_sound_state() -> None:
    genesis = build_genesis(make_document())
    header = genesis.header
    assert (header.height, header.view, header.epoch, header.tx_count) == (0, 0, 0, 0)
    assert header.chain_id == genesis.chain_id == compute_chain_id(genesis.document)
    assert genesis.digest == compute_digest(header)
    assert header.validators_hash == compute_validators_hash(genesis.validators)
    assert header.next_validators_hash == header.validators_hash
    assert check_invariants(genesis.overlay) == []
    assert [v.participant for v in get_validators(genesis.overlay).members] == [
        v.participant for v in genesis.validators.members
    ]
    assert get_params(genesis.overlay).max_window_ms == genesis.document.params.max_window_ms


def test_the_json_form_comes_back_as_the_same_document() -> None:
    document = sign_document(make_document())
    data = render_genesis(document)
    assert parse_genesis(data) == document
    assert data.endswith(b"}\n")
    assert json.loads(data)["assets"][0]["terms"]["cap"] == str(10**15)


def test_signatures_do_not_change_the_chain_id() -> None:
    document = make_document()
    assert compute_chain_id(sign_document(document)) == compute_chain_id(document)
    assert build_genesis(sign_document(document)).digest == build_genesis(document).digest


def test_the_same_document_gives_the_same_root_and_another_another() -> None:
    one, two = build_genesis(make_document()), build_genesis(make_document())
    assert one.header == two.header
    other = build_genesis(make_document(terms=make_terms(cap=7)))
    assert other.header.state_root != one.header.state_root
    assert other.chain_id != one.chain_id


def test_a_sealed_document_has_every_administrators_signature() -> None:
    document = make_document()
    check_genesis(document, sealed=False)
    with pytest.raises(GenesisInvalid, match="signatures: missing: ALFA, BRVO, CHRL, DLTA"):
        check_genesis(document, sealed=True)
    signed = sign_document(document)
    check_genesis(signed, sealed=True)
    partial = replace(signed, signatures=signed.signatures[:3])
    check_genesis(partial, sealed=False)
    with pytest.raises(GenesisInvalid, match="missing: DLTA"):
        check_genesis(partial, sealed=True)


def test_a_signature_over_another_document_does_not_count() -> None:
    signed = sign_document(make_document())
    changed = replace(signed, name="another")
    with pytest.raises(GenesisInvalid, match=r"signatures\[0\]\.signature: ALFA's does not verify"):
        check_genesis(changed, sealed=False)


def entry(name: str, index: int, **changes: object) -> Change:
    def change(document: GenesisDocument) -> GenesisDocument:
        items = list(getattr(document, name))
        items[index] = replace(items[index], **changes)
        return replace(document, **{name: tuple(items)})

    return change


def again(name: str, index: int = 0) -> Change:
    def change(document: GenesisDocument) -> GenesisDocument:
        items = getattr(document, name)
        return replace(document, **{name: (*items, items[index])})

    return change


def signature(index: int, **changes: object) -> Change:
    def change(document: GenesisDocument) -> GenesisDocument:
        return entry("signatures", index, **changes)(sign_document(document))

    return change


def terms(**changes: object) -> Change:
    return entry("assets", 1, terms=make_terms(**changes))


def param(**changes: int) -> Change:
    return lambda document: replace(document, params=make_params(**changes))


WEAK = Policy(tuple(WeightedKey(k, 1) for k in sorted([public("ALFA-a1"), public("ALFA-a2")])), 1)
SMALL_ORDER = (1).to_bytes(32, "little")

CASES: list[tuple[Change, str]] = [
    (lambda d: replace(d, format="atpar-genesis/2"), "format"),
    # parameters
    (param(max_window_ms=1), "params.max_window_ms"),
    (param(tx_id_retention_ms=1), "params.tx_id_retention_ms"),
    (
        param(max_window_ms=2 * 86_400_000, tx_id_retention_ms=86_400_000),
        "params.tx_id_retention_ms",
    ),
    (param(max_block_bytes=1), "params.max_block_bytes"),
    (param(max_block_transactions=0), "params.max_block_transactions"),
    (param(epoch_blocks=0), "params.epoch_blocks"),
    (param(heartbeat_ms=0), "params.heartbeat_ms"),
    (param(delta_ms=0), "params.delta_ms"),
    (param(block_interval_ms=10**9), "params.block_interval_ms"),
    # participants: AUDT, ALFA sorted by code -> ALFA 0, AUDT 1, BRVO 2
    (again("participants"), "participants[8].participant"),
    (entry("participants", 0, participant="CHAIN"), "participants[0].participant"),
    (entry("participants", 0, roles=(Role.BANK, Role.BANK)), "participants[0].roles"),
    (entry("participants", 0, roles=(Role.ISSUER, Role.BANK)), "participants[0].roles"),
    (entry("participants", 0, admin_policy=WEAK), "participants[0].admin_policy"),
    (entry("participants", 0, possessions=()), "participants[0].admin_policy"),
    (
        lambda d: entry("participants", 0, possessions=d.participants[0].possessions[::-1])(d),
        "participants[0].possessions",
    ),
    (
        entry(
            "participants",
            2,
            admin_policy=policy_of(2, ["ALFA-a1", "BRVO-a2"]),
            possessions=possess_all("BRVO", ["ALFA-a1", "BRVO-a2"]),
        ),
        "participants[2].admin_policy",
    ),
    # validators
    (lambda d: replace(d, validators=d.validators[:3]), "validators"),
    (entry("validators", 1, participant="ALFA"), "validators[1].participant"),
    (entry("validators", 1, participant="ZULU"), "validators[1].participant"),
    (entry("validators", 1, address="127.0.0.1:7101"), "validators[1].address"),
    (entry("validators", 1, address="127.0.0.1:0"), "validators[1].address"),
    (entry("validators", 1, address="127.0.0.1:70000"), "validators[1].address"),
    (
        entry("validators", 1, root_certificate=make_certificate("ALFA")),
        "validators[1].root_certificate",
    ),
    (entry("validators", 1, root_certificate="nonsense"), "validators[1].root_certificate"),
    (entry("validators", 1, root_certificate="näive"), "validators[1].root_certificate"),
    (entry("validators", 1, vote_key=public("ALFA-vote")), "validators[1].vote_key"),
    (entry("validators", 1, admin_key=public("BRVO-vote")), "validators[1].admin_key"),
    (entry("validators", 1, vote_key=SMALL_ORDER), "validators[1].vote_key"),
    (entry("validators", 1, vote_possession=bytes(64)), "validators[1].vote_key"),
    (
        entry("validators", 1, admin_key=public("BRVO-a1"), admin_possession=bytes(64)),
        "validators[1].admin_possession",
    ),
    # observers
    (entry("observers", 0, participant="ZULU"), "observers[0].participant"),
    (entry("observers", 0, participant="ALFA"), "observers[0].participant"),
    (
        entry("observers", 0, root_certificate=make_certificate("ALFA")),
        "observers[0].root_certificate",
    ),
    (entry("observers", 0, root_certificate="x"), "observers[0].root_certificate"),
    # accounts: ALFA/main 0
    (entry("accounts", 0, account="ZULU/main"), "accounts[0].account"),
    (entry("accounts", 0, account="ALFA/admin"), "accounts[0].account"),
    (entry("accounts", 0, account="CHAIN/governance"), "accounts[0].account"),
    (again("accounts"), "accounts[18].account"),
    (entry("accounts", 0, possessions=()), "accounts[0].policy"),
    (entry("accounts", 0, policy=policy_of(2, ["ALFA-pay"])), "accounts[0].policy"),
    # assets: CNH.JDCL 0, HKD.JDCL 1
    (again("assets"), "assets[2].asset"),
    (entry("assets", 1, currency="USD"), "assets[1].asset"),
    (entry("assets", 1, asset="HKD.ALFA", issuer="ALFA"), "assets[1].issuer"),
    (entry("assets", 1, asset="HKD.ZULU", issuer="ZULU"), "assets[1].issuer"),
    (terms(cap=-1), "assets[1].terms.cap"),
    (terms(travel_rule_from=10**18), "assets[1].terms.travel_rule_from"),
    (terms(holidays=(2, 1)), "assets[1].terms.holidays"),
    (terms(minters=("JDCL/mint", "ALFA/main")), "assets[1].terms.minters"),
    (terms(minters=("ALFA/main", "JDCL/mint")), "assets[1].terms.minters[0]"),
    (terms(custodian="CUST/nobody"), "assets[1].terms.custodian"),
    (terms(custodian="ALFA/admin"), "assets[1].terms.custodian"),
    (terms(auditor="CUST/admin"), "assets[1].terms.auditor"),
    (terms(regulator="ALFA/admin"), "assets[1].terms.regulator"),
    (terms(treasury="JDCL/compliance"), "assets[1].terms.treasury"),
    (terms(treasury="JDCL/mint"), "assets[1].terms.minters[0]"),
    (terms(unpauser="JDCL/pause"), "assets[1].terms.unpauser"),
    # quotas
    (entry("quotas", 0, asset="EUR.JDCL"), "quotas[0].asset"),
    (entry("quotas", 0, minter="ALFA/main"), "quotas[0].minter"),
    (entry("quotas", 0, capacity=-1), "quotas[0].capacity"),
    (entry("quotas", 0, refill_per_day=10**18), "quotas[0].refill_per_day"),
    (again("quotas"), "quotas[2]"),
    # signatures
    (signature(1, participant="ALFA"), "signatures[1].participant"),
    (signature(1, participant="ECHO"), "signatures[1].participant"),
    (signature(1, signature=bytes(64)), "signatures[1].signature"),
]


@pytest.mark.parametrize(
    ("change", "field"), CASES, ids=[f"{i}-{f}" for i, (_, f) in enumerate(CASES)]
)
def test_an_inconsistency_is_named_by_its_field(change: Change, field: str) -> None:
    document = change(make_document())
    with pytest.raises(GenesisInvalid) as caught:
        check_genesis(document, sealed=False)
    assert caught.value.field == field
    with pytest.raises(GenesisInvalid):
        build_genesis(document)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "document"),
        (b"{", "document"),
        (b"[]", "document"),
        (b"\xff\xfe", "document"),
        (b"[" * 100_000, "document"),
        (b'{"format": 1, "format": 2}', "format"),
        (b'{"format": NaN}', "document"),
        (b"{}", "format"),
    ],
)
def test_what_is_not_a_document_is_refused(data: bytes, field: str) -> None:
    with pytest.raises(GenesisInvalid) as caught:
        parse_genesis(data)
    assert caught.value.field == field


def test_json_of_the_wrong_shape_names_the_path() -> None:
    value = json.loads(render_genesis(make_document()))
    value["assets"][0]["terms"]["custodian"] = "no/account/this"
    with pytest.raises(GenesisInvalid) as caught:
        parse_genesis(json.dumps(value).encode())
    assert caught.value.field == "assets[0].terms.custodian"
    value = json.loads(render_genesis(make_document()))
    value["extra"] = 1
    with pytest.raises(GenesisInvalid) as caught:
        parse_genesis(json.dumps(value).encode())
    assert caught.value.field == "extra"
    value = json.loads(render_genesis(make_document()))
    del value["validators"][2]["vote_key"]
    with pytest.raises(GenesisInvalid) as caught:
        parse_genesis(json.dumps(value).encode())
    assert caught.value.field == "validators[2].vote_key"


def test_the_first_block_follows_the_genesis_header() -> None:
    world = World()
    assert world.fund("ALFA/main", 1) is None
    assert world.executed[0].header.parent == world.genesis.digest
    assert world.executed[0].header.height == 1
