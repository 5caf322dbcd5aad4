"""The conservation laws, checked on a whole state: for tests, the simulator and `atpar doctor`.

What one state can show: sums, counters, indexes and orders that must agree. Laws about a step (a
failed transaction changes nothing, only mint and burn change supply) are checked by comparing two
states, which is the business of tests.
"""

from collections import defaultdict
from collections.abc import Iterator

from atpar.ledger.authority import get_params, get_validators
from atpar.ledger.limits import EVIDENCE_EPOCHS, MAX_EVIDENCE_PER_EPOCH
from atpar.ledger.policies import needs_two_keys
from atpar.ledger.records import (
    ACCOUNT_FREEZES,
    ACCOUNTS,
    ASSETS,
    BALANCES,
    CLAIMS,
    CONTROLS,
    DUE,
    EVIDENCE,
    FREEZES,
    HOLDS,
    KEYS,
    NO_BALANCE,
    NO_RESERVE,
    OPEN_HOLDS,
    OPEN_PROPOSALS,
    PROPOSALS,
    QUOTAS,
    RECENT_BURNS,
    RECOVERIES,
    RESERVES,
    SPANS,
    SUPPLIES,
    VOTERS,
    Balance,
    Blocked,
    Hold,
    HoldKind,
    HoldStatus,
    Pause,
    Reserve,
    balance_key,
    claim_key,
    evidence_key,
    identify_validators,
    number_key,
    open_hold_key,
    time_key,
)
from atpar.ledger.roles import find_role_faults
from atpar.ledger.spans import list_freeze_sources, pause_source
from atpar.ledger.state import View
from atpar.ledger.types import Direction, participant_of


def check_invariants(view: View) -> list[str]:
    """Return what is broken, one sentence each; empty when the state is sound."""
    get_params(view)
    get_validators(view)
    return [
        *_find_supply_faults(view),
        *_find_balance_faults(view),
        *_find_hold_faults(view),
        *_find_reserve_faults(view),
        *_find_freeze_faults(view),
        *_find_quota_faults(view),
        *_find_control_faults(view),
        *_find_span_faults(view),
        *_find_waiting_faults(view),
        *_find_authority_faults(view),
        *_find_evidence_faults(view),
    ]


def _find_supply_faults(view: View) -> Iterator[str]:
    posted: dict[str, int] = defaultdict(int)
    for key, balance in view.scan(BALANCES, b""):
        posted[key.partition(b"|")[0].decode()] += balance.posted
    for key, _ in view.scan(ASSETS, b""):
        supply = view.get(SUPPLIES, key)
        code = key.decode()
        if supply is None:
            yield f"{code}: no supply record"
        elif posted.pop(code, 0) != supply.minted - supply.burned:
            yield f"{code}: posted does not sum to minted {supply.minted} - burned {supply.burned}"
    yield from (f"{code}: balances of an unknown asset" for code in posted)


def _find_balance_faults(view: View) -> Iterator[str]:
    held: dict[bytes, list[Hold]] = defaultdict(list)
    for _, hold in view.scan(HOLDS, b""):
        if hold.status is HoldStatus.PENDING:
            held[balance_key(hold.asset, hold.debtor)].append(hold)
    for key, balance in view.scan(BALANCES, b""):
        if balance == NO_BALANCE:
            yield f"{key!r}: a record of zeros"
        if not 0 <= balance.held <= balance.posted:
            yield f"{key!r}: held {balance.held} of posted {balance.posted}"
        yield from _compare_held(key, balance, held.pop(key, []))
    yield from (f"{key!r}: holds without a balance" for key in held)


def _compare_held(key: bytes, balance: Balance, holds: list[Hold]) -> Iterator[str]:
    redemptions = sum(hold.kind is HoldKind.REDEMPTION for hold in holds)
    total = sum(hold.open for hold in holds)
    if balance.held != total:
        yield f"{key!r}: held {balance.held}, its open holds sum to {total}"
    counted = (balance.holds, balance.redemptions)
    if counted != (len(holds) - redemptions, redemptions):
        yield f"{key!r}: counts {counted} holds and redemptions, has {len(holds)}"


