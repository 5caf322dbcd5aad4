"""The book of votes of one epoch: what each validator signed in each view, and what contradicts it.

Votes are verified only when they count towards a certificate that is not held yet, or when they
conflict with an earlier one; others are kept as they are, for a conflict that may come later. So a
flood of votes costs one check each at most, and evidence is made of verified signatures only.
"""

from collections.abc import Sequence
from enum import Enum

from atpar.consensus.certificates import get_statement, split_certificate
from atpar.consensus.effects import (
    AlarmKind,
    DropPeer,
    Effect,
    Persist,
    RaiseAlarm,
    ReportEvidence,
)
from atpar.consensus.limits import MAX_CERTIFICATES_PER_ANSWER, MAX_EVIDENCE_PER_VALIDATOR
from atpar.consensus.records import JournalLostRecord
from atpar.consensus.safety import GateState, SigningGate
from atpar.consensus.types import PeerId
from atpar.consensus.validators import ValidatorSet
from atpar.consensus.views import ViewState, find_conflicts
from atpar.ledger.certificates import Certificate
from atpar.ledger.evidence import build_evidence
from atpar.ledger.votes import Notarize, Verify, Vote, get_body, verify_vote


class Taken(Enum):
    """What became of a vote."""

    REFUSED = "refused"
    """Not valid, or in conflict with an earlier vote of the signer: not kept."""
    KNOWN = "known"
    """Held already."""
    KEPT = "kept"
    """Held from now on, unverified: it is not needed for a certificate."""
    COUNTED = "counted"
    """Held from now on, verified."""


class VoteBook:
    """Votes and certificates by view. Owned by an `Engine`."""

    def __init__(
        self,
        *,
        chain_id: bytes,
        validators: ValidatorSet,
        leaders: Sequence[int],
        verify: Verify,
        gate: SigningGate,
        me: int | None,
        out: list[Effect],
    ) -> None:
        self._chain_id = chain_id
        self._validators = validators
        self._leaders = leaders
        self._verify = verify
        self._gate = gate
        self._me = me
        self._out = out
        self._accused: dict[int, int] = {}
        self.views: dict[int, ViewState] = {}
        """What is known, by view. Read by the engine, changed here."""

    def get_leader(self, view: int) -> int:
        """Return the index of a view's leader."""
        return self._leaders[view % len(self._leaders)]

    def get_or_add(self, view: int) -> ViewState:
        """Return what is known about a view, from now on at least that it exists."""
        state = self.views.get(view)
        if state is None:
            state = self.views[view] = ViewState(view)
        return state

    def drop_below(self, view: int) -> None:
        """Forget the views below one: too old even for evidence."""
        for old in [v for v in self.views if v < view]:
            del self.views[old]

    def take(self, peer: PeerId, signer: int, vote: Vote, *, final_view: int) -> Taken:
        """Take in a vote of the peer itself; a bad signature drops the peer."""
        body = get_body(vote)
        kind = type(vote)
        state = self.get_or_add(body.view)
        held = state.get_votes(kind).get(signer)
        if held is not None and get_body(held) == body:
            return Taken.KNOWN
        conflicts = find_conflicts(state, signer, vote)
        counts = held is None and body.view > final_view and not state.has_certificate(kind)
        if (counts or conflicts) and not self._is_valid(signer, vote):
            self._out.append(DropPeer(peer, f"{kind.__name__} signature in view {body.view}"))
            return Taken.REFUSED
        for earlier in conflicts:
            self._accuse(state, signer, earlier, vote)
        if held is not None:
            return Taken.REFUSED
        self._add(state, signer, vote, is_verified=counts or bool(conflicts))
        return Taken.COUNTED if counts else Taken.KEPT

    def add_own(self, vote: Vote) -> None:
        """Count a vote that passed the gate, or stands in the journal."""
        if self._me is not None:
            state = self.get_or_add(get_body(vote).view)
            if self._me not in state.get_votes(type(vote)):
                self._add(state, self._me, vote, is_verified=True)

    def absorb(self, certificate: Certificate, *, is_journaled: bool = False) -> None:
        """Count a checked certificate's votes, so that a conflicting vote is noticed.

        A certificate out of the own journal proves nothing against that journal: compaction keeps
        the latest finalization and drops the votes that it covers.
        """
        state = self.get_or_add(get_statement(certificate).view)
        for signer, vote in split_certificate(certificate, self._validators).items():
            is_missing = signer == self._me and not self._gate.has_cast(vote)
            if is_missing and not is_journaled:
                self.close_gate(f"{type(vote).__name__} in view {state.view}, in a certificate")
            for earlier in find_conflicts(state, signer, vote):
                self._accuse(state, signer, earlier, vote)
            held = state.get_votes(type(vote)).get(signer)
            if held is None or not state.is_verified(signer, held, get_body(held)):
                self._add(state, signer, vote, is_verified=True)

    def close_gate(self, what: str) -> None:
        """Vote no more in this epoch: a vote of ours exists that the journal misses."""
        gate = self._gate
        if gate.state not in (GateState.OPEN, GateState.ASKING):
            return
        gate.state = GateState.LOST
        epoch = self._validators.epoch
        self._out.append(Persist(JournalLostRecord(epoch)))
        text = f"not in the journal of epoch {epoch}: {what}"
        self._out.append(RaiseAlarm(AlarmKind.JOURNAL_LOST, text))

    def get_certificates(self, first_view: int) -> list[Certificate]:
        """Return the certificates of views from one on, by view; bounded."""
        held: list[Certificate] = []
        for view in sorted(v for v in self.views if v >= first_view):
            held += self.views[view].get_certificates()
            if len(held) >= MAX_CERTIFICATES_PER_ANSWER:
                break
        return held

    def get_votes_of(self, index: int) -> list[Vote]:
        """Return one validator's votes that are kept, latest view first."""
        votes: list[Vote] = []
        for view in sorted(self.views, reverse=True):
            state = self.views[view]
            kinds = (state.notarizes, state.nullifies, state.finalizes)
            votes += [kind[index] for kind in kinds if index in kind]
        return votes

    def _add(self, state: ViewState, signer: int, vote: Vote, *, is_verified: bool) -> None:
        state.add(signer, vote, get_body(vote), is_verified=is_verified)
        if is_verified and isinstance(vote, Notarize) and signer == self.get_leader(state.view):
            state.proposal = state.proposal or vote.proposition

    def _accuse(self, state: ViewState, signer: int, earlier: Vote, later: Vote) -> None:
        """Report two votes that exclude each other, the later one verified by the caller."""
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
        participant = self._validators.members[signer].participant
        self._out.append(ReportEvidence(build_evidence(participant, earlier, later)))
        text = f"{participant} signed two conflicting votes in view {state.view}"
        self._out.append(RaiseAlarm(AlarmKind.EQUIVOCATION, text))

    def _is_valid(self, signer: int, vote: Vote) -> bool:
        return verify_vote(
            vote,
            chain_id=self._chain_id,
            public_key=self._validators.members[signer].vote_key,
            verify=self._verify,
        )
