"""Every bound of the node, in one place, with the relations between them asserted.

A limit that can be reached from outside has a test at the limit and one past it.
"""

from typing import Final

from atpar.consensus.limits import MAX_MESSAGE_BYTES, MAX_RECORD_BYTES
from atpar.ledger.certificates import MAX_CERTIFICATE_BYTES
from atpar.ledger.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_SIGNATURES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_TRANSACTION_BYTES,
)

# ---- the store (chain.db)
STORE_BLOCK_CACHE_BYTES: Final = 64 * 1024 * 1024
STORE_MIN_WRITE_BUFFER_BYTES: Final = 12 * 1024 * 1024
STORE_MAX_WRITE_BUFFER_BYTES: Final = 20 * 1024 * 1024
"""LevelDB's; each store draws its own, see `node/kv.py`."""
STORE_BLOOM_BITS: Final = 10
STORE_MAX_OPEN_FILES: Final = 256
USED_IDS_WORDS: Final = 1 << 22
"""Of 64 bits, for what tells that an id was never used: 32 MB, good for 33 million ids."""
USED_IDS_PORTION: Final = 1_000
"""Ids that are read at a start before somebody else may add some."""
MAX_HELD_PAGE_BLOCKS: Final = 16
MAX_HELD_PAGE_BYTES: Final = 16 * 1024 * 1024
"""Tree pages go to the disk with so many blocks at most, or when more bytes of them are held."""
SNAPSHOT_CACHE_BYTES: Final = 1024 * 1024
"""Decoded records, and tree pages, that one answer about the final state keeps while it is made."""
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
MAX_HELD_BLOCKS: Final = 2 * MAX_SPECULATIVE_BLOCKS
"""Blocks whose bytes are kept while they may still become final; executed ones always are."""
MERGED_OVERLAYS: Final = 16
"""So many overlays in a row are merged into one: reads stay short while many blocks are held."""
MAX_UNSYNCED_COMMITS: Final = 64
"""Finalised blocks whose write batch may be under way before the loop waits for the disk."""

# ---- the mempool
MEMPOOL_MAX_BYTES: Final = 64 * 1024 * 1024
MEMPOOL_MAX_TRANSACTIONS: Final = 100_000
MEMPOOL_SHARE_PERCENT: Final = 50
"""Most of the pool that one participant may fill."""
MAX_REMEMBERED_SENDERS: Final = 65_536
"""Accounts whose participant is remembered."""

# ---- frames between validators, payload bytes by channel
MAX_CONTROL_FRAME_BYTES: Final = 4 * 1024
MAX_VOTE_FRAME_BYTES: Final = 64 * 1024
MAX_PROPOSAL_FRAME_BYTES: Final = MAX_BLOCK_BYTES + 64 * 1024
MAX_FETCH_FRAME_BYTES: Final = MAX_MESSAGE_BYTES
MAX_TRANSACTIONS_FRAME_BYTES: Final = 1024 * 1024
MAX_SNAPSHOT_FRAME_BYTES: Final = 1024 * 1024

# ---- what waits for one peer, payload bytes by channel
MAX_QUEUED_CONTROL_BYTES: Final = 16 * 1024
MAX_QUEUED_VOTE_BYTES: Final = 1024 * 1024
MAX_QUEUED_PROPOSAL_BYTES: Final = 3 * MAX_PROPOSAL_FRAME_BYTES
MAX_QUEUED_FETCH_BYTES: Final = 2 * MAX_FETCH_FRAME_BYTES
MAX_QUEUED_TRANSACTION_BYTES: Final = 8 * 1024 * 1024
MAX_QUEUED_SNAPSHOT_BYTES: Final = 4 * MAX_SNAPSHOT_FRAME_BYTES
MAX_QUEUED_FRAMES: Final = 4_096
"""Per channel, so that empty frames cannot pile up either."""
MAX_AWAY_VOTES: Final = 64
"""Latest votes kept for a peer that is not connected."""
SEND_BATCH_BYTES: Final = 64 * 1024
"""Frames are joined up to this size and sent at once."""
SEND_NOW_BYTES: Final = MAX_PROPOSAL_FRAME_BYTES
"""Sent to one peer within a turn of the driver; what is more is left to the connection's task."""
READ_BYTES: Final = 1024 * 1024
"""Read from a connection at once, and decrypted before anything else runs: about a millisecond."""

