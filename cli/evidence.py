"""`atpar evidence`: double votes of validators, the file that shows one, and the record of it."""

import json
import re
from pathlib import Path
from typing import Any, Final

import click

from atpar.cli.chain import Chain, load_chain
from atpar.cli.context import State, node_options, output_options, pass_state
from atpar.cli.errors import RefusedByLedger, WrongUsage, explain
from atpar.cli.fetch import fetch, fetch_all
from atpar.cli.files import read_input, write_over
from atpar.cli.ops import check
from atpar.cli.output import TICK, fields, table
from atpar.cli.query import PROOF, save_proof
from atpar.cli.signing import How, Session, signing_options
from atpar.cli.verify import decode_proof
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.evidence import Evidence, get_place
from atpar.ledger.jsonform import JsonInvalid, from_json, to_json
from atpar.ledger.limits import MAX_PROOF_BYTES
from atpar.ledger.operations import RecordEvidence
from atpar.ledger.proofs import RecordClaim, compute_trust_root, verify_proof
from atpar.ledger.records import EVIDENCE, RecordedEvidence, evidence_key
from atpar.node.evidence import (
    KINDS,
    EvidenceFile,
    compute_evidence_id,
    get_kind,
    parse_evidence_file,
    render_evidence_file,
    verify_evidence_file,
)

WHICH: Final = click.argument("which", metavar="ID|PLACE")


@click.group(name="evidence")
def evidence_command() -> None:
    """List, show, export and record double votes: two messages that no honest validator sends.

    A file that `export` writes convinces anyone who has the genesis document: `atpar verify`.
    `record` puts it on the ledger, for governance to act on.
    """


@evidence_command.command(name="list")
@output_options
@node_options
@pass_state
def list_evidence(state: State) -> None:
    """List what the node has found, and what is recorded on the ledger.

    Example: atpar evidence list
    """
    answer = fetch(state, "/v1/evidence")
    _, recorded = fetch_all(state, "/v1/evidence/recorded", "evidence")
    found = answer.pop("evidence")
    places = {item["place"] for item in found}
    items = [*found, *(item for item in recorded if item["place"] not in places)]
    items.sort(key=lambda item: (item["participant"], item["epoch"], item["view"], item["kind"]))
    rows = [
        (
            item["participant"],
            item["epoch"],
            item["view"],
            item["kind"],
            _describe_record(item["recorded"]),
            item["id"],
        )
        for item in items
    ]
    columns = ("participant", "epoch", "view", "kind", "on the ledger", "id")
    lines = table(columns, rows) if rows else ["none found, none recorded"]
    state.output.show(
        {**answer, "evidence": items}, [*lines, f"read at height {answer['read_height']}"]
    )


def _describe_record(record: dict[str, Any] | None) -> str | None:
    return None if record is None else f"recorded at height {record['height']} by {record['by']}"


@evidence_command.command(name="show")
@WHICH
@PROOF
@output_options
@node_options
@pass_state
def show_evidence(state: State, *, which: str, proof: Path | None) -> None:
    """Show one piece of evidence, checked here against the genesis document, and its record.

    Example: atpar evidence show 9f3c… --proof record.json
    """
    answer, file = _fetch_evidence(state, which, proof=1 if proof else None)
    chain = load_chain(state)
    values, lines = check_evidence(file, chain)
    record = answer["item"]["recorded"]
    if proof is not None:
        record = _check_record(answer["proof"], file.evidence, chain)
    lines += fields([("on the ledger", _describe_record(record) or "not recorded")])
    lines += save_proof(state, answer, proof)
    values |= {"recorded": record, "read_height": answer["read_height"]}
    if proof is not None:
        values["proof_file"] = str(proof)
    state.output.show(values, lines)


