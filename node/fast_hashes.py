"""Has the hashes of a block made by machine code, once that has given the results of `hashlib`.

Without it everything is as before, only slower: the ledger hashes by Python until a faster way has
been found and tested, and wherever none is (`hash_code.py` says when).
"""

import hashlib
import threading
from collections.abc import Callable
from typing import Final

from atpar.ledger.hashing import ManyHashes, use_many_hashes
from atpar.node.logs import get_logger

log = get_logger("fast_hashes")

_TESTED_LENGTHS: Final = 200
"""Texts of every length up to here are tried: all ways in which a block can end are among them."""


def make_fast_hashes() -> ManyHashes:
    """Return machine code that has just given the right results.

    Raises:
        ImportError, OSError, RuntimeError: there is none here, or it answers otherwise.
    """
    # Imported here: most short-lived processes never need what takes 0.1 s and 50 MB.
    from atpar.node.hash_code import HashCode

    code = HashCode()
    compare_with_hashlib(code)
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


def prepare_fast_hashes(
    *,
    make: Callable[[], ManyHashes] = make_fast_hashes,
    warn: Callable[[str], None] = log.warning,
) -> threading.Thread:
    """Have the code made and used for the rest of the process. This waits for nothing.

    `warn` is told, in another thread, why there is none.
    """

    def prepare() -> None:
        try:
            use_many_hashes(make())
        except (ImportError, OSError, RuntimeError) as error:
            warn(f"hashes are made one by one: {error}")

    thread = threading.Thread(target=prepare, name="hash code")
    thread.start()
    return thread