# ---- what one peer may send
INBOX_PEER_BYTES: Final = 2 * MAX_FETCH_FRAME_BYTES
"""Received and not yet read by the driver; past it the peer's connection is read no further."""
GOSSIP_INBOX_PEER_BYTES: Final = 4 * MAX_TRANSACTIONS_FRAME_BYTES
"""Received gossip not yet looked at; past it more of the peer's gossip is ignored."""
RATE_FRAMES_PER_S: Final = 4_000
"""Per channel; a faster peer is read more slowly."""
RATE_BYTES_PER_S: Final = 64 * 1024 * 1024
BAN_FIRST_S: Final = 1.0
BAN_MAX_S: Final = 600.0
BAN_FORGET_S: Final = 3_600.0
"""After this long without a ban the next one is short again."""

# ---- connections
MAX_UNIDENTIFIED_CONNECTIONS: Final = 64
"""Accepted connections that have not shown who they are; one more drops the oldest."""
CONNECTIONS_PER_S: Final = 50
"""Accepted from one address; more are closed before any cryptography."""
CONNECTION_BURST: Final = 300
MAX_REMEMBERED_ADDRESSES: Final = 1_024
LISTEN_BACKLOG: Final = 256
DIAL_HEAD_START_S: Final = 0.25
"""The peer with the higher code waits this long before it dials, so that two rarely collide."""

# ---- blocks under load
BLOCK_WORK_BUDGET_S: Final = 0.15
"""How long a block may take to build or to check here, as far as recent ones tell."""
MIN_PACED_OPS: Final = 100
"""Blocks with fewer operations say little about what one costs."""
PACER_WEIGHT: Final = 0.3
"""Of the newest block in the smoothed cost of an operation."""
BLOCK_GAP_S: Final = 1.5
"""Between two blocks, times the share of the time that the payments in them take."""
MAX_BLOCK_GAP_S: Final = 0.25
"""And never more than half of the leader timer as configured: see `Validator.block_gap_ms`."""
CLIENT_BACKLOG_BLOCKS: Final = 6
"""Clients are asked to wait once so many full blocks of operations are pending."""

# ---- the verifier
VERIFY_PIECE_SIGNATURES: Final = 64
"""Work is cut into pieces of this many, about 4 ms each, so that urgent work soon has its turn."""
VERIFY_BATCH_SIGNATURES: Final = 256
VERIFY_BATCHES_AHEAD: Final = 2
"""Batches that one worker has at a time: one in hand, the next already there."""
VERIFY_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes hashed per batch: each signature hashes its message anew."""
MAX_VERIFY_BACKLOG_SIGNATURES: Final = 2 * MAX_BLOCK_SIGNATURES
"""Per priority. A request that would be alone passes whatever its size."""
MAX_VERIFY_BACKLOG_BYTES: Final = 256 * 1024 * 1024
MAX_VERIFY_ATTEMPTS: Final = 5
"""Workers in a row that one batch may end before the node stops."""
VERIFY_TIMEOUT_S: Final = 30.0
"""A worker that has not answered a batch by then counts as dead."""
KEY_USES_FOR_TABLE: Final = 64
"""Signatures of one key before it gets a table, which costs what it saves in about 25."""
MAX_KEY_TABLES: Final = 128
"""Of 300 KB each; the least recently used goes."""
MAX_KEYS_COUNTED: Final = 4096
"""Keys without a table whose uses are counted."""
VOTES_CHECKED_AHEAD: Final = 64
"""Signatures of votes in one turn from which on they go to the workers: 2 ms of the main loop."""
VOTES_PATIENCE_S: Final = 0.25
"""How long a turn waits for that; then the replica checks what it needs itself."""
MAX_VOTES_REMEMBERED: Final = 8_192
"""Valid signatures of votes, from batches, until the replica asks for them."""

# ---- the driver
MAX_TURN_MESSAGES: Final = 512
"""Messages from peers that one turn takes in before it persists and sends."""
MAX_TIMER_DEFERRALS: Final = 8
"""Turns for which due timers yield to queued messages."""
MAX_SERVES_PER_PEER: Final = 2
"""Answers from the store under way for one peer; further requests are not answered."""
MAX_SERVING_THREADS: Final = 2
VERIFY_RETRY_S: Final = 0.005
"""Pause before a block's signatures are offered again to a verifier whose queue is full."""

