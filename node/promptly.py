"""Disk work in a thread that the loop waits for in place while it is quick.

Handing work to a thread and taking up its result costs a busy loop far more than the work. Each
time the thread wants the interpreter it waits for whatever the loop is at (a run of signature
checks holds it for milliseconds), and the result waits for two rounds of all other tasks. An fsync
of half a millisecond became one of twenty, three times in a row on the way of every payment.

So the loop stands still for a moment, which leaves the interpreter to the thread, and goes on right
after it. Where the disk is slow, or other processes want the processor more, that moment would be
lost every time: once it was not enough, the loop turns to other tasks until the work is done, and
does so for the next few works at once.
"""

from collections.abc import Callable
from threading import Lock
from typing import Final, Generic, TypeVar

import outcome
import trio

T = TypeVar("T")

PASSES: Final = 7


class PromptThread:
    """Runs one piece of work at a time in a thread. Owned by one task of a trio loop."""

    def __init__(self, *, patience_s: float) -> None:
        """`patience_s`: how long the loop may stand still for one piece of work."""
        self._patience_s = patience_s
        self._passes = 0
        """Works for which the loop does not stand still, because one has taken too long."""

    async def run(self, work: Callable[[], T]) -> T:
        """Return what the work returns, or raise what it raises. It is never abandoned."""
        job: _Job[T] = _Job()
        trio.lowlevel.start_thread_soon(work, job.deliver)
        if self._passes:
            self._passes -= 1
            is_done = False
        else:
            is_done = job.done.acquire(timeout=self._patience_s)
            self._passes = 0 if is_done else PASSES
        if not is_done:
            with trio.CancelScope(shield=True):
                await job.wait()
        assert job.result is not None, "it is done"
        return job.result.unwrap()


class _Job(Generic[T]):
    """One piece of work, shared between the loop and the thread."""

    def __init__(self) -> None:
        self.result: outcome.Outcome[T] | None = None
        self.done = Lock()
        """Free once the result is there."""
        self.done.acquire()
        self._token = trio.lowlevel.current_trio_token()
        self._is_awaited = False
        self._wakeup = trio.Event()

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
