"""Who votes and who misses: what the operators see of each validator.

Fed with the vote frames that pass by and with final certificates; decides nothing. A final view
is judged a little after it became final, because a certificate needs only a quorum and the other
votes arrive a moment later.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from atpar.consensus.messages import decode_message
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.certificates import decode_bitmap
from atpar.ledger.errors import NonCanonical
from atpar.ledger.votes import Finalize, Notarize, Nullify
from atpar.node.clock import Clock
from atpar.node.limits import MAX_WATCHED_VIEWS, VOTE_GRACE_MS
from atpar.node.metrics import Metrics
from atpar.node.store import FinalBlock

_VOTE_TAGS: Final = (16, 17, 18)


@dataclass(slots=True)
class VoteRecord:
    """What has been seen of one validator since this node started."""

    last_epoch: int = 0
    last_view: int | None = None
    """In that epoch: views begin again with each."""
    last_ms: int | None = None
    missed: int = 0


class VoteWatch:
    """Keeps a record per validator. All calls are plain and cheap."""

    def __init__(
        self, *, own: str, get_set: Callable[[], ValidatorSet], clock: Clock, metrics: Metrics
    ) -> None:
        self._own = own
        self._get_set = get_set
        self._clock = clock
        self._metrics = metrics
        self._records: dict[str, VoteRecord] = {}
        self._seen: OrderedDict[tuple[int, int], set[str]] = OrderedDict()
        """(epoch, view) -> who was seen to vote in it."""
        self._due: deque[tuple[int, int, int]] = deque()
        """(when to judge, epoch, view) of final views."""
        self._sets: dict[int, ValidatorSet] = {}
        """The running epoch's set and the one before: the boundary is reported after it."""
        self._update_sets()

    def _update_sets(self) -> None:
        running = self._get_set()
        if running.epoch not in self._sets:
            before = self._sets.get(running.epoch - 1)
            self._sets = {running.epoch: running}
            if before is not None:
                self._sets[before.epoch] = before

    def get(self, participant: str) -> VoteRecord:
        """Return the record of a validator."""
        return self._records.get(participant) or VoteRecord()

    def note_frame(self, peer: str, payload: bytes) -> None:
        """Take note of a frame of the channel of votes, whatever it holds."""
        # [tag, …]: certificates pass here too and are not decoded twice.
        if len(payload) < 2 or payload[1] not in _VOTE_TAGS:
            return
        try:
            vote = decode_message(payload)
        except NonCanonical:
            return
        if isinstance(vote, Notarize | Finalize):
            self._note(peer, (vote.proposition.epoch, vote.proposition.view))
        elif isinstance(vote, Nullify):
            self._note(peer, (vote.body.epoch, vote.body.view))

    def note_final(self, block: FinalBlock) -> None:
        """Take note of a final block: its certificate's signers voted, the rest is judged later."""
        self._update_sets()
        epoch, view = block.header.epoch, block.finalization.proposition.view
        voters = self._sets.get(epoch)
        is_own = block.header.height == block.finalized_height and block.header.view == view
        if is_own and voters is not None:
            for index in decode_bitmap(block.finalization.signers, voters.size):
                self._note(voters.members[index].participant, (epoch, view))
            # A leader's notarize travels inside its proposal.
            self._note(block.header.proposer, (epoch, view))
            self._due.append((self._clock.now_ms() + VOTE_GRACE_MS, epoch, view))
        while len(self._due) > MAX_WATCHED_VIEWS:
            self._due.popleft()
        self._judge()

    def _note(self, participant: str, place: tuple[int, int]) -> None:
        epoch, view = place
        record = self._records.setdefault(participant, VoteRecord())
        if record.last_view is None or (epoch, view) > (record.last_epoch, record.last_view):
            record.last_epoch, record.last_view = epoch, view
        record.last_ms = self._clock.wall_ms()
        self._seen.setdefault(place, set()).add(participant)
        while len(self._seen) > MAX_WATCHED_VIEWS:
            self._seen.popitem(last=False)

    def _judge(self) -> None:
        """Count who was not seen in final views whose grace is over."""
        now_ms = self._clock.now_ms()
        while self._due and self._due[0][0] <= now_ms:
            _, epoch, view = self._due.popleft()
            seen = self._seen.get((epoch, view), set())
            voters = self._sets.get(epoch)
            for member in () if voters is None else voters.members:
                code = member.participant
                if code not in seen and code != self._own:
                    self._records.setdefault(code, VoteRecord()).missed += 1
                    self._metrics.votes_missed.labels(code).inc()
