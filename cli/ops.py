"""The operations of the ledger as commands: mint, transfer, redeem, burn and the rest.

Each one turns what a person types into operations; `signing.py` does everything after that.
"""

import hashlib
import re
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import click

from atpar.cli.amounts import parse_amount
from atpar.cli.context import State, pass_state
from atpar.cli.errors import RefusedByLedger, WrongUsage, refused
from atpar.cli.fetch import fetch
from atpar.cli.files import MAX_INPUT_BYTES, read_input
from atpar.cli.signing import How, Session, parse_hash, parse_uuid, signing_options
from atpar.ledger.codec import Wire
from atpar.ledger.jsonform import JsonInvalid, from_json, to_json
from atpar.ledger.operations import (
    AttestReserve,
    Burn,
    Mint,
    Redeem,
    Transfer,
    Void,
)
from atpar.ledger.types import Role

T = TypeVar("T", bound=Wire)

ASSET: Final = click.option("--asset", required=True, help="Such as HKD.JDCL.")
AMOUNT: Final = click.option(
    "--amount", required=True, help="In major units, such as 1,250,000.00; never rounded."
)
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
REASON: Final = click.option("--reason", default="", help="At most 140 printable characters.")


def check(op: T) -> T:
    """Return an operation whose every value has the form that the ledger wants.

    Raises:
        WrongUsage: a value has not; names the field.
    """
    try:
        return from_json(type(op), to_json(op))
    except JsonInvalid as error:
        raise WrongUsage(str(error), advice="correct that value; see --help") from error


def parse_money(session: Session, text: str, asset: str, *, allow_zero: bool = False) -> int:
    """Return the minor units of an amount typed in major units of an asset."""
    scale = session.get_scale(asset)
    return parse_amount(text, asset=asset, scale=scale, allow_zero=allow_zero)