def _find_hold_faults(view: View) -> Iterator[str]:
    open_keys, due_keys, claims = set(), set(), set()
    for hold_id, hold in view.scan(HOLDS, b""):
        name = hold_id.hex()
        if min(hold.captured, hold.released, hold.burned, hold.assigned, hold.open) < 0:
            yield f"hold {name}: a part is negative"
        if (hold.open > 0) != (hold.status is HoldStatus.PENDING):
            yield f"hold {name}: {hold.status.value} with {hold.open} open"
        redeems, pays = hold.redemption is not None, hold.payment is not None
        if redeems == pays or redeems != (hold.kind is HoldKind.REDEMPTION):
            yield f"hold {name}: of kind {hold.kind.value}"
        if hold.redemption is not None and hold.redemption.reversed > hold.burned:
            yield f"hold {name}: {hold.redemption.reversed} reversed, {hold.burned} burned"
        if hold.status is HoldStatus.PENDING:
            open_keys.add(open_hold_key(hold_id, hold))
            if hold.payment is not None:
                claims.add(claim_key(hold.creditor, hold_id))
            if hold.redemption is not None and hold.redemption.blocked_since_ms is None:
                due_keys.add(time_key(hold.asset, hold.redemption.due_ms, hold_id))
    if open_keys != {key for key, _ in view.scan(OPEN_HOLDS, b"")}:
        yield "the index of open holds is not what the holds say"
    if claims != {key for key, _ in view.scan(CLAIMS, b"")}:
        yield "the index of claims is not what the holds say"
    if due_keys != {key for key, _ in view.scan(DUE, b"")}:
        yield "the index of due times is not what the redemptions say"


def _find_reserve_faults(view: View) -> Iterator[str]:
    recent: set[bytes] = set()
    for key, _ in view.scan(ASSETS, b""):
        reserve = view.get(RESERVES, key) or NO_RESERVE
        listed = frozenset(reserve.paid_not_burned)
        expected = reserve.attested
        for hold_id, hold in view.scan(HOLDS, b""):
            if hold.asset.encode() != key or hold.redemption is None:
                continue
            burned_at_ms = hold.redemption.burned_at_ms
            if hold_id in listed and hold.status is HoldStatus.PENDING:
                expected += hold.open
            if burned_at_ms is not None and burned_at_ms > reserve.as_of_ms:
                recent.add(time_key(hold.asset, burned_at_ms, hold_id))
                expected -= 0 if hold_id in listed else hold.burned
        if reserve.backing != expected:
            yield f"{key.decode()}: R is kept as {reserve.backing}, the formula gives {expected}"
        yield from _find_audit_faults(key.decode(), reserve)
    if recent != {key for key, _ in view.scan(RECENT_BURNS, b"")}:
        yield "the index of recent burns is not what the redemptions say"


def _find_audit_faults(code: str, reserve: Reserve) -> Iterator[str]:
    if reserve.audited_sequence > reserve.sequence:
        yield f"{code}: audited {reserve.audited_sequence} before attested {reserve.sequence}"
    if reserve.audited_as_of_ms > reserve.as_of_ms:
        yield f"{code}: audited as of a later time than attested"


def _find_freeze_faults(view: View) -> Iterator[str]:
    frozen: dict[tuple[str, str | None], int] = defaultdict(int)
    blocked: dict[tuple[str, str | None], int] = defaultdict(int)
    index = set()
    for freeze_id, order in view.scan(FREEZES, b""):
        scope = (order.account, order.asset)
        frozen[scope] += order.amount or 0
        if order.direction is not Direction.CREDIT and order.amount is None:
            blocked[scope] |= Blocked.DEBIT
        if order.direction is not Direction.DEBIT:
            blocked[scope] |= Blocked.CREDIT
        index.add(f"{order.account}|{order.asset or ''}|".encode() + freeze_id)
    for key, account in view.scan(ACCOUNTS, b""):
        if account.blocked != blocked.pop((key.decode(), None), 0):
            yield f"{key.decode()}: blocked {account.blocked} is not what the orders say"
    for key, balance in view.scan(BALANCES, b""):
        asset, _, account_id = key.decode().partition("|")
        expected = (frozen.pop((account_id, asset), 0), blocked.pop((account_id, asset), 0))
        if (balance.frozen, balance.blocked) != expected:
            yield f"{key!r}: frozen {balance.frozen}, {balance.blocked}, the orders say {expected}"
    if any(frozen.values()) or any(blocked.values()):
        yield "freeze orders without a balance that shows them"
    if index != {key for key, _ in view.scan(ACCOUNT_FREEZES, b"")}:
        yield "the index of freezes is not what the orders say"