def _check_record(proof: object, evidence: Evidence, chain: Chain) -> dict[str, Any] | None:
    """Return what a proof shows of the record of evidence: the node's word does not count.

    Raises:
        RefusedByLedger: it does not hold, or is about something else.
    """
    try:
        file = decode_proof(json.dumps(proof).encode())
        claim = verify_proof(file, compute_trust_root(chain.document)).claim
    except ProofInvalid as error:
        raise explain(error) from error
    asked = (EVIDENCE.name, evidence_key(evidence))
    if not isinstance(claim, RecordClaim) or (claim.section, claim.key) != asked:
        raise explain(ProofInvalid("proof: of something else than the record of this evidence"))
    record = claim.record
    if record is None:
        return None
    assert isinstance(record, RecordedEvidence)
    found = compute_evidence_id(record.evidence).hex()
    shown: dict[str, Any] = to_json(record)
    return {"id": found, **{name: shown[name] for name in ("by", "height", "recorded_at_ms")}}


@evidence_command.command(name="export")
@WHICH
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output_options
@node_options
@pass_state
def export_evidence(state: State, *, which: str, file: Path) -> None:
    """Check one piece of evidence and save it for `atpar verify`.

    Example: atpar evidence export 9f3c… evidence.json
    """
    _, document = _fetch_evidence(state, which)
    values, lines = check_evidence(document, load_chain(state))
    write_over(file, render_evidence_file(document))
    advice = [
        f"saved: check it anywhere with `atpar verify {file} --genesis genesis.json`",
        f"put it on the ledger with `atpar evidence record {file} --by CODE/admin`",
    ]
    state.output.show({"file": str(file), **values}, [*lines, *advice])


@evidence_command.command(name="record")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--by", metavar="ACCOUNT", help="Your institution's CODE/admin.")
@signing_options
@pass_state
def record_evidence(state: State, *, how: How, file: Path, by: str | None) -> None:
    """Put an exported piece of evidence on the ledger, once it is checked here.

    There it is proven by every block from then on, and governance decides what follows. Two
    officers sign, or one after the other: `atpar propose evidence record`.

    Example: atpar evidence record evidence.json --by ALFA/admin
    """
    account = by or how.sender
    if account is None:
        raise WrongUsage("in whose name?", advice="use --by CODE/admin of your institution")
    session = Session(state)
    try:
        document = parse_evidence_file(read_input(file, max_bytes=2 * MAX_PROOF_BYTES))
    except ProofInvalid as error:
        raise WrongUsage(
            f"{file}: no evidence: {error}", advice="`atpar evidence export` makes the file"
        ) from error
    check_evidence(document, session.chain)
    op = RecordEvidence(by=account, evidence=document.evidence)
    session.run(account, [check(op)], how)


def _fetch_evidence(
    state: State, which: str, **params: str | int | None
) -> tuple[dict[str, Any], EvidenceFile]:
    """Return a node's answer about an id, or about a place on the ledger, and the file in it."""
    if re.fullmatch(r"[A-Za-z0-9]+", which, re.ASCII):
        path = f"/v1/evidence/{which}"
    elif re.fullmatch(r"[A-Z0-9]+/[0-9]+/[0-9]+/[a-z_]+", which, re.ASCII):
        path = f"/v1/evidence/recorded/{which}"
    else:
        raise click.BadParameter(
            "expected the hexadecimal id that `atpar evidence list` shows, or a place such as"
            " ALFA/0/71/conflicting_notarize"
        )
    answer = fetch(state, path, **params)
    try:
        return answer, from_json(EvidenceFile, answer.get("document"))
    except JsonInvalid as error:
        raise explain(ProofInvalid(str(error))) from error


def check_evidence(file: EvidenceFile, chain: Chain) -> tuple[dict[str, Any], list[str]]:
    """Check evidence against the genesis document; return what it shows, as JSON and as lines.

    Raises:
        RefusedByLedger: it does not hold.
    """
    try:
        validators = verify_evidence_file(file, compute_trust_root(chain.document))
    except ProofInvalid as error:
        found = explain(error)
        assert isinstance(found, RefusedByLedger)
        raise found from error
    evidence = file.evidence
    epoch, view = get_place(evidence)
    values = {
        "valid": True,
        "kind": get_kind(type(evidence)),
        "chain": chain.name,
        "id": compute_evidence_id(evidence).hex(),
        "participant": evidence.participant,
        "epoch": epoch,
        "view": view,
        "validators": len(validators.members),
    }
    head = f"{TICK} {evidence.participant} signed {KINDS[type(evidence)]}"
    shown = [("epoch", epoch), ("view", view), ("id", values["id"])]
    return values, [head, *fields(shown)]
