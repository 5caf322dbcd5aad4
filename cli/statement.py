"""`atpar statement`: what moved on an account between two times, with balances that add up.

The opening balance is what was posted before the first line, the closing balance what was posted
after the last; opening plus all lines must be closing, and each line must follow from the one
before it, or the statement is refused rather than shown.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click

from atpar.cli.amounts import format_amount
from atpar.cli.camt import render_camt
from atpar.cli.context import State, node_options, output_options, pass_state
from atpar.cli.describe import format_time
from atpar.cli.errors import NotReady, WrongUsage
from atpar.cli.fetch import fetch, fetch_all
from atpar.cli.ops import parse_time
from atpar.cli.output import fields, table
from atpar.cli.query import check_account

COLUMNS: Final = ("time", "kind", "counterparty", "reference", "amount", "balance")
CSV_COLUMNS: Final = (
    "asset", "time", "height", "index", "op", "kind", "counterparty", "reference", "uetr",
    "amount", "balance", "tx_hash",
)  # fmt: skip


@dataclass(slots=True)
class Part:
    """The statement of one asset."""

    asset: str
    scale: int
    opening: int = 0
    closing: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)

    def show(self, minor: int) -> str:
        """Return an amount in major units."""
        return format_amount(minor, scale=self.scale)


@click.command(name="statement")
@click.argument("account")
@click.option("--asset", help="Only this asset.")
@click.option("--from", "since", metavar="TIME", help="First instant (default: the beginning).")
@click.option("--to", "until", metavar="TIME", help="Up to, not including (default: now).")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "camt.053"]), default="table",
    show_default=True,
)  # fmt: skip
@output_options
@node_options
@pass_state
def statement_command(
    state: State,
    *,
    account: str,
    asset: str | None,
    since: str | None,
    until: str | None,
    form: str,
) -> None:
    """Show what moved on an account, with opening and closing balance per asset.

    Example: atpar statement ALFA/treasury --from 2026-11-01 --to 2026-12-01 --format csv
    """
    check_account(account)
    since_ms = parse_time("--from", since) if since else 0
    until_ms = parse_time("--to", until) if until else 2**63
    first, entries = fetch_all(state, f"/v1/accounts/{account}/entries", "entries", asset=asset)
    scales = {each["asset"]: int(each["scale"]) for each in fetch(state, "/v1/assets")["assets"]}
    parts = make_parts(entries, scales, since_ms=since_ms, until_ms=until_ms)
    data = {
        "account": account,
        "from_ms": since_ms,
        "to_ms": until_ms if until else None,
        "read_height": first.get("read_height"),
        "assets": [
            {
                "asset": part.asset,
                "scale": part.scale,
                "opening": str(part.opening),
                "closing": str(part.closing),
                "entries": part.lines,
            }
            for part in parts
        ],
    }
    state.output.as_json = state.output.as_json or form == "json"
    if form == "camt.053" and not state.output.as_json:
        if not parts and asset is None:
            raise WrongUsage("nothing moved: a statement of which asset?", advice="use --asset")
        made_ms = parse_time("now", "now")
        lines = render_camt(
            account,
            parts or [Part(asset or "", scales.get(asset or "", 0))],
            from_ms=since_ms,
            to_ms=min(until_ms, made_ms),
            made_ms=made_ms,
            height=first["read_height"],
        )
    else:
        lines = _draw_csv(parts) if form == "csv" else _draw_table(account, parts)
    state.output.show(data, lines)


def make_parts(
    entries: Sequence[dict[str, Any]], scales: dict[str, int], *, since_ms: int, until_ms: int
) -> list[Part]:
    """Return one part per asset, by code, from all lines of an account in order.

    Raises:
        NotReady: the lines do not follow from each other: the node's index is not whole.
    """
    parts: dict[str, Part] = {}
    balances: dict[str, int] = {}
    for entry in entries:
        asset, amount, posted = entry["asset"], int(entry["amount"]), int(entry["posted"])
        before = balances.get(asset, 0)
        if before + amount != posted:
            raise NotReady(
                f"the lines of {asset} do not add up at height {entry['height']}:"
                f" {before} and {amount} make {before + amount}, not {posted}",
                advice="ask another node, and report this one",
            )
        balances[asset] = posted
        if entry["timestamp_ms"] >= until_ms:
            continue
        part = parts.setdefault(asset, Part(asset, scales.get(asset, 0)))
        part.closing = posted
        if entry["timestamp_ms"] < since_ms:
            part.opening = posted
        else:
            part.lines.append(entry)
    return [parts[asset] for asset in sorted(parts)]


def _draw_table(account: str, parts: Sequence[Part]) -> list[str]:
    lines = [f"account {account}"]
    if not parts:
        lines.append("nothing moved")
    for part in parts:
        rows = [
            (
                format_time(entry["timestamp_ms"]),
                entry["kind"],
                entry["counterparty"],
                entry["reference"] or None,
                part.show(int(entry["amount"])),
                part.show(int(entry["posted"])),
            )
            for entry in part.lines
        ]
        ends = [("opening balance", part.show(part.opening))]
        lines += ["", part.asset, *fields(ends)]
        lines += table(COLUMNS, rows, right=("amount", "balance")) if rows else []
        lines += fields([("closing balance", part.show(part.closing))])
    return lines


def _draw_csv(parts: Sequence[Part]) -> list[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for part in parts:
        for entry in part.lines:
            writer.writerow(
                (
                    part.asset,
                    format_time(entry["timestamp_ms"]).removesuffix(" UTC").replace(" ", "T") + "Z",
                    entry["height"],
                    entry["index"],
                    entry["op"],
                    entry["kind"],
                    entry["counterparty"] or "",
                    _defuse(entry["reference"]),
                    entry["uetr"] or "",
                    part.show(int(entry["amount"])).replace(",", ""),
                    part.show(int(entry["posted"])).replace(",", ""),
                    entry["tx_hash"],
                )
            )
    return text.getvalue().splitlines()


def _defuse(text: str) -> str:
    """Return a payer's text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
