"""The process that checks signatures: batches in through shared memory, verdicts out on stdout.

Started by `verify_link.py` as `python -m atpar.node.verify_worker TABLES DESCRIPTOR`; it imports
almost nothing, so it starts fast. It knows no private keys, no ledger and no network. It ends when
its stdin does, so it never outlives its node.

    request = ticket (8) | start (4) | end (4)        where in the memory its pieces stand
    piece   = messages (4) | signatures (4) | sizes (4 each) | uses (4 each)
            | signatures x (key, signature) | the messages
    answer  = ticket (8) | count (4) | count x verdict (1)

All integers are big-endian; a verdict is 1 for valid and 0 for not. The i-th message has `sizes[i]`
bytes and is what the next `uses[i]` signatures are of: a transaction of 256 KiB may carry 64 of
them, and its bytes travel once. Everything of one kind stands together, so that packing and
unpacking are a few calls for a piece and not for a signature; and the pieces stand in memory that
both processes see, because a pipe took longer for them than everything else here.
"""

import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, compress, pairwise, repeat
from operator import is_not
from typing import BinaryIO, Final

from atpar.node.known_keys import KnownKeys

Columns = tuple[Sequence[bytes], Sequence[bytes], Sequence[bytes]]
"""Keys, messages and signatures, one of each for every signature."""

REQUEST: Final = struct.Struct(">QII")
"""ticket, start, end"""
_ANSWER: Final = struct.Struct(">QI")
_COUNTS: Final = struct.Struct(">2I")
_PAIR: Final = struct.Struct("32s64s")
PIECE_OVERHEAD_BYTES: Final = _COUNTS.size
PAIR_OVERHEAD_BYTES: Final = _PAIR.size + 8
"""Most bytes that a signature takes beside its message."""


def pack_piece(columns: Columns) -> bytes:
    """Return a few signatures as the worker reads them. At least one.

    Raises:
        ValueError: a key is not 32 bytes long, or a signature not 64.
    """
    keys, messages, signatures = columns
    if set(map(len, keys)) != {32} or set(map(len, signatures)) != {64}:
        raise ValueError("a key has 32 bytes and a signature 64")
    count = len(messages)
    # Signatures of one transaction share one message object.
    starts = [0, *compress(range(1, count), map(is_not, messages[1:], messages))]
    distinct = [messages[start] for start in starts]
    uses = [after - start for start, after in pairwise([*starts, count])]
    numbers = struct.pack(f">{2 * len(starts)}I", *map(len, distinct), *uses)
    pairs = chain.from_iterable(zip(keys, signatures, strict=True))
    return b"".join((_COUNTS.pack(len(starts), count), numbers, *pairs, *distinct))


def unpack_pieces(memory: mmap.mmap | bytes, start: int, end: int) -> Iterator[Columns]:
    """Yield the pieces that stand between two places of the memory."""
    with memoryview(memory) as view:
        while start < end:
            distinct, count = _COUNTS.unpack_from(view, start)
            start += _COUNTS.size
            numbers = struct.unpack_from(f">{2 * distinct}I", view, start)
            start += 8 * distinct
            after = start + _PAIR.size * count
            with view[start:after] as pairs:
                keys, signatures = zip(*_PAIR.iter_unpack(pairs), strict=True)
            ends = list(accumulate(numbers[:distinct], initial=after))
            messages = [memory[first:last] for first, last in pairwise(ends)]
            start = ends[-1]
            if distinct < count:
                messages = list(chain.from_iterable(map(repeat, messages, numbers[distinct:])))
            yield keys, messages, signatures


def pack_answer(ticket: int, verdicts: Sequence[bool]) -> bytes:
    """Return the bytes that answer a request."""
    return _ANSWER.pack(ticket, len(verdicts)) + bytes(verdicts)


def unpack_answer(answer: bytes, *, ticket: int, count: int) -> list[bool] | None:
    """Return the verdicts, or None if the answer is not one to this request."""
    verdicts = list(map(bool, answer[_ANSWER.size :]))
    # Packed again it is the same bytes, or it holds something that is no verdict.
    is_answer = len(verdicts) == count and pack_answer(ticket, verdicts) == answer
    return verdicts if is_answer else None


def compute_answer_bytes(count: int) -> int:
    """Return the length of the answer to a request for so many verdicts."""
    return _ANSWER.size + count


def serve(
    requests: BinaryIO, answers: BinaryIO, memory: mmap.mmap | bytes, known: KnownKeys
) -> None:
    """Answer requests until the stream of requests ends."""
    while len(request := requests.read(REQUEST.size)) == REQUEST.size:
        ticket, start, end = REQUEST.unpack(request)
        verdicts: list[bool] = []
        for columns in unpack_pieces(memory, start, end):
            verdicts += known.verify_columns(*columns)
        answers.write(pack_answer(ticket, verdicts))
        answers.flush()


def _warn(text: str) -> None:
    """Say something to the node's log of errors: stdout is for answers."""
    sys.stderr.write(f"signature worker: {text}\n")


def _main(key_tables: int, descriptor: int) -> None:
    # The terminal's Ctrl-C goes to the whole group; the node decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    os.close(descriptor)
    known = KnownKeys(max_tables=key_tables, warn=_warn)
    known.prepare()
    # Not on the first thread: where its stack begins changes with every process, and in half of
    # them the library's numbers straddle cache lines, 41 to 44 us a signature instead of 37. The
    # stack of a thread always begins at a page.
    streams = (sys.stdin.buffer, sys.stdout.buffer)
    work = threading.Thread(target=serve, args=(*streams, memory, known))
    work.start()
    work.join()


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
