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
    UNKNOWN_TARGET = 209
    ENTRY_EXISTS = 210
    UNKNOWN_EPOCH = 211
    EVIDENCE_RECORDED = 212
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
    PAYOUT_MISDATED = 287
    REVERSAL_MISMATCH = 288
    # On state: governance.
    SAME_SIGNER = 290
    PROPOSAL_EXPIRED = 291
    UNKNOWN_PROPOSAL = 292
    QUORUM_UNSAFE = 293
    EVIDENCE_INVALID = 294
    # Arithmetic that would leave the range of an amount.
    OVERFLOW = 299


class Meaning(NamedTuple):
    """What a code says to a person: the ISO 20022 reason, the meaning, what to do next."""

    iso: str
    meaning: str
    advice: str


MEANINGS: dict[Code, Meaning] = {
    Code.OK: Meaning("ACSC", "Done and final.", "Nothing."),
    Code.TOO_LARGE: Meaning("FF01", "The envelope is larger than allowed.", "Split it."),
    Code.NON_CANONICAL: Meaning(
        "FF01",
        "The bytes are not the one encoding of an envelope.",
        "Encode with the client library, and send the bytes unchanged.",
    ),
    Code.UNSUPPORTED_VERSION: Meaning(
        "FF01", "This version of the envelope is unknown here.", "Update the client or the node."
    ),
    Code.WRONG_CHAIN: Meaning(
        "DT05", "The transaction was signed for another chain.", "Sign it with this chain's id."
    ),
    Code.NO_OPERATIONS: Meaning("NARR", "The transaction asks nothing.", "Add an operation."),
    Code.TOO_MANY_OPERATIONS: Meaning(
        "AM18", "More operations than one transaction may have.", "Split it."
    ),
    Code.TOO_MANY_SIGNATURES: Meaning(
        "DS0K", "More signatures than an envelope may carry.", "Sign with the keys it needs."
    ),
    Code.SIGNATURES_UNSORTED: Meaning(
        "DS0H",
        "The signatures are not in ascending order of their keys, or a key signed twice.",
        "Sort by public key, one signature for each.",
    ),
    Code.WINDOW_INVALID: Meaning(
        "DT01",
        "The validity window is empty or longer than the chain allows.",
        "Shorten it: valid_until_ms minus valid_from_ms at most max_window_ms.",
    ),
    Code.NOT_YET_VALID: Meaning(
        "DT01", "The validity window has not begun.", "Send it later; check the clock."
    ),
    Code.EXPIRED: Meaning(
        "TM01",
        "The validity window has passed: it was never executed and never will be.",
        "Sign a new transaction if it is still wanted.",
    ),
    Code.ID_REUSED: Meaning(
        "AM05",
        "This sender used the id for another transaction.",
        "Look the id up; use a new one for a new payment.",
    ),
    Code.AMOUNT_RANGE: Meaning(
        "AM12",
        "An amount is zero, negative, or above the largest allowed.",
        "Correct the amount; it is in minor units.",
    ),
    Code.VALUE_INVALID: Meaning(
        "NARR", "A field's value is not possible here.", "Correct the field that is named."
    ),
    Code.SAME_ACCOUNT: Meaning(
        "BE05", "Debtor and creditor are one account.", "Name two different accounts."
    ),
    Code.UNKNOWN_ACCOUNT: Meaning(
        "AC03",
        "The sender, or an account that must sign, does not exist.",
        "Check the account id; open the account first.",
    ),
    Code.BAD_SIGNATURE: Meaning(
        "DS02", "A signature does not verify.", "Sign these exact body bytes again."
    ),
    Code.UNINVOLVED_SIGNATURE: Meaning(
        "DS0H",
        "A signature is by a key that no account of this transaction names.",
        "Leave that signature out.",
    ),
    Code.UNAUTHORISED: Meaning(
        "DS0G",
        "The signatures do not satisfy the policy of an account that must agree.",
        "Collect the missing signatures.",
    ),
    Code.MEMPOOL_FULL: Meaning(
        "AB08", "The node has no room for more transactions.", "Send the same bytes again later."
    ),
    Code.NOT_READY: Meaning(
        "AB08", "The node is catching up.", "Send the same bytes to another node, or later."
    ),
    Code.UNKNOWN_PARTICIPANT: Meaning("BE23", "No participant has this code.", "Check the code."),
    Code.UNKNOWN_ASSET: Meaning("AM11", "No asset has this code.", "Check the code."),
    Code.UNKNOWN_CREDITOR: Meaning(
        "AC03", "The account to be credited does not exist.", "Check the account id."
    ),
    Code.UNKNOWN_HOLD: Meaning("NOOR", "No hold has this id.", "Check the id."),
    Code.UNKNOWN_FREEZE: Meaning(
        "NOOR", "No freeze has this id, or it was lifted.", "Check the id."
    ),
    Code.PARTICIPANT_EXISTS: Meaning(
        "NARR",
        "The participant exists: only its own admin changes its policy.",
        "Leave the admin policy out.",
    ),
    Code.ACCOUNT_EXISTS: Meaning("NARR", "An account with this id exists.", "Choose another."),
    Code.ACCOUNT_CLOSED: Meaning("AC04", "The account is closed.", "Use another account."),
    Code.PARTICIPANT_SUSPENDED: Meaning(
        "AG01", "The participant is suspended from new business.", "Ask governance."
    ),
    Code.UNKNOWN_TARGET: Meaning(
        "AC03", "The account that the order is about does not exist.", "Check the account id."
    ),
    Code.ENTRY_EXISTS: Meaning(
        "AM05",
        "The id was used long ago and what it made then still exists.",
        "Use a new transaction id.",
    ),
    Code.UNKNOWN_EPOCH: Meaning(
        "NOOR",
        "The validator set of this epoch is not kept: it is to come, or too long ago.",
        "Check the epoch; old evidence still convinces as a file.",
    ),
    Code.EVIDENCE_RECORDED: Meaning(
        "AM05",
        "Evidence of this kind against this validator in this view is on the ledger.",
        "Nothing: read the record.",
    ),
    Code.POSSESSION_MISSING: Meaning(
        "DS0H",
        "A new key comes without a valid proof of possession.",
        "Let the key's owner sign its registration for this participant and chain.",
    ),
    Code.KEY_TAKEN: Meaning(
        "DS0H", "A key belongs to another participant for ever.", "Make a new key."
    ),
    Code.KEY_INVALID: Meaning(
        "DS0H", "A key is not canonical, or of small order.", "Make a new key."
    ),
    Code.POLICY_INVALID: Meaning(
        "NARR",
        "A policy is missing, unsorted, or can never be satisfied.",
        "Sort the keys; set the threshold within their weights.",
    ),
    Code.POLICY_WEAK: Meaning(
        "NARR", "One key alone would satisfy a policy that needs two.", "Raise the threshold."
    ),
    Code.ROLE_CONFLICT: Meaning(
        "NARR", "Two roles that must be apart share a key or an owner.", "Separate them."
    ),
    Code.ROLE_MISSING: Meaning(
        "AG01",
        "An account does not have the role that this operation, or the asset's terms, ask for.",
        "Use the account that has the role.",
    ),
    Code.ASSET_IMMUTABLE: Meaning(
        "NARR", "Issuer, currency and scale of an asset never change.", "Create another asset."
    ),
    Code.PARAM_RANGE: Meaning(
        "NARR", "A parameter is unknown or outside its range.", "Correct the value."
    ),
    Code.LIMIT_OF_ENTRIES: Meaning(
        "AM18", "A bound on the number of entries is reached.", "End some entries first."
    ),
    Code.PAUSED: Meaning(
        "AG01", "This operation of this asset is paused.", "Wait until it is resumed."
    ),
    Code.PROTECTED_ACCOUNT: Meaning(
        "AG01", "The account serves the asset or the chain and cannot be frozen.", "Ask governance."
    ),
    Code.ACCOUNT_FROZEN: Meaning(
        "AC06", "Debits of the account are frozen.", "Ask the asset's compliance."
    ),
    Code.AMOUNT_BLOCKED: Meaning(
        "AM07",
        "The funds would do, but an order blocks too much of them.",
        "Ask the asset's compliance, or pay less.",
    ),
    Code.CREDITOR_REFUSED: Meaning(
        "MS03", "The creditor's side refuses; the reason is not for the payer.", "Ask the creditor."
    ),
    Code.NOT_ELIGIBLE: Meaning(
        "RR04", "The account lacks the KYC tier that the asset asks for.", "Renew its KYC."
    ),
    Code.TRAVEL_RULE_MISSING: Meaning(
        "RR02",
        "The payment needs travel-rule data and the receiver's acknowledgement.",
        "Exchange the data, then name its hash.",
    ),
    Code.REFERENCE_REQUIRED: Meaning(
        "RR07", "The receiver asks for a reference.", "Give the reference."
    ),
    Code.LIMIT_EXCEEDED: Meaning(
        "AM14", "A limit for this period would be exceeded.", "Pay less, or in the next period."
    ),
    Code.INSUFFICIENT_FUNDS: Meaning(
        "AM04", "The available balance does not cover the amount.", "Fund the account."
    ),
    Code.ATTESTATION_OLD: Meaning(
        "DT01",
        "The attestation speaks of a time before the last one, or of the future.",
        "Correct as_of_ms.",
    ),
    Code.ATTESTATION_SEQUENCE: Meaning(
        "NARR",
        "The sequence is not the next one, or not one that waits for the auditor.",
        "Read the reserve, then use the right sequence.",
    ),
    Code.ATTESTATION_MISMATCH: Meaning(
        "NARR",
        "The auditor's values differ from what the custodian stated in that sequence.",
        "Compare the reports.",
    ),
    Code.REDEMPTION_LISTED: Meaning(
        "NARR",
        "A listed redemption is not of this asset, was asked later, or ended by then.",
        "List only what was paid by as_of_ms and not burned by then.",
    ),
    Code.FUNDING_REUSED: Meaning(
        "AM05", "This funding payment was minted against before.", "Name the right payment."
    ),
    Code.PAYOUT_REUSED: Meaning(
        "AM05", "This payout was burned against before.", "Name the right payout."
    ),
    Code.RESERVE_STALE: Meaning(
        "AG01", "The attestation or the audit is missing or too old.", "Wait for a fresh one."
    ),
    Code.REDEMPTION_OVERDUE: Meaning(
        "AG01", "A redemption is overdue: nothing is minted until it ends.", "Pay out and burn."
    ),
    Code.QUOTA_EXCEEDED: Meaning(
        "AM14", "The minter's quota does not cover the amount.", "Wait for the refill."
    ),
    Code.CAP_EXCEEDED: Meaning("AM14", "The asset's cap would be exceeded.", "Mint less."),
    Code.RESERVE_SHORT: Meaning(
        "AM04", "The attested reserve would not back the supply.", "Fund it and attest."
    ),
    Code.WRONG_HOLD_KIND: Meaning(
        "AG01", "A hold of this kind does not end this way.", "Use its own operation."
    ),
    Code.HOLD_NOT_PENDING: Meaning("NOOR", "The hold has ended.", "Look at how it ended."),
    Code.HOLD_EXPIRED: Meaning("TM01", "The hold has expired.", "Agree on a new one."),
    Code.CONDITION_UNMET: Meaning(
        "AG01", "The hold's condition is not met.", "Bring what the condition names."
    ),
    Code.NOT_ASSIGNABLE: Meaning(
        "AG01", "This claim cannot be assigned like this.", "Read the hold's terms."
    ),
    Code.NOT_RELEASABLE: Meaning(
        "AG01", "This account may not release this hold now.", "Let the entitled party do it."
    ),
    Code.REDEMPTION_BLOCKED: Meaning(
        "AC06",
        "The redemption is frozen, and the payout is not dated before the freeze.",
        "Release it, or have the order lifted.",
    ),
    Code.PAYOUT_MISDATED: Meaning(
        "DT01", "The payout is dated before the redemption or in the future.", "Correct the date."
    ),
    Code.REVERSAL_MISMATCH: Meaning(
        "AM09",
        "The reversal does not fit a burn: another holder, not burned, or more than was burned.",
        "Name the burned redemption, its holder and at most what is left of it.",
    ),
    Code.SAME_SIGNER: Meaning(
        "DS0H", "The maker cannot be the checker.", "Let another person decide."
    ),
    Code.PROPOSAL_EXPIRED: Meaning("TM01", "The proposal has expired.", "Propose again."),
    Code.UNKNOWN_PROPOSAL: Meaning(
        "NOOR", "No open proposal has this id and hash.", "Check the id."
    ),
    Code.QUORUM_UNSAFE: Meaning(
        "NARR", "The validator set would be unsafe.", "Read the rules for sets and correct it."
    ),
    Code.EVIDENCE_INVALID: Meaning(
        "NARR",
        "The two votes are not both signed by the validator named, under its key of that epoch.",
        "Check the file with `atpar verify`.",
    ),
    Code.OVERFLOW: Meaning(
        "AM12", "A sum would leave the range of an amount.", "Use a smaller amount."
    ),
}
"""For every code: the ISO 20022 reason, the meaning, and what the user should do.

The ISO reason is of the external status reason code list (ExternalStatusReason1Code), for OK of
the payment transaction status list.
"""


def render_table() -> str:
    """Return the table as `docs/codes.md` has it."""
    lines = [
        "# Result codes",
        "",
        "Made from `ledger/codes.py` by `python -m tests.ledger.render_codes`. In order of",
        "precedence: a transaction that breaks several rules reports the lowest. Below",
        f"{FIRST_RECEIPT_CODE}: refused before it enters a block, and the id stays free. From",
        "there on: in a block, failed on state, and the id is used up.",
        "",
        "| value | code | ISO 20022 | meaning | what to do |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {code.value} | `{code.name}` | {each.iso} | {each.meaning} | {each.advice} |"
        for code, each in MEANINGS.items()
    ]
    return "\n".join(lines) + "\n"


def iso_reason(code: Code) -> str:
    """Return the ISO 20022 reason of a code: `AM04`."""
    return MEANINGS[code].iso
