"""Result codes, in order of precedence, with the ISO 20022 reason and what each one means.

A transaction that breaks several rules reports the one with the lowest value, so that every node
reports the same. Below 200: refused before it enters a block, nothing is recorded. From 200: the
transaction is in a block, failed on state, and used up its id.
"""

from enum import IntEnum
from typing import NamedTuple

FIRST_RECEIPT_CODE = 200


class Code(IntEnum):
    """One outcome. Names are stable interfaces; values fix the precedence."""

    OK = 0

    # The bytes.
    TOO_LARGE = 100
    NON_CANONICAL = 101
    UNSUPPORTED_VERSION = 102
    WRONG_CHAIN = 103
    NO_OPERATIONS = 104
    TOO_MANY_OPERATIONS = 105
    TOO_MANY_SIGNATURES = 106
    SIGNATURES_UNSORTED = 107
    # The window and the id.
    WINDOW_INVALID = 110
    NOT_YET_VALID = 111
    EXPIRED = 112
    ID_REUSED = 113
    # Stateless values.
    AMOUNT_RANGE = 120
    VALUE_INVALID = 121
    SAME_ACCOUNT = 122
    # Who may act.
    UNKNOWN_ACCOUNT = 130
    BAD_SIGNATURE = 131
    UNINVOLVED_SIGNATURE = 132
    UNAUTHORISED = 133
    # The node, not the ledger.
    MEMPOOL_FULL = 150
    NOT_READY = 151

    # On state: existence and status.
    UNKNOWN_PARTICIPANT = 200
    UNKNOWN_ASSET = 201
    UNKNOWN_CREDITOR = 202
    UNKNOWN_HOLD = 203
    UNKNOWN_FREEZE = 204
    PARTICIPANT_EXISTS = 205
    ACCOUNT_EXISTS = 206
    ACCOUNT_CLOSED = 207
    PARTICIPANT_SUSPENDED = 208
    # On state: policies, roles and parameters.
    POSSESSION_MISSING = 220
    KEY_TAKEN = 221
    KEY_INVALID = 222
    POLICY_INVALID = 223
    POLICY_WEAK = 224
    ROLE_CONFLICT = 225
    ROLE_MISSING = 226
    ASSET_IMMUTABLE = 227
    PARAM_RANGE = 228
    LIMIT_OF_ENTRIES = 229
    # On state: freezes and pauses.
    PAUSED = 240
    PROTECTED_ACCOUNT = 241
    ACCOUNT_FROZEN = 242
    AMOUNT_BLOCKED = 243
    CREDITOR_REFUSED = 244
    # On state: transfers.
    NOT_ELIGIBLE = 250
    TRAVEL_RULE_MISSING = 251
    REFERENCE_REQUIRED = 252
    LIMIT_EXCEEDED = 253
    INSUFFICIENT_FUNDS = 254
    # On state: supply.
    ATTESTATION_OLD = 260
    ATTESTATION_SEQUENCE = 261
    ATTESTATION_MISMATCH = 262
    REDEMPTION_LISTED = 263
    FUNDING_REUSED = 264
    PAYOUT_REUSED = 265
    RESERVE_STALE = 266
    REDEMPTION_OVERDUE = 267
    QUOTA_EXCEEDED = 268
    CAP_EXCEEDED = 269
    RESERVE_SHORT = 270
    # On state: holds and redemptions.
    WRONG_HOLD_KIND = 280
    HOLD_NOT_PENDING = 281
    HOLD_EXPIRED = 282
    CONDITION_UNMET = 283
    NOT_ASSIGNABLE = 284
    NOT_RELEASABLE = 285
    REDEMPTION_BLOCKED = 286
    # On state: governance.
    SAME_SIGNER = 290
    PROPOSAL_EXPIRED = 291
    UNKNOWN_PROPOSAL = 292
    QUORUM_UNSAFE = 293
    # Arithmetic that would leave the range of an amount.
    OVERFLOW = 299


class Meaning(NamedTuple):
    """What a code says to a person: the ISO 20022 reason, the meaning, what to do next."""

    iso: str
    meaning: str
    advice: str
