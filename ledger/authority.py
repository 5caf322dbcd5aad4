"""Who may act: policies, principals, and everything an envelope must satisfy to enter a block.

Only authorised transactions enter a block, so nobody can use up another's transaction id or fill
blocks with failures that are not their own. What is judged here is judged on the state *before*
the transaction; an operation whose principals do not exist in that state (a hold made earlier in
the same transaction, say) cannot succeed in it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.limits import MAX_OPS_PER_TRANSACTION, MAX_SIGNATURES, MAX_TRANSACTION_BYTES
from atpar.ledger.operations import (
    AttestReserve,
    Burn,
    Freeze,
    Mint,
    OpenAccount,
    Operation,
    Policy,
    Redeem,
    Release,
    SetAsset,
    SetMintQuota,
    SetParticipant,
    Transfer,
    Unfreeze,
    Void,
    WeightedKey,
)
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    CURRENT,
    FREEZES,
    HOLDS,
    ID_BUCKETS,
    NO_RESERVE,
    PARAMS,
    RESERVES,
    TX_IDS,
    VALIDATORS,
    AccountStatus,
    Asset,
    HoldKind,
    Params,
    TxRecord,
    ValidatorSet,
    hour_key,
    tx_key,
)
from atpar.ledger.roles import INDEPENDENT_ROLES
from atpar.ledger.state import View
from atpar.ledger.transactions import VERSION, Body, Transaction
from atpar.ledger.types import GOVERNANCE, Role, admin_of, participant_of
from atpar.ledger.values import find_value_fault

Unresolved = Mapping[int, Refused]
"""Operations whose principals do not exist in the state, by index, with what they fail with."""
_NONE_UNRESOLVED: Final[Unresolved] = {}


def check_admission(view: View, tx: Transaction, *, chain_id: bytes, now_ms: int) -> None:
    """Check every rule but the signatures' validity, in order of precedence.

    Raises:
        Refused: with a code below `FIRST_RECEIPT_CODE`.
    """
    check_entry(view, tx, chain_id=chain_id, now_ms=now_ms, params=get_params(view))


def check_entry(
    view: View, tx: Transaction, *, chain_id: bytes, now_ms: int, params: Params
) -> Unresolved:
    """As `check_admission`; return the operations that cannot but fail on this state."""
    _check_form(tx, chain_id=chain_id)
    _check_window(tx.body, now_ms=now_ms, max_window_ms=params.max_window_ms)
    used = find_tx_record(view, tx.body.sender, tx.body.tx_id)
    if used is not None:
        raise Refused(Code.ID_REUSED, f"id {tx.body.tx_id.hex()} was used at height {used.height}")
    fault = find_value_fault(tx.body.ops)
    if fault is not None:
        raise fault
    return check_authorised(view, tx)


def get_params(view: View) -> Params:
    """Return the chain parameters in force."""
    params = view.get(PARAMS, CURRENT)
    assert params is not None, "the state has no parameters"
    return params


def get_validators(view: View) -> ValidatorSet:
    """Return the validator set in force."""
    validators = view.get(VALIDATORS, CURRENT)
    assert validators is not None, "the state has no validators"
    return validators


def _check_form(tx: Transaction, *, chain_id: bytes) -> None:
    body = tx.body
    if len(tx.raw) > MAX_TRANSACTION_BYTES:
        raise Refused(Code.TOO_LARGE, f"{len(tx.raw)} bytes, at most {MAX_TRANSACTION_BYTES}")
    if body.version != VERSION:
        raise Refused(Code.UNSUPPORTED_VERSION, f"version {body.version}, expected {VERSION}")
    if body.chain_id != chain_id:
        raise Refused(
            Code.WRONG_CHAIN, f"chain {body.chain_id.hex()}, this chain is {chain_id.hex()}"
        )
    if not body.ops:
        raise Refused(Code.NO_OPERATIONS, "no operations")
    if len(body.ops) > MAX_OPS_PER_TRANSACTION:
        raise Refused(
            Code.TOO_MANY_OPERATIONS,
            f"{len(body.ops)} operations, at most {MAX_OPS_PER_TRANSACTION}",
        )
    signatures = tx.signatures
    if len(signatures) > MAX_SIGNATURES:
        raise Refused(
            Code.TOO_MANY_SIGNATURES, f"{len(signatures)} signatures, at most {MAX_SIGNATURES}"
        )
    previous = b""
    for position, signature in enumerate(signatures):
        if signature.key <= previous:
            raise Refused(Code.SIGNATURES_UNSORTED, f"signatures[{position}]: not in order of keys")
        previous = signature.key


def _check_window(body: Body, *, now_ms: int, max_window_ms: int) -> None:
    first, last = body.valid_from_ms, body.valid_until_ms
    if not 0 <= last - first <= max_window_ms:
        raise Refused(
            Code.WINDOW_INVALID, f"window of {last - first} ms, must be within 0 to {max_window_ms}"
        )
    if now_ms < first:
        raise Refused(Code.NOT_YET_VALID, f"valid from {first}, it is {now_ms}")
    if now_ms > last:
        raise Refused(Code.EXPIRED, f"valid until {last}, it is {now_ms}")


def find_tx_record(view: View, sender: str, tx_id: bytes) -> TxRecord | None:
    """Return which transaction used an id, as long as ids of its hour are retained."""
    record = view.get(TX_IDS, tx_key(sender, tx_id))
    if record is not None and view.get(ID_BUCKETS, hour_key(record.valid_until_ms)) is None:
        return None
    return record


# ---- policies


def get_policy(view: View, account_id: str) -> Policy:
    """Return the policy that speaks for an account.

    Raises:
        Refused: UNKNOWN_ACCOUNT, also when it is closed.
    """
    if account_id == GOVERNANCE:
        return derive_governance(get_validators(view))
    account = view.get(ACCOUNTS, account_id.encode())
    if account is None or account.status is AccountStatus.CLOSED:
        raise Refused(Code.UNKNOWN_ACCOUNT, f"no account {account_id}")
    return account.policy


def derive_governance(validators: ValidatorSet) -> Policy:
    """Return the policy of `CHAIN/governance`: above two thirds of the administrators."""
    keys = sorted(member.admin_key for member in validators.members)
    return Policy(tuple(WeightedKey(key, 1) for key in keys), 2 * len(keys) // 3 + 1)


class _Tally:
    """What the signatures of one transaction amount to, principal by principal."""

    __slots__ = ("involved", "signers", "unmet", "view")

    def __init__(self, view: View, tx: Transaction) -> None:
        self.view = view
        self.signers = {signature.key for signature in tx.signatures}
        self.involved: set[bytes] = set()
        self.unmet: list[str] = []

    def weigh(self, account_id: str) -> bool:
        """Return whether the signatures satisfy an account's policy; its keys are involved."""
        policy = get_policy(self.view, account_id)
        weight, signers = 0, self.signers
        for entry in policy.keys:
            if entry.key in signers:
                weight += entry.weight
                self.involved.add(entry.key)
        return weight >= policy.threshold

    def demand(self, account_id: str) -> None:
        if not self.weigh(account_id):
            self.unmet.append(account_id)


