"""Checks signatures in batches, in worker processes, in order of what they are for.

The verification library holds the interpreter's lock, and a busy main thread starves threads, so
the work goes to processes (`verify_worker.py`) as packed bytes; with no workers it is done in
line, a few at a time. Each worker takes the next batch as soon as it is free, so batches grow with
load and nothing waits for company when there is none.

**Order.** Blocks, then gossip, then clients; clients hold at most half the workers. Work is cut
into small pieces, so that a block waits for one piece at most.

**Faults.** A worker that dies, hangs or answers nonsense is replaced and its batch is checked
again: a signature is valid only if a worker said so in an answer to exactly that request. A batch
that kills several workers in a row stops the node. A full backlog refuses new work (`VerifierBusy`)
before anything is queued.
"""

import fcntl
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import trio

from atpar.ledger.keys import SignedTriple, verify_batch
from atpar.ledger.transactions import Transaction
from atpar.node.errors import VerifierBusy, VerifierFailed, VerifierStopped
from atpar.node.limits import (
    MAX_VERIFY_ATTEMPTS,
    MAX_VERIFY_BACKLOG_BYTES,
    MAX_VERIFY_BACKLOG_SIGNATURES,
    VERIFY_BATCH_BYTES,
    VERIFY_BATCH_SIGNATURES,
    VERIFY_BATCHES_AHEAD,
    VERIFY_PIECE_SIGNATURES,
    VERIFY_TIMEOUT_S,
    WORKER_PIPE_BYTES,
)
from atpar.node.logs import get_logger
from atpar.node.metrics import Metrics
from atpar.node.verify_worker import (
    ANSWER_HEADER_BYTES,
    compute_bitmap_bytes,
    pack_request,
    unpack_answer,
)

WORKER_COMMAND: Final = (sys.executable, "-m", "atpar.node.verify_worker")
_RESPAWN_PAUSE_S: Final = 0.1

log = get_logger("verifier")


class Priority(IntEnum):
    """What signatures are for. Lower goes first."""

    BLOCKS = 0
    GOSSIP = 1
    CLIENTS = 2


@dataclass(eq=False, slots=True)
class _Job:
    """One call of `verify`."""

    verdicts: list[bool]
    left: int
    """Signatures without a verdict."""
    done: trio.Event = field(default_factory=trio.Event)
    abandoned: bool = False
    """The caller has gone; its pieces need no more work."""
    stopped: bool = False


