"""`atpar account|asset|participant|redemptions`: what the ledger says, as one node has it.

Every answer names the height it was read at. With `--proof` the proof that comes with it is checked
here and saved for `atpar verify`.
"""

import json
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from atpar.cli import members
from atpar.cli.amounts import format_amount
from atpar.cli.chain import load_chain
from atpar.cli.context import State, node_options, output_options, pass_state
from atpar.cli.describe import format_duration, format_time
from atpar.cli.errors import WrongUsage
from atpar.cli.fetch import fetch, fetch_all
from atpar.cli.files import write_over
from atpar.cli.ops import check
from atpar.cli.output import fields, table
from atpar.cli.policies import POLICY_HELP, Prover
from atpar.cli.signing import How, Session, signing_options
from atpar.cli.verify import decode_proof
from atpar.ledger.operations import OpenAccount
from atpar.ledger.proofs import compute_trust_root, render_proof, verify_proof
from atpar.ledger.types import AccountId, admin_of, participant_of

PROOF: Final = click.option(
    "--proof", "proof", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Ask for a proof, check it, and save it for `atpar verify`.",
)  # fmt: skip
LIMIT: Final = click.option("--limit", type=click.IntRange(1), help="At most so many.")


class Scales:
    """The scales of assets, as nodes tell them, for showing amounts."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, int] = {}

    def show(self, minor: str | int | None, asset: str) -> str | None:
        """Return an amount of minor units in major units."""
        if minor is None:
            return None
        if asset not in self._known:
            if not self._known:
                for each in fetch(self._state, "/v1/assets")["assets"]:
                    self._known[each["asset"]] = int(each["scale"])
            if asset not in self._known:
                return f"{minor} minor"
        return format_amount(int(minor), scale=self._known[asset])

    def learn(self, asset: str, scale: int) -> None:
        """Take in a scale that an answer gave."""
        self._known[asset] = scale


# ---- accounts


@click.group(name="account")
def account_command() -> None:
    """Show, list, open and change accounts."""


@account_command.command(name="show")
@click.argument("account")
@PROOF
@output_options
@node_options
@pass_state
def show_account(state: State, *, account: str, proof: Path | None) -> None:
    """Show an account: balances, policy, freezes, open holds.

    Example: atpar account show ALFA/treasury
    """
    path = f"/v1/accounts/{check_account(account)}"
    answer = fetch(state, path, proof=1 if proof else None)
    scales = Scales(state)
    columns = ("posted", "held", "frozen", "available")
    lines = [
        *fields(
            [
                ("account", answer["account"]),
                ("status", answer["status"]),
                ("policy", _show_policy(answer["policy"])),
                ("blocked", ", ".join(answer["blocked"]) or None),
                ("read at height", answer["read_height"]),
            ]
        ),
        "",
        *table(
            ("asset", *columns, "blocked"),
            [
                (
                    b["asset"],
                    *(scales.show(b[name], b["asset"]) for name in columns),
                    ", ".join(b["blocked"]) or None,
                )
                for b in answer["balances"]
            ],
            right=columns,
        ),
    ]
    if answer["freezes"]:
        lines += ["", *_draw_freezes(answer["freezes"], scales)]
    if answer["holds"]:
        lines += ["", *_draw_holds(answer["holds"], scales)]
    lines += save_proof(state, answer, proof)
    state.output.show(answer, lines)


def _show_policy(policy: dict[str, Any]) -> str:
    keys = [
        each["key"] + (f" (weight {each['weight']})" if each["weight"] != 1 else "")
        for each in policy["keys"]
    ]
    return f"{policy['threshold']} of: {', '.join(keys)}"


def _draw_freezes(freezes: list[dict[str, Any]], scales: Scales) -> list[str]:
    rows = [
        (
            each["freeze"],
            each["asset"] or "all assets",
            each["direction"],
            scales.show(each["amount"], each["asset"]) or "everything",
            each["by"],
            format_time(each["placed_at_ms"]),
        )
        for each in freezes
    ]
    return table(("freeze", "asset", "direction", "amount", "by", "since"), rows, right=("amount",))


def _draw_holds(holds: list[dict[str, Any]], scales: Scales) -> list[str]:
    rows = [
        (each["hold"], each["kind"], scales.show(each["open"], each["asset"]), each["asset"],
         format_time(each["placed_at_ms"]))
        for each in holds
    ]  # fmt: skip
    return table(("hold", "kind", "open", "asset", "since"), rows, right=("open",))


@account_command.command(name="list")
@click.argument("participant", required=False)
@LIMIT
@output_options
@node_options
@pass_state
def list_accounts(state: State, *, participant: str | None, limit: int | None) -> None:
    """List the accounts of a participant, or of all.

    Example: atpar account list ALFA
    """
    if participant is not None:
        codes = [participant]
    else:
        found = fetch(state, "/v1/participants")["participants"]
        codes = [each["participant"] for each in found]
    accounts: list[dict[str, Any]] = []
    for code in codes:
        left = None if limit is None else limit - len(accounts)
        if left is not None and left <= 0:
            break
        path = f"/v1/participants/{code}/accounts"
        accounts += fetch_all(state, path, "accounts", limit=left)[1]
    rows = [
        (each["account"], each["status"], "required" if each["reference_required"] else None)
        for each in accounts
    ]
    state.output.show({"accounts": accounts}, table(("account", "status", "reference"), rows))


@account_command.command(name="open")
@click.argument("account")
@click.option("--policy", required=True, metavar="POLICY", help=f"{POLICY_HELP}.")
@click.option("--reference-required", is_flag=True, help="Refuse payments without a reference.")
@click.option(
    "--proof", "proofs", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
    help="Proof of possession of a key on another machine (`atpar keys prove`).",
)  # fmt: skip
@click.option("--known", "known", multiple=True, metavar="NAME", help="A key that needs no proof.")
@signing_options
@pass_state
def open_account(
    state: State,
    *,
    how: How,
    account: str,
    policy: str,
    reference_required: bool,
    proofs: tuple[Path, ...],
    known: tuple[str, ...],
) -> None:
    """Open an account; the participant's admin account signs.

    New keys prove possession; keys that the ledger knows already may prove it again.

    Example: atpar account open ALFA/retail-7 --policy 1:payments
    """
    check_account(account)
    code = participant_of(account)
    session = Session(state)
    prover = Prover(session.ring, participant=code, chain_id=session.chain.chain_id)
    prover.add_proofs(proofs)
    parsed, names = prover.parse_policy(policy)
    op = OpenAccount(
        account=account,
        policy=parsed,
        reference_required=reference_required,
        possessions=prover.prove_all(name for name in names if name not in known),
    )
    session.run(admin_of(code), [check(op)], how)


# ---- assets


@click.group(name="asset")
def asset_command() -> None:
    """Show, list and change assets, and set mint quotas."""


@asset_command.command(name="show")
@click.argument("asset")
@PROOF
@output_options
@node_options
@pass_state
def show_asset(state: State, *, asset: str, proof: Path | None) -> None:
    """Show an asset: supply against reserve, roles, quotas, open redemptions.

    Example: atpar asset show HKD.JDCL --proof solvency.json
    """
    answer = fetch(state, f"/v1/assets/{asset}", proof=1 if proof else None)
    scales = Scales(state)
    scales.learn(answer["asset"], answer["scale"])
    reserve = answer["reserve"] or {}
    code = answer["asset"]
    rows: list[tuple[str, object]] = [
        ("asset", code),
        ("issuer", answer["issuer"]),
        ("scale", answer["scale"]),
        ("supply", scales.show(answer["supply"], code)),
        ("minted", scales.show(answer["minted"], code)),
        ("burned", scales.show(answer["burned"], code)),
        ("attested", scales.show(reserve.get("attested"), code)),
        ("backing", scales.show(reserve.get("backing"), code)),
        ("as of", format_time(reserve["as_of_ms"]) if reserve else None),
        ("sequence", _show_sequence(reserve)),
        ("coverage", _show_bps(answer["coverage_bps"])),
        ("warnings", ", ".join(_list_warnings(answer, reserve)) or None),
        ("paused", ", ".join(answer["paused"]) or None),
        ("open redemptions", answer["open_redemptions"]),
        ("redemptions sum", scales.show(answer["open_redemptions_amount"], code)),
        ("cap", scales.show(answer["terms"]["cap"], code)),
        ("attestation age", format_duration(answer["terms"]["attestation_max_age_ms"])),
        *((name, answer["terms"][name]) for name in answer["terms"] if _is_role(answer, name)),
        ("read at height", answer["read_height"]),
    ]
    quotas = [
        (q["minter"], *(scales.show(q[n], code) for n in ("level", "capacity", "refill_per_day")))
        for q in answer["quotas"]
    ]
    numbers = ("may mint now", "capacity", "a day")
    lines = [*fields(rows), "", *table(("minter", *numbers), quotas, right=numbers)]
    lines += save_proof(state, answer, proof)
    state.output.show(answer, lines)


def _is_role(answer: dict[str, Any], name: str) -> bool:
    value = answer["terms"][name]
    return isinstance(value, str) and "/" in value


def _show_sequence(reserve: dict[str, Any]) -> str | None:
    if not reserve:
        return None
    return f"{reserve['sequence']}, audited {reserve['audited_sequence']}"


def _show_bps(bps: int | None) -> str | None:
    return None if bps is None else f"{bps // 100}.{bps % 100:02d} %"


def _list_warnings(answer: dict[str, Any], reserve: dict[str, Any]) -> list[str]:
    found = {
        "never attested": not reserve,
        "attestation stale": reserve.get("is_stale", False),
        "audit stale": reserve.get("is_audit_stale", False),
        "UNDERBACKED": answer["is_underbacked"],
        "redemption OVERDUE": answer["is_overdue"],
    }
    return [name for name, is_so in found.items() if is_so]


@asset_command.command(name="list")
@output_options
@node_options
@pass_state
def list_assets(state: State) -> None:
    """List all assets with supply and reserve.

    Example: atpar asset list
    """
    answer = fetch(state, "/v1/assets")
    scales = Scales(state)
    rows = []
    for each in answer["assets"]:
        scales.learn(each["asset"], each["scale"])
        reserve = each["reserve"] or {}
        rows.append(
            (
                each["asset"],
                scales.show(each["supply"], each["asset"]),
                scales.show(reserve.get("backing"), each["asset"]),
                _show_bps(each["coverage_bps"]),
                ", ".join(_list_warnings(each, reserve)) or None,
            )
        )
    headings = ("asset", "supply", "backing", "coverage", "warnings")
    state.output.show(answer, table(headings, rows, right=headings[1:4]))


# ---- participants


@click.group(name="participant")
def participant_command() -> None:
    """Show, list, create and change participants."""


@participant_command.command(name="show")
@click.argument("participant")
@output_options
@node_options
@pass_state
def show_participant(state: State, *, participant: str) -> None:
    """Show a participant.

    Example: atpar participant show ALFA
    """
    answer = fetch(state, f"/v1/participants/{participant}")
    rows = [
        (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else value)
        for name, value in answer.items()
    ]
    state.output.show(answer, fields(rows))


@participant_command.command(name="list")
@output_options
@node_options
@pass_state
def list_participants(state: State) -> None:
    """List all participants.

    Example: atpar participant list
    """
    answer = fetch(state, "/v1/participants")
    rows = [
        (
            each["participant"],
            each["bic"],
            each["jurisdiction"],
            ", ".join(each["roles"]),
            each["status"],
            each["is_validator"],
        )
        for each in answer["participants"]
    ]
    headings = ("participant", "BIC", "in", "roles", "status", "validator")
    state.output.show(answer, table(headings, rows))


# ---- redemptions


@click.command(name="redemptions")
@click.option("--asset", help="Only this asset.")
@click.option(
    "--status",
    type=click.Choice(["pending", "burned", "returned", "overdue", "blocked"]),
    help="Only these.",
)
@LIMIT
@output_options
@node_options
@pass_state
def redemptions_command(
    state: State, *, asset: str | None, status: str | None, limit: int | None
) -> None:
    """List redemptions with their due times.

    Example: atpar redemptions --asset HKD.JDCL --status pending
    """
    first, items = fetch_all(
        state, "/v1/redemptions", "redemptions", limit=limit, asset=asset, status=status
    )
    scales = Scales(state)
    rows = []
    for each in items:
        marks = [name for name in ("overdue", "blocked") if each[f"is_{name}"]]
        if each["is_listed_as_paid"]:
            marks.append("listed as paid")
        rows.append(
            (
                each["redemption"],
                each["holder"],
                scales.show(each["amount"], each["asset"]),
                each["asset"],
                each["status"],
                ", ".join(marks) or None,
                format_time(each["due_ms"]),
            )
        )
    headings = ("redemption", "holder", "amount", "asset", "status", "marks", "due")
    state.output.show({**first, "redemptions": items}, table(headings, rows, right=("amount",)))


account_command.add_command(members.set_account)
account_command.add_command(members.rotate_account)
account_command.add_command(members.close_account)
account_command.add_command(members.recover_account)
account_command.add_command(members.cancel_recovery_of_account)
asset_command.add_command(members.set_asset)
asset_command.add_command(members.set_quota)
participant_command.add_command(members.set_participant)


# ---- helpers


def check_account(account: str) -> str:
    """Return an account id after checking that it can stand in a path."""
    try:
        msgspec.convert(account, AccountId)
    except msgspec.ValidationError:
        raise WrongUsage(f"{account!r} is not an account", advice="such as ALFA/treasury") from None
    return account


def save_proof(state: State, answer: dict[str, Any], path: Path | None) -> list[str]:
    """Check the proof of an answer, save it, and say so; the answer then carries its path."""
    if path is None:
        return []
    file = decode_proof(json.dumps(answer.pop("proof")).encode())
    verified = verify_proof(file, compute_trust_root(load_chain(state).document))
    write_over(path, render_proof(file))
    answer["proof_file"] = str(path)
    block = verified.block
    return [
        "",
        f"proof {path}: block #{block.height}, {len(block.signers)} of {block.validators} signed",
    ]
