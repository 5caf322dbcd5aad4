"""Changing who and what there is: participants, accounts' policies, assets' terms, mint quotas.

Each command starts from what the ledger has now, changes what is named, and shows the whole result
before it is signed: nothing is changed by being left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from atpar.cli.amounts import parse_amount
from atpar.cli.context import State, pass_state
from atpar.cli.errors import RefusedByLedger, WrongUsage
from atpar.cli.fetch import fetch
from atpar.cli.ops import check, parse_money
from atpar.cli.policies import POLICY_HELP, Prover
from atpar.cli.signing import How, Session, signing_options
from atpar.ledger.jsonform import JsonInvalid, from_json
from atpar.ledger.operations import (
    AccountChange,
    AssetTerms,
    SetAsset,
    SetMintQuota,
    SetParticipant,
    UpdateAccount,
)
from atpar.ledger.types import GOVERNANCE, ParticipantStatus, Role, admin_of, participant_of

AMOUNT_TERMS: Final = frozenset({"cap", "travel_rule_from"})
LIST_TERMS: Final = frozenset({"minters", "holidays"})
PROOFS: Final = click.option(
    "--proof",
    "proofs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Proof of possession of a key on another machine (`atpar keys prove`).",
)


@click.command(name="set")
@click.argument("participant")
@click.option("--lei", help="Legal entity identifier.")
@click.option("--bic", help="8 or 11 characters.")
@click.option("--jurisdiction", help="Two letters, ISO 3166.")
@click.option(
    "--role", "roles", multiple=True, type=click.Choice([role.value for role in Role]),
    help="All its roles; repeat for more.",
)  # fmt: skip
@click.option("--status", type=click.Choice([each.value for each in ParticipantStatus]))
@click.option("--travel-key", help="X25519 key for travel-rule messages, 64 hex digits.")
@click.option("--admin", "admin_policy", metavar="POLICY", help=f"For a new one: {POLICY_HELP}.")
@PROOFS
@signing_options
@pass_state
def set_participant(
    state: State,
    *,
    how: How,
    participant: str,
    lei: str | None,
    bic: str | None,
    jurisdiction: str | None,
    roles: tuple[str, ...],
    status: str | None,
    travel_key: str | None,
    admin_policy: str | None,
    proofs: tuple[Path, ...],
) -> None:
    """Create, change or suspend a participant. Governance signs: validators' administrators.

    Example: atpar participant set CHRL --status suspended -o suspend.json
    """
    session = Session(state)
    known = _fetch_or_none(state, f"/v1/participants/{participant}") or {}
    value = {
        "op": "set_participant",
        "participant": participant,
        "lei": lei or known.get("lei"),
        "bic": bic or known.get("bic"),
        "jurisdiction": jurisdiction or known.get("jurisdiction"),
        "roles": sorted(roles) if roles else known.get("roles"),
        "status": status or known.get("status") or ParticipantStatus.ACTIVE.value,
        "travel_key": travel_key or known.get("travel_key"),
        "admin_policy": None,
        "possessions": [],
    }
    missing = [name for name in ("lei", "bic", "jurisdiction", "roles") if value[name] is None]
    if missing or bool(known) == bool(admin_policy):
        what = "--admin is for a new participant only" if known else "a new participant needs all"
        raise WrongUsage(
            f"{participant} is {'known' if known else 'new'}: {what}",
            advice="--lei, --bic, --jurisdiction, --role and --admin make a new one",
        )
    op = _build(SetParticipant, value)
    if admin_policy is not None:
        prover = Prover(session.ring, participant=participant, chain_id=session.chain.chain_id)
        prover.add_proofs(proofs)
        policy, names = prover.parse_policy(admin_policy)
        op = SetParticipant(
            participant=op.participant,
            lei=op.lei,
            bic=op.bic,
            jurisdiction=op.jurisdiction,
            roles=op.roles,
            status=op.status,
            travel_key=op.travel_key,
            admin_policy=policy,
            possessions=prover.prove_all(names),
        )
    session.run(GOVERNANCE, [check(op)], how)


@click.command(name="set")
@click.argument("account")
@click.option(
    "--policy", metavar="POLICY", help=f"The new policy: {POLICY_HELP}; new keys sign too."
)
@click.option("--reference-required/--no-reference-required", default=None, help="For payments in.")
@click.option("--close", is_flag=True, help="Refuse credits from now on; ends when it is empty.")
@click.option("--recover-with", metavar="ACCOUNT", help="Recovery with this regulator's account.")
@click.option("--cancel-recovery", is_flag=True, help="By the account's current policy.")
@PROOFS
@signing_options
@pass_state
def set_account(
    state: State,
    *,
    how: How,
    account: str,
    policy: str | None,
    reference_required: bool | None,
    close: bool,
    recover_with: str | None,
    cancel_recovery: bool,
    proofs: tuple[Path, ...],
) -> None:
    """Rotate an account's keys, change or close it, or recover it when its keys are lost.

    A recovery is asked for by the institution's admin account and a regulator, and takes effect
    after two days unless the current policy cancels it.

    Example: atpar account set ALFA/treasury --policy 2:maker,checker
    """
    change = AccountChange.UPDATE
    if recover_with or cancel_recovery:
        change = AccountChange.RECOVER if recover_with else AccountChange.CANCEL
    if change is AccountChange.RECOVER and policy is None:
        raise WrongUsage("a recovery needs --policy", advice="the policy that takes over")
    _update(
        state, how, account, change, policy, proofs,
        reference_required=reference_required, close=close, regulator=recover_with,
    )  # fmt: skip


NEW_POLICY: Final = click.option(
    "--policy", required=True, metavar="POLICY", help=f"The new policy: {POLICY_HELP}."
)


@click.command(name="rotate")
@click.argument("account")
@NEW_POLICY
@PROOFS
@signing_options
@pass_state
def rotate_account(
    state: State, *, how: How, account: str, policy: str, proofs: tuple[Path, ...]
) -> None:
    """Give an account other keys. The present policy signs, and each new key.

    Example: atpar account rotate ALFA/treasury --policy 2:maker,checker-2027
    """
    _update(state, how, account, AccountChange.UPDATE, policy, proofs)


@click.command(name="close")
@click.argument("account")
@signing_options
@pass_state
def close_account(state: State, *, how: How, account: str) -> None:
    """Refuse credits from now on, and end when no balance, hold, freeze or role is left.

    Example: atpar account close ALFA/retail-7
    """
    _update(state, how, account, AccountChange.UPDATE, None, (), close=True)


@click.command(name="recover")
@click.argument("account")
@NEW_POLICY
@click.option(
    "--with", "regulator", required=True, metavar="ACCOUNT", help="The regulator's account."
)
@PROOFS
@signing_options
@pass_state
def recover_account(
    state: State,
    *,
    how: How,
    account: str,
    policy: str,
    regulator: str,
    proofs: tuple[Path, ...],
) -> None:
    """Schedule other keys for an account whose keys are lost: takes effect after two days.

    The institution's admin account signs (for the admin account itself governance), a regulator,
    and each new key. The present policy can cancel it: `atpar account cancel-recovery`.

    Example: atpar account recover ALFA/treasury --policy 2:maker,checker --with REGU/admin
    """
    _update(state, how, account, AccountChange.RECOVER, policy, proofs, regulator=regulator)


@click.command(name="cancel-recovery")
@click.argument("account")
@signing_options
@pass_state
def cancel_recovery_of_account(state: State, *, how: How, account: str) -> None:
    """Cancel a scheduled recovery, by the account's present policy.

    Example: atpar account cancel-recovery ALFA/treasury
    """
    _update(state, how, account, AccountChange.CANCEL, None, ())


def _update(
    state: State,
    how: How,
    account: str,
    change: AccountChange,
    policy: str | None,
    proofs: tuple[Path, ...],
    *,
    reference_required: bool | None = None,
    close: bool = False,
    regulator: str | None = None,
) -> None:
    session = Session(state)
    parsed = None
    if policy is not None:
        code = participant_of(account)
        prover = Prover(session.ring, participant=code, chain_id=session.chain.chain_id)
        prover.add_proofs(proofs)
        parsed, _ = prover.parse_policy(policy)
    op = UpdateAccount(
        account=account,
        change=change,
        policy=parsed,
        reference_required=reference_required,
        close=close,
        regulator=regulator,
    )
    admin = admin_of(participant_of(account))
    by_admin = GOVERNANCE if account == admin else admin
    session.run(by_admin if change is AccountChange.RECOVER else account, [check(op)], how)


@click.command(name="set")
@click.argument("asset")
@click.option("--like", metavar="ASSET", help="For a new asset: start from this one's terms.")
@click.option("--scale", type=int, help="For a new asset.")
@click.option(
    "--term", "terms", multiple=True, metavar="KEY=VALUE",
    help="Such as cap=1,000,000.00, custodian=CUST/reserve, minters=ALFA/minter,JDCL/minter.",
)  # fmt: skip
@signing_options
@pass_state
def set_asset(
    state: State,
    *,
    how: How,
    asset: str,
    like: str | None,
    scale: int | None,
    terms: tuple[str, ...],
) -> None:
    """Change an asset's terms, or create one. Issuer admin and regulator sign; see docs/ledger.md.

    Example: atpar asset set HKD.JDCL --term redemption_sla_days=2 -o terms.json
    """
    session = Session(state)
    known = _fetch_or_none(state, f"/v1/assets/{asset}")
    if (known is None) != (like is not None):
        what = "new: name another with --like" if known is None else "known: leave --like"
        raise WrongUsage(f"{asset} is {what}", advice="see `atpar asset set --help`")
    source = known if known is not None else fetch(state, f"/v1/assets/{like}")
    digits = source["scale"] if scale is None else scale
    if known is not None and digits != known["scale"]:
        raise WrongUsage(
            f"{asset} has a scale of {known['scale']}, for ever", advice="leave --scale"
        )
    changed = dict(source["terms"])
    for item in terms:
        name, value = _parse_term(item, changed, asset=asset, scale=digits)
        changed[name] = value
    issuer = asset.partition(".")[2]
    op = SetAsset(
        asset=asset,
        issuer=issuer,
        currency=asset.partition(".")[0],
        scale=digits,
        terms=_build(AssetTerms, changed),
    )
    session.run(admin_of(issuer), [check(op)], how)


def _parse_term(item: str, known: Mapping[str, Any], *, asset: str, scale: int) -> tuple[str, Any]:
    name, equals, text = item.partition("=")
    if not equals or name not in known:
        raise WrongUsage(
            f"--term {item!r} is not KEY=VALUE with a known key", advice=f"keys: {', '.join(known)}"
        )
    if name in AMOUNT_TERMS:
        if name == "travel_rule_from" and text in ("", "none"):
            return name, None
        return name, str(parse_amount(text, asset=asset, scale=scale, allow_zero=True))
    if name in LIST_TERMS:
        items = sorted(part.strip() for part in text.split(",") if part.strip())
        return name, [int(i) for i in items] if name == "holidays" else items
    return name, int(text) if text.lstrip("-").isdigit() else text


@click.command(name="quota")
@click.argument("asset")
@click.argument("minter")
@click.option("--capacity", required=True, metavar="AMOUNT", help="Most it may mint at once.")
@click.option("--per-day", required=True, metavar="AMOUNT", help="What comes back in a day.")
@signing_options
@pass_state
def set_quota(
    state: State, *, how: How, asset: str, minter: str, capacity: str, per_day: str
) -> None:
    """Set how much a minter may mint. The asset's treasury signs.

    Example: atpar asset quota HKD.JDCL ALFA/minter --capacity 1,000,000.00 --per-day 500,000.00
    """
    session = Session(state)
    op = SetMintQuota(
        asset=asset,
        minter=minter,
        capacity=parse_money(session, capacity, asset, allow_zero=True),
        refill_per_day=parse_money(session, per_day, asset, allow_zero=True),
    )
    session.run(session.get_terms(asset).treasury, [check(op)], how)


def _fetch_or_none(state: State, path: str) -> dict[str, Any] | None:
    try:
        return fetch(state, path)
    except RefusedByLedger as error:
        if error.code.startswith("UNKNOWN_"):
            return None
        raise


def _build(kind: Any, value: dict[str, Any]) -> Any:
    try:
        return from_json(kind, value)
    except JsonInvalid as error:
        raise WrongUsage(str(error), advice="correct that value; see --help") from error
