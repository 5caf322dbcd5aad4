"""Every bound and default duration of the consensus layer, with their relations asserted.

A bound that can be reached from outside has a test at it and one past it.
"""

from typing import Final

from atpar.ledger.certificates import MAX_CERTIFICATE_BYTES
from atpar.ledger.limits import MAX_BLOCK_BYTES, MAX_VALIDATORS

# Durations, in milliseconds.
DELTA_MS: Final = 200
MAX_DELTA_MS: Final = 5_000
BUILD_ALLOWANCE_MS: Final = 150
VERIFY_ALLOWANCE_MS: Final = 300
RETRY_MS: Final = 1_000
SKIP_TIMEOUT_MS: Final = 3_000
HEARTBEAT_MS: Final = 5_000
BLOCK_INTERVAL_MS: Final = 50
CLOCK_AHEAD_MS: Final = 2_000
CLOCK_BEHIND_MS: Final = 10_000

# Sizes of messages.
MAX_CERTIFICATES_PER_ANSWER: Final = 32
MAX_VOTES_PER_ANSWER: Final = 3 * (2 * MAX_VALIDATORS + 2)
MAX_SYNC_BLOCKS: Final = 256
MAX_SYNC_BYTES: Final = MAX_BLOCK_BYTES
"""A range answer carries blocks up to this many bytes, or one block."""
MAX_MESSAGE_BYTES: Final = (
    MAX_BLOCK_BYTES + MAX_CERTIFICATES_PER_ANSWER * MAX_CERTIFICATE_BYTES + 8 * MAX_SYNC_BLOCKS
)
MAX_RECORD_BYTES: Final = MAX_BLOCK_BYTES + 1_024

# What a replica holds in memory.
MAX_HELD_BODY_BYTES: Final = 64 * 1024 * 1024
"""With more bytes of bodies held, proposals for other views than the current one are not kept."""
MAX_UNFINAL_BYTES: Final = 64 * 1024 * 1024
"""With more bytes of journaled blocks not final, leaders propose empty blocks."""
MAX_PENDING_RUN_BYTES: Final = MAX_UNFINAL_BYTES + 8 * MAX_BLOCK_BYTES
"""Blocks of a range that wait for the certificate above them: more than a chain can have without
one, which is what leaders stop at, the last full block and the empty ones after it. With less,
whoever was away during such a stretch could never fetch it."""
MAX_TURNS_PER_PART: Final = 4
"""How often, once per retry interval, the peer that unproven blocks came from is asked to go on
before they are forgotten and others are asked."""
MAX_NEXT_EPOCH_MESSAGES: Final = 8
"""Messages of the next epoch that wait, per peer, while its opening record is being written."""
MAX_NEXT_EPOCH_PROPOSALS: Final = 4
"""Proposals among them, of all peers."""
MAX_BODIES_BY_DIGEST: Final = 16
"""With more final blocks than this missing, they are fetched as a range, oldest first."""
MAX_EVIDENCE_PER_VALIDATOR: Final = 4
"""Pieces of evidence reported against one validator in one epoch."""

assert MAX_SYNC_BYTES <= MAX_BLOCK_BYTES
assert MAX_CERTIFICATE_BYTES < MAX_RECORD_BYTES
assert 3 * DELTA_MS + BUILD_ALLOWANCE_MS + VERIFY_ALLOWANCE_MS + BLOCK_INTERVAL_MS < SKIP_TIMEOUT_MS
assert MAX_BLOCK_BYTES * (MAX_NEXT_EPOCH_PROPOSALS + 1) <= MAX_HELD_BODY_BYTES
assert MAX_PENDING_RUN_BYTES > MAX_UNFINAL_BYTES + MAX_BLOCK_BYTES
assert DELTA_MS <= MAX_DELTA_MS
