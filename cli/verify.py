"""`atpar verify`: check a receipt or proof with the genesis document alone, no node at hand."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from atpar.cli.amounts import format_amount
from atpar.cli.chain import Chain, load_chain
from atpar.cli.context import State, genesis_option, home_option, output_options, pass_state
from atpar.cli.describe import describe_operation, format_time, format_uuid
from atpar.cli.errors import RefusedByLedger, explain
from atpar.cli.files import read_input
from atpar.cli.output import TICK, clean, fields, table
from atpar.ledger.codes import MEANINGS, Code
from atpar.ledger.errors import ForkFound, NonCanonical, ProofInvalid
from atpar.ledger.histories import check_one_history
from atpar.ledger.jsonform import JsonInvalid, operation_name, parse_json, to_json
from atpar.ledger.limits import MAX_PROOF_BYTES
from atpar.ledger.proofs import (
    PROOF_FILE,
    AccountClaim,
    Claim,
    ExpiryClaim,
    Opening,
    ProofFile,
    ReceiptClaim,
    RecordClaim,
    SolvencyClaim,
    Verified,
    compute_trust_root,
    parse_proof,
    verify_proof,
)
from atpar.ledger.stateroot import AssetRow
from atpar.node.evidence import FORMAT as EVIDENCE_FORMAT
from atpar.node.evidence import parse_evidence_file

_FORMAT_WITHIN: Final = 256
"""Bytes at the beginning of a file in which its format stands."""

Described = tuple[dict[str, Any], list[str]]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A file that holds, as it is shown."""

    path: Path
    values: dict[str, Any]
    lines: list[str]
    verified: Verified | None
    """None of an evidence file: it says nothing of the chain's history."""


@click.command(name="verify")
@click.argument(
    "proofs",
    metavar="PROOF…",
    type=click.Path(path_type=Path, dir_okay=False),
    nargs=-1,
    required=True,
)
@output_options
@home_option
@genesis_option
@pass_state
def verify_command(state: State, *, proofs: tuple[Path, ...]) -> None:
    """Check receipts or proofs offline: no node, no network, only the genesis document.

    Shows what each has shown, and nothing that it has not. A receipt of a refused transaction is a
    good proof of the refusal. Several files must also tell one history. Exit code 6 if a proof does
    not hold, 8 if two that hold contradict each other: the chain was forked.

    Example: atpar verify receipts/3f2a….json --genesis genesis.json
    """
    chain = load_chain(state)
    checked = [_check_file(state, path, chain) for path in proofs]
    _compare(checked)
    shown = [({"file": str(each.path), **each.values}, each.lines) for each in checked]
    if len(shown) == 1:
        state.output.show(*shown[0])
        return
    lines = [line for each in checked for line in (f"{each.path}", *each.lines, "")]
    state.output.show(
        {"valid": True, "one_history": True, "files": [values for values, _ in shown]},
        [*lines, f"{TICK} all {len(shown)} tell one history"],
    )


def _check_file(state: State, path: Path, chain: Chain) -> _Checked:
    data = read_input(path, max_bytes=2 * MAX_PROOF_BYTES)
    try:
        if EVIDENCE_FORMAT.encode() in data[:_FORMAT_WITHIN]:
            return _Checked(path, *_verify_evidence(data, chain), None)
        within = find_proof_within(data)
        verified = verify_proof(decode_proof(within or data), compute_trust_root(chain.document))
    except ProofInvalid as error:
        found = explain(error)
        assert isinstance(found, RefusedByLedger)
        raise RefusedByLedger(
            f"{path}: {found.message}", advice=found.advice, code=found.code
        ) from error
    if within is not None:
        state.output.warn(f"{path} is a node's answer: only the proof in it was looked at")
    return _Checked(path, *describe_verified(verified, chain), verified)


def _compare(checked: Sequence[_Checked]) -> None:
    """Check that no two proofs contradict each other."""
    for one, other in itertools.combinations(checked, 2):
        if one.verified is None or other.verified is None:
            continue
        try:
            check_one_history(one.verified, other.verified)
        except ForkFound as error:
            raise ForkFound(f"{one.path} and {other.path}: {error}") from error


