"""Evidence is found, kept through restarts within a bound, and convinces without a node."""

import json

import pytest

from atpar.ledger.errors import ProofInvalid
from atpar.ledger.jsonform import to_json
from atpar.ledger.proofs import compute_trust_root
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
    for position, byte in enumerate(data):
        changed = data[:position] + bytes([byte ^ 1]) + data[position + 1 :]
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
