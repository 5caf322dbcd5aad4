"""Who may act: policies, principals, and whose signatures a transaction needs.

Only authorised transactions enter a block, so nobody can use up another's transaction id or fill
blocks with failures that are not their own. What is judged here is judged on the state *before*
the transaction; an operation whose principals do not exist in that state (a hold made earlier in
the same transaction, say) cannot succeed in it.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from atpar.ledger.codec import encode
from atpar.ledger.codes import FIRST_RECEIPT_CODE, Code
from atpar.ledger.errors import Refused
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.limits import MAX_OPS_PER_TRANSACTION
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
    PauseChange,
    Policy,
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
    WeightedKey,
)
from atpar.ledger.policies import list_new_keys, needs_two_keys
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    CURRENT,
    FREEZES,
    HOLDS,
    NO_RESERVE,
    PARAMS,
    PROPOSALS,
    RESERVES,
    VALIDATORS,
    Asset,
    Params,
    ValidatorSet,
)
from atpar.ledger.records import Hold as HoldRecord
from atpar.ledger.roles import INDEPENDENT_ROLES
from atpar.ledger.state import View
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import GOVERNANCE, Role, admin_of, participant_of

Unresolved = Mapping[int, Refused]
"""Operations whose principals do not exist in the state, by index, with what they fail with."""
NONE_UNRESOLVED: Final[Unresolved] = {}


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


# ---- policies


def get_policy(view: View, account_id: str) -> Policy:
    """Return the policy that speaks for an account.

    A closed account's policy still speaks; what it may still do is for the rules to say.

    Raises:
        Refused: UNKNOWN_ACCOUNT.
    """
    if account_id == GOVERNANCE:
        return derive_governance(get_validators(view))
    account = view.get(ACCOUNTS, account_id.encode())
    if account is None:
        raise Refused(Code.UNKNOWN_ACCOUNT, f"no account {account_id}")
    return account.policy


def derive_governance(validators: ValidatorSet) -> Policy:
    """Return the policy of `CHAIN/governance`: above two thirds of the administrators."""
    keys = sorted(member.admin_key for member in validators.members)
    return Policy(tuple(WeightedKey(key, 1) for key in keys), 2 * len(keys) // 3 + 1)


class _Tally:
    """What a set of signers amounts to, principal by principal."""

    __slots__ = ("involved", "seen", "signers", "unmet", "unresolved", "view")

    def __init__(self, view: View, signers: AbstractSet[bytes]) -> None:
        self.view = view
        self.signers = signers
        self.involved: set[bytes] = set()
        self.seen: set[str] = set()
        self.unmet: list[str] = []
        self.unresolved: dict[int, Refused] = {}

    def weigh(self, account_id: str) -> bool:
        """Return whether the signers satisfy an account's policy; its keys are involved."""
        policy = get_policy(self.view, account_id)
        weight, signers = 0, self.signers
        for entry in policy.keys:
            if entry.key in signers:
                weight += entry.weight
                self.involved.add(entry.key)
        return weight >= policy.threshold

    def demand(self, account_id: str) -> None:
        """Ask for an account's policy, once."""
        if account_id not in self.seen:
            self.seen.add(account_id)
            if not self.weigh(account_id):
                self.unmet.append(account_id)

    def demand_all(self, ops: Sequence[Operation]) -> None:
        """Ask for the principals of every operation."""
        for index, op in enumerate(ops):
            if type(op) is Transfer:
                if op.debtor not in self.seen:
                    self.demand(op.debtor)
                continue
            try:
                principals = PRINCIPALS[type(op)](self.view, op)
            except Refused as refusal:
                self.unresolved[index] = refusal
                continue
            for principal in principals:
                self.demand(principal)
            if type(op) is SetAsset:
                _demand_outgoing(self, op)
            elif type(op) is UpdateAccount:
                _demand_new_keys(self, op)
            elif type(op) is Propose or type(op) is Approve:
                _demand_voice(self, index, op)


