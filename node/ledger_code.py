"""Has what the ledger does thousands of times for a block done by machine code.

Hashes of many texts (`hash_code.py`), new values in the pages of a tree (`tree_code.py`), a look at
each payment before it is decoded (`payment_code.py`). The code is used once it has given the
results of plain Python on a few examples. Without it everything is as before, only slower: until it
is made, and wherever none can be (`hash_code.py` says when).
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from atpar.ledger.codec import encode
from atpar.ledger.errors import NonCanonical
from atpar.ledger.hashing import ManyHashes, use_many_hashes
from atpar.ledger.limits import MAX_REFERENCE_CHARS
from atpar.ledger.operations import Transfer
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.transactions import (
    VERSION,
    Body,
    PaymentCode,
    decode_transaction,
    encode_envelope,
    use_payment_code,
)
from atpar.ledger.tree import Change, TreeCode, update_tree_by, use_tree_code
from atpar.node.logs import get_logger

log = get_logger("ledger_code")

_TESTED_LENGTHS: Final = 200
"""Texts of every length up to here are tried: all ways in which a block can end are among them."""
_TESTED_ENTRIES: Final = 300
"""Of a tree: it has pages of three levels, and nodes inside them."""


@dataclass(frozen=True, slots=True)
class LedgerCode:
    """What machine code does for the ledger."""

    hashes: ManyHashes
    tree: TreeCode
    payments: PaymentCode


def make_ledger_code() -> LedgerCode:
    """Return machine code that has just given the right results.

    Raises:
        ImportError, OSError, RuntimeError: there is none here, or it answers otherwise.
    """
    # Imported here: most short-lived processes never need what takes 0.1 s and 50 MB.
    from atpar.node import hash_code, payment_code, tree_code

    hashes = hash_code.HashCode()
    tree = tree_code.TreeCode(hashes.engine)
    code = LedgerCode(hashes, tree, payment_code.PaymentCode(hashes.engine))
    compare_with_hashlib(code.hashes)
    compare_with_python(code.tree)
    compare_with_decoding(code.payments)
    return code


def compare_with_hashlib(code: ManyHashes) -> None:
    """Hash some texts both ways.

    Raises:
        RuntimeError: the results differ.
    """
    prefix, start = b"prefix", bytes(range(32))
    texts = [bytes(n % 251 for n in range(length)) for length in range(_TESTED_LENGTHS)]
    expected = [hashlib.sha256(prefix + text).digest() for text in texts]
    running = start
    for text in texts:
        running = hashlib.sha256(prefix + running + text).digest()
    if (
        code.hash_all(prefix, texts) != expected
        or code.chain(prefix, start, texts) != running
        or any(code.compute_root(texts[:n]) != _compute_root(texts[:n]) for n in range(1, 40))
    ):
        raise RuntimeError("the code for hashes does not give the library's results")


def _compute_root(texts: list[bytes]) -> bytes:
    """Return the root as RFC 6962 words it, by recursion: not by the code it is to test."""
    if len(texts) == 1:
        return hashlib.sha256(b"\0" + texts[0]).digest()
    split = 1 << (len(texts) - 1).bit_length() - 1
    below = _compute_root(texts[:split]) + _compute_root(texts[split:])
    return hashlib.sha256(b"\1" + below).digest()


def compare_with_python(code: TreeCode) -> None:
    """Change a tree both ways.

    Raises:
        RuntimeError: the results differ.
    """
    tree, base = b"aTEST", Overlay(Base(MemoryBacking()))
    keys = [b"%d" % number for number in range(_TESTED_ENTRIES)]
    update_tree_by(None, base, tree, [(key, key, 1) for key in keys])
    # New values, an entry that goes and one that comes.
    changes: list[Change] = [(key, b"new" + key, 2**40 + len(key)) for key in keys[::3]]
    changes += [(keys[1], None, 0), (b"other", b"value", 7)]
    results = []
    for each in (None, code):
        overlay = Overlay(base)
        try:
            root = update_tree_by(each, overlay, tree, changes)
        except AssertionError as error:
            raise RuntimeError(f"the code for trees fails: {error}") from error
        results.append((root, overlay.nodes))
    if results[0] != results[1]:
        raise RuntimeError("the code for trees does not give the results of Python")


def compare_with_decoding(code: PaymentCode) -> None:
    """Look at payments, and at what they become with one byte of them altered, both ways.

    Raises:
        RuntimeError: the results differ.
    """
    payments = [_make_payment(1, MAX_REFERENCE_CHARS), _make_payment(2, 0)]
    raws = [
        raw[:place] + bytes((raw[place] ^ change,)) + raw[place + 1 :]
        for raw in payments
        for place in range(len(raw))
        for change in (0, 1, 0x10)
    ]
    for raw, (is_payment, body_hash) in zip(raws, code.scan(raws), strict=True):
        try:
            tx = decode_transaction(raw)
        except NonCanonical:
            expected = False, b""
        else:
            expected = tx.are_own_payments, tx.body_hash
        if is_payment != expected[0] or (is_payment and body_hash != expected[1]):
            raise RuntimeError("the code for payments does not give the results of Python")


def _make_payment(transfers: int, chars: int) -> bytes:
    """Return an envelope with texts of this length, and null where there are none."""
    text, uuid, digest = "x" * chars, bytes(16), bytes(32)
    op = Transfer(
        "USD.TEST", "TEST/main", "TEST/other", 1_000, uuid, text, text,
        uuid if text else None, digest if text else None, travel_rule_ack=bool(text),
    )  # fmt: skip
    body = Body(VERSION, digest, op.debtor, uuid, 2**40, 2**41, (op,) * transfers)
    return encode_envelope(encode(body), [(digest, bytes(64))])


def prepare_ledger_code(
    *,
    make: Callable[[], LedgerCode] = make_ledger_code,
    warn: Callable[[str], None] = log.warning,
) -> threading.Thread:
    """Have the code made and used for the rest of the process. This waits for nothing.

    `warn` is told, in another thread, why there is none.
    """

    def prepare() -> None:
        try:
            code = make()
        except (ImportError, OSError, RuntimeError) as error:
            warn(f"blocks are hashed by Python alone: {error}")
        else:
            use_many_hashes(code.hashes)
            use_tree_code(code.tree)
            use_payment_code(code.payments)

    thread = threading.Thread(target=prepare, name="ledger code")
    thread.start()
    return thread
