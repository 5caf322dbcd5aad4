"""Governance and bundles: proposals with maker and checker, parameters, validator sets, evidence.

A proposal is a bundle of operations that waits on the ledger for those who must agree. Verdicts
are kept by key, and weighed under the policies in force when the bundle would run, so that a key
rotated away meanwhile no longer counts. The approval that completes the last principal runs the
bundle; if the bundle fails, that approval fails with it and the proposal stays open.
"""

from collections.abc import Sequence

from msgspec.structs import astuple, replace

from atpar.ledger.authority import (
    compute_bundle_hash,
    examine_bundle,
    find_unmet,
    get_params,
    get_validators,
)
from atpar.ledger.certificates import compute_quorum
from atpar.ledger.codes import Code
from atpar.ledger.context import Context, check_new_entry
from atpar.ledger.epochs import open_epoch
from atpar.ledger.errors import ProofInvalid, Refused
from atpar.ledger.evidence import get_place, verify_evidence
from atpar.ledger.hashing import HashTag
from atpar.ledger.limits import (
    MAX_EVIDENCE_PER_EPOCH,
    MAX_OPEN_PROPOSALS_PER_ACCOUNT,
    MAX_PENDING_PARAMS,
    MIN_VALIDATORS,
    PARAM_RANGES,
)
from atpar.ledger.operations import (
    Approve,
    Decision,
    NewValidator,
    Propose,
    RecordEvidence,
    SetParams,
    SetValidators,
)
from atpar.ledger.policies import check_keys
from atpar.ledger.records import (
    CURRENT,
    EVIDENCE,
    KEYS,
    MARK,
    NEXT,
    OPEN_PROPOSALS,
    PARAMS,
    PARTICIPANTS,
    PENDING_PARAMS,
    PROPOSALS,
    VALIDATORS,
    VOTERS,
    KeyOwner,
    PendingParam,
    Proposal,
    RecordedEvidence,
    Validator,
    ValidatorSet,
    Verdict,
    evidence_key,
    evidence_prefix,
    number_key,
)
from atpar.ledger.state import Overlay, View

_FIXED_PARAMS = ("epoch_blocks",)
"""What the validators' engines count by cannot change under them."""


# ---- proposals


def apply_propose(ctx: Context, op: Propose) -> None:
    """Store a bundle; the maker's keys count as approvals."""
    _drop_expired(ctx, ctx.sender)
    voices = examine_bundle(ctx.overlay, op.ops).voices
    proposal_id = ctx.compute_id(HashTag.PROPOSAL)
    check_new_entry(ctx.overlay.get(PROPOSALS, proposal_id), proposal_id)
    waiting = sum(1 for _ in ctx.overlay.scan(OPEN_PROPOSALS, _sender_prefix(ctx.sender)))
    if waiting >= MAX_OPEN_PROPOSALS_PER_ACCOUNT:
        raise Refused(Code.LIMIT_OF_ENTRIES, f"{ctx.sender} has {waiting} open proposals")
    if op.expires_at_ms <= ctx.now_ms:
        raise Refused(Code.PROPOSAL_EXPIRED, f"expires at {op.expires_at_ms}, it is {ctx.now_ms}")
    makers = tuple(key for key in ctx.signers if key in voices)
    proposal = Proposal(
        sender=ctx.sender,
        makers=makers,
        ops=op.ops,
        bundle_hash=compute_bundle_hash(op.ops, op.expires_at_ms),
        expires_at_ms=op.expires_at_ms,
        placed_at_ms=ctx.now_ms,
        verdicts=tuple(Verdict(key, Decision.APPROVE) for key in makers),
    )
    ctx.overlay.put(PROPOSALS, proposal_id, proposal)
    ctx.overlay.put(OPEN_PROPOSALS, _sender_prefix(ctx.sender) + proposal_id, MARK)


def _sender_prefix(sender: str) -> bytes:
    return f"{sender}|".encode()


def _drop_expired(ctx: Context, sender: str) -> None:
    for key, _ in list(ctx.overlay.scan(OPEN_PROPOSALS, _sender_prefix(sender))):
        proposal = ctx.overlay.get(PROPOSALS, key[-32:])
        assert proposal is not None, key
        if proposal.expires_at_ms < ctx.now_ms:
            _close(ctx, key[-32:], proposal)


