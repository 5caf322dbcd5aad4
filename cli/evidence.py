"""`atpar evidence`: what a node has found against validators, and the file that shows it."""

from pathlib import Path
from typing import Any

import click

from atpar.cli.chain import Chain, load_chain
from atpar.cli.context import State, node_options, output_options, pass_state
from atpar.cli.errors import RefusedByLedger, explain
from atpar.cli.fetch import fetch
from atpar.cli.files import write_over
from atpar.cli.output import TICK, fields, table
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.evidence import get_place
from atpar.ledger.jsonform import JsonInvalid, from_json
from atpar.ledger.proofs import compute_trust_root
from atpar.node.evidence import (
    KINDS,
    EvidenceFile,
    compute_evidence_id,
    get_kind,
    render_evidence_file,
    verify_evidence_file,
)


@click.group(name="evidence")
def evidence_command() -> None:
    """List, show and export double votes: two signed messages that no honest validator sends.

    A file that `export` writes convinces anyone who has the genesis document: `atpar verify`.
    """


@evidence_command.command(name="list")
@output_options
@node_options
@pass_state
def list_evidence(state: State) -> None:
    """List what the node has found.

    Example: atpar evidence list
    """
    answer = fetch(state, "/v1/evidence")
    rows = [
        (item["participant"], item["epoch"], item["view"], item["kind"], item["id"])
        for item in answer["evidence"]
    ]
    columns = ("participant", "epoch", "view", "kind", "id")
    lines = table(columns, rows) if rows else ["none found"]
    state.output.show(answer, [*lines, f"read at height {answer['read_height']}"])


@evidence_command.command(name="show")
@click.argument("evidence_id", metavar="ID")
@output_options
@node_options
@pass_state
def show_evidence(state: State, *, evidence_id: str) -> None:
    """Show one piece of evidence, checked here against the genesis document.

    Example: atpar evidence show 9f3c…
    """
    file, chain = _fetch_file(state, evidence_id), load_chain(state)
    values, lines = check_evidence(file, chain)
    state.output.show(values, lines)


@evidence_command.command(name="export")
@click.argument("evidence_id", metavar="ID")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output_options
@node_options
@pass_state
def export_evidence(state: State, *, evidence_id: str, file: Path) -> None:
    """Check one piece of evidence and save it for `atpar verify`.

    Example: atpar evidence export 9f3c… evidence.json
    """
    document, chain = _fetch_file(state, evidence_id), load_chain(state)
    values, lines = check_evidence(document, chain)
    write_over(file, render_evidence_file(document))
    advice = f"saved: check it anywhere with `atpar verify {file} --genesis genesis.json`"
    state.output.show({"file": str(file), **values}, [*lines, advice])


def _fetch_file(state: State, evidence_id: str) -> EvidenceFile:
    if not evidence_id.isalnum():
        raise click.BadParameter("expected the hexadecimal id that `atpar evidence list` shows")
    answer = fetch(state, f"/v1/evidence/{evidence_id}")
    try:
        return from_json(EvidenceFile, answer.get("document"))
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