def find_proof_within(data: bytes) -> bytes | None:
    """Return the proof inside an API's answer to `?proof=1`; None if this is no such answer.

    What stands around it is the node's word alone, and nothing that is shown comes from there.
    """
    if data.lstrip()[:1] != b"{":
        return None
    try:
        value = parse_json(data, max_bytes=2 * MAX_PROOF_BYTES)
    except JsonInvalid as error:
        raise ProofInvalid(str(error)) from error
    if "format" in value or not isinstance(value.get("proof"), dict):
        return None
    return json.dumps(value["proof"]).encode()


def _verify_evidence(data: bytes, chain: Chain) -> Described:
    """Check an evidence file, which says so in its first line."""
    from atpar.cli.evidence import check_evidence

    return check_evidence(parse_evidence_file(data), chain)


def decode_proof(data: bytes) -> ProofFile:
    """Return a proof from its JSON form or its canonical bytes, unverified.

    Raises:
        ProofInvalid: it is neither.
    """
    if data.lstrip()[:1] == b"{":
        return parse_proof(data)
    try:
        return PROOF_FILE.decode(data)
    except NonCanonical as error:
        raise ProofInvalid(str(error)) from error


def describe_verified(verified: Verified, chain: Chain) -> Described:
    """Return what a verified proof shows: as JSON members, and as lines for people."""
    block = verified.block
    kind, (values, lines) = _describe_claim(verified.claim, chain.scales)
    shown = {
        "valid": True,
        "kind": kind,
        "chain": chain.name,
        "chain_id": verified.chain_id.hex(),
        "height": block.height,
        "timestamp_ms": block.timestamp_ms,
        "digest": block.digest.hex(),
        "epoch": block.epoch,
        "signers": list(block.signers),
        "validators": block.validators,
        "quorum": block.quorum,
        **_show_recoveries(verified.epochs),
        **values,
    }
    signed = f"{len(block.signers)} of {block.validators} signed, {block.quorum} are needed"
    head = [
        f"{TICK} FINAL #{block.height} on {chain.name}: {signed}",
        *fields(
            [
                ("block", block.digest.hex()),
                ("block time", format_time(block.timestamp_ms)),
                ("signed by", ", ".join(block.signers)),
            ]
        ),
    ]
    return shown, [*head, *_draw_recoveries(verified.epochs), *lines]


def _show_recoveries(epochs: Sequence[Opening]) -> dict[str, Any]:
    """Return the recoveries that the proof rests on; nothing at all where there is none."""
    recoveries = [
        {
            "epoch": document.body.epoch,
            "height": document.body.height,
            "digest": document.body.digest.hex(),
            "members": [member.participant for member in document.body.members],
            "abandoned": [digest.hex() for digest in document.body.abandoned],
            "signed_by": [signed.participant for signed in document.signatures],
        }
        for document in (opening.document for opening in epochs)
        if document is not None
    ]
    return {"recoveries": recoveries} if recoveries else {}


def _draw_recoveries(epochs: Sequence[Opening]) -> list[str]:
    """Say which epochs no block opened: there the proof rests on administrators' words."""
    lines: list[str] = []
    for each in _show_recoveries(epochs).get("recoveries", []):
        lines.append(
            f"epoch {each['epoch']} was opened by administrators at #{each['height']} "
            f"{each['digest']}: {', '.join(each['signed_by'])}"
        )
        lines += [f"   they abandoned block {digest}" for digest in each["abandoned"]]
    return lines


