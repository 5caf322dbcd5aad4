"""`atpar hold|capture|assign|release|holds`: money reserved for a creditor under a condition.

A hold is the debtor's own cash until it is captured. Commands name it by its id; its asset, parties
and what is still open are read from a node, shown, and decided by the ledger.
"""

import re
import uuid
from typing import Any, Final

import click

from atpar.cli.context import State, node_options, output_options, pass_state
from atpar.cli.describe import format_time, format_uuid
from atpar.cli.errors import WrongUsage, refused
from atpar.cli.fetch import fetch, fetch_all
from atpar.cli.ops import (
    AMOUNT,
    ASSET,
    REASON,
    check,
    hash_file_or_hex,
    parse_deadline,
    parse_money,
)
from atpar.cli.output import fields, table
from atpar.cli.query import LIMIT, Scales, check_account
from atpar.cli.signing import How, Session, parse_hash, parse_uuid, signing_options
from atpar.cli.submit import Sent
from atpar.ledger.context import compute_entry_id
from atpar.ledger.hashing import HashTag
from atpar.ledger.limits import MAX_PREIMAGE_BYTES
from atpar.ledger.operations import Assign, Capture, Condition, Hold, Release
from atpar.ledger.records import HOLDS, HoldKind

HOLD: Final = click.argument("hold")
TRAVEL_RULE: Final = click.option(
    "--travel-rule", metavar="FILE|HASH", help="The encrypted travel-rule message."
)
TRAVEL_RULE_ACK: Final = click.option(
    "--travel-rule-ack", is_flag=True, help="The beneficiary's institution confirmed it."
)


@click.command(name="hold")
@click.option("--from", "debtor", required=True, metavar="ACCOUNT", help="Whose money.")
@click.option("--to", "creditor", required=True, metavar="ACCOUNT", help="Who may capture it.")
@AMOUNT
@ASSET
@click.option(
    "--expires", required=True, metavar="TIME", help="Last instant of a capture; or as in +7d."
)
@click.option("--reference", default="", help="At most 35 characters, such as an invoice number.")
@click.option("--purpose", default="", help="ISO 20022 purpose code, such as SUPP.")
@click.option("--uetr", metavar="UUID", help="Default: a fresh one.")
@TRAVEL_RULE
@TRAVEL_RULE_ACK
@click.option(
    "--arbiter", "arbiters", multiple=True, metavar="ACCOUNT",
    help="Signs each capture too; repeat for more.",
)  # fmt: skip
@click.option("--hash-lock", metavar="HASH", help="SHA-256 of what a capture has to show.")
@click.option("--not-before", metavar="TIME", help="First instant of a capture.")
@click.option("--document", metavar="FILE|HASH", help="The document that a capture has to name.")
@click.option("--assignable", is_flag=True, help="The creditor may sell the claim.")
@signing_options
@pass_state
def hold_command(state: State, /, *, how: How, **given: Any) -> None:
    """Reserve money on the debtor's account for a creditor, under a condition.

    Without a condition it is a pre-authorisation; with arbiters an escrow; with a hash lock one
    side of a swap. It counts against the debtor's limits now, and returns by `atpar release`.

    Example: atpar hold --from ALFA/treasury --to BRVO/treasury --amount 25.00 --asset HKD.JDCL
    --expires +7d --arbiter CUST/reserve --reference ORDER-9
    """
    session = Session(state)
    op = Hold(
        asset=given["asset"],
        debtor=given["debtor"],
        creditor=given["creditor"],
        amount=parse_money(session, given["amount"], given["asset"]),
        uetr=parse_uuid("--uetr", given["uetr"]) if given["uetr"] else uuid.uuid4().bytes,
        purpose=given["purpose"],
        reference=given["reference"],
        travel_rule_hash=_hash_or_none("--travel-rule", given["travel_rule"]),
        travel_rule_ack=given["travel_rule_ack"],
        expires_at_ms=parse_deadline("--expires", given["expires"]),
        condition=Condition(
            arbiters=tuple(sorted(set(given["arbiters"]))),
            hash_lock=parse_hash("--hash-lock", given["hash_lock"]) if given["hash_lock"] else None,
            not_before_ms=(
                parse_deadline("--not-before", given["not_before"]) if given["not_before"] else None
            ),
            document_hash=_hash_or_none("--document", given["document"]),
        ),
        assignable=given["assignable"],
    )
    session.run(op.debtor, [check(op)], how)


