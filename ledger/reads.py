"""Typed reads of the state, for the API and the command line.

Values that depend on time (a quota's level, whether a redemption is overdue, coverage's age) take
the time as an argument: normally the timestamp of the final header that the view stands for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from atpar.ledger import controls, holds, records, spans
from atpar.ledger.evidence import Evidence
from atpar.ledger.ids import find_tx_record
from atpar.ledger.limits import MAX_BASIS_POINTS
from atpar.ledger.records import (
    Account,
    Asset,
    Balance,
    Control,
    FreezeOrder,
    Hold,
    HoldKind,
    HoldStatus,
    Participant,
    Proposal,
    RecordedEvidence,
    Reserve,
    Setter,
    Supply,
    TxRecord,
    balance_key,
    pair_key,
)
from atpar.ledger.state import View
from atpar.ledger.supply import compute_level
from atpar.ledger.transactions import id_key

# ---- participants and accounts


def get_participant(view: View, code: str) -> Participant | None:
    """Return a participant."""
    return view.get(records.PARTICIPANTS, code.encode())


def list_participants(view: View) -> Iterator[tuple[str, Participant]]:
    """Yield every participant by code, in order."""
    for key, participant in view.scan(records.PARTICIPANTS, b""):
        yield key.decode(), participant


def get_account(view: View, account: str) -> Account | None:
    """Return an account."""
    return view.get(records.ACCOUNTS, account.encode())


def list_accounts(view: View, participant: str) -> Iterator[tuple[str, Account]]:
    """Yield a participant's accounts by id, in order."""
    for key, account in view.scan(records.ACCOUNTS, f"{participant}/".encode()):
        yield key.decode(), account


def get_key_owner(view: View, public_key: bytes) -> str | None:
    """Return the participant that a public key belongs to."""
    owner = view.get(records.KEYS, public_key)
    return None if owner is None else owner.participant


# ---- balances


def get_balance(view: View, asset: str, account: str) -> Balance:
    """Return a balance, zero when there is none."""
    return view.get(records.BALANCES, balance_key(asset, account)) or records.NO_BALANCE


def list_balances(view: View, account: str) -> Iterator[tuple[str, Balance]]:
    """Yield an account's balances by asset, in order; assets it has nothing of are left out."""
    for code, _ in list_assets(view):
        balance = view.get(records.BALANCES, balance_key(code, account))
        if balance is not None:
            yield code, balance


# ---- assets


@dataclass(frozen=True, slots=True)
class Coverage:
    """What stands behind an asset at one time."""

    supply: int
    """Minor units in circulation, frozen and pending redemptions included."""
    backing: int
    """R of the reserve gate, in minor units."""
    underbacked: bool
    """The reserve gate does not hold for the supply as it is: minting has stopped."""
    attestation_age_ms: int | None
    """None: never attested."""
    audit_age_ms: int | None
    stale: bool
    """The attestation or the audit is missing or too old: minting has stopped."""
    overdue: int
    """Redemptions past their due time: minting has stopped."""

    @property
    def ratio_bps(self) -> int | None:
        """Backing per supply in basis points, rounded down; None without supply."""
        return None if self.supply == 0 else self.backing * MAX_BASIS_POINTS // self.supply


def get_asset(view: View, asset: str) -> Asset | None:
    """Return an asset."""
    return view.get(records.ASSETS, asset.encode())


def list_assets(view: View) -> Iterator[tuple[str, Asset]]:
    """Yield every asset by code, in order."""
    for key, asset in view.scan(records.ASSETS, b""):
        yield key.decode(), asset


def get_supply(view: View, asset: str) -> Supply | None:
    """Return what was minted and burned."""
    return view.get(records.SUPPLIES, asset.encode())


def get_reserve(view: View, asset: str) -> Reserve | None:
    """Return the last attestation and what followed from it."""
    return view.get(records.RESERVES, asset.encode())


def compute_coverage(view: View, code: str, *, now_ms: int) -> Coverage | None:
    """Return what stands behind an asset, or None for an unknown one."""
    asset, supply, reserve = get_asset(view, code), get_supply(view, code), get_reserve(view, code)
    if asset is None or supply is None or reserve is None:
        return None
    terms = asset.terms
    circulating = supply.minted - supply.burned
    needed = circulating * (MAX_BASIS_POINTS + terms.overcollateral_bps)
    attestation = now_ms - reserve.as_of_ms if reserve.sequence else None
    audit = now_ms - reserve.audited_as_of_ms if reserve.audited_sequence else None
    overdue = 0
    for key, _ in view.scan(records.DUE, code.encode() + b"|"):
        if int.from_bytes(key[len(code) + 1 : len(code) + 9], "big") >= now_ms:
            break
        overdue += 1
    return Coverage(
        supply=circulating,
        backing=reserve.backing,
        underbacked=needed > reserve.backing * MAX_BASIS_POINTS,
        attestation_age_ms=attestation,
        audit_age_ms=audit,
        stale=attestation is None
        or attestation > terms.attestation_max_age_ms
        or audit is None
        or audit > terms.audit_max_age_ms,
        overdue=overdue,
    )


