"""The voting rules of one epoch: from votes and blocks to certificates and final blocks.

`replica.py` tells the protocol in prose and owns what outlives an epoch; this module is the rules.
Inputs (`take_…`) change what is known; `settle` then applies every rule until nothing more follows
from what is known. So no rule depends on the order in which its conditions came true.
"""

from bisect import insort
from collections.abc import Mapping

from atpar.consensus.blocks import Body, BodyPool, Standing
from atpar.consensus.catchup import CatchUp, CertificatesNeed
from atpar.consensus.certificates import (
    build_certificate,
    check_certificate,
    get_statement,
    split_certificate,
)
from atpar.consensus.effects import (
    AlarmKind,
    Broadcast,
    BuildBlock,
    Cause,
    Commit,
    DropPeer,
    Effect,
    EnterView,
    Persist,
    RaiseAlarm,
    ReportEvidence,
    Send,
    VerifyBlock,
)
from atpar.consensus.errors import SafetyStop
from atpar.consensus.evidence import build_evidence
from atpar.consensus.leader import compute_leaders
from atpar.consensus.limits import (
    MAX_BODIES_BY_DIGEST,
    MAX_CERTIFICATES_PER_ANSWER,
    MAX_EVIDENCE_PER_VALIDATOR,
    MAX_HELD_BODY_BYTES,
    MAX_UNFINAL_VIEWS_WITH_TRANSACTIONS,
)
from atpar.consensus.messages import Finalize, Message, Notarize, Nullify, Proposal, Vote
from atpar.consensus.pacemaker import Pacemaker
from atpar.consensus.records import (
    BodyRecord,
    CertificateRecord,
    CertifiedRecord,
    JournalLostRecord,
    JournalRecord,
    VoteRecord,
)
from atpar.consensus.safety import GateState, SigningGate
from atpar.consensus.types import (
    BlockInfo,
    EpochStart,
    PeerId,
    Ports,
    ReplicaConfig,
    Tip,
)
from atpar.consensus.views import ViewState, find_conflicts
from atpar.consensus.votes import get_body, verify_vote
from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
    decode_bitmap,
)
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import SignKind

_KIND_OF: dict[type[Certificate], type[Vote]] = {
    Notarization: Notarize,
    Nullification: Nullify,
    Finalization: Finalize,
}


