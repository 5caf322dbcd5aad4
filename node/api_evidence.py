"""Routes about evidence: who signed what excludes itself, and the file that shows it."""

from atpar.ledger.evidence import Evidence, get_place
from atpar.node.api_forms import EvidenceForm, EvidenceItem, EvidenceListForm
from atpar.node.api_http import Answer, Call
from atpar.node.evidence import build_evidence_file, compute_evidence_id, get_kind
from atpar.node.problems import ApiCode, Problem


async def list_evidence(call: Call) -> Answer:
    """Return all evidence that this node has found, by participant, epoch and view."""
    call.check_query(frozenset())
    items = tuple(_describe(each) for each in call.reader.list_evidence())
    return Answer(EvidenceListForm(read_height=call.final.header.height, evidence=items))


async def get_evidence(call: Call) -> Answer:
    """Return one piece of evidence as the file that `atpar verify` checks offline."""
    call.check_query(frozenset())
    wanted = call.get_path("id")
    for each in call.reader.list_evidence():
        if compute_evidence_id(each).hex() == wanted.lower():
            steps = call.reader.get_epoch_steps(get_place(each)[0])
            file = build_evidence_file(each, steps)
            height = call.final.header.height
            return Answer(EvidenceForm(read_height=height, item=_describe(each), document=file))
    raise Problem(ApiCode.NOT_FOUND, f"no evidence {wanted[:64]} here")


def _describe(evidence: Evidence) -> EvidenceItem:
    epoch, view = get_place(evidence)
    return EvidenceItem(
        id=compute_evidence_id(evidence),
        kind=get_kind(evidence),
        participant=evidence.participant,
        epoch=epoch,
        view=view,
    )
