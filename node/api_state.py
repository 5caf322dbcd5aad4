"""Routes that read the final state: accounts, statements, participants, assets, redemptions."""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Final

import trio

from atpar.ledger import reads
from atpar.ledger.codes import Code
from atpar.ledger.proofs import ProofFile
from atpar.ledger.reads import is_blocked, is_overdue
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    DUE,
    HOLDS,
    NO_SUPPLY,
    PARTICIPANTS,
    QUOTAS,
    RESERVES,
    Account,
    Asset,
    Blocked,
    FreezeOrder,
    Hold,
    HoldKind,
    HoldStatus,
    Participant,
    Pause,
    Reserve,
)
from atpar.ledger.state import View
from atpar.ledger.supply import compute_level
from atpar.ledger.types import (
    AccountId,
    AssetCode,
    Direction,
    ParticipantCode,
    participant_of,
)
from atpar.node.api_chain import list_validators
from atpar.node.api_forms import (
    AccountForm,
    AccountRow,
    AccountsForm,
    AssetForm,
    AssetsForm,
    BalanceForm,
    EntriesForm,
    EntryForm,
    FreezeForm,
    HoldForm,
    OneFreezeForm,
    OneRedemptionForm,
    ParticipantForm,
    ParticipantsForm,
    QuotaForm,
    RedemptionForm,
    RedemptionsForm,
    ReserveForm,
)
from atpar.node.api_http import Answer, Call, invalid, parse_hex, parse_int, parse_typed
from atpar.node.api_proofs import make_account_proof, make_solvency_proof
from atpar.node.gateway import Entry, EntryCursor
from atpar.node.limits import MAX_PAGE, MAX_RECORDS_EXAMINED
from atpar.node.paging import NAME_BYTES, scan_after
from atpar.node.problems import ApiCode, Problem, get_not_found

MAX_LISTED_HOLDS: Final = 100
EVENTLY: Final = 100
"""After so many records of a long listing, other tasks of the node get their turn."""


# ---- which state


def check_height(call: Call) -> None:
    """Check `?height=`: only the last final state is kept.

    Raises:
        Problem: HEIGHT_NOT_RETAINED or HEIGHT_UNKNOWN, with both heights.
    """
    height = call.get_int("height", low=0, high=2**63 - 1)
    final = call.final.header.height
    if height is None or height == final:
        return
    if height > final:
        raise Problem(ApiCode.HEIGHT_UNKNOWN, f"height {height}, the last final one is {final}")
    raise Problem(
        ApiCode.HEIGHT_NOT_RETAINED,
        f"state at height {height} is not kept, only that at {final}; statement lines and blocks "
        f"tell what happened since",
    )


# ---- accounts


async def get_account(call: Call) -> Answer:
    """Return an account with balances, freezes and open holds."""
    call.check_query(frozenset({"height", "proof"}))
    account_id = _get_account_id(call)
    with_proof = call.get_flag("proof")
    check_height(call)
    view, header = call.final.view, call.final.header
    account = _load_account(view, account_id)
    holds, left_out = _list_holds(view, account_id)
    balances = tuple(_list_balances(view, account_id))
    held = [balance.asset for balance in balances]
    proof = make_account_proof(call, account_id, held) if with_proof else None
    return Answer(
        AccountForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            account=account_id,
            participant=participant_of(account_id),
            status=account.status.value,
            policy=account.policy,
            reference_required=account.reference_required,
            blocked=list_directions(account.blocked),
            balances=balances,
            freezes=tuple(_list_freezes(view, account_id)),
            holds=tuple(holds),
            holds_left_out=left_out,
            proof=proof,
        )
    )


