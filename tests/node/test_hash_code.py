"""Hashes of many texts: what hashlib gives, whichever way they are made."""

import hashlib
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atpar.ledger import hashing
from atpar.ledger.hashing import FEW, ManyHashes, hash_all, hash_chain, use_many_hashes
from atpar.ledger.merkle import compute_root
from atpar.node import hash_code
from atpar.node.fast_hashes import compare_with_hashlib, prepare_fast_hashes
from atpar.node.hash_code import HashCode, has_hash_instructions

START = bytes(range(32))
needs_code = pytest.mark.skipif(
    not has_hash_instructions(), reason="no instructions for SHA-256 here"
)


@pytest.fixture
def plain() -> Iterator[None]:
    """Begin without machine code, whatever other tests made; leave what there was."""
    before = hashing.find_many_hashes(FEW)
    use_many_hashes(None)
    yield
    use_many_hashes(before)


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
def test_a_tree_has_the_root_that_python_computes(plain: None, code: HashCode, count: int) -> None:
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


def test_a_few_texts_are_hashed_one_by_one(plain: None) -> None:
    counting = Counting()
    results = []
    for many in (None, counting):
        use_many_hashes(many)
        for count in (0, 1, FEW - 1, FEW):
            texts = [b"%d" % number for number in range(count)]
            results.append((hash_all(b"p", texts), hash_chain(b"p", START, texts)))
    assert results[:4] == results[4:]
    assert counting.counts == [FEW, FEW]


# ---- where there is no code


def test_code_that_answers_otherwise_is_not_used(plain: None) -> None:
    class Wrong(Counting):
        def hash_all(self, prefix: bytes, texts: Sequence[bytes]) -> list[bytes]:
            return [bytes(32) for _ in texts]

    with pytest.raises(RuntimeError, match="library's results"):
        compare_with_hashlib(Wrong())


@needs_code
@pytest.mark.parametrize("broken", ["chain", "compute_root"])
def test_each_function_is_tried_before_use(
    monkeypatch: pytest.MonkeyPatch, code: HashCode, broken: str
) -> None:
    compare_with_hashlib(code)
    monkeypatch.setattr(code, broken, lambda *_arguments: bytes(32))
    with pytest.raises(RuntimeError, match="library's results"):
        compare_with_hashlib(code)


@pytest.mark.parametrize("error", [ImportError("no llvmlite"), OSError(1, "no"), RuntimeError("x")])
def test_without_code_hashes_go_on_one_by_one(plain: None, error: Exception) -> None:
    def make() -> ManyHashes:
        raise error

    warnings: list[str] = []
    prepare_fast_hashes(make=make, warn=warnings.append).join()
    assert hashing.find_many_hashes(FEW) is None
    assert warnings == [f"hashes are made one by one: {error}"]


def test_a_processor_without_the_instructions_gets_no_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hash_code.llvm, "get_host_cpu_features", dict)
    with pytest.raises(RuntimeError, match="no instructions for SHA-256"):
        HashCode()


@needs_code
def test_what_was_made_is_used(plain: None) -> None:
    prepare_fast_hashes().join()
    assert isinstance(hashing.find_many_hashes(FEW), HashCode)
