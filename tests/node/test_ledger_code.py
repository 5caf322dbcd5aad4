"""Machine code for the ledger is used once it has given the right results, and never needed."""

from collections.abc import Callable, Sequence

import pytest

from atpar.ledger import hashing, transactions, tree
from atpar.ledger.hashing import FEW
from atpar.ledger.tree import Item
from atpar.node import hash_code
from atpar.node.hash_code import HashCode
from atpar.node.ledger_code import (
    LedgerCode,
    compare_with_decoding,
    compare_with_hashlib,
    compare_with_python,
    make_ledger_code,
    prepare_ledger_code,
)
from atpar.node.payment_code import PaymentCode
from atpar.node.tree_code import TreeCode
from tests.altering import flip
from tests.node.machine_code import needs_code, without_code

__all__ = ["without_code"]


@pytest.fixture(scope="module")
def code() -> LedgerCode:
    return make_ledger_code()


@needs_code
@pytest.mark.parametrize("broken", ["hash_all", "chain", "compute_root"])
def test_each_function_for_hashes_is_tried_before_use(
    monkeypatch: pytest.MonkeyPatch, code: LedgerCode, broken: str
) -> None:
    compare_with_hashlib(code.hashes)
    monkeypatch.setattr(code.hashes, broken, lambda *_arguments: bytes(32))
    with pytest.raises(RuntimeError, match="library's results"):
        compare_with_hashlib(code.hashes)


class Altered:
    """Does what the code does, and then one thing more."""

    def __init__(self, code: LedgerCode, alter: Callable[[dict[bytes, bytes | None]], None]):
        self._code = code.tree
        self._alter = alter

    def change_values(
        self,
        get_node: Callable[[bytes], bytes | None],
        nodes: dict[bytes, bytes | None],
        root_key: bytes,
        items: list[Item],
    ) -> list[Item]:
        rest = self._code.change_values(get_node, nodes, root_key, items)
        self._alter(nodes)
        return rest


def forget_a_page(nodes: dict[bytes, bytes | None]) -> None:
    nodes.popitem()


def alter_a_page(nodes: dict[bytes, bytes | None]) -> None:
    key, page = nodes.popitem()
    assert page is not None
    nodes[key] = flip(page, at=-1)


def fail(_nodes: dict[bytes, bytes | None]) -> None:
    raise AssertionError("a sum is wrong")


@needs_code
def test_code_for_trees_is_tried_before_use(code: LedgerCode) -> None:
    compare_with_python(code.tree)
    for alter in (forget_a_page, alter_a_page, fail):
        with pytest.raises(RuntimeError, match="the code for trees"):
            compare_with_python(Altered(code, alter))


Found = tuple[bool, bytes]


@needs_code
@pytest.mark.parametrize(
    "alter",
    [
        lambda is_payment, body_hash: (is_payment, bytes(32)),
        lambda _, body_hash: (True, body_hash),
        lambda is_payment, body_hash: (False, body_hash),
    ],
)
def test_code_for_payments_is_tried_before_use(
    code: LedgerCode, alter: Callable[[bool, bytes], Found]
) -> None:
    class AlteredScan:
        def scan(self, raws: Sequence[bytes]) -> list[Found]:
            return [alter(*found) for found in code.payments.scan(raws)]

    compare_with_decoding(code.payments)
    with pytest.raises(RuntimeError, match="the code for payments"):
        compare_with_decoding(AlteredScan())


@needs_code
@pytest.mark.parametrize(
    ("kind", "function", "answer"),
    [
        (HashCode, "hash_all", lambda *_: [bytes(32)]),
        (TreeCode, "change_values", lambda *_: []),
        (PaymentCode, "scan", lambda _, raws: [(False, b"")] * len(raws)),
    ],
)
def test_code_that_answers_otherwise_is_not_handed_out(
    monkeypatch: pytest.MonkeyPatch, kind: type, function: str, answer: Callable[..., object]
) -> None:
    monkeypatch.setattr(kind, function, answer)
    with pytest.raises(RuntimeError, match="does not give the"):
        make_ledger_code()


@pytest.mark.parametrize("error", [ImportError("no llvmlite"), OSError(1, "no"), RuntimeError("x")])
def test_without_code_blocks_are_hashed_by_python(without_code: None, error: Exception) -> None:
    def make() -> LedgerCode:
        raise error

    warnings: list[str] = []
    prepare_ledger_code(make=make, warn=warnings.append).join()
    assert hashing.find_many_hashes(FEW) is None
    assert tree._code is None
    assert transactions._payment_code is None
    assert warnings == [f"blocks are hashed by Python alone: {error}"]


def test_a_processor_without_the_instructions_gets_no_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hash_code.llvm, "get_host_cpu_features", dict)
    with pytest.raises(RuntimeError, match="no instructions for SHA-256"):
        HashCode()


@needs_code
def test_what_was_made_is_used(without_code: None) -> None:
    prepare_ledger_code().join()
    assert isinstance(hashing.find_many_hashes(FEW), HashCode)
    assert isinstance(tree._code, TreeCode)
    assert isinstance(transactions._payment_code, PaymentCode)


def test_lists_of_texts_are_sequences_of_any_kind() -> None:
    """A tuple will do: nothing is written to what is given."""
    texts: Sequence[bytes] = tuple(b"%d" % number for number in range(FEW))
    assert hashing.hash_all(b"p", texts) == hashing.hash_all(b"p", list(texts))
