"""The one gate for signing: every vote of this validator passes through `SigningGate.cast`.

It binds in memory before it returns: a vote that awaits its fsync already counts as sent, so no
timer can sign the opposite meanwhile. Safety rests on three things, two of which are here: one
notarize per view, and nullify XOR finalize per view (the third, the ancestry check, is made before
a notarize is asked for). It keeps sets per view, not a watermark: late finalizes and early
nullifies are legal.
"""

from collections.abc import Callable
from enum import Enum
from typing import assert_never

from atpar.ledger.certificates import Notarization, NullifyBody, Proposition, compute_vote_bytes
from atpar.ledger.hashing import SignKind
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, get_body

Sign = Callable[[bytes], bytes]
"""Sign bytes -> signature by this validator's vote key."""


class GateState(Enum):
    """Whether votes may leave."""

    OPEN = "open"
    ASKING = "asking"
    """After a start, until enough peers said which votes of ours they have seen."""
    LOST = "lost"
    """The journal misses votes, or never was opened for this epoch: closed until the next."""
    OBSERVING = "observing"
    """Not a member of this epoch's set, without a key, or in a later epoch already."""


class SigningGate:
    """Own votes of one epoch, and the only place where new ones are signed."""

    def __init__(
        self, *, chain_id: bytes, sign: Sign | None, epoch: int, floor: int, state: GateState
    ) -> None:
        self._chain_id = chain_id
        self._sign = sign
        self._epoch = epoch
        self._floor = floor
        self._notarized: dict[int, Notarize] = {}
        self._nullified: dict[int, Nullify] = {}
        self._finalized: dict[int, Finalize] = {}
        self.state = state if sign is not None else GateState.OBSERVING

    def cast(
        self,
        kind: SignKind,
        body: Proposition | NullifyBody,
        *,
        notarization: Notarization | None = None,
    ) -> Vote | None:
        """Return a newly signed vote, bound from now on, or None when it must not be cast.

        A finalize needs the notarization of its own P. A vote that was cast before is not cast
        again: `get_votes` has it.
        """
        if self.state is not GateState.OPEN or self._sign is None:
            return None
        if body.epoch != self._epoch or body.view <= self._floor:
            return None
        view = body.view
        vote: Vote
        if kind is SignKind.NULLIFY and isinstance(body, NullifyBody):
            if view in self._finalized or view in self._nullified:
                return None
            signature = self._sign(compute_vote_bytes(kind, self._chain_id, body))
            vote = self._nullified[view] = Nullify(body, signature)
            return vote
        assert isinstance(body, Proposition), f"{kind} does not sign {body}"
        if view in self._nullified:
            return None
        if kind is SignKind.NOTARIZE:
            if view in self._notarized:
                return None
            signature = self._sign(compute_vote_bytes(kind, self._chain_id, body))
            vote = self._notarized[view] = Notarize(body, signature)
            return vote
        assert kind is SignKind.FINALIZE, f"{kind} is no vote"
        if view in self._finalized or notarization is None or notarization.proposition != body:
            return None
        signature = self._sign(compute_vote_bytes(kind, self._chain_id, body))
        vote = self._finalized[view] = Finalize(body, signature)
        return vote

    def restore(self, vote: Vote) -> None:
        """Take back a vote from the journal. It binds like a new one."""
        match vote:
            case Notarize(proposition):
                self._notarized[proposition.view] = vote
            case Nullify(body):
                self._nullified[body.view] = vote
            case Finalize(proposition):
                self._finalized[proposition.view] = vote
            case _:
                assert_never(vote)

    def raise_floor(self, view: int) -> None:
        """Refuse every vote at or below a final view from now on. Never moves backwards."""
        self._floor = max(self._floor, view)

    def forget_through(self, view: int) -> None:
        """Forget votes at or below a final view whose commit is synced.

        Not while peers are still asked for my votes: their answers are held against these.
        """
        if self.state is GateState.ASKING:
            return
        for votes in (self._notarized, self._nullified, self._finalized):
            for old in [v for v in votes if v <= view]:
                del votes[old]

    def get_notarize(self, view: int) -> Notarize | None:
        """Return my notarize in a view."""
        return self._notarized.get(view)

    def get_nullify(self, view: int) -> Nullify | None:
        """Return my nullify in a view."""
        return self._nullified.get(view)

    def get_votes(self) -> list[Vote]:
        """Return every vote that is kept, by view, a view's notarize first."""
        votes: list[Vote] = [*self._notarized.values()]
        votes += [*self._nullified.values(), *self._finalized.values()]
        return sorted(votes, key=lambda vote: get_body(vote).view)

    def has_cast(self, vote: Vote) -> bool:
        """Return whether this very statement was voted for here (whatever the signature)."""
        body = get_body(vote)
        match vote:
            case Notarize():
                mine: Vote | None = self._notarized.get(body.view)
            case Nullify():
                mine = self._nullified.get(body.view)
            case Finalize():
                mine = self._finalized.get(body.view)
            case _:
                assert_never(vote)
        return mine is not None and get_body(mine) == body
