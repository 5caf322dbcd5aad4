"""What tests of machine code share."""

from collections.abc import Iterator

import pytest

from atpar.ledger import hashing, transactions, tree
from atpar.ledger.hashing import FEW, use_many_hashes
from atpar.ledger.transactions import use_payment_code
from atpar.ledger.tree import use_tree_code
from atpar.node.hash_code import has_hash_instructions

needs_code = pytest.mark.skipif(
    not has_hash_instructions(), reason="no instructions for SHA-256 here"
)


@pytest.fixture
def without_code() -> Iterator[None]:
    """Begin without machine code, whatever other tests made; leave what there was."""
    before = hashing.find_many_hashes(FEW), tree._code, transactions._payment_code
    use_many_hashes(None)
    use_tree_code(None)
    use_payment_code(None)
    yield
    use_many_hashes(before[0])
    use_tree_code(before[1])
    use_payment_code(before[2])
