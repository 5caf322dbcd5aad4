"""The one door through which state changes: a block's transactions on its parent's state.

Execution is a pure function of the parent's state and the block. Building a block and checking
one run the same steps; they differ in what happens to a transaction that may not enter: the
builder leaves it out, the checker refuses the block.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from atpar.ledger.authority import Unresolved, get_params, get_validators
from atpar.ledger.blocks import (
    HEADER_VERSION,
    Block,
    Header,
    compute_digest,
    compute_validators_hash,
)
from atpar.ledger.codec import encode
from atpar.ledger.codes import FIRST_RECEIPT_CODE, Code
from atpar.ledger.commitment import commit_state
from atpar.ledger.compliance import (
    apply_freeze,
    apply_seize,
    apply_set_pause,
    apply_unfreeze,
)
from atpar.ledger.context import Context
from atpar.ledger.controls import apply_set_controls
from atpar.ledger.entry import Entrance, check_admission
from atpar.ledger.errors import BlockInvalid, Refused
from atpar.ledger.governance import (
    activate_params,
    apply_approve,
    apply_propose,
    apply_record_evidence,
    apply_set_params,
    apply_set_validators,
    begin_epoch,
)
from atpar.ledger.holds import apply_assign, apply_capture, apply_hold
from atpar.ledger.ids import IdLog, drop_expired_ids
from atpar.ledger.limits import MAX_BLOCK_OPS, MAX_BLOCK_SIGNATURES
from atpar.ledger.members import (
    activate_recoveries,
    apply_open_account,
    apply_set_asset,
    apply_set_participant,
    apply_update_account,
    end_closing_accounts,
)
from atpar.ledger.merkle import compute_root
from atpar.ledger.operations import (
    Approve,
    Assign,
    AttestReserve,
    Burn,
    Capture,
    Freeze,
    Hold,
    Mint,
    OpenAccount,
    Operation,
    Propose,
    RecordEvidence,
    Redeem,
    Release,
    Seize,
    SetAsset,
    SetControls,
    SetMintQuota,
    SetParams,
    SetParticipant,
    SetPause,
    SetValidators,
    Transfer,
    Unfreeze,
    UpdateAccount,
    Void,
)
from atpar.ledger.payments import apply_transfer
from atpar.ledger.plain import PlainPayments
from atpar.ledger.receipts import Receipt
from atpar.ledger.records import PROPOSALS, Posting, identify_validators
from atpar.ledger.state import Overlay, View
from atpar.ledger.supply import (
    apply_attest_reserve,
    apply_burn,
    apply_mint,
    apply_redeem,
    apply_release,
    apply_set_mint_quota,
)
from atpar.ledger.transactions import Transaction

BLOCK_OVERHEAD_BYTES: Final = 1_024
"""What a block's header and framing may take of `max_block_bytes`."""
_FORESEEN: Final = 256
"""Transactions that are prepared together: what they need stays in the processor's cache."""
_FORESEEN_OPS: Final = 1_000
"""Fewer, if they have so many operations: a block that is too large costs little until then."""
TRANSACTION_OVERHEAD_BYTES: Final = 5
"""The longest length prefix of one envelope inside a block."""


def _apply_void(_ctx: Context, _op: Void) -> None:
    """Nothing: the id is used up by being in a block."""


APPLY: Final[dict[type[Operation], Callable[[Context, Any], None]]] = {
    Propose: apply_propose,
    Approve: apply_approve,
    SetParams: apply_set_params,
    SetValidators: apply_set_validators,
    RecordEvidence: apply_record_evidence,
    UpdateAccount: apply_update_account,
    Seize: apply_seize,
    SetPause: apply_set_pause,
    SetParticipant: apply_set_participant,
    OpenAccount: apply_open_account,
    SetAsset: apply_set_asset,
    AttestReserve: apply_attest_reserve,
    SetMintQuota: apply_set_mint_quota,
    Mint: apply_mint,
    Redeem: apply_redeem,
    Burn: apply_burn,
    Transfer: apply_transfer,
    Hold: apply_hold,
    Capture: apply_capture,
    Release: apply_release,
    Assign: apply_assign,
    SetControls: apply_set_controls,
    Freeze: apply_freeze,
    Unfreeze: apply_unfreeze,
    Void: _apply_void,
}