def _describe_claim(claim: Claim, scales: Mapping[str, int]) -> tuple[str, Described]:
    match claim:
        case ReceiptClaim():
            return "receipt", _describe_receipt(claim, scales)
        case AccountClaim():
            return "account", _describe_account(claim, scales)
        case SolvencyClaim(assets):
            return "solvency", (
                {"assets": [_show_row(row) for row in assets]},
                _draw_assets(assets, scales),
            )
        case RecordClaim(section, key, record):
            values: dict[str, Any] = {
                "section": section,
                "key": key.hex(),
                "record": None if record is None else to_json(record),
            }
            return "record", (values, fields((k, _plain(v)) for k, v in values.items()))
        case ExpiryClaim(sender, tx_id, valid_until_ms):
            values = {
                "sender": sender, "tx_id": tx_id.hex(), "valid_until_ms": valid_until_ms,
            }  # fmt: skip
            lines = [
                f"{sender} {format_uuid(tx_id)} was never executed and never will be:",
                f"its window ended at {format_time(valid_until_ms)}",
            ]
            return "expiry", (values, lines)


def _describe_receipt(claim: ReceiptClaim, scales: Mapping[str, int]) -> Described:
    body = claim.transaction.body
    receipt = claim.receipt
    name = claim.code_name
    known = Code[name] if name in Code.__members__ else None
    values = {
        "code": name,
        "iso_reason": MEANINGS[known].iso if known is not None else None,
        "failed_op": receipt.failed_op,
        "tx_hash": receipt.tx_hash.hex(),
        "sender": receipt.sender,
        "tx_id": receipt.tx_id.hex(),
        "index": claim.index,
        "operations": [to_json(op) for op in body.ops],
        "signed_by": [signature.key.hex() for signature in claim.transaction.signatures],
    }
    outcome = "done" if receipt.code == Code.OK else f"REFUSED with {name}, nothing changed"
    lines = fields(
        [
            ("transaction", receipt.tx_hash.hex()),
            ("sender", receipt.sender),
            ("id", format_uuid(receipt.tx_id)),
            ("outcome", outcome),
        ]
    )
    if known is not None and known is not Code.OK:
        lines.append(f"operation {(receipt.failed_op or 0) + 1}: {MEANINGS[known].meaning}")
    for number, op in enumerate(body.ops, start=1):
        lines.append(f"{number}. {operation_name(type(op))}")
        lines += [f"   {line}" for line in describe_operation(op, scales)]
    return values, lines


def _describe_account(claim: AccountClaim, scales: Mapping[str, int]) -> Described:
    balances = [
        {
            "asset": asset,
            "posted": str(balance.posted),
            "held": str(balance.held),
            "frozen": str(balance.frozen),
            "available": str(balance.available),
        }
        for asset, balance in claim.balances
    ]
    rows = [
        (asset, *(_money(n, asset, scales) for n in (b.posted, b.held, b.frozen, b.available)))
        for asset, b in claim.balances
    ]
    columns = ("posted", "held", "frozen", "available")
    lines = [f"account {claim.account}", *table(("asset", *columns), rows, right=columns)]
    values = {
        "account": claim.account,
        "balances": balances,
        "assets": [_show_row(row) for row in claim.assets],
    }
    return values, [*lines, *_draw_assets(claim.assets, scales)]


def _draw_assets(rows: tuple[AssetRow, ...], scales: Mapping[str, int]) -> list[str]:
    columns = ("all balances", "supply", "attested")
    cells = [
        (
            row.asset,
            *(_money(n, row.asset, scales) for n in (row.posted, row.supply, row.attested)),
            format_time(row.as_of_ms) if row.as_of_ms else None,
        )
        for row in rows
    ]
    return table(("asset", *columns, "as of"), cells, right=columns)


def _show_row(row: AssetRow) -> dict[str, Any]:
    return {
        "asset": row.asset,
        "posted": str(row.posted),
        "supply": str(row.supply),
        "attested": str(row.attested),
        "as_of_ms": row.as_of_ms,
    }


def _money(minor: int, asset: str, scales: Mapping[str, int]) -> str:
    scale = scales.get(asset)
    return f"{minor} minor" if scale is None else format_amount(minor, scale=scale)


def _plain(value: object) -> object:
    return clean(str(value)) if isinstance(value, dict) else value
