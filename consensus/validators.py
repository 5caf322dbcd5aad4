"""The ordered validator set of one epoch: who votes, under which key, and how many are needed."""

from dataclasses import dataclass, field

from atpar.ledger.blocks import ValidatorKey, ValidatorSetId, compute_validators_hash
from atpar.ledger.certificates import compute_quorum
from atpar.ledger.limits import MAX_VALIDATORS, MIN_VALIDATORS


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    """The voters of one epoch. A validator's index is its position in `members`."""

    epoch: int
    members: tuple[ValidatorKey, ...]
    indexes: dict[str, int] = field(init=False, repr=False, compare=False)
    """Participant code -> index."""

    def __post_init__(self) -> None:
        indexes = {member.participant: index for index, member in enumerate(self.members)}
        if not MIN_VALIDATORS <= len(self.members) <= MAX_VALIDATORS:
            raise ValueError(
                f"{len(self.members)} validators, allowed {MIN_VALIDATORS}..{MAX_VALIDATORS}"
            )
        if len(indexes) != len(self.members):
            raise ValueError("a participant stands twice in the validator set")
        if len({member.vote_key for member in self.members}) != len(self.members):
            raise ValueError("a vote key stands twice in the validator set")
        object.__setattr__(self, "indexes", indexes)

    @classmethod
    def from_id(cls, validators: ValidatorSetId) -> "ValidatorSet":
        """Return the set that a `ValidatorSetId` of the ledger names."""
        return cls(epoch=validators.epoch, members=validators.members)

    @property
    def size(self) -> int:
        """n."""
        return len(self.members)

    @property
    def quorum(self) -> int:
        """Q = n - f: the votes that make a certificate."""
        return compute_quorum(len(self.members))

    @property
    def faults(self) -> int:
        """f: how many may misbehave in any way."""
        return (len(self.members) - 1) // 3

    def get_index(self, participant: str) -> int | None:
        """Return a participant's index, or None when it has no vote in this epoch."""
        return self.indexes.get(participant)

    def compute_hash(self) -> bytes:
        """Return the hash that headers carry as `validators_hash`."""
        return compute_validators_hash(ValidatorSetId(self.epoch, self.members))