def _apply(context: Context, op: Operation) -> None:
    """Apply one operation of a transaction or of a bundle."""
    if type(op) is Transfer:
        apply_transfer(context, op)
        return
    context.forget()
    APPLY[type(op)](context, op)
    context.forget()


def _apply_each(context: Context, ops: Sequence[Operation], unresolved: Unresolved) -> None:
    """Apply the operations of a transaction, in order.

    Raises:
        Refused: why the operation at `context.op_index` fails.
    """
    for index, op in enumerate(ops):
        context.op_index = index
        if index in unresolved:
            raise unresolved[index]
        _apply(context, op)


@dataclass(frozen=True, slots=True)
class Template:
    """What a proposer decides before execution."""

    epoch: int
    view: int
    parent: Header
    parent_digest: bytes
    timestamp_ms: int
    proposer: str


@dataclass(frozen=True, slots=True)
class Executed:
    """A block with everything that follows from it."""

    header: Header
    digest: bytes
    transactions: tuple[Transaction, ...]
    receipts: tuple[Receipt, ...]
    postings: tuple[Posting, ...]
    """Every movement of posted money, in order: what statements are made of."""
    overlay: Overlay
    """The block's writes above the parent's view, tree nodes included."""

    @property
    def block(self) -> Block:
        """The header with the exact bytes of the transactions."""
        return Block(self.header, tuple(tx.raw for tx in self.transactions))


