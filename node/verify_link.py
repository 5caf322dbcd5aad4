"""One worker process: the memory shared with it, and the two pipes to it.

A batch is written to the memory and announced on a pipe that always has room for that, by whoever
has a batch, without waiting for another task. Each worker has memory of its own, so one that was
given up cannot disturb the next.
"""

import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from atpar.node.limits import (
    VERIFY_BATCH_BYTES,
    VERIFY_BATCH_SIGNATURES,
    VERIFY_BATCHES_AHEAD,
)
from atpar.node.verify_worker import PAIR_OVERHEAD_BYTES, PIECE_OVERHEAD_BYTES, REQUEST

_READ_BYTES: Final = 64 * 1024
SLOT_BYTES: Final = VERIFY_BATCH_BYTES + VERIFY_BATCH_SIGNATURES * (
    PAIR_OVERHEAD_BYTES + PIECE_OVERHEAD_BYTES
)
"""Memory for the largest batch. Pages that no batch reaches are never there."""


class WorkerLink:
    """Batches out, answers in. Made by `start`, ended by `end`."""

    def __init__(self, process: trio.Process, memory: mmap.mmap) -> None:
        assert isinstance(process.stdin, trio.lowlevel.FdStream)
        assert isinstance(process.stdout, trio.lowlevel.FdStream)
        self._process = process
        self._memory = memory
        self._requests = process.stdin.fileno()
        self._answers = process.stdout.fileno()
        self._slot = 0

    @classmethod
    async def start(cls, command: Sequence[str]) -> "WorkerLink":
        """Return the link to a new worker; the command gets the memory's descriptor."""
        descriptor = _create_memory(VERIFY_BATCHES_AHEAD * SLOT_BYTES)
        try:
            memory = mmap.mmap(descriptor, 0)
            process = await trio.lowlevel.open_process(
                [*command, f"{descriptor}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(descriptor,),
            )
        finally:
            os.close(descriptor)
        return cls(process, memory)

    def send(self, ticket: int, pieces: Sequence[bytes]) -> None:
        """Give the worker a batch. Of those before it, one less than the slots may be unanswered.

        A worker that is gone takes nothing; `receive` says so.
        """
        start = end = self._slot * SLOT_BYTES
        self._slot = (self._slot + 1) % VERIFY_BATCHES_AHEAD
        limit = start + SLOT_BYTES
        for piece in pieces:
            begin, end = end, end + len(piece)
            assert end <= limit, "a batch is bounded in signatures and bytes"
            self._memory[begin:end] = piece
        with suppress(BrokenPipeError):
            written = os.write(self._requests, REQUEST.pack(ticket, start, end))
            assert written == REQUEST.size, "less than a pipe takes at once"

    async def receive(self) -> bytes:
        """Return some bytes of the answers, none once the worker has ended."""
        while True:
            await trio.lowlevel.wait_readable(self._answers)
            with suppress(BlockingIOError):
                return os.read(self._answers, _READ_BYTES)

    async def end(self) -> None:
        """End the worker at once and collect it; it holds nothing worth saving."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    await stream.aclose()
        self._memory.close()


def _create_memory(size: int) -> int:
    """Return the descriptor of memory that another process can map too."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("atpar-verify")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