def get_quota_level(view: View, asset: str, minter: str, *, now_ms: int) -> int:
    """Return what a minter may mint at a time, in minor units."""
    quota = view.get(records.QUOTAS, pair_key(asset, minter))
    return 0 if quota is None else compute_level(quota, now_ms)[0]


# ---- holds, redemptions, freezes


def get_hold(view: View, hold_id: bytes) -> Hold | None:
    """Return a hold of any kind, ended ones included."""
    return view.get(records.HOLDS, hold_id)


def list_open_holds(
    view: View, asset: str, account: str, kind: HoldKind
) -> Iterator[tuple[bytes, Hold]]:
    """Yield an account's open holds of one kind, oldest first."""
    return holds.list_open_holds(view, asset, account, kind)


def list_redemptions(
    view: View, *, asset: str | None = None, status: HoldStatus | None = None
) -> Iterator[tuple[bytes, Hold]]:
    """Yield redemptions by id, of one asset and in one status if given. Reads every hold."""
    for hold_id, hold in view.scan(records.HOLDS, b""):
        if (
            hold.redemption is not None
            and (asset is None or hold.asset == asset)
            and (status is None or hold.status is status)
        ):
            yield hold_id, hold


def list_pending_by_due(view: View, asset: str) -> Iterator[tuple[bytes, Hold]]:
    """Yield an asset's pending redemptions whose clock runs, the earliest due first."""
    for key, _ in view.scan(records.DUE, asset.encode() + b"|"):
        hold = view.get(records.HOLDS, key[-32:])
        assert hold is not None, key
        yield key[-32:], hold


def is_blocked(hold: Hold) -> bool:
    """Return whether a freeze stops a redemption's clock."""
    return hold.redemption is not None and hold.redemption.blocked_since_ms is not None


def is_overdue(hold: Hold, *, now_ms: int) -> bool:
    """Return whether a redemption is pending past its due time."""
    terms = hold.redemption
    return (
        terms is not None
        and hold.status is HoldStatus.PENDING
        and terms.blocked_since_ms is None
        and terms.due_ms < now_ms
    )


def compute_hold_expiry(view: View, hold: Hold, *, now_ms: int) -> int | None:
    """Return the last instant at which a payment hold can be captured, as known at a time."""
    return None if hold.payment is None else spans.compute_expiry(view, hold, now_ms)


def list_claims(view: View, account: str) -> Iterator[tuple[bytes, Hold]]:
    """Yield the pending payment holds of which an account is the creditor, by id."""
    for key, _ in view.scan(records.CLAIMS, f"{account}|".encode()):
        hold = view.get(records.HOLDS, key[-32:])
        assert hold is not None, key
        yield key[-32:], hold


def get_freeze(view: View, freeze_id: bytes) -> FreezeOrder | None:
    """Return a freeze order that stands."""
    return view.get(records.FREEZES, freeze_id)


def list_freezes(view: View, account: str) -> Iterator[tuple[bytes, FreezeOrder]]:
    """Yield the orders that stand against an account: those for all assets, then by asset."""
    for key, _ in view.scan(records.ACCOUNT_FREEZES, f"{account}|".encode()):
        order = view.get(records.FREEZES, key[-32:])
        assert order is not None, key
        yield key[-32:], order


# ---- controls and proposals


def list_controls(view: View, asset: str, target: str) -> Iterator[tuple[Setter, Control]]:
    """Yield what each setter states for an account, or for a class (`controls.class_target`)."""
    for setter in Setter:
        control = view.get(records.CONTROLS, controls.control_key(asset, target, setter))
        if control is not None:
            yield setter, control


def get_tier(view: View, asset: str, account: str, *, now_ms: int) -> int:
    """Return an account's KYC tier at a time: the lowest that any setter states, 0 for none."""
    return controls.compute_tier(view, asset, account, now_ms)


def get_proposal(view: View, proposal_id: bytes) -> Proposal | None:
    """Return an open proposal."""
    return view.get(records.PROPOSALS, proposal_id)


def list_proposals(view: View) -> Iterator[tuple[bytes, Proposal]]:
    """Yield every open proposal by id, those past their expiry included."""
    yield from view.scan(records.PROPOSALS, b"")


def list_pending_params(view: View) -> Iterator[tuple[int, str, int]]:
    """Yield (activation height, parameter, value) of every scheduled change, in order."""
    for key, change in view.scan(records.PENDING_PARAMS, b""):
        yield int.from_bytes(key[:8], "big"), key[8:].decode(), change.value


# ---- evidence


def get_recorded_evidence(view: View, evidence: Evidence) -> RecordedEvidence | None:
    """Return the record of this or other evidence of its kind, validator, epoch and view."""
    return view.get(records.EVIDENCE, records.evidence_key(evidence))


def list_recorded_evidence(view: View) -> Iterator[RecordedEvidence]:
    """Yield all recorded evidence by participant, epoch, view and kind, in order."""
    for _, record in view.scan(records.EVIDENCE, b""):
        yield record


# ---- transactions


def get_tx_record(view: View, sender: str, tx_id: bytes) -> TxRecord | None:
    """Return which transaction used an id, as long as its hour is retained."""
    return find_tx_record(view, id_key(sender, tx_id))