async def list_accounts(call: Call) -> Answer:
    """Return a page of the accounts of one participant."""
    call.check_query(frozenset({"limit", "after"}))
    code = _get_participant_code(call)
    call.grant.require(code)
    after = call.get_query("after")
    if after is not None:
        parse_typed("after", f"{code}/{after}", AccountId)
    limit = call.get_limit()
    _load_participant(call.final.view, code)
    found = scan_after(
        *(call.final.view, ACCOUNTS, f"{code}/".encode()),
        None if after is None else f"{code}/{after}".encode(),
        alphabet=NAME_BYTES,
        depth=25,
    )
    page = list(islice(found, limit + 1))
    rows = [
        AccountRow(
            account=key.decode(),
            status=account.status.value,
            reference_required=account.reference_required,
        )
        for key, account in page[:limit]
    ]
    return Answer(
        AccountsForm(
            read_height=call.final.header.height,
            accounts=tuple(rows),
            next=rows[-1].account.partition("/")[2] if len(page) > limit else None,
        )
    )


async def get_entries(call: Call) -> Answer:
    """Return a page of statement lines."""
    call.check_query(frozenset({"asset", "after", "limit"}))
    account_id = _get_account_id(call)
    asset = call.get_query("asset")
    if asset is not None:
        parse_typed("asset", asset, AssetCode)
    after = call.get_query("after")
    limit = call.get_limit()
    _load_account(call.final.view, account_id)
    entries = call.reader.get_entries(
        account_id,
        asset=asset,
        after=None if after is None else parse_cursor("after", after),
        limit=limit + 1,
    )
    rows = [_make_entry(entry) for entry in entries[:limit]]
    return Answer(
        EntriesForm(
            read_height=call.reader.get_final().header.height,
            account=account_id,
            entries=tuple(rows),
            next=rows[-1].cursor if len(entries) > limit else None,
        )
    )


def parse_cursor(name: str, value: str) -> EntryCursor:
    """Return the cursor of a statement line, `height.index.op`.

    Raises:
        Problem: INVALID_PARAMETER.
    """
    parts = value.split(".")
    if len(parts) != 3:
        raise invalid(name, f"expected height.index.op, got {value!r:.60}")
    height, index, op = (parse_int(name, part, low=0, high=2**63 - 1) for part in parts)
    return height, min(index, 2**31), min(op, 2**31)


def _make_entry(entry: Entry) -> EntryForm:
    return EntryForm(
        cursor=f"{entry.height}.{entry.index}.{entry.op}",
        asset=entry.asset,
        amount=entry.amount,
        posted=entry.posted,
        kind=entry.kind,
        counterparty=entry.counterparty,
        reference=entry.reference,
        uetr=entry.uetr,
        tx_hash=entry.tx_hash,
        height=entry.height,
        index=entry.index,
        op=entry.op,
        timestamp_ms=entry.timestamp_ms,
    )


def _get_account_id(call: Call) -> str:
    """Return the account in the path, once the caller may read it."""
    name = f"{call.get_path('participant')}/{call.get_path('name')}"
    account_id = parse_typed("account", name, AccountId)
    call.grant.require(participant_of(account_id))
    return account_id


def _load_account(view: View, account_id: str) -> Account:
    account = view.get(ACCOUNTS, account_id.encode())
    if account is None:
        raise get_not_found(Code.UNKNOWN_ACCOUNT, f"no account {account_id}")
    return account


def list_directions(blocked: int) -> tuple[Direction, ...]:
    """Return the directions that a record's `Blocked` bits name."""
    both = {Blocked.DEBIT: Direction.DEBIT, Blocked.CREDIT: Direction.CREDIT}
    return tuple(direction for bit, direction in both.items() if blocked & bit)


def _list_balances(view: View, account_id: str) -> Iterator[BalanceForm]:
    for asset, balance in reads.list_balances(view, account_id):
        yield BalanceForm(
            asset=asset,
            posted=balance.posted,
            held=balance.held,
            frozen=balance.frozen,
            available=balance.available,
            blocked=list_directions(balance.blocked),
        )


def _list_freezes(view: View, account_id: str) -> Iterator[FreezeForm]:
    for freeze_id, order in reads.list_freezes(view, account_id):
        yield _make_freeze(freeze_id, order)


def _make_freeze(freeze_id: bytes, order: FreezeOrder) -> FreezeForm:
    return FreezeForm(
        freeze=freeze_id,
        account=order.account,
        asset=order.asset,
        direction=order.direction,
        amount=order.amount,
        by=order.by,
        order_hash=order.order_hash,
        review_at_ms=order.review_at_ms,
        placed_at_ms=order.placed_at_ms,
    )


