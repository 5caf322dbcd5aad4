"""The open-loop load generator: sends on schedule, whether or not answers come back.

A payment counts from the instant it was *scheduled*, so a stall of the validators, or of the
generator, shows in the figures. It is final when a block that holds it has been verified: see
`follow.py`. What a client must do is done here too: an unanswered or refused-for-now envelope is
sent again, the same bytes, to another node. That is always safe, and it is how a payment outlives
the validator that accepted it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from atpar.cli.testnet.payments import Signed
from atpar.cli.testnet.wire import Unreachable
from atpar.ledger.codes import Code
from atpar.node.limits import MAX_REQUEST_BYTES

TICK_S: Final = 0.01
"""Payments that fall due within one tick travel in one request."""
MAX_TICK_S: Final = 0.05
BUSY_RATE: Final = 1_000
"""Transfers a second from which on ticks grow with the rate, as a busy client's batches do."""
MAX_BATCH: Final = 1_000
MAX_BATCH_BYTES: Final = MAX_REQUEST_BYTES // 4
"""Of one request, so that bulk payments that are sent again fit into a body."""
MAX_REQUESTS_PER_NODE: Final = 32
DOWN_S: Final = 0.5
"""How long a node that did not answer is passed over."""
RESEND_AFTER_S: Final = 2.0
RESEND_PATIENCE: Final = 3.0
"""A payment is not sent again before this many times what payments take now: that would be load."""
RESEND_CHECK_S: Final = 0.25
"""Also how soon what reached no node at all is sent again."""
DRAIN_S: Final = 30.0
"""After the last send: once no payment's fate has become known for this long, the rest are lost."""
NEVER: Final = float("nan")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A node's answer to one envelope."""

    accepted: bool
    """Admitted, or known already."""
    code: int = 0
    """Why it was refused."""
    retry_after_s: float | None = None
    """It may be sent again after so long; otherwise the refusal is definitive."""


class Target(Protocol):
    """One node that takes envelopes."""

    async def submit(self, envelopes: Sequence[bytes]) -> list[Verdict]:
        """Return one verdict per envelope, in order.

        Raises:
            Unreachable: no answer; the envelopes may have been received.
        """


@dataclass(slots=True)
class Tally:
    """What became of every payment. Indexes are positions in the schedule."""

    due: list[float]
    """Seconds from the start at which each was scheduled."""
    final_after_ms: dict[int, float] = field(default_factory=dict)
    succeeded: list[int] = field(default_factory=list)
    """Those with receipt code OK."""
    failed: dict[int, int] = field(default_factory=dict)
    """Those with another code, in a receipt or in a definitive refusal."""
    submitted: int = 0

    def is_settled(self, index: int) -> bool:
        """Return whether the fate of a payment is known."""
        return index in self.final_after_ms or index in self.failed

    def count_settled(self) -> int:
        """Return for how many payments the fate is known."""
        refused = sum(1 for index in self.failed if index not in self.final_after_ms)
        return len(self.final_after_ms) + refused

    @property
    def lost(self) -> int:
        """Return for how many submitted payments it is unknown."""
        return self.submitted - self.count_settled()


