"""Routes about what is being decided: open proposals, and the chain's parameters."""

from collections.abc import Sequence
from typing import Final

import trio

from atpar.ledger.authority import examine_bundle, find_unmet, get_params
from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.operations import Decision
from atpar.ledger.records import OPEN_PROPOSALS, PENDING_PARAMS, PROPOSALS, Proposal
from atpar.ledger.state import View
from atpar.ledger.types import AccountId, participant_of
from atpar.node.api_forms import (
    OneProposalForm,
    ParamsForm,
    PendingParamForm,
    PrincipalForm,
    ProposalForm,
    ProposalsForm,
)
from atpar.node.api_http import Answer, Call, parse_hex, parse_typed
from atpar.node.limits import MAX_RECORDS_EXAMINED
from atpar.node.paging import scan_after
from atpar.node.problems import get_not_found

EVENTLY: Final = 20
"""After so many proposals, other tasks of the node get their turn."""
MAX_CURSOR_CHARS: Final = 200


async def get_proposal(call: Call) -> Answer:
    """Return one open proposal and who has yet to agree."""
    call.check_query(frozenset())
    proposal_id = parse_hex("proposal", call.get_path("proposal"), size=32)
    view, header = call.final.view, call.final.header
    proposal = view.get(PROPOSALS, proposal_id)
    if proposal is None or not _is_open(call, proposal):
        raise get_not_found(Code.UNKNOWN_PROPOSAL, f"no open proposal {proposal_id.hex()}")
    form = _make_proposal(view, proposal_id, proposal)
    if not _is_seen(call, form):
        call.grant.require(participant_of(proposal.sender))
    return Answer(
        OneProposalForm(
            read_height=header.height, read_timestamp_ms=header.timestamp_ms, proposal=form
        )
    )


async def list_proposals(call: Call) -> Answer:
    """Return a page of open proposals: by sender, by who has to agree, or all."""
    call.check_query(frozenset({"sender", "principal", "after", "limit"}))
    sender, principal = call.get_query("sender"), call.get_query("principal")
    for name, value in (("sender", sender), ("principal", principal)):
        if value is not None:
            parse_typed(name, value, AccountId)
    limit, after = call.get_limit(), call.get_query("after")
    start = None if after is None else _parse_cursor(after)
    view, header = call.final.view, call.final.header
    prefix = b"" if sender is None else f"{sender}|".encode()
    found: list[ProposalForm] = []
    examined, last = 0, None
    for key, _ in scan_after(view, OPEN_PROPOSALS, prefix, start, depth=32):
        if len(found) == limit or examined == MAX_RECORDS_EXAMINED:
            break
        examined, last = examined + 1, f"{key[:-33].decode()}|{key[-32:].hex()}"
        proposal = view.get(PROPOSALS, key[-32:])
        assert proposal is not None, key
        if _is_open(call, proposal):
            form = _make_proposal(view, key[-32:], proposal)
            wanted = principal is None or principal in {p.account for p in form.principals}
            if wanted and _is_seen(call, form):
                found.append(form)
        if examined % EVENTLY == 0:
            await trio.lowlevel.checkpoint()
    else:
        last = None
    return Answer(
        ProposalsForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            proposals=tuple(found),
            next=last,
        )
    )


def _parse_cursor(text: str) -> bytes:
    """Return the key after which a page starts, `sender|proposal id`."""
    sender, _, proposal_id = text[:MAX_CURSOR_CHARS].partition("|")
    parse_typed("after", sender, AccountId)
    return sender.encode() + b"|" + parse_hex("after", proposal_id, size=32)


def _is_open(call: Call, proposal: Proposal) -> bool:
    return proposal.expires_at_ms >= call.final.header.timestamp_ms


def _is_seen(call: Call, form: ProposalForm) -> bool:
    accounts = [form.sender, *(principal.account for principal in form.principals)]
    return call.grant.may_see(participant_of(account) for account in accounts)


def _make_proposal(view: View, proposal_id: bytes, proposal: Proposal) -> ProposalForm:
    return ProposalForm(
        proposal=proposal_id,
        sender=proposal.sender,
        ops=proposal.ops,
        bundle_hash=proposal.bundle_hash,
        placed_at_ms=proposal.placed_at_ms,
        expires_at_ms=proposal.expires_at_ms,
        makers=proposal.makers,
        verdicts=proposal.verdicts,
        principals=tuple(_list_principals(view, proposal)),
    )


def _list_principals(view: View, proposal: Proposal) -> Sequence[PrincipalForm]:
    """Return who has to agree, as the present state has it; nobody where that cannot be told."""
    approving = {v.key for v in proposal.verdicts if v.decision is Decision.APPROVE}
    try:
        targets = examine_bundle(view, proposal.ops).targets
        unmet = find_unmet(view, proposal.ops, approving)
    except Refused:
        return ()  # what it names has gone; an approval says so with its code
    return [
        PrincipalForm(account=account, is_met=account not in unmet) for account in sorted(targets)
    ]


async def list_params(call: Call) -> Answer:
    """Return the chain's parameters in force, and the changes to come."""
    call.check_query(frozenset())
    view = call.final.view
    pending = [
        PendingParamForm(
            name=key[8:].decode(), value=change.value, height=int.from_bytes(key[:8], "big")
        )
        for key, change in view.scan(PENDING_PARAMS, b"")
    ]
    return Answer(
        ParamsForm(
            read_height=call.final.header.height,
            params=get_params(view),
            pending=tuple(pending),
        )
    )
