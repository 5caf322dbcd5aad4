"""Proofs verify with the genesis document alone, and nothing that was altered does."""

import functools
import json
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from atpar.ledger import limits, records
from atpar.ledger.blocks import compute_digest
from atpar.ledger.certificates import Proposition
from atpar.ledger.codec import encode
from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.execute import Template, build_block
from atpar.ledger.hashing import SignKind
from atpar.ledger.limits import HOUR_MS
from atpar.ledger.operations import Void
from atpar.ledger.proofs import (
    PROOF_FILE,
    AccountClaim,
    AccountProof,
    BalanceProof,
    BoundaryStep,
    ExpiryClaim,
    ExpiryProof,
    FinalityProof,
    Proof,
    ProofFile,
    ReceiptClaim,
    ReceiptProof,
    RecordClaim,
    RecordProof,
    SolvencyClaim,
    SolvencyProof,
    TrustRoot,
    Verified,
    follow_epochs,
    parse_proof,
    render_proof,
    verify_finality,
    verify_proof,
)
from atpar.ledger.proving import (
    build_account_proof,
    build_expiry_proof,
    build_proof_file,
    build_receipt_proof,
    build_record_proof,
    build_solvency_proof,
)
from atpar.ledger.state import Base, MemoryBacking, Overlay, Section
from atpar.ledger.stateroot import AssetRow, SectionRoot, StateTable, compute_state_root
from atpar.ledger.tree import TreeChange, compute_asset_tree, compute_section_tree, update_tree
from atpar.ledger.treeproofs import prove
from tests.ledger.finality import (
    finalize,
    get_trust,
    list_headers,
    make_boundary,
    make_set,
    propose,
    sign_finalization,
)
from tests.ledger.world import (
    BANKS,
    CNH,
    HKD,
    START_MS,
    World,
    make_document,
    make_params,
    transfer,
)


@functools.cache
def shared() -> World:
    """A world with money, several payments in one block, and an expired window."""
    world = World()
    world.fund("ALFA/main", 1_000)
    world.fund("BRVO/main", 77, CNH)
    world.block(
        *(
            world.make(transfer("ALFA/main", f"{bank}/main", amount), sender="ALFA/main")
            for bank, amount in (("BRVO", 10), ("CHRL", 20), ("DLTA", 5_000), ("BRVO", 1))
        )
    )
    world.advance(3 * HOUR_MS)
    world.block(world.make(Void(), sender="ALFA/main"))
    return world


def receipt_proof(index: int = 1, *, top: int | None = None) -> ReceiptProof:
    world = shared()
    executed = world.executed[-2]
    height = executed.header.height
    finality = finalize(world, height, top=top)
    return build_receipt_proof(executed.block, executed.receipts, index, finality)


def final() -> FinalityProof:
    return finalize(shared(), shared().header.height)


def expiry_proof() -> ExpiryProof:
    proof = build_expiry_proof(
        shared().view,
        sender="ALFA/main",
        tx_id=b"\xee" * 16,
        valid_until_ms=START_MS + HOUR_MS + 5,
        finality=final(),
    )
    assert proof is not None
    return proof


PROOFS: dict[str, Callable[[], Proof]] = {
    "receipt": receipt_proof,
    "receipt-below-its-finalization": lambda: receipt_proof(top=shared().header.height),
    "account": lambda: build_account_proof(shared().view, "ALFA/main", [HKD, CNH], final()),
    "solvency": lambda: build_solvency_proof(shared().view, final()),
    "record": lambda: build_record_proof(shared().view, records.PARAMS, records.CURRENT, final()),
    "absence": lambda: build_record_proof(shared().view, records.PARTICIPANTS, b"NOPE", final()),
    "expiry": expiry_proof,
}


def verify(proof: Proof) -> Verified:
    return verify_proof(build_proof_file(proof), get_trust(shared()))


# ---- what honest proofs show


