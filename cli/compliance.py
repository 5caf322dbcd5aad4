"""`atpar freeze|unfreeze|seize|pause|unpause|controls`: orders, pauses, tiers and limits."""

from typing import Any, Final

import click
import msgspec

from atpar.cli.context import State, node_options, output_options, pass_state
from atpar.cli.describe import describe_operation, format_duration, format_time
from atpar.cli.errors import WrongUsage, refused
from atpar.cli.fetch import fetch
from atpar.cli.ops import (
    AMOUNT,
    ASSET,
    REASON,
    check,
    hash_file_or_hex,
    parse_deadline,
    parse_duration,
    parse_money,
    parse_time,
)
from atpar.cli.output import table
from atpar.cli.query import Scales, check_account
from atpar.cli.signing import How, Session, parse_hash, signing_options
from atpar.ledger.jsonform import from_json
from atpar.ledger.operations import (
    Freeze,
    Limit,
    PauseChange,
    PauseScope,
    Seize,
    SetControls,
    SetPause,
    Unfreeze,
)
from atpar.ledger.records import FREEZES, FreezeOrder, Setter
from atpar.ledger.types import ZERO_HASH, Direction, admin_of, participant_of

FREEZE: Final = click.argument("freeze")
SCOPES: Final = click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([each.value for each in PauseScope]),
    help="Repeat for more.",
)


# ---- freezes


@click.command(name="freeze")
@click.argument("account")
@click.option("--asset", help="Only this asset. Without it: all assets, by a regulator.")
@click.option("--amount", help="Only so much; without it the whole account.")
@click.option(
    "--direction",
    type=click.Choice([each.value for each in Direction]),
    default=Direction.DEBIT.value,
    show_default=True,
)
@click.option("--by", metavar="ACCOUNT", help="Default: the asset's compliance account.")
@click.option("--order", metavar="FILE|HASH", help="The order; only its SHA-256 is published.")
@click.option("--review-at", metavar="TIME", help="When the order is to be reviewed.")
@signing_options
@pass_state
def freeze_command(
    state: State,
    *,
    how: How,
    account: str,
    asset: str | None,
    amount: str | None,
    direction: str,
    by: str | None,
    order: str | None,
    review_at: str | None,
) -> None:
    """Block an account, or an amount on it. Orders stack; each is lifted on its own.

    Example: atpar freeze CHRL/treasury --asset HKD.JDCL --order order.pdf --review-at 2026-12-31
    """
    session = Session(state)
    by = by or how.sender
    if by is None:
        if asset is None:
            raise WrongUsage(
                "a freeze of all assets is a regulator's", advice="use --by REGU/admin, or --asset"
            )
        by = session.get_terms(asset).compliance
    if amount is not None and asset is None:
        raise WrongUsage("--amount needs --asset", advice="amounts are of one asset")
    op = Freeze(
        account=account,
        asset=asset,
        direction=Direction(direction),
        amount=parse_money(session, amount, asset) if amount is not None and asset else None,
        by=by,
        order_hash=hash_file_or_hex("--order", order) if order else ZERO_HASH,
        review_at_ms=parse_time("--review-at", review_at) if review_at else 0,
    )
    session.run(by, [check(op)], how)


@click.command(name="unfreeze")
@FREEZE
@click.option("--account", metavar="ACCOUNT", help="Only if it lies on this account.")
@REASON
@signing_options
@pass_state
def unfreeze_command(
    state: State, *, how: How, freeze: str, account: str | None, reason: str
) -> None:
    """Lift one freeze order. Needs two keys of the asset's compliance-release account.

    An order for all assets is lifted by the regulator that placed it.

    Example: atpar unfreeze 77ab… --reason "order 12 withdrawn"
    """
    session = Session(state)
    freeze_id, order = _load_freeze(session, freeze)
    if account not in (None, order.account):
        raise refused("UNKNOWN_FREEZE", f"freeze {freeze_id.hex()} lies on {order.account}")
    sender = order.by
    if order.asset is not None:
        sender = session.get_terms(order.asset).compliance_release
    session.run(sender, [check(Unfreeze(freeze=freeze_id, reason=reason))], how)


