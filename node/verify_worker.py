"""The process that checks signatures: packed batches in on stdin, bitmaps out on stdout.

Started by `verifier.py` as `python -m atpar.node.verify_worker`; it imports almost nothing, so it
starts fast. It knows no keys, no ledger and no network. It ends when its stdin does, so it never
outlives its node.

    request = length (4) | ticket (8) | groups
    group   = message length (4) | message | count (4) | count x (key, signature)
    answer  = ticket (8) | count (4) | bitmap

All integers are big-endian. Bit i of the bitmap, least significant first, is the verdict on the
i-th signature of the request. Signatures of one message come as one group, because a transaction
of 256 KiB may carry 64 of them.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from atpar.ledger.keys import SignedTriple, verify_batch

KEY_BYTES: Final = 32
PAIR_BYTES: Final = KEY_BYTES + 64
TICKET_BYTES: Final = 8
ANSWER_HEADER_BYTES: Final = TICKET_BYTES + 4


def pack_request(ticket: int, triples: Sequence[SignedTriple]) -> bytes:
    """Return the bytes that ask for the verdicts on triples."""
    pieces = [b"", ticket.to_bytes(TICKET_BYTES, "big")]
    group: list[bytes] = []
    message: bytes | None = None
    for key, signed, signature in triples:
        if signed != message:
            _close_group(pieces, message, group)
            message, group = signed, []
        group += (key, signature)
    _close_group(pieces, message, group)
    pieces[0] = sum(map(len, pieces)).to_bytes(4, "big")
    return b"".join(pieces)


def _close_group(pieces: list[bytes], message: bytes | None, group: list[bytes]) -> None:
    if message is not None:
        pieces += (len(message).to_bytes(4, "big"), message)
        pieces += ((len(group) // 2).to_bytes(4, "big"), *group)


def unpack_request(body: bytes) -> tuple[int, list[SignedTriple]]:
    """Return (ticket, triples) of a request without its length."""
    return int.from_bytes(body[:TICKET_BYTES], "big"), list(_unpack_groups(body))


def _unpack_groups(body: bytes) -> Iterator[SignedTriple]:
    position = TICKET_BYTES
    while position < len(body):
        size = int.from_bytes(body[position : position + 4], "big")
        message = body[position + 4 : position + 4 + size]
        position += 4 + size
        count = int.from_bytes(body[position : position + 4], "big")
        position += 4
        for _ in range(count):
            pair = body[position : position + PAIR_BYTES]
            yield pair[:KEY_BYTES], message, pair[KEY_BYTES:]
            position += PAIR_BYTES


def pack_answer(ticket: int, verdicts: Sequence[bool]) -> bytes:
    """Return the bytes that answer a request."""
    bits = sum(1 << index for index, valid in enumerate(verdicts) if valid)
    return (
        ticket.to_bytes(TICKET_BYTES, "big")
        + len(verdicts).to_bytes(4, "big")
        + bits.to_bytes(compute_bitmap_bytes(len(verdicts)), "little")
    )


def unpack_answer(answer: bytes, *, ticket: int, count: int) -> list[bool] | None:
    """Return the verdicts, or None if the answer is not one to this request."""
    expected = ticket.to_bytes(TICKET_BYTES, "big") + count.to_bytes(4, "big")
    bitmap = answer[ANSWER_HEADER_BYTES:]
    if answer[:ANSWER_HEADER_BYTES] != expected or len(bitmap) != compute_bitmap_bytes(count):
        return None
    bits = int.from_bytes(bitmap, "little")
    return [bits >> index & 1 == 1 for index in range(count)]


def compute_bitmap_bytes(count: int) -> int:
    """Return the length of the bitmap for a number of verdicts."""
    return (count + 7) // 8


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the stream of requests ends."""
    while length := requests.read(4):
        size = int.from_bytes(length, "big")
        body = requests.read(size)
        if len(body) != size:
            return
        ticket, triples = unpack_request(body)
        answers.write(pack_answer(ticket, verify_batch(triples)))
        answers.flush()


if __name__ == "__main__":
    # The terminal's Ctrl-C goes to the whole group; the node decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