def _find_quota_faults(view: View) -> Iterator[str]:
    for key, quota in view.scan(QUOTAS, b""):
        if not 0 <= quota.units <= quota.capacity:
            yield f"{key.decode()}: {quota.units} units of {quota.capacity}"


def _find_control_faults(view: View) -> Iterator[str]:
    limits: dict[bytes, int] = defaultdict(int)
    for key, control in view.scan(CONTROLS, b""):
        limits[key.partition(b"|")[0]] += control.limit is not None
    for key, asset in view.scan(ASSETS, b""):
        if asset.limits != limits[key]:
            yield f"{key.decode()}: counts {asset.limits} limits, has {limits[key]}"


def _find_span_faults(view: View) -> Iterator[str]:
    standing = {key[:-8] for key, span in view.scan(SPANS, b"") if span.end_ms is None}
    expected = set()
    for key, asset in view.scan(ASSETS, b""):
        if asset.paused & Pause.CAPTURE:
            expected.add(pause_source(key.decode()))
    for key, account in view.scan(ACCOUNTS, b""):
        expected.update(list_freeze_sources(key.decode(), None, account.blocked))
    for key, balance in view.scan(BALANCES, b""):
        code, _, account_id = key.decode().partition("|")
        expected.update(list_freeze_sources(account_id, code, balance.blocked))
    if standing != expected:
        yield f"spans stand for {sorted(standing ^ expected)!r} that nothing blocks, or lack"
    for key, span in view.scan(SPANS, b""):
        if span.end_ms is not None and span.end_ms <= int.from_bytes(key[-8:], "big"):
            yield f"{key!r}: ends at {span.end_ms}, before it began"


def _find_waiting_faults(view: View) -> Iterator[str]:
    recoveries = {
        number_key(account.pending.effective_at_ms) + key
        for key, account in view.scan(ACCOUNTS, b"")
        if account.pending is not None
    }
    if recoveries != {key for key, _ in view.scan(RECOVERIES, b"")}:
        yield "the index of recoveries is not what the accounts say"
    proposals = set()
    for proposal_id, proposal in view.scan(PROPOSALS, b""):
        proposals.add(f"{proposal.sender}|".encode() + proposal_id)
        keys = [verdict.key for verdict in proposal.verdicts]
        if len(set(keys)) != len(keys) or tuple(keys[: len(proposal.makers)]) != proposal.makers:
            yield f"proposal {proposal_id.hex()}: a key decided twice"
    if proposals != {key for key, _ in view.scan(OPEN_PROPOSALS, b"")}:
        yield "the index of proposals is not what the proposals say"


def _find_authority_faults(view: View) -> Iterator[str]:
    for key, asset in view.scan(ASSETS, b""):
        for fault in find_role_faults(view, asset.issuer, asset.terms):
            yield f"{key.decode()}: {fault.code.name} {fault.field}: {fault.message}"
    for key, account in view.scan(ACCOUNTS, b""):
        account_id = key.decode()
        if account_id.endswith("/admin") and not needs_two_keys(account.policy):
            yield f"{account_id}: one key alone reaches the threshold"
        for entry in account.policy.keys:
            owner = view.get(KEYS, entry.key)
            if owner is None or owner.participant != participant_of(account_id):
                yield f"{account_id}: the key {entry.key.hex()} is not its participant's"


def _find_evidence_faults(view: View) -> Iterator[str]:
    current = get_validators(view)
    kept = [int.from_bytes(key, "big") for key, _ in view.scan(VOTERS, b"")]
    first = max(0, current.epoch - EVIDENCE_EPOCHS + 1)
    if kept != list(range(first, current.epoch + 1)):
        yield f"sets are kept of epochs {kept}, expected {first} to {current.epoch}"
    if view.get(VOTERS, number_key(current.epoch)) != identify_validators(current):
        yield f"the set kept of epoch {current.epoch} is not the one in force"
    counts: dict[bytes, int] = defaultdict(int)
    for key, record in view.scan(EVIDENCE, b""):
        counts[key[:-9]] += 1
        if key != evidence_key(record.evidence):
            yield f"evidence {key.hex()}: kept under another key than its own"
    for prefix, count in counts.items():
        if count > MAX_EVIDENCE_PER_EPOCH:
            yield f"evidence {prefix!r}: {count} records, at most {MAX_EVIDENCE_PER_EPOCH}"