def test_receipt_proof_shows_payment_outcome_time_and_signers() -> None:
    verified = verify(receipt_proof(1))
    executed = shared().executed[-2]
    claim = verified.claim
    assert isinstance(claim, ReceiptClaim)
    assert claim.transaction == executed.transactions[1]
    assert claim.receipt == executed.receipts[1]
    assert claim.code_name == "OK"
    assert verified.chain_id == shared().chain_id
    assert verified.block.height == executed.header.height
    assert verified.block.timestamp_ms == executed.header.timestamp_ms
    assert verified.block.digest == executed.digest
    assert verified.block.signers == ("ALFA", "BRVO", "CHRL")
    assert (verified.block.validators, verified.block.quorum) == (4, 3)


def test_failed_payment_has_a_receipt_proof_too() -> None:
    claim = verify(receipt_proof(2)).claim
    assert isinstance(claim, ReceiptClaim)
    assert claim.code_name == "INSUFFICIENT_FUNDS"
    assert claim.receipt.failed_op == 0


def test_code_from_a_later_version_is_shown_by_number() -> None:
    claim = verify(receipt_proof(1)).claim
    assert isinstance(claim, ReceiptClaim)
    unknown = ReceiptClaim(claim.transaction, replace(claim.receipt, code=998), 1)
    assert unknown.code_name == "CODE_998"


def test_every_transaction_of_a_block_has_a_proof() -> None:
    for index in range(4):
        claim = verify(receipt_proof(index, top=shared().header.height)).claim
        assert isinstance(claim, ReceiptClaim)
        assert claim.index == index


def test_account_proof_shows_balances_beside_the_supply() -> None:
    claim = verify(PROOFS["account"]()).claim
    assert isinstance(claim, AccountClaim)
    assert claim.account == "ALFA/main"
    assert [(asset, balance.posted) for asset, balance in claim.balances] == [(CNH, 0), (HKD, 969)]
    assert [(row.posted, row.supply, row.attested) for row in claim.assets] == [
        (77, 77, 77),
        (1_000, 1_000, 1_000),
    ]


def test_account_without_an_entry_is_proven_to_hold_nothing() -> None:
    claim = verify(build_account_proof(shared().view, "ZZZZ/none", [HKD], final())).claim
    assert isinstance(claim, AccountClaim)
    assert claim.balances == ((HKD, records.NO_BALANCE),)


def test_solvency_proof_shows_every_asset() -> None:
    claim = verify(PROOFS["solvency"]()).claim
    assert isinstance(claim, SolvencyClaim)
    assert [(row.asset, row.posted) for row in claim.assets] == [(CNH, 77), (HKD, 1_000)]
    assert all(row.as_of_ms >= START_MS for row in claim.assets)


def test_record_proof_shows_a_record_of_every_proven_section() -> None:
    shown = 0
    for section in records.PROVEN_SECTIONS:
        for key, record in shared().view.scan(section, b""):
            claim = verify(build_record_proof(shared().view, section, key, final())).claim
            assert claim == RecordClaim(section.name, key, record)
            shown += 1
    assert shown > 20


def test_absent_record_is_proven_absent() -> None:
    claim = verify(build_record_proof(shared().view, records.HOLDS, bytes(32), final())).claim
    assert claim == RecordClaim("holds", bytes(32), None)


def test_expiry_proof_shows_that_a_transaction_never_ran() -> None:
    claim = verify(expiry_proof()).claim
    assert claim == ExpiryClaim("ALFA/main", b"\xee" * 16, START_MS + HOUR_MS + 5)


def test_expiry_in_an_hour_without_any_transaction_is_provable() -> None:
    proof = build_expiry_proof(
        shared().view,
        sender="ALFA/main",
        tx_id=bytes(16),
        valid_until_ms=START_MS + 2 * HOUR_MS,
        finality=final(),
    )
    assert proof is not None
    assert proof.used == ()
    assert isinstance(verify(proof).claim, ExpiryClaim)