# ---- admission and gossip
ADMISSION_SLICE: Final = 16
"""Envelopes answered for before other tasks have their turn."""
ADMISSION_SLICE_BYTES: Final = 16 * 1024
"""Envelopes judged before other tasks have their turn: half a millisecond or so, whether they
carry one operation each or a thousand."""
MAX_GOSSIP_ENVELOPES: Final = 4_000
"""In one frame."""
MAX_GREETING_TRANSACTIONS: Final = 2_000
"""Pending transactions sent to a peer that connects."""
GOSSIP_TAKE_BYTES: Final = 256 * 1024
"""Received frames are judged together up to about this size."""
GOSSIP_INTERVAL_S: Final = 0.01
"""Least time between two rounds of sending, so that frames fill under load."""
GOSSIP_REMIND_S: Final = 1.0
"""A transaction that a client brought here and that waits this long goes to the leader again."""
MAX_REMINDERS: Final = 500
"""Transactions that one view's leader is reminded of."""
GOSSIP_ENVELOPES_PER_S: Final = 10_000
"""From one peer; more is ignored."""
GOSSIP_REFUSAL_COST: Final = 20
"""What a refused transaction costs of a peer's allowance, in envelopes."""

# ---- the process
GC_YOUNG_OBJECTS: Final = 50_000
"""New objects before the cyclic collector looks at them. Python's default of 700 made it look at
every payment's several times, for nothing: what a payment leaves behind has no cycles."""

THREAD_SWITCH_S: Final = 0.001
"""How soon a thread that has finished its fsync gets the interpreter from the busy main thread."""

# ---- what clients send
MAX_SUBMISSIONS_ADMITTED: Final = 2
"""Submissions that are judged at a time: each takes a share of the loop that also votes."""
CLIENTS_YIELD_S: Final = 0.2
"""How long a submission waits while gossip is behind."""
CLIENTS_PATIENCE_S: Final = 1.0
"""How long a submission's signatures stand behind those of gossip; then they take turns."""
MAX_SUBMISSIONS_WAITING: Final = 8
"""Further ones that wait for their turn; beyond that clients are asked to come back."""

# ---- what the node remembers for its clients
MAX_RECENT_STATES: Final = 50_000
"""Settled transactions answered from memory; admission times kept for the histogram."""
MAX_DECODED_BLOCKS: Final = 4
"""Kept decoded for clients that ask about many transactions of one block."""
MAX_UETR_ANSWERS: Final = 100
MAX_PENDING_SCAN_SLICE: Final = 500
MAX_ALARMS_SHOWN: Final = 20
RETRY_AFTER_MS: Final = 1_000
"""When a client told that there is no room should try again."""
WATCH_INTERVAL_S: Final = 0.5
"""How often gauges are brought up to date."""
MAX_WATCHED_VIEWS: Final = 1_024
VOTE_GRACE_MS: Final = 2_000
"""How long after finality a validator's vote may still come without counting as missed."""

# ---- block bodies and verified signatures
MAX_CACHED_BODY_BYTES: Final = 32 * 1024 * 1024
MAX_CACHED_BODIES: Final = 256
"""Decoded blocks that wait for their execution; past a bound the oldest are decoded again."""
MAX_VERIFIED_ENVELOPES: Final = 200_000
"""Hashes of envelopes whose signatures were checked here."""