class _Run:
    """One block in execution."""

    def __init__(self, parent: View, *, height: int, now_ms: int, chain_id: bytes) -> None:
        self.overlay = Overlay(parent)
        # The parent's header names the same set, unless a recovery document came in between.
        self.voters = identify_validators(get_validators(parent))
        self.context = Context(self.overlay, chain_id=chain_id, height=height, now_ms=now_ms)
        self.context.apply = _apply
        self._plain = PlainPayments(self.context)
        activate_params(self.overlay, height=height)
        activate_recoveries(self.overlay, now_ms=now_ms)
        self.params = get_params(self.overlay)
        self.transactions: list[Transaction] = []
        self.receipts: list[Receipt] = []
        self._bytes = BLOCK_OVERHEAD_BYTES
        self._ops = 0
        self._signatures = 0
        self._ids = IdLog(self.overlay, height=height)
        drop_expired_ids(self.overlay, now_ms=now_ms, retention_ms=self.params.tx_id_retention_ms)
        self._entrance = Entrance(
            self.overlay,
            chain_id=chain_id,
            now_ms=now_ms,
            max_window_ms=self.params.max_window_ms,
            find_used=self._ids.find,
            read_account=self.context.read_account,
        )

    def foresee(self, transactions: Iterable[Transaction]) -> Iterator[Transaction]:
        """Yield the transactions that are to be added, and prepare for a few at a time."""
        following, ops = list[Transaction](), 0
        for tx in transactions:
            following.append(tx)
            ops += len(tx.body.ops)
            if len(following) == _FORESEEN or ops >= _FORESEEN_OPS:
                self._plain.foresee(following)
                yield from following
                following, ops = [], 0
        self._plain.foresee(following)
        yield from following

    def add(self, tx: Transaction) -> str | None:
        """Execute one transaction and add its receipt, if it finds room.

        Returns which limit of the block it would exceed, or None if it was executed.

        Raises:
            Refused: it may not enter the block. Then, and without room, nothing changed.
        """
        body, size = tx.body, len(tx.raw) + TRANSACTION_OVERHEAD_BYTES
        ops, signatures = len(body.ops), len(tx.signatures)
        if not tx.are_own_payments:
            ops, signatures = _measure_work(self.overlay, tx)
        excess = self._find_excess(size, ops, signatures)
        if excess is not None:
            return excess
        unresolved = self._entrance.check(tx)
        self.context.tx_index, code, failed_op = len(self.transactions), 0, None
        if not (tx.are_own_payments and self._plain.pay(body.sender, body.ops)):  # type: ignore[arg-type]
            code, failed_op = self._apply(tx, unresolved)
        self._ids.record(tx)
        self._bytes += size
        self._ops += ops
        self._signatures += signatures
        self.transactions.append(tx)
        self.receipts.append(Receipt(tx.hash, body.sender, body.tx_id, code, failed_op))
        return None

    def _find_excess(self, size: int, ops: int, signatures: int) -> str | None:
        """Return the first limit that so much more would exceed, or None if there is room."""
        if len(self.transactions) >= self.params.max_block_transactions:
            return f"more than {self.params.max_block_transactions} transactions"
        if self._bytes + size > self.params.max_block_bytes:
            return f"more than {self.params.max_block_bytes} bytes"
        if self._ops + ops > MAX_BLOCK_OPS:
            return f"more than {MAX_BLOCK_OPS} operations"
        if self._signatures + signatures > MAX_BLOCK_SIGNATURES:
            return f"more than {MAX_BLOCK_SIGNATURES} signatures"
        return None

    def _apply(self, tx: Transaction, unresolved: Unresolved) -> tuple[int, int | None]:
        """Apply the operations by their rules; return code and failed operation for the receipt."""
        context, overlay = self.context, self.overlay
        self._plain.settle()
        overlay.checkpoint()
        context.tx = tx
        posted = len(context.postings)
        try:
            _apply_each(context, tx.body.ops, unresolved)
            if context.departed:
                end_closing_accounts(context)
                context.forget()
        except Refused as refusal:
            overlay.rollback()
            del context.postings[posted:]
            context.departed.clear()
            context.forget()
            context.bundle_entry = None
            failed = int(refusal.code), context.op_index
        else:
            return 0, None
        assert failed[0] >= FIRST_RECEIPT_CODE, failed
        return failed

    def finish(self, template: Template) -> Executed:
        """Return the block with its roots."""
        parent = template.parent
        height = parent.height + 1
        self._plain.settle()
        self._ids.close()
        if height % self.params.epoch_blocks == 0:
            begin_epoch(self.overlay)
        next_validators = identify_validators(get_validators(self.overlay))
        header = Header(
            version=HEADER_VERSION,
            chain_id=self.context.chain_id,
            epoch=template.epoch,
            view=template.view,
            height=height,
            parent=template.parent_digest,
            timestamp_ms=template.timestamp_ms,
            proposer=template.proposer,
            tx_count=len(self.transactions),
            tx_root=compute_root([tx.hash for tx in self.transactions]),
            receipt_root=compute_root(list(map(encode, self.receipts))),
            state_root=commit_state(self.overlay),
            validators_hash=compute_validators_hash(self.voters),
            next_validators_hash=compute_validators_hash(next_validators),
        )
        self.overlay.checkpoint()
        return Executed(
            header=header,
            digest=compute_digest(header),
            transactions=tuple(self.transactions),
            receipts=tuple(self.receipts),
            postings=tuple(self.context.postings),
            overlay=self.overlay,
        )


_LABORIOUS: Final = frozenset((OpenAccount, SetParticipant, SetValidators, RecordEvidence, Approve))


def _measure_work(view: View, tx: Transaction) -> tuple[int, int]:
    """Return how many operations and signatures a transaction makes everyone check.

    Proofs of possession and the votes in evidence are signatures; an approval may run its bundle.
    """
    ops, signatures = len(tx.body.ops), len(tx.signatures)
    for op in tx.body.ops:
        if type(op) in _LABORIOUS:
            bundled: Sequence[Operation] = (op,)
            if isinstance(op, Approve):
                proposal = view.get(PROPOSALS, op.proposal)
                bundled = () if proposal is None else proposal.ops
                ops += len(bundled)
            for each in bundled:
                if isinstance(each, OpenAccount | SetParticipant | SetValidators):
                    signatures += len(each.possessions)
                elif isinstance(each, RecordEvidence):
                    signatures += 2
    return ops, signatures