@pytest.mark.parametrize("name", PROOFS)
def test_proof_survives_bytes_and_json(name: str) -> None:
    file = build_proof_file(PROOFS[name]())
    assert PROOF_FILE.decode(encode(file)) == file
    assert parse_proof(render_proof(file)) == file


def test_block_at_height_zero_is_proven_by_a_later_finalization() -> None:
    world = shared()
    headers = list_headers(world)
    assert (
        verify_finality(
            finalize(world, 0, top=3), chain_id=world.chain_id, validators=world.genesis.validators
        )
        == headers[0]
    )


# ---- every byte counts


def list_alterations(data: bytes, masks: tuple[int, ...]) -> Iterator[bytes]:
    for position, byte in enumerate(data):
        for mask in masks:
            yield data[:position] + bytes([byte ^ mask]) + data[position + 1 :]


@pytest.mark.parametrize("name", PROOFS)
def test_no_altered_byte_of_a_proof_passes(name: str) -> None:
    trust, data = get_trust(shared()), encode(build_proof_file(PROOFS[name]()))
    assert verify_proof(PROOF_FILE.decode(data), trust)
    for altered in list_alterations(data, (0x01, 0x80)):
        with pytest.raises((NonCanonical, ProofInvalid)):
            verify_proof(PROOF_FILE.decode(altered), trust)


@pytest.mark.no_cover
def test_no_flipped_bit_of_a_proof_file_passes() -> None:
    trust, data = get_trust(shared()), render_proof(build_proof_file(receipt_proof()))
    assert verify_proof(parse_proof(data), trust)
    for altered in list_alterations(data, tuple(1 << bit for bit in range(8))):
        with pytest.raises(ProofInvalid):
            verify_proof(parse_proof(altered), trust)


def test_proof_file_may_be_laid_out_in_another_way() -> None:
    data = render_proof(build_proof_file(receipt_proof()))
    value = json.loads(data)
    assert parse_proof(json.dumps(value, indent=1).encode()) == parse_proof(data)
    assert parse_proof(json.dumps(value, sort_keys=True).encode()) == parse_proof(data)
    value["proof"]["index"] = str(value["proof"]["index"])
    with pytest.raises(ProofInvalid, match="not as proofs are written"):
        parse_proof(json.dumps(value).encode())


@pytest.mark.parametrize("name", PROOFS)
def test_no_shortened_or_extended_proof_passes(name: str) -> None:
    data = encode(build_proof_file(PROOFS[name]()))
    for altered in (data[:-1], data[1:], data + b"\0", data + data, b""):
        with pytest.raises(NonCanonical):
            PROOF_FILE.decode(altered)


# ---- finality


def check(proof: FinalityProof) -> None:
    world = shared()
    verify_finality(proof, chain_id=world.chain_id, validators=world.genesis.validators)


def test_quorum_is_needed() -> None:
    check(finalize(shared(), 3, signers=(0, 1, 2, 3)))
    with pytest.raises(ProofInvalid, match="signers: 2, the quorum is 3"):
        check(finalize(shared(), 3, signers=(0, 1)))


def test_notarize_votes_prove_nothing() -> None:
    world = shared()
    header = list_headers(world)[3]
    notarized = sign_finalization(world.chain_id, propose(header), kind=SignKind.NOTARIZE)
    with pytest.raises(ProofInvalid, match=r"signatures\[0\]"):
        check(FinalityProof(notarized, (header,)))


def test_finalization_of_another_chain_proves_nothing() -> None:
    world = shared()
    header = list_headers(world)[3]
    foreign = sign_finalization(bytes(32), propose(header))
    with pytest.raises(ProofInvalid, match=r"signatures\[0\]"):
        check(FinalityProof(foreign, (header,)))
    with pytest.raises(ProofInvalid, match="chain"):
        verify_finality(finalize(world, 3), chain_id=bytes(32), validators=world.genesis.validators)