@dataclass(eq=False, slots=True)
class _Piece:
    """A few signatures of one job."""

    job: _Job
    start: int
    triples: Sequence[SignedTriple]
    bytes: int
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch that a worker has, or is being sent."""

    priority: Priority
    batch: list[_Piece]
    ticket: int
    count: int
    sent_at: float


class Verifier:
    """The door to signature checking. `run` owns the workers; any task may call `verify`."""

    def __init__(
        self,
        *,
        workers: int,
        metrics: Metrics,
        command: Sequence[str] = WORKER_COMMAND,
        max_signatures: int = MAX_VERIFY_BACKLOG_SIGNATURES,
        max_bytes: int = MAX_VERIFY_BACKLOG_BYTES,
    ) -> None:
        self.workers = workers
        self.max_signatures = max_signatures
        self.max_bytes = max_bytes
        self.restarts = 0
        """Workers that were replaced."""
        self._metrics = metrics
        self._command = command
        self._queues: dict[Priority, deque[_Piece]] = {p: deque() for p in Priority}
        self._signatures = dict.fromkeys(Priority, 0)
        self._bytes = dict.fromkeys(Priority, 0)
        self._jobs: set[_Job] = set()
        self._client_batches = 0
        self._ticket = 0
        self._idle = trio.lowlevel.ParkingLot()
        self._is_stopped = False

    # ---- for everybody

    async def verify(self, triples: Sequence[SignedTriple], priority: Priority) -> list[bool]:
        """Return one verdict per triple, in order.

        Raises:
            VerifierBusy: the backlog of this priority is full; nothing was queued.
            VerifierStopped: the node is stopping; nothing is known of these signatures.
        """
        if self._is_stopped:
            raise VerifierStopped("the verifier has stopped")
        if not triples:
            return []
        if self.workers == 0:
            return await self._verify_in_line(triples, priority)
        self._check_room(len(triples), sum(len(message) for _, message, _ in triples), priority)
        job = _Job(verdicts=[False] * len(triples), left=len(triples))
        self._jobs.add(job)
        self._queues[priority].extend(self._cut(job, triples, priority))
        self._idle.unpark_all()
        try:
            await job.done.wait()
        finally:
            job.abandoned = True
            self._jobs.discard(job)
        if job.stopped:
            raise VerifierStopped("the verifier stopped before these signatures were checked")
        return job.verdicts

    async def verify_transactions(
        self, transactions: Sequence[Transaction], priority: Priority
    ) -> list[bool]:
        """Return for each transaction whether it has signatures and all of them are valid.

        Raises:
            VerifierBusy, VerifierStopped: as `verify`.
        """
        triples: list[SignedTriple] = []
        for tx in transactions:
            triples += tx.compute_triples()
        verdicts = await self.verify(triples, priority)
        results = []
        position = 0
        for tx in transactions:
            count = len(tx.signatures)
            results.append(count > 0 and all(verdicts[position : position + count]))
            position += count
        return results

    def has_room(self, priority: Priority) -> bool:
        """Return whether there is room for at least one more signature."""
        return self._signatures[priority] < self.max_signatures

    def observe(self) -> None:
        """Bring the gauges up to date; called before metrics are rendered."""
        for priority, count in self._signatures.items():
            self._metrics.queue_depth.labels(f"verify_{priority.name.lower()}").set(count)

    # ---- the backlog

    def _check_room(self, signatures: int, size: int, priority: Priority) -> None:
        """Refuse what would pass a bound, unless it would be alone."""
        queued = self._signatures[priority]
        if queued == 0:
            return
        if queued + signatures > self.max_signatures:
            raise VerifierBusy(f"{queued} signatures wait, at most {self.max_signatures}")
        if self._bytes[priority] + size > self.max_bytes:
            raise VerifierBusy(f"{self._bytes[priority]} bytes wait, at most {self.max_bytes}")

    def _cut(self, job: _Job, triples: Sequence[SignedTriple], priority: Priority) -> list[_Piece]:
        """Return a job's pieces, added to the counts of the backlog."""
        pieces = []
        start = 0
        while start < len(triples):
            stop, size = start, 0
            while stop < len(triples) and stop - start < VERIFY_PIECE_SIGNATURES:
                # Every signature hashes its message anew, so bytes count for each.
                size += len(triples[stop][1])
                if stop > start and size > VERIFY_BATCH_BYTES:
                    size -= len(triples[stop][1])
                    break
                stop += 1
            pieces.append(_Piece(job, start, triples[start:stop], size))
            self._signatures[priority] += stop - start
            self._bytes[priority] += size
            start = stop
        return pieces

    async def _take(self) -> tuple[Priority, list[_Piece]]:
        """Wait for work; return the next batch, of one priority."""
        while True:
            for priority, queue in self._queues.items():
                if priority is Priority.CLIENTS and self._clients_wait():
                    continue
                batch = self._pop_batch(priority, queue)
                if batch:
                    if priority is Priority.CLIENTS:
                        self._client_batches += 1
                    return priority, batch
            await self._idle.park()

    def _clients_wait(self) -> bool:
        return self._client_batches >= max(1, self.workers // 2)

    def _pop_batch(self, priority: Priority, queue: deque[_Piece]) -> list[_Piece]:
        batch: list[_Piece] = []
        signatures = size = 0
        while queue:
            piece = queue[0]
            if not piece.job.abandoned:
                signatures += len(piece.triples)
                size += piece.bytes
                full = signatures > VERIFY_BATCH_SIGNATURES or size > VERIFY_BATCH_BYTES
                if batch and full:
                    break
                batch.append(piece)
            queue.popleft()
            self._signatures[priority] -= len(piece.triples)
            self._bytes[priority] -= piece.bytes
        return batch

    def _put_back(self, priority: Priority, batch: list[_Piece], *, is_suspect: bool) -> None:
        """Return a batch that got no verdicts to the head of its queue.

        Raises:
            VerifierFailed: it has been tried too often.
        """
        for piece in reversed(batch):
            piece.attempts += is_suspect
            if piece.attempts >= MAX_VERIFY_ATTEMPTS:
                raise VerifierFailed(f"a batch of signatures ended {piece.attempts} workers")
            self._queues[priority].appendleft(piece)
            self._signatures[priority] += len(piece.triples)
            self._bytes[priority] += piece.bytes
        self._idle.unpark_all()

    @staticmethod
    def _settle(batch: list[_Piece], verdicts: list[bool]) -> None:
        position = 0
        for piece in batch:
            count = len(piece.triples)
            job = piece.job
            job.verdicts[piece.start : piece.start + count] = verdicts[position : position + count]
            job.left -= count
            position += count
            if job.left == 0:
                job.done.set()

    # ---- in line

    async def _verify_in_line(
        self, triples: Sequence[SignedTriple], priority: Priority
    ) -> list[bool]:
        began = trio.current_time()
        verdicts: list[bool] = []
        for start in range(0, len(triples), VERIFY_PIECE_SIGNATURES):
            await trio.lowlevel.checkpoint()
            verdicts += verify_batch(triples[start : start + VERIFY_PIECE_SIGNATURES])
        self._report(priority, len(triples), trio.current_time() - began)
        return verdicts

    # ---- workers

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the workers running until cancelled; then whoever waits gets `VerifierStopped`.

        Raises:
            VerifierFailed: workers cannot be started, or a batch ends each of them.
        """
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(self.workers):
                    nursery.start_soon(self._keep_worker)
                task_status.started()
                if self.workers == 0:
                    await trio.sleep_forever()
        finally:
            self._is_stopped = True
            for job in self._jobs:
                job.stopped = True
                job.done.set()

    async def _keep_worker(self) -> None:
        """Run one worker after the other."""
        failures = 0
        while True:
            answered = await self._run_worker()
            failures = 0 if answered else failures + 1
            if failures >= MAX_VERIFY_ATTEMPTS:
                raise VerifierFailed(f"{failures} workers in a row ended without an answer")
            self.restarts += 1
            self._metrics.verify_worker_restarts.inc()
            log.warning("signature worker replaced", answered=answered)
            await trio.sleep(_RESPAWN_PAUSE_S * failures)

    async def _run_worker(self) -> int:
        """Feed one worker until it fails; return how many batches it answered.

        The next batch is sent while one is being checked, so that the worker never waits for us.
        """
        sent: deque[_Sent] = deque()
        answered = 0
        free_at = trio.current_time()
        async with AsyncExitStack() as stack:
            process = await trio.lowlevel.open_process(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            stack.push_async_callback(_end_process, process)
            _widen_pipe(process)
            slots = trio.Semaphore(VERIFY_BATCHES_AHEAD)
            try:
                async with trio.open_nursery() as nursery:
                    arrived, arriving = trio.open_memory_channel[None](VERIFY_BATCHES_AHEAD)
                    nursery.start_soon(self._feed, process, sent, slots, arrived)
                    async for _ in arriving:
                        began = max(sent[0].sent_at, free_at)
                        if not await self._collect(process, sent[0]):
                            break
                        free_at = trio.current_time()
                        self._report(sent[0].priority, sent[0].count, free_at - began)
                        self._release(sent.popleft())
                        slots.release()
                        answered += 1
                    nursery.cancel_scope.cancel()
            finally:
                for each in sent:
                    self._release(each)
        # Only the first one can have been at fault: the worker had not begun with the others.
        while sent:
            each = sent.pop()
            self._put_back(each.priority, each.batch, is_suspect=not sent)
        return answered

    async def _feed(
        self,
        process: trio.Process,
        sent: deque["_Sent"],
        slots: trio.Semaphore,
        arrived: trio.MemorySendChannel[None],
    ) -> None:
        """Send batches, a few ahead of the answers; end when the worker takes no more."""
        assert process.stdin is not None
        async with arrived:
            while True:
                await slots.acquire()
                priority, batch = await self._take()
                triples = [triple for piece in batch for triple in piece.triples]
                self._ticket += 1
                each = _Sent(priority, batch, self._ticket, len(triples), trio.current_time())
                sent.append(each)
                arrived.send_nowait(None)
                try:
                    await process.stdin.send_all(pack_request(each.ticket, triples))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

    async def _collect(self, process: trio.Process, each: "_Sent") -> bool:
        """Take the answer to the oldest batch; return whether it was one."""
        assert process.stdout is not None
        expected = ANSWER_HEADER_BYTES + compute_bitmap_bytes(each.count)
        answer = b""
        with trio.move_on_after(VERIFY_TIMEOUT_S):
            try:
                while len(answer) < expected:
                    data = await process.stdout.receive_some(expected - len(answer))
                    if not data:
                        return False
                    answer += data
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            verdicts = unpack_answer(bytes(answer), ticket=each.ticket, count=each.count)
            if verdicts is None:
                return False
            self._settle(each.batch, verdicts)
            return True
        return False

    def _release(self, each: "_Sent") -> None:
        if each.priority is Priority.CLIENTS:
            self._client_batches -= 1
            self._idle.unpark_all()

    def _report(self, priority: Priority, signatures: int, seconds: float) -> None:
        label = priority.name.lower()
        self._metrics.verify_batch_size.labels(label).observe(signatures)
        self._metrics.verify_seconds.labels(label).observe(seconds)


def _widen_pipe(process: trio.Process) -> None:
    """Let a whole batch wait in the worker's pipe, where the system can: it need not ask us."""
    if sys.platform == "linux" and isinstance(process.stdin, trio.lowlevel.FdStream):
        with suppress(OSError):
            fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, WORKER_PIPE_BYTES)


async def _end_process(process: trio.Process) -> None:
    """End a worker at once and collect it; it holds nothing worth saving."""
    with trio.CancelScope(shield=True):
        process.kill()
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()