def parse_time(option: str, text: str) -> int:
    """Return milliseconds of a time typed as `2026-11-22T12:00:00Z`, a date, or `now`.

    Raises:
        WrongUsage: it is none of these, or names no time zone.
    """
    if text == "now":
        return time.time_ns() // 1_000_000
    if re.fullmatch("[0-9]{10,16}", text, re.ASCII):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongUsage(
            f"{option} {text!r} is not a time", advice="write 2026-11-22T12:00:00Z, or now"
        ) from error
    if moment.tzinfo is None:
        if "T" in text or ":" in text:
            raise WrongUsage(
                f"{option} {text!r} names no time zone", advice="end it with Z, or +08:00"
            )
        moment = moment.replace(tzinfo=UTC)
    # Whole milliseconds without a float: `timestamp()` would round.
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def parse_duration(option: str, text: str) -> int:
    """Return milliseconds of a duration typed as `90s`, `15m`, `24h` or `7d`.

    Raises:
        WrongUsage: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,6})(s|m|h|d)", text, re.ASCII)
    if found is None:
        raise WrongUsage(f"{option} {text!r} is not a duration", advice="such as 90s, 15m, 24h, 7d")
    return int(found[1]) * _UNIT_MS[found[2]]


def parse_deadline(option: str, text: str) -> int:
    """Return milliseconds of a time as `parse_time` takes it, or of one from now: `+24h`.

    Raises:
        WrongUsage: it is neither.
    """
    if text.startswith("+"):
        return time.time_ns() // 1_000_000 + parse_duration(option, text[1:])
    return parse_time(option, text)


def hash_file_or_hex(option: str, text: str) -> bytes:
    """Return a hash typed as 64 hex digits, or the SHA-256 of the file of that name."""
    if re.fullmatch("[0-9a-fA-F]{64}", text, re.ASCII):
        return bytes.fromhex(text)
    path = Path(text)
    if not path.is_file():
        raise WrongUsage(
            f"{option} {text!r} is neither a file nor 64 hex digits", advice="name the document"
        )
    return hashlib.sha256(read_input(path, max_bytes=MAX_INPUT_BYTES)).digest()


# ---- supply


@click.command(name="mint")
@ASSET
@AMOUNT
@click.option("--to", "creditor", required=True, metavar="ACCOUNT", help="Who is credited.")
@click.option(
    "--minter", metavar="ACCOUNT", help="Default: that of --to's institution, or the only one."
)
@click.option(
    "--funding-ref",
    required=True,
    metavar="UUID",
    help="UETR of the fiat payment into the reserve.",
)
@click.option(
    "--reversal-of", metavar="REDEMPTION", help="A burned redemption whose fiat returned."
)
@signing_options
@pass_state
def mint_command(
    state: State,
    *,
    how: How,
    asset: str,
    amount: str,
    creditor: str,
    minter: str | None,
    funding_ref: str,
    reversal_of: str | None,
) -> None:
    """Issue coins against a deposit in the reserve.

    The funding reference never mints twice. Needs a fresh attestation and audit, quota, and
    reserve enough for the supply after it.

    Example: atpar mint --to ALFA/treasury --amount 100.00 --asset HKD.JDCL --funding-ref 6c1f…
    """
    session = Session(state)
    minor = parse_money(session, amount, asset)
    account = minter or how.sender or _find_minter(session, asset, creditor)
    op = Mint(
        asset=asset,
        minter=account,
        creditor=creditor,
        amount=minor,
        funding_ref=parse_uuid("--funding-ref", funding_ref),
        reversal_of=parse_hash("--reversal-of", reversal_of) if reversal_of else None,
    )
    session.run(account, [check(op)], how)


def _find_minter(session: Session, asset: str, creditor: str) -> str:
    minters: tuple[str, ...] = session.get_terms(asset).minters
    own = [minter for minter in minters if minter.startswith(creditor.partition("/")[0] + "/")]
    own = own or list(minters)
    if len(own) != 1:
        raise WrongUsage(
            f"which minter? {asset} has {', '.join(minters) or 'none'}", advice="use --minter"
        )
    return own[0]


@click.command(name="redeem")
@click.option("--from", "holder", required=True, metavar="ACCOUNT", help="Whose coins.")
@AMOUNT
@ASSET
@click.option(
    "--payout",
    required=True,
    metavar="FILE|HASH",
    help="The payout instruction, or its SHA-256; only the hash goes on the ledger.",
)
@signing_options
@pass_state
def redeem_command(
    state: State, *, how: How, holder: str, amount: str, asset: str, payout: str
) -> None:
    """Ask for fiat at par: holds the coins until they are burned or released.

    Example: atpar redeem --from BRVO/treasury --amount 50.00 --asset HKD.JDCL --payout order.json
    """
    session = Session(state)
    op = Redeem(
        asset=asset,
        holder=holder,
        amount=parse_money(session, amount, asset),
        payout_hash=hash_file_or_hex("--payout", payout),
    )
    session.run(holder, [check(op)], how)


@click.command(name="burn")
@click.argument("redemption")
@click.option("--payout-ref", required=True, metavar="UUID", help="UETR of the fiat payout.")
@click.option(
    "--paid-at", default="now", show_default=True, metavar="TIME", help="When it was paid."
)
@signing_options
@pass_state
def burn_command(state: State, *, how: How, redemption: str, payout_ref: str, paid_at: str) -> None:
    """Destroy redeemed coins after the payout. The treasury and the custodian both sign.

    Where they do not share a machine: `-o burn.json`, then `atpar tx sign` and `atpar tx send`.

    Example: atpar burn 9f04… --payout-ref 6c1f… --paid-at 2026-11-22T12:00:00Z -o burn.json
    """
    session = Session(state)
    hold = parse_hash("redemption", redemption)
    asset = fetch(state, f"/v1/redemptions/{hold.hex()}")["redemption"]["asset"]
    op = Burn(
        redemption=hold,
        payout_ref=parse_uuid("--payout-ref", payout_ref),
        paid_at_ms=parse_time("--paid-at", paid_at),
    )
    session.run(session.get_terms(asset).treasury, [check(op)], how)


@click.command(name="attest")
@click.argument("asset")
@click.option("--amount", help="What the reserve holds (an auditor confirms the custodian's).")
@click.option("--report", metavar="FILE|HASH", help="The report; only its SHA-256 is published.")
@click.option(
    "--by",
    type=click.Choice([Role.CUSTODIAN.value, Role.AUDITOR.value]),
    default=Role.CUSTODIAN.value,
    show_default=True,
)
@click.option(
    "--sequence", type=click.IntRange(1), help="Default: the next; the last for an auditor."
)
@click.option("--as-of", default="now", show_default=True, metavar="TIME", help="Of which instant.")
@click.option(
    "--paid",
    "paid",
    multiple=True,
    metavar="REDEMPTION",
    help="Paid out of the reserve and not burned yet; repeat for more.",
)
@signing_options
@pass_state
def attest_command(
    state: State,
    *,
    how: How,
    asset: str,
    amount: str | None,
    report: str | None,
    by: str,
    sequence: int | None,
    as_of: str,
    paid: tuple[str, ...],
) -> None:
    """State what the segregated reserve holds; the auditor countersigns the same values.

    An auditor gives the report it has checked; amount, time and the rest are the custodian's, as
    the ledger has them, and are shown before signing.

    Example: atpar attest HKD.JDCL --amount 10,000,000.00 --report reserve.pdf
    """
    session = Session(state)
    terms = session.get_terms(asset)
    if by == Role.AUDITOR.value:
        op = _countersign(state, session, asset, amount, report, sequence)
        session.run(terms.auditor, [check(op)], how)
        return
    if amount is None or report is None:
        raise WrongUsage("--amount and --report are needed", advice="see `atpar attest --help`")
    if sequence is None:
        last = fetch(state, f"/v1/assets/{asset}")["reserve"]
        sequence = 1 if last is None else last["sequence"] + 1
    op = AttestReserve(
        asset=asset,
        by=Role.CUSTODIAN,
        sequence=sequence,
        as_of_ms=parse_time("--as-of", as_of),
        amount=parse_money(session, amount, asset, allow_zero=True),
        paid_not_burned=tuple(sorted(parse_hash("--paid", each) for each in paid)),
        report_hash=hash_file_or_hex("--report", report),
    )
    session.run(terms.custodian, [check(op)], how)


def _countersign(
    state: State,
    session: Session,
    asset: str,
    amount: str | None,
    report: str | None,
    sequence: int | None,
) -> AttestReserve:
    """Return the auditor's operation: the custodian's values, checked against what is given."""
    stated = fetch(state, f"/v1/assets/{asset}")["reserve"]
    if stated is None or (sequence is not None and sequence != stated["sequence"]):
        found = "no attestation" if stated is None else f"sequence {stated['sequence']}"
        raise refused("ATTESTATION_SEQUENCE", f"the ledger has {found} of {asset} to countersign")
    if amount is not None:
        minor = parse_money(session, amount, asset, allow_zero=True)
        if minor != int(stated["attested"]):
            raise refused(
                "ATTESTATION_MISMATCH",
                f"--amount is {minor} minor units, the custodian attested {stated['attested']}",
            )
    if report is not None:
        own = hash_file_or_hex("--report", report).hex()
        if own != stated["report_hash"]:
            raise refused(
                "ATTESTATION_MISMATCH",
                f"the report hashes to {own}, the custodian attested {stated['report_hash']}",
            )
    return AttestReserve(
        asset=asset,
        by=Role.AUDITOR,
        sequence=stated["sequence"],
        as_of_ms=stated["as_of_ms"],
        amount=int(stated["attested"]),
        paid_not_burned=tuple(bytes.fromhex(each) for each in stated["paid_not_burned"]),
        report_hash=bytes.fromhex(stated["report_hash"]),
    )


# ---- payments


def make_transfer(
    session: Session,
    *,
    debtor: str,
    creditor: str,
    amount: str,
    asset: str,
    uetr: bytes | None = None,
    purpose: str = "",
    reference: str = "",
    return_of: bytes | None = None,
    travel_rule_hash: bytes | None = None,
    travel_rule_ack: bool = False,
) -> Transfer:
    """Return a payment of an amount in major units, checked in form."""
    return check(
        Transfer(
            asset=asset,
            debtor=debtor,
            creditor=creditor,
            amount=parse_money(session, amount, asset),
            uetr=uetr or uuid.uuid4().bytes,
            purpose=purpose,
            reference=reference,
            return_of=return_of,
            travel_rule_hash=travel_rule_hash,
            travel_rule_ack=travel_rule_ack,
        )
    )


@click.command(name="transfer")
@click.option("--from", "debtor", required=True, metavar="ACCOUNT", help="Who pays.")
@click.option("--to", "creditor", required=True, metavar="ACCOUNT", help="Who is paid.")
@AMOUNT
@ASSET
@click.option("--reference", default="", help="At most 35 characters, such as an invoice number.")
@click.option("--purpose", default="", help="ISO 20022 purpose code, such as SUPP.")
@click.option("--uetr", metavar="UUID", help="Default: a fresh one.")
@click.option("--return-of", metavar="UUID", help="UETR of the payment that this one returns.")
@click.option("--travel-rule", metavar="FILE|HASH", help="The encrypted travel-rule message.")
@click.option("--travel-rule-ack", is_flag=True, help="The beneficiary's institution confirmed it.")
@signing_options
@pass_state
def transfer_command(
    state: State,
    *,
    how: How,
    debtor: str,
    creditor: str,
    amount: str,
    asset: str,
    reference: str,
    purpose: str,
    uetr: str | None,
    return_of: str | None,
    travel_rule: str | None,
    travel_rule_ack: bool,
) -> None:
    """Pay.

    Two payments that must happen together or not at all: see `atpar tx new --help`.

    Example: atpar transfer --from ALFA/treasury --to BRVO/treasury --amount 25.00
    --asset HKD.JDCL --reference INV-7
    """
    session = Session(state)
    op = make_transfer(
        session,
        debtor=debtor,
        creditor=creditor,
        amount=amount,
        asset=asset,
        uetr=parse_uuid("--uetr", uetr) if uetr else None,
        purpose=purpose,
        reference=reference,
        return_of=parse_uuid("--return-of", return_of) if return_of else None,
        travel_rule_hash=hash_file_or_hex("--travel-rule", travel_rule) if travel_rule else None,
        travel_rule_ack=travel_rule_ack,
    )
    session.run(debtor, [op], how)


# ---- ids


@click.command(name="void")
@click.argument("identity", metavar="TX_ID")
@signing_options
@pass_state
def void_command(state: State, *, how: How, identity: str) -> None:
    """Use up a transaction id, so that a lost or withdrawn envelope can never run.

    If the envelope ran first, this is refused with ID_REUSED and changes nothing.

    Example: atpar void 6c1f… --as ALFA/treasury
    """
    if how.sender is None:
        raise WrongUsage("whose id?", advice="use --as ACCOUNT, the sender of the lost envelope")
    tx_id = uuid.UUID(bytes=parse_uuid("TX_ID", identity))
    session = Session(state)
    try:
        session.run(how.sender, [Void()], replace(how, tx_id=str(tx_id)))
    except RefusedByLedger as error:
        if error.code == "ID_REUSED":
            error.advice = f"it ran already: atpar tx show {tx_id} --sender {how.sender}"
        raise