def test_headers_must_link_without_a_gap() -> None:
    proof = finalize(shared(), 2, top=5)
    check(proof)
    for headers in (
        proof.headers[1:],
        proof.headers[:1] + proof.headers[2:],
        proof.headers[:2] + proof.headers[1:],
        tuple(reversed(proof.headers)),
        (*proof.headers, proof.headers[0]),
    ):
        with pytest.raises(ProofInvalid):
            check(replace(proof, headers=headers))


def test_view_of_the_finalization_is_the_views_of_its_block() -> None:
    world = shared()
    header = list_headers(world)[3]
    for wrong in ({"view": header.view + 1}, {"view": header.view - 1}, {"epoch": 1}):
        signed = sign_finalization(world.chain_id, replace(propose(header), **wrong))
        with pytest.raises(ProofInvalid, match="finalization: of epoch"):
            check(FinalityProof(signed, (header,)))


def test_header_of_another_version_is_refused() -> None:
    world = shared()
    header = replace(list_headers(world)[3], version=2)
    signed = sign_finalization(world.chain_id, propose(header))
    with pytest.raises(ProofInvalid, match="version 2"):
        check(FinalityProof(signed, (header,)))


def test_outsiders_signatures_prove_nothing() -> None:
    world = shared()
    header = list_headers(world)[3]
    banks = ("EEEE", "FFFF", "GGGG", "HHHH")
    signed = sign_finalization(world.chain_id, propose(header), banks=banks)
    with pytest.raises(ProofInvalid, match=r"signatures\[0\]"):
        check(FinalityProof(signed, (header,)))


# ---- validator sets from epoch to epoch

SETS = (
    ("ALFA", "BRVO", "CHRL", "DLTA"),
    ("ALFA", "BRVO", "CHRL", "EEEE"),
    ("EEEE", "FFFF", "GGGG", "HHHH", "IIII", "JJJJ", "KKKK"),
)


def make_steps() -> list:
    """Boundaries of two epochs; the second was proposed again in later views."""
    header = list_headers(shared())[4]
    sets = [make_set(epoch, banks) for epoch, banks in enumerate(SETS)]
    first = make_boundary(header, sets[0], sets[1])
    later = replace(header, height=40, parent=bytes(32))
    quorum = SETS[1]
    return [first, make_boundary(later, sets[1], sets[2], banks=quorum, again_after=3)]


def follow(steps: list) -> object:
    return follow_epochs(steps, get_trust(shared()))[-1].validators


def test_validator_sets_are_followed_from_genesis() -> None:
    assert follow([]) == shared().genesis.validators
    assert follow(make_steps()) == make_set(2, SETS[2])


def test_proof_of_a_later_epoch_verifies_through_its_steps() -> None:
    world, steps = shared(), make_steps()
    last = make_set(2, SETS[2])
    step = make_boundary(list_headers(world)[5], last, last, banks=SETS[2])
    header = replace(step.boundary.headers[0], next_validators_hash=bytes(32))
    header = replace(header, state_root=world.header.state_root)
    signed = sign_finalization(world.chain_id, propose(header), signers=range(5), banks=SETS[2])
    proof = build_solvency_proof(world.view, FinalityProof(signed, (header,)))
    file = build_proof_file(proof, steps)
    verified = verify_proof(file, get_trust(world))
    assert verified.block.epoch == 2
    assert verified.block.signers == SETS[2][:5]
    for wrong in (replace(file, epochs=()), replace(file, epochs=file.epochs[:1])):
        with pytest.raises(ProofInvalid):
            verify_proof(wrong, get_trust(world))
    checkpoint = TrustRoot(world.chain_id, last)
    short = verify_proof(replace(file, epochs=()), checkpoint)
    assert (short.block, short.claim) == (verified.block, verified.claim)
    assert [opening.validators for opening in short.epochs] == [last]