@click.command(name="capture")
@HOLD
@click.option("--amount", help="In major units (default: all that is open).")
@click.option("--preimage", metavar="HEX", help="What the hash lock was made of.")
@click.option("--document", metavar="FILE|HASH", help="The document that was agreed.")
@click.option("--final", "final", is_flag=True, help="Give what is left back to the debtor.")
@signing_options
@pass_state
def capture_command(
    state: State,
    *,
    how: How,
    hold: str,
    amount: str | None,
    preimage: str | None,
    document: str | None,
    final: bool,
) -> None:
    """Take held money. The creditor signs, and the arbiters that the hold names.

    Example: atpar capture 9f04… --amount 20.00 --final
    """
    session = Session(state)
    hold_id, found = load_hold(session, hold)
    op = Capture(
        hold=hold_id,
        amount=found.open if amount is None else parse_money(session, amount, found.asset),
        preimage=None if preimage is None else _parse_preimage(preimage),
        document_hash=_hash_or_none("--document", document),
        final=final,
    )
    session.run(found.creditor, [check(op)], how)


@click.command(name="assign")
@HOLD
@click.option("--to", "creditor", required=True, metavar="ACCOUNT", help="The new creditor.")
@click.option("--amount", help="In major units (default: all that is open).")
@TRAVEL_RULE
@TRAVEL_RULE_ACK
@signing_options
@pass_state
def assign_command(
    state: State,
    *,
    how: How,
    hold: str,
    creditor: str,
    amount: str | None,
    travel_rule: str | None,
    travel_rule_ack: bool,
) -> None:
    """Sell the claim on held money, or a part of it. Creditor and new creditor sign.

    A part becomes a hold of its own, whose id is printed. To be paid in the same instant, put the
    payment beside it: see `atpar propose file` and `atpar tx new --ops`.

    Example: atpar assign 9f04… --to CHRL/treasury --amount 10.00
    """
    session = Session(state)
    hold_id, found = load_hold(session, hold)
    op = Assign(
        hold=hold_id,
        creditor=creditor,
        amount=found.open if amount is None else parse_money(session, amount, found.asset),
        travel_rule_hash=_hash_or_none("--travel-rule", travel_rule),
        travel_rule_ack=travel_rule_ack,
    )

    def name_claim(sent: Sent) -> dict[str, Any]:
        body = sent.final.transaction.body
        if not isinstance(body.ops[0], Assign):
            return {}
        if op.amount == found.open:
            return {"hold": hold_id.hex()}
        return {"hold": compute_entry_id(HashTag.HOLD, body.sender, body.tx_id, 0).hex()}

    session.run(found.creditor, [check(op)], how, follow=name_claim)


@click.command(name="release")
@HOLD
@click.option(
    "--by", metavar="ACCOUNT",
    help="Default: the treasury for a redemption, else the creditor, else the debtor.",
)  # fmt: skip
@REASON
@signing_options
@pass_state
def release_command(state: State, *, how: How, hold: str, by: str | None, reason: str) -> None:
    """Give held money back to its owner.

    A payment hold: by its creditor at any time, by its debtor once it has expired. A redemption
    whose payout failed or was refused: by the asset's treasury.

    Example: atpar release 9f04… --reason AC04
    """
    session = Session(state)
    hold_id, found = load_hold(session, hold)
    account = by or how.sender
    if account is None and found.kind is HoldKind.REDEMPTION:
        account = session.get_terms(found.asset).treasury
    elif account is None:
        parties = [found.creditor, found.debtor]
        account = session.find_account(parties, how.keys) or found.creditor
    session.run(account, [check(Release(hold=hold_id, by=account, reason=reason))], how)


