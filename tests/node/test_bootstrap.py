"""A new node finds its peers by a proof of a later set, and trusts nothing that does not hold."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from atpar.ledger.codec import encode
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.genesis import Genesis
from atpar.ledger.proofs import ProofFile, parse_proof, render_proof
from atpar.ledger.proving import build_proof_file, build_record_proof
from atpar.ledger.records import CURRENT, NEXT, PARAMS, VALIDATORS
from atpar.node.bootstrap import load_announced, verify_announced
from atpar.node.config import NodeConfig, NodeSection
from atpar.node.errors import StartRefused
from atpar.node.kv import MemoryKeyValue
from atpar.node.seats import list_roots, make_peers, read_sets
from atpar.node.store import Store, write_genesis
from tests.ledger.epochs import Chain
from tests.ledger.world import BANKS, make_certificate
from tests.node.api_client import Harness

JOINED = ("ALFA", "BRVO", "CHRL", "ECHO")


def make_chain() -> Chain:
    """Return a chain on which ECHO took DLTA's seat, and administrators opened an epoch since."""
    chain = Chain().add_participant().set_validators(JOINED).end_epoch()
    return chain.extend(1).recover_by("ALFA", "BRVO", "ECHO").extend(1)


def prove(chain: Chain, section: object = VALIDATORS, key: bytes = CURRENT) -> ProofFile:
    proof = build_record_proof(chain.view, section, key, chain.prove_last())
    return build_proof_file(proof, chain.steps)


def make_store(genesis: Genesis) -> Store:
    engine = MemoryKeyValue()
    write_genesis(
        engine,
        chain_id=genesis.chain_id,
        header=genesis.header,
        digest=genesis.digest,
        overlay=genesis.overlay,
    )
    return Store(engine)


def test_members_of_a_later_epoch_are_peers_before_the_chain_is_here() -> None:
    chain = make_chain()
    genesis, store = chain.genesis, make_store(chain.genesis)
    config = NodeConfig(node=NodeSection(participant="FOXT", joins=True))
    announced = verify_announced(prove(chain), genesis.document)
    assert announced == chain.validators
    alone, told = read_sets(store), read_sets(store, announced)
    wanted = ("ECHO", make_certificate("ECHO").encode())
    assert wanted not in list_roots(genesis, alone)
    assert wanted in list_roots(genesis, told)
    assert {peer.participant for peer in make_peers(config, genesis, alone, set())} == set(BANKS)
    peers = {peer.participant: peer for peer in make_peers(config, genesis, told, set())}
    assert set(peers) == {*BANKS, "ECHO"}
    # Its address of today, not that of genesis.
    assert (peers["ALFA"].host, peers["ALFA"].port) == ("alfa", 7201)


def test_set_that_is_reached_is_announced_no_more() -> None:
    chain = Chain().extend(1)
    announced = verify_announced(prove(chain), chain.genesis.document)
    assert announced.epoch == 0
    assert read_sets(make_store(chain.genesis), announced).announced is None


def test_proof_of_something_else_announces_nothing() -> None:
    chain = Chain().add_participant().set_validators(JOINED)
    document = chain.genesis.document
    other_chain = replace(document, timestamp_ms=document.timestamp_ms + 1)
    for file, trusted, message in (
        (prove(chain, PARAMS), document, "not of the validators in force"),
        (prove(chain, VALIDATORS, NEXT), document, "not of the validators in force"),
        (prove(chain, VALIDATORS, b"gone"), document, "not of the validators in force"),
        (chain.prove(), document, "not of the validators in force"),
        (prove(chain), other_chain, "chain"),
        (replace(prove(make_chain()), epochs=()), document, "epoch 2 with validators"),
    ):
        with pytest.raises(ProofInvalid, match=message):
            verify_announced(file, trusted)


def test_file_is_read_in_both_forms_and_refused_by_name(tmp_path: Path) -> None:
    chain, path = make_chain(), tmp_path / "validators.json"
    document = chain.genesis.document
    assert load_announced(None, document) is None
    for data in (render_proof(prove(chain)), encode(prove(chain))):
        path.write_bytes(data)
        assert load_announced(path, document) == chain.validators
        path.write_bytes(data[:-5])
        with pytest.raises(StartRefused, match=r"node\.bootstrap .*validators\.json"):
            load_announced(path, document)
    with pytest.raises(StartRefused, match="No such file"):
        load_announced(tmp_path / "gone", document)


async def test_api_proves_the_set_in_force(harness: Harness) -> None:
    harness.gateway.fund("ALFA/main", 100)
    answer = await harness.get("/v1/validators?proof=1")
    file = parse_proof(msgspec.json.encode(answer["proof"]))
    proven = verify_announced(file, harness.world.genesis.document)
    assert [member.participant for member in proven.members] == list(BANKS)
    assert (await harness.get("/v1/validators"))["proof"] is None


@pytest.fixture
def harness() -> Harness:
    return Harness()
