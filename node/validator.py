"""One node's whole decision-making as a state machine without I/O.

`Validator` composes the consensus replica, the executor and the mempool: inputs in, actions out.
It touches no socket, no disk but the state it reads, no clock and no randomness, so a simulator
drives the very code that runs in production, and a seed replays it.

What it decides by itself: decoding what peers send (anything malformed drops the peer), binding a
block's body to its digest, which signatures of a proposal still need checking, building and
executing blocks, what becomes final and in which batch, and what leaves the mempool.

Executing a block is long work. It is not done inside `handle` but queued: the caller performs the
actions of a turn first (a vote or certificate leaves before the next block is executed) and then
calls `work` once per turn while `has_work`. Messages are handled between two pieces of work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import assert_never

from atpar.consensus import effects, events
from atpar.consensus.effects import AlarmKind, BuildBlock, Effect, VerifyBlock
from atpar.consensus.errors import JournalInvalid
from atpar.consensus.messages import (
    BlockResponse,
    Message,
    decode_message,
    encode_message,
    get_epoch,
    get_lane,
)
from atpar.consensus.records import (
    CertificateRecord,
    CertifiedRecord,
    JournalRecord,
    encode_record,
)
from atpar.consensus.replica import Replica
from atpar.consensus.types import BlockInfo, EpochStart, Ports, ReplicaConfig, Timing
from atpar.ledger.certificates import Finalization
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.entry import check_admission
from atpar.ledger.errors import BlockInvalid, NonCanonical, Refused
from atpar.ledger.execute import Executed
from atpar.ledger.ids import find_tx_record
from atpar.ledger.keys import verify
from atpar.ledger.records import TxRecord
from atpar.ledger.state import Backing
from atpar.ledger.transactions import Transaction
from atpar.node import actions
from atpar.node.actions import Action, Input
from atpar.node.bodies import Body, BodyCache, VerifiedCache, decode_body, describe
from atpar.node.datadir import Position, read_next_epoch
from atpar.node.errors import JournalLost
from atpar.node.executor import Executor, ParentUnknown, Tip
from atpar.node.limits import MAX_HELD_BLOCKS
from atpar.node.mempool import Added, Mempool
from atpar.node.store import FinalBlock


@dataclass(frozen=True, slots=True)
class ValidatorConfig:
    """What one validator is told once."""

    chain_id: bytes
    participant: str
    """Own participant code; one that is not in the set follows without voting."""
    timing: Timing = field(default_factory=Timing)
    sign: Callable[[bytes], bytes] | None = None
    """Signs vote bytes with the vote key. None: never votes."""
    vote_key: bytes | None = None
    """The public key that `sign` signs under. None: whichever is registered."""
    next_keys: Mapping[bytes, Callable[[bytes], bytes]] = field(default_factory=dict)
    """Public key -> its `sign`, of vote keys that take over in a later epoch."""
    verify: Callable[[bytes, bytes, bytes], bool] = verify


@dataclass(frozen=True, slots=True)
class Progress:
    """How far this node is, and how far the chain is as far as it knows."""

    height: int
    """The last final block on the disk here."""
    final_height: int
    """The last final block executed here; its batch may be on its way to the disk."""
    target_height: int
    """The highest final block that this node has heard of. While the block itself is not here yet
    it is an estimate, from the views in between: never less than the true height."""
    epoch: int
    view: int
    leader: str
    is_ready: bool
    """Following the chain: a quorum was heard from, and nothing known to be final is missing."""


@dataclass(frozen=True, slots=True)
class _Awaiting:
    """A block whose signatures are being checked."""

    task: VerifyBlock
    body: Body
    unverified: list[Transaction]
    """The transactions whose signatures were asked about, in order."""


class Validator:
    """One validator (or observer). Owned by one task; see the module for how to drive it."""

    def __init__(
        self,
        config: ValidatorConfig,
        *,
        backing: Backing,
        position: Position,
        records: Sequence[JournalRecord],
        mempool: Mempool,
    ) -> None:
        """Restore from the store's final position and the journal's records.

        Raises:
            JournalLost: a record is not of this chain.
        """
        self.config = config
        self.mempool = mempool
        self.executor = Executor(
            backing,
            chain_id=config.chain_id,
            header=position.header,
            digest=position.digest,
        )
        self.halted: str | None = None
        """Why this node stopped for safety; None while it runs."""
        self.connected: dict[str, bool] = {}
        """Connected peers -> whether anything was heard from them on this connection."""
        self.block_gap_ms = 0
        """Least time between the work on one block and building the next, while the next would not
        be full: see `pacing`. More than half of the leader timer counts as half of it."""
        self._max_gap_ms = config.timing.build_allowance_ms // 2 + config.timing.delta_ms
        self._worked_ms = 0
        """When `work` last took up a block, built here or prepared for another leader: the gap lies
        between blocks, whoever proposes them."""
        self._epoch_start = position.start
        self._epoch_blocks = position.epoch_blocks
        self._leaving: set[str] = set()
        """Members of the epoch before that are not seen to have left it yet."""
        self._bodies = BodyCache()
        self.verified = VerifiedCache()
        """Envelopes whose signatures were all checked here."""
        self._block_bytes: dict[bytes, tuple[int, bytes]] = {}
        """Digest -> (height, canonical bytes) of every block that the executor holds, and of those
        it forgot to make room."""
        self._work: deque[BuildBlock | VerifyBlock] = deque()
        self._awaiting: dict[bytes, _Awaiting] = {}
        """Blocks whose signatures are being checked, by digest."""
        self._unsynced: deque[tuple[tuple[FinalBlock, ...], list[actions.DropTransaction]]] = (
            deque()
        )
        """Blocks whose batch is on its way, and what to say of the mempool once it is there."""
        self._final_places: dict[bytes, FinalBlock] = {}
        """Transactions in final blocks that are not on the disk yet."""
        self._suspects: dict[bytes, Transaction] = {}
        """Refused on a parent that is not final, or in doubt: judged when the final state moves."""
        self._view_parent = position.digest
        self._view = effects.EnterView(position.start.epoch, 0, "", position.digest)
        self._pending: bool | None = None
        self._excluded: tuple[bytes, set[bytes]] | None = None
        self._carried = ((b"", b""), 0)
        """(parent, final tip) -> operations of the mempool that `_excluded` names."""
        self._final_view_heard = position.tip.view
        self._final_view = position.tip.view
        self._synced_finalization = position.tip.finalization
        self._out: list[Action] = []
        self._now_ms = 0
        self._wall_ms = 0
        self._replica = self._make_replica(position, records)

    def _make_replica(self, position: Position, records: Sequence[JournalRecord]) -> Replica:
        config = self.config
        try:
            return Replica(
                ReplicaConfig(
                    chain_id=config.chain_id,
                    participant=config.participant,
                    epoch_blocks=position.epoch_blocks,
                    timing=config.timing,
                ),
                Ports(
                    sign=None if config.sign is None else self._sign,
                    verify=config.verify,
                    decode_block=self._decode_block,
                    holds_key=self._holds_key,
                ),
                start=position.start,
                tip=position.tip,
                records=records,
            )
        except JournalInvalid as error:
            raise JournalLost(f"votes.journal: {error}; keep the file and do not vote") from error

    def _sign(self, data: bytes) -> bytes:
        """Sign with the key that the running epoch registers."""
        validators = self._epoch_start.validators
        index = validators.get_index(self.config.participant)
        assert index is not None, "only members vote"
        sign = self.config.next_keys.get(validators.members[index].vote_key, self.config.sign)
        assert sign is not None, "without a key nobody votes"
        return sign(data)

    def _holds_key(self, key: bytes) -> bool:
        return self.config.vote_key in (None, key) or key in self.config.next_keys

    # ---- driving

    @property
    def deadline_ms(self) -> int | None:
        """When the next `Ticked` is due on the monotonic clock; None: nothing to wait for."""
        if self.halted is not None:
            return None
        due = self._replica.deadline_ms
        if self._is_holding:
            return self._build_at_ms if due is None else min(due, self._build_at_ms)
        return due

    @property
    def has_work(self) -> bool:
        """Whether `work` has something to do."""
        return bool(self._work) and self.halted is None and not self._is_holding

    @property
    def _is_holding(self) -> bool:
        """Whether building a block waits, so that more payments share what a block costs.

        A block that is to be empty never does: no payment comes, and finality waits for it.
        """
        if len(self._work) != 1 or self._now_ms >= self._build_at_ms:
            return False
        task, pool = self._work[0], self.mempool
        if not isinstance(task, BuildBlock) or task.is_empty:
            return False
        return pool.ops < pool.block_ops or self._count_waiting_ops(task.parent) < pool.block_ops

    @property
    def _build_at_ms(self) -> int:
        """When a block is built at the latest, however little it would carry.

        The gap begins before the view does. With half of the leader timer as its bound, the other
        half is left for building the block and for its way to the others.
        """
        return self._worked_ms + min(self.block_gap_ms, self._max_gap_ms)

    def start(self, *, now_ms: int, wall_ms: int) -> list[Action]:
        """Begin, once, before any `handle`."""
        self._now_ms, self._wall_ms = now_ms, wall_ms
        self._perform(self._replica.start(now_ms=self._now_ms, wall_ms=self._wall_ms))
        self._update_pending()
        return self._take_actions()

    def handle(self, given: Input, *, now_ms: int, wall_ms: int) -> list[Action]:
        """Take in one input and return what is to be done, in order."""
        self._now_ms, self._wall_ms = now_ms, wall_ms
        if self.halted is not None:
            return []
        match given:
            case actions.PeerFrame():
                self._handle_frame(given)
            case actions.TransactionsAdmitted():
                self.admit(given.transactions)
            case actions.SignaturesVerified():
                self._handle_signatures(given)
            case events.CommitSynced():
                self._handle_synced(given)
            case events.PeerConnected():
                self.connected[given.peer] = False
                self._tell(given)
            case events.PeerDisconnected():
                self.connected.pop(given.peer, None)
                self._tell(given)
            case events.Ticked():
                self._tell(given)
            case _:
                assert_never(given)
        self._update_pending()
        return self._take_actions()

    def work(self, *, now_ms: int, wall_ms: int) -> list[Action]:
        """Do one piece of long work: build a block, or prepare or execute one."""
        self._now_ms, self._wall_ms = now_ms, wall_ms
        if not self.has_work:
            return []
        task = self._work.popleft()
        self._worked_ms = self._now_ms
        if isinstance(task, BuildBlock):
            self._build(task)
        else:
            self._prepare(task)
        self._update_pending()
        return self._take_actions()

    def admit(
        self, transactions: Sequence[Transaction], *, judged_on: bytes | None = None
    ) -> list[Added]:
        """Hold transactions that passed admission, signatures included; say what became of each.

        Plain and immediate, so that a caller may answer its client at once; the next `handle` or
        `work` takes them into account. `judged_on` is the digest of the final block on whose state
        they were judged, if the caller knows one.
        """
        final, add = self.executor.final, self.mempool.add
        self.verified.add_all([tx.hash for tx in transactions])
        self._pending = None
        if final.digest == judged_on:
            return list(map(add, transactions))
        answers = []
        for tx in transactions:
            # It may have become final, from another validator, while its signatures were checked.
            used = find_tx_record(final.view, tx.id_key)
            answers.append(add(tx) if used is None else _compare(used, tx))
        return answers

    def doubt(self, transactions: Iterable[Transaction]) -> None:
        """Judge what has waited for long again when the final state moves: nobody may take it.

        Its signer may have lost the right to sign since it was admitted. Peers then refuse it, so
        it would wait here until this validator leads.
        """
        self._suspects.update((tx.hash, tx) for tx in transactions if tx.hash in self.mempool)

    def compact_journal(self) -> list[bytes]:
        """Return the records that the journal still needs, in order. Call between two turns.

        The highest finalization on the disk stays among them: should `chain.db` be lost and begun
        anew, it keeps this validator from voting again in views whose votes were dropped here.
        """
        records = self._replica.compact_journal()
        if self._synced_finalization is not None:
            records.append(CertificateRecord(self._synced_finalization))
        return [encode_record(record) for record in records]

    def _take_actions(self) -> list[Action]:
        taken, self._out = self._out, []
        return taken

    def _tell(self, event: events.Event) -> None:
        """Give the replica an event and perform what it wants."""
        if self.halted is None:
            self._perform(self._replica.handle(event, now_ms=self._now_ms, wall_ms=self._wall_ms))

    # ---- reading

    @property
    def final(self) -> Tip:
        """The last final block with its state: what admission judges on."""
        return self.executor.final

    @property
    def epoch_start(self) -> EpochStart:
        """The running epoch: its validators, and the block that it starts at."""
        return self._epoch_start

    @property
    def final_view(self) -> int:
        """The view of the last final block, in the running epoch."""
        return self._final_view

    @property
    def progress(self) -> Progress:
        """How far this node is."""
        final_height = self.executor.final.header.height
        voters = self._epoch_start.validators
        heard = sum(self.connected.get(code, False) for code in voters.indexes)
        heard += self.config.participant in voters.indexes
        unknown_views = max(0, self._final_view_heard - self._final_view)
        return Progress(
            height=self.executor.base_height,
            final_height=final_height,
            target_height=final_height + unknown_views,
            epoch=self._view.epoch,
            view=self._view.view,
            leader=self._view.leader,
            is_ready=(self.halted is None and heard >= voters.quorum and not unknown_views),
        )

    def find_final(self, tx_hash: bytes) -> FinalBlock | None:
        """Return the final block that carries a transaction, while it is not on the disk yet."""
        return self._final_places.get(tx_hash)

    def is_proposed(self, tx_hash: bytes) -> bool:
        """Return whether a block above the final tip, one this node builds on, carries it."""
        return tx_hash in self._get_excluded()

    # ---- from peers

    def _handle_frame(self, frame: actions.PeerFrame) -> None:
        try:
            message = decode_message(frame.data)
        except NonCanonical as error:
            self._out.append(actions.DropPeer(frame.peer, str(error)))
            return
        if get_lane(message) is not frame.lane:
            name = type(message).__name__
            self._out.append(actions.DropPeer(frame.peer, f"{name} on the {frame.lane.name} lane"))
            return
        if frame.peer in self.connected:
            self.connected[frame.peer] = True
        if frame.peer in self._leaving and get_epoch(message) >= self._epoch_start.epoch:
            self._leaving.discard(frame.peer)
            self._out.append(actions.DismissPeer(frame.peer))
        self._tell(events.MessageReceived(frame.peer, message))

    def _decode_block(self, data: bytes) -> BlockInfo | None:
        """Decode a block and keep it by digest; None when it is not one block of this chain."""
        body = decode_body(data, chain_id=self.config.chain_id, mempool=self.mempool)
        if body is None:
            return None
        self._bodies.add(body)
        return body.info

    # ---- what the replica wants

    def _perform(self, wanted: Sequence[Effect]) -> None:
        for effect in wanted:
            self._perform_one(effect)

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case effects.Persist():
                self._note_record(effect.record)
                self._out.append(actions.Persist(encode_record(effect.record)))
            case effects.Broadcast():
                lane = get_lane(effect.message)
                self._out.append(actions.Broadcast(lane, encode_message(effect.message)))
            case effects.Send():
                self._send(effect.peer, effect.message)
            case effects.BuildBlock() | effects.VerifyBlock():
                self._work.append(effect)
            case effects.Commit():
                self._commit(effect)
            case effects.ServeBlock():
                self._serve_block(effect)
            case effects.ServeSync():
                self._out.append(actions.Serve(effect.peer, effect.request))
            case effects.DropPeer():
                self._out.append(actions.DropPeer(effect.peer, effect.reason))
            case effects.ReportEvidence():
                message = f"{effect.evidence.participant} signed two messages that exclude another"
                self._out.append(
                    actions.Alarm(AlarmKind.EQUIVOCATION, message, evidence=effect.evidence)
                )
            case effects.RaiseAlarm():
                self._out.append(actions.Alarm(effect.kind, effect.message))
            case effects.Halt():
                self._halt(effect.kind, effect.message)
            case effects.EnterView():
                self._view = effect
                self._view_parent = effect.parent
                self._pending = None
                self._out.append(actions.EnterView(effect.epoch, effect.view, effect.leader))
            case _:
                assert_never(effect)

    def _send(self, peer: str, message: Message) -> None:
        self._out.append(actions.Send(peer, get_lane(message), encode_message(message)))

    def _halt(self, kind: AlarmKind, message: str) -> None:
        self.halted = message
        self._work.clear()
        self._out.append(actions.Halt(kind, message))

    def _note_record(self, record: JournalRecord) -> None:
        """Remember what a quorum vouches for: a final view, or a certified block."""
        match record:
            case CertificateRecord(Finalization(proposition)):
                self._final_view_heard = max(self._final_view_heard, proposition.view)
            case CertifiedRecord(proposition):
                # Unless a finalization of the same turn abandoned it.
                with suppress(ParentUnknown):
                    self._restore_block(proposition.digest)
                    self.executor.pin(proposition.digest)
            case _:
                pass

    def _serve_block(self, effect: effects.ServeBlock) -> None:
        held = self._block_bytes.get(effect.request.digest)
        if held is None:
            self._out.append(actions.Serve(effect.peer, effect.request))
        else:
            self._send(effect.peer, BlockResponse(effect.request.digest, held[1]))

    # ---- building

    def _build(self, task: BuildBlock) -> None:
        try:
            self._restore_block(task.parent)
            executed = self._build_block(task)
        except (ParentUnknown, BlockInvalid):
            self._tell(events.BuildFailed(task.view))
            return
        block = encode(executed.block)
        self._keep_bytes(executed.digest, executed.header.height, block)
        info = describe(executed.header, executed.digest)
        self._tell(events.BlockBuilt(task.view, info, block))

    def _build_block(self, task: BuildBlock) -> Executed:
        candidates: list[Transaction] = []
        if not task.is_empty:
            candidates = self.mempool.take(
                time_ms=task.timestamp_ms, exclude=self._collect_excluded(task.parent)
            )
        executed, refused = self.executor.build(
            parent_digest=task.parent,
            epoch=task.epoch,
            view=task.view,
            timestamp_ms=task.timestamp_ms,
            proposer=self.config.participant,
            candidates=candidates,
        )
        for tx, reason in refused:
            if task.parent == self.executor.final.digest:
                self._drop(tx, reason)
            else:
                self._suspects[tx.hash] = tx
        return executed

    def _drop(self, tx: Transaction, reason: Refused) -> None:
        if self.mempool.discard(tx.hash) is not None:
            self._out.append(actions.DropTransaction(tx, reason.code, reason.message))

    # ---- verifying

    def _prepare(self, task: VerifyBlock) -> None:
        """Execute a block, or ask for the signatures that nobody checked here yet."""
        digest = task.proposition.digest
        body = self._bodies.take(digest) or decode_body(
            task.block, chain_id=self.config.chain_id, mempool=self.mempool
        )
        assert body is not None, "the replica asks only about blocks that decode_block took"
        if digest in self.executor:
            self._answer(task, is_valid=True)
            return
        if body.transactions is None:
            self._answer(task, is_valid=False)
            return
        waiting = self._awaiting.get(digest)
        if waiting is not None:
            # Asked about before: consensus forgot the block meanwhile and met it again. The one
            # answer that is under way belongs to the list that was asked about then.
            self._awaiting[digest] = replace(waiting, task=task)
            return
        unverified = [tx for tx in body.transactions if tx.hash not in self.verified]
        if unverified:
            self._awaiting[digest] = _Awaiting(task, body, unverified)
            triples = [triple for tx in unverified for triple in tx.compute_triples()]
            self._out.append(actions.VerifySignatures(digest, triples))
        else:
            self._execute(task, body)

    def _handle_signatures(self, given: actions.SignaturesVerified) -> None:
        waiting = self._awaiting.pop(given.digest, None)
        if waiting is None:
            return
        position = 0
        is_valid = True
        for tx in waiting.unverified:
            end = position + len(tx.signatures)
            if all(given.verdicts[position:end]):
                self.verified.add(tx.hash)
            else:
                is_valid = False
            position = end
        assert position == len(given.verdicts), (position, len(given.verdicts))
        if is_valid:
            self._execute(waiting.task, waiting.body)
        else:
            self._answer(waiting.task, is_valid=False)

    def _execute(self, task: VerifyBlock, body: Body) -> None:
        assert body.transactions is not None
        try:
            self._restore_block(body.block.header.parent)
            self.executor.verify(task.proposition.digest, body.block, body.transactions)
        except ParentUnknown:
            # A finalization overtook it while it waited: its branch is abandoned, the state it
            # stood on is gone, and nobody asks for the verdict any more.
            return
        except BlockInvalid as error:
            self._out.append(
                actions.Alarm(AlarmKind.DIVERGENCE, f"view {task.proposition.view}: {error}")
            )
            self._answer(task, is_valid=False)
            return
        self._answer(task, is_valid=True)

    def _restore_block(self, digest: bytes) -> None:
        """Execute a block again that was forgotten to make room, and its forgotten ancestors.

        Raises:
            ParentUnknown: it was never executed here, or a finalization abandoned it.
        """
        missing: list[Body] = []
        while digest not in self.executor:
            held = self._block_bytes.get(digest)
            if held is None:
                raise ParentUnknown(f"block {digest.hex()[:16]} is not executed here")
            body = decode_body(held[1], chain_id=self.config.chain_id, mempool=self.mempool)
            assert body is not None, "it was a block when it was executed"
            missing.append(body)
            digest = body.info.parent
        for body in reversed(missing):
            assert body.transactions is not None
            self.executor.verify(body.info.digest, body.block, body.transactions)

    def _answer(self, task: VerifyBlock, *, is_valid: bool) -> None:
        if is_valid:
            self._keep_bytes(task.proposition.digest, task.info.height, task.block)
            if task.cause is not effects.Cause.PROPOSED:
                self.executor.pin(task.proposition.digest)
        self._tell(events.BlockVerdict(task.proposition, is_valid))

    # ---- finality

    def _commit(self, effect: effects.Commit) -> None:
        """Move the final tip, free the mempool, and hand the batch to the disk."""
        top = effect.blocks[-1]
        executed = self.executor.finalize(top.digest)
        assert [e.digest for e in executed] == [info.digest for info in effect.blocks]
        blocks = tuple(
            FinalBlock(
                header=each.header,
                digest=each.digest,
                block_bytes=self._block_bytes[each.digest][1],
                transactions=each.transactions,
                receipts=each.receipts,
                postings=each.postings,
                overlay=each.overlay,
                finalization=effect.finalization,
                finalized_height=top.height,
            )
            for each in executed
        )
        self._final_view = max(self._final_view, effect.finalization.proposition.view)
        self._out.append(actions.CommitBlocks(blocks))
        dropped = [drop for block in blocks for drop in self._clear_mempool(block)]
        self._unsynced.append((blocks, dropped))
        self._forget_bodies()
        self._judge_suspects()
        self._pending = None

    def _clear_mempool(self, block: FinalBlock) -> Iterator[actions.DropTransaction]:
        """Remove what is final or can never be; yield what left without having run."""
        for tx in block.transactions:
            self._final_places[tx.hash] = block
            self._suspects.pop(tx.hash, None)
        displaced = self.mempool.commit(block.transactions)
        if displaced:
            bodies = {(tx.body.sender, tx.body.tx_id): tx.body_hash for tx in block.transactions}
        for tx in displaced:
            same = bodies[(tx.body.sender, tx.body.tx_id)] == tx.body_hash
            code = Code.OK if same else Code.ID_REUSED
            message = "another envelope with this sender and id became final first"
            yield actions.DropTransaction(tx, code, message)
        for tx in self.mempool.expire(block.header.timestamp_ms):
            message = (
                f"valid until {tx.body.valid_until_ms} ms, the final block's time is "
                f"{block.header.timestamp_ms} ms"
            )
            yield actions.DropTransaction(tx, Code.EXPIRED, message)

    def _keep_bytes(self, digest: bytes, height: int, block: bytes) -> None:
        self._block_bytes[digest] = (height, block)
        if len(self._block_bytes) > MAX_HELD_BLOCKS:
            forgotten = (held for held in self._block_bytes if held not in self.executor)
            oldest = next(forgotten, None)
            if oldest is not None:
                del self._block_bytes[oldest]

    def _forget_bodies(self) -> None:
        """Drop the bytes of blocks that the final tip has passed and the executor let go."""
        final_height = self.executor.final.header.height
        self._block_bytes = {
            digest: held
            for digest, held in self._block_bytes.items()
            if held[0] > final_height or digest in self.executor
        }

    def _judge_suspects(self) -> None:
        """Drop what the new final state refuses; give the rest another chance."""
        final = self.executor.final
        suspects, self._suspects = self._suspects, {}
        for tx in suspects.values():
            try:
                check_admission(
                    final.view,
                    tx,
                    chain_id=self.config.chain_id,
                    now_ms=final.header.timestamp_ms,
                )
            except Refused as reason:
                if reason.code is not Code.NOT_YET_VALID:
                    self._drop(tx, reason)

    def _handle_synced(self, given: events.CommitSynced) -> None:
        blocks, dropped = self._unsynced.popleft()
        top = blocks[-1]
        assert given.height == top.header.height, (given.height, top.header.height)
        self.executor.absorb(top.digest)
        self._synced_finalization = top.finalization
        for block in blocks:
            for tx in block.transactions:
                self._final_places.pop(tx.hash, None)
        self._out.append(actions.Notify(blocks))
        self._out += dropped
        self._tell(given)
        if top.header.height == self._epoch_start.compute_boundary(self._epoch_blocks):
            self._open_epoch()

    def _open_epoch(self) -> None:
        final = self.executor.final
        before = self._epoch_start.validators.indexes
        self._epoch_start = start = read_next_epoch(final.view, final.header, final.digest)
        self._leaving = set(before) - set(start.validators.indexes)
        # Views begin again at 1.
        self._final_view_heard = self._final_view = 0
        self._out.append(actions.OpenEpoch(start))
        self._tell(events.EpochOpened(start))

    # ---- what the next block could carry

    def _update_pending(self) -> None:
        """Tell the replica whether a block would carry a transaction, when that changed."""
        if self._pending is not None or self.halted is not None:
            return
        excluded = self._get_excluded()
        self._pending = self.mempool.has_pending(time_ms=self._wall_ms, exclude=excluded)
        self._tell(events.PendingChanged(self._pending))

    def _get_excluded(self) -> set[bytes]:
        """Return what unfinalised ancestors of the next block carry already."""
        return self._collect_excluded(self._view_parent)

    def _count_waiting_ops(self, parent: bytes) -> int:
        """Return how many operations of the mempool a block on this parent may still carry.

        Counted once per parent and final tip, and only where it decides whether a leader waits.
        """
        place = parent, self.executor.final.digest
        if self._carried[0] != place:
            held = (self.mempool.get(tx_hash) for tx_hash in self._collect_excluded(parent))
            self._carried = place, sum(len(tx.body.ops) for tx in held if tx is not None)
        return self.mempool.ops - self._carried[1]

    def _collect_excluded(self, parent: bytes) -> set[bytes]:
        if self._excluded is None or self._excluded[0] != parent:
            self._excluded = (parent, self.executor.collect_hashes(parent))
        if self._suspects:
            return self._excluded[1].union(self._suspects)
        return self._excluded[1]


def _compare(used: TxRecord, tx: Transaction) -> Added:
    """Return what a transaction is to the executed one that has its sender and id."""
    return Added.DUPLICATE if used.body_hash == tx.body_hash else Added.ID_REUSED
