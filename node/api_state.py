"""Routes that read the final state: accounts, statements, participants, assets."""

from collections.abc import Iterator
from itertools import islice

from atpar.ledger import reads
from atpar.ledger.codes import Code
from atpar.ledger.controls import control_key
from atpar.ledger.proofs import ProofFile
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    CONTROLS,
    NO_SUPPLY,
    PARTICIPANTS,
    QUOTAS,
    Account,
    Asset,
    Blocked,
    Participant,
    Pause,
    Reserve,
    Setter,
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
    ControlForm,
    EntriesForm,
    EntryForm,
    FreezeForm,
    ParticipantForm,
    ParticipantsForm,
    QuotaForm,
    ReserveForm,
)
from atpar.node.api_holds import list_first_holds, make_freeze
from atpar.node.api_http import Answer, Call, invalid, parse_int, parse_typed
from atpar.node.api_proofs import make_account_proof, make_solvency_proof
from atpar.node.gateway import Entry, EntryCursor
from atpar.node.limits import MAX_PAGE
from atpar.node.paging import NAME_BYTES, scan_after
from atpar.node.problems import ApiCode, Problem, get_not_found

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
    holds, left_out = list_first_holds(view, account_id)
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
            recovery=account.pending,
            controls=tuple(_list_controls(view, account_id)),
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
    header = call.final.header  # fixed before the lines are read: they may go further, never less
    entries = call.reader.get_entries(
        account_id,
        asset=asset,
        after=None if after is None else parse_cursor("after", after),
        limit=limit + 1,
    )
    rows = [_make_entry(entry) for entry in entries[:limit]]
    return Answer(
        EntriesForm(
            read_height=header.height,
            account=account_id,
            entries=tuple(rows),
            next=rows[-1].cursor if len(entries) > limit else None,
        )
    )


def parse_cursor(name: str, value: str) -> EntryCursor:
    """Return the cursor of a statement line, `height.index.number`.

    Raises:
        Problem: INVALID_PARAMETER.
    """
    parts = value.split(".")
    if len(parts) != 3:
        raise invalid(name, f"expected height.index.number, got {value!r:.60}")
    height, index, number = (parse_int(name, part, low=0, high=2**63 - 1) for part in parts)
    return height, min(index, 2**31), min(number, 2**31)


def _make_entry(entry: Entry) -> EntryForm:
    return EntryForm(
        cursor=f"{entry.height}.{entry.index}.{entry.number}",
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


def _list_controls(view: View, account_id: str) -> Iterator[ControlForm]:
    for asset, _ in reads.list_assets(view):
        for setter in Setter:
            control = view.get(CONTROLS, control_key(asset, account_id, setter))
            if control is not None:
                yield ControlForm(
                    asset=asset,
                    setter=setter.value,
                    tier=control.tier,
                    tier_expires_at_ms=control.tier_expires_at_ms,
                    limit=control.limit,
                )


def _list_freezes(view: View, account_id: str) -> Iterator[FreezeForm]:
    for freeze_id, order in reads.list_freezes(view, account_id):
        yield make_freeze(freeze_id, order)


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