def _close(ctx: Context, proposal_id: bytes, proposal: Proposal) -> None:
    ctx.overlay.delete(PROPOSALS, proposal_id)
    ctx.overlay.delete(OPEN_PROPOSALS, _sender_prefix(proposal.sender) + proposal_id)


def apply_approve(ctx: Context, op: Approve) -> None:
    """Decide on a proposal; the approval that completes it runs the bundle."""
    proposal = ctx.overlay.get(PROPOSALS, op.proposal)
    if proposal is None or proposal.bundle_hash != op.bundle_hash:
        raise Refused(Code.UNKNOWN_PROPOSAL, f"no open proposal {op.proposal.hex()} of this hash")
    signers = set(ctx.signers)
    if op.decision is Decision.WITHDRAW:
        if not signers & set(proposal.makers):
            raise Refused(Code.ROLE_MISSING, "only the maker withdraws a proposal")
        _close(ctx, op.proposal, proposal)
        return
    voices = examine_bundle(ctx.overlay, proposal.ops).voices
    if signers & {verdict.key for verdict in proposal.verdicts}:
        raise Refused(Code.SAME_SIGNER, "this key is the maker's, or has decided before")
    if ctx.now_ms > proposal.expires_at_ms:
        raise Refused(
            Code.PROPOSAL_EXPIRED, f"expired at {proposal.expires_at_ms}, it is {ctx.now_ms}"
        )
    added = tuple(Verdict(key, op.decision) for key in ctx.signers if key in voices)
    decided = replace(proposal, verdicts=(*proposal.verdicts, *added))
    if op.decision is Decision.REJECT:
        against = {v.key for v in decided.verdicts if v.decision is Decision.REJECT}
        if find_unmet(ctx.overlay, proposal.ops, voices - against):
            _close(ctx, op.proposal, proposal)
            return
    else:
        approving = {v.key for v in decided.verdicts if v.decision is Decision.APPROVE}
        if not find_unmet(ctx.overlay, proposal.ops, approving):
            _close(ctx, op.proposal, proposal)
            _run_bundle(ctx, op.proposal, proposal)
            return
    ctx.overlay.put(PROPOSALS, op.proposal, decided)


def _run_bundle(ctx: Context, proposal_id: bytes, proposal: Proposal) -> None:
    """Run a bundle in place of the approval; a failure fails the whole transaction."""
    assert ctx.apply is not None
    for index, op in enumerate(proposal.ops):
        ctx.bundle_entry = (proposal.sender, proposal_id, index)
        ctx.apply(ctx, op)
    ctx.bundle_entry = None


# ---- parameters


def apply_set_params(ctx: Context, op: SetParams) -> None:
    """Schedule a parameter's new value."""
    low, high = PARAM_RANGES.get(op.key, (1, 0))
    if op.key in _FIXED_PARAMS or not low <= op.value <= high:
        raise Refused(Code.PARAM_RANGE, f"{op.key}: {op.value}, must be within {low} to {high}")
    if op.activation_height <= ctx.height:
        raise Refused(
            Code.PARAM_RANGE, f"height {op.activation_height}, this block is {ctx.height}"
        )
    pending = dict(ctx.overlay.scan(PENDING_PARAMS, b""))
    pending[number_key(op.activation_height) + op.key.encode()] = PendingParam(op.value)
    _check_together(ctx.overlay, pending)
    if len(pending) > MAX_PENDING_PARAMS:
        raise Refused(Code.LIMIT_OF_ENTRIES, f"{MAX_PENDING_PARAMS} changes are pending already")
    key = number_key(op.activation_height) + op.key.encode()
    ctx.overlay.put(PENDING_PARAMS, key, pending[key])


def _check_together(view: View, pending: dict[bytes, PendingParam]) -> None:
    """Check the relation between parameters at every height at which one changes."""
    params = get_params(view)
    for key in sorted(pending):
        params = replace(params, **{key[8:].decode(): pending[key].value})
        following = [other for other in pending if other[:8] == key[:8] and other > key]
        if not following and params.tx_id_retention_ms < params.max_window_ms:
            raise Refused(
                Code.PARAM_RANGE,
                f"tx_id_retention_ms {params.tx_id_retention_ms} would be below max_window_ms "
                f"{params.max_window_ms} at height {int.from_bytes(key[:8], 'big')}",
            )


