"""`atpar tx`: transactions as files that several parties sign, and what became of one."""

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any, Final

import click

from atpar.cli.chain import Chain, is_hash, load_chain
from atpar.cli.context import (
    DEFAULT_TIMEOUT_S,
    State,
    genesis_option,
    home_option,
    keys_options,
    node_options,
    output_options,
    pass_state,
)
from atpar.cli.describe import describe_body, format_time, format_uuid
from atpar.cli.errors import WrongUsage, refused
from atpar.cli.fetch import fetch, post
from atpar.cli.files import read_input
from atpar.cli.ops import make_transfer, void_command
from atpar.cli.output import fields
from atpar.cli.signing import How, Session, parse_uuid, signing_options
from atpar.cli.txfile import (
    FORMAT,
    TxFile,
    check_signatures,
    join_tx_files,
    read_transaction,
    read_tx_file,
)
from atpar.ledger.codec import Wire
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.jsonform import JsonInvalid, from_json, to_json
from atpar.ledger.keys import verify
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Operation
from atpar.ledger.transactions import Transaction, decode_transaction, encode_envelope

FILE: Final = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
MAX_OPS_FILE_BYTES: Final = 4 * 1024 * 1024


class _Operations(Wire, frozen=True):
    """A list of operations, as it stands in a body."""

    ops: tuple[Operation, ...]


@click.group(name="tx")
def tx_command() -> None:
    """Make, sign, join, send and look up transactions.

    Several parties sign one transaction without sharing a machine: one makes a file with `new` (or
    any command with `-o`), each reviews it decoded from its own bytes and adds a signature with
    `sign`, `join` merges copies, `send` submits.
    """


@tx_command.command()
@FILE
@click.option(
    "--sender", "from_", required=True, metavar="ACCOUNT", help="Whose transaction it is."
)
@click.option(
    "--transfer",
    "transfers",
    nargs=4,
    multiple=True,
    metavar="FROM TO AMOUNT ASSET",
    help="A payment; repeat for more, all or none take effect.",
)
@click.option(
    "--ops",
    "ops_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help='A JSON list of operations, amounts in minor units: [{"op": "transfer", …}].',
)
@click.option("--valid-for", type=click.IntRange(1, 86_395), help="Seconds; see below.")
@click.option("--tx-id", metavar="UUID", help="Idempotency key (default: a fresh one).")
@output_options
@node_options
@keys_options
@pass_state
def new(
    state: State,
    *,
    file: Path,
    from_: str,
    transfers: tuple[tuple[str, str, str, str], ...],
    ops_file: Path | None,
    valid_for: int | None,
    tx_id: str | None,
) -> None:
    """Make a transaction file, unsigned.

    An exchange (two parties pay each other in one transaction) is valid for a minute unless told
    otherwise, since whoever signs second holds a free option; anything else for an hour.

    Example: atpar tx new pvp.json --sender ALFA/treasury
    --transfer ALFA/treasury CHRL/treasury 100.00 HKD.JDCL
    --transfer CHRL/treasury ALFA/treasury 92.10 CNH.JDCL
    """
    session = Session(state)
    ops: list[Operation] = [
        make_transfer(session, debtor=debtor, creditor=creditor, amount=amount, asset=asset)
        for debtor, creditor, amount, asset in transfers
    ]
    if ops_file is not None:
        ops += _read_ops(ops_file)
    if not ops:
        raise refused("NO_OPERATIONS", "a transaction needs at least one operation")
    how = How(valid_for_s=valid_for, tx_id=tx_id)
    made = TxFile(session.build_body(from_, ops, how), {})
    session.show(made.body_bytes)
    session.write(made, file)


def _read_ops(path: Path) -> list[Operation]:
    try:
        values = json.loads(read_input(path, max_bytes=MAX_OPS_FILE_BYTES))
    except (ValueError, RecursionError) as error:
        raise WrongUsage(f"{path}: not JSON: {error}", advice="give a list of objects") from error
    if not isinstance(values, list):
        raise WrongUsage(f"{path}: not a list of operations", advice='[{"op": "transfer", …}]')
    try:
        return list(from_json(_Operations, {"ops": values}).ops)
    except JsonInvalid as error:
        raise WrongUsage(f"{path}: {error}", advice="correct that field") from error