def test_step_that_does_not_follow_is_refused() -> None:
    first, second = make_steps()
    header = list_headers(shared())[4]
    genesis_set = make_set(0, SETS[0])
    for steps, message in (
        ([second], "epoch 1"),
        ([first, first], "epoch 0"),
        ([replace(first, validators=make_set(1, SETS[0]))], "names another set"),
        ([replace(first, validators=make_set(2, SETS[1]))], "cannot follow"),
        ([make_boundary(header, genesis_set, make_set(1, ()))], "cannot follow"),
        ([make_boundary(header, genesis_set, genesis_set)], "is not the last"),
    ):
        with pytest.raises(ProofInvalid, match=message):
            follow(steps)


def test_boundary_cannot_be_final_before_its_own_view() -> None:
    header = list_headers(shared())[4]
    step = make_boundary(header, make_set(0, SETS[0]), make_set(1, SETS[1]), again_after=-1)
    with pytest.raises(ProofInvalid, match="finalization: of epoch 0"):
        follow([step])


# ---- lies that are signed over by nobody


def refuse(proof: Proof, message: str) -> None:
    with pytest.raises(ProofInvalid, match=message):
        verify(proof)


def test_receipt_of_another_transaction_is_refused() -> None:
    proof = receipt_proof(1)
    refuse(replace(proof, receipt=receipt_proof(0).receipt), "of another transaction")
    refuse(replace(proof, envelope=receipt_proof(0).envelope), "of another transaction")
    refuse(replace(proof, envelope=b"\x00"), "envelope: ")
    refuse(replace(proof, index=2), "path: leads to")
    refuse(replace(proof, index=4), "index 4 of 4")
    refuse(replace(proof, receipt=replace(proof.receipt, code=254)), "path: leads to")
    refuse(replace(proof, tx_path=proof.tx_path[:1]), "too few")
    refuse(replace(proof, tx_path=(*proof.tx_path, bytes(32))), "too many")


def test_receipt_under_another_blocks_header_is_refused() -> None:
    refuse(replace(receipt_proof(1), finality=finalize(shared(), 4)), "path|index")


def test_table_must_be_the_one_in_the_header() -> None:
    proof = PROOFS["solvency"]()
    assert isinstance(proof, SolvencyProof)
    table = proof.table
    row = table.assets[1]
    richer = replace(row, attested=row.attested + 1)
    lower = replace(row, posted=row.posted - 1, supply=row.supply - 1)
    for changed in (
        replace(table, assets=(table.assets[0], richer)),
        replace(table, assets=(table.assets[0], lower)),
        replace(table, assets=table.assets[:1]),
        replace(table, sections=table.sections[1:]),
        StateTable((), ()),
    ):
        refuse(replace(proof, table=changed), "table: hashes to")
    for changed in (
        replace(table, assets=table.assets[::-1]),
        replace(table, assets=(row, row)),
        replace(table, sections=table.sections[::-1]),
    ):
        refuse(replace(proof, table=changed), "not in ascending order")
    refuse(replace(proof, finality=finalize(shared(), 3)), "table: hashes to")


def test_state_in_which_balances_exceed_supply_is_refused_though_certified() -> None:
    """A quorum of liars could sign it; a verifier that adds up still refuses."""
    world = shared()
    table = build_solvency_proof(world.view, final()).table
    unsound = replace(table, assets=(replace(table.assets[0], supply=table.assets[0].supply + 1),))

    header = replace(world.header, state_root=compute_state_root(unsound.sections, unsound.assets))
    finality = FinalityProof(sign_finalization(world.chain_id, propose(header)), (header,))
    refuse(SolvencyProof(unsound, finality), "balances sum to 77, supply 78")