def load_hold(session: Session, text: str) -> tuple[bytes, Any]:
    """Return the id of a hold and what a node says of it.

    Raises:
        NodeUnreachable, NotReady: no node answers.
        RefusedByLedger: UNKNOWN_HOLD.
    """
    hold_id = parse_hash("hold", text)
    session.demand_node()
    found = session.view.get(HOLDS, hold_id)
    if found is None:
        raise refused("UNKNOWN_HOLD", f"no hold {hold_id.hex()}")
    return hold_id, found


def _hash_or_none(option: str, text: str | None) -> bytes | None:
    return None if text is None else hash_file_or_hex(option, text)


def _parse_preimage(text: str) -> bytes:
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})*", text, re.ASCII):
        raise WrongUsage("--preimage is not hex", advice="two digits a byte")
    if len(text) > 2 * MAX_PREIMAGE_BYTES:
        raise WrongUsage(
            f"--preimage has {len(text) // 2} bytes, at most {MAX_PREIMAGE_BYTES}",
            advice="give the preimage itself, not a document",
        )
    return bytes.fromhex(text)


# ---- looking


@click.group(name="holds")
def holds_command() -> None:
    """List and show holds."""


@holds_command.command(name="list")
@click.option("--creditor", metavar="ACCOUNT", help="Those that it may capture.")
@click.option("--debtor", metavar="ACCOUNT", help="Those on its own money; needs --asset.")
@click.option("--asset", help="With --debtor.")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in HoldKind]), help="With --debtor.",
)  # fmt: skip
@LIMIT
@output_options
@node_options
@pass_state
def list_holds(
    state: State,
    *,
    creditor: str | None,
    debtor: str | None,
    asset: str | None,
    kind: str | None,
    limit: int | None,
) -> None:
    """List the open holds of a creditor or a debtor.

    Example: atpar holds list --creditor BRVO/treasury
    """
    if (creditor is None) == (debtor is None) or (debtor is None) != (asset is None):
        raise WrongUsage(
            "whose holds?", advice="use --creditor ACCOUNT, or --debtor ACCOUNT --asset ASSET"
        )
    check_account(creditor or debtor or "")
    first, items = fetch_all(
        state, "/v1/holds", "holds",
        limit=limit, creditor=creditor, debtor=debtor, asset=asset, kind=kind,
    )  # fmt: skip
    scales = Scales(state)
    rows = [
        (
            each["hold"],
            each["debtor"],
            each["creditor"],
            scales.show(each["open"], each["asset"]),
            each["asset"],
            format_time(each["payment"]["expires_at_ms"]) if each["payment"] else None,
        )
        for each in items
    ]
    headings = ("hold", "debtor", "creditor", "open", "asset", "expires")
    state.output.show({**first, "holds": items}, table(headings, rows, right=("open",)))


@holds_command.command(name="show")
@HOLD
@output_options
@node_options
@pass_state
def show_hold(state: State, *, hold: str) -> None:
    """Show a hold: parties, condition, and what became of its money.

    Example: atpar holds show 9f04…
    """
    hold_id = parse_hash("hold", hold)
    answer = fetch(state, f"/v1/holds/{hold_id.hex()}")
    form, scales = answer["hold"], Scales(state)
    amounts = ("amount", "open", "captured", "released", "burned", "assigned")
    rows: list[tuple[str, object]] = [
        ("hold", form["hold"]),
        *((name, form[name]) for name in ("kind", "status", "asset", "debtor", "creditor")),
        *((name, scales.show(form[name], form["asset"])) for name in amounts),
        ("placed", format_time(form["placed_at_ms"])),
    ]
    if payment := form["payment"]:
        condition = payment["condition"]
        not_before = condition["not_before_ms"]
        rows += [
            ("uetr", format_uuid(bytes.fromhex(payment["uetr"]))),
            ("reference", payment["reference"] or None),
            ("expires", format_time(payment["expires_at_ms"])),
            ("assignable", payment["assignable"]),
            ("arbiters", ", ".join(condition["arbiters"]) or None),
            ("hash lock", condition["hash_lock"]),
            ("not before", None if not_before is None else format_time(not_before)),
            ("document hash", condition["document_hash"]),
        ]
    rows.append(("read at height", answer["read_height"]))
    state.output.show(answer, fields(rows))
