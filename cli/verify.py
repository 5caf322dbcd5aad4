"""`atpar verify`: check a receipt or proof with the genesis document alone, no node at hand."""

import json
from collections.abc import Mapping
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
from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.jsonform import JsonInvalid, operation_name, parse_json, to_json
from atpar.ledger.limits import MAX_PROOF_BYTES
from atpar.ledger.proofs import (
    PROOF_FILE,
    AccountClaim,
    Claim,
    ExpiryClaim,
    ProofFile,
    ReceiptClaim,
    RecordClaim,
    SolvencyClaim,
    Verified,
    compute_trust_root,
    parse_proof,
    verify_proof,
)
from atpar.ledger.tree import AssetRow
from atpar.node.evidence import FORMAT as EVIDENCE_FORMAT
from atpar.node.evidence import parse_evidence_file

_FORMAT_WITHIN: Final = 256
"""Bytes at the beginning of a file in which its format stands."""

Described = tuple[dict[str, Any], list[str]]


@click.command(name="verify")
@click.argument("proof", type=click.Path(path_type=Path, dir_okay=False))
@output_options
@home_option
@genesis_option
@pass_state
def verify_command(state: State, *, proof: Path) -> None:
    """Check a receipt or proof offline: no node, no network, only the genesis document.

    Shows what the proof has shown, and nothing that it has not. A receipt of a refused transaction
    is a good proof of the refusal. Exit code 6 if the proof does not hold.

    Example: atpar verify receipts/3f2a….json --genesis genesis.json
    """
    chain = load_chain(state)
    data = read_input(proof, max_bytes=2 * MAX_PROOF_BYTES)
    if EVIDENCE_FORMAT.encode() in data[:_FORMAT_WITHIN]:
        values, lines = _verify_evidence(proof, data, chain)
        state.output.show({"file": str(proof), **values}, lines)
        return
    try:
        within = _find_proof_within(data)
        verified = verify_proof(decode_proof(within or data), compute_trust_root(chain.document))
    except ProofInvalid as error:
        found = explain(error)
        assert isinstance(found, RefusedByLedger)
        raise RefusedByLedger(
            f"{proof}: {found.message}", advice=found.advice, code=found.code
        ) from error
    if within is not None:
        state.output.warn(f"{proof} is a node's answer: only the proof in it was looked at")
    values, lines = describe_verified(verified, chain)
    state.output.show({"file": str(proof), **values}, lines)


def _find_proof_within(data: bytes) -> bytes | None:
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


def _verify_evidence(path: Path, data: bytes, chain: Chain) -> Described:
    """Check an evidence file, which says so in its first line."""
    from atpar.cli.evidence import check_evidence

    try:
        return check_evidence(parse_evidence_file(data), chain)
    except ProofInvalid as error:
        found = explain(error)
        assert isinstance(found, RefusedByLedger)
        raise RefusedByLedger(
            f"{path}: {found.message}", advice=found.advice, code=found.code
        ) from error


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
    return shown, [*head, *lines]


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
