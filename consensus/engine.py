"""The voting rules of one epoch: from votes and blocks to certificates and final blocks.

`replica.py` tells the protocol in prose and owns what outlives an epoch; this module is the rules.
Inputs (`take_…`) change what is known; `settle` then applies every rule until nothing more follows
from what is known. So no rule depends on the order in which its conditions came true.
"""

from bisect import insort
from collections.abc import Mapping
from typing import assert_never

from atpar.consensus.blocks import Body, Standing
from atpar.consensus.book import Taken
from atpar.consensus.catchup import Needs
from atpar.consensus.certificates import build_certificate, check_certificate, get_statement
from atpar.consensus.effects import (
    AlarmKind,
    Broadcast,
    BuildBlock,
    Cause,
    Commit,
    DropPeer,
    EnterView,
    Persist,
    Send,
    VerifyBlock,
)
from atpar.consensus.errors import SafetyStop
from atpar.consensus.limits import (
    MAX_BODIES_BY_DIGEST,
    MAX_HELD_BODY_BYTES,
    MAX_UNFINAL_BYTES,
)
from atpar.consensus.messages import Message, Proposal
from atpar.consensus.proposals import Timeliness, find_fault, judge_time
from atpar.consensus.records import (
    BodyRecord,
    CertificateRecord,
    CertifiedRecord,
    VoteRecord,
)
from atpar.consensus.safety import GateState
from atpar.consensus.state import EpochState
from atpar.consensus.types import BlockInfo, PeerId
from atpar.consensus.views import ViewState
from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
)
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.hashing import SignKind
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, get_body

_KIND_OF: dict[type[Certificate], type[Vote]] = {
    Notarization: Notarize,
    Nullification: Nullify,
    Finalization: Finalize,
}