class Load:
    """One run: a schedule of payments, the nodes they go to, and the tally."""

    def __init__(
        self,
        payments: Sequence[Signed],
        targets: Sequence[Target],
        *,
        rate: float,
        transfers: int = 1,
    ) -> None:
        """`rate` is in payments a second, each of so many transfers."""
        self._payments = payments
        self._targets = targets
        self.tally = Tally([index / rate for index in range(len(payments))])
        self._indexes = {payment.hash: index for index, payment in enumerate(payments)}
        self._rate = rate
        largest = max(len(payment.raw) for payment in payments)
        self._batch = max(1, min(MAX_BATCH, MAX_BATCH_BYTES // largest))
        self._tick_s = compute_tick_s(rate * transfers)
        self._start = NEVER
        self._next_target = 0
        self._down_until = [0.0] * len(targets)
        self._limits = [trio.CapacityLimiter(MAX_REQUESTS_PER_NODE) for _ in targets]
        self._last_sent: dict[int, float] = {}
        """Unsettled payments, and when each may be sent again; in order of sending."""
        self._all_settled = trio.Event()
        self._all_sent = False
        self._usual_s = 0.0
        """How long the last payment took that became final."""

    async def run(self, *, drain_s: float = DRAIN_S) -> None:
        """Send all on schedule; return when every fate is known, or none was for `drain_s`."""
        self._start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._resend_loop)
            await self._send_on_schedule(nursery)
            self._all_sent = True
            self._check_settled()
            settled = -1
            while settled < self.tally.count_settled():
                settled = self.tally.count_settled()
                with trio.move_on_after(drain_s):
                    await self._all_settled.wait()
            nursery.cancel_scope.cancel()

    def note_final(self, tx_hash: bytes, code: int) -> None:
        """Take note that a verified final block holds a transaction with this receipt code."""
        index = self._indexes.get(tx_hash)
        if index is None or index in self.tally.final_after_ms:
            return
        elapsed = trio.current_time() - self._start - self.tally.due[index]
        self.tally.final_after_ms[index] = elapsed * 1000
        self._usual_s = elapsed
        if code == Code.OK:
            self.tally.succeeded.append(index)
            # A refusal of a copy that came too late does not count against the payment.
            self.tally.failed.pop(index, None)
        else:
            self.tally.failed[index] = code
        self._last_sent.pop(index, None)
        self._check_settled()

    def elapsed_s(self) -> float:
        """Return the seconds since the first payment was due."""
        return trio.current_time() - self._start

    # ---- sending

    async def _send_on_schedule(self, nursery: trio.Nursery) -> None:
        total, sent = len(self._payments), 0
        while sent < total:
            await trio.sleep_until(
                max(self._start + self.tally.due[sent], trio.current_time() + self._tick_s)
            )
            due = min(total, int(self.elapsed_s() * self._rate) + 1)
            for first in range(sent, due, self._batch):
                batch = list(range(first, min(first + self._batch, due)))
                self.tally.submitted += len(batch)
                nursery.start_soon(self._send, batch)
            sent = max(sent, due)

    async def _send(self, indexes: list[int]) -> bool:
        """Send to the next node that answers; return whether one did."""
        again = trio.current_time() + max(RESEND_AFTER_S, RESEND_PATIENCE * self._usual_s)
        for index in indexes:
            self._last_sent.pop(index, None)
            self._last_sent[index] = again
        for _ in range(len(self._targets)):
            number = self._choose_target()
            try:
                async with self._limits[number]:
                    verdicts = await self._targets[number].submit(
                        [self._payments[index].raw for index in indexes]
                    )
            except Unreachable:
                self._down_until[number] = trio.current_time() + DOWN_S
                continue
            for index, verdict in zip(indexes, verdicts, strict=True):
                if not verdict.accepted:
                    self._note_refusal(index, verdict)
            self._check_settled()
            return True
        for index in self._last_sent.keys() & set(indexes):
            self._last_sent[index] = trio.current_time()
        return False

    def _choose_target(self) -> int:
        """Return the next node in turn that answered last time, else simply the next."""
        size, now = len(self._targets), trio.current_time()
        first = self._next_target
        for step in range(size):
            number = (first + step) % size
            if self._down_until[number] <= now:
                self._next_target = (number + 1) % size
                return number
        self._next_target = (first + 1) % size
        return first

    def _note_refusal(self, index: int, verdict: Verdict) -> None:
        if self.tally.is_settled(index):
            return
        if verdict.retry_after_s is None:
            self.tally.failed[index] = verdict.code
            self._last_sent.pop(index, None)
        else:
            self._last_sent[index] = trio.current_time() + verdict.retry_after_s

    async def _resend_loop(self) -> None:
        """Send what is still open after a while again, oldest first, the same bytes."""
        while True:
            await trio.sleep(RESEND_CHECK_S)
            now = trio.current_time()
            waiting = [index for index, at in self._last_sent.items() if at <= now]
            for first in range(0, len(waiting), self._batch):
                if not await self._send(waiting[first : first + self._batch]):
                    break

    def _check_settled(self) -> None:
        if self._all_sent and self.tally.count_settled() >= len(self._payments):
            self._all_settled.set()


def compute_tick_s(transfers_per_s: float) -> float:
    """Return how long due payments are collected for one request, at a rate of transfers."""
    return min(MAX_TICK_S, max(TICK_S, TICK_S * transfers_per_s / BUSY_RATE))


FinalSink = Callable[[bytes, int], None]
"""Called with (transaction hash, receipt code) for every transaction of a verified block."""