def check_authorised(view: View, tx: Transaction) -> Unresolved:
    """Check that the signatures satisfy every principal, and that each one is needed.

    Returns the operations whose principals do not exist, which fail when they run. As long as
    there are any, a signature may be for one of those.

    Raises:
        Refused: TOO_MANY_OPERATIONS, UNKNOWN_ACCOUNT, UNINVOLVED_SIGNATURE or UNAUTHORISED.
    """
    ops, sender = tx.body.ops, tx.body.sender
    _check_bundled(view, ops)
    tally = _Tally(view, {signature.key for signature in tx.signatures})
    if all(type(op) is Propose or type(op) is Approve for op in ops):
        _demand_one_key(tally, sender, ops)
    else:
        tally.demand(sender)
    tally.demand_all(ops)
    if not tally.unresolved and len(tally.involved) != len(tally.signers):
        strange = next(s.key for s in tx.signatures if s.key not in tally.involved)
        raise Refused(Code.UNINVOLVED_SIGNATURE, f"{strange.hex()} is in no principal's policy")
    if tally.unmet:
        raise Refused(
            Code.UNAUTHORISED, f"not enough signatures for {', '.join(sorted(tally.unmet))}"
        )
    return tally.unresolved or NONE_UNRESOLVED


# ---- bundles


class Bundle(NamedTuple):
    """Whom a bundle concerns, in one state."""

    targets: frozenset[str]
    """The accounts whose agreement it needs, or may take in place of another's."""
    new_keys: frozenset[bytes]
    """The keys that it would put into a policy."""
    voices: frozenset[bytes]
    """Every key that may decide on it."""
    holders: frozenset[bytes]
    """Every key that may propose it: one of a target's policy, and no key that is still new."""


def examine_bundle(view: View, ops: Sequence[Operation]) -> Bundle:
    """Return whom a bundle concerns.

    Raises:
        Refused: something it names does not exist; the code fits a receipt.
    """
    try:
        return _examine(view, ops)
    except Refused as refusal:
        if refusal.code >= FIRST_RECEIPT_CODE:
            raise
        raise Refused(Code.UNKNOWN_TARGET, refusal.message) from refusal


def _examine(view: View, ops: Sequence[Operation]) -> Bundle:
    targets: set[str] = set()
    new_keys: set[bytes] = set()
    for op in ops:
        targets.update(list_principals(view, op))
        if isinstance(op, SetAsset):
            targets.update(_list_outgoing(view, op))
        elif isinstance(op, UpdateAccount):
            new_keys.update(_list_new_keys(view, op))
    holders: set[bytes] = set()
    for account_id in sorted(targets):
        holders.update(entry.key for entry in get_policy(view, account_id).keys)
    voices = frozenset(holders | new_keys)
    return Bundle(frozenset(targets), frozenset(new_keys), voices, frozenset(holders))


def find_unmet(view: View, ops: Sequence[Operation], signers: AbstractSet[bytes]) -> list[str]:
    """Return the principals of an examined bundle that the signers do not satisfy."""
    tally = _Tally(view, signers)
    tally.demand_all(ops)
    assert not tally.unresolved, tally.unresolved
    return tally.unmet


def compute_bundle_hash(ops: Sequence[Operation], expires_at_ms: int) -> bytes:
    """Return the hash by which a reviewer names exactly what was reviewed."""
    return compute_hash(HashTag.BUNDLE, encode((tuple(ops), expires_at_ms)))


def _check_bundled(view: View, ops: Sequence[Operation]) -> None:
    """Bound what proposals and decisions make everyone look at, before anything is looked at.

    An approval is short and names a bundle that may be long; signatures are checked later.
    """
    bundled = 0
    for op in ops:
        if isinstance(op, Propose):
            bundled += len(op.ops)
        elif isinstance(op, Approve):
            proposal = view.get(PROPOSALS, op.proposal)
            bundled += 0 if proposal is None else len(proposal.ops)
    if bundled > MAX_OPS_PER_TRANSACTION:
        raise Refused(
            Code.TOO_MANY_OPERATIONS,
            f"{bundled} operations in bundles, at most {MAX_OPS_PER_TRANSACTION}",
        )