class Engine:
    """The state of one epoch and the rules that change it. Owned by a `Replica`."""

    def __init__(
        self,
        config: ReplicaConfig,
        ports: Ports,
        *,
        start: EpochStart,
        tip: Tip,
        gate: SigningGate,
        catchup: CatchUp,
        out: list[Effect],
    ) -> None:
        self._config = config
        self._ports = ports
        self._timing = config.timing
        self._out = out
        self._catchup = catchup
        self.gate = gate
        self.start = start
        self.validators = start.validators
        self.epoch = start.epoch
        self.me = start.validators.get_index(config.participant)
        self.leaders = compute_leaders(config.chain_id, start.validators)
        self.boundary_height = start.height + config.epoch_blocks
        self.tip = tip
        """The last block handed over in a Commit."""
        self.view = 0
        self.final_view = tip.view
        self.restored_view = tip.view
        """The final view at the start: the journal holds every own vote above it."""
        self.final_digest = tip.digest
        self.finalization = tip.finalization
        self.is_closed = False
        """The boundary block was committed: nothing more happens in this epoch."""
        self.is_pending = False
        """A block could carry a transaction."""
        self.pool = BodyPool()
        self.pace = Pacemaker(
            config.timing,
            size=self.validators.size,
            quorum=self.validators.quorum,
            me=self.me,
        )
        self.now_ms = 0
        self.wall_ms = 0
        self._views: dict[int, ViewState] = {}
        self._uncertified: list[int] = []
        """Views above the final one with a notarization that is not certified, ascending."""
        self._top: tuple[int, bytes] = (self.final_view, self.final_digest)
        """View and digest of the highest certified or final block."""
        self._unfinal: dict[int, int] = {}
        """Certified views whose block must become final -> when it was certified."""
        self._unsynced: list[tuple[int, int]] = []
        """(height, view) of commits that the store has not synced."""
        self._synced_view = tip.view
        """The final view that the store has synced: what the journal need not keep."""
        self._restored: set[Proposition] = set()
        """Certification verdicts from the journal, until execution here repeats them."""
        self._target: Finalization | None = None
        """A finalization below the latest one, from a range of blocks, to be committed first."""
        self._dirty = True
        self._reason: str | None = None
        """Why the current view shall be nullified."""
        self._building: tuple[int, int] | None = None
        """(view, parent view) of the block that was asked for."""
        self._proposed_ms: int | None = None
        """When the last proposal was seen or made here."""
        self._clock_at: int | None = None
        """When the current proposal's timestamp is no longer too early."""
        self._noticed: tuple[int, bytes] | None = None
        self._accused: dict[int, int] = {}
        self._lacking_bodies: dict[bytes, list[PeerId]] = {}
        self._lacking_certificates: CertificatesNeed | None = None
        self._lacking_height: int | None = None
        self.ahead: PeerId | None = None
        """A peer that is known to be in a later epoch, or in the middle of a range for us."""
        self._held = 0
        self._healed: dict[PeerId, int] = {}

    # ---- what others ask -------------------------------------------------------------------

    def get_leader(self, view: int) -> int:
        """Return the index of a view's leader."""
        return self.leaders[view % len(self.leaders)]

    def get_state(self, view: int) -> ViewState | None:
        """Return what is known about a view, if anything is."""
        return self._views.get(view)

    def get_certificates(self, first_view: int) -> list[Certificate]:
        """Return held certificates for an asker at that view, the final one first; bounded."""
        held: list[Certificate] = []
        if self.finalization is not None and self.final_view >= first_view:
            held.append(self.finalization)
        for view in sorted(v for v in self._views if v >= first_view and v > self.final_view):
            held += self._views[view].get_certificates()
            if len(held) >= MAX_CERTIFICATES_PER_ANSWER:
                break
        return held[:MAX_CERTIFICATES_PER_ANSWER]

    def get_entry_certificate(self) -> Certificate | None:
        """Return what best shows that the current view may be entered; None at the start."""
        if self.finalization is not None and self.final_view >= self.view - 1:
            return self.finalization
        state = self._views.get(self.view - 1)
        if state is not None and (state.nullification or state.notarization):
            return state.nullification or state.notarization
        return self.finalization

    def get_votes_of(self, index: int) -> list[Vote]:
        """Return the verified votes of one validator that are kept, latest view first."""
        votes: list[Vote] = []
        for view in sorted(self._views, reverse=True):
            state = self._views[view]
            for kind in (Notarize, Nullify, Finalize):
                vote = state.get_votes(kind).get(index)
                if vote is not None and state.is_verified(index, vote, get_body(vote)):
                    votes.append(vote)
        return votes

    def get_records(self) -> list[JournalRecord]:
        """Return the journal records of this epoch that no synced commit covers."""
        synced = self._synced_view
        records: list[JournalRecord] = [BodyRecord(body.data) for body in self.pool.get_journaled()]
        records += [
            VoteRecord(vote) for vote in self.gate.get_votes() if get_body(vote).view > synced
        ]
        for view in sorted(v for v in self._views if v > synced):
            state = self._views[view]
            records += [CertificateRecord(held) for held in state.get_certificates()]
            if state.certified and state.notarization is not None:
                records.append(CertifiedRecord(state.notarization.proposition))
        return records

    @property
    def deadline_ms(self) -> int | None:
        """When a timer is due next."""
        if self.is_closed:
            return self._catchup.deadline_ms
        pace = self.pace
        times: list[int | None] = [self._catchup.deadline_ms, self._clock_at]
        if pace.is_awake:
            times += [pace.leader_at, pace.advance_at, pace.retry_at, self._get_propose_at()]
        else:
            times.append(pace.heartbeat_at)
            if self._unfinal:
                times.append(min(self._unfinal.values()) + pace.delta_ms)
        return min((time for time in times if time is not None), default=None)

    # ---- restoring -------------------------------------------------------------------------

    def restore_body(self, info: BlockInfo, data: bytes) -> None:
        """Take back a block from the journal."""
        if info.height > self.tip.height:
            self.pool.add(info, data).is_journaled = True

    def restore_vote(self, vote: Vote) -> None:
        """Take back an own vote from the journal."""
        body = get_body(vote)
        self.gate.restore(vote)
        if self.me is not None and body.view > self.final_view:
            state = self._get_or_add(body.view)
            state.add(self.me, vote, body, is_verified=True)
            if isinstance(vote, Notarize) and self.get_leader(body.view) == self.me:
                state.proposal = vote.proposition

    def restore_certificate(self, certificate: Certificate) -> None:
        """Take back a certificate from the journal; it was checked before it was written."""
        if get_statement(certificate).view > self.final_view:
            self._absorb(certificate)
            self._accept(certificate, is_new=False)

    def restore_verdict(self, proposition: Proposition) -> None:
        """Take back a certification verdict; execution here has to repeat it."""
        self._restored.add(proposition)

    def begin(self) -> None:
        """Enter the first open view and repeat what was said before the stop."""
        self._enter(max(self.final_view + 1, self.view))

    def get_greeting(self) -> list[Message]:
        """Return what a peer that was away should hear: how to enter my view, my open votes."""
        greeting: list[Message] = []
        entry = self.get_entry_certificate()
        if entry is not None:
            greeting.append(entry)
        votes = [vote for vote in self.gate.get_votes() if get_body(vote).view > self.final_view]
        for vote in votes[-3 * (self.validators.size + 1) :]:
            view = get_body(vote).view
            if (
                isinstance(vote, Notarize)
                and self.get_leader(view) == self.me
                and view >= self.view
            ):
                body = self.pool.get(vote.proposition.digest)
                if body is not None:
                    greeting.append(Proposal(vote, body.data))
                    continue
            greeting.append(vote)
        return greeting

    # ---- inputs ----------------------------------------------------------------------------

    def take_vote(self, peer: PeerId, vote: Vote) -> bool:
        """Take in a vote of the peer itself. Return whether it is kept (or was already)."""
        signer = self.validators.get_index(peer)
        body = get_body(vote)
        size = self.validators.size
        if signer is None or not self.final_view - size <= body.view <= self.view + size:
            return False
        if signer == self.me:
            return False
        kind = type(vote)
        state = self._get_or_add(body.view)
        held = state.get_votes(kind).get(signer)
        if held is not None and get_body(held) == body:
            return True
        conflicts = find_conflicts(state, signer, vote)
        counts = held is None and body.view > self.final_view and not state.has_certificate(kind)
        if (counts or conflicts) and not self._is_valid(signer, vote):
            self._out.append(DropPeer(peer, f"{kind.__name__} signature in view {body.view}"))
            return False
        self.pace.hear(signer, self.now_ms)
        for earlier in conflicts:
            self._accuse(state, signer, earlier, vote)
        if held is not None:
            return False
        count = state.add(signer, vote, body, is_verified=counts or bool(conflicts))
        if counts:
            self._note_vote(state, signer, vote)
            if count >= self.validators.quorum:
                self._form(state, vote)
        if kind is Nullify and body.view < self.view:
            self.heal(peer)
        return True

    def take_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        """Take in the leader's proposal for a view that is not final."""
        proposition = proposal.vote.proposition
        view = proposition.view
        leader = self.get_leader(view)
        if self.validators.get_index(peer) != leader or leader == self.me:
            self._out.append(DropPeer(peer, f"proposal for view {view}, which it does not lead"))
            return
        if not self.final_view < view <= self.view + self.validators.size:
            return
        if not self.take_vote(peer, proposal.vote):
            return
        if self.pool.get(proposition.digest) is not None:
            self._dirty = True
            return
        is_early = view > self.view
        if is_early and self.pool.total_bytes + len(proposal.block) > MAX_HELD_BODY_BYTES:
            return
        info = self._ports.decode_block(proposal.block)
        if info is None or info.digest != proposition.digest:
            self._out.append(DropPeer(peer, f"proposal for view {view} with a malformed block"))
            self._refuse_proposal(proposition)
            return
        self.add_body(info, proposal.block)

    def take_certificate(self, peer: PeerId, certificate: Certificate) -> bool:
        """Take in a certificate from anyone. Return False when it is invalid."""
        statement = get_statement(certificate)
        view = statement.view
        if view <= self.final_view and not self._contradicts_final(certificate):
            if view + 1 < self.view and view < self.final_view:
                self.heal(peer)
            return True
        state = self._views.get(view)
        kind = _KIND_OF[type(certificate)]
        if state is not None and state.has_certificate(kind):
            held = state.get_certificates()
            if any(type(c) is type(certificate) and get_statement(c) == statement for c in held):
                return True
        known = state.get_signatures(kind, statement) if state is not None else {}
        try:
            self.check(certificate, known)
        except ProofInvalid as error:
            self._out.append(
                DropPeer(peer, f"{type(certificate).__name__} of view {view}: {error}")
            )
            return False
        if view <= self.final_view or (state is not None and state.has_certificate(kind)):
            self._absorb(certificate)
            raise SafetyStop(
                AlarmKind.CONFLICTING_CERTIFICATES,
                f"view {view} has two valid {type(certificate).__name__}s",
            )
        self._absorb(certificate)
        self._accept(certificate, is_new=True)
        return True

    def check(self, certificate: Certificate, known: Mapping[int, bytes] | None = None) -> None:
        """Check a certificate of this epoch completely.

        Raises:
            ProofInvalid: no quorum, or a signature that does not verify.
        """
        check_certificate(
            certificate,
            chain_id=self._config.chain_id,
            validators=self.validators,
            verify=self._ports.verify,
            known=known or {},
        )

    def add_body(self, info: BlockInfo, data: bytes) -> None:
        """Keep a block whose digest is vouched for: proposed, asked for, or of a checked run."""
        if info.height > self.tip.height:
            self.pool.add(info, data)
            self._dirty = True

    def take_run(self, finalization: Finalization) -> None:
        """Commit up to a checked finalization whose blocks are all here."""
        if finalization.proposition.view > self.final_view:
            self._absorb(finalization)
            self._accept(finalization, is_new=True)
        else:
            self._target = finalization
        self._held = 0
        self._dirty = True

    def take_verdict(self, proposition: Proposition, *, is_valid: bool) -> None:
        """Take in the result of executing the block of a P."""
        body = self.pool.get(proposition.digest)
        if body is None or body.standing is not Standing.ASKED:
            return
        body.standing = Standing.VALID if is_valid else Standing.INVALID
        self._dirty = True

    def take_built(self, view: int, info: BlockInfo, data: bytes) -> None:
        """Take in the block that BuildBlock asked for: propose it."""
        if self._building is None or self._building[0] != view or view != self.view:
            return
        parent_view = self._building[1]
        self._building = (view, -1)
        proposition = Proposition(self.epoch, view, parent_view, info.digest)
        self.pool.add(info, data).standing = Standing.VALID
        self._propose(proposition)

    def take_build_failure(self, view: int) -> None:
        """Take in that no block could be built: give the view up at once."""
        if self._building is not None and self._building[0] == view == self.view:
            self._want_nullify("build failed")

    def take_sync(self, height: int) -> None:
        """Take in that the store has synced everything up to a height."""
        for synced_height, view in self._unsynced:
            if synced_height <= height:
                self._synced_view = view
        self._unsynced = [entry for entry in self._unsynced if entry[0] > height]
        self.pool.drop_through(min(height, self.tip.height))
        self.gate.forget_through(self._synced_view)

    def take_tick(self) -> None:
        """Act on the timers that are due."""
        if self.is_closed:
            return
        pace, now = self.pace, self.now_ms
        if self._clock_at is not None and now >= self._clock_at:
            self._clock_at = None
            self._dirty = True
        if not pace.is_awake:
            return
        state = self._views.get(self.view)
        if pace.leader_at is not None and now >= pace.leader_at:
            pace.leader_at = None
            if state is None or state.proposal is None:
                self._time_out("no proposal")
        if pace.advance_at is not None and now >= pace.advance_at:
            pace.advance_at = None
            self._time_out("not certified")
        if pace.retry_at is not None and now >= pace.retry_at:
            self._repeat()

    def look_ahead(self, peer: PeerId | None, held: int = 0) -> None:
        """Fetch the next final blocks, of a peer that is beyond first; None: give up.

        `held` blocks above the tip are here already, without a certificate.
        """
        self.ahead = peer
        self._held = held
        self._dirty = True

    def open_gate(self) -> None:
        """Begin to vote: enough peers confirm that the journal misses nothing."""
        self.gate.state = GateState.OPEN
        self._dirty = True

    def heal(self, peer: PeerId, entry: Message | None = None) -> None:
        """Send a peer that is behind what brings it here (by default into my view); seldom."""
        last = self._healed.get(peer)
        entry = entry or self.get_entry_certificate()
        if entry is None or (last is not None and self.now_ms - last < self._timing.retry_ms // 2):
            return
        self._healed[peer] = self.now_ms
        self._out.append(Send(peer, entry))

    # ---- the rules -------------------------------------------------------------------------

    def settle(self) -> None:
        """Apply every rule until nothing more follows."""
        while self._dirty and not self.is_closed:
            self._dirty = False
            self._lacking_bodies = {}
            self._lacking_certificates = None
            self._lacking_height = None
            self._certify()
            self._commit()
            if self.is_closed:
                break
            self._leave_view()
            self._consider_nullify()
            self._consider_proposal()
            if not self._dirty:
                self._declare_needs()
        if self.is_closed:
            return
        self._consider_waking()
        self._consider_proposing()
        notice = (self.view, self._top[1])
        if notice != self._noticed:
            self._noticed = notice
            leader = self.validators.members[self.get_leader(self.view)].participant
            self._out.append(EnterView(self.epoch, self.view, leader, self._top[1]))

    def _certify(self) -> None:
        """Certify notarized blocks, lowest view first: body here, parent certified, executed."""
        for view in list(self._uncertified):
            state = self._views.get(view)
            if view <= self.final_view or state is None or state.notarization is None:
                continue
            proposition = state.notarization.proposition
            if proposition.parent_view < self.final_view:
                continue
            body = self.pool.get(proposition.digest)
            if body is None:
                holders = self._get_holders(state.notarization)
                self._lacking_bodies[proposition.digest] = holders
                continue
            parent = self._get_certified_digest(proposition.parent_view)
            if parent is None:
                parent_state = self._views.get(proposition.parent_view)
                if parent_state is None or parent_state.notarization is None:
                    holders = self._get_holders(state.notarization)
                    self._lack_certificates(proposition.parent_view, holders[0], grace_ms=0)
                continue
            fault = self._find_fault(proposition, body.info, parent)
            if fault is not None:
                raise SafetyStop(AlarmKind.DIVERGENCE, f"notarized block of view {view}: {fault}")
            self._execute(proposition, body, Cause.NOTARIZED)
            if body.standing is Standing.INVALID:
                raise SafetyStop(
                    AlarmKind.DIVERGENCE,
                    f"notarized block {proposition.digest.hex()} of view {view} is invalid here",
                )
            if body.standing is Standing.VALID:
                self._finish_certifying(state, proposition, body)

    def _finish_certifying(self, state: ViewState, proposition: Proposition, body: Body) -> None:
        view = state.view
        state.certified = True
        self._uncertified.remove(view)
        self._dirty = True
        self._journal_body(body)
        if proposition in self._restored:
            self._restored.discard(proposition)
        else:
            self._out.append(Persist(CertifiedRecord(proposition)))
        if body.info.has_transactions or body.info.height == self.boundary_height:
            self._unfinal[view] = self.now_ms
        if view > self._top[0]:
            self._top = (view, proposition.digest)
        if not state.equivocated:
            self._cast(SignKind.FINALIZE, proposition, notarization=state.notarization)
        if view >= self.view:
            self._enter(view + 1)

    def _commit(self) -> None:
        """Hand over final blocks, oldest first, once all bodies are here and executed."""
        target = self._target or self.finalization
        if target is None or self.tip.digest == target.proposition.digest:
            self._target = None
            return
        if target is not self._target and self.tip.digest == self.final_digest:
            return
        path = self._get_path(target)
        if path is None:
            return
        for body in path:
            info = body.info
            about = Proposition(self.epoch, info.view, 0, info.digest)
            self._execute(about, body, Cause.FINAL)
            if body.standing is Standing.INVALID:
                raise SafetyStop(
                    AlarmKind.DIVERGENCE, f"final block {body.info.digest.hex()} is invalid here"
                )
            if body.standing is not Standing.VALID:
                return
        last = path[-1].info
        closes = last.height == self.boundary_height
        self._out.append(Commit(target, tuple(body.info for body in path), closes))
        self.tip = Tip(last.digest, last.height, last.timestamp_ms, target)
        self._unsynced.append((last.height, target.proposition.view))
        self._target = None
        self._dirty = True
        self.is_closed = closes

    def _get_path(self, target: Finalization) -> list[Body] | None:
        """Return the bodies from above the tip up to a final block, or None and note the lack."""
        path: list[Body] = []
        digest = target.proposition.digest
        while digest != self.tip.digest:
            body = self.pool.get(digest)
            if body is None:
                gap = path[-1].info.height - self.tip.height - 1 if path else 0
                if gap > MAX_BODIES_BY_DIGEST:
                    self._lacking_height = self.tip.height + 1
                else:
                    self._lacking_bodies[digest] = self._get_holders(target)
                return None
            if body.info.height <= self.tip.height:
                raise SafetyStop(
                    AlarmKind.CONFLICTING_CERTIFICATES,
                    f"final block {target.proposition.digest.hex()} does not descend from the"
                    f" final block {self.tip.digest.hex()} at height {self.tip.height}",
                )
            path.append(body)
            digest = body.info.parent
        path.reverse()
        return path

    def _leave_view(self) -> None:
        """Go on while a nullification of the current view is held."""
        state = self._views.get(self.view)
        while state is not None and state.nullification is not None:
            self._enter(self.view + 1)
            state = self._views.get(self.view)
        ahead = [
            view
            for view, state in self._views.items()
            if view > self.view and (state.nullification or state.notarization)
        ]
        if ahead:
            grace = self.pace.delta_ms
            if max(ahead) > self.view + self.validators.size:
                grace = 0
            self._lack_certificates(self.view, None, grace_ms=grace)

    def _enter(self, view: int) -> None:
        """Enter a view, only forwards, and nullify ahead while leaders count as inactive."""
        assert view > self.view, f"view {view} is not above {self.view}"
        self.view = view
        self._dirty = True
        self._reason = None
        self._building = None
        self._clock_at = None
        self.pace.enter(self.now_ms)
        if self._is_skippable(view):
            self._want_nullify("leader inactive")
        ahead = view + 1
        while ahead <= view + self.validators.size and self._is_skippable(ahead):
            self._cast(SignKind.NULLIFY, NullifyBody(self.epoch, ahead))
            ahead += 1

    def _is_skippable(self, view: int) -> bool:
        if view - self.final_view > self.validators.size:
            return False
        return self.pace.is_inactive(self.get_leader(view), self.now_ms)

    def _consider_nullify(self) -> None:
        """Nullify the current view when there is a reason; the gate knows whether it may be."""
        if self.gate.get_nullify(self.view) is not None:
            self.pace.wake(self.now_ms)
            return
        state = self._views.get(self.view)
        if self._reason is None and state is not None:
            count = state.count(Nullify, NullifyBody(self.epoch, self.view))
            if state.refused:
                self._reason = "proposal refused"
            elif self.get_leader(self.view) in state.nullifies:
                self._reason = "leader gave up"
            elif count > self.validators.faults:
                self._reason = "others gave up"
        if self._reason is not None:
            self.pace.wake(self.now_ms)
            self._cast(SignKind.NULLIFY, NullifyBody(self.epoch, self.view))

    def _consider_proposal(self) -> None:
        """Notarize the leader's proposal of the current view once every condition holds."""
        view = self.view
        state = self._views.get(view)
        if state is None or state.proposal is None or state.equivocated or state.refused:
            return
        self.pace.wake(self.now_ms)
        if self.gate.get_notarize(view) is not None or self.gate.get_nullify(view) is not None:
            return
        proposition = state.proposal
        body = self.pool.get(proposition.digest)
        if body is None or self.tip.digest != self.final_digest:
            return
        if not self.final_view <= proposition.parent_view < view:
            self._refuse_proposal(proposition)
            return
        leader = self.validators.members[self.get_leader(view)].participant
        parent = self._get_certified_digest(proposition.parent_view)
        if parent is None or not self._is_nullified_between(proposition.parent_view, view):
            first = proposition.parent_view + (0 if parent is None else 1)
            self._lack_certificates(first, leader, grace_ms=0)
            return
        if self._find_fault(proposition, body.info, parent) is not None:
            self._refuse_proposal(proposition)
            return
        if proposition.digest != parent and not self._is_on_time(proposition, body.info):
            return
        self._execute(proposition, body, Cause.PROPOSED)
        if body.standing is Standing.INVALID:
            self._refuse_proposal(proposition)
        elif body.standing is Standing.VALID and self.gate.state is GateState.OPEN:
            self._journal_body(body)
            self._cast(SignKind.NOTARIZE, proposition)

    def _is_on_time(self, proposition: Proposition, info: BlockInfo) -> bool:
        """Apply the clock check of live proposals; too early stays pending, too late is refused."""
        early_ms = info.timestamp_ms - self.wall_ms - self._timing.clock_ahead_ms
        if early_ms > 0:
            self._clock_at = self.now_ms + early_ms
            return False
        if self.wall_ms - info.timestamp_ms > self._timing.clock_behind_ms:
            self._refuse_proposal(proposition)
            return False
        return True

    def _find_fault(self, proposition: Proposition, info: BlockInfo, parent: bytes) -> str | None:
        """Return what is wrong with a block on a certified parent, or None."""
        place = self._get_place(parent)
        if place is None:
            return None
        height, timestamp_ms = place
        if height == self.boundary_height:
            return None if proposition.digest == parent else "not the boundary block again"
        if (info.epoch, info.view) != (self.epoch, proposition.view):
            return f"header of epoch {info.epoch} view {info.view}"
        leader = self.validators.members[self.get_leader(proposition.view)].participant
        if info.proposer != leader:
            return f"header of proposer {info.proposer}, the leader is {leader}"
        if info.parent != parent:
            return f"header.parent {info.parent.hex()}, certified is {parent.hex()}"
        if info.height != height + 1:
            return f"height {info.height} on a parent of height {height}"
        if info.timestamp_ms <= timestamp_ms:
            return f"timestamp {info.timestamp_ms} not above the parent's {timestamp_ms}"
        return None

    def _execute(self, proposition: Proposition, body: Body, cause: Cause) -> None:
        """Ask for execution once, when the parent's state is here."""
        if body.standing is not Standing.UNKNOWN:
            return
        info = body.info
        parent = self.pool.get(info.parent)
        is_ready = info.parent == self.tip.digest
        if is_ready or (parent is not None and parent.standing is Standing.VALID):
            body.standing = Standing.ASKED
            self._out.append(VerifyBlock(proposition, info, body.data, cause))

    def _consider_waking(self) -> None:
        """End the rest of the current view when there is something to do."""
        if self.pace.is_awake:
            return
        now = self.now_ms
        oldest = min(self._unfinal.values(), default=now)
        is_late = bool(self._unfinal) and now >= oldest + self.pace.delta_ms
        is_first = self.tip.height == 0
        if self.is_pending or is_late or is_first or now >= self.pace.heartbeat_at:
            self.pace.wake(now)

    def _get_propose_at(self) -> int | None:
        """Return when to propose in the current view; None when it is not for us to."""
        if (
            self.get_leader(self.view) != self.me
            or self._building is not None
            or self.gate.state is not GateState.OPEN
            or self.tip.digest != self.final_digest
            or self.gate.get_notarize(self.view) is not None
            or self.gate.get_nullify(self.view) is not None
        ):
            return None
        if self._proposed_ms is None:
            return self.now_ms
        return self._proposed_ms + self._timing.block_interval_ms

    def _consider_proposing(self) -> None:
        """Lead the current view: ask for a block on the highest certified one, or re-propose."""
        if not self.pace.is_awake:
            return
        propose_at = self._get_propose_at()
        if propose_at is None or self.now_ms < propose_at:
            return
        parent_view, parent = self._top
        place = self._get_place(parent)
        assert place is not None, "the block to build on is not here"
        assert self._is_nullified_between(parent_view, self.view), "a view was left without reason"
        height, timestamp_ms = place
        self._building = (self.view, parent_view)
        if height == self.boundary_height:
            self._propose(Proposition(self.epoch, self.view, parent_view, parent))
            return
        unfinal = self.view - self.final_view
        self._out.append(
            BuildBlock(
                epoch=self.epoch,
                view=self.view,
                parent=parent,
                parent_height=height,
                timestamp_ms=max(self.wall_ms, timestamp_ms + 1),
                is_empty=unfinal > MAX_UNFINAL_VIEWS_WITH_TRANSACTIONS,
            )
        )

    def _propose(self, proposition: Proposition) -> None:
        body = self.pool.get(proposition.digest)
        assert body is not None
        self._get_or_add(self.view).proposal = proposition
        self._proposed_ms = self.now_ms
        self._journal_body(body)
        self._cast(SignKind.NOTARIZE, proposition, block=body.data)

    # ---- leaves ----------------------------------------------------------------------------

    def _cast(
        self,
        kind: SignKind,
        body: Proposition | NullifyBody,
        *,
        notarization: Notarization | None = None,
        block: bytes | None = None,
    ) -> None:
        """Pass a vote through the gate; if it may be cast, journal, send and count it."""
        vote = self.gate.cast(kind, body, notarization=notarization)
        if vote is None:
            return
        self._out.append(Persist(VoteRecord(vote)))
        if block is not None and isinstance(vote, Notarize):
            self._out.append(Broadcast(Proposal(vote, block)))
        else:
            self._out.append(Broadcast(vote))
        assert self.me is not None
        self.pace.hear(self.me, self.now_ms)
        state = self._get_or_add(body.view)
        if state.get_votes(type(vote)).get(self.me) is None:
            count = state.add(self.me, vote, body, is_verified=True)
            if count >= self.validators.quorum and not state.has_certificate(type(vote)):
                self._form(state, vote)

    def _note_vote(self, state: ViewState, signer: int, vote: Vote) -> None:
        """Note what a new verified vote means beyond its count."""
        if isinstance(vote, Nullify):
            self._dirty = self._dirty or state.view == self.view
        elif isinstance(vote, Notarize) and signer == self.get_leader(state.view):
            self._note_proposal(state, vote.proposition)

    def _note_proposal(self, state: ViewState, proposition: Proposition) -> None:
        if state.proposal is None:
            state.proposal = proposition
            self._proposed_ms = self.now_ms
            self._dirty = True
        elif state.proposal != proposition:
            state.equivocated = True

    def _form(self, state: ViewState, vote: Vote) -> None:
        votes = state.get_verified(type(vote), get_body(vote))
        self._accept(build_certificate(votes, self.validators), is_new=True)

    def _accept(self, certificate: Certificate, *, is_new: bool) -> None:
        """Hold a checked certificate: journal it, pass it on once, and let the rules see it."""
        view = get_statement(certificate).view
        state = self._get_or_add(view)
        if is_new:
            self._out.append(Persist(CertificateRecord(certificate)))
            self._out.append(Broadcast(certificate))
        self._dirty = True
        match certificate:
            case Notarization():
                state.notarization = certificate
                insort(self._uncertified, view)
            case Nullification():
                state.nullification = certificate
                self._drop_unvouched(state)
            case Finalization():
                state.finalization = certificate
                self._move_floor(certificate)
        if state.nullification is not None and state.finalization is not None:
            raise SafetyStop(
                AlarmKind.CONFLICTING_CERTIFICATES, f"view {view} is both nullified and final"
            )

    def _move_floor(self, finalization: Finalization) -> None:
        """Make a finalization the floor at once; its blocks are committed when they are here."""
        proposition = finalization.proposition
        self.final_view, self.final_digest = proposition.view, proposition.digest
        self.finalization = finalization
        self.gate.raise_floor(self.final_view)
        self.pace.speed_up()
        if self._top[0] <= self.final_view:
            self._top = (self.final_view, self.final_digest)
        self._uncertified = [view for view in self._uncertified if view > self.final_view]
        self._unfinal = {v: at for v, at in self._unfinal.items() if v > self.final_view}
        oldest = self.final_view - self.validators.size
        for view in [view for view in self._views if view < oldest]:
            del self._views[view]
        if 0 < self.view <= self.final_view:
            self._enter(self.final_view + 1)

    def _absorb(self, certificate: Certificate) -> None:
        """Count a checked certificate's votes, so that a conflicting vote is noticed."""
        state = self._get_or_add(get_statement(certificate).view)
        for signer, vote in split_certificate(certificate, self.validators).items():
            statement = get_body(vote)
            votes = state.get_votes(type(vote))
            held = votes.get(signer)
            if held is not None and state.is_verified(signer, held, get_body(held)):
                if get_body(held) != statement:
                    self._accuse(state, signer, held, vote)
                continue
            if signer == self.me:
                self._check_own(vote)
            for earlier in find_conflicts(state, signer, vote):
                self._accuse(state, signer, earlier, vote)
            if held is not None and state.is_verified(signer, held, get_body(held)):
                continue
            state.add(signer, vote, statement, is_verified=True)
            self._note_vote(state, signer, vote)

    def _check_own(self, vote: Vote) -> None:
        """Stop voting when somebody holds a vote of mine that is not in my journal."""
        if get_body(vote).view > self.final_view and not self.gate.has_cast(vote):
            self.close_gate(f"{type(vote).__name__} in view {get_body(vote).view}")

    def close_gate(self, what: str) -> None:
        """Vote no more in this epoch: the journal misses a vote of ours."""
        if self.gate.state not in (GateState.OPEN, GateState.ASKING):
            return
        self.gate.state = GateState.LOST
        self._out.append(Persist(JournalLostRecord(self.epoch)))
        self._out.append(
            RaiseAlarm(AlarmKind.JOURNAL_LOST, f"not in the journal of epoch {self.epoch}: {what}")
        )

    def _accuse(self, state: ViewState, signer: int, earlier: Vote, later: Vote) -> None:
        """Report two verified votes that exclude each other, after verifying the kept one."""
        statement = get_body(earlier)
        if not state.is_verified(signer, earlier, statement):
            if not self._is_valid(signer, earlier):
                return
            state.mark_verified(signer, earlier, statement)
        if isinstance(later, Notarize) and signer == self.get_leader(state.view):
            state.equivocated = True
        count = self._accused.get(signer, 0)
        if count >= MAX_EVIDENCE_PER_VALIDATOR:
            return
        self._accused[signer] = count + 1
        participant = self.validators.members[signer].participant
        self._out.append(ReportEvidence(build_evidence(participant, earlier, later)))
        self._out.append(RaiseAlarm(AlarmKind.EQUIVOCATION, f"{participant} in view {state.view}"))

    def _is_valid(self, signer: int, vote: Vote) -> bool:
        return verify_vote(
            vote,
            chain_id=self._config.chain_id,
            public_key=self.validators.members[signer].vote_key,
            verify=self._ports.verify,
        )

    def _contradicts_final(self, certificate: Certificate) -> bool:
        """Return whether a certificate of the final view cannot be true beside the final one."""
        statement = get_statement(certificate)
        if statement.view != self.final_view or self.finalization is None:
            return False
        if isinstance(statement, NullifyBody):
            return True
        return isinstance(certificate, Finalization) and statement != self.finalization.proposition

    def _refuse_proposal(self, proposition: Proposition) -> None:
        state = self._get_or_add(proposition.view)
        state.refused = True
        self._dirty = True

    def _want_nullify(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._dirty = True

    def _time_out(self, reason: str) -> None:
        if self.view - self.final_view >= self.validators.size and self._reason is None:
            self.pace.back_off()
        self._want_nullify(reason)

    def _repeat(self) -> None:
        """Say again what may have been lost: my votes in this view and how to enter it."""
        self.pace.defer_retry(self.now_ms)
        for vote in (self.gate.get_notarize(self.view), self.gate.get_nullify(self.view)):
            if vote is not None:
                self._out.append(Broadcast(vote))
        entry = self.get_entry_certificate()
        if entry is not None:
            self._out.append(Broadcast(entry))

    def _journal_body(self, body: Body) -> None:
        if not body.is_journaled and body.info.height > self.tip.height:
            body.is_journaled = True
            self._out.append(Persist(BodyRecord(body.data)))

    def _drop_unvouched(self, state: ViewState) -> None:
        """Forget the proposed block of a nullified view that neither I nor a quorum voted for."""
        if state.proposal is None or state.notarization is not None:
            return
        body = self.pool.get(state.proposal.digest)
        if body is not None and not body.is_journaled:
            self.pool.drop(state.proposal.digest)

    def _get_or_add(self, view: int) -> ViewState:
        state = self._views.get(view)
        if state is None:
            state = self._views[view] = ViewState(view)
        return state

    def _get_certified_digest(self, view: int) -> bytes | None:
        """Return the digest certified (or final) in a view whose block is here, if any."""
        if view == self.final_view:
            digest = self.final_digest
            return digest if self._get_place(digest) is not None else None
        state = self._views.get(view)
        if state is None or not state.certified or state.notarization is None:
            return None
        return state.notarization.proposition.digest

    def _get_place(self, digest: bytes) -> tuple[int, int] | None:
        """Return height and timestamp of a block that is here."""
        if digest == self.tip.digest:
            return self.tip.height, self.tip.timestamp_ms
        body = self.pool.get(digest)
        return None if body is None else (body.info.height, body.info.timestamp_ms)

    def _is_nullified_between(self, low: int, high: int) -> bool:
        """Return whether every view strictly between two has a nullification here."""
        for view in range(low + 1, high):
            state = self._views.get(view)
            if state is None or state.nullification is None:
                return False
        return True

    def _get_holders(self, certificate: Notarization | Finalization) -> list[PeerId]:
        """Return who signed a certificate, starting after me, so that askers spread."""
        size = self.validators.size
        first = 0 if self.me is None else self.me + 1
        signers = decode_bitmap(certificate.signers, size)
        signers.sort(key=lambda index: (index - first) % size)
        return [self.validators.members[index].participant for index in signers]

    def _lack_certificates(self, first_view: int, hint: PeerId | None, *, grace_ms: int) -> None:
        need = self._lacking_certificates
        if need is not None and need.first_view <= first_view and need.grace_ms <= grace_ms:
            return
        if need is not None:
            first_view = min(first_view, need.first_view)
            grace_ms = min(grace_ms, need.grace_ms)
        self._lacking_certificates = CertificatesNeed(first_view, hint, grace_ms)

    def _declare_needs(self) -> None:
        now = self.now_ms
        self._catchup.need_certificates(self._lacking_certificates, now)
        self._catchup.need_bodies(self._lacking_bodies, now + self.pace.delta_ms // 2)
        if self.ahead is not None:
            self._lacking_height = self.tip.height + 1 + self._held
        self._catchup.need_sync(self._lacking_height, self.ahead, now)
