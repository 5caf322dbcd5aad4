"""Building proofs from a node's state: the other side of `proofs.py`.

Pure functions of a view of the state after a final block, and of what makes that block final. The
caller makes sure that both are of the same height; a mismatch makes a proof that does not verify,
never a wrong one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from atpar.ledger.blocks import Block
from atpar.ledger.codec import encode
from atpar.ledger.commitment import read_state_table
from atpar.ledger.ids import list_ids
from atpar.ledger.limits import MAX_LISTED_IDS
from atpar.ledger.merkle import build_path
from atpar.ledger.proofs import (
    FORMAT,
    AccountProof,
    BalanceProof,
    EpochStep,
    ExpiryProof,
    FinalityProof,
    Proof,
    ProofFile,
    ReceiptProof,
    RecordProof,
    RegisteredSets,
    SolvencyProof,
    compute_checksum,
)
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import (
    BALANCES,
    CURRENT,
    ID_BUCKETS,
    NEXT,
    PARAMS,
    VALIDATORS,
    balance_key,
    hour_key,
)
from atpar.ledger.state import Section, View
from atpar.ledger.transactions import decode_transaction
from atpar.ledger.tree import compute_asset_tree, compute_section_tree
from atpar.ledger.treeproofs import TreeProof, prove

T = TypeVar("T")


def build_proof_file(proof: Proof, epochs: Sequence[EpochStep] = ()) -> ProofFile:
    """Return the file form of a proof, with the steps from the genesis set to its validators."""
    return ProofFile(FORMAT, tuple(epochs), proof, compute_checksum(proof))


def build_receipt_proof(
    block: Block, receipts: Sequence[Receipt], index: int, finality: FinalityProof
) -> ReceiptProof:
    """Return the proof of what became of transaction `index` of a final block."""
    hashes = [decode_transaction(raw).hash for raw in block.transactions]
    return ReceiptProof(
        envelope=block.transactions[index],
        receipt=receipts[index],
        index=index,
        tx_path=tuple(build_path(hashes, index)),
        receipt_path=tuple(build_path([encode(receipt) for receipt in receipts], index)),
        finality=finality,
    )


def build_account_proof(
    view: View, account: str, assets: Iterable[str], finality: FinalityProof
) -> AccountProof:
    """Return the proof of what an account holds of these assets, which the state must have."""
    balances = []
    for asset in sorted(set(assets)):
        tree_proof = prove(
            view, compute_asset_tree(asset), account.encode(), _get_balance_reader(view, asset)
        )
        balances.append(BalanceProof(asset, tree_proof))
    return AccountProof(account, tuple(balances), read_state_table(view), finality)


def _get_balance_reader(view: View, asset: str) -> Callable[[bytes], bytes]:
    return lambda account: encode(view.get(BALANCES, balance_key(asset, account.decode())))


def build_solvency_proof(view: View, finality: FinalityProof) -> SolvencyProof:
    """Return the proof of supply, sum of balances and attested reserve of every asset."""
    return SolvencyProof(read_state_table(view), finality)


def build_record_proof(
    view: View, section: Section[Any], key: bytes, finality: FinalityProof
) -> RecordProof:
    """Return the proof of one record of a proven section, or of its absence."""
    tree_proof = _prove_record(view, section, key)
    return RecordProof(section.id, key, tree_proof, read_state_table(view), finality)


def prove_sets(view: View) -> RegisteredSets:
    """Return the proof of who the validators and their administrators are, for a recovery step."""
    return RegisteredSets(
        table=read_state_table(view),
        current=_prove_record(view, VALIDATORS, CURRENT),
        following=_prove_record(view, VALIDATORS, NEXT),
    )


def _prove_record(view: View, section: Section[Any], key: bytes) -> TreeProof:
    tree = compute_section_tree(section.id)
    return prove(view, tree, key, lambda found: encode(view.get(section, found)))


def build_expiry_proof(
    view: View, *, sender: str, tx_id: bytes, valid_until_ms: int, finality: FinalityProof
) -> ExpiryProof | None:
    """Return the proof that a transaction was never executed and never will be.

    The caller knows that its id was not used, that its window passed before the block and that the
    hour's ids are still kept. None where the list of that hour is too long for one proof.
    """
    hour = hour_key(valid_until_ms)
    bucket = view.get(ID_BUCKETS, hour)
    if bucket is not None and bucket.count > MAX_LISTED_IDS:
        return None
    return ExpiryProof(
        sender=sender,
        tx_id=tx_id,
        valid_until_ms=valid_until_ms,
        bucket=_prove_record(view, ID_BUCKETS, hour),
        params=_prove_record(view, PARAMS, CURRENT),
        used=tuple(list_ids(view, hour)),
        table=read_state_table(view),
        finality=finality,
    )
