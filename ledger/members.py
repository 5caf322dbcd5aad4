"""Participants, accounts and assets: who takes part, and under which terms."""

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import Context
from atpar.ledger.errors import Refused
from atpar.ledger.limits import MAX_ASSETS, RECOVERY_DELAY_MS
from atpar.ledger.operations import (
    AccountChange,
    OpenAccount,
    SetAsset,
    SetParticipant,
    UpdateAccount,
)
from atpar.ledger.policies import needs_two_keys, register_policy, register_signed_policy
from atpar.ledger.records import (
    ACCOUNT_FREEZES,
    ACCOUNTS,
    ASSETS,
    BALANCES,
    CLAIMS,
    MARK,
    PARTICIPANTS,
    RECOVERIES,
    Account,
    AccountStatus,
    Asset,
    Participant,
    PendingPolicy,
    balance_key,
    new_account,
    number_key,
)
from atpar.ledger.roles import (
    INDEPENDENT_ROLES,
    check_faults,
    find_account_faults,
    find_role_faults,
    is_regulator,
    list_assets,
    list_role_accounts,
)
from atpar.ledger.state import Overlay, View
from atpar.ledger.terms import add_asset
from atpar.ledger.types import admin_of, participant_of


def apply_set_participant(ctx: Context, op: SetParticipant) -> None:
    """Create a participant with its admin account, or change what is known of it."""
    key = op.participant.encode()
    before = ctx.overlay.get(PARTICIPANTS, key)
    record = Participant(op.lei, op.bic, op.jurisdiction, op.roles, op.status, op.travel_key)
    ctx.suspensions.clear()
    if before is None:
        _create_admin(ctx, op)
        ctx.overlay.put(PARTICIPANTS, key, record)
        return
    if op.admin_policy is not None:
        raise Refused(
            Code.PARTICIPANT_EXISTS, f"{op.participant} exists; its admin changes its own policy"
        )
    ctx.overlay.put(PARTICIPANTS, key, record)
    if set(before.roles) - set(op.roles):
        _check_still_licensed(ctx, op.participant)


def _create_admin(ctx: Context, op: SetParticipant) -> None:
    if op.admin_policy is None:
        raise Refused(Code.POLICY_INVALID, f"{op.participant} is new and needs an admin policy")
    register_policy(
        ctx.overlay, op.participant, op.admin_policy, op.possessions, chain_id=ctx.chain_id
    )
    if not needs_two_keys(op.admin_policy):
        raise Refused(Code.POLICY_WEAK, "admin_policy: one key alone reaches the threshold")
    admin = admin_of(op.participant).encode()
    ctx.overlay.put(ACCOUNTS, admin, new_account(op.admin_policy))


def _check_still_licensed(ctx: Context, code: str) -> None:
    for asset_code, asset in list_assets(ctx.overlay):
        holders = {participant_of(getattr(asset.terms, field)) for field, _ in INDEPENDENT_ROLES}
        if code == asset.issuer or code in holders:
            faults = find_role_faults(ctx.overlay, asset.issuer, asset.terms)
            check_faults(faults, what=asset_code)


def apply_open_account(ctx: Context, op: OpenAccount) -> None:
    """Open an account."""
    key = op.account.encode()
    if ctx.overlay.get(ACCOUNTS, key) is not None:
        raise Refused(Code.ACCOUNT_EXISTS, f"{op.account} exists")
    code = participant_of(op.account)
    register_policy(ctx.overlay, code, op.policy, op.possessions, chain_id=ctx.chain_id)
    record = new_account(op.policy, reference_required=op.reference_required)
    ctx.overlay.put(ACCOUNTS, key, record)


def apply_update_account(ctx: Context, op: UpdateAccount) -> None:
    """Rotate an account's keys, close it, or schedule or cancel its recovery."""
    key = op.account.encode()
    account = ctx.overlay.get(ACCOUNTS, key)
    if account is None:
        raise Refused(Code.UNKNOWN_TARGET, f"{op.account} has no policy of its own")
    if account.status is AccountStatus.CLOSED:
        raise Refused(Code.ACCOUNT_CLOSED, f"{op.account} is closed")
    if op.change is AccountChange.RECOVER:
        _schedule_recovery(ctx, op, account)
        return
    if op.change is AccountChange.CANCEL:
        _drop_recovery(ctx, op.account, account)
        return
    is_rotated = op.policy is not None and op.policy != account.policy
    if op.policy is not None:
        register_signed_policy(ctx.overlay, participant_of(op.account), op.policy)
        account = replace(account, policy=op.policy)
    if op.reference_required is not None:
        account = replace(account, reference_required=op.reference_required)
    if op.close:
        account = replace(account, status=AccountStatus.CLOSING)
        ctx.note_departure(op.account)
    ctx.overlay.put(ACCOUNTS, key, account)
    if is_rotated:
        check_faults(find_account_faults(ctx.overlay, op.account), what=op.account)