def build_block(
    parent: View, template: Template, candidates: Iterable[Transaction], *, chain_id: bytes
) -> tuple[Executed, list[tuple[Transaction, Refused]]]:
    """Return the block made of the candidates that may enter, and the others with the reason.

    Candidates for which there is no room are in neither.
    """
    run = _Run(
        parent,
        height=template.parent.height + 1,
        now_ms=template.timestamp_ms,
        chain_id=chain_id,
    )
    refused: list[tuple[Transaction, Refused]] = []
    for tx in run.foresee(candidates):
        try:
            run.add(tx)
        except Refused as refusal:
            refused.append((tx, refusal))
    return run.finish(template), refused


def execute_block(
    parent: View,
    parent_header: Header,
    parent_digest: bytes,
    block: Block,
    transactions: Sequence[Transaction],
    *,
    chain_id: bytes,
) -> Executed:
    """Execute a proposed block. The caller has checked the signatures of the transactions.

    `transactions` are those of the block, decoded. Epoch, view and proposer are taken as the
    header says: who may propose is the business of consensus.

    Raises:
        BlockInvalid: any deviation; the message has both values.
    """
    header = block.header
    _check_header(header, parent_header, parent_digest, chain_id=chain_id)
    if [tx.raw for tx in transactions] != list(block.transactions):
        raise BlockInvalid("transactions: not those of the block")
    _check_same("tx_count", header.tx_count, len(transactions))
    run = _Run(parent, height=header.height, now_ms=header.timestamp_ms, chain_id=chain_id)
    for position, tx in enumerate(run.foresee(transactions)):
        try:
            excess = run.add(tx)
        except Refused as refusal:
            name = Code(refusal.code).name
            raise BlockInvalid(f"transactions[{position}]: {name}: {refusal.message}") from refusal
        if excess is not None:
            raise BlockInvalid(f"transactions[{position}]: {excess}")
    executed = run.finish(
        Template(
            epoch=header.epoch,
            view=header.view,
            parent=parent_header,
            parent_digest=parent_digest,
            timestamp_ms=header.timestamp_ms,
            proposer=header.proposer,
        )
    )
    for name in header.__struct_fields__:
        _check_same(name, getattr(header, name), getattr(executed.header, name))
    return executed


def _check_header(
    header: Header, parent_header: Header, parent_digest: bytes, *, chain_id: bytes
) -> None:
    """Check what can be checked before anything runs."""
    _check_same("version", header.version, HEADER_VERSION)
    _check_same("chain_id", header.chain_id, chain_id)
    _check_same("height", header.height, parent_header.height + 1)
    _check_same("parent", header.parent, parent_digest)
    if header.timestamp_ms <= parent_header.timestamp_ms:
        raise BlockInvalid(
            f"timestamp_ms: {header.timestamp_ms}, the parent has {parent_header.timestamp_ms}"
        )


def _check_same(name: str, given: object, expected: object) -> None:
    if given != expected:
        raise BlockInvalid(f"{name}: {_show(given)}, expected {_show(expected)}")


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def simulate(
    view: View, final: Header, tx: Transaction, *, chain_id: bytes, now_ms: int
) -> Receipt:
    """Return the receipt that a transaction would get in the next block.

    Raises:
        Refused: it would not enter a block.
    """
    run = _Run(
        view,
        height=final.height + 1,
        now_ms=max(now_ms, final.timestamp_ms + 1),
        chain_id=chain_id,
    )
    excess = run.add(tx)
    if excess is not None:
        check_admission(view, tx, chain_id=chain_id, now_ms=run.context.now_ms)
        raise Refused(Code.TOO_LARGE, f"{excess} in one block")
    return run.receipts[0]