@tx_command.command()
@FILE
@signing_options
@pass_state
def sign(state: State, *, file: Path, how: How) -> None:
    """Review a file and add signatures, in place or into `-o`.

    Signs with --key, or with as few of the keys here as the policies still need.

    Example: atpar tx sign pvp.json --keys keys --key payments
    """
    session = Session(state)
    signed = session.sign(read_tx_file(file), how)
    session.write(signed, how.out or file, replace=True)


@tx_command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
@output_options
@node_options
@keys_options
@pass_state
def join(state: State, *, files: tuple[Path, ...], out: Path) -> None:
    """Merge the signatures of several copies of one transaction.

    Copies with different bodies are refused, and so is a signature that does not fit its body.

    Example: atpar tx join alfa.json chrl.json -o both.json
    """
    joined = join_tx_files((path, read_tx_file(path)) for path in files)
    Session(state).write(joined, out)


@tx_command.command()
@FILE
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 86_400),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait until it is final.",
)
@output_options
@node_options
@keys_options
@pass_state
def send(state: State, *, file: Path, timeout: float) -> None:
    """Submit a signed file and wait until it is final. Sending twice is safe.

    FILE is a transaction file, or an envelope (binary, base64 or hex).

    Example: atpar tx send both.json
    """
    session = Session(state)
    signed = _read_signed(file)
    if signed.body.chain_id != session.chain.chain_id:
        raise refused(
            "WRONG_CHAIN",
            f"{file} is for chain {signed.body.chain_id.hex()}, this is"
            f" {session.chain.chain_id.hex()} ({session.chain.name})",
        )
    session.show(signed.body_bytes)
    session.send(signed, timeout)


def _read_signed(path: Path) -> TxFile:
    """Return a transaction file, or what an envelope holds, with every signature checked."""
    head = read_transaction(path)[:256].lstrip()
    if head[:1] in (b"{", b"[", b""):
        return read_tx_file(path)
    raw = _read_envelope(path)
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise refused("TOO_LARGE", f"{len(raw)} bytes, at most {MAX_TRANSACTION_BYTES}")
    tx = decode_transaction(raw)
    keys = [signature.key for signature in tx.signatures]
    if keys != sorted(set(keys)):
        raise refused("SIGNATURES_UNSORTED", f"{path}: not in order of keys, or a key signs twice")
    pairs = [(signature.key, signature.signature) for signature in tx.signatures]
    signed = TxFile(tx.body_bytes, {}).add(pairs)
    check_signatures(tx.body, tx.body_bytes, pairs, str(path))
    return signed


# ---- looking


@tx_command.command()
@FILE
@output_options
@home_option
@genesis_option
@pass_state
def decode(state: State, *, file: Path) -> None:
    """Show what a transaction file, or an envelope (binary, base64 or hex), says. Needs no node.

    Example: atpar tx decode pvp.json
    """
    chain = load_chain(state)
    tx = decode_transaction(_read_envelope(file))
    valid = _check_signatures(tx)
    data = {
        "tx_hash": tx.hash.hex(),
        "body_hash": tx.body_hash.hex(),
        "this_chain": tx.body.chain_id == chain.chain_id,
        "body": to_json(tx.body),
        "signatures": [
            {"key": signature.key.hex(), "valid": good}
            for signature, good in zip(tx.signatures, valid, strict=True)
        ],
    }
    state.output.show(data, _describe(tx, chain, valid))


def _describe(tx: Transaction, chain: Chain, valid: list[bool]) -> list[str]:
    lines = describe_body(
        tx.body_bytes, chain_id=chain.chain_id, chain_name=chain.name, scales=chain.scales
    )
    for signature, good in zip(tx.signatures, valid, strict=True):
        lines.append(f"signature of {signature.key.hex()}: {'valid' if good else 'NOT VALID'}")
    if not tx.signatures:
        lines.append("no signatures")
    return lines


def _check_signatures(tx: Transaction) -> list[bool]:
    message = compute_sign_bytes(SignKind.TRANSACTION, tx.body.chain_id, tx.body_bytes)
    return [verify(s.key, message, s.signature) for s in tx.signatures]