async def get_freeze(call: Call) -> Answer:
    """Return one freeze order in force."""
    call.check_query(frozenset())
    freeze_id = parse_hex("freeze", call.get_path("freeze"), size=32)
    order = reads.get_freeze(call.final.view, freeze_id)
    if order is None:
        raise get_not_found(Code.UNKNOWN_FREEZE, f"no freeze {freeze_id.hex()} is in force")
    if not call.grant.may_see((participant_of(order.by), participant_of(order.account))):
        call.grant.require(participant_of(order.account))
    header = call.final.header
    return Answer(
        OneFreezeForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            freeze=_make_freeze(freeze_id, order),
        )
    )


def _list_holds(view: View, account_id: str) -> tuple[list[HoldForm], bool]:
    """Return the first open holds of an account, and whether there are more."""
    walks = (
        reads.list_open_holds(view, asset, account_id, kind)
        for asset, _ in reads.list_assets(view)
        for kind in HoldKind
    )
    found = list(islice(chain.from_iterable(walks), MAX_LISTED_HOLDS + 1))
    forms = [_make_hold(hold_id, hold) for hold_id, hold in found[:MAX_LISTED_HOLDS]]
    return forms, len(found) > MAX_LISTED_HOLDS


def _make_hold(hold_id: bytes, hold: Hold) -> HoldForm:
    return HoldForm(
        hold=hold_id,
        kind=hold.kind.value,
        status=hold.status.value,
        asset=hold.asset,
        debtor=hold.debtor,
        creditor=hold.creditor,
        amount=hold.amount,
        open=hold.open,
        placed_at_ms=hold.placed_at_ms,
    )


# ---- participants


async def get_participant(call: Call) -> Answer:
    """Return one participant."""
    call.check_query(frozenset())
    code = _get_participant_code(call)
    participant = _load_participant(call.final.view, code)
    return Answer(_make_participant(call, code, participant))


async def list_participants(call: Call) -> Answer:
    """Return all participants."""
    call.check_query(frozenset())
    found = call.final.view.scan(PARTICIPANTS, b"")
    forms = [_make_participant(call, key.decode(), record) for key, record in found]
    return Answer(ParticipantsForm(read_height=call.final.header.height, participants=tuple(forms)))


def _get_participant_code(call: Call) -> str:
    return parse_typed("participant", call.get_path("participant"), ParticipantCode)


def _load_participant(view: View, code: str) -> Participant:
    found = view.get(PARTICIPANTS, code.encode())
    if found is None:
        raise get_not_found(Code.UNKNOWN_PARTICIPANT, f"no participant {code}")
    return found


def _make_participant(call: Call, code: str, record: Participant) -> ParticipantForm:
    members = {validator.participant for validator in list_validators(call.final.view).members}
    return ParticipantForm(
        read_height=call.final.header.height,
        participant=code,
        lei=record.lei,
        bic=record.bic,
        jurisdiction=record.jurisdiction,
        roles=record.roles,
        status=record.status,
        travel_key=record.travel_key,
        is_validator=code in members,
    )


# ---- assets


async def get_asset(call: Call) -> Answer:
    """Return an asset: supply against reserve."""
    call.check_query(frozenset({"height", "proof"}))
    code = parse_typed("code", call.get_path("code"), AssetCode)
    with_proof = call.get_flag("proof")
    check_height(call)
    asset = call.final.view.get(ASSETS, code.encode())
    if asset is None:
        raise get_not_found(Code.UNKNOWN_ASSET, f"no asset {code}")
    proof = make_solvency_proof(call) if with_proof else None
    return Answer(_make_asset(call, code, asset, proof=proof))


async def list_assets(call: Call) -> Answer:
    """Return all assets."""
    call.check_query(frozenset())
    found = call.final.view.scan(ASSETS, b"")
    forms = [_make_asset(call, key.decode(), asset, proof=None) for key, asset in found]
    return Answer(AssetsForm(read_height=call.final.header.height, assets=tuple(forms)))