def test_balance_of_another_account_or_asset_is_refused() -> None:
    proof = build_account_proof(shared().view, "ALFA/main", [HKD], final())
    other = build_account_proof(shared().view, "BRVO/main", [CNH, HKD], final())
    refuse(replace(proof, account="BRVO/main"), "path|root")
    refuse(replace(proof, balances=other.balances[1:]), "path|root")
    refuse(replace(proof, balances=(replace(proof.balances[0], asset=CNH),)), "root")
    refuse(replace(proof, balances=(replace(proof.balances[0], asset="USD.NONE"),)), "no asset")
    refuse(replace(proof, balances=proof.balances * 2), "not in ascending order")


def test_balance_that_counts_less_than_it_says_is_refused() -> None:
    proof = build_account_proof(shared().view, "ALFA/main", [HKD], final())
    (entry,) = proof.balances
    leaf = entry.proof.leaf
    assert leaf is not None
    for changed in (
        replace(leaf, amount=leaf.amount - 1),
        replace(leaf, value=encode(records.Balance(2**40, 0, 0, 0, 0, 0))),
    ):
        lie = replace(entry, proof=replace(entry.proof, leaf=changed))
        refuse(replace(proof, balances=(lie,)), "root")


def certify(
    sections: dict[Section, dict[bytes, bytes]], rows: tuple[AssetRow, ...] = ()
) -> tuple[Overlay, StateTable, FinalityProof]:
    """Return a state of these very bytes, with its table and a finalization over it."""
    world, overlay = shared(), Overlay(Base(MemoryBacking()))
    roots = []
    for section, entries in sections.items():
        changes = [TreeChange(key, value) for key, value in entries.items()]
        root = update_tree(overlay, compute_section_tree(section.id), changes)
        roots.append(SectionRoot(section.id, root.hash))
    table = StateTable(tuple(roots), rows)
    header = replace(world.header, state_root=compute_state_root(table.sections, table.assets))
    finality = FinalityProof(sign_finalization(world.chain_id, propose(header)), (header,))
    return overlay, table, finality


def test_certified_leaf_whose_amount_is_not_its_balance_is_refused() -> None:
    tree, value = compute_asset_tree(HKD), encode(records.Balance(500, 0, 0, 0, 0, 0))
    overlay = Overlay(Base(MemoryBacking()))
    root = update_tree(overlay, tree, [TreeChange(b"ALFA/main", value, 3)])
    _, table, finality = certify({}, (AssetRow(HKD, root.hash, 3, 3, 0, 0),))
    tree_proof = prove(overlay, tree, b"ALFA/main", lambda _: value)
    proof = AccountProof("ALFA/main", (BalanceProof(HKD, tree_proof),), table, finality)
    refuse(proof, "posted 500, counted 3")


@pytest.mark.parametrize("value", [b"", b"\xc0", b"\x91\xa4ALFA\x00", b"\xdc\x00\x01\xa4ALFA"])
def test_certified_record_that_does_not_decode_is_refused(value: bytes) -> None:
    overlay, table, finality = certify({records.KEYS: {b"k": value}})
    tree_proof = prove(overlay, compute_section_tree(records.KEYS.id), b"k", lambda _: value)
    proof = RecordProof(records.KEYS.id, b"k", tree_proof, table, finality)
    refuse(proof, "keys: ")
    refuse(replace(proof, section=records.HOLDS.id), "table: without section")


def test_expiry_is_not_provable_without_the_chains_parameters() -> None:
    overlay, table, finality = certify({records.PARAMS: {}, records.ID_BUCKETS: {}})
    nothing = prove(overlay, compute_section_tree(records.PARAMS.id), records.CURRENT, bytes)
    proof = replace(
        expiry_proof(), params=nothing, bucket=nothing, used=(), table=table, finality=finality
    )
    refuse(proof, "params: the state has none")