# ---- the HTTP API
MAX_BATCH_ENVELOPES: Final = 1_000
"""Most envelopes in one `POST /v1/transactions`."""
MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of a request body, counted while it streams in."""
MAX_REQUEST_HEAD_BYTES: Final = 16 * 1024
"""Most bytes of a request line with its headers."""
MAX_PIPELINED_BYTES: Final = 64 * 1024
"""Most bytes that a client may send ahead while its request is being answered."""
API_WRITE_CHUNK_BYTES: Final = 64 * 1024
API_HEAD_TIMEOUT_S: Final = 15.0
"""A connection is closed when no complete request head has come for this long."""
API_BODY_TIMEOUT_S: Final = 30.0
"""A whole request body has to come within this."""
API_WRITE_TIMEOUT_S: Final = 20.0
"""A client that takes longer for one chunk of an answer is disconnected."""
API_LINGER_TIMEOUT_S: Final = 1.0
"""How long the rest of a refused body is read and dropped, so that the answer arrives."""
API_SHUTDOWN_GRACE_S: Final = 5.0
API_SUBMIT_TIMEOUT_S: Final = 20.0
"""Past this the answer to a submission is 202 with the ids and status `unknown`."""
MAX_EVIDENCE_PER_VALIDATOR: Final = 64
"""Pieces of evidence kept against one participant, the first ones: it is proven enough."""
MAX_API_IN_FLIGHT: Final = 256
"""Requests being answered at once; more are told to come back."""
MAX_API_BODY_BYTES_IN_FLIGHT: Final = 128 * 1024 * 1024
"""Bytes of request bodies held at once, over all requests."""
MAX_STREAM_CLIENTS: Final = 64
STREAM_KEEPALIVE_S: Final = 15.0
STREAM_BLOCK_CACHE: Final = 8
"""Blocks whose events are kept rendered for all streams."""
PROOF_BLOCK_CACHE: Final = 4
"""Blocks whose Merkle trees are kept for proofs."""
MAX_PAGE_ENTRIES: Final = 500
"""Most lines in one page of a listing."""
DEFAULT_PAGE_ENTRIES: Final = 100
MAX_RECORDS_EXAMINED: Final = 2_000
"""Most records that one request of a filtered listing looks at; the next page goes on."""

assert MAX_BLOCK_BYTES < MAX_JOURNAL_RECORD_BYTES
assert MAX_CERTIFICATE_BYTES < MAX_RECORD_BYTES <= MAX_JOURNAL_RECORD_BYTES
assert MAX_JOURNAL_RECORD_BYTES < JOURNAL_COMPACT_BYTES < MAX_JOURNAL_BYTES
assert MAX_BLOCK_TRANSACTIONS * 2 <= MAX_VERIFIED_ENVELOPES
assert MEMPOOL_MAX_BYTES > 4 * MAX_BLOCK_BYTES
assert MEMPOOL_MAX_TRANSACTIONS > 4 * MAX_BLOCK_TRANSACTIONS
assert MAX_BATCH_ENVELOPES * 4 <= MEMPOOL_MAX_TRANSACTIONS
assert 4 * MAX_TRANSACTION_BYTES < MAX_REQUEST_BYTES < MAX_API_BODY_BYTES_IN_FLIGHT
assert DEFAULT_PAGE_ENTRIES <= MAX_PAGE_ENTRIES <= MAX_PAGE
assert MAX_CERTIFICATE_BYTES * 2 < MAX_VOTE_FRAME_BYTES < MAX_PROPOSAL_FRAME_BYTES
assert MAX_TRANSACTION_BYTES * 2 < MAX_TRANSACTIONS_FRAME_BYTES
assert MAX_AWAY_VOTES < MAX_QUEUED_FRAMES
assert MAX_PROPOSAL_FRAME_BYTES < INBOX_PEER_BYTES
assert BAN_FIRST_S < BAN_MAX_S < BAN_FORGET_S
assert VERIFY_PIECE_SIGNATURES <= VERIFY_BATCH_SIGNATURES < MAX_VERIFY_BACKLOG_SIGNATURES
assert MAX_TRANSACTION_BYTES < VERIFY_BATCH_BYTES < MAX_VERIFY_BACKLOG_BYTES
assert MAX_UNIDENTIFIED_CONNECTIONS < CONNECTION_BURST