def check_authorised(view: View, tx: Transaction) -> Unresolved:
    """Check that the signatures satisfy every principal, and that each one is needed.

    Returns the operations whose principals do not exist, which fail when they run. As long as
    there are any, a signature may be for one of those.

    Raises:
        Refused: UNKNOWN_ACCOUNT, UNINVOLVED_SIGNATURE or UNAUTHORISED.
    """
    tally = _Tally(view, tx)
    sender = tx.body.sender
    tally.demand(sender)
    seen = {sender}
    unresolved: dict[int, Refused] = {}
    for index, op in enumerate(tx.body.ops):
        if type(op) is Transfer:
            if op.debtor not in seen:
                seen.add(op.debtor)
                tally.demand(op.debtor)
            continue
        try:
            principals = PRINCIPALS[type(op)](view, op)
        except Refused as refusal:
            unresolved[index] = refusal
            continue
        for principal in principals:
            if principal not in seen:
                seen.add(principal)
                tally.demand(principal)
        if type(op) is SetAsset:
            _demand_outgoing(tally, op)
    if not unresolved and len(tally.involved) != len(tally.signers):
        strange = next(s.key for s in tx.signatures if s.key not in tally.involved)
        raise Refused(Code.UNINVOLVED_SIGNATURE, f"{strange.hex()} is in no principal's policy")
    if tally.unmet:
        raise Refused(
            Code.UNAUTHORISED, f"not enough signatures for {', '.join(sorted(tally.unmet))}"
        )
    return unresolved or _NONE_UNRESOLVED