def test_section_outside_the_state_root_is_refused() -> None:
    proof = build_record_proof(shared().view, records.PARAMS, records.CURRENT, final())
    refuse(replace(proof, section=records.BALANCES.id), "not covered")
    refuse(replace(proof, section=200), "not covered")
    refuse(replace(proof, section=records.ASSETS.id), "root")
    refuse(replace(proof, key=b"next"), "path|root")


def test_expiry_proof_hides_no_execution() -> None:
    world, proof = shared(), expiry_proof()
    used = proof.used[0]
    refuse(replace(proof, sender=used.sender, tx_id=used.tx_id), "was executed in block")
    for listed in (proof.used[1:], proof.used[::-1], (*proof.used, used), ()):
        refuse(replace(proof, used=listed), "used: ")
    refuse(replace(proof, valid_until_ms=world.header.timestamp_ms), "has not passed")
    refuse(replace(proof, valid_until_ms=START_MS + 2 * HOUR_MS), "path|root")
    refuse(replace(proof, valid_until_ms=START_MS - 800 * HOUR_MS), "forgotten at")
    other = build_record_proof(world.view, records.PARAMS, b"next", final()).proof
    refuse(replace(proof, params=other), "params: the state has none|path")


def test_proof_of_one_chain_is_refused_by_another_genesis() -> None:
    other = World(replace(make_document(), name="another"))
    with pytest.raises(ProofInvalid, match="chain"):
        verify_proof(build_proof_file(receipt_proof()), get_trust(other))


# ---- the file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object"),
        (b"{}", "format: missing"),
        (b'{"format":"atpar-proof/2","epochs":[],"proof":{}}', "format: expected one of"),
        (b'{"format":"atpar-proof/1","epochs":[],"proof":{}}', "proof.type: unknown type"),
        (b'{"format":"atpar-proof/1","epochs":{},"proof":{}}', "epochs: expected a list"),
        (b'{"format":"atpar-proof/1","format":"atpar-proof/1"}', "format: given twice"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_text_that_is_no_proof_is_refused_by_field(text: bytes, message: str) -> None:
    with pytest.raises(ProofInvalid, match=message):
        parse_proof(text)


def test_unknown_fields_are_refused() -> None:
    text = render_proof(build_proof_file(receipt_proof()))
    with pytest.raises(ProofInvalid, match=r"proof\.note: unknown field"):
        parse_proof(text.replace(b'"type": "receipt_proof",', b'"type": "receipt_proof","note":1,'))


def test_checksum_must_be_that_of_the_proof() -> None:
    file = build_proof_file(receipt_proof(0))
    other = build_proof_file(receipt_proof(1))
    with pytest.raises(ProofInvalid, match="checksum"):
        verify_proof(replace(file, checksum=other.checksum), get_trust(shared()))


def test_format_of_the_file_is_fixed() -> None:
    file = build_proof_file(receipt_proof())
    with pytest.raises(NonCanonical):
        PROOF_FILE.decode(encode(replace(file, format="atpar-proof/2")))
    assert isinstance(file, ProofFile)


def test_digest_of_a_proposition_must_be_that_of_the_first_header() -> None:
    world = shared()
    header = list_headers(world)[3]
    wrong = Proposition(header.epoch, header.view, 0, compute_digest(list_headers(world)[4]))
    with pytest.raises(ProofInvalid, match=r"headers\[0\]: not the block"):
        check(FinalityProof(sign_finalization(world.chain_id, wrong), (header,)))


# ---- bounds, at the limit and one past it


def refused_in_bytes(file: ProofFile) -> bool:
    try:
        PROOF_FILE.decode(encode(file))
    except NonCanonical:
        return True
    return False


def with_count(what: str, count: int) -> ProofFile:
    """Return a well-formed file, true or not, with so many entries in one place."""
    receipt, account, expiry = receipt_proof(), PROOFS["account"](), expiry_proof()
    assert isinstance(account, AccountProof)
    (header,) = receipt.finality.headers
    match what:
        case "headers":
            return build_proof_file(
                replace(receipt, finality=replace(receipt.finality, headers=(header,) * count))
            )
        case "epochs":
            step = make_steps()[0]
            small = replace(step, validators=make_set(1, ()))
            return build_proof_file(receipt, [small] * count)
        case "path":
            return build_proof_file(replace(receipt, tx_path=(bytes(32),) * count))
        case "balances":
            return build_proof_file(replace(account, balances=account.balances[:1] * count))
        case "assets":
            table = replace(account.table, assets=account.table.assets[:1] * count)
            return build_proof_file(replace(account, table=table))
        case _:
            return build_proof_file(replace(expiry, used=expiry.used[:1] * count))


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("headers", limits.MAX_PROOF_HEADERS),
        ("epochs", limits.MAX_EPOCH_STEPS),
        ("path", 14),
        ("balances", limits.MAX_ASSETS),
        ("assets", limits.MAX_ASSETS),
        ("used", limits.MAX_LISTED_IDS),
    ],
)
def test_number_of_entries_is_bounded(what: str, limit: int) -> None:
    assert not refused_in_bytes(with_count(what, limit))
    assert refused_in_bytes(with_count(what, limit + 1))


