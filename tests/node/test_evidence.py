"""Evidence is found, kept through restarts within a bound, and convinces without a node."""

import json

import pytest

from atpar.ledger.codes import Code
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.evidence import Evidence
from atpar.ledger.jsonform import to_json
from atpar.ledger.operations import RecordEvidence
from atpar.ledger.proofs import (
    RecordClaim,
    TrustRoot,
    compute_trust_root,
    parse_proof,
    verify_proof,
)
from atpar.ledger.records import RecordedEvidence, evidence_key
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote
from atpar.node.evidence import (
    build_evidence_file,
    compute_evidence_id,
    parse_evidence_file,
    render_evidence_file,
    verify_evidence_file,
)
from atpar.node.kv import MemoryKeyValue
from atpar.node.limits import MAX_EVIDENCE_PER_VALIDATOR
from atpar.node.store import Store, write_genesis
from tests.altering import flip
from tests.ledger.evidence import make_pair
from tests.ledger.world import World, make_document
from tests.node.api_client import Harness
from tests.node.test_epochs import (
    DOCUMENT,
    EPOCH_BLOCKS,
    change_set,
    make_epochs,
    pay_through,
)

TRUST = compute_trust_root(make_document())


def make_store() -> tuple[Store, MemoryKeyValue]:
    genesis, engine = World().genesis, MemoryKeyValue()
    write_genesis(
        engine,
        chain_id=genesis.chain_id,
        header=genesis.header,
        digest=genesis.digest,
        overlay=genesis.overlay,
    )
    return Store(engine), engine


def test_evidence_survives_a_restart_and_is_kept_once() -> None:
    store, engine = make_store()
    pieces = [make_pair(kind) for kind in (Notarize, Finalize, Nullify)]
    assert [store.add_evidence(each) for each in pieces * 2] == [True] * 3 + [False] * 3
    kept = Store(engine).list_evidence()
    assert {compute_evidence_id(e) for e in kept} == {compute_evidence_id(e) for e in pieces}


def test_evidence_against_one_validator_is_bounded_and_leaves_room_for_others() -> None:
    store, _ = make_store()
    for view in range(1, MAX_EVIDENCE_PER_VALIDATOR + 1):
        assert store.add_evidence(make_pair(view=view))
    assert not store.add_evidence(make_pair(view=MAX_EVIDENCE_PER_VALIDATOR + 1))
    assert store.add_evidence(make_pair(code="CHRL"))
    assert len(store.list_evidence()) == MAX_EVIDENCE_PER_VALIDATOR + 1


@pytest.mark.parametrize("kind", [Notarize, Finalize, Nullify])
def test_evidence_file_convinces_with_the_genesis_document_alone(kind: type[Vote]) -> None:
    file = build_evidence_file(make_pair(kind), ())
    read = parse_evidence_file(render_evidence_file(file))
    assert read == file
    assert verify_evidence_file(read, TRUST).epoch == 0


def test_any_changed_byte_of_an_evidence_file_is_refused() -> None:
    data = render_evidence_file(build_evidence_file(make_pair(), ()))
    refused = 0
    for at in range(len(data)):
        changed = flip(data, at)
        if json_of(changed) == json_of(data):
            continue  # white space alone
        with pytest.raises(ProofInvalid):
            verify_evidence_file(parse_evidence_file(changed), TRUST)
        refused += 1
    assert refused > 500