@click.command(name="seize")
@FREEZE
@AMOUNT
@click.option("--to", "destination", required=True, metavar="ACCOUNT", help="Who receives it.")
@click.option("--asset", help="Default: that of the freeze; needed for a freeze of all assets.")
@click.option(
    "--order", required=True, metavar="FILE|HASH",
    help="The order to seize; only its SHA-256 is published.",
)  # fmt: skip
@signing_options
@pass_state
def seize_command(
    state: State,
    *,
    how: How,
    freeze: str,
    amount: str,
    destination: str,
    asset: str | None,
    order: str,
) -> None:
    """Take frozen money by order. The asset's seizure account and its regulator sign.

    Takes money that is not held first, then that of the oldest payment holds, never a redemption.

    Example: atpar propose seize 77ab… --amount 250.00 --to REGU/custody --order judgment.pdf
    """
    session = Session(state)
    freeze_id, found = _load_freeze(session, freeze)
    code = asset or found.asset
    if code is None:
        raise WrongUsage("the freeze is of all assets: which one?", advice="use --asset ASSET")
    op = Seize(
        freeze=freeze_id,
        asset=code,
        amount=parse_money(session, amount, code),
        destination=destination,
        order_hash=hash_file_or_hex("--order", order),
    )
    session.run(session.get_terms(code).seizure, [check(op)], how)


def _load_freeze(session: Session, text: str) -> tuple[bytes, FreezeOrder]:
    """Return the id of a freeze and the order, shown.

    Raises:
        NodeUnreachable, NotReady: no node answers.
        RefusedByLedger: UNKNOWN_FREEZE.
    """
    freeze_id = parse_hash("freeze", text)
    session.demand_node()
    order = session.view.get(FREEZES, freeze_id)
    if order is None:
        raise refused("UNKNOWN_FREEZE", f"no freeze {freeze_id.hex()} is in force")
    shown = msgspec.structs.asdict(order)
    placed = shown.pop("placed_at_ms")
    lines = describe_operation(Freeze(**shown), session.chain.scales)
    for line in ["the order:", *(f"   {line}" for line in lines)]:
        session.state.output.note(line)
    session.state.output.note(f"   placed at         {format_time(placed)}")
    return freeze_id, order


# ---- pauses


@click.command(name="pause")
@click.argument("asset")
@SCOPES
@signing_options
@pass_state
def pause_command(state: State, *, how: How, asset: str, scopes: tuple[str, ...]) -> None:
    """Stop operations of an asset. Freezing, attesting, redeeming and governing never stop.

    Example: atpar pause HKD.JDCL --scope mint --scope transfer
    """
    _set_pause(state, how, asset, scopes, PauseChange.PAUSE)


@click.command(name="unpause")
@click.argument("asset")
@SCOPES
@signing_options
@pass_state
def unpause_command(state: State, *, how: How, asset: str, scopes: tuple[str, ...]) -> None:
    """Resume operations of an asset; other keys than those that pause.

    Example: atpar unpause HKD.JDCL --scope transfer
    """
    _set_pause(state, how, asset, scopes, PauseChange.RESUME)


def _set_pause(
    state: State, how: How, asset: str, scopes: tuple[str, ...], change: PauseChange
) -> None:
    session = Session(state)
    terms = session.get_terms(asset)
    chosen = tuple(sorted({PauseScope(scope) for scope in scopes}))
    op = SetPause(asset=asset, change=change, scopes=chosen)
    sender = terms.pauser if change is PauseChange.PAUSE else terms.unpauser
    session.run(sender, [check(op)], how)


# ---- controls


@click.group(name="controls")
def controls_command() -> None:
    """Show and set KYC tiers and limits."""


@controls_command.command(name="show")
@click.argument("account")
@output_options
@node_options
@pass_state
def show_controls(state: State, *, account: str) -> None:
    """Show what each setter states about an account; the tightest applies.

    Example: atpar controls show ALFA/treasury
    """
    answer = fetch(state, f"/v1/accounts/{check_account(account)}")
    scales = Scales(state)
    rows = []
    for each in answer["controls"]:
        limit, expires = each["limit"], each["tier_expires_at_ms"]
        rows.append(
            (
                each["asset"],
                each["setter"],
                each["tier"],
                None if expires is None else format_time(expires),
                None if limit is None else scales.show(limit["amount"], each["asset"]),
                None if limit is None else format_duration(limit["period_ms"]),
            )
        )
    data = {name: answer[name] for name in ("read_height", "account", "controls")}
    headings = ("asset", "setter", "tier", "tier until", "limit", "per")
    state.output.show(data, table(headings, rows, right=("limit",)))