def _schedule_recovery(ctx: Context, op: UpdateAccount, account: Account) -> None:
    assert op.policy is not None
    assert op.regulator is not None
    register_signed_policy(ctx.overlay, participant_of(op.account), op.policy)
    key = op.account.encode()
    ctx.overlay.put(ACCOUNTS, key, replace(account, policy=op.policy))
    check_faults(find_account_faults(ctx.overlay, op.account), what=op.account)
    if not is_regulator(ctx.overlay, op.regulator):
        raise Refused(Code.ROLE_MISSING, f"{op.regulator} is no regulator's account")
    if account.pending is not None:
        ctx.overlay.delete(RECOVERIES, _recovery_key(op.account, account.pending))
    pending = PendingPolicy(op.policy, ctx.now_ms + RECOVERY_DELAY_MS)
    ctx.overlay.put(ACCOUNTS, key, replace(account, pending=pending))
    ctx.overlay.put(RECOVERIES, _recovery_key(op.account, pending), MARK)


def _drop_recovery(ctx: Context, account_id: str, account: Account) -> None:
    if account.pending is None:
        raise Refused(Code.UNKNOWN_PROPOSAL, f"{account_id} has no scheduled recovery")
    ctx.overlay.delete(RECOVERIES, _recovery_key(account_id, account.pending))
    ctx.overlay.put(ACCOUNTS, account_id.encode(), replace(account, pending=None))


def _recovery_key(account_id: str, pending: PendingPolicy) -> bytes:
    return number_key(pending.effective_at_ms) + account_id.encode()


def activate_recoveries(overlay: Overlay, *, now_ms: int) -> None:
    """Put scheduled policies in force whose time has come, at the start of a block.

    One that would break the rules for the roles its account has by now lapses.
    """
    due = []
    for key, _ in overlay.scan(RECOVERIES, b""):
        if int.from_bytes(key[:8], "big") > now_ms:
            break
        due.append(key)
    for key in due:
        overlay.delete(RECOVERIES, key)
        account = overlay.get(ACCOUNTS, key[8:])
        assert account is not None, key
        assert account.pending is not None, key
        lapsed = replace(account, pending=None)
        overlay.put(ACCOUNTS, key[8:], replace(lapsed, policy=account.pending.policy))
        if next(find_account_faults(overlay, key[8:].decode()), None) is not None:
            overlay.put(ACCOUNTS, key[8:], lapsed)


def end_closing_accounts(ctx: Context) -> None:
    """Close the closing accounts of which the last thing ended in this transaction."""
    for account_id in dict.fromkeys(ctx.departed):
        key = account_id.encode()
        account = ctx.overlay.get(ACCOUNTS, key)
        if account is None or account.status is not AccountStatus.CLOSING:
            continue
        if not _has_anything_left(ctx.overlay, account_id):
            if account.pending is not None:
                ctx.overlay.delete(RECOVERIES, _recovery_key(account_id, account.pending))
            closed = replace(account, status=AccountStatus.CLOSED, pending=None)
            ctx.overlay.put(ACCOUNTS, key, closed)
    ctx.departed.clear()


def _has_anything_left(view: View, account_id: str) -> bool:
    """Whether a balance, hold, claim, freeze or role of an account is left."""
    if account_id == admin_of(participant_of(account_id)):
        return True
    for code, asset in list_assets(view):
        if view.get(BALANCES, balance_key(code, account_id)) is not None:
            return True
        if any(holder == account_id for _, holder in list_role_accounts(asset.terms)):
            return True
    indexes = ((CLAIMS, f"{account_id}|"), (ACCOUNT_FREEZES, f"{account_id}|"))
    return any(
        next(view.scan(section, prefix.encode()), None) is not None for section, prefix in indexes
    )


def apply_set_asset(ctx: Context, op: SetAsset) -> None:
    """Create an asset, or change its terms."""
    key = op.asset.encode()
    before = ctx.overlay.get(ASSETS, key)
    after = Asset(op.issuer, op.currency, op.scale, op.terms, 0, 0)
    check_faults(find_role_faults(ctx.overlay, op.issuer, op.terms), what=op.asset)
    if before is None:
        if sum(1 for _ in list_assets(ctx.overlay)) >= MAX_ASSETS:
            raise Refused(Code.LIMIT_OF_ENTRIES, f"{MAX_ASSETS} assets already")
        add_asset(ctx.overlay, op.asset, after)
        return
    if op.scale != before.scale:
        raise Refused(Code.ASSET_IMMUTABLE, f"scale {op.scale}, it is {before.scale} for ever")
    ctx.overlay.put(ASSETS, key, replace(before, terms=op.terms))
    for _, holder in list_role_accounts(before.terms):
        ctx.note_departure(holder)
