"""Proofs in answers: the documents that a client stores and `atpar verify` checks offline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from atpar.ledger import reads
from atpar.ledger.blocks import Block
from atpar.ledger.codec import encode
from atpar.ledger.commitment import read_state_table
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.limits import HOUR_MS
from atpar.ledger.merkle import build_levels, get_path
from atpar.ledger.proofs import FinalityProof, Proof, ProofFile, ReceiptProof
from atpar.ledger.proving import (
    build_account_proof,
    build_expiry_proof,
    build_proof_file,
    build_record_proof,
    build_solvency_proof,
)
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import CURRENT, ID_BUCKETS, PARAMS, hour_key
from atpar.ledger.state import Section
from atpar.ledger.stateroot import compute_state_root
from atpar.node.api_http import Call
from atpar.node.gateway import Placement
from atpar.node.limits import PROOF_BLOCK_CACHE
from atpar.node.problems import ApiCode, Problem

MAX_LISTED_IDS: Final = 20_000
"""Used ids that one expiry proof of the API lists; beyond, it is left out."""


@dataclass(frozen=True, slots=True)
class BlockTrees:
    """A final block with the levels of its two Merkle trees, for many proofs of one block."""

    block: Block
    receipts: tuple[Receipt, ...]
    tx_levels: list[list[bytes]]
    receipt_levels: list[list[bytes]]


def make_receipt_proof(call: Call, place: Placement) -> ProofFile:
    """Return the proof of what became of an executed transaction."""
    trees, index = _get_trees(call, place.height), place.index
    proof = ReceiptProof(
        envelope=trees.block.transactions[index],
        receipt=trees.receipts[index],
        index=index,
        tx_path=tuple(get_path(trees.tx_levels, index)),
        receipt_path=tuple(get_path(trees.receipt_levels, index)),
        finality=_get_finality(call, place.height),
    )
    return _make_file(call, proof)


def _get_trees(call: Call, height: int) -> BlockTrees:
    """Return the trees of a final block; those of the last few asked for are kept."""
    cache = call.context.tree_cache
    found: BlockTrees | None = cache.pop(height, None)
    if found is None:
        block, receipts = call.reader.get_block(height), call.reader.get_receipts(height)
        assert block is not None, height
        assert receipts is not None, height
        hashes = [compute_hash(HashTag.TX, raw) for raw in block.transactions]
        encoded = [encode(receipt) for receipt in receipts]
        found = BlockTrees(block, receipts, build_levels(hashes), build_levels(encoded))
        if len(cache) >= PROOF_BLOCK_CACHE:
            del cache[next(iter(cache))]
    cache[height] = found
    return found


def make_account_proof(call: Call, account: str, held: Sequence[str]) -> ProofFile:
    """Return the proof of an account's balances in the final state that the call reads.

    An account that holds nothing is proven to hold none of any asset: that shows a neighbour in
    the tree, so only to those who may read all accounts.

    Raises:
        Problem: there is nothing that this caller may be shown.
    """
    assets: Sequence[str] = held
    if not held:
        if call.grant.participants is not None:
            raise Problem(
                ApiCode.NOT_PROVABLE, f"{account} holds nothing; its absence shows other accounts"
            )
        assets = [code for code, _ in reads.list_assets(call.final.view)]
    if not assets:
        raise Problem(ApiCode.NOT_PROVABLE, "the ledger has no asset yet")
    finality = _get_final(call)
    return _make_file(call, build_account_proof(call.final.view, account, assets, finality))


def make_solvency_proof(call: Call) -> ProofFile:
    """Return the proof of supply against reserve in the final state that the call reads."""
    finality = _get_final(call)
    return _make_file(call, build_solvency_proof(call.final.view, finality))


def make_expiry_proof(
    call: Call, *, sender: str, tx_id: bytes, valid_until_ms: int
) -> ProofFile | None:
    """Return the proof that a transaction whose id is unused never was and never will be executed.

    None where the final block's time is not past its window, or too far past it: the ids of an
    hour are dropped in the end; and where the list is long or shows ids to strangers.
    """
    final = call.final
    params, bucket = (
        final.view.get(PARAMS, CURRENT),
        final.view.get(ID_BUCKETS, hour_key(valid_until_ms)),
    )
    assert params is not None
    dropped_ms = (valid_until_ms // HOUR_MS + 1) * HOUR_MS + params.tx_id_retention_ms
    is_provable = valid_until_ms < final.header.timestamp_ms < dropped_ms
    is_long = bucket is not None and bucket.count > MAX_LISTED_IDS
    is_open = call.grant.participants is None and _is_certified(call)
    if not is_provable or is_long or not is_open:
        return None
    proof = build_expiry_proof(
        final.view,
        sender=sender,
        tx_id=tx_id,
        valid_until_ms=valid_until_ms,
        finality=_get_finality(call, final.header.height),
    )
    return None if proof is None else _make_file(call, proof)


def make_record_proof(call: Call, section: Section[Any], key: bytes) -> ProofFile:
    """Return the proof of one record in the final state that the call reads, or of its absence."""
    finality = _get_final(call)
    return _make_file(call, build_record_proof(call.final.view, section, key, finality))


def _make_file(call: Call, proof: Proof) -> ProofFile:
    """Return a proof with the steps that lead from the genesis set to the one that signed it."""
    epoch = proof.finality.finalization.proposition.epoch
    return build_proof_file(proof, call.reader.get_epoch_steps(epoch))


def _get_final(call: Call) -> FinalityProof:
    """Return what makes the block final whose state the call reads.

    Raises:
        Problem: a recovery document changed that state, or it is the genesis.
    """
    height = call.final.header.height
    if not _is_certified(call):
        raise Problem(
            ApiCode.NOT_PROVABLE,
            f"a recovery document changed the validators after block {height}: the next final"
            " block proves this state",
        )
    return _get_finality(call, height)


def _is_certified(call: Call) -> bool:
    """Return whether the final block's header has the root of the state that the call reads."""
    table = read_state_table(call.final.view)
    return compute_state_root(table.sections, table.assets) == call.final.header.state_root


def _get_finality(call: Call, height: int) -> FinalityProof:
    path = call.reader.get_finality_path(height)
    if path is None:
        raise Problem(ApiCode.NOT_PROVABLE, f"block {height} is the genesis: it has no certificate")
    return FinalityProof(path.finalization, path.headers)