def _read_envelope(path: Path) -> bytes:
    """Return envelope bytes of a transaction file, of base64 or hex text, or of a binary file."""
    data = read_transaction(path)
    if data.lstrip()[:1] == b"{" and FORMAT.encode() in data:
        return _compute_unchecked(data, path)
    text = data.strip()
    if re.fullmatch(rb"(?:[0-9a-fA-F]{2})+", text):
        return bytes.fromhex(text.decode())
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return data


def _compute_unchecked(data: bytes, path: Path) -> bytes:
    """Return the envelope of a transaction file without checking its signatures: to look at."""
    try:
        form: Any = json.loads(data)
        body = base64.b64decode(form["body"], validate=True)
        pairs = [
            (bytes.fromhex(each["key"]), bytes.fromhex(each["signature"]))
            for each in form["signatures"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WrongUsage(f"{path}: not a transaction file: {error}", advice="see tx new") from error
    return encode_envelope(body, pairs)


@tx_command.command()
@click.argument("transaction", metavar="HASH|TX_ID")
@click.option("--sender", metavar="ACCOUNT", help="With TX_ID: whose id it is.")
@click.option("--uetr", is_flag=True, help="It is the UETR of a payment.")
@output_options
@node_options
@pass_state
def show(state: State, *, transaction: str, sender: str | None, uetr: bool) -> None:
    """Look up what became of a transaction: by hash, by its sender's id, or by payment reference.

    Example: atpar tx show 6c1f… --sender ALFA/treasury
    """
    if Path(transaction).suffix and Path(transaction).is_file():
        raise WrongUsage(
            f"{transaction} is a file; this looks up what the ledger knows by hash or id",
            advice=f"atpar tx decode {transaction}",
        )
    if is_hash(transaction):
        answer = fetch(state, f"/v1/transactions/{transaction.lower()}")
    else:
        identity = parse_uuid("TX_ID", transaction).hex()
        if uetr:
            answer = fetch(state, "/v1/transactions", uetr=identity)
            lines = [f"{len(answer['transactions'])} transactions with this UETR"]
            for each in answer["transactions"]:
                lines += ["", *_describe_state(each)]
            state.output.show(answer, lines)
            return
        if sender is None:
            raise WrongUsage("a TX_ID is unique per sender only", advice="use --sender ACCOUNT")
        answer = fetch(state, "/v1/transactions", sender=sender, tx_id=identity)
    state.output.show(answer, _describe_state(answer))


def _describe_state(answer: dict[str, Any]) -> list[str]:
    receipt = answer.get("receipt") or {}
    tx_id, until = answer.get("tx_id"), answer.get("valid_until_ms")
    rows: list[tuple[str, object]] = [
        ("status", answer["status"]),
        ("code", answer["code"]),
        ("message", answer["message"] or None),
        ("hash", answer["tx_hash"]),
        ("sender", answer["sender"]),
        ("id", format_uuid(bytes.fromhex(tx_id)) if tx_id else None),
        ("height", answer["height"]),
        ("block time", format_time(receipt["timestamp_ms"]) if receipt else None),
        ("valid until", format_time(until) if until else None),
        ("read at height", answer["read_height"]),
    ]
    if receipt and receipt["code"] != "OK":
        rows += [("meaning", receipt["meaning"]), ("what to do", receipt["advice"])]
    return fields(rows)


@tx_command.command()
@FILE
@output_options
@node_options
@pass_state
def simulate(state: State, *, file: Path) -> None:
    """Ask a node what a signed file would do now, and which rule decides. Changes nothing.

    Example: atpar tx simulate pvp.json
    """
    raw = _read_envelope(file)
    answer = post(state, "/v1/simulate", {"envelope": base64.b64encode(raw).decode()})
    shown = ("code", "iso_reason", "failed_op", "message", "meaning", "advice", "read_height")
    rows = [(name.replace("_", " "), answer.get(name)) for name in shown]
    verdict = "would be final with OK" if answer["code"] == "OK" else f"refused: {answer['code']}"
    state.output.show(answer, [verdict, *fields(rows)])


tx_command.add_command(void_command)