def _demand_outgoing(tally: _Tally, op: SetAsset) -> None:
    """Who is replaced as custodian, auditor or regulator agrees, or governance does instead."""
    before = tally.view.get(ASSETS, op.asset.encode())
    if before is None:
        return
    outgoing = [
        getattr(before.terms, field)
        for field, _ in INDEPENDENT_ROLES
        if getattr(before.terms, field) != getattr(op.terms, field)
    ]
    if not outgoing:
        return
    by_governance = tally.weigh(GOVERNANCE)
    for account_id in outgoing:
        if not tally.weigh(account_id) and not by_governance:
            tally.unmet.append(account_id)


# ---- the principals of each operation; Refused if they do not exist in the state


def _asset(view: View, code: str) -> Asset:
    asset = view.get(ASSETS, code.encode())
    if asset is None:
        raise Refused(Code.UNKNOWN_ASSET, f"no asset {code}")
    return asset


def _hold_asset(view: View, hold_id: bytes) -> tuple[HoldKind, str, Asset]:
    hold = view.get(HOLDS, hold_id)
    if hold is None:
        raise Refused(Code.UNKNOWN_HOLD, f"no hold {hold_id.hex()}")
    return hold.kind, hold.asset, _asset(view, hold.asset)


def _of_set_participant(_view: View, _op: SetParticipant) -> Sequence[str]:
    return (GOVERNANCE,)


def _of_open_account(_view: View, op: OpenAccount) -> Sequence[str]:
    return (admin_of(participant_of(op.account)),)


def _of_set_asset(view: View, op: SetAsset) -> Sequence[str]:
    issuer, regulator = admin_of(op.issuer), op.terms.regulator
    if view.get(ASSETS, op.asset.encode()) is None:
        return (issuer, regulator, GOVERNANCE)
    return (issuer, regulator)


def _of_attest_reserve(view: View, op: AttestReserve) -> Sequence[str]:
    terms = _asset(view, op.asset).terms
    return (terms.auditor if op.by is Role.AUDITOR else terms.custodian,)


def _of_set_mint_quota(view: View, op: SetMintQuota) -> Sequence[str]:
    return (_asset(view, op.asset).terms.treasury,)


def _of_mint(view: View, op: Mint) -> Sequence[str]:
    if op.reversal_of is None:
        return (op.minter,)
    return (op.minter, _asset(view, op.asset).terms.custodian)


def _of_redeem(_view: View, op: Redeem) -> Sequence[str]:
    return (op.holder,)


def _of_burn(view: View, op: Burn) -> Sequence[str]:
    _, _, asset = _hold_asset(view, op.redemption)
    return (asset.terms.treasury, asset.terms.custodian)


def _of_release(view: View, op: Release) -> Sequence[str]:
    kind, code, asset = _hold_asset(view, op.hold)
    if kind is HoldKind.REDEMPTION:
        reserve = view.get(RESERVES, code.encode()) or NO_RESERVE
        if op.hold in reserve.paid_not_burned:
            return (op.by, asset.terms.custodian)
    return (op.by,)


def _of_freeze(_view: View, op: Freeze) -> Sequence[str]:
    return (op.by,)


def _of_unfreeze(view: View, op: Unfreeze) -> Sequence[str]:
    order = view.get(FREEZES, op.freeze)
    if order is None:
        raise Refused(Code.UNKNOWN_FREEZE, f"no freeze {op.freeze.hex()}")
    if order.asset is None:
        return (order.by,)
    return (_asset(view, order.asset).terms.compliance_release,)


def _of_void(_view: View, _op: Void) -> Sequence[str]:
    return ()


PRINCIPALS: Final[dict[type[Operation], Callable[[View, Any], Sequence[str]]]] = {
    SetParticipant: _of_set_participant,
    OpenAccount: _of_open_account,
    SetAsset: _of_set_asset,
    AttestReserve: _of_attest_reserve,
    SetMintQuota: _of_set_mint_quota,
    Mint: _of_mint,
    Redeem: _of_redeem,
    Burn: _of_burn,
    Release: _of_release,
    Freeze: _of_freeze,
    Unfreeze: _of_unfreeze,
    Void: _of_void,
}
"""For every operation but Transfer (the debtor), the accounts whose policies must be met."""


def list_principals(view: View, op: Operation) -> Sequence[str]:
    """Return the accounts that an operation needs, for people: what is still to be signed.

    Raises:
        Refused: what it names does not exist.
    """
    if isinstance(op, Transfer):
        return (op.debtor,)
    return PRINCIPALS[type(op)](view, op)
