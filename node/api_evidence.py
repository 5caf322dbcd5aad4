"""Routes about evidence: who signed what excludes itself, the file that shows it, and its record.

What a node has found is its own. What was recorded stands on the ledger, alike on every node, and
is named by its *place*: participant, epoch, view and kind. There is one record for each at most.
"""

from itertools import islice
from typing import Final

from atpar.ledger.evidence import Evidence, get_place
from atpar.ledger.reads import get_recorded_evidence
from atpar.ledger.records import EVIDENCE, RecordedEvidence, evidence_key, evidence_place_key
from atpar.ledger.types import ParticipantCode
from atpar.node.api_forms import (
    EvidenceForm,
    EvidenceItem,
    EvidenceListForm,
    EvidenceRecordForm,
    RecordedEvidenceForm,
)
from atpar.node.api_http import Answer, Call, invalid, parse_int, parse_typed
from atpar.node.api_proofs import make_record_proof
from atpar.node.evidence import KINDS, build_evidence_file, compute_evidence_id, get_kind
from atpar.node.paging import scan_after
from atpar.node.problems import ApiCode, Problem

_KINDS: Final = {get_kind(kind): kind for kind in KINDS}
_HIGHEST: Final = 2**63 - 1
_CURSOR_DEPTH: Final = 17
"""Bytes of a key in which a page looks for its beginning: all but view and kind."""


async def list_evidence(call: Call) -> Answer:
    """Return all evidence that this node has found, by participant, epoch and view."""
    call.check_query(frozenset())
    items = tuple(_describe(call, each) for each in call.reader.list_evidence())
    return Answer(EvidenceListForm(read_height=call.final.header.height, evidence=items))


async def list_recorded(call: Call) -> Answer:
    """Return a page of the evidence that stands on the ledger, whoever found it."""
    call.check_query(frozenset({"participant", "after", "limit"}))
    participant, after = call.get_query("participant"), call.get_query("after")
    if participant is not None:
        parse_typed("participant", participant, ParticipantCode)
    limit = call.get_limit()
    prefix = b"" if participant is None else f"{participant}|".encode()
    start = None if after is None else _parse_place(after.split("/"))
    found = scan_after(call.final.view, EVIDENCE, prefix, start, depth=_CURSOR_DEPTH)
    page = [record for _, record in islice(found, limit + 1)]
    items = tuple(_describe(call, record.evidence) for record in page[:limit])
    return Answer(
        RecordedEvidenceForm(
            read_height=call.final.header.height,
            evidence=items,
            next=items[-1].place if len(page) > limit else None,
        )
    )


async def get_evidence(call: Call) -> Answer:
    """Return one piece of evidence as the file that `atpar verify` checks offline."""
    with_proof = _get_proof_flag(call)
    wanted = call.get_path("id")
    for each in call.reader.list_evidence():
        if compute_evidence_id(each).hex() == wanted.lower():
            return _answer(call, each, with_proof=with_proof)
    raise Problem(ApiCode.NOT_FOUND, f"no evidence {wanted[:64]} here")


async def get_recorded(call: Call) -> Answer:
    """Return one record of the ledger with its evidence."""
    with_proof = _get_proof_flag(call)
    parts = [call.get_path(name) for name in ("participant", "epoch", "view", "kind")]
    record = call.final.view.get(EVIDENCE, _parse_place(parts))
    if record is None:
        raise Problem(ApiCode.NOT_FOUND, f"no evidence is recorded at {'/'.join(parts)}")
    return _answer(call, record.evidence, with_proof=with_proof)


def _get_proof_flag(call: Call) -> bool:
    call.check_query(frozenset({"proof"}))
    return call.get_flag("proof")


def _parse_place(parts: list[str]) -> bytes:
    """Return the key of the record at a place.

    Raises:
        Problem: INVALID_PARAMETER.
    """
    if len(parts) != 4:
        raise invalid("after", f"expected participant/epoch/view/kind, got {len(parts)} parts")
    participant = parse_typed("participant", parts[0], ParticipantCode)
    epoch, view = (
        parse_int(name, part, low=0, high=_HIGHEST)
        for name, part in zip(("epoch", "view"), parts[1:3], strict=True)
    )
    kind = _KINDS.get(parts[3])
    if kind is None:
        raise invalid("kind", f"expected one of {', '.join(_KINDS)}, got {parts[3]!r:.60}")
    return evidence_place_key(participant, epoch, view, kind)


def _answer(call: Call, evidence: Evidence, *, with_proof: bool) -> Answer:
    """Return evidence with its file; with a proof of its record, or that there is none."""
    steps = call.reader.get_epoch_steps(get_place(evidence)[0])
    proof = make_record_proof(call, EVIDENCE, evidence_key(evidence)) if with_proof else None
    return Answer(
        EvidenceForm(
            read_height=call.final.header.height,
            item=_describe(call, evidence),
            document=build_evidence_file(evidence, steps),
            proof=proof,
        )
    )


def _describe(call: Call, evidence: Evidence) -> EvidenceItem:
    epoch, view = get_place(evidence)
    kind, code = get_kind(type(evidence)), evidence.participant
    record = get_recorded_evidence(call.final.view, evidence)
    return EvidenceItem(
        id=compute_evidence_id(evidence),
        kind=kind,
        participant=code,
        epoch=epoch,
        view=view,
        place=f"{code}/{epoch}/{view}/{kind}",
        recorded=None if record is None else _describe_record(record),
    )


def _describe_record(record: RecordedEvidence) -> EvidenceRecordForm:
    return EvidenceRecordForm(
        id=compute_evidence_id(record.evidence),
        by=record.by,
        height=record.height,
        recorded_at_ms=record.recorded_at_ms,
    )
