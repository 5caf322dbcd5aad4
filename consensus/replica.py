"""One validator's part in Simplex with skip-ahead, as a state machine without I/O.

The protocol
------------
n validators, of which at most f = (n - 1) // 3 misbehave in any way, agree on a chain of blocks. Q
= n - f votes of distinct signers make a certificate; any two certificates share an honest signer.
Time is cut into *views*, each with one leader, in a fixed order that repeats. P = (epoch, view,
parent view, block digest) is what a leader proposes, and there are three votes:

    notarize(P)     I executed the block on the parent that P names, and it is valid. One P a view.
    nullify(v)      I gave view v up.
    finalize(P)     I hold the notarization of P and shall never nullify its view.

On entering view v, its leader takes the highest certified view p below v as parent (every view in
between is nullified), builds a block and broadcasts it with its own notarize. Everybody checks the
ancestry, executes, and broadcasts notarize. Q notarizes are a *notarization*: the block is fetched
if it is missing, executed, and with that *certified*; one broadcasts finalize and enters v + 1. So
the next block starts after two message delays, while Q finalizes, a third delay later, make the
block and all its ancestors final. If nothing comes of v in time, one broadcasts nullify; Q
nullifies are a *nullification* and lead to v + 1 as well.

Why two final blocks cannot exclude each other: P is final in v, so Q validators sent finalize in v
and never nullify it; hence v has no nullification, and no second notarization, because nobody
honest notarizes twice in a view. A block of a later view w whose parent is below v would need a
nullification of v to be notarized by anyone honest. So each later block has P among its ancestors.
That uses three rules only, wherever and whenever votes are signed: one notarize per view, nullify
XOR finalize per view (`safety.py`), and the ancestry check (`engine.py`).

Why it does not stop: votes and certificates are repeated while stuck, and any certificate that
anyone holds can be fetched by anyone; so all honest validators come to the same view, and within
n views there is an honest leader whose proposal reaches all before the timers, which grow when
whole rounds fail, fire.

An epoch has a fixed number of blocks and one validator set. After the *boundary* block only that
same block may be proposed again, until some P with it is final; then the next epoch starts at view
0 on it, with the set that its state names.

Deviations from the paper (Chan and Pass, 2023), each argued
-------------------------------------------------------------
1. *Parents instead of full histories.* The paper's block carries its whole prefix; here P names the
   parent view, which is signed, and the ancestry check asks for that view's certified block and for
   a nullification of each view in between: the same statement, in constant size.
2. *Certification.* The paper enters v + 1 on the notarization alone. Here also the body has to be
   here and executed, because the next leader needs the state, and because a finalize is a promise
   that the block can be served and re-executed after a crash. It goes on after a nullification of
   the view: two groups may leave a view by different certificates, and the one that left by
   nullification needs the block once the other builds on it.
3. *Finalize is refused after the leader equivocated.* Not needed for safety. It keeps a view whose
   honest validators notarized different blocks from ending half final, so that all leave it by
   nullification. Double votes of anyone else are evidence and nothing more; otherwise one liar
   could veto every block.
4. *More reasons to nullify* than the timer: an invalid proposal, the leader's own nullify, f + 1
   nullifies (one is honest), a leader that counts as inactive, a failed build. All only save time:
   nullify is allowed whenever finalize was not sent.
5. *Skip-ahead.* On entering v one also nullifies the following views while their leaders count as
   inactive: silent beyond the skip timeout while Q are heard. Whoever has no connection to here is
   inactive at once, and after a connection broke until it is back and votes; what was on its way
   when it broke is no sign of life. So dead leaders cost nothing once they are known, instead of
   one timeout each. Safety does not depend on when a nullify is signed. It cannot run away: a
   nullification above the current view is held and never jumped to, votes count for at most n views
   ahead, fewer than Q audible means nobody counts as inactive, and nobody skips while n views are
   unfinalised.
6. *Rest.* The paper makes blocks for ever. Here a view rests, timers and silence clocks off, until
   there is something to order, a non-empty tip lacks finality, or the heartbeat is due. Proposals,
   f + 1 nullifies or one's own nullify wake it, so one validator's rest never holds up the others.
7. *Finalization moves the floor at once*, blocks follow when their bodies are here; meanwhile one
   neither proposes nor notarizes. A floor that waited for bodies would let a laggard vote below it.
8. *Timeouts grow* only after n unfinalised views, to a bound, and shrink with each finalisation.
   The paper has a known delay bound; doubling without a bound ends in rounds of hours.
9. *A journal and a question.* Votes are durable before they are sent and repeated byte by byte. A
   start asks the others which of one's votes they saw, and waits for Q - 1 answers: a journal that
   misses one does not vote for the rest of the epoch. The paper's processes do not restart.
10. *Boundary blocks are re-proposed* instead of being followed by empty blocks, so that an epoch
    has an exact length and its last state is known before it is final.

Where things are
----------------
`engine.py` has the voting rules of one epoch over `state.py`; `book.py` the votes and evidence;
`safety.py` the one gate for signing; `pacemaker.py` timers, rest and activity; `finality.py` the
final chain; `catchup.py` what is asked of whom. This module owns what outlives an epoch: restart,
boundaries, who is told what, and the way from a message to a rule.
"""