def json_of(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_votes_that_do_not_exclude_each_other_are_no_evidence() -> None:
    same = make_pair()
    document = to_json(build_evidence_file(same, ()))
    document["evidence"]["second"] = document["evidence"]["first"]
    with pytest.raises(ProofInvalid, match="say the same"):
        verify_evidence_file(parse_evidence_file(json.dumps(document).encode()), TRUST)
    stranger = build_evidence_file(make_pair(epoch=1), ())
    with pytest.raises(ProofInvalid, match="epoch 1"):
        verify_evidence_file(stranger, TRUST)


def test_evidence_of_a_later_epoch_is_checked_under_that_epochs_set() -> None:
    cluster = make_epochs()
    change_set(cluster)
    cluster.add("ECHO")
    cluster.start("ECHO")
    pay_through(cluster, EPOCH_BLOCKS + 2)
    store = Store(cluster.nodes["ALFA"].engine)
    trust = compute_trust_root(DOCUMENT)
    late = make_pair(epoch=1, code="ECHO", chain_id=trust.chain_id)
    file = build_evidence_file(late, store.get_epoch_steps(1))
    assert verify_evidence_file(parse_evidence_file(render_evidence_file(file)), trust).epoch == 1
    # It has left by then: nothing that it signs is evidence of this epoch.
    gone = make_pair(epoch=1, code="DLTA", chain_id=trust.chain_id)
    with pytest.raises(ProofInvalid, match="no validator"):
        verify_evidence_file(build_evidence_file(gone, store.get_epoch_steps(1)), trust)


async def test_api_lists_evidence_and_gives_the_file() -> None:
    harness = Harness()
    evidence = make_pair(chain_id=harness.world.chain_id)
    assert (await harness.get("/v1/evidence"))["evidence"] == []
    harness.gateway.store.add_evidence(evidence)
    (item,) = (await harness.get("/v1/evidence"))["evidence"]
    assert (item["participant"], item["kind"]) == ("BRVO", "conflicting_notarize")
    answer = await harness.get(f"/v1/evidence/{item['id']}")
    read = parse_evidence_file(json.dumps(answer["document"]).encode())
    assert verify_evidence_file(read, TRUST).epoch == 0
    await harness.get(f"/v1/evidence/{'00' * 32}", 404)


# ---- recorded on the ledger


AUDITOR = "AUDT/admin"


def record(harness: Harness, *pieces: Evidence) -> None:
    """Record evidence in a block of its own."""
    gateway, world = harness.gateway, harness.world
    tx = world.make(*(RecordEvidence(AUDITOR, each) for each in pieces), sender=AUDITOR)
    gateway.pending[tx.hash] = tx
    (receipt,) = gateway.produce().receipts
    assert receipt.code == Code.OK


def verify_record(harness: Harness, proof: object) -> RecordClaim:
    trust = TrustRoot(harness.world.chain_id, harness.world.genesis.validators)
    verified = verify_proof(parse_proof(json.dumps(proof).encode()), trust)
    assert isinstance(verified.claim, RecordClaim)
    assert verified.block.height == harness.world.header.height
    return verified.claim


async def test_api_shows_who_recorded_what_this_node_found() -> None:
    harness = Harness()
    evidence = make_pair(blocks=(1, 2))
    harness.gateway.store.add_evidence(evidence)
    harness.gateway.produce()
    (item,) = (await harness.get("/v1/evidence"))["evidence"]
    assert (item["recorded"], item["place"]) == (None, "BRVO/0/3/conflicting_notarize")
    # Somebody else brought other blocks of the same view.
    recorded = make_pair(blocks=(3, 4))
    record(harness, recorded)
    (item,) = (await harness.get("/v1/evidence"))["evidence"]
    assert item["recorded"] == {
        "id": compute_evidence_id(recorded).hex(),
        "by": AUDITOR,
        "height": harness.world.header.height,
        "recorded_at_ms": harness.world.header.timestamp_ms,
    }


@pytest.mark.parametrize("kind", [Notarize, Finalize, Nullify])
async def test_a_record_is_read_on_any_node_with_its_proof(kind: type[Vote]) -> None:
    harness, evidence = Harness(), make_pair(kind)
    record(harness, evidence)
    assert (await harness.get("/v1/evidence"))["evidence"] == []
    (item,) = (await harness.get("/v1/evidence/recorded"))["evidence"]
    answer = await harness.get(f"/v1/evidence/recorded/{item['place']}")
    assert (answer["item"], answer["proof"]) == (item, None)
    read = parse_evidence_file(json.dumps(answer["document"]).encode())
    assert verify_evidence_file(read, TRUST).epoch == 0
    assert read.evidence == evidence
    answer = await harness.get(f"/v1/evidence/recorded/{item['place']}?proof=1")
    claim = verify_record(harness, answer["proof"])
    header = harness.world.header
    expected = RecordedEvidence(evidence, AUDITOR, header.height, header.timestamp_ms)
    assert claim == RecordClaim("evidence", evidence_key(evidence), expected)


async def test_it_is_provable_that_what_was_found_is_not_recorded() -> None:
    harness, evidence = Harness(), make_pair()
    harness.gateway.store.add_evidence(evidence)
    path = f"/v1/evidence/{compute_evidence_id(evidence).hex()}?proof=1"
    assert (await harness.get(path, 409))["code"] == "NOT_PROVABLE"  # there is no block yet
    record(harness, make_pair(code="CHRL"))
    claim = verify_record(harness, (await harness.get(path))["proof"])
    assert claim == RecordClaim("evidence", evidence_key(evidence), None)
    record(harness, evidence)
    assert verify_record(harness, (await harness.get(path))["proof"]).record is not None


async def test_records_come_in_pages_in_order_and_by_participant() -> None:
    harness = Harness()
    places = [
        (code, view, kind)
        for code in ("ALFA", "BRVO")
        for view in (1, 2, 300)
        for kind in (Notarize, Finalize, Nullify)
    ]
    record(harness, *(make_pair(kind, code=code, view=view) for code, view, kind in places))
    whole = (await harness.get("/v1/evidence/recorded"))["evidence"]
    assert [(e["participant"], e["view"]) for e in whole] == [place[:2] for place in places]
    for start in ("", "?participant=BRVO"):
        path = f"/v1/evidence/recorded{start}{'&' if start else '?'}limit=4"
        pages, after = [], ""
        while after is not None:
            answer = await harness.get(path + (f"&after={after}" if after else ""))
            assert len(answer["evidence"]) <= 4
            pages += answer["evidence"]
            after = answer["next"]
        assert pages == [e for e in whole if not start or e["participant"] == "BRVO"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/evidence?proof=1", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/recorded?after=BRVO", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/recorded?after=BRVO/0/3/lie", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/recorded?participant=b", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/recorded?limit=0", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/recorded/BRVO/0/3/conflicting_notarize", 404, "NOT_FOUND"),
        ("/v1/evidence/recorded/BRVO/0/3/conflicting_notarize?proof=1", 404, "NOT_FOUND"),
        ("/v1/evidence/recorded/brvo/0/3/conflicting_notarize", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/recorded/BRVO/-1/3/conflicting_notarize", 400, "INVALID_PARAMETER"),
        (f"/v1/evidence/recorded/BRVO/0/{2**63}/nullify_finalize", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/recorded/BRVO/0/3/notarize", 400, "INVALID_PARAMETER"),
        ("/v1/evidence/00?proof=2", 400, "INVALID_PARAMETER"),
    ],
)
async def test_a_question_about_evidence_that_is_wrong_is_told_so(
    path: str, status: int, code: str
) -> None:
    assert (await Harness().get(path, status))["code"] == code
