"""What is known about one view: votes by signer, certificates, and the leader's proposal.

Votes that no longer matter for a certificate are kept unverified, only so that a later conflicting
one is noticed; a verified vote is never replaced. Counting looks at verified votes alone.
"""

from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
)
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote

Statement = Proposition | NullifyBody


class ViewState:
    """Everything a replica knows about one view. Owned and changed by the engine."""

    __slots__ = (
        "certified",
        "equivocated",
        "finalization",
        "finalizes",
        "notarization",
        "notarizes",
        "nullification",
        "nullifies",
        "proposal",
        "refused",
        "verified",
        "view",
    )

    def __init__(self, view: int) -> None:
        self.view = view
        self.notarizes: dict[int, Notarize] = {}
        self.nullifies: dict[int, Nullify] = {}
        self.finalizes: dict[int, Finalize] = {}
        self.verified: dict[tuple[type, Statement], int] = {}
        """(vote type, statement) -> bit mask of signers whose vote for it is verified."""
        self.notarization: Notarization | None = None
        self.nullification: Nullification | None = None
        self.finalization: Finalization | None = None
        self.proposal: Proposition | None = None
        """The first P that the leader signed."""
        self.equivocated = False
        """The leader signed two different P."""
        self.refused = False
        """The leader's proposal breaks a rule or is invalid."""
        self.certified = False
        """The notarized block is here, executed and valid, with all its ancestors."""

    def get_votes(self, kind: type[Vote]) -> dict[int, Vote]:
        """Return the votes of one kind by signer index. The caller does not change it."""
        if kind is Notarize:
            return self.notarizes  # type: ignore[return-value]
        if kind is Nullify:
            return self.nullifies  # type: ignore[return-value]
        return self.finalizes  # type: ignore[return-value]

    def has_certificate(self, kind: type[Vote]) -> bool:
        """Return whether votes of this kind are no longer needed."""
        if kind is Notarize:
            return self.notarization is not None
        if kind is Nullify:
            return self.nullification is not None
        return self.finalization is not None

    def is_verified(self, signer: int, vote: Vote, statement: Statement) -> bool:
        """Return whether this signer's kept vote for the statement has been verified."""
        return bool(self.verified.get((type(vote), statement), 0) >> signer & 1)

    def add(self, signer: int, vote: Vote, statement: Statement, *, is_verified: bool) -> int:
        """Keep a vote that has no predecessor of its kind; return how many verified ones agree."""
        self.get_votes(type(vote))[signer] = vote
        mask = self.verified.get((type(vote), statement), 0)
        if is_verified:
            mask |= 1 << signer
            self.verified[type(vote), statement] = mask
        return mask.bit_count()

    def mark_verified(self, signer: int, vote: Vote, statement: Statement) -> None:
        """Note that the kept vote of this signer turned out valid."""
        key = (type(vote), statement)
        self.verified[key] = self.verified.get(key, 0) | 1 << signer

    def count(self, kind: type[Vote], statement: Statement) -> int:
        """Return how many verified votes of this kind there are for a statement."""
        return self.verified.get((kind, statement), 0).bit_count()

    def get_verified(self, kind: type[Vote], statement: Statement) -> dict[int, Vote]:
        """Return the verified votes of one kind for a statement, by signer index."""
        mask = self.verified.get((kind, statement), 0)
        votes = self.get_votes(kind)
        return {signer: vote for signer, vote in votes.items() if mask >> signer & 1}

    def get_signatures(self, kind: type[Vote], statement: Statement) -> dict[int, bytes]:
        """Return the verified signatures of one kind for a statement, by signer index."""
        return {
            signer: vote.signature for signer, vote in self.get_verified(kind, statement).items()
        }

    def get_certificates(self) -> list[Certificate]:
        """Return the certificates held for this view."""
        held = (self.finalization, self.notarization, self.nullification)
        return [certificate for certificate in held if certificate is not None]


def find_conflicts(state: ViewState, signer: int, vote: Vote) -> list[Vote]:
    """Return the kept votes of this signer that an honest validator does not send with `vote`."""
    conflicts: list[Vote] = []
    match vote:
        case Notarize(proposition):
            earlier = state.notarizes.get(signer)
            if earlier is not None and earlier.proposition != proposition:
                conflicts.append(earlier)
        case Finalize(proposition):
            before = state.finalizes.get(signer)
            if before is not None and before.proposition != proposition:
                conflicts.append(before)
            if signer in state.nullifies:
                conflicts.append(state.nullifies[signer])
        case Nullify():
            if signer in state.finalizes:
                conflicts.append(state.finalizes[signer])
    return conflicts
