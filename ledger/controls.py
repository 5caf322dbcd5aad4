"""Controls: KYC tiers and limits per period, kept by setter, the tightest in force.

Three setters speak about an account of an asset: its own participant, the issuer and the
regulator. A tier that any of them revokes (0) is revoked, whatever the others say; every limit
holds. Limits may also be set for a class, all accounts of one tier.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from atpar.ledger.codes import Code
from atpar.ledger.context import Context, load_asset
from atpar.ledger.errors import Refused
from atpar.ledger.operations import Limit, SetControls
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    CONTROLS,
    USAGES,
    Asset,
    Control,
    Setter,
    Usage,
)
from atpar.ledger.state import View
from atpar.ledger.terms import MINUTE_MS
from atpar.ledger.types import admin_of, participant_of

_NOTHING = Control(None, None, None)


def apply_set_controls(ctx: Context, op: SetControls) -> None:
    """Keep what a setter states for an account or a class."""
    asset = load_asset(ctx, op.asset)
    if op.account is not None and ctx.overlay.get(ACCOUNTS, op.account.encode()) is None:
        raise Refused(Code.UNKNOWN_TARGET, f"no account {op.account}")
    setter = find_setter(asset, op.by, op.account)
    if setter is None:
        raise Refused(Code.ROLE_MISSING, f"{op.by} sets no controls for this target")
    target = op.account if op.account is not None else class_target(op.tier_class or 0)
    key = control_key(op.asset, target, setter)
    before = ctx.overlay.get(CONTROLS, key) or _NOTHING
    after = Control(op.tier, op.tier_expires_at_ms, op.limit)
    if after == _NOTHING:
        ctx.overlay.delete(CONTROLS, key)
    else:
        ctx.overlay.put(CONTROLS, key, after)
    limits = asset.limits + (after.limit is not None) - (before.limit is not None)
    ctx.overlay.put(ASSETS, op.asset.encode(), replace(asset, limits=limits))


def find_setter(asset: Asset, by: str, account: str | None) -> Setter | None:
    """Return as whom an account may state controls for a target, or None."""
    if by == admin_of(asset.issuer):
        return Setter.ISSUER
    if by == asset.terms.regulator:
        return Setter.REGULATOR
    if account is not None and by == admin_of(participant_of(account)):
        return Setter.PARTICIPANT
    return None


def control_key(asset: str, target: str, setter: Setter) -> bytes:
    """Return the key of what a setter states for a target."""
    return f"{asset}|{target}|{setter.value}".encode()


def class_target(tier: int) -> str:
    """Return the target that stands for all accounts of a tier."""
    return f"#{tier}"


def compute_tier(view: View, asset: str, account_id: str, now_ms: int) -> int:
    """Return an account's KYC tier: the lowest that any setter states now, 0 if none does."""
    tiers = []
    for setter in Setter:
        control = view.get(CONTROLS, control_key(asset, account_id, setter))
        if control is None or control.tier is None:
            continue
        expires_at_ms = control.tier_expires_at_ms
        # A revocation does not run out.
        if control.tier == 0 or expires_at_ms is None or now_ms < expires_at_ms:
            tiers.append(control.tier)
    return min(tiers, default=0)


def use_limits(ctx: Context, code: str, asset: Asset, account_id: str, amount: int) -> None:
    """Count a payment or a new hold against every limit of its debtor.

    Raises:
        Refused: LIMIT_EXCEEDED.
    """
    offset_ms = asset.terms.utc_offset_minutes * MINUTE_MS
    for key, limit in list(_list_limits(ctx, code, account_id)):
        window = (ctx.now_ms + offset_ms) // limit.period_ms
        usage = ctx.overlay.get(USAGES, key)
        used = 0
        if usage is not None and (usage.window, usage.period_ms) == (window, limit.period_ms):
            used = usage.used
        if used + amount > limit.amount:
            raise Refused(
                Code.LIMIT_EXCEEDED,
                f"{used} used of {limit.amount} in {limit.period_ms} ms, {amount} more asked",
            )
        ctx.overlay.put(USAGES, key, Usage(limit.period_ms, window, used + amount))


def _list_limits(ctx: Context, code: str, account_id: str) -> Iterator[tuple[bytes, Limit]]:
    """Yield (key of the usage, limit) for the account itself and for its class."""
    tier = compute_tier(ctx.overlay, code, account_id, ctx.now_ms)
    for kind, target in (("a", account_id), ("c", class_target(tier))):
        for setter in Setter:
            control = ctx.overlay.get(CONTROLS, control_key(code, target, setter))
            if control is not None and control.limit is not None:
                yield f"{code}|{account_id}|{kind}|{setter.value}".encode(), control.limit
