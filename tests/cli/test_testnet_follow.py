"""A block counts as final only after everything about it has been verified."""

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from atpar.cli.testnet.follow import verify_block
from atpar.ledger.blocks import (
    HEADER_VERSION,
    Header,
    ValidatorKey,
    ValidatorSetId,
    compute_digest,
    compute_validators_hash,
)
from atpar.ledger.certificates import Proposition, encode_bitmap
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import SignKind
from atpar.ledger.merkle import compute_root
from atpar.ledger.receipts import Receipt
from atpar.node.signer import LocalSigner

CHAIN = hashlib.sha256(b"chain").digest()
SIGNERS = [LocalSigner(hashlib.sha256(b"vote %d" % n).digest()) for n in range(4)]
VALIDATORS = ValidatorSetId(
    0, tuple(ValidatorKey(f"BNK{n}", signer.public_key) for n, signer in enumerate(SIGNERS))
)
RECEIPTS = [
    Receipt(hashlib.sha256(b"tx %d" % n).digest(), "ALFA/load-1", bytes([n]) * 16, code, None)
    for n, code in enumerate([Code.OK, Code.INSUFFICIENT_FUNDS])
]


def make_page() -> dict[str, Any]:
    """The block as the API shows it, finalised by three of four."""
    validators_hash = compute_validators_hash(VALIDATORS)
    header = Header(
        version=HEADER_VERSION,
        chain_id=CHAIN,
        epoch=0,
        view=7,
        height=5,
        parent=bytes(32),
        timestamp_ms=1_700_000_000_000,
        proposer="BNK3",
        tx_count=len(RECEIPTS),
        tx_root=compute_root([receipt.tx_hash for receipt in RECEIPTS]),
        receipt_root=compute_root([encode(receipt) for receipt in RECEIPTS]),
        state_root=bytes(32),
        validators_hash=validators_hash,
        next_validators_hash=validators_hash,
    )
    digest = compute_digest(header)
    proposition = Proposition(epoch=0, view=7, parent_view=6, digest=digest)
    signatures = [s.sign(SignKind.FINALIZE, CHAIN, encode(proposition)) for s in SIGNERS[:3]]
    return {
        "height": 5,
        "digest": digest,
        "certificate": {
            "finalization": {
                "proposition": {"epoch": 0, "view": 7, "parent_view": 6, "digest": digest},
                "signers": encode_bitmap([0, 1, 2], 4),
                "signatures": signatures,
            },
            "headers": [{name: getattr(header, name) for name in header.__struct_fields__}],
        },
        "receipts": encode(RECEIPTS),
    }


def verify(page: dict[str, Any]) -> list[Receipt]:
    return verify_block(page, chain_id=CHAIN, validators=VALIDATORS)


def test_good_block_gives_its_receipts() -> None:
    assert verify(make_page()) == RECEIPTS


def damage_signature(page: dict[str, Any]) -> None:
    page["certificate"]["finalization"]["signatures"][0] = bytes(64)


def drop_signer(page: dict[str, Any]) -> None:
    page["certificate"]["finalization"]["signers"] = encode_bitmap([0, 1], 4)
    page["certificate"]["finalization"]["signatures"].pop()


def claim_success(page: dict[str, Any]) -> None:
    page["receipts"] = encode([RECEIPTS[0], replace(RECEIPTS[1], code=0)])


def drop_receipt(page: dict[str, Any]) -> None:
    page["receipts"] = encode(RECEIPTS[:1])


def swap_receipts(page: dict[str, Any]) -> None:
    page["receipts"] = encode(RECEIPTS[::-1])


def add_receipt(page: dict[str, Any]) -> None:
    page["receipts"] = encode([*RECEIPTS, RECEIPTS[0]])


def garble_receipts(page: dict[str, Any]) -> None:
    page["receipts"] = page["receipts"][:-1]


def change_header(page: dict[str, Any]) -> None:
    page["certificate"]["headers"][0]["timestamp_ms"] += 1


def change_height(page: dict[str, Any]) -> None:
    page["height"] = 6


def change_digest(page: dict[str, Any]) -> None:
    page["digest"] = bytes(32)


@pytest.mark.parametrize(
    "damage",
    [
        damage_signature,
        drop_signer,
        claim_success,
        drop_receipt,
        swap_receipts,
        add_receipt,
        garble_receipts,
        change_header,
        change_height,
        change_digest,
    ],
)
def test_any_lie_about_a_block_is_noticed(damage: Any) -> None:
    page = make_page()
    damage(page)
    with pytest.raises(ProofInvalid):
        verify(page)


def test_block_of_another_chain_is_refused() -> None:
    page = make_page()
    with pytest.raises(ProofInvalid):
        verify_block(page, chain_id=bytes(32), validators=VALIDATORS)
