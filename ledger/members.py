"""Participants, accounts and assets: who takes part, and under which terms."""

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import Context
from atpar.ledger.errors import Refused
from atpar.ledger.limits import MAX_ASSETS
from atpar.ledger.operations import OpenAccount, SetAsset, SetParticipant
from atpar.ledger.policies import needs_two_keys, register_policy
from atpar.ledger.records import ACCOUNTS, ASSETS, PARTICIPANTS, Asset, Participant, new_account
from atpar.ledger.roles import INDEPENDENT_ROLES, find_role_faults, list_assets
from atpar.ledger.terms import add_asset
from atpar.ledger.types import admin_of, participant_of


def apply_set_participant(ctx: Context, op: SetParticipant) -> None:
    """Create a participant with its admin account, or change what is known of it."""
    key = op.participant.encode()
    before = ctx.overlay.get(PARTICIPANTS, key)
    record = Participant(op.lei, op.bic, op.jurisdiction, op.roles, op.status, op.travel_key)
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
            raise_first_fault(ctx, asset_code, asset)


def raise_first_fault(ctx: Context, code: str, asset: Asset) -> None:
    """Check an asset's roles.

    Raises:
        Refused: POLICY_WEAK, ROLE_CONFLICT or ROLE_MISSING, the first in precedence.
    """
    for fault in find_role_faults(ctx.overlay, asset.issuer, asset.terms):
        raise Refused(fault.code, f"{code} {fault.field}: {fault.message}")


def apply_open_account(ctx: Context, op: OpenAccount) -> None:
    """Open an account."""
    key = op.account.encode()
    if ctx.overlay.get(ACCOUNTS, key) is not None:
        raise Refused(Code.ACCOUNT_EXISTS, f"{op.account} exists")
    code = participant_of(op.account)
    register_policy(ctx.overlay, code, op.policy, op.possessions, chain_id=ctx.chain_id)
    record = new_account(op.policy, reference_required=op.reference_required)
    ctx.overlay.put(ACCOUNTS, key, record)


def apply_set_asset(ctx: Context, op: SetAsset) -> None:
    """Create an asset, or change its terms."""
    key = op.asset.encode()
    before = ctx.overlay.get(ASSETS, key)
    after = Asset(op.issuer, op.currency, op.scale, op.terms, 0)
    raise_first_fault(ctx, op.asset, after)
    if before is None:
        if sum(1 for _ in list_assets(ctx.overlay)) >= MAX_ASSETS:
            raise Refused(Code.LIMIT_OF_ENTRIES, f"{MAX_ASSETS} assets already")
        add_asset(ctx.overlay, op.asset, after)
        return
    if op.scale != before.scale:
        raise Refused(Code.ASSET_IMMUTABLE, f"scale {op.scale}, it is {before.scale} for ever")
    ctx.overlay.put(ASSETS, key, replace(before, terms=op.terms))