from collections.abc import Sequence
from typing import assert_never

from atpar.consensus.catchup import CatchUp
from atpar.consensus.certificates import get_statement
from atpar.consensus.effects import (
    AlarmKind,
    Broadcast,
    DropPeer,
    Effect,
    Halt,
    Persist,
    RaiseAlarm,
    ReportEvidence,
    Send,
    ServeBlock,
    ServeSync,
)
from atpar.consensus.engine import Engine
from atpar.consensus.errors import SafetyStop
from atpar.consensus.events import (
    BlockBuilt,
    BlockVerdict,
    BuildFailed,
    CommitSynced,
    EpochOpened,
    Event,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    PendingChanged,
    Ticked,
)
from atpar.consensus.limits import (
    MAX_NEXT_EPOCH_MESSAGES,
    MAX_NEXT_EPOCH_PROPOSALS,
    MAX_PENDING_RUN_BYTES,
    MAX_VOTES_PER_ANSWER,
)
from atpar.consensus.messages import (
    BlockRequest,
    BlockResponse,
    CertificatesRequest,
    CertificatesResponse,
    Message,
    Proposal,
    Request,
    Response,
    SyncRequest,
    SyncResponse,
    VotesRequest,
    VotesResponse,
)
from atpar.consensus.records import EpochOpenedRecord, JournalLostRecord, JournalRecord
from atpar.consensus.restart import EpochRecords, list_records, read_journal, restore
from atpar.consensus.safety import GateState, SigningGate
from atpar.consensus.types import BlockInfo, EpochStart, PeerId, Ports, ReplicaConfig, Tip
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.certificates import Certificate, Finalization, Notarization, Nullification
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.votes import Finalize, Notarize, Nullify, get_body, verify_vote


