"""Writes the golden vectors next to this file: `python -m tests.vectors.generate`.

A vector changes only when the format of the chain changes, which then needs a new version and a
reason in the commit; `tests/ledger/test_vectors.py` compares them with what the code makes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from atpar.ledger import merkle
from atpar.ledger.blocks import compute_digest, compute_validators_hash
from atpar.ledger.certificates import Finalization, compute_vote_bytes
from atpar.ledger.codec import encode
from atpar.ledger.hashing import HashTag, SignKind, compute_hash, compute_sign_bytes
from atpar.ledger.jsonform import operation_name, to_json
from atpar.ledger.keys import compute_possession_bytes
from atpar.ledger.proofs import FinalityProof, RecoveryStep, SolvencyProof
from atpar.ledger.proving import build_proof_file
from atpar.ledger.recovery import compute_recovery_bytes
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.stateroot import AssetRow, SectionRoot, StateTable, compute_state_root
from atpar.ledger.transactions import decode_transaction
from atpar.ledger.tree import TreeChange, compute_asset_tree, compute_section_tree, update_tree
from atpar.ledger.treeproofs import prove
from tests.ledger import curve, samples
from tests.ledger.epochs import Chain

FOLDER: Final = Path(__file__).parent
ENTRY_COUNTS: Final = (0, 1, 2, 17, 300)


def build_operations() -> list[dict[str, Any]]:
    return [
        {
            "name": operation_name(type(op)),
            "json": to_json(op),
            "bytes": encode(op).hex(),
        }
        for op in samples.OPERATIONS
    ]


def build_transactions() -> list[dict[str, Any]]:
    vectors = []
    for body, signers in (
        (samples.BODY, ("pay", "a1")),
        (samples.make_body(samples.OPERATIONS[-1]), ("pay",)),
    ):
        tx = decode_transaction(samples.make_envelope(body, *signers))
        message = compute_sign_bytes(SignKind.TRANSACTION, samples.CHAIN_ID, tx.body_bytes)
        vectors.append(
            {
                "json": to_json(body),
                "body": tx.body_bytes.hex(),
                "sign_bytes_sha256": hashlib.sha256(message).hexdigest(),
                "signatures": [[s.key.hex(), s.signature.hex()] for s in tx.signatures],
                "envelope": tx.raw.hex(),
                "tx_hash": tx.hash.hex(),
                "body_hash": tx.body_hash.hex(),
            }
        )
    return vectors


def build_blocks() -> dict[str, Any]:
    receipts = (samples.RECEIPT, samples.FAILED_RECEIPT)
    return {
        "header": {
            "json": to_json(samples.HEADER),
            "bytes": encode(samples.HEADER).hex(),
            "digest": compute_digest(samples.HEADER).hex(),
        },
        "block": {"bytes": encode(samples.BLOCK).hex()},
        "receipts": [{"json": to_json(r), "bytes": encode(r).hex()} for r in receipts],
        "validators": {
            "json": to_json(samples.VALIDATORS),
            "bytes": encode(samples.VALIDATORS).hex(),
            "hash": compute_validators_hash(samples.VALIDATORS).hex(),
        },
    }


def build_certificates() -> list[dict[str, Any]]:
    kinds = (SignKind.NOTARIZE, SignKind.NULLIFY, SignKind.FINALIZE)
    bodies = (samples.PROPOSITION, samples.NULLIFY, samples.PROPOSITION)
    return [
        {
            "json": to_json(certificate),
            "bytes": encode(certificate).hex(),
            "vote_bytes": compute_vote_bytes(kind, samples.CHAIN_ID, body).hex(),
        }
        for certificate, kind, body in zip(samples.CERTIFICATES, kinds, bodies, strict=True)
    ]


def build_hashes() -> dict[str, Any]:
    data = b"the same bytes under every tag"
    return {
        "data": data.hex(),
        "hashes": {tag.name.lower(): compute_hash(tag, data).hex() for tag in HashTag},
        "sign_bytes": {
            kind.name.lower(): compute_sign_bytes(kind, samples.CHAIN_ID, data).hex()
            for kind in SignKind
        },
        "possession_bytes": compute_possession_bytes(
            samples.CHAIN_ID, participant="ALFA", public_key=samples.public_of("pay")
        ).hex(),
    }


def list_entries(count: int) -> list[TreeChange]:
    return [
        TreeChange(b"ALFA/%d" % number, b"balance of %d" % number, number * 1_000)
        for number in range(count)
    ]


def build_trees() -> list[dict[str, Any]]:
    vectors = []
    for tree in (compute_asset_tree("HKD.JDCL"), compute_section_tree(3)):
        for count in ENTRY_COUNTS:
            entries = list_entries(count)
            overlay = Overlay(Base(MemoryBacking()))
            root = update_tree(overlay, tree, entries)
            values = {key: value or b"" for key, value, _ in entries}
            proofs = {
                key.decode(): encode(prove(overlay, tree, key, values.__getitem__)).hex()
                for key in (b"ALFA/0", b"ALFA/16", b"BRVO/absent")
            }
            vectors.append(
                {
                    "tree": tree.hex(),
                    "entries": count,
                    "root": root.hash.hex(),
                    "total": str(root.total),
                    "proofs": proofs,
                }
            )
    return vectors


def build_state_table() -> StateTable:
    overlay, tree = Overlay(Base(MemoryBacking())), compute_asset_tree("HKD.JDCL")
    root = update_tree(overlay, tree, list_entries(5))
    sections = tuple(SectionRoot(number, samples.digest_of(str(number))) for number in (1, 3, 32))
    empty = AssetRow("CNH.JDCL", bytes(32), 0, 0, 0, 0)
    row = AssetRow("HKD.JDCL", root.hash, root.total, root.total, 2**63 - 1, samples.TIME_MS)
    return StateTable(sections, (empty, row))


def build_proofs() -> dict[str, Any]:
    table = build_state_table()
    root = compute_state_root(table.sections, table.assets)
    header = replace(samples.HEADER, state_root=root)
    proposition = replace(samples.PROPOSITION, digest=compute_digest(header))
    signatures = samples.sign_votes(SignKind.FINALIZE, proposition)
    finality = FinalityProof(Finalization(proposition, samples.BITMAP, signatures), (header,))
    file = build_proof_file(SolvencyProof(table, finality))
    entries = [b"entry %d" % number for number in range(7)]
    return {
        "state_table": {
            "json": to_json(table),
            "bytes": encode(table).hex(),
            "state_root": root.hex(),
        },
        "solvency_proof": {"json": to_json(file), "bytes": encode(file).hex()},
        "rfc6962": {
            "entries": [entry.hex() for entry in entries],
            "root": merkle.compute_root(entries).hex(),
            "paths": [
                [digest.hex() for digest in merkle.build_path(entries, index)]
                for index in range(len(entries))
            ],
        },
    }


def build_epochs() -> dict[str, Any]:
    """Return a file over a boundary and a recovery, with what it starts from."""
    chain = Chain().end_epoch().extend(1)
    chain.recover_by("ALFA", "BRVO", "CHRL").extend(1)
    file, step = chain.prove(), chain.steps[-1]
    assert isinstance(step, RecoveryStep)
    message = compute_recovery_bytes(step.document.body, chain.chain_id)
    return {
        "chain_id": chain.chain_id.hex(),
        "validators": to_json(chain.genesis.validators),
        "recovery_body": encode(step.document.body).hex(),
        "recovery_sign_bytes": message.hex(),
        "json": to_json(file),
        "bytes": encode(file).hex(),
    }


def build_zip215() -> list[dict[str, Any]]:
    """Return every pair of small-order encodings, valid; and s >= L, never valid."""
    small = curve.list_small_order_encodings()
    vectors = [
        {"key": a.hex(), "signature": (r + bytes(32)).hex(), "message": "5a63617368", "valid": True}
        for a in small
        for r in small
    ]
    too_large = curve.L.to_bytes(32, "little")
    vectors += [
        {"key": a.hex(), "signature": (a + too_large).hex(), "message": "", "valid": False}
        for a in small
    ]
    return vectors


BUILDERS: Final = {
    "operations": build_operations,
    "transactions": build_transactions,
    "blocks": build_blocks,
    "certificates": build_certificates,
    "hashes": build_hashes,
    "trees": build_trees,
    "proofs": build_proofs,
    "epochs": build_epochs,
    "zip215": build_zip215,
}


def get_path(name: str) -> Path:
    return FOLDER / f"{name}.json"


def render(name: str) -> str:
    return json.dumps(BUILDERS[name](), indent=1) + "\n"


def main() -> None:
    for name in BUILDERS:
        get_path(name).write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
