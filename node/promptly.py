"""Disk work in a thread that the loop waits for in place while it is quick.

Handing work to a thread and taking up its result costs a busy loop far more than the work. Each
time the thread wants the interpreter it waits for whatever the loop is at (a run of signature
checks holds it for milliseconds), and the result waits for two rounds of all other tasks. An fsync
of half a millisecond became one of twenty, three times in a row on the way of every payment.

So the loop stands still for a moment, which leaves the interpreter to the thread, and goes on right
after it. A disk that is slow, or hangs, costs that moment once: the loop then turns to other tasks
until the work is done, and does not stand still for the next work either, as long as it stays slow.
"""

from collections.abc import Callable
from threading import Lock
from time import perf_counter
from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class PromptThread:
    """Runs one piece of work at a time in a thread. Owned by one task of a trio loop."""

    def __init__(self, *, patience_s: float) -> None:
        """`patience_s`: how long the loop may stand still for one piece of work."""
        self._patience_s = patience_s
        self.is_slow = False
        """Whether the last work took longer than that: then the loop does not wait in place."""

    async def run(self, work: Callable[[], T]) -> T:
        """Return what the work returns, or raise what it raises. It is never abandoned."""
        job = _Job(work)
        trio.lowlevel.start_thread_soon(job.work, job.deliver)
        if self.is_slow or not job.done.acquire(timeout=self._patience_s):
            with trio.CancelScope(shield=True):
                await job.wait()
        self.is_slow = job.seconds > self._patience_s
        assert job.result is not None, "it is done"
        return job.result.unwrap()


class _Job(Generic[T]):
    """One piece of work, shared between the loop and the thread."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.result: outcome.Outcome[T] | None = None
        self.seconds = 0.0
        """How long the work took, without the ways to the thread and back."""
        self.done = Lock()
        """Free once the result is there."""
        self.done.acquire()
        self._work = work
        self._token = trio.lowlevel.current_trio_token()
        self._is_awaited = False
        self._wakeup = trio.Event()

    def work(self) -> T:
        """In the thread: do it."""
        started = perf_counter()
        try:
            return self._work()
        finally:
            self.seconds = perf_counter() - started

    def deliver(self, result: outcome.Outcome[T]) -> None:
        """In the thread: hand over the result, and wake whoever awaits it by now."""
        self.result = result
        self.done.release()
        if self._is_awaited:
            self._token.run_sync_soon(self._wakeup.set)

    async def wait(self) -> None:
        """In the loop: return once the result is there."""
        self._is_awaited = True
        # Asked after saying so: if it is not there yet, `deliver` sees that somebody waits.
        if not self.done.acquire(blocking=False):
            await self._wakeup.wait()