def _make_asset(call: Call, code: str, asset: Asset, *, proof: ProofFile | None) -> AssetForm:
    view, header = call.final.view, call.final.header
    supply = reads.get_supply(view, code) or NO_SUPPLY
    reserve = reads.get_reserve(view, code)
    attested = reserve if reserve is not None and reserve.sequence else None
    coverage = reads.compute_coverage(view, code, now_ms=header.timestamp_ms)
    assert coverage is not None, code
    count, amount, oldest_due_ms = _sum_open_redemptions(view, code)
    return AssetForm(
        read_height=header.height,
        read_timestamp_ms=header.timestamp_ms,
        asset=code,
        issuer=asset.issuer,
        currency=asset.currency,
        scale=asset.scale,
        terms=asset.terms,
        paused=tuple(str(flag.name).lower() for flag in Pause if asset.paused & flag),
        supply=coverage.supply,
        minted=supply.minted,
        burned=supply.burned,
        reserve=None if attested is None else _make_reserve(attested, asset, header.timestamp_ms),
        coverage_bps=None if coverage.ratio_bps is None else max(0, coverage.ratio_bps),
        is_underbacked=coverage.underbacked,
        quotas=tuple(_list_quotas(view, code, header.timestamp_ms)),
        open_redemptions=count,
        open_redemptions_amount=amount,
        oldest_due_ms=oldest_due_ms,
        is_overdue=oldest_due_ms is not None and oldest_due_ms < header.timestamp_ms,
        proof=proof,
    )


def _make_reserve(reserve: Reserve, asset: Asset, now_ms: int) -> ReserveForm:
    terms = asset.terms
    return ReserveForm(
        sequence=reserve.sequence,
        as_of_ms=reserve.as_of_ms,
        attested=reserve.attested,
        backing=reserve.backing,
        paid_not_burned=reserve.paid_not_burned,
        report_hash=reserve.report_hash,
        audited_sequence=reserve.audited_sequence,
        audited_as_of_ms=reserve.audited_as_of_ms,
        is_stale=now_ms - reserve.as_of_ms > terms.attestation_max_age_ms,
        is_audit_stale=reserve.audited_sequence == 0
        or now_ms - reserve.audited_as_of_ms > terms.audit_max_age_ms,
    )


def _list_quotas(view: View, code: str, now_ms: int) -> Iterator[QuotaForm]:
    for key, quota in view.scan(QUOTAS, f"{code}|".encode()):
        yield QuotaForm(
            minter=key.decode().partition("|")[2],
            capacity=quota.capacity,
            refill_per_day=quota.refill_per_day,
            level=compute_level(quota, now_ms)[0],
        )


def _sum_open_redemptions(view: View, code: str) -> tuple[int, int, int | None]:
    """Return count, amount and oldest due time of the pending redemptions whose clock runs."""
    count, amount, oldest_due_ms = 0, 0, None
    for _, hold in islice(reads.list_pending_by_due(view, code), MAX_PAGE):
        assert hold.redemption is not None
        count, amount = count + 1, amount + hold.open
        if oldest_due_ms is None:
            oldest_due_ms = hold.redemption.due_ms
    return count, amount, oldest_due_ms


# ---- redemptions


async def get_redemption(call: Call) -> Answer:
    """Return one redemption."""
    call.check_query(frozenset())
    hold_id = parse_hex("redemption", call.get_path("redemption"), size=32)
    view, header = call.final.view, call.final.header
    hold = view.get(HOLDS, hold_id)
    if hold is None or hold.redemption is None:
        raise Problem(ApiCode.UNKNOWN_REDEMPTION, f"no redemption {hold_id.hex()}")
    _require_seen(call, hold)
    return Answer(
        OneRedemptionForm(
            read_height=header.height,
            read_timestamp_ms=header.timestamp_ms,
            redemption=_make_redemption(call, hold_id, hold),
        )
    )