@controls_command.command(name="set")
@click.argument("account", required=False)
@ASSET
@click.option(
    "--by",
    "setter",
    type=click.Choice([each.value for each in Setter]),
    default=Setter.PARTICIPANT.value,
    show_default=True,
    help="Whose statement it is; each setter's is kept by itself.",
)
@click.option(
    "--class", "tier_class", type=click.IntRange(0, 9), help="All accounts of this tier instead."
)
@click.option("--tier", type=click.IntRange(0, 9), help="KYC tier; 0 revokes.")
@click.option("--tier-expires", metavar="TIME", help="A time, or as in +365d.")
@click.option("--no-tier", is_flag=True, help="State no tier any more.")
@click.option("--limit", metavar="AMOUNT", help="Most that may leave in each period.")
@click.option("--period", default="1d", show_default=True, help="Of the limit: 1h, 1d, 7d, 30d.")
@click.option("--no-limit", is_flag=True, help="Set no limit any more.")
@signing_options
@pass_state
def set_controls(state: State, /, *, how: How, **given: Any) -> None:
    """State the KYC tier and the limit of an account, or the limit of a class of accounts.

    What is not named stays as this setter stated it before (of a class: is removed, since nodes
    do not list classes). The account's institution, the issuer and the regulator each state their
    own; the lowest tier counts, and every limit.

    Example: atpar controls set BRVO/retail-7 --asset HKD.JDCL --tier 2 --limit 5,000.00 --period 1d
    """
    _check_controls(given)
    session = Session(state)
    asset, account = given["asset"], given["account"]
    setter = Setter(given["setter"])
    by = _find_setter(session, setter, asset, account)
    before = _fetch_control(state, asset, account, setter) if account is not None else {}
    tier, expires = before.get("tier"), before.get("tier_expires_at_ms")
    limit = from_json(Limit, before["limit"]) if before.get("limit") is not None else None
    if given["tier"] is not None or given["no_tier"]:
        tier, expires = given["tier"], None
    if given["tier_expires"] is not None:
        expires = parse_deadline("--tier-expires", given["tier_expires"])
    if given["limit"] is not None:
        amount = parse_money(session, given["limit"], asset, allow_zero=True)
        limit = Limit(amount, parse_duration("--period", given["period"]))
    elif given["no_limit"]:
        limit = None
    op = SetControls(
        by=by,
        asset=asset,
        account=account,
        tier_class=given["tier_class"],
        tier=tier,
        tier_expires_at_ms=expires,
        limit=limit,
    )
    session.run(by, [check(op)], how)


def _check_controls(given: dict[str, Any]) -> None:
    if (given["account"] is None) == (given["tier_class"] is None):
        raise WrongUsage("whose controls?", advice="name an ACCOUNT, or --class TIER")
    for one, other in (("tier", "no_tier"), ("limit", "no_limit")):
        if given[one] is not None and given[other]:
            raise WrongUsage(f"--{one} and --no-{one} contradict", advice="give one of them")
    changes = ("tier", "tier_expires", "limit")
    if all(given[name] is None for name in changes) and not (given["no_tier"] or given["no_limit"]):
        raise WrongUsage("nothing to set", advice="use --tier, --limit, --no-tier or --no-limit")
    if given["account"] is not None:
        check_account(given["account"])


def _find_setter(session: Session, setter: Setter, asset: str, account: str | None) -> str:
    """Return the account that states controls as this setter."""
    if setter is Setter.ISSUER:
        return admin_of(asset.partition(".")[2])
    if setter is Setter.REGULATOR:
        regulator: str = session.get_terms(asset).regulator
        return regulator
    if account is None:
        raise WrongUsage(
            "a class is the issuer's or the regulator's",
            advice="use --by issuer, or --by regulator",
        )
    return admin_of(participant_of(account))


def _fetch_control(state: State, asset: str, account: str, setter: Setter) -> dict[str, Any]:
    for each in fetch(state, f"/v1/accounts/{account}")["controls"]:
        if (each["asset"], each["setter"]) == (asset, setter.value):
            return dict(each)
    return {}
