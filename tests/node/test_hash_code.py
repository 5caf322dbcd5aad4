"""Hashes of many texts: what hashlib gives, whichever way they are made."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atpar.ledger.hashing import FEW, ManyHashes, hash_all, hash_chain, use_many_hashes
from atpar.ledger.merkle import compute_root
from atpar.node.hash_code import HashCode
from tests.node.machine_code import needs_code, without_code

__all__ = ["without_code"]
START = bytes(range(32))


@pytest.fixture(scope="module")
def code() -> HashCode:
    return HashCode()


def chain_plainly(prefix: bytes, texts: Sequence[bytes]) -> bytes:
    running = START
    for text in texts:
        running = hashlib.sha256(prefix + running + text).digest()
    return running


@needs_code
@given(st.binary(max_size=80), st.lists(st.binary(max_size=300), min_size=1, max_size=40))
def test_the_code_gives_the_results_of_hashlib(
    code: HashCode, prefix: bytes, texts: list[bytes]
) -> None:
    expected = [hashlib.sha256(prefix + text).digest() for text in texts]
    assert code.hash_all(prefix, texts) == expected
    assert code.chain(prefix, START, texts) == chain_plainly(prefix, texts)


@needs_code
def test_texts_of_every_length(code: HashCode) -> None:
    """Every way in which a last block can be filled, and texts of many blocks."""
    texts = [b"x" * length for length in [*range(400), 65_535, 65_536, 1_000_003]]
    assert code.hash_all(b"", texts) == [hashlib.sha256(text).digest() for text in texts]


@needs_code
@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 513, 4_000])
def test_more_texts_than_one_call_takes(code: HashCode, count: int) -> None:
    texts = [b"%d" % number for number in range(count)]
    assert code.hash_all(b"p", texts) == [hashlib.sha256(b"p" + t).digest() for t in texts]
    assert code.chain(b"p", START, texts) == chain_plainly(b"p", texts)


@needs_code
@pytest.mark.parametrize("count", [*range(1, 70), 255, 256, 257, 1_000])
def test_a_tree_has_the_root_that_python_computes(
    without_code: None, code: HashCode, count: int
) -> None:
    entries = [b"%d" % number * 9 for number in range(count)]
    expected = compute_root(entries)
    assert code.compute_root(entries) == expected
    use_many_hashes(code)
    assert compute_root(entries) == expected


class Counting(ManyHashes):
    """Hashes by hashlib, and remembers how many texts it was given."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def hash_all(self, prefix: bytes, texts: Sequence[bytes]) -> list[bytes]:
        self.counts.append(len(texts))
        return [hashlib.sha256(prefix + text).digest() for text in texts]

    def chain(self, prefix: bytes, start: bytes, texts: Sequence[bytes]) -> bytes:
        self.counts.append(len(texts))
        return chain_plainly(prefix, texts)

    def compute_root(self, texts: Sequence[bytes]) -> bytes:
        raise NotImplementedError


def test_a_few_texts_are_hashed_one_by_one(without_code: None) -> None:
    counting = Counting()
    results = []
    for many in (None, counting):
        use_many_hashes(many)
        for count in (0, 1, FEW - 1, FEW):
            texts = [b"%d" % number for number in range(count)]
            results.append((hash_all(b"p", texts), hash_chain(b"p", START, texts)))
    assert results[:4] == results[4:]
    assert counting.counts == [FEW, FEW]
