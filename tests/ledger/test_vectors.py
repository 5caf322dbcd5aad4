"""The golden vectors in `tests/vectors/` are what the code makes, and what others read."""

import json
from hashlib import sha256
from typing import Any

import msgpack
import pytest

from atpar.ledger import merkle
from atpar.ledger.blocks import ValidatorSetId
from atpar.ledger.codec import Codec, encode
from atpar.ledger.jsonform import from_json
from atpar.ledger.keys import verify
from atpar.ledger.operations import Operation
from atpar.ledger.proofs import (
    PROOF_FILE,
    ProofFile,
    RecoveryStep,
    SolvencyClaim,
    TrustRoot,
    verify_proof,
)
from atpar.ledger.transactions import decode_transaction
from atpar.ledger.tree import TreeRoot
from atpar.ledger.treeproofs import TreeProof, verify_tree_proof
from tests.ledger import samples
from tests.vectors import generate


def load(name: str) -> Any:
    return json.loads(generate.get_path(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", generate.BUILDERS)
def test_vectors_are_what_the_code_makes(name: str) -> None:
    kept = generate.get_path(name).read_text(encoding="utf-8")
    assert generate.render(name) == kept, (
        "the format changed: if that is meant, run `python -m tests.vectors.generate` and say why"
    )


def test_no_vector_file_is_left_behind() -> None:
    files = {path.stem for path in generate.FOLDER.glob("*.json")}
    assert files == set(generate.BUILDERS)


def test_operations_read_from_json_give_the_bytes() -> None:
    codec: Codec[Any] = Codec(Operation, name="operation", max_bytes=10_000)
    for vector in load("operations"):
        op = codec.decode(bytes.fromhex(vector["bytes"]))
        assert from_json(type(op), vector["json"]) == op


def test_independent_reader_agrees_on_every_operation() -> None:
    for vector in load("operations"):
        data = bytes.fromhex(vector["bytes"])
        assert msgpack.packb(msgpack.unpackb(data)) == data


def test_transaction_hashes_follow_from_the_bytes_alone() -> None:
    for vector in load("transactions"):
        envelope, body = bytes.fromhex(vector["envelope"]), bytes.fromhex(vector["body"])
        assert sha256(b"atpar/tx/v1\0" + envelope).hexdigest() == vector["tx_hash"]
        assert sha256(b"atpar/body/v1\0" + body).hexdigest() == vector["body_hash"]
        assert msgpack.unpackb(envelope)[0] == body
        message = b"atpar/transaction/v1\0" + samples.CHAIN_ID + body
        assert sha256(message).hexdigest() == vector["sign_bytes_sha256"]
        for key, signature in vector["signatures"]:
            assert verify(bytes.fromhex(key), message, bytes.fromhex(signature))
        assert decode_transaction(envelope).hash.hex() == vector["tx_hash"]


def test_block_digest_is_the_tagged_hash_of_the_header() -> None:
    vector = load("blocks")["header"]
    data = bytes.fromhex(vector["bytes"])
    assert sha256(b"atpar/header/v1\0" + data).hexdigest() == vector["digest"]


def test_certificate_signatures_verify_over_the_vote_bytes() -> None:
    keys = [member.vote_key for member in samples.VALIDATORS.members]
    for vector in load("certificates"):
        message = bytes.fromhex(vector["vote_bytes"])
        signers = [i for i in range(4) if vector["json"]["signers"] == "0d" and 0x0D >> i & 1]
        assert len(signers) == 3
        for index, signature in zip(signers, vector["json"]["signatures"], strict=True):
            assert verify(keys[index], message, bytes.fromhex(signature))


def test_tree_proofs_verify_against_their_roots() -> None:
    codec = Codec[TreeProof](TreeProof, name="tree proof", max_bytes=10_000)
    for vector in load("trees"):
        root = TreeRoot(bytes.fromhex(vector["root"]), int(vector["total"]))
        for name, proof in vector["proofs"].items():
            leaf = verify_tree_proof(
                codec.decode(bytes.fromhex(proof)),
                tree=bytes.fromhex(vector["tree"]),
                key=name.encode(),
                root=root,
            )
            number = int(name[5:]) if name.startswith("ALFA") else vector["entries"]
            assert (leaf is not None) == (number < vector["entries"])
            assert leaf is None or leaf.amount == number * 1_000


def test_solvency_proof_verifies_in_bytes_and_in_json() -> None:
    vector = load("proofs")["solvency_proof"]
    file = PROOF_FILE.decode(bytes.fromhex(vector["bytes"]))
    assert from_json(ProofFile, vector["json"]) == file
    verified = verify_proof(file, TrustRoot(samples.CHAIN_ID, samples.VALIDATORS))
    assert isinstance(verified.claim, SolvencyClaim)
    assert verified.claim.assets[1].posted == 10_000
    assert verified.block.signers == ("ALFA", "CHRL", "DLTA")


def test_proof_over_a_boundary_and_a_recovery_verifies_in_bytes_and_in_json() -> None:
    vector = load("epochs")
    file = PROOF_FILE.decode(bytes.fromhex(vector["bytes"]))
    assert from_json(ProofFile, vector["json"]) == file
    validators = from_json(ValidatorSetId, vector["validators"])
    verified = verify_proof(file, TrustRoot(bytes.fromhex(vector["chain_id"]), validators))
    assert [opening.document is not None for opening in verified.epochs] == [0, 0, 1]
    step = file.epochs[1]
    assert isinstance(step, RecoveryStep)
    assert encode(step.document.body).hex() == vector["recovery_body"]
    assert vector["recovery_sign_bytes"].endswith(vector["chain_id"] + vector["recovery_body"])


def test_paths_of_the_list_tree_verify() -> None:
    vector = load("proofs")["rfc6962"]
    entries, root = [bytes.fromhex(e) for e in vector["entries"]], bytes.fromhex(vector["root"])
    for index, path in enumerate(vector["paths"]):
        hashes = [bytes.fromhex(digest) for digest in path]
        merkle.verify_path(entries[index], index=index, count=7, path=hashes, root=root)


def test_zip215_vectors_get_their_verdicts() -> None:
    vectors = load("zip215")
    assert len(vectors) == 196 + 14
    for vector in vectors:
        key, signature = bytes.fromhex(vector["key"]), bytes.fromhex(vector["signature"])
        assert verify(key, bytes.fromhex(vector["message"]), signature) == vector["valid"]
