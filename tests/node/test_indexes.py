"""The statement index: marks are what a plain walk over all movements finds."""

from collections import defaultdict
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from atpar.ledger.operations import Transfer
from atpar.ledger.records import BALANCES, NO_BALANCE, Posting, balance_key
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.node.indexes import (
    Movement,
    compute_lines,
    compute_marks,
    compute_movements,
    compute_uetrs,
    is_told,
    list_marks,
    list_told,
)
from tests.node.chains import ASSET, hash_of, make_capture, make_payment, make_transaction

ASSETS = (ASSET, "CNH.JDCL")
ACCOUNTS = ("ALFA/main", "BRVO/main", "CHRL/main")
OPENING = 10**6


def draw_postings() -> st.SearchStrategy[list[Posting]]:
    sides = st.one_of(st.none(), st.sampled_from(ACCOUNTS))
    steps = st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from(ASSETS), sides, sides, st.integers(1, 1_000)
        ).filter(lambda step: step[2] is not None or step[3] is not None),
        max_size=30,
    )
    return steps.map(
        lambda found: [
            Posting(index, op, asset, debtor, creditor, amount)
            for op, (index, asset, debtor, creditor, amount) in enumerate(sorted(found, key=str))
        ]
    )


def walk(postings: Sequence[Posting]) -> dict[tuple[str, str], list[tuple[Posting, int, int]]]:
    """Return balance -> (posting, change, posted after), forwards from the opening balance."""
    lines: dict[tuple[str, str], list[tuple[Posting, int, int]]] = defaultdict(list)
    held: dict[tuple[str, str], int] = defaultdict(lambda: OPENING)
    for posting in postings:
        for account, change in (
            (posting.debtor, -posting.amount),
            (posting.creditor, posting.amount),
        ):
            if account is not None:
                balance = (account, posting.asset)
                held[balance] += change
                lines[balance].append((posting, change, held[balance]))
    return lines


def make_overlay(lines: dict[tuple[str, str], list[tuple[Posting, int, int]]]) -> Overlay:
    overlay = Overlay(Base(MemoryBacking()))
    for (account, asset), found in lines.items():
        key = balance_key(asset, account)
        overlay.put(BALANCES, key, replace(NO_BALANCE, posted=found[-1][2]))
    return overlay


@given(draw_postings())
def test_marks_and_lines_are_those_of_a_walk_forwards(postings: list[Posting]) -> None:
    expected = walk(postings)
    found = dict(compute_marks(postings, make_overlay(expected)))
    assert set(found) == {balance_key(asset, account) for account, asset in expected}
    for (account, asset), lines in expected.items():
        left_behind = {posting.tx_index: posted for posting, _, posted in lines}
        marks = list(list_marks(found[balance_key(asset, account)]))
        assert marks == sorted(left_behind.items())
        for index, posted in marks:
            movements = [
                (p.op_index, Movement(p.op_index, p.asset, p.debtor, p.creditor, p.amount))
                for p in postings
                if p.tx_index == index
            ]
            assert [
                (line.op, line.asset, line.amount, line.posted)
                for line in compute_lines(account, movements, {asset: posted})
            ] == [
                (posting.op_index, asset, change, after)
                for posting, change, after in lines
                if posting.tx_index == index
            ]


def test_balance_that_is_gone_after_the_block_counts_as_nothing() -> None:
    postings = [
        Posting(0, 0, ASSET, "ALFA/main", None, 5),
        Posting(1, 0, ASSET, None, ACCOUNTS[1], 5),
    ]
    overlay = Overlay(Base(MemoryBacking()))
    overlay.delete(BALANCES, balance_key(ASSET, "ALFA/main"))
    overlay.put(BALANCES, balance_key(ASSET, ACCOUNTS[1]), replace(NO_BALANCE, posted=5))
    assert dict(compute_marks(postings, overlay)) == {
        balance_key(ASSET, "ALFA/main"): [0, 0],
        balance_key(ASSET, ACCOUNTS[1]): [1, 5],
    }


def test_nothing_moved_nothing_marked() -> None:
    assert list(compute_marks([], Overlay(Base(MemoryBacking())))) == []


def test_only_what_operations_do_not_say_is_kept() -> None:
    payment, capture = make_payment(1, amounts=(1, 2)), make_capture(2)
    mixed = make_transaction(3, (*payment.body.ops, *capture.body.ops))
    assert [is_told(tx) for tx in (payment, capture, mixed)] == [True, False, False]
    moved = [
        Posting(0, 0, ASSET, *ACCOUNTS[:2], 1),
        Posting(1, 0, ASSET, *ACCOUNTS[1:], 2),
        Posting(3, 0, ASSET, *ACCOUNTS[:2], 1),
        Posting(3, 2, ASSET, *ACCOUNTS[1:], 3),
    ]
    # The second capture failed: it moved nothing.
    kept = dict(compute_movements([payment, capture, capture, mixed], moved))
    assert kept == {
        1: [Movement(0, ASSET, *ACCOUNTS[1:], 2)],
        3: [Movement(0, ASSET, *ACCOUNTS[:2], 1), Movement(2, ASSET, *ACCOUNTS[1:], 3)],
    }


def test_payments_of_several_senders_say_what_they_move() -> None:
    (op,) = make_payment(1).body.ops
    assert isinstance(op, Transfer)
    back = replace(op, debtor="BRVO/main", creditor="ALFA/main", amount=9)
    exchange = make_transaction(2, (op, back))
    assert not exchange.are_own_payments
    assert is_told(exchange)
    assert list_told(exchange, "ALFA/main") == [
        (0, Movement(0, ASSET, "ALFA/main", "BRVO/main", 5)),
        (1, Movement(1, ASSET, "BRVO/main", "ALFA/main", 9)),
    ]
    assert list_told(exchange, "CHRL/main") == []


def test_references_are_named_once_in_order() -> None:
    payment = make_payment(1, amounts=(1, 2))
    first, second = payment.body.ops
    repeated = make_transaction(2, (second, first, second))
    names = [hash_of("uetr", 1, position)[:16] for position in (0, 1)]
    assert list(compute_uetrs(payment)) == names
    assert list(compute_uetrs(repeated)) == names[::-1]
    assert list(compute_uetrs(make_capture(3))) == []
    assert list(compute_uetrs(make_transaction(4, (first, *make_capture(3).body.ops)))) == names[:1]
