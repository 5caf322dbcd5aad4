"""Checks of operations in themselves agree, whether asked one by one or together."""

from collections.abc import Sequence
from typing import get_args

import pytest
from msgspec.structs import replace

from atpar.ledger.authority import PRINCIPALS
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.execute import APPLY
from atpar.ledger.keys import verify_batch
from atpar.ledger.limits import MAX_AMOUNT, MAX_OPS_PER_TRANSACTION, MAX_SIGNATURES
from atpar.ledger.operations import Operation, Transfer
from atpar.ledger.transactions import VERSION, Envelope, Signature, decode_transaction
from atpar.ledger.values import CHECKS, are_own_payments, find_value_fault
from tests.ledger import samples
from tests.ledger.world import transfer


def test_every_operation_has_its_check_its_principals_and_its_effect() -> None:
    kinds = set(get_args(Operation))
    assert set(CHECKS) == kinds
    assert set(APPLY) == kinds
    assert set(PRINCIPALS) | {Transfer} == kinds


@pytest.mark.parametrize("op", samples.OPERATIONS, ids=lambda op: type(op).__name__)
def test_one_operation_and_a_list_of_one_are_judged_alike(op: Operation) -> None:
    alone, listed = CHECKS[type(op)](op), find_value_fault([op])
    assert (alone is None) == (listed is None)
    if alone is not None and listed is not None:
        assert listed.code is alone[0]
        assert listed.code < 200
        assert listed.message == f"ops[0].{alone[1]}"


def test_the_lowest_code_of_all_operations_is_reported() -> None:
    good, out_of_range = [op for op in samples.OPERATIONS if isinstance(op, Transfer)]
    fault = find_value_fault([good, good, out_of_range])
    assert fault is not None
    assert (fault.code, fault.message[:7]) == (Code.AMOUNT_RANGE, "ops[2].")


@pytest.mark.parametrize("amount", [-1, 0, 1, MAX_AMOUNT, MAX_AMOUNT + 1])
@pytest.mark.parametrize("debtor", ["ALFA/main", "BRVO/main"])
@pytest.mark.parametrize("creditor", ["ALFA/main", "BRVO/main"])
def test_own_payments_have_no_fault_and_one_debtor(debtor: str, creditor: str, amount: int) -> None:
    """Exactly the payments that need no look at each: in any place among good ones."""
    good = transfer("ALFA/main", "CHRL/main", 1)
    op = transfer(debtor, creditor, amount)
    expected = find_value_fault([op]) is None and debtor == "ALFA/main"
    for ops in ([op], [good, op], [op, good]):
        assert are_own_payments("ALFA/main", ops) == expected


def test_own_payments_are_payments() -> None:
    for op in samples.OPERATIONS:
        expected = isinstance(op, Transfer) and find_value_fault([op]) is None
        assert are_own_payments("ALFA/main", [op]) == expected
        tx = decode_transaction(samples.make_envelope(samples.make_body(op), "alfa"))
        assert tx.are_own_payments == expected


@pytest.mark.parametrize(
    ("version", "count", "keys", "expected"),
    [
        (VERSION, 1, [1], True),
        (VERSION, MAX_OPS_PER_TRANSACTION, [1, 2], True),
        (VERSION, 1, range(MAX_SIGNATURES), True),
        (VERSION + 1, 1, [1], False),
        (0, 1, [1], False),
        (VERSION, 0, [1], False),
        (VERSION, MAX_OPS_PER_TRANSACTION + 1, [1], False),
        (VERSION, 1, [], False),
        (VERSION, 1, [2, 1], False),
        (VERSION, 1, [1, 3, 3], False),
        (VERSION, 1, range(MAX_SIGNATURES + 1), False),
    ],
)
def test_own_payments_stand_in_an_envelope_of_good_form(
    version: int, count: int, keys: Sequence[int], expected: bool
) -> None:
    body = samples.make_body(*[transfer("ALFA/main", "CHRL/main", 1)] * count)
    body = replace(body, version=version, sender="ALFA/main")
    signatures = tuple(Signature(bytes([key]) * 32, bytes(64)) for key in keys)
    tx = decode_transaction(encode(Envelope(encode(body), signatures)))
    assert tx.are_own_payments == expected


def test_what_is_signed_is_listed_for_the_verifier() -> None:
    tx = decode_transaction(samples.ENVELOPE)
    triples = tx.compute_triples()
    assert [key for key, _, _ in triples] == [signature.key for signature in tx.signatures]
    assert verify_batch(triples) == [True, True]
