"""Routes about the chain and the node: blocks, validators, peers, status, health."""

import base64
from http import HTTPStatus

import trio

from atpar.ledger.blocks import Block, compute_digest
from atpar.ledger.certificates import compute_quorum, decode_bitmap
from atpar.ledger.codec import encode
from atpar.ledger.records import CURRENT, NEXT, VALIDATORS, ValidatorSet
from atpar.ledger.state import View
from atpar.ledger.transactions import decode_transaction
from atpar.node.api_forms import (
    BlockForm,
    BlockTransactionForm,
    CertificateForm,
    HealthForm,
    PeerForm,
    PeersForm,
    StatusForm,
    ValidatorForm,
    ValidatorsForm,
    get_code_name,
)
from atpar.node.api_http import Answer, Call, invalid, parse_int
from atpar.node.api_parties import list_participants
from atpar.node.api_proofs import make_record_proof
from atpar.node.gateway import NodeState
from atpar.node.problems import ApiCode, Problem, describe_retry

EVENTLY = 20
"""After so many decoded transactions, other tasks of the node get their turn."""


def list_validators(view: View) -> ValidatorSet:
    """Return the validator set in force."""
    found = view.get(VALIDATORS, CURRENT)
    assert found is not None, "the state has no validator set"
    return found


# ---- blocks


async def get_block(call: Call) -> Answer:
    """Return a final block: header, certificate, and its receipts or a page of transactions."""
    call.check_query(frozenset({"from", "limit", "full", "receipts"}))
    final = call.final.header.height
    wanted = call.get_path("height")
    height = final if wanted == "latest" else parse_int("height", wanted, low=0, high=2**63 - 1)
    first = call.get_int("from", low=0, high=2**31) or 0
    limit, full = call.get_limit(), call.get_flag("full")
    header = call.reader.get_header(height)
    if header is None:
        raise Problem(ApiCode.UNKNOWN_BLOCK, f"no block {height}, the last final one is {final}")
    receipts = _get_receipts(call, height) if call.get_flag("receipts") else None
    block = None if receipts is not None else call.reader.get_block(height)
    count = 0 if block is None else len(block.transactions)
    end = min(first + limit, count)
    transactions = (
        [] if block is None else await _list_transactions(call, block, first, end, full=full)
    )
    return Answer(
        BlockForm(
            read_height=max(final, height),
            height=height,
            digest=compute_digest(header),
            header=header,
            certificate=_make_certificate(call, height),
            transactions=tuple(transactions),
            next=end if end < count else None,
            receipts=receipts,
        )
    )


def _get_receipts(call: Call, height: int) -> bytes:
    """Return all receipts of a block in one piece, for those who may see every transaction.

    Raises:
        Problem: other parameters that choose what is shown, or a token limited to institutions.
    """
    for name in ("from", "limit", "full"):
        if call.get_query(name) is not None:
            raise invalid(name, "does not go with receipts, which are always all of a block")
    if not call.grant.sees_all:
        raise Problem(
            ApiCode.FORBIDDEN, "receipts: all of a block, and this token reads those of some only"
        )
    return call.reader.get_receipts_bytes(height) or encode(())


async def _list_transactions(
    call: Call, block: Block, first: int, end: int, *, full: bool
) -> list[BlockTransactionForm]:
    receipts = call.reader.get_receipts(block.header.height)
    assert receipts is not None, block.header.height
    forms = []
    for index in range(first, end):
        raw, receipt = block.transactions[index], receipts[index]
        tx = decode_transaction(raw)
        seen = call.grant.may_see(list_participants(tx, call.final.view))
        forms.append(
            BlockTransactionForm(
                index=index,
                tx_hash=tx.hash,
                sender=tx.body.sender if seen else None,
                tx_id=tx.body.tx_id if seen else None,
                code=get_code_name(receipt.code) if seen else None,
                failed_op=receipt.failed_op if seen else None,
                ops=tx.body.ops if seen and full else None,
                envelope=base64.b64encode(raw).decode() if seen and full else None,
            )
        )
        if len(forms) % EVENTLY == 0:
            await trio.lowlevel.checkpoint()
    return forms