def activate_params(overlay: Overlay, *, height: int) -> None:
    """Put in force what was scheduled for this height, at the start of a block."""
    due = []
    for key, change in overlay.scan(PENDING_PARAMS, b""):
        if int.from_bytes(key[:8], "big") > height:
            break
        due.append((key, change.value))
    if due:
        params = get_params(overlay)
        for key, value in due:
            params = replace(params, **{key[8:].decode(): value})
            overlay.delete(PENDING_PARAMS, key)
        overlay.put(PARAMS, CURRENT, params)


# ---- validators


def apply_set_validators(ctx: Context, op: SetValidators) -> None:
    """Fix the validator set of the next epoch."""
    for member in op.members:
        if ctx.overlay.get(PARTICIPANTS, member.participant.encode()) is None:
            raise Refused(Code.UNKNOWN_PARTICIPANT, f"no participant {member.participant}")
    refusals = []
    for member in op.members:
        keys = [member.vote_key, member.admin_key]
        try:
            fresh = check_keys(
                ctx.overlay, member.participant, keys, op.possessions, chain_id=ctx.chain_id
            )
        except Refused as refusal:
            refusals.append(refusal)
            continue
        for key in fresh:
            ctx.overlay.put(KEYS, key, KeyOwner(member.participant))
    if refusals:
        raise min(refusals, key=lambda refusal: refusal.code)
    current = get_validators(ctx.overlay)
    _check_safe(current, op.members)
    members = tuple(Validator(*astuple(member)) for member in op.members)
    ctx.overlay.put(VALIDATORS, NEXT, ValidatorSet(current.epoch + 1, members))


def _check_safe(current: ValidatorSet, members: Sequence[NewValidator]) -> None:
    """A quorum of the next set sits in the current one, so that newcomers cannot stop the chain.

    Raises:
        Refused: QUORUM_UNSAFE.
    """
    count = len(members)
    if count < MIN_VALIDATORS:
        raise Refused(Code.QUORUM_UNSAFE, f"{count} members, at least {MIN_VALIDATORS}")
    for what, values in (
        ("participants", [m.participant for m in members]),
        ("keys", [key for m in members for key in (m.vote_key, m.admin_key)]),
        ("root certificates", [m.root_certificate for m in members]),
        ("addresses", [m.address for m in members]),
    ):
        if len(set(values)) != len(values):
            raise Refused(Code.QUORUM_UNSAFE, f"{what}: one is named twice")
    known = {member.participant for member in current.members}
    staying = sum(member.participant in known for member in members)
    if staying < compute_quorum(count):
        raise Refused(
            Code.QUORUM_UNSAFE,
            f"{staying} of {count} are validators now, at least {compute_quorum(count)}",
        )


def begin_epoch(overlay: Overlay) -> None:
    """Put the next validator set in force, at the end of a boundary block."""
    current = get_validators(overlay)
    following = overlay.get(VALIDATORS, NEXT)
    members = current.members if following is None else following.members
    open_epoch(overlay, ValidatorSet(current.epoch + 1, members))


# ---- evidence


def apply_record_evidence(ctx: Context, op: RecordEvidence) -> None:
    """Keep that a validator signed two messages that exclude each other, once for each kind."""
    evidence = op.evidence
    epoch, view = get_place(evidence)
    voters = ctx.overlay.get(VOTERS, number_key(epoch))
    if voters is None:
        present = get_validators(ctx.overlay).epoch
        raise Refused(Code.UNKNOWN_EPOCH, f"no set is kept of epoch {epoch}, this is {present}")
    key = evidence_key(evidence)
    found = ctx.overlay.get(EVIDENCE, key)
    if found is not None:
        raise Refused(
            Code.EVIDENCE_RECORDED,
            f"{evidence.participant} in view {view} of epoch {epoch}: at height {found.height}",
        )
    prefix = evidence_prefix(evidence.participant, epoch)
    if sum(1 for _ in ctx.overlay.scan(EVIDENCE, prefix)) >= MAX_EVIDENCE_PER_EPOCH:
        raise Refused(
            Code.LIMIT_OF_ENTRIES,
            f"{MAX_EVIDENCE_PER_EPOCH} records against {evidence.participant} in epoch {epoch}",
        )
    try:
        verify_evidence(evidence, ctx.chain_id, voters)
    except ProofInvalid as error:
        raise Refused(Code.EVIDENCE_INVALID, str(error)) from error
    ctx.overlay.put(EVIDENCE, key, RecordedEvidence(evidence, op.by, ctx.height, ctx.now_ms))