def _find_bundle(view: View, op: Propose | Approve) -> tuple[Sequence[Operation], Sequence[bytes]]:
    """Return the bundle that an operation is about, and the keys that made it."""
    if isinstance(op, Propose):
        return op.ops, ()
    proposal = view.get(PROPOSALS, op.proposal)
    if proposal is None:
        raise Refused(Code.UNKNOWN_PROPOSAL, f"no open proposal {op.proposal.hex()}")
    return proposal.ops, proposal.makers


def _get_proposer(view: View, op: Approve) -> str | None:
    proposal = view.get(PROPOSALS, op.proposal)
    return None if proposal is None else proposal.sender


def _demand_voice(tally: _Tally, index: int, op: Propose | Approve) -> None:
    """Who speaks on a bundle is one of those it concerns, or made it."""
    try:
        ops, makers = _find_bundle(tally.view, op)
        bundle = examine_bundle(tally.view, ops)
    except Refused as refusal:
        tally.unresolved[index] = refusal
        return
    tally.involved |= (bundle.voices | set(makers)) & tally.signers
    # Whoever makes a key may name it in a bundle: it decides once somebody else proposed that.
    entitled = bundle.holders if isinstance(op, Propose) else bundle.voices | set(makers)
    if not entitled & tally.signers:
        tally.unmet.append("the proposal")


def _demand_one_key(tally: _Tally, sender: str, ops: Sequence[Operation]) -> None:
    """Any one key speaks for the sender of proposals and decisions alone, if it is concerned.

    Otherwise one officer could not act without the others, which is what proposals are for. A key
    that a proposal would add speaks for the account in whose name that proposal was made, and for
    no other: a stranger's bundle gives nobody the use of an account's transaction ids.
    """
    if tally.weigh(sender):
        return
    own_keys = {entry.key for entry in get_policy(tally.view, sender).keys}
    for op in ops:
        assert isinstance(op, Propose | Approve)
        try:
            bundle = examine_bundle(tally.view, _find_bundle(tally.view, op)[0])
        except Refused:
            bundle = Bundle(frozenset((sender,)), frozenset(), frozenset(), frozenset())
        speaking = tally.signers & own_keys
        if isinstance(op, Approve) and _get_proposer(tally.view, op) == sender:
            speaking |= tally.signers & bundle.new_keys
        if sender not in bundle.targets or not speaking:
            tally.unmet.append(sender)


def _list_outgoing(view: View, op: SetAsset) -> Sequence[str]:
    """Who is replaced as custodian, auditor or regulator; then governance may speak for them."""
    before = view.get(ASSETS, op.asset.encode())
    if before is None:
        return ()
    outgoing = [
        getattr(before.terms, field)
        for field, _ in INDEPENDENT_ROLES
        if getattr(before.terms, field) != getattr(op.terms, field)
    ]
    return [*outgoing, GOVERNANCE] if outgoing else ()


def _demand_outgoing(tally: _Tally, op: SetAsset) -> None:
    """Who is replaced agrees, or governance does instead."""
    replaced = _list_outgoing(tally.view, op)
    if not replaced:
        return
    by_governance = tally.weigh(GOVERNANCE)
    for account_id in replaced[:-1]:
        if not tally.weigh(account_id) and not by_governance:
            tally.unmet.append(account_id)


def _list_new_keys(view: View, op: UpdateAccount) -> Sequence[bytes]:
    if op.policy is None or op.account == GOVERNANCE:
        return ()
    return list_new_keys(get_policy(view, op.account), op.policy)


def _demand_new_keys(tally: _Tally, op: UpdateAccount) -> None:
    """Each key that a policy newly names signs too, so that nobody is locked out by a typo."""
    for key in _list_new_keys(tally.view, op):
        if key in tally.signers:
            tally.involved.add(key)
        else:
            tally.unmet.append(f"the new key {key.hex()}")


# ---- the principals of each operation; Refused if they do not exist in the state


