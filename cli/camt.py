"""A statement as ISO 20022 camt.053.001.08, so that a bank's own systems can read it.

One `Stmt` for each asset, with opening and closing booked balance. The offshore renminbi has no
code of its own in ISO 4217: CNH is exported as CNY.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from xml.etree import ElementTree as Xml

from atpar.cli.describe import format_uuid
from atpar.cli.errors import WrongUsage

NAMESPACE: Final = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
MAX_DECIMALS: Final = 5
CURRENCIES: Final = {"CNH": "CNY"}
_UETR: Final = re.compile("[a-f0-9]{8}-[a-f0-9]{4}-4[a-f0-9]{3}-[89ab][a-f0-9]{3}-[a-f0-9]{12}")


class Section(Protocol):
    """What a statement says about one asset."""

    asset: str
    scale: int
    opening: int
    closing: int
    lines: list[dict[str, Any]]


def render_camt(
    account: str,
    sections: Iterable[Section],
    *,
    from_ms: int,
    to_ms: int,
    made_ms: int,
    height: int,
) -> list[str]:
    """Return the lines of the document.

    `from_ms` and `to_ms` are the ends of the period; `height` is where it was read.

    Raises:
        WrongUsage: an amount has more decimals than the format can carry.
    """
    root = Xml.Element("Document", {"xmlns": NAMESPACE})
    message = Xml.SubElement(root, "BkToCstmrStmt")
    group = Xml.SubElement(message, "GrpHdr")
    _add(group, "MsgId", _make_id(account, "", from_ms, to_ms, height))
    _add(group, "CreDtTm", _format_time(made_ms))
    for section in sections:
        statement = Xml.SubElement(message, "Stmt")
        _add(statement, "Id", _make_id(account, section.asset, from_ms, to_ms, height))
        _add(statement, "CreDtTm", _format_time(made_ms))
        period = Xml.SubElement(statement, "FrToDt")
        _add(period, "FrDtTm", _format_time(from_ms))
        _add(period, "ToDtTm", _format_time(to_ms))
        holder = Xml.SubElement(statement, "Acct")
        _add_path(holder, "Id/Othr/Id", account)
        _add(holder, "Ccy", _get_currency(section))
        _add(holder, "Nm", section.asset)
        _add_balance(statement, section, "OPBD", section.opening, from_ms)
        _add_balance(statement, section, "CLBD", section.closing, to_ms)
        for entry in section.lines:
            _add_entry(statement, section, entry)
    Xml.indent(root)
    text = Xml.tostring(root, encoding="unicode")
    return ['<?xml version="1.0" encoding="UTF-8"?>', *text.splitlines()]


def _add_balance(
    parent: Xml.Element, section: Section, kind: str, amount: int, time_ms: int
) -> None:
    balance = Xml.SubElement(parent, "Bal")
    _add_path(balance, "Tp/CdOrPrtry/Cd", kind)
    _add_amount(balance, section, amount)
    _add_path(balance, "Dt/DtTm", _format_time(time_ms))


def _add_entry(parent: Xml.Element, section: Section, entry: Mapping[str, Any]) -> None:
    amount = int(entry["amount"])
    line = Xml.SubElement(parent, "Ntry")
    _add(line, "NtryRef", entry["cursor"][:35])
    _add_amount(line, section, amount)
    _add_path(line, "Sts/Cd", "BOOK")
    _add_path(line, "BookgDt/DtTm", _format_time(entry["timestamp_ms"]))
    _add_path(line, "ValDt/DtTm", _format_time(entry["timestamp_ms"]))
    # Half of the transaction's hash: the field has 35 characters.
    _add(line, "AcctSvcrRef", entry["tx_hash"][:32])
    _add_path(line, "BkTxCd/Prtry/Cd", entry["kind"][:35])
    details = Xml.SubElement(Xml.SubElement(line, "NtryDtls"), "TxDtls")
    references = Xml.SubElement(details, "Refs")
    _add(references, "EndToEndId", entry["reference"] or "NOTPROVIDED")
    uetr = format_uuid(bytes.fromhex(entry["uetr"])) if entry["uetr"] else ""
    if _UETR.fullmatch(uetr):
        _add(references, "UETR", uetr)
    _add_amount(details, section, amount)
    if entry["counterparty"]:
        side = "DbtrAcct" if amount > 0 else "CdtrAcct"
        _add_path(details, f"RltdPties/{side}/Id/Othr/Id", entry["counterparty"])


def _add_amount(parent: Xml.Element, section: Section, amount: int) -> None:
    """Add an amount without its sign, and the side that the sign says."""
    digits = str(abs(amount)).rjust(section.scale + 1, "0")
    whole = digits[: len(digits) - section.scale]
    decimals = digits[len(whole) :]
    if decimals[MAX_DECIMALS:].strip("0"):
        raise WrongUsage(
            f"camt.053 has {MAX_DECIMALS} decimals, {section.asset} needs {section.scale}",
            advice="use --format csv",
        )
    decimals = decimals[:MAX_DECIMALS]
    element = _add(parent, "Amt", f"{whole}.{decimals}" if decimals else whole)
    element.set("Ccy", _get_currency(section))
    _add(parent, "CdtDbtInd", "DBIT" if amount < 0 else "CRDT")


def _get_currency(section: Section) -> str:
    currency = section.asset.partition(".")[0]
    return CURRENCIES.get(currency, currency)


def _make_id(account: str, asset: str, from_ms: int, to_ms: int, height: int) -> str:
    """Return 32 characters: the same statement read at the same height has the same id."""
    text = f"{account}|{asset}|{from_ms}|{to_ms}|{height}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _format_time(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def _add(parent: Xml.Element, name: str, text: str) -> Xml.Element:
    element = Xml.SubElement(parent, name)
    element.text = text
    return element


def _add_path(parent: Xml.Element, path: str, text: str) -> None:
    *outer, name = path.split("/")
    for step in outer:
        parent = Xml.SubElement(parent, step)
    _add(parent, name, text)
