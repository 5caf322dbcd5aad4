"""Every bound of the ledger layer, in one place, with the relations between them asserted.

A limit that can be reached from outside has a test at the limit and one past it.
"""

from typing import Final

# Sizes on the wire.
MAX_TRANSACTION_BYTES: Final = 256 * 1024
MAX_OPS_PER_TRANSACTION: Final = 1_000
MAX_SIGNATURES: Final = 64
MAX_BLOCK_BYTES: Final = 4 * 1024 * 1024
MAX_BLOCK_TRANSACTIONS: Final = 10_000
MAX_BLOCK_OPS: Final = 50_000
MAX_BLOCK_SIGNATURES: Final = 20_000

# Amounts, in minor units.
MAX_AMOUNT: Final = 10**18 - 1
MAX_SUM: Final = 2**63 - 1

# Time.
MAX_TIME_MS: Final = 2**63 - 1
"""The latest instant that a record can state."""
MAX_WINDOW_MS: Final = 24 * 3_600_000
TX_ID_RETENTION_MS: Final = 30 * 24 * 3_600_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000

# Names and texts, in characters (ASCII, so also bytes).
MAX_REFERENCE_CHARS: Final = 35
MAX_PURPOSE_CHARS: Final = 35
MAX_REASON_CHARS: Final = 140
MAX_KNOWN_TEXTS: Final = 131_072
"""Account ids whose form is remembered, about 100 bytes each."""

# Policies and per-entity bounds.
MAX_POLICY_KEYS: Final = 16
MAX_WEIGHT: Final = 1_000
MAX_VALIDATORS: Final = 127
MIN_VALIDATORS: Final = 4
MAX_MINTERS_PER_ASSET: Final = 16
MAX_ASSETS: Final = 100
"""Some rules look at every asset; so does each state root."""
MAX_OPEN_HOLDS_PER_ACCOUNT: Final = 10_000
MAX_OPEN_REDEMPTIONS_PER_ACCOUNT: Final = 1_000
MAX_UNAUDITED_ATTESTATIONS: Final = 10_000
"""Older sequences can no longer be countersigned."""
LIMIT_PERIOD_RANGE_MS: Final = (1_000, 366 * DAY_MS)
MAX_ARBITERS: Final = 8
MAX_PREIMAGE_BYTES: Final = 64
MAX_OPEN_PROPOSALS_PER_ACCOUNT: Final = 64
MAX_PENDING_PARAMS: Final = 64
MAX_BUNDLE_BYTES: Final = 128 * 1024
RECOVERY_DELAY_MS: Final = 48 * 3_600_000
MAX_PURGED_IDS_PER_BLOCK: Final = 1_000
MAX_FREEZES_PER_ACCOUNT: Final = 64
MAX_PAID_NOT_BURNED: Final = 1_000
MAX_HOLIDAYS: Final = 366
MAX_BASIS_POINTS: Final = 10_000
MAX_SCALE: Final = 6

# Evidence.
EVIDENCE_EPOCHS: Final = 1_024
"""Epochs, the present one included, whose validator sets are kept to check evidence with."""
MAX_EVIDENCE_PER_EPOCH: Final = 16
"""Records against one validator in one epoch: whoever signs twice could do so without end."""

# Chain parameters: name -> lowest and highest value.
PARAM_RANGES: Final = {
    "max_window_ms": (60_000, 7 * DAY_MS),
    "tx_id_retention_ms": (DAY_MS, 400 * DAY_MS),
    "max_block_bytes": (2 * MAX_TRANSACTION_BYTES, MAX_BLOCK_BYTES),
    "max_block_transactions": (1, MAX_BLOCK_TRANSACTIONS),
    "epoch_blocks": (4, 10**9),
    "block_interval_ms": (0, 60_000),
    "heartbeat_ms": (100, 600_000),
    "delta_ms": (1, 60_000),
}

# The state tree.
TREE_FANOUT: Final = 16
MAX_TREE_DEPTH: Final = 64
MAX_TREE_KEY_BYTES: Final = 255
"""A key has 1 to 255 bytes: its length is one byte in hashes and in nodes."""
MAX_TREE_ID_BYTES: Final = 15

# Proofs.
MAX_PROOF_BYTES: Final = 64 * 1024 * 1024
MAX_PROOF_HEADERS: Final = 4_096
"""Blocks that one finalization may finalise in a proof."""
MAX_EPOCH_STEPS: Final = 10_000
MAX_ABANDONED_BLOCKS: Final = 1_000
"""Blocks that one recovery document may declare never to have become final."""
MAX_LISTED_IDS: Final = 200_000
"""Used ids that one expiry proof may list."""

assert MAX_TRANSACTION_BYTES < MAX_BLOCK_BYTES
assert MAX_OPS_PER_TRANSACTION <= MAX_BLOCK_OPS
assert MAX_SIGNATURES <= MAX_BLOCK_SIGNATURES
assert MAX_AMOUNT < MAX_SUM
assert MAX_WINDOW_MS < TX_ID_RETENTION_MS
assert MAX_TREE_DEPTH * 4 == 256