def _make_certificate(call: Call, height: int) -> CertificateForm | None:
    path = call.reader.get_finality_path(height)
    if path is None:
        return None
    epoch = call.reader.get_epoch(path.finalization.proposition.epoch)
    assert epoch is not None, path.finalization.proposition.epoch
    members = epoch.validators.members
    signers = decode_bitmap(path.finalization.signers, len(members))
    return CertificateForm(
        finalization=path.finalization,
        signers=tuple(members[index].participant for index in signers),
        headers=path.headers,
    )


# ---- validators and peers


async def get_validators(call: Call) -> Answer:
    """Return the voting set with what this node has seen of each."""
    call.check_query(frozenset({"proof"}))
    with_proof = call.get_flag("proof")
    members = await call.gateway.validators()
    status = await call.gateway.status()
    following = call.final.view.get(VALIDATORS, NEXT)
    forms = tuple(
        ValidatorForm(
            index=member.index,
            participant=member.participant,
            vote_key=member.vote_key,
            is_self=member.is_self,
            is_connected=member.is_connected,
            last_vote_view=member.last_vote_view,
            last_vote_ms=member.last_vote_ms,
            missed_votes=member.missed_votes,
        )
        for member in members
    )
    return Answer(
        ValidatorsForm(
            read_height=call.final.header.height,
            epoch=status.epoch,
            quorum=compute_quorum(len(members)),
            validators=forms,
            members=list_validators(call.final.view).members,
            next_members=None if following is None else following.members,
            proof=make_record_proof(call, VALIDATORS, CURRENT) if with_proof else None,
        )
    )


async def get_peers(call: Call) -> Answer:
    """Return the registered peers of the validator network and how they are connected."""
    call.check_query(frozenset())
    peers = await call.gateway.peers()
    forms = tuple(
        PeerForm(
            participant=peer.participant,
            address=peer.address,
            state=peer.state,
            since_ms=peer.since_ms,
            queued_bytes=peer.queued_bytes,
            dropped_messages=peer.dropped_messages,
        )
        for peer in peers
    )
    return Answer(PeersForm(peers=forms))


# ---- status and health


async def get_status(call: Call) -> Answer:
    """Return the node's own state."""
    call.check_query(frozenset())
    status = await call.gateway.status()
    return Answer(
        StatusForm(
            chain_id=status.chain_id,
            chain_name=status.chain_name,
            participant=status.participant,
            is_validator=status.is_validator,
            state=status.state,
            detail=status.detail,
            read_height=status.height,
            target_height=status.target_height,
            digest=status.digest,
            state_root=status.state_root,
            timestamp_ms=status.timestamp_ms,
            epoch=status.epoch,
            view=status.view,
            validators=status.validators,
            quorum=status.quorum,
            connected_validators=status.connected_validators,
            mempool_transactions=status.mempool_transactions,
            mempool_bytes=status.mempool_bytes,
            alarms=status.alarms,
            started_at_ms=status.started_at_ms,
            version=status.version,
        )
    )


async def get_live(call: Call) -> Answer:
    """Return 200 while the process answers at all."""
    status = await call.gateway.status()
    return Answer(
        HealthForm(
            status="live",
            detail="",
            read_height=status.height,
            target_height=status.target_height,
        )
    )


async def get_ready(call: Call) -> Answer:
    """Return 200 once the node is caught up and takes transactions, else 503 with the reason."""
    status = await call.gateway.status()
    form = HealthForm(
        status=status.state.value,
        detail=status.detail,
        read_height=status.height,
        target_height=status.target_height,
    )
    if status.state is NodeState.READY:
        return Answer(form)
    return Answer(form, HTTPStatus.SERVICE_UNAVAILABLE, describe_retry(1_000))