def test_proof_without_headers_or_balances_is_refused() -> None:
    assert refused_in_bytes(with_count("headers", 0))
    assert refused_in_bytes(with_count("balances", 0))


def test_file_longer_than_the_bound_is_refused_unread() -> None:
    with pytest.raises(NonCanonical, match="at most"):
        PROOF_FILE.decode(bytes(limits.MAX_PROOF_BYTES + 1))
    with pytest.raises(ProofInvalid, match="at most"):
        parse_proof(bytes(2 * limits.MAX_PROOF_BYTES + 1))


def test_expiry_proof_is_left_out_where_the_list_is_too_long() -> None:
    overlay = Overlay(shared().view)
    hour = records.hour_key(START_MS + HOUR_MS + 5)
    bucket = overlay.get(records.ID_BUCKETS, hour)
    assert bucket is not None
    overlay.put(records.ID_BUCKETS, hour, replace(bucket, count=limits.MAX_LISTED_IDS + 1))
    assert (
        build_expiry_proof(
            overlay,
            sender="ALFA/main",
            tx_id=bytes(16),
            valid_until_ms=START_MS + HOUR_MS + 5,
            finality=final(),
        )
        is None
    )


# ---- epochs as the ledger makes them


def test_validator_sets_are_followed_through_the_epochs_of_a_real_chain() -> None:
    """Blocks of a chain with short epochs: the state names the sets, the headers carry them."""
    world = World(make_document(params=make_params(epoch_blocks=4)))
    for _ in range(11):
        header = world.header
        ended = header.next_validators_hash != header.validators_hash
        template = Template(
            epoch=header.epoch + ended,
            view=1 if ended else header.view + 1,
            parent=header,
            parent_digest=world.digest,
            timestamp_ms=header.timestamp_ms + 1,
            proposer="ALFA",
        )
        tx = world.make(Void(), sender="ALFA/main")
        built, _ = build_block(world.view, template, [tx], chain_id=world.chain_id)
        world.adopt(built)
    headers = list_headers(world)
    boundaries = [h for h in headers if h.next_validators_hash != h.validators_hash]
    assert [header.epoch for header in boundaries] == [0, 1]
    steps = [
        BoundaryStep(finalize(world, header.height), make_set(header.epoch + 1, BANKS))
        for header in boundaries
    ]
    proof = build_solvency_proof(world.view, finalize(world, world.header.height))
    verified = verify_proof(build_proof_file(proof, steps), get_trust(world))
    assert verified.block.epoch == 2
    for wrong in (steps[:1], steps[1:], steps[::-1], []):
        with pytest.raises(ProofInvalid):
            verify_proof(build_proof_file(proof, wrong), get_trust(world))