class Engine(EpochState):
    """The rules of one epoch, over its state. Owned by a `Replica`."""

    # ---- restoring -------------------------------------------------------------------------

    def restore_body(self, info: BlockInfo, data: bytes) -> None:
        """Take back a block from the journal."""
        if info.height > self.chain.tip.height:
            self.pool.mark_journaled(self.pool.add(info, data))

    def restore_vote(self, vote: Vote) -> None:
        """Take back an own vote from the journal."""
        self.gate.restore(vote)
        if get_body(vote).view > self.chain.view:
            self.book.add_own(vote)

    def restore_certificate(self, certificate: Certificate) -> None:
        """Take back a certificate from the journal; it was checked before it was written."""
        if get_statement(certificate).view > self.chain.view:
            self.book.absorb(certificate, is_journaled=True)
            self._accept(certificate, is_new=False)

    def restore_verdict(self, proposition: Proposition) -> None:
        """Take back a certification verdict; execution here has to repeat it."""
        self._restored.add(proposition)

    def begin(self) -> None:
        """Enter the first open view."""
        self.restored_view = self.chain.view
        self._enter(self.chain.view + 1)

    # ---- inputs ----------------------------------------------------------------------------

    def take_vote(self, peer: PeerId, vote: Vote) -> bool:
        """Take in a vote of the peer itself. Return whether it is kept (or was already)."""
        signer = self.validators.get_index(peer)
        view = get_body(vote).view
        size = self.validators.size
        if signer is None or signer == self.me or view > self.view + size:
            return False
        if view < self.chain.view - size:
            self.heal(peer)
            return False
        taken = self.book.take(peer, signer, vote, final_view=self.chain.view)
        if taken is Taken.REFUSED:
            return False
        self.pace.hear(signer, self.now_ms)
        if taken is Taken.COUNTED:
            self._dirty = self._dirty or view == self.view
            self._count(vote)
        if isinstance(vote, Nullify) and view < self.view:
            self.heal(peer)
        return True

    def take_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        """Take in the leader's proposal for a view that is not final."""
        proposition = proposal.vote.proposition
        view = proposition.view
        if peer != self.get_leader_name(view) or peer == self._config.participant:
            self._out.append(DropPeer(peer, f"proposal for view {view}, which it does not lead"))
            return
        if not self.chain.view < view <= self.view + self.validators.size:
            return
        if not self.take_vote(peer, proposal.vote):
            return
        self._dirty = True
        state = self.book.get_or_add(view)
        is_given_up = state.nullification is not None and state.notarization is None
        if is_given_up or self.pool.get(proposition.digest) is not None:
            return
        if view != self.view and not self._make_room(view, len(proposal.block)):
            return
        info = self._ports.decode_block(proposal.block)
        if info is None or info.digest != proposition.digest:
            self._out.append(DropPeer(peer, f"proposal for view {view} with a malformed block"))
            state.refused = True
            return
        self._proposed_ms = self.now_ms
        self.add_body(info, proposal.block)

    def take_certificate(self, peer: PeerId, certificate: Certificate) -> bool:
        """Take in a certificate from anyone. Return False when it is invalid."""
        statement = get_statement(certificate)
        view = statement.view
        if view <= self.chain.view and not self.contradicts_final(certificate):
            if view < self.chain.view and view + 1 < self.view:
                self.heal(peer)
            return True
        state = self.book.views.get(view)
        kind = _KIND_OF[type(certificate)]
        known: dict[int, bytes] = {}
        is_second = False
        if state is not None:
            for held in state.get_certificates():
                if type(held) is type(certificate):
                    if get_statement(held) == statement:
                        return True
                    is_second = True
            known = state.get_signatures(kind, statement)
        try:
            self.check(certificate, known)
        except ProofInvalid as error:
            name = type(certificate).__name__
            self._out.append(DropPeer(peer, f"{name} of view {view}: {error}"))
            return False
        if is_second or view <= self.chain.view:
            self.book.absorb(certificate)
            raise SafetyStop(
                AlarmKind.CONFLICTING_CERTIFICATES,
                f"view {view}: {certificate} contradicts a certificate that is held",
            )
        self.book.absorb(certificate)
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
        if info.height > self.chain.tip.height:
            self.pool.add(info, data)
            self._dirty = True

    def take_run(self, finalization: Finalization) -> None:
        """Commit up to a checked finalization whose blocks are all here."""
        self._held = 0
        self._dirty = True
        if finalization.proposition.view > self.chain.view:
            self.book.absorb(finalization)
            self._accept(finalization, is_new=True)
        else:
            self.chain.target = finalization

    def take_verdict(self, proposition: Proposition, *, is_valid: bool) -> None:
        """Take in the result of executing the block of a P."""
        body = self.pool.get(proposition.digest)
        if body is not None and body.standing is Standing.ASKED:
            body.standing = Standing.VALID if is_valid else Standing.INVALID
            self._dirty = True

    def take_built(self, view: int, info: BlockInfo, data: bytes) -> None:
        """Take in the block that BuildBlock asked for: propose it."""
        if self._building is None or view != self.view or self._building[1] < 0:
            return
        parent_view = self._building[1]
        self._building = (view, -1)
        self.pool.add(info, data).standing = Standing.VALID
        self._propose(Proposition(self.epoch, view, parent_view, info.digest))

    def take_build_failure(self, view: int) -> None:
        """Take in that no block could be built: give the view up at once."""
        if self._building is not None and view == self.view and self._building[1] >= 0:
            self._want_nullify("build failed")

    def take_sync(self, height: int) -> None:
        """Take in that the store has synced everything up to a height."""
        self.chain.note_synced(height)
        self.pool.drop_through(min(height, self.chain.tip.height))
        self.gate.forget_through(self.chain.synced_view)

    def take_tick(self) -> None:
        """Act on the timers that are due."""
        pace, now = self.pace, self.now_ms
        if self._clock_at is not None and now >= self._clock_at:
            self._clock_at = None
            self._dirty = True
        if not pace.is_awake:
            return
        state = self.book.views.get(self.view)
        if pace.leader_at is not None and now >= pace.leader_at:
            pace.leader_at = None
            if state is None or state.proposal is None:
                self._time_out("no proposal")
        if pace.advance_at is not None and now >= pace.advance_at:
            pace.advance_at = None
            self._time_out("not certified")
        if pace.retry_at is not None and now >= pace.retry_at:
            self._repeat()

    def take_loss(self, peer: PeerId) -> None:
        """Take in that the connection to a validator broke: do not wait for what it would lead."""
        index = self.validators.get_index(peer)
        if index is not None and index != self.me:
            self.pace.lose(index, self.now_ms)
            self._pass_over_lost_leader()

    def take_return(self, peer: PeerId) -> None:
        """Take in that the connection to a validator stands."""
        index = self.validators.get_index(peer)
        if index is not None:
            self.pace.find(index)

    def _pass_over_lost_leader(self) -> None:
        """Give the current view up if its leader cannot be reached and has proposed nothing."""
        state = self.book.views.get(self.view)
        if (state is None or state.proposal is None) and self.is_skippable(self.view):
            self._want_nullify("leader lost")

    def open_gate(self) -> None:
        """Begin to vote: enough peers confirm that the journal misses nothing."""
        self.gate.state = GateState.OPEN
        self._dirty = True
        self._pass_over_lost_leader()
        for view in sorted(v for v in self.book.views if v > self.chain.view):
            state = self.book.views[view]
            if state.certified and state.notarization is not None:
                self._finalize(state, state.notarization)

    def look_ahead(self, peer: PeerId) -> None:
        """Fetch final blocks beyond ours, of this peer first; at most once per retry interval."""
        last = self._looked_ms
        if self.ahead is None and (last is None or self.now_ms - last >= self._timing.retry_ms):
            self._looked_ms = self.now_ms
            self.ahead = peer
            self._dirty = True

    def note_range(self, peer: PeerId | None, held: int = 0) -> None:
        """Go on fetching above `held` blocks that wait for a certificate; no peer: give up."""
        self.ahead = peer
        self._held = held
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
        while not self.is_closed:
            if self._dirty:
                self._apply_rules()
            self._consider_waking()
            self._consider_proposing()
            if not self._dirty:
                break
        if self.is_closed:
            return
        notice = (self.view, self._top[1])
        if notice != self._noticed:
            self._noticed = notice
            leader = self.get_leader_name(self.view)
            self._out.append(EnterView(self.epoch, self.view, leader, self._top[1]))

    def _apply_rules(self) -> None:
        while self._dirty:
            self._dirty = False
            self._needs = Needs()
            self._certify()
            self._commit()
            if self.is_closed:
                self._catchup.clear()
                return
            self._leave_view()
            self._consider_nullify()
            self._consider_proposal()
        if self.ahead is not None:
            self._needs.first_height = self.chain.tip.height + 1 + self._held
            self._needs.height_hint = self.ahead
            self._needs.is_continued = self._held > 0
        self._catchup.declare(self._needs, self.now_ms, body_grace_ms=self.pace.delta_ms // 2)

    def _certify(self) -> None:
        """Certify notarized blocks, lowest view first: body here, parent certified, executed."""
        for view in list(self._uncertified):
            notarization = self.book.views[view].notarization if view > self.chain.view else None
            if notarization is not None:
                self._consider_certifying(self.book.views[view], notarization)

    def _consider_certifying(self, state: ViewState, notarization: Notarization) -> None:
        proposition = notarization.proposition
        if proposition.parent_view < self.chain.view:
            return
        body = self.pool.get(proposition.digest)
        if body is None:
            self._needs.bodies[proposition.digest] = self.get_holders(notarization)
            return
        parent = self.get_parent(proposition.parent_view)
        if parent is None:
            below = self.book.views.get(proposition.parent_view)
            is_known = below is not None and below.notarization is not None
            if not is_known and proposition.parent_view > self.chain.view:
                holder = self.get_holders(notarization)[0]
                self._needs.add_certificates(proposition.parent_view, holder, grace_ms=0)
            return
        leader = self.get_leader_name(state.view)
        fault = find_fault(proposition, body.info, parent, leader=leader)
        self._execute(proposition, body, Cause.NOTARIZED)
        if fault is not None or body.standing is Standing.INVALID:
            raise SafetyStop(
                AlarmKind.DIVERGENCE,
                f"notarized block {proposition.digest.hex()} of view {state.view} is invalid here:"
                f" {fault or 'its execution differs'}",
            )
        if body.standing is Standing.VALID:
            self._finish_certifying(state, notarization, body)

    def _finish_certifying(self, state: ViewState, notarization: Notarization, body: Body) -> None:
        proposition = notarization.proposition
        view = state.view
        state.certified = True
        self._uncertified.remove(view)
        self._dirty = True
        self._journal_body(body)
        if proposition not in self._restored:
            self._out.append(Persist(CertifiedRecord(proposition)))
        if body.info.has_transactions or body.info.height == self.boundary_height:
            self._unfinal[view] = self.now_ms
        if view > self._top[0]:
            self._top = (view, proposition.digest)
        self._finalize(state, notarization)
        if view >= self.view:
            self._enter(view + 1)

    def _finalize(self, state: ViewState, notarization: Notarization) -> None:
        if not state.equivocated:
            proposition = notarization.proposition
            self._cast(SignKind.FINALIZE, proposition, notarization=notarization)

    def _commit(self) -> None:
        """Hand over final blocks, oldest first, once all bodies are here and executed."""
        chain = self.chain
        target = chain.get_next()
        if target is None:
            return
        path, missing = chain.find_path(target, self.pool)
        if missing is not None:
            gap = path[-1].info.height - chain.tip.height - 1 if path else 0
            if gap > MAX_BODIES_BY_DIGEST:
                self._needs.first_height = chain.tip.height + 1
            else:
                self._needs.bodies[missing] = self.get_holders(target)
            return
        path.reverse()
        for body in path:
            info = body.info
            about = Proposition(self.epoch, info.view, 0, info.digest)
            self._execute(about, body, Cause.FINAL)
            if body.standing is Standing.INVALID:
                raise SafetyStop(
                    AlarmKind.DIVERGENCE, f"final block {info.digest.hex()} is invalid here"
                )
            if body.standing is not Standing.VALID:
                return
        closes = path[-1].info.height == self.boundary_height
        self._out.append(Commit(target, tuple(body.info for body in path), closes))
        chain.advance(path[-1], target)
        self._held = 0
        self._dirty = True
        self.is_closed = closes

    def _leave_view(self) -> None:
        """Go on while a nullification of the current view is held."""
        views = self.book.views
        state = views.get(self.view)
        while state is not None and state.nullification is not None:
            self._enter(self.view + 1)
            state = views.get(self.view)
        highest = 0
        for view, ahead in views.items():
            if view > self.view and (ahead.nullification or ahead.notarization):
                highest = max(highest, view)
        if highest:
            is_far = highest > self.view + self.validators.size
            grace_ms = 0 if is_far else self.pace.delta_ms
            self._needs.add_certificates(self.view, None, grace_ms=grace_ms)

    def _enter(self, view: int) -> None:
        """Enter a view, only forwards, and nullify ahead while leaders count as inactive."""
        assert view > self.view, f"view {view} is not above {self.view}"
        self.view = view
        self.is_pending = False
        self._dirty = True
        self._reason = None
        self._building = None
        self._clock_at = None
        self.pace.enter(self.now_ms)
        if self.is_skippable(view):
            self._want_nullify("leader inactive")
        ahead = view + 1
        while ahead <= view + self.validators.size and self.is_skippable(ahead):
            self._cast(SignKind.NULLIFY, NullifyBody(self.epoch, ahead))
            ahead += 1

    def _consider_nullify(self) -> None:
        """Nullify the current view when there is a reason; the gate knows whether it may be."""
        if self.gate.get_nullify(self.view) is not None:
            self.pace.wake(self.now_ms)
            return
        state = self.book.views.get(self.view)
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
        state = self.book.views.get(view)
        if state is None or state.proposal is None:
            return
        self.pace.wake(self.now_ms)
        voted = self.gate.get_notarize(view) or self.gate.get_nullify(view)
        if voted is not None or state.equivocated or state.refused:
            return
        proposition = state.proposal
        if not self.chain.view <= proposition.parent_view < view:
            self._refuse(state)
            return
        body = self.pool.get(proposition.digest)
        if body is None or not self.chain.is_whole:
            return
        leader = self.get_leader_name(view)
        parent = self.get_parent(proposition.parent_view)
        if parent is None or not self.is_nullified_between(proposition.parent_view, view):
            first = proposition.parent_view + (0 if parent is None else 1)
            self._needs.add_certificates(first, leader, grace_ms=0)
            return
        if find_fault(proposition, body.info, parent, leader=leader) is not None:
            self._refuse(state)
            return
        if not parent.is_boundary:
            timeliness = judge_time(body.info, wall_ms=self.wall_ms, timing=self._timing)
            if timeliness is Timeliness.EARLY:
                early_ms = body.info.timestamp_ms - self.wall_ms - self._timing.clock_ahead_ms
                self._clock_at = self.now_ms + early_ms
                return
            if timeliness is Timeliness.LATE:
                self._refuse(state)
                return
        self._execute(proposition, body, Cause.PROPOSED)
        if body.standing is Standing.INVALID:
            self._refuse(state)
        elif body.standing is Standing.VALID and self.gate.state is GateState.OPEN:
            self._journal_body(body)
            self._cast(SignKind.NOTARIZE, proposition)

    def _execute(self, proposition: Proposition, body: Body, cause: Cause) -> None:
        """Ask for execution once, when the parent's state is here."""
        if body.standing is not Standing.UNKNOWN:
            return
        info = body.info
        parent = self.pool.get(info.parent)
        is_on_tip = info.parent == self.chain.tip.digest
        if is_on_tip or (parent is not None and parent.standing is Standing.VALID):
            body.standing = Standing.ASKED
            self._out.append(VerifyBlock(proposition, info, body.data, cause))

    def _consider_waking(self) -> None:
        """End the rest of the current view when there is something to do."""
        if self.pace.is_awake:
            return
        now = self.now_ms
        oldest = min(self._unfinal.values(), default=now)
        is_late = bool(self._unfinal) and now >= oldest + self.pace.delta_ms
        is_first = self._top[0] == 0 and self.chain.tip.height == 0
        if self.is_pending or is_late or is_first or now >= self.pace.heartbeat_at:
            self.pace.wake(now)

    def _consider_proposing(self) -> None:
        """Lead the current view: ask for a block on the highest certified one, or re-propose."""
        if not self.pace.is_awake:
            return
        propose_at = self.get_propose_at()
        if propose_at is None or self.now_ms < propose_at:
            return
        view = self.view
        parent_view = self._top[0]
        parent = self.get_parent(parent_view)
        assert parent is not None, "the block to build on is not here"
        assert self.is_nullified_between(parent_view, view), "a view was left without reason"
        self._building = (view, parent_view)
        if parent.is_boundary:
            self._propose(Proposition(self.epoch, view, parent_view, parent.digest))
            return
        self._out.append(
            BuildBlock(
                epoch=self.epoch,
                view=view,
                parent=parent.digest,
                parent_height=parent.height,
                timestamp_ms=max(self.wall_ms, parent.timestamp_ms + 1),
                is_empty=self.pool.journaled_bytes > MAX_UNFINAL_BYTES,
            )
        )

    def _propose(self, proposition: Proposition) -> None:
        body = self.pool.get(proposition.digest)
        assert body is not None, "the proposed block is not here"
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
        if vote is None or self.me is None:
            return
        self._out.append(Persist(VoteRecord(vote)))
        if block is not None and isinstance(vote, Notarize):
            self._out.append(Broadcast(Proposal(vote, block)))
        else:
            self._out.append(Broadcast(vote))
        self.pace.hear(self.me, self.now_ms)
        self.book.add_own(vote)
        self._count(vote)

    def _count(self, vote: Vote) -> None:
        """Form the certificate when this verified vote completes a quorum."""
        body = get_body(vote)
        state = self.book.get_or_add(body.view)
        kind = type(vote)
        if state.count(kind, body) >= self.validators.quorum and not state.has_certificate(kind):
            votes = state.get_verified(kind, body)
            self._accept(build_certificate(votes, self.validators), is_new=True)

    def _accept(self, certificate: Certificate, *, is_new: bool) -> None:
        """Hold a checked certificate: journal it, pass it on once, and let the rules see it."""
        view = get_statement(certificate).view
        state = self.book.get_or_add(view)
        self._dirty = True
        if is_new:
            self._out.append(Persist(CertificateRecord(certificate)))
            self._out.append(Broadcast(certificate))
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
            case _:
                assert_never(certificate)
        if state.nullification is not None and state.finalization is not None:
            raise SafetyStop(
                AlarmKind.CONFLICTING_CERTIFICATES, f"view {view} is both nullified and final"
            )

    def _move_floor(self, finalization: Finalization) -> None:
        """Make a finalization the floor at once; its blocks are committed when they are here."""
        self.chain.raise_floor(finalization)
        floor = self.chain.view
        self.gate.raise_floor(floor)
        self.pace.speed_up()
        if self._top[0] <= floor:
            self._top = (floor, self.chain.digest)
        self._uncertified = [view for view in self._uncertified if view > floor]
        self._unfinal = {view: at for view, at in self._unfinal.items() if view > floor}
        self.book.drop_below(floor - self.validators.size)
        if 0 < self.view <= floor:
            self._enter(floor + 1)

    def _refuse(self, state: ViewState) -> None:
        state.refused = True
        self._dirty = True

    def _want_nullify(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._dirty = True

    def _time_out(self, reason: str) -> None:
        if self.view - self.chain.view >= self.validators.size and self._reason is None:
            self.pace.back_off()
        self._want_nullify(reason)

    def _repeat(self) -> None:
        """Say again what may have been lost: my votes in this view and how to enter it."""
        self.pace.defer_retry(self.now_ms)
        said = (
            self.gate.get_notarize(self.view),
            self.gate.get_nullify(self.view),
            self.get_entry_certificate(),
        )
        self._out += [Broadcast(message) for message in said if message is not None]

    def _journal_body(self, body: Body) -> None:
        if not body.is_journaled and body.info.height > self.chain.tip.height:
            self.pool.mark_journaled(body)
            self._out.append(Persist(BodyRecord(body.data)))

    def _make_room(self, view: int, size: int) -> bool:
        """Return whether a body for a view other than the current one may be kept.

        Nearer views come first: bodies of views further ahead that nobody voted for give way.
        """
        excess = self.pool.total_bytes + size - MAX_HELD_BODY_BYTES
        for ahead in sorted((v for v in self.book.views if v > max(view, self.view)), reverse=True):
            if excess <= 0:
                break
            before = self.pool.total_bytes
            self._drop_unvouched(self.book.views[ahead])
            excess -= before - self.pool.total_bytes
        return excess <= 0

    def _drop_unvouched(self, state: ViewState) -> None:
        """Forget the proposed block of a view that neither I nor a quorum voted for."""
        if state.proposal is None or state.notarization is not None:
            return
        body = self.pool.get(state.proposal.digest)
        if body is not None and not body.is_journaled:
            self.pool.drop(state.proposal.digest)
