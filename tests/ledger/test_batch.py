"""A batch of signatures is a list of single checks: one bad entry spoils no other."""

import pytest

from atpar.ledger.keys import verify_batch
from tests.altering import flip
from tests.ledger.world import key_of, public


@pytest.mark.parametrize("bad", range(4))
def test_batch_names_exactly_the_bad_signature(bad: int) -> None:
    triples = [
        (public("ALFA-pay"), message, key_of("ALFA-pay").sign(message).signature)
        for message in (b"one", b"two", b"three", b"four")
    ]
    key, message, signature = triples[bad]
    triples[bad] = (key, message, flip(signature))
    assert verify_batch(triples) == [index != bad for index in range(4)]
