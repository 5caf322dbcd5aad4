"""Every bound of the node, in one place, with the relations between them asserted.

A limit that can be reached from outside has a test at the limit and one past it.
"""

from typing import Final

from atpar.ledger.certificates import MAX_CERTIFICATE_BYTES
from atpar.ledger.limits import MAX_BLOCK_BYTES, MAX_BLOCK_TRANSACTIONS

# ---- the store (chain.db)
STORE_BLOCK_CACHE_BYTES: Final = 64 * 1024 * 1024
STORE_WRITE_BUFFER_BYTES: Final = 16 * 1024 * 1024
STORE_BLOOM_BITS: Final = 10
STORE_MAX_OPEN_FILES: Final = 256
MAX_PAGE: Final = 1_000
"""Most entries that one paginated read returns."""
MAX_FINALIZATION_GAP: Final = 4_096
"""Most blocks that one finalization may finalise, so proofs and searches stay bounded."""

# ---- the journal (votes.journal)
MAX_JOURNAL_RECORD_BYTES: Final = MAX_BLOCK_BYTES + 64 * 1024
MAX_JOURNAL_BYTES: Final = 1024 * 1024 * 1024
"""Past this the node stops: a journal that cannot be compacted means that nothing commits."""
JOURNAL_COMPACT_BYTES: Final = 8 * 1024 * 1024
"""A journal longer than this is rewritten without its covered records after the next commit."""

# ---- the executor
MAX_SPECULATIVE_BLOCKS: Final = 256
MAX_UNSYNCED_COMMITS: Final = 64
"""Finalised blocks whose write batch may be under way before the loop waits for the disk."""

# ---- the mempool
MEMPOOL_MAX_BYTES: Final = 64 * 1024 * 1024
MEMPOOL_MAX_TRANSACTIONS: Final = 100_000

# ---- verified signatures
MAX_VERIFIED_ENVELOPES: Final = 200_000
"""Hashes of envelopes whose signatures were checked here."""

assert MAX_BLOCK_BYTES < MAX_JOURNAL_RECORD_BYTES
assert MAX_CERTIFICATE_BYTES < MAX_JOURNAL_RECORD_BYTES
assert MAX_JOURNAL_RECORD_BYTES < JOURNAL_COMPACT_BYTES < MAX_JOURNAL_BYTES
assert MAX_BLOCK_TRANSACTIONS * 2 <= MAX_VERIFIED_ENVELOPES
assert MEMPOOL_MAX_BYTES > 4 * MAX_BLOCK_BYTES
assert MEMPOOL_MAX_TRANSACTIONS > 4 * MAX_BLOCK_TRANSACTIONS
