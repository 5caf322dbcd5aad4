"""`docs/encoding.md`, followed to the letter by a program that imports nothing of the ledger's."""

import hashlib
import json
import uuid
from typing import Any

import msgpack
import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from atpar.ledger.keys import verify_batch
from atpar.ledger.proofs import render_proof
from atpar.ledger.proving import build_proof_file
from atpar.ledger.transactions import decode_transaction
from tests.ledger.test_proofs import receipt_proof, shared

HEADER = (
    "version", "chain_id", "epoch", "view", "height", "parent", "timestamp_ms", "proposer",
    "tx_count", "tx_root", "receipt_root", "state_root", "validators_hash", "next_validators_hash",
)  # fmt: skip
TEXT = ("proposer", "sender")


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def hash_(tag: bytes, data: bytes) -> bytes:
    return hashlib.sha256(b"atpar/" + tag + b"/v1\0" + data).digest()


def plain(members: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    values = [(name, members[name]) for name in names]
    return [bytes.fromhex(v) if isinstance(v, str) and n not in TEXT else v for n, v in values]


def climb(entry: bytes, index: int, count: int, path: list[bytes]) -> bytes:
    """Return the root that an RFC 6962 path leads to, by the RFC's own recursion."""
    if count == 1:
        assert not path
        return hashlib.sha256(b"\0" + entry).digest()
    half = 1 << (count - 1).bit_length() - 1
    if index < half:
        left, right = climb(entry, index, half, path[:-1]), path[-1]
    else:
        left, right = path[-1], climb(entry, index - half, count - half, path[:-1])
    return hashlib.sha256(b"\1" + left + right).digest()


def check_receipt(file: dict[str, Any], chain: bytes, members: list[tuple[str, bytes]]) -> int:
    """Return the receipt's code after the five steps of the document."""
    assert file["format"] == "atpar-proof/1"
    assert file["epochs"] == []
    proof = file["proof"]
    finalization, headers = proof["finality"]["finalization"], proof["finality"]["headers"]
    proposition = plain(finalization["proposition"], ("epoch", "view", "parent_view", "digest"))
    bits = int.from_bytes(bytes.fromhex(finalization["signers"]), "little")
    signers = [i for i in range(len(members)) if bits >> i & 1]
    assert bits >> len(members) == 0
    assert len(signers) >= len(members) - (len(members) - 1) // 3
    signed = b"atpar/finalize/v1\0" + chain + pack(proposition)
    for i, signature in zip(signers, finalization["signatures"], strict=True):
        VerifyKey(members[i][1]).verify(signed, bytes.fromhex(signature))
    assert proposition[:2] == [headers[0]["epoch"], headers[0]["view"]]
    digest, height = proposition[3], headers[0]["height"]
    validators_hash = hash_(b"validators", pack([0, [list(member) for member in members]]))
    for header in headers:
        fields = plain(header, HEADER)
        assert hash_(b"header", pack(fields)) == digest
        assert (fields[0], fields[1], fields[4], fields[12]) == (1, chain, height, validators_hash)
        digest, height = fields[5], height - 1
    receipt = plain(proof["receipt"], ("tx_hash", "sender", "tx_id", "code", "failed_op"))
    envelope = bytes.fromhex(proof["envelope"])
    body = msgpack.unpackb(msgpack.unpackb(envelope)[0])
    assert receipt[:3] == [hash_(b"tx", envelope), body[2], body[3]]
    for entry, path, root in (
        (receipt[0], "tx_path", "tx_root"),
        (pack(receipt), "receipt_path", "receipt_root"),
    ):
        found = climb(
            entry,
            proof["index"],
            headers[-1]["tx_count"],
            [bytes.fromhex(each) for each in proof[path]],
        )
        assert found.hex() == headers[-1][root]
    code: int = receipt[3]
    return code


def test_receipt_is_verified_as_the_document_says() -> None:
    world = shared()
    file = json.loads(render_proof(build_proof_file(receipt_proof())))
    members = [(v.participant, v.vote_key) for v in world.genesis.document.validators]
    assert check_receipt(file, world.chain_id, members) == 0
    with pytest.raises((AssertionError, BadSignatureError)):
        check_receipt(file, bytes(32), members)


def test_transaction_is_built_as_the_document_says() -> None:
    chain, key = bytes(range(32)), SigningKey(bytes(32))
    transfer = [20, "HKD.JDCL", "ALFA/main", "BRVO/main", 125_000, uuid.UUID(int=7).bytes,
                "SUPP", "INV-7", None, None, False]  # fmt: skip
    body = pack([1, chain, "ALFA/main", bytes(16), 1_000, 61_000, [transfer]])
    signature = key.sign(b"atpar/transaction/v1\0" + chain + body).signature
    envelope = pack([body, sorted([[bytes(key.verify_key), signature]])])
    tx = decode_transaction(envelope)
    assert verify_batch(tx.compute_triples()) == [True]
    assert tx.hash == hash_(b"tx", envelope)
    assert tx.body_hash == hash_(b"body", body)
