"""What is wrong with an operation in itself: amounts, order of lists, one account twice.

No state is read, so a client can be told before anything is signed.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.evidence import find_pair_fault
from atpar.ledger.limits import LIMIT_PERIOD_RANGE_MS, MAX_AMOUNT, MAX_BUNDLE_BYTES
from atpar.ledger.operations import (
    AccountChange,
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
    Possession,
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
from atpar.ledger.terms import find_terms_fault
from atpar.ledger.types import CHAIN_CODE, Direction, Role, admin_of, participant_of

Fault = tuple[Code, str] | None
"""A broken rule: its code and the message; None when nothing is wrong."""


def are_own_payments(sender: str, ops: Sequence[Operation]) -> bool:
    """Return whether the operations are payments of the sender alone, with no value at fault.

    Such a transaction needs its sender's agreement and nobody else's.
    """
    for op in ops:
        if not (
            type(op) is Transfer
            and op.debtor == sender
            and 0 < op.amount <= MAX_AMOUNT
            and op.creditor != sender
        ):
            return False
    return True


def find_value_fault(ops: Sequence[Operation]) -> Refused | None:
    """Return the refusal with the lowest code among the operations, or None."""
    worst: tuple[Code, str] | None = None
    for index, op in enumerate(ops):
        fault = CHECKS[type(op)](op)
        if fault is not None and (worst is None or fault[0] < worst[0]):
            worst = fault[0], f"ops[{index}].{fault[1]}"
    return None if worst is None else Refused(*worst)


def _moved(field: str, amount: int) -> Fault:
    """An amount that moves money."""
    if 0 < amount <= MAX_AMOUNT:
        return None
    return Code.AMOUNT_RANGE, f"{field}: {amount}, must be within 1 to {MAX_AMOUNT}"


def _stated(field: str, amount: int) -> Fault:
    """An amount that states something, where zero is a statement."""
    if 0 <= amount <= MAX_AMOUNT:
        return None
    return Code.AMOUNT_RANGE, f"{field}: {amount}, must be within 0 to {MAX_AMOUNT}"


def _sorted(field: str, values: Sequence[bytes] | Sequence[str]) -> Fault:
    if all(first < second for first, second in pairwise(values)):  # type: ignore[operator]
        return None
    return Code.VALUE_INVALID, f"{field}: not in ascending order without duplicates"


def _possessions(possessions: Sequence[Possession]) -> Fault:
    return _sorted("possessions", [proof.key for proof in possessions])


def _check_transfer(op: Transfer) -> Fault:
    if not 0 < op.amount <= MAX_AMOUNT:
        return _moved("amount", op.amount)
    if op.debtor == op.creditor:
        return Code.SAME_ACCOUNT, f"creditor: {op.creditor} is the debtor"
    return None


def _check_set_participant(op: SetParticipant) -> Fault:
    if op.participant == CHAIN_CODE:
        return Code.VALUE_INVALID, f"participant: {CHAIN_CODE} is reserved"
    return _sorted("roles", op.roles) or _possessions(op.possessions)


def _check_open_account(op: OpenAccount) -> Fault:
    return _possessions(op.possessions)


def _check_set_asset(op: SetAsset) -> Fault:
    fault = find_terms_fault(op.terms)
    if fault is not None:
        return fault.code, f"terms.{fault.field}: {fault.message}"
    if op.asset != f"{op.currency}.{op.issuer}":
        return Code.VALUE_INVALID, f"asset: {op.asset} is not {op.currency}.{op.issuer}"
    return None


def _check_attest_reserve(op: AttestReserve) -> Fault:
    fault = _stated("amount", op.amount)
    if fault is not None:
        return fault
    if op.by not in (Role.CUSTODIAN, Role.AUDITOR):
        return Code.VALUE_INVALID, f"by: {op.by.value} attests nothing"
    return _sorted("paid_not_burned", op.paid_not_burned)


def _check_set_mint_quota(op: SetMintQuota) -> Fault:
    return _stated("capacity", op.capacity) or _stated("refill_per_day", op.refill_per_day)


def _check_amount(op: Mint | Redeem | Capture | Assign | Seize) -> Fault:
    return _moved("amount", op.amount)


def _check_freeze(op: Freeze) -> Fault:
    if op.amount is None:
        return None
    if not 0 < op.amount <= MAX_AMOUNT:
        return _moved("amount", op.amount)
    if op.direction is Direction.CREDIT:
        return Code.VALUE_INVALID, "amount: only debits can be blocked in part"
    if op.asset is None:
        return Code.VALUE_INVALID, "amount: has no unit when it is for all assets"
    return None


def _check_hold(op: Hold) -> Fault:
    if not 0 < op.amount <= MAX_AMOUNT:
        return _moved("amount", op.amount)
    fault = _sorted("condition.arbiters", op.condition.arbiters)
    if fault is not None:
        return fault
    if op.debtor == op.creditor:
        return Code.SAME_ACCOUNT, f"creditor: {op.creditor} is the debtor"
    return None


def _check_controls(op: SetControls) -> Fault:
    fault = None if op.limit is None else _stated("limit.amount", op.limit.amount)
    if fault is not None:
        return fault
    if (op.account is None) == (op.tier_class is None):
        return Code.VALUE_INVALID, "account: either an account or a class of accounts"
    if op.tier is not None and op.account is None:
        return Code.VALUE_INVALID, "tier: a class is a tier already"
    if op.tier_expires_at_ms is not None and op.tier is None:
        return Code.VALUE_INVALID, "tier_expires_at_ms: without a tier"
    low, high = LIMIT_PERIOD_RANGE_MS
    if op.limit is not None and not low <= op.limit.period_ms <= high:
        return Code.VALUE_INVALID, f"limit.period_ms: must be within {low} to {high}"
    return None


def _check_pause(op: SetPause) -> Fault:
    return _sorted("scopes", op.scopes)


def _check_update_account(op: UpdateAccount) -> Fault:
    recovers = op.change is AccountChange.RECOVER
    if recovers != (op.regulator is not None):
        return Code.VALUE_INVALID, "regulator: named for a recovery, and only then"
    if recovers and op.policy is None:
        return Code.VALUE_INVALID, "policy: a recovery needs one"
    if op.change is not AccountChange.UPDATE and (op.close or op.reference_required is not None):
        return Code.VALUE_INVALID, "change: only an update does more than set the policy"
    if op.change is AccountChange.CANCEL and op.policy is not None:
        return Code.VALUE_INVALID, "policy: cancelling sets none"
    return None


def _check_set_validators(op: SetValidators) -> Fault:
    return _possessions(op.possessions)


def _check_record_evidence(op: RecordEvidence) -> Fault:
    if op.by != admin_of(participant_of(op.by)):
        return Code.VALUE_INVALID, f"by: {op.by} is no administrative account like ALFA/admin"
    fault = find_pair_fault(op.evidence)
    return None if fault is None else (Code.VALUE_INVALID, f"evidence: {fault}")


def _check_propose(op: Propose) -> Fault:
    if not op.ops:
        return Code.NO_OPERATIONS, "ops: nothing is proposed"
    size = len(encode(op.ops))
    if size > MAX_BUNDLE_BYTES:
        return Code.TOO_LARGE, f"ops: {size} bytes, at most {MAX_BUNDLE_BYTES}"
    worst = find_value_fault(op.ops)
    return None if worst is None else (worst.code, worst.message)


def _check_nothing(_op: Burn | Release | Unfreeze | Approve | SetParams | Void) -> Fault:
    return None


CHECKS: Final[dict[type[Operation], Callable[[Any], Fault]]] = {
    Propose: _check_propose,
    Approve: _check_nothing,
    SetParams: _check_nothing,
    SetValidators: _check_set_validators,
    RecordEvidence: _check_record_evidence,
    UpdateAccount: _check_update_account,
    Seize: _check_amount,
    SetPause: _check_pause,
    SetParticipant: _check_set_participant,
    OpenAccount: _check_open_account,
    SetAsset: _check_set_asset,
    AttestReserve: _check_attest_reserve,
    SetMintQuota: _check_set_mint_quota,
    Mint: _check_amount,
    Redeem: _check_amount,
    Burn: _check_nothing,
    Transfer: _check_transfer,
    Hold: _check_hold,
    Capture: _check_amount,
    Release: _check_nothing,
    Assign: _check_amount,
    SetControls: _check_controls,
    Freeze: _check_freeze,
    Unfreeze: _check_nothing,
    Void: _check_nothing,
}