async def list_redemptions(call: Call) -> Answer:
    """Return a page of redemptions: by due time with `due_before_ms`, else by id."""
    call.check_query(frozenset({"asset", "status", "due_before_ms", "after", "limit"}))
    asset = call.get_query("asset")
    if asset is not None:
        parse_typed("asset", asset, AssetCode)
        if call.final.view.get(ASSETS, asset.encode()) is None:
            raise get_not_found(Code.UNKNOWN_ASSET, f"no asset {asset}")
    keep = _parse_status(call)
    due_before_ms = call.get_int("due_before_ms", low=0, high=2**63 - 1)
    limit = call.get_limit()
    after = call.get_query("after")
    found: list[RedemptionForm] = []
    examined, last = 0, None
    for cursor, hold_id, hold in _walk_redemptions(call, asset, due_before_ms, after):
        if len(found) == limit or examined == MAX_RECORDS_EXAMINED:
            break
        examined, last = examined + 1, cursor
        wanted = hold.redemption is not None and asset in (None, hold.asset)
        if wanted and _is_seen(call, hold) and keep(call, hold):
            found.append(_make_redemption(call, hold_id, hold))
        if examined % EVENTLY == 0:
            await trio.lowlevel.checkpoint()
    else:
        last = None
    return Answer(
        RedemptionsForm(
            read_height=call.final.header.height,
            read_timestamp_ms=call.final.header.timestamp_ms,
            redemptions=tuple(found),
            next=last,
        )
    )


def _walk_redemptions(
    call: Call, asset: str | None, due_before_ms: int | None, after: str | None
) -> Iterator[tuple[str, bytes, Hold]]:
    """Yield (cursor, id, hold) of what a listing has to look at, in its order."""
    view = call.final.view
    if due_before_ms is None:
        start = None if after is None else parse_hex("after", after, size=32)
        for hold_id, hold in scan_after(view, HOLDS, b"", start):
            yield hold_id.hex(), hold_id, hold
        return
    if asset is None:
        raise invalid("due_before_ms", "goes with asset: due times are listed by asset")
    prefix = f"{asset}|".encode()
    start = None if after is None else prefix + parse_hex("after", after, size=40)
    for key, _ in scan_after(view, DUE, prefix, start, depth=8):
        if int.from_bytes(key[-40:-32], "big") >= due_before_ms:
            return
        due = view.get(HOLDS, key[-32:])
        assert due is not None, key
        yield key[-40:].hex(), key[-32:], due


def _parse_status(call: Call) -> Callable[[Call, Hold], bool]:
    status = call.get_query("status")
    if status is None:
        return lambda _call, _hold: True
    if status == "overdue":
        return lambda call, hold: is_overdue(hold, now_ms=call.final.header.timestamp_ms)
    if status == "blocked":
        return lambda _call, hold: is_blocked(hold)
    known = ("pending", "burned", "returned")
    if status not in known:
        choices = ", ".join((*known, "overdue", "blocked"))
        raise invalid("status", f"expected one of {choices}, got {status!r:.40}")
    wanted = HoldStatus(status)
    return lambda _call, hold: hold.status is wanted


def _parties(hold: Hold) -> tuple[str, str]:
    return participant_of(hold.debtor), participant_of(hold.creditor)


def _is_seen(call: Call, hold: Hold) -> bool:
    return call.grant.may_see(_parties(hold))


def _require_seen(call: Call, hold: Hold) -> None:
    if not _is_seen(call, hold):
        call.grant.require(participant_of(hold.debtor))


def _make_redemption(call: Call, hold_id: bytes, hold: Hold) -> RedemptionForm:
    terms = hold.redemption
    assert terms is not None
    reserve = call.final.view.get(RESERVES, hold.asset.encode())
    return RedemptionForm(
        redemption=hold_id,
        asset=hold.asset,
        holder=hold.debtor,
        amount=hold.amount,
        status=hold.status.value,
        is_overdue=is_overdue(hold, now_ms=call.final.header.timestamp_ms),
        is_blocked=is_blocked(hold),
        due_ms=terms.due_ms,
        placed_at_ms=hold.placed_at_ms,
        payout_hash=terms.payout_hash,
        payout_ref=terms.payout_ref,
        paid_at_ms=terms.paid_at_ms,
        burned_at_ms=terms.burned_at_ms,
        is_listed_as_paid=reserve is not None and hold_id in reserve.paid_not_burned,
    )
