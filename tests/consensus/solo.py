"""One replica among puppets: every message of the others is made by the test."""

from collections.abc import Sequence
from typing import TypeVar

from atpar.consensus.certificates import build_certificate
from atpar.consensus.effects import (
    Broadcast,
    BuildBlock,
    Commit,
    DropPeer,
    Effect,
    Halt,
    Persist,
    RaiseAlarm,
    ReportEvidence,
    Send,
    VerifyBlock,
)
from atpar.consensus.events import (
    BlockBuilt,
    BlockVerdict,
    CommitSynced,
    Event,
    MessageReceived,
    PeerConnected,
    PendingChanged,
    Ticked,
)
from atpar.consensus.leader import compute_leaders
from atpar.consensus.messages import Message, Proposal, VotesResponse
from atpar.consensus.records import EpochOpenedRecord, JournalRecord
from atpar.consensus.replica import Replica
from atpar.consensus.safety import GateState
from atpar.consensus.types import BlockInfo, EpochStart, Ports, ReplicaConfig, Timing, Tip
from atpar.ledger.certificates import (
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
)
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, compute_signed_bytes
from tests.consensus.fakes import (
    CHAIN_ID,
    GENESIS,
    NAMES,
    WALL_ZERO_MS,
    FakeBlock,
    decode_block,
    digest_of,
    encode_block,
    fake_sign,
    fake_verify,
    make_key,
    make_validators,
)

T = TypeVar("T")
GENESIS_TIME_MS = WALL_ZERO_MS - 1_000


def opening(epoch: int = 0) -> EpochOpenedRecord:
    return EpochOpenedRecord(epoch, 0, GENESIS)


