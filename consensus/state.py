"""What one replica knows in one epoch, and what follows from it without changing anything.

`engine.py` holds the rules that change it.
"""

from atpar.consensus.blocks import BodyPool
from atpar.consensus.book import VoteBook
from atpar.consensus.catchup import CatchUp, Needs
from atpar.consensus.certificates import get_statement
from atpar.consensus.effects import Effect
from atpar.consensus.finality import FinalChain
from atpar.consensus.leader import compute_leaders
from atpar.consensus.limits import MAX_CERTIFICATES_PER_ANSWER
from atpar.consensus.messages import Message, Proposal
from atpar.consensus.pacemaker import Pacemaker
from atpar.consensus.proposals import Parent
from atpar.consensus.records import (
    BodyRecord,
    CertificateRecord,
    CertifiedRecord,
    JournalRecord,
    VoteRecord,
)
from atpar.consensus.safety import GateState, SigningGate
from atpar.consensus.types import EpochStart, PeerId, Ports, ReplicaConfig, Tip
from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    Proposition,
    decode_bitmap,
)
from atpar.ledger.votes import Notarize, get_body


class EpochState:
    """The data of one epoch and questions about it. The base of `Engine`, which owns it."""

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
        self.boundary_height = start.compute_boundary(config.epoch_blocks)
        self.chain = FinalChain(tip)
        self.restored_view = tip.view
        """The final view at the start: the journal holds every own vote above it, and below it
        nothing is ever signed again."""
        self.pool = BodyPool()
        self.book = VoteBook(
            chain_id=config.chain_id,
            validators=start.validators,
            leaders=compute_leaders(config.chain_id, start.validators),
            verify=ports.verify,
            gate=gate,
            me=self.me,
            out=out,
        )
        self.pace = Pacemaker(
            config.timing,
            size=start.validators.size,
            quorum=start.validators.quorum,
            me=self.me,
        )
        self.view = 0
        self.is_closed = False
        """The boundary block was committed: nothing more happens in this epoch."""
        self.is_pending = False
        """A block could carry a transaction. Unknown, and so false, on entering a view."""
        self.ahead: PeerId | None = None
        """A peer that is known to hold final blocks beyond ours."""
        self.now_ms = 0
        self.wall_ms = 0
        self._uncertified: list[int] = []
        """Views above the final one with a notarization that is not certified, ascending."""
        self._top: tuple[int, bytes] = (tip.view, tip.digest)
        """View and digest of the highest certified or final block."""
        self._unfinal: dict[int, int] = {}
        """Certified views whose block must become final -> when it was certified."""
        self._restored: set[Proposition] = set()
        """Certification verdicts from the journal, until execution here repeats them."""
        self._dirty = True
        self._reason: str | None = None
        """Why the current view shall be nullified."""
        self._building: tuple[int, int] | None = None
        """(view, parent view) of the block that was asked for; parent view -1: it came."""
        self._proposed_ms: int | None = None
        """When the last proposal was seen or made here."""
        self._clock_at: int | None = None
        """When the current proposal's timestamp is no longer too early."""
        self._noticed: tuple[int, bytes] | None = None
        self._needs = Needs()
        self._held = 0
        """Blocks of a range above the tip that wait for their certificate."""
        self._looked_ms: int | None = None
        self._healed: dict[PeerId, int] = {}

    # ---- what others ask -------------------------------------------------------------------

    def get_leader(self, view: int) -> int:
        """Return the index of a view's leader."""
        return self.book.get_leader(view)

    def get_leader_name(self, view: int) -> str:
        """Return the participant code of a view's leader."""
        return self.validators.members[self.get_leader(view)].participant

    def get_certificates(self, first_view: int) -> list[Certificate]:
        """Return held certificates for an asker at that view, the final one first; bounded."""
        held: list[Certificate] = []
        if self.chain.finalization is not None and self.chain.view >= first_view:
            held.append(self.chain.finalization)
        held += self.book.get_certificates(max(first_view, self.chain.view + 1))
        return held[:MAX_CERTIFICATES_PER_ANSWER]

    def get_entry_certificate(self) -> Certificate | None:
        """Return what best shows that the current view may be entered; None at the start."""
        state = self.book.views.get(self.view - 1)
        if state is not None and self.chain.view < self.view - 1:
            return state.nullification or state.notarization or self.chain.finalization
        return self.chain.finalization

    def get_greeting(self) -> list[Message]:
        """Return what a peer that was away should hear: how to enter my view, my open votes."""
        entry = self.get_entry_certificate()
        greeting: list[Message] = [] if entry is None else [entry]
        votes = [vote for vote in self.gate.get_votes() if get_body(vote).view > self.chain.view]
        for vote in votes[-3 * (self.validators.size + 1) :]:
            body = None
            is_mine = self.get_leader(get_body(vote).view) == self.me
            if isinstance(vote, Notarize) and is_mine and vote.proposition.view >= self.view:
                body = self.pool.get(vote.proposition.digest)
                if body is not None:
                    greeting.append(Proposal(vote, body.data))
            if body is None:
                greeting.append(vote)
        return greeting

    def get_records(self) -> list[JournalRecord]:
        """Return the journal records of this epoch that no synced commit covers."""
        synced = self.chain.synced_view
        votes = [vote for vote in self.gate.get_votes() if get_body(vote).view > synced]
        records: list[JournalRecord] = [BodyRecord(body.data) for body in self.pool.get_journaled()]
        records += [VoteRecord(vote) for vote in votes]
        for view in sorted(v for v in self.book.views if v > synced):
            state = self.book.views[view]
            records += [CertificateRecord(held) for held in state.get_certificates()]
            if state.certified and state.notarization is not None:
                records.append(CertifiedRecord(state.notarization.proposition))
        return records

    @property
    def deadline_ms(self) -> int | None:
        """When a timer is due next."""
        if self.is_closed:
            return None
        pace = self.pace
        times: list[int | None] = [self._catchup.deadline_ms, self._clock_at]
        if pace.is_awake:
            times += [pace.leader_at, pace.advance_at, pace.retry_at, self.get_propose_at()]
        else:
            times.append(pace.heartbeat_at)
            if self._unfinal:
                times.append(min(self._unfinal.values()) + pace.delta_ms)
        return min((time for time in times if time is not None), default=None)

    def contradicts_final(self, certificate: Certificate) -> bool:
        """Return whether a certificate of the final view cannot be true beside the final one."""
        final = self.chain.finalization
        statement = get_statement(certificate)
        if final is None or statement.view != self.chain.view:
            return False
        if isinstance(certificate, Finalization):
            return statement != final.proposition
        return isinstance(certificate, Nullification)

    def get_parent(self, view: int) -> Parent | None:
        """Return the block certified (or final) in a view, if it is here."""
        if view == self.chain.view:
            digest = self.chain.digest
        else:
            state = self.book.views.get(view)
            if state is None or not state.certified or state.notarization is None:
                return None
            digest = state.notarization.proposition.digest
        tip = self.chain.tip
        if digest == tip.digest:
            return Parent(digest, tip.height, tip.timestamp_ms, is_boundary=False)
        body = self.pool.get(digest)
        if body is None:
            return None
        height = body.info.height
        is_boundary = height == self.boundary_height
        return Parent(digest, height, body.info.timestamp_ms, is_boundary=is_boundary)

    def is_nullified_between(self, low: int, high: int) -> bool:
        """Return whether every view strictly between two has a nullification here."""
        for view in range(low + 1, high):
            state = self.book.views.get(view)
            if state is None or state.nullification is None:
                return False
        return True

    def get_holders(self, certificate: Notarization | Finalization) -> list[PeerId]:
        """Return who signed a certificate, starting after me, so that askers spread."""
        size = self.validators.size
        first = 0 if self.me is None else self.me + 1
        signers = decode_bitmap(certificate.signers, size)
        signers.sort(key=lambda index: (index - first) % size)
        return [self.validators.members[index].participant for index in signers]

    def get_propose_at(self) -> int | None:
        """Return when to propose in the current view; None when it is not for us to."""
        if (
            self.get_leader(self.view) != self.me
            or self._building is not None
            or self.gate.state is not GateState.OPEN
            or not self.chain.is_whole
            or self.gate.get_notarize(self.view) is not None
            or self.gate.get_nullify(self.view) is not None
        ):
            return None
        if self._proposed_ms is None:
            return self.now_ms
        return self._proposed_ms + self._timing.block_interval_ms

    def is_skippable(self, view: int) -> bool:
        """Return whether a view may be given up because its leader counts as inactive."""
        if view - self.chain.view > self.validators.size:
            return False
        return self.pace.is_inactive(self.get_leader(view), self.now_ms)