def _asset(view: View, code: str) -> Asset:
    asset = view.get(ASSETS, code.encode())
    if asset is None:
        raise Refused(Code.UNKNOWN_ASSET, f"no asset {code}")
    return asset


def _hold(view: View, hold_id: bytes) -> HoldRecord:
    hold = view.get(HOLDS, hold_id)
    if hold is None:
        raise Refused(Code.UNKNOWN_HOLD, f"no hold {hold_id.hex()}")
    return hold


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
    terms = _asset(view, _hold(view, op.redemption).asset).terms
    return (terms.treasury, terms.custodian)


def _of_release(view: View, op: Release) -> Sequence[str]:
    hold = _hold(view, op.hold)
    if hold.redemption is not None:
        reserve = view.get(RESERVES, hold.asset.encode()) or NO_RESERVE
        if op.hold in reserve.paid_not_burned:
            return (op.by, _asset(view, hold.asset).terms.custodian)
    return (op.by,)


def _of_hold(_view: View, op: Hold) -> Sequence[str]:
    return (op.debtor,)


def _of_capture(view: View, op: Capture) -> Sequence[str]:
    hold = _hold(view, op.hold)
    arbiters = () if hold.payment is None else hold.payment.condition.arbiters
    return (hold.creditor, *arbiters)


def _of_assign(view: View, op: Assign) -> Sequence[str]:
    return (_hold(view, op.hold).creditor, op.creditor)


def _of_whom_it_names(_view: View, op: SetControls | Freeze | RecordEvidence) -> Sequence[str]:
    return (op.by,)


def _of_unfreeze(view: View, op: Unfreeze) -> Sequence[str]:
    order = view.get(FREEZES, op.freeze)
    if order is None:
        raise Refused(Code.UNKNOWN_FREEZE, f"no freeze {op.freeze.hex()}")
    if order.asset is None:
        # Lifting takes two keys, ordering may take one: then the regulator's admin lifts.
        alone = not needs_two_keys(get_policy(view, order.by))
        return (admin_of(participant_of(order.by)) if alone else order.by,)
    return (_asset(view, order.asset).terms.compliance_release,)


def _of_update_account(_view: View, op: UpdateAccount) -> Sequence[str]:
    if op.change is not AccountChange.RECOVER or op.regulator is None:
        return (op.account,)
    admin = admin_of(participant_of(op.account))
    return (GOVERNANCE if op.account == admin else admin, op.regulator)


def _of_seize(view: View, op: Seize) -> Sequence[str]:
    terms = _asset(view, op.asset).terms
    return (terms.seizure, terms.regulator)


def _of_set_pause(view: View, op: SetPause) -> Sequence[str]:
    terms = _asset(view, op.asset).terms
    return (terms.pauser if op.change is PauseChange.PAUSE else terms.unpauser,)


def _of_governance(_view: View, _op: SetParticipant | SetParams | SetValidators) -> Sequence[str]:
    return (GOVERNANCE,)


def _of_nobody(_view: View, _op: Void | Propose | Approve) -> Sequence[str]:
    """The sender alone; proposals and decisions are judged by `_demand_voice`."""
    return ()


PRINCIPALS: Final[dict[type[Operation], Callable[[View, Any], Sequence[str]]]] = {
    Propose: _of_nobody,
    Approve: _of_nobody,
    SetParams: _of_governance,
    SetValidators: _of_governance,
    SetParticipant: _of_governance,
    RecordEvidence: _of_whom_it_names,
    UpdateAccount: _of_update_account,
    OpenAccount: _of_open_account,
    SetAsset: _of_set_asset,
    AttestReserve: _of_attest_reserve,
    SetMintQuota: _of_set_mint_quota,
    Mint: _of_mint,
    Redeem: _of_redeem,
    Burn: _of_burn,
    Hold: _of_hold,
    Capture: _of_capture,
    Release: _of_release,
    Assign: _of_assign,
    SetControls: _of_whom_it_names,
    Freeze: _of_whom_it_names,
    Unfreeze: _of_unfreeze,
    Seize: _of_seize,
    SetPause: _of_set_pause,
    Void: _of_nobody,
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