class Solo:
    """A replica under test (`me`) in a set of puppets."""

    def __init__(
        self,
        *,
        size: int = 4,
        lead: int | None = None,
        epoch_blocks: int = 1_000,
        records: Sequence[JournalRecord] | None = None,
        tip: Tip | None = None,
        timing: Timing | None = None,
        is_open: bool = True,
        me: str | None = None,
    ) -> None:
        """`lead`: the view (1..n) that `me` leads; default the last of the first n."""
        self.names = NAMES[:size]
        self.set = make_validators(0, self.names)
        self.leaders = compute_leaders(CHAIN_ID, self.set)
        led = size if lead is None else lead
        self.me = me or self.names[self.leaders[led % size]]
        self.now = 1_000
        self.wall_offset = WALL_ZERO_MS
        self.log: list[Effect] = []
        self.verified: list[bytes] = []
        self.decoded = 0
        key = make_key(self.me)
        self.start_point = EpochStart(self.set, GENESIS, 0, GENESIS_TIME_MS)
        self.replica = Replica(
            ReplicaConfig(
                chain_id=CHAIN_ID,
                participant=self.me,
                epoch_blocks=epoch_blocks,
                timing=timing or Timing(),
            ),
            Ports(
                sign=lambda message: fake_sign(key, message),
                verify=self._verify,
                decode_block=self._decode,
            ),
            start=self.start_point,
            tip=tip or Tip(GENESIS, 0, GENESIS_TIME_MS, None),
            records=[opening()] if records is None else records,
        )
        self.log += self.replica.start(now_ms=self.now, wall_ms=self.wall)
        for name in self.others:
            self.give(PeerConnected(name))
        if is_open:
            self.open()
        self.log = [effect for effect in self.log if isinstance(effect, BuildBlock | VerifyBlock)]

    def _verify(self, key: bytes, message: bytes, signature: bytes) -> bool:
        self.verified.append(signature)
        return fake_verify(key, message, signature)

    def _decode(self, data: bytes) -> BlockInfo | None:
        self.decoded += 1
        return decode_block(data)

    # ---- driving

    @property
    def wall(self) -> int:
        return self.wall_offset + self.now

    @property
    def others(self) -> list[str]:
        return [name for name in self.names if name != self.me]

    def open(self) -> None:
        for name in self.others:
            self.hear(name, VotesResponse(0, (), None))
        assert self.replica.gate_state is not GateState.ASKING

    def give(self, event: Event) -> list[Effect]:
        effects = self.replica.handle(event, now_ms=self.now, wall_ms=self.wall)
        self.log += effects
        return effects

    def hear(self, peer: str, message: Message) -> list[Effect]:
        return self.give(MessageReceived(peer, message))

    def wait(self, duration_ms: int) -> list[Effect]:
        """Let virtual time pass, ticking at every deadline, as a caller does."""
        end = self.now + duration_ms
        effects: list[Effect] = []
        while True:
            deadline = self.replica.deadline_ms
            if deadline is None or deadline > end:
                break
            assert deadline > self.now or not effects or deadline >= self.now
            self.now = max(self.now, deadline)
            effects += self.give(Ticked())
        self.now = end
        return effects

    def pend(self) -> list[Effect]:
        return self.give(PendingChanged(pending=True))

    def judge(self, *, is_valid: bool = True) -> list[Effect]:
        """Answer the last VerifyBlock."""
        task = self.last(VerifyBlock)
        return self.give(BlockVerdict(task.proposition, is_valid))

    def build(self) -> Proposition:
        """Answer the last BuildBlock; return what was proposed."""
        task = self.last(BuildBlock)
        data = self.block(
            task.view,
            height=task.parent_height + 1,
            parent=task.parent,
            timestamp_ms=task.timestamp_ms,
        )
        info = decode_block(data)
        assert info is not None
        self.give(BlockBuilt(task.view, info, data))
        return self.last_proposal().vote.proposition

    def sync(self) -> None:
        self.give(CommitSynced(self.replica.tip.height))

    # ---- reading the log

    def all(self, kind: type[T]) -> list[T]:
        return [effect for effect in self.log if isinstance(effect, kind)]

    def last(self, kind: type[T]) -> T:
        found = self.all(kind)
        assert found, f"no {kind.__name__} in {[type(e).__name__ for e in self.log]}"
        return found[-1]

    def said(self, kind: type[T]) -> list[T]:
        """Messages of a kind that were broadcast."""
        messages = [effect.message for effect in self.all(Broadcast)]
        return [message for message in messages if isinstance(message, kind)]

    def told(self, peer: str, kind: type[T]) -> list[T]:
        """Messages of a kind that were sent to one peer."""
        sends = [effect.message for effect in self.all(Send) if effect.peer == peer]
        return [message for message in sends if isinstance(message, kind)]

    def sent(self, kind: type[T]) -> list[T]:
        """Messages of a kind that were sent to any one peer."""
        return [e.message for e in self.all(Send) if isinstance(e.message, kind)]

    def last_proposal(self) -> Proposal:
        return self.said(Proposal)[-1]

    def records(self) -> list[JournalRecord]:
        return [effect.record for effect in self.all(Persist)]

    def dropped(self) -> list[str]:
        return [effect.peer for effect in self.all(DropPeer)]

    def nullified(self) -> list[int]:
        """Views that the replica nullified."""
        return [message.body.view for message in self.said(Nullify)]

    def notarized(self) -> list[Proposition]:
        votes = [*self.said(Notarize), *(p.vote for p in self.said(Proposal))]
        return [vote.proposition for vote in votes]

    def finalized(self) -> list[Proposition]:
        return [vote.proposition for vote in self.said(Finalize)]

    def committed(self) -> list[int]:
        return [info.height for effect in self.all(Commit) for info in effect.blocks]

    def halts(self) -> list[Halt]:
        return self.all(Halt)

    def evidence(self) -> list[ReportEvidence]:
        return self.all(ReportEvidence)

    def alarms(self) -> list[RaiseAlarm]:
        return self.all(RaiseAlarm)

    # ---- what the puppets say

    def leader(self, view: int) -> str:
        return self.names[self.leaders[view % len(self.leaders)]]

    def block(
        self,
        view: int,
        *,
        height: int | None = None,
        parent: bytes = GENESIS,
        proposer: str | None = None,
        timestamp_ms: int | None = None,
        transactions: tuple[int, ...] = (),
        epoch: int = 0,
    ) -> bytes:
        return encode_block(
            FakeBlock(
                epoch=epoch,
                view=view,
                height=view if height is None else height,
                parent=parent,
                proposer=proposer or self.leader(view),
                timestamp_ms=self.wall + view if timestamp_ms is None else timestamp_ms,
                transactions=transactions,
            )
        )

    def about(self, view: int, block: bytes, *, parent_view: int | None = None) -> Proposition:
        return Proposition(
            0, view, view - 1 if parent_view is None else parent_view, digest_of(block)
        )

    def sign(self, name: str, vote: Vote) -> bytes:
        return fake_sign(make_key(name), compute_signed_bytes(vote, CHAIN_ID))

    def notarize(self, name: str, proposition: Proposition) -> Notarize:
        return Notarize(proposition, self.sign(name, Notarize(proposition, b"")))

    def finalize(self, name: str, proposition: Proposition) -> Finalize:
        return Finalize(proposition, self.sign(name, Finalize(proposition, b"")))

    def nullify(self, name: str, view: int, *, epoch: int = 0) -> Nullify:
        body = NullifyBody(epoch, view)
        return Nullify(body, self.sign(name, Nullify(body, b"")))

    def proposal(self, block: bytes, proposition: Proposition, *, name: str = "") -> Proposal:
        return Proposal(self.notarize(name or self.leader(proposition.view), proposition), block)

    def _indexed(self, votes: dict[str, Vote]) -> dict[int, Vote]:
        return {self.names.index(name): vote for name, vote in votes.items()}

    def notarization(self, proposition: Proposition, names: Sequence[str] = ()) -> Notarization:
        votes: dict[str, Vote] = {n: self.notarize(n, proposition) for n in names or self.others}
        certificate = build_certificate(self._indexed(votes), self.set)
        assert isinstance(certificate, Notarization)
        return certificate

    def finalization(self, proposition: Proposition, names: Sequence[str] = ()) -> Finalization:
        votes: dict[str, Vote] = {n: self.finalize(n, proposition) for n in names or self.others}
        certificate = build_certificate(self._indexed(votes), self.set)
        assert isinstance(certificate, Finalization)
        return certificate

    def nullification(self, view: int, names: Sequence[str] = ()) -> Nullification:
        votes: dict[str, Vote] = {n: self.nullify(n, view) for n in names or self.others}
        certificate = build_certificate(self._indexed(votes), self.set)
        assert isinstance(certificate, Nullification)
        return certificate

    # ---- whole steps

    def propose(self, view: int, block: bytes, *, parent_view: int | None = None) -> Proposition:
        """The leader of a view proposes a block to the replica."""
        proposition = self.about(view, block, parent_view=parent_view)
        self.hear(self.leader(view), self.proposal(block, proposition))
        return proposition

    def certify(
        self, view: int, *, parent: bytes = GENESIS, **fields: object
    ) -> tuple[Proposition, bytes]:
        """One ordinary view in which the replica follows: proposed, executed, notarized."""
        block = self.block(view, parent=parent, **fields)  # type: ignore[arg-type]
        proposition = self.propose(view, block)
        self.judge()
        for name in self.others:
            self.hear(name, self.notarize(name, proposition))
        return proposition, block

    def finish(self, proposition: Proposition) -> None:
        """The others finalize a block."""
        for name in self.others:
            self.hear(name, self.finalize(name, proposition))