class Replica:
    """One validator (or observer) of one chain, across epochs.

    Signatures are verified in here, through `Ports.verify`, and only where the answer is needed: a
    vote that is new and counts, a certificate that is not held yet (minus the signatures already
    checked as votes). So the caller passes decoded messages on, unchecked.

    `now_ms` is a monotonic clock with any origin; `wall_ms` is UTC since the Unix epoch and decides
    only the timestamp of own blocks and the clock check on proposed ones.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        ports: Ports,
        *,
        start: EpochStart,
        tip: Tip,
        records: Sequence[JournalRecord],
    ) -> None:
        """Restore a replica from the store's tip and the journal.

        `start` and `tip`: the epoch that the next block belongs to, and the last final block in
        the store (when that is the boundary of epoch e, `start` is epoch e+1 and `tip` equals it).
        `records`: the whole journal in order; empty means lost, so `node init` writes the first
        EpochOpenedRecord. Records of other epochs are skipped.

        Raises:
            JournalInvalid: a record cannot be one of this chain.
        """
        self._config = config
        self._ports = ports
        self._out: list[Effect] = []
        self._halted = False
        self._now_ms = 0
        self._wall_ms = 0
        self._catchup = CatchUp(
            participant=config.participant, retry_ms=config.timing.retry_ms // 2
        )
        self._waiting: list[tuple[PeerId, Message]] = []
        """Messages of the next epoch, while its EpochOpened is awaited."""
        self._farewell: Finalization | None = None
        """The finalization of the boundary before this epoch, for members that lag."""
        self._run: list[tuple[BlockInfo, bytes]] = []
        """Blocks of a range whose certificate has not come yet."""
        self._run_bytes = 0
        self._answered: set[PeerId] = set()
        self._ask_at: int | None = None
        self._later = read_journal(records, ports)
        """What the journal holds about epochs that were not reached yet."""
        before = self._later.get(start.epoch - 1, EpochRecords())
        current = self._later.get(start.epoch, EpochRecords())
        self._later = {epoch: kept for epoch, kept in self._later.items() if epoch > start.epoch}
        self._opens_now = before.opening is not None and current.opening is None
        """This start is the first after crossing the boundary: the opening record is due."""
        self._is_opened = self._opens_now or current.opening is not None
        """The journal has an opening record for this epoch."""
        state = GateState.ASKING if self._is_opened and not current.is_lost else GateState.LOST
        self._engine = self._build_engine(start, tip, state)
        restore(self._engine, current)
        self._out.clear()

    # ---- reading ---------------------------------------------------------------------------

    @property
    def deadline_ms(self) -> int | None:
        """When the next `Ticked` is due on the monotonic clock; None: nothing to wait for.

        Read it after every turn.
        """
        if self._halted:
            return None
        times = (self._engine.deadline_ms, self._ask_at)
        return min((time for time in times if time is not None), default=None)

    @property
    def epoch(self) -> int:
        """The epoch that the next block belongs to."""
        return self._engine.epoch

    @property
    def view(self) -> int:
        """The current view."""
        return self._engine.view

    @property
    def final_view(self) -> int:
        """The highest view known to be final."""
        return self._engine.chain.view

    @property
    def finalization(self) -> Finalization | None:
        """The highest finalization known, in this epoch; None at its start."""
        return self._engine.chain.finalization

    @property
    def tip(self) -> Tip:
        """The last block handed over in a Commit."""
        return self._engine.chain.tip

    @property
    def gate_state(self) -> GateState:
        """Whether this replica may vote, and if not, why."""
        return self._engine.gate.state

    @property
    def is_halted(self) -> bool:
        """Whether a safety stop ended this replica."""
        return self._halted

    @property
    def is_resting(self) -> bool:
        """Whether the current view rests: nothing to order, timers off."""
        return not self._engine.pace.is_awake

    @property
    def leader(self) -> str:
        """Participant code of the current view's leader."""
        return self._engine.get_leader_name(self._engine.view)

    @property
    def is_catching_up(self) -> bool:
        """Whether final blocks are known that are not committed here yet."""
        return not self._engine.chain.is_whole or self._engine.ahead is not None

    # ---- driving ---------------------------------------------------------------------------

    def start(self, *, now_ms: int, wall_ms: int) -> list[Effect]:
        """Begin, once, before any `handle`: re-executes what the journal certified, and asks."""
        return self._run_step(None, now_ms, wall_ms)

    def handle(self, event: Event, *, now_ms: int, wall_ms: int) -> list[Effect]:
        """Take in one event and return what is to be done, in order."""
        return self._run_step(event, now_ms, wall_ms)

    def compact_journal(self) -> list[JournalRecord]:
        """Return the records that are still needed, in order, to replace the journal with.

        Call it between turns (effects of the last one persisted) when the file has grown past a
        bound; write them to a new file, fsync, and rename. What a synced commit covers is left out.
        """
        engine = self._engine
        records: list[JournalRecord] = []
        if self._is_opened:
            records.append(self._get_opening())
        return [*records, *self._get_losses(), *engine.get_records(), *list_records(self._later)]

    def _run_step(self, event: Event | None, now_ms: int, wall_ms: int) -> list[Effect]:
        if self._halted:
            return []
        self._now_ms, self._wall_ms = now_ms, wall_ms
        engine = self._engine
        engine.now_ms, engine.wall_ms = now_ms, wall_ms
        try:
            if event is None:
                self._begin()
            else:
                self._dispatch(event)
            self._engine.settle()
        except SafetyStop as stop:
            self._halted = True
            told = [e for e in self._out if isinstance(e, Persist | ReportEvidence | RaiseAlarm)]
            self._out.clear()
            return [*told, Halt(stop.kind, str(stop))]
        self._out += self._catchup.poll(now_ms)
        out = self._out[:]
        self._out.clear()
        return out

    def _dispatch(self, event: Event) -> None:
        engine = self._engine
        match event:
            case MessageReceived(peer, message):
                self._take_message(peer, message)
            case Ticked():
                self._give_up_run()
                engine.take_tick()
                self._ask_again()
            case BlockVerdict(proposition, is_valid):
                engine.take_verdict(proposition, is_valid=is_valid)
            case BlockBuilt(view, info, block):
                engine.take_built(view, info, block)
            case BuildFailed(view):
                engine.take_build_failure(view)
            case PendingChanged(pending):
                engine.is_pending = pending
            case CommitSynced(height):
                engine.take_sync(height)
            case PeerConnected(peer):
                self._greet(peer)
            case PeerDisconnected(peer):
                self._catchup.disconnect(peer, self._now_ms)
                engine.take_loss(peer)
            case EpochOpened(start):
                self._cross(start)
            case _:
                assert_never(event)

    # ---- starting and epochs ---------------------------------------------------------------

    def _build_engine(self, start: EpochStart, tip: Tip, state: GateState) -> Engine:
        if self._has_left(start.epoch) or not self._may_vote(start.validators):
            state = GateState.OBSERVING
        gate = SigningGate(
            chain_id=self._config.chain_id,
            sign=self._ports.sign,
            epoch=start.epoch,
            floor=tip.view,
            state=state,
        )
        members = [member.participant for member in start.validators.members]
        self._catchup.open_epoch(start.epoch, members)
        engine = Engine(
            self._config,
            self._ports,
            start=start,
            tip=tip,
            gate=gate,
            catchup=self._catchup,
            out=self._out,
        )
        for index, member in enumerate(members):
            if member != self._config.participant and not self._catchup.is_connected(member):
                engine.pace.miss(index)
        return engine

    def _may_vote(self, validators: ValidatorSet) -> bool:
        index = validators.get_index(self._config.participant)
        return index is not None and self._ports.holds_key(validators.members[index].vote_key)

    def _has_left(self, epoch: int) -> bool:
        """Return whether the journal opened a later epoch: this one was over for us by then.

        The store was begun anew since. Where a recovery document ended the epoch, voting in it
        again could make two histories.
        """
        return any(later > epoch and kept.opening for later, kept in self._later.items())

    def _begin(self) -> None:
        if self._opens_now:
            self._out.append(Persist(self._get_opening()))
        if self._engine.gate.state is GateState.LOST:
            self._out.append(
                RaiseAlarm(
                    AlarmKind.JOURNAL_LOST,
                    f"no whole journal of epoch {self._engine.epoch}: no vote until the next",
                )
            )
        self._engine.begin()
        self._ask_again()

    def _cross(self, start: EpochStart) -> None:
        """Begin the next epoch on its boundary block."""
        before = self._engine
        if start.epoch <= before.epoch or start.digest != before.chain.tip.digest:
            return
        is_syncing = before.ahead
        was_open = before.gate.state is GateState.OPEN
        self._farewell = before.chain.tip.finalization
        tip = Tip(start.digest, start.height, start.timestamp_ms, None)
        self._is_opened = True
        written = self._later.pop(start.epoch, EpochRecords())
        self._later = {epoch: kept for epoch, kept in self._later.items() if epoch > start.epoch}
        if written.is_lost:
            state = GateState.LOST
        elif was_open and is_syncing is None and written.opening is None:
            state = GateState.OPEN
        else:
            state = GateState.ASKING
        self._answered.clear()
        self._forget_run()
        self._engine = engine = self._build_engine(start, tip, state)
        engine.now_ms, engine.wall_ms = self._now_ms, self._wall_ms
        engine.ahead = is_syncing
        restore(engine, written)
        if written.opening is None:
            self._out.append(Persist(self._get_opening()))
        engine.begin()
        self._ask_at = None
        self._ask_again()
        waiting, self._waiting = self._waiting, []
        for peer, message in waiting:
            self._take_message(peer, message)

    def _get_opening(self) -> EpochOpenedRecord:
        start = self._engine.start
        return EpochOpenedRecord(start.epoch, start.height, start.digest)

    def _get_losses(self) -> list[JournalRecord]:
        is_lost = self._engine.gate.state is GateState.LOST
        return [JournalLostRecord(self._engine.epoch)] if is_lost else []

    def _greet(self, peer: PeerId) -> None:
        self._catchup.connect(peer)
        self._engine.take_return(peer)
        if self._engine.gate.state is GateState.ASKING:
            self._out.append(Send(peer, VotesRequest(self._engine.epoch)))
        for message in self._engine.get_greeting():
            self._out.append(Send(peer, message))

    # ---- own votes after a start -----------------------------------------------------------

    def _ask_again(self) -> None:
        """While the gate is asking, ask everyone for our own votes, once per retry interval."""
        engine = self._engine
        if engine.gate.state is not GateState.ASKING:
            self._ask_at = None
            return
        if self._ask_at is None or self._now_ms >= self._ask_at:
            self._ask_at = self._now_ms + self._config.timing.retry_ms
            self._out.append(Broadcast(VotesRequest(engine.epoch)))

    def _take_own_votes(self, peer: PeerId, response: VotesResponse) -> None:
        """Open the gate after Q-1 answers, unless one holds a vote that the journal misses."""
        engine = self._engine
        if response.finalization is not None and response.epoch == engine.epoch:
            self._take_certificate(peer, response.finalization)
        if engine.gate.state is not GateState.ASKING or engine.me is None:
            return
        if engine.validators.get_index(peer) is None or response.epoch > engine.epoch:
            return
        key = engine.validators.members[engine.me].vote_key
        for vote in response.votes:
            body = get_body(vote)
            if body.epoch != engine.epoch or body.view <= engine.restored_view:
                continue
            if engine.gate.has_cast(vote):
                continue
            is_mine = verify_vote(
                vote, chain_id=self._config.chain_id, public_key=key, verify=self._ports.verify
            )
            if not is_mine:
                self._out.append(DropPeer(peer, f"a vote in view {body.view} that is not ours"))
                return
            engine.book.close_gate(f"{type(vote).__name__} in view {body.view}, held by {peer}")
            return
        self._answered.add(peer)
        if len(self._answered) >= engine.validators.quorum - 1:
            engine.open_gate()
            self._ask_at = None

    # ---- messages --------------------------------------------------------------------------

    def _take_message(self, peer: PeerId, message: Message) -> None:
        engine = self._engine
        match message:
            case Notarize() | Nullify() | Finalize():
                if self._is_current(peer, message, get_body(message).epoch):
                    engine.take_vote(peer, message)
            case Proposal(vote, _):
                if self._is_current(peer, message, vote.proposition.epoch):
                    engine.take_proposal(peer, message)
            case Notarization() | Nullification() | Finalization():
                self._take_certificate(peer, message)
            case BlockRequest() | CertificatesRequest() | SyncRequest() | VotesRequest():
                self._serve(peer, message)
            case BlockResponse() | CertificatesResponse() | SyncResponse() | VotesResponse():
                self._take_answer(peer, message)
            case _:
                assert_never(message)

    def _take_answer(self, peer: PeerId, response: Response) -> None:
        match response:
            case BlockResponse():
                self._take_block(peer, response)
            case CertificatesResponse():
                self._catchup.refuse_certificates(peer, self._now_ms)
                for certificate in response.certificates:
                    if not self._take_certificate(peer, certificate):
                        return
            case SyncResponse():
                self._take_range(peer, response)
            case VotesResponse():
                if self._engine.epoch >= response.epoch:
                    self._take_own_votes(peer, response)
                else:
                    self._is_current(peer, response, response.epoch)
            case _:
                assert_never(response)

    def _is_current(self, peer: PeerId, message: Message, epoch: int) -> bool:
        """Return whether a message is of this epoch; help or follow the peer when it is not."""
        engine = self._engine
        if epoch == engine.epoch:
            return not engine.is_closed
        if epoch > engine.epoch:
            if not engine.is_closed:
                engine.look_ahead(peer)
            elif epoch == engine.epoch + 1:
                self._let_wait(peer, message)
            return False
        if self._farewell is not None and epoch == engine.epoch - 1:
            engine.heal(peer, self._farewell)
        else:
            engine.heal(peer, VotesResponse(engine.epoch, (), engine.chain.finalization))
        return False

    def _let_wait(self, peer: PeerId, message: Message) -> None:
        """Keep a message of the next epoch, within bounds, until its EpochOpened."""
        of_peer = sum(1 for other, _ in self._waiting if other == peer)
        proposals = sum(1 for _, waiting in self._waiting if isinstance(waiting, Proposal))
        is_proposal = isinstance(message, Proposal)
        if of_peer < MAX_NEXT_EPOCH_MESSAGES and (
            not is_proposal or proposals < MAX_NEXT_EPOCH_PROPOSALS
        ):
            self._waiting.append((peer, message))

    def _take_certificate(self, peer: PeerId, certificate: Certificate) -> bool:
        """Return whether a certificate is of this epoch and valid."""
        epoch = get_statement(certificate).epoch
        if not self._is_current(peer, certificate, epoch):
            return False
        return self._engine.take_certificate(peer, certificate)

    # ---- serving ---------------------------------------------------------------------------

    def _serve(self, peer: PeerId, request: Request) -> None:
        engine = self._engine
        match request:
            case BlockRequest(digest):
                body = engine.pool.get(digest)
                if body is None:
                    self._out.append(ServeBlock(peer, request))
                else:
                    self._out.append(Send(peer, BlockResponse(digest, body.data)))
            case CertificatesRequest(epoch, first_view):
                if epoch == engine.epoch or self._is_current(peer, request, epoch):
                    held = tuple(engine.get_certificates(first_view))
                    self._out.append(Send(peer, CertificatesResponse(held)))
            case SyncRequest():
                self._out.append(ServeSync(peer, request))
            case VotesRequest(epoch):
                if epoch > engine.epoch:
                    self._is_current(peer, request, epoch)
                index = engine.validators.get_index(peer)
                votes = [] if index is None else engine.book.get_votes_of(index)
                bounded = tuple(votes[:MAX_VOTES_PER_ANSWER])
                final = engine.chain.finalization
                response = VotesResponse(engine.epoch, bounded, final)
                self._out.append(Send(peer, response))
            case _:
                assert_never(request)

    # ---- answers ---------------------------------------------------------------------------

    def _take_block(self, peer: PeerId, response: BlockResponse) -> None:
        digest, block = response.digest, response.block
        if not self._catchup.is_wanted(digest):
            return
        if not block:
            self._catchup.refuse_body(digest, peer, self._now_ms)
            return
        info = self._ports.decode_block(block)
        if info is None or info.digest != digest:
            self._out.append(DropPeer(peer, "a block that is not the one asked for"))
            self._catchup.refuse_body(digest, peer, self._now_ms)
            return
        self._engine.add_body(info, block)

    def _take_range(self, peer: PeerId, response: SyncResponse) -> None:
        """Take in consecutive final blocks; the certificate of the last one proves them all."""
        engine = self._engine
        if self._run and self._run[0][0].parent != engine.chain.tip.digest:
            # The tip moved otherwise meanwhile.
            self._forget_run()
        due = {self._catchup.get_sync_height(peer), engine.chain.tip.height + 1 + len(self._run)}
        if due != {response.first_height} or engine.is_closed:
            return
        self._catchup.note_served(peer)
        run = self._read_run(peer, response) if response.blocks else None
        if run is None and self._run:
            self._begin_anew()
            return
        if run is None:
            is_vain = self._catchup.refuse_sync(peer, self._now_ms)
            engine.note_range(None if is_vain else engine.ahead)
            return
        self._run += run
        self._run_bytes += sum(len(block) for _, block in run)
        if response.finalization is not None:
            for info, block in self._run:
                engine.add_body(info, block)
            self._forget_run()
            engine.take_run(response.finalization)
        elif self._run_bytes > MAX_PENDING_RUN_BYTES:
            self._begin_anew()
        else:
            engine.note_range(peer, len(self._run))

    def _give_up_run(self) -> None:
        """Begin a range anew when the peer that its blocks came from fell silent."""
        if self._run and self._catchup.is_sync_stuck(self._now_ms):
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Fetch from the tip on again, of others first: nothing proves what one peer sent."""
        self._forget_run()
        self._engine.note_range(self._engine.ahead)

    def _forget_run(self) -> None:
        self._run.clear()
        self._run_bytes = 0

    def _read_run(
        self, peer: PeerId, response: SyncResponse
    ) -> list[tuple[BlockInfo, bytes]] | None:
        """Return the blocks of a range answer, linked to what is here, or None if they are not."""
        engine = self._engine
        digest = self._run[-1][0].digest if self._run else engine.chain.tip.digest
        height = response.first_height
        run: list[tuple[BlockInfo, bytes]] = []
        for block in response.blocks:
            info = self._ports.decode_block(block)
            linked = info is not None and (info.parent, info.height) == (digest, height)
            if info is None or not linked or info.epoch != engine.epoch:
                self._out.append(DropPeer(peer, f"no final block of height {height}"))
                return None
            run.append((info, block))
            digest, height = info.digest, height + 1
        finalization = response.finalization
        if finalization is None:
            return run
        proposition = finalization.proposition
        if proposition.epoch != engine.epoch or proposition.digest != digest:
            self._out.append(DropPeer(peer, "a certificate of another block than the last"))
            return None
        try:
            engine.check(finalization)
        except ProofInvalid as error:
            self._out.append(DropPeer(peer, f"finalization of height {height - 1}: {error}"))
            return None
        return run
