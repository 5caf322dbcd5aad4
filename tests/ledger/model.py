"""The ledger's rules once more, as plainly as possible: dictionaries, brute force, no shortcuts.

Written from the rules, not from the code: R is summed over the whole history at each use, quotas
are fractions, and a hold's clock ticks at each step. Each method says whether an operation must
succeed, and if so does it.
"""

import copy
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from atpar.ledger.limits import DAY_MS, MAX_EVIDENCE_PER_EPOCH
from atpar.ledger.types import Direction

HKT_MS: Final = 8 * 3_600_000


@dataclass
class Hold:
    kind: str
    asset: str
    debtor: str
    creditor: str
    amount: int
    open: int
    placed_at: int
    order: int
    expires_at: int = 0
    due: int = 0
    stopped: bool = False
    status: str = "pending"
    burned_at: int | None = None
    reversed: int = 0


@dataclass
class Freeze:
    account: str
    asset: str | None
    direction: Direction
    amount: int | None
    placed_at: int

    def stops(self, side: Direction) -> bool:
        """Whether it blocks a side as a whole."""
        if self.amount is None:
            return self.direction in (side, Direction.BOTH)
        return side is Direction.CREDIT and self.direction is Direction.BOTH


@dataclass
class Asset:
    cap: int
    bps: int
    sequence: int = 0
    as_of: int = 0
    attested: int = 0
    listed: tuple[bytes, ...] = ()
    audited: int = 0
    audited_as_of: int = 0
    stated: dict[int, tuple[int, int, tuple[bytes, ...]]] = field(default_factory=dict)
    minted: int = 0
    burned: int = 0
    quota_cap: int = 0
    quota_rate: int = 0
    quota: Fraction = Fraction(0)
    quota_at: int = 0
    paused: set[str] = field(default_factory=set)


@dataclass
class Model:
    now: int
    assets: dict[str, Asset]
    accounts: set[str]
    posted: dict[tuple[str, str], int] = field(default_factory=dict)
    holds: dict[bytes, Hold] = field(default_factory=dict)
    freezes: dict[bytes, Freeze] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    funding: set[tuple[str, bytes]] = field(default_factory=set)
    payouts: set[tuple[str, bytes]] = field(default_factory=set)
    limits: dict[tuple[str, str, str], int] = field(default_factory=dict)
    used: dict[tuple[str, str, str, int], int] = field(default_factory=dict)
    voters: set[str] = field(default_factory=set)
    evidence: set[tuple[str, int, int, str]] = field(default_factory=set)
    order: int = 0

    def copy(self) -> "Model":
        return copy.deepcopy(self)

    def restore(self, other: "Model") -> None:
        self.__dict__.update(copy.deepcopy(other.__dict__))

    # ---- time

    def advance(self, now: int) -> None:
        """Move to the next block; what was blocked meanwhile gains the time."""
        passed = now - self.now
        for hold in self.holds.values():
            if hold.status != "pending":
                continue
            if hold.kind == "redemption":
                if hold.stopped:
                    hold.due += passed
            elif self.now <= hold.expires_at and self.is_capture_blocked(hold):
                hold.expires_at += passed
        self.now = now

    def is_capture_blocked(self, hold: Hold) -> bool:
        return (
            "capture" in self.assets[hold.asset].paused
            or self.is_stopped(hold.asset, hold.debtor, Direction.DEBIT)
            or self.is_stopped(hold.asset, hold.creditor, Direction.CREDIT)
        )

    # ---- sums

    def get_posted(self, asset: str, account: str) -> int:
        return self.posted.get((asset, account), 0)

    def get_held(self, asset: str, account: str) -> int:
        return sum(
            h.open
            for h in self.holds.values()
            if h.status == "pending" and (h.asset, h.debtor) == (asset, account)
        )

    def get_frozen(self, asset: str, account: str) -> int:
        return sum(
            f.amount or 0 for f in self.freezes.values() if (f.asset, f.account) == (asset, account)
        )

    def is_stopped(self, asset: str, account: str, side: Direction) -> bool:
        return any(
            f.stops(side)
            for f in self.freezes.values()
            if f.account == account and f.asset in (None, asset)
        )

    def get_backing(self, code: str) -> int:
        asset = self.assets[code]
        total = asset.attested
        for hold_id, hold in self.holds.items():
            if hold.asset != code or hold.kind != "redemption":
                continue
            listed = hold_id in asset.listed
            if listed and hold.status == "pending":
                total += hold.amount
            if hold.status == "burned" and hold.burned_at is not None:
                total -= hold.amount if hold.burned_at > asset.as_of and not listed else 0
        return total

    def get_quota(self, code: str) -> Fraction:
        asset = self.assets[code]
        gained = Fraction(asset.quota_rate * (self.now - asset.quota_at), DAY_MS)
        return min(Fraction(asset.quota_cap), asset.quota + gained)

    def move(self, asset: str, debtor: str | None, creditor: str | None, amount: int) -> None:
        for account, change in ((debtor, -amount), (creditor, amount)):
            if account is not None:
                self.posted[(asset, account)] = self.get_posted(asset, account) + change
                assert self.posted[(asset, account)] >= 0

    # ---- parties

    def may_credit(self, asset: str, account: str) -> bool:
        return (
            account in self.accounts
            and account[:4] not in self.suspended
            and not self.is_stopped(asset, account, Direction.CREDIT)
        )

    def may_debit(self, asset: str, account: str, amount: int) -> bool:
        free = self.get_posted(asset, account) - self.get_held(asset, account)
        return (
            not self.is_stopped(asset, account, Direction.DEBIT)
            and free - self.get_frozen(asset, account) >= amount
        )

    def use_limits(self, asset: str, account: str, amount: int) -> bool:
        window = (self.now + HKT_MS) // DAY_MS
        keys = [key for key in self.limits if key[:2] == (asset, account)]
        for key in keys:
            if self.used.get((*key, window), 0) + amount > self.limits[key]:
                return False
        for key in keys:
            self.used[(*key, window)] = self.used.get((*key, window), 0) + amount
        return True

    # ---- payments

    def may_pay(self, asset: str, debtor: str, creditor: str, amount: int) -> bool:
        return (
            debtor[:4] not in self.suspended
            and self.may_credit(asset, creditor)
            and self.may_debit(asset, debtor, amount)
        )

    def transfer(self, asset: str, debtor: str, creditor: str, amount: int) -> bool:
        if "transfer" in self.assets[asset].paused:
            return False
        if not self.may_pay(asset, debtor, creditor, amount):
            return False
        if not self.use_limits(asset, debtor, amount):
            return False
        self.move(asset, debtor, creditor, amount)
        return True

    def hold(
        self, hold_id: bytes, asset: str, debtor: str, creditor: str, amount: int, expires_at: int
    ) -> bool:
        if "hold" in self.assets[asset].paused or expires_at <= self.now:
            return False
        if not self.may_pay(asset, debtor, creditor, amount):
            return False
        if not self.use_limits(asset, debtor, amount):
            return False
        self.order += 1
        self.holds[hold_id] = Hold(
            "payment", asset, debtor, creditor, amount, amount, self.now, self.order, expires_at
        )
        return True

    def capture(self, hold_id: bytes, amount: int, *, final: bool) -> bool:
        hold = self.holds.get(hold_id)
        if hold is None or hold.kind != "payment" or hold.status != "pending":
            return False
        left = self.get_posted(hold.asset, hold.debtor) - amount
        if (
            self.is_capture_blocked(hold)
            or amount > hold.open
            or left < self.get_frozen(hold.asset, hold.debtor)
            or self.now > hold.expires_at
        ):
            return False
        hold.open -= amount
        self.move(hold.asset, hold.debtor, hold.creditor, amount)
        if final or hold.open == 0:
            hold.open, hold.status = 0, "ended"
        return True

    def release(self, hold_id: bytes, by: str) -> bool:
        hold = self.holds.get(hold_id)
        if hold is None or hold.status != "pending":
            return False
        if hold.kind == "redemption":
            if by != "JDCL/treasury":
                return False
            hold.status, hold.open = "returned", 0
            return True
        if by != hold.creditor and (by != hold.debtor or self.now <= hold.expires_at):
            return False
        hold.status, hold.open = "ended", 0
        return True

    def assign(self, hold_id: bytes, new_id: bytes, to: str, amount: int) -> bool:
        hold = self.holds.get(hold_id)
        if hold is None or hold.kind != "payment" or hold.status != "pending":
            return False
        if (
            "hold" in self.assets[hold.asset].paused
            or {hold.debtor[:4], hold.creditor[:4]} & self.suspended
            or self.is_stopped(hold.asset, hold.debtor, Direction.DEBIT)
            or self.is_stopped(hold.asset, hold.creditor, Direction.DEBIT)
            or self.is_stopped(hold.asset, hold.creditor, Direction.CREDIT)
            or not self.may_credit(hold.asset, to)
            or to in (hold.debtor, hold.creditor)
            or amount > hold.open
            or self.now > hold.expires_at
        ):
            return False
        if amount == hold.open:
            hold.creditor = to
            return True
        part = copy.copy(hold)
        part.creditor, part.amount, part.open = to, amount, amount
        hold.open -= amount
        self.holds[new_id] = part
        return True

    # ---- supply

    def attest(self, code: str, amount: int, as_of: int, listed: tuple[bytes, ...]) -> bool:
        asset = self.assets[code]
        if not asset.as_of <= as_of <= self.now:
            return False
        for hold_id in listed:
            hold = self.holds.get(hold_id)
            if (
                hold is None
                or hold.kind != "redemption"
                or hold.asset != code
                or hold.placed_at > as_of
                or hold.status == "returned"
                or (hold.burned_at is not None and hold.burned_at <= as_of)
            ):
                return False
        asset.sequence += 1
        asset.as_of, asset.attested, asset.listed = as_of, amount, listed
        asset.stated[asset.sequence] = (as_of, amount, listed)
        return True

    def audit(self, code: str, sequence: int) -> bool:
        asset = self.assets[code]
        if sequence not in asset.stated or sequence <= asset.audited:
            return False
        asset.audited, asset.audited_as_of = sequence, asset.stated[sequence][0]
        return True

    def set_quota(self, code: str, capacity: int, rate: int) -> bool:
        if "JDCL" in self.suspended:
            return False
        asset = self.assets[code]
        asset.quota = min(self.get_quota(code), Fraction(capacity))
        asset.quota_cap, asset.quota_rate, asset.quota_at = capacity, rate, self.now
        return True

    def is_fresh(self, code: str) -> bool:
        asset = self.assets[code]
        return (
            asset.sequence > 0
            and self.now - asset.as_of <= DAY_MS
            and asset.audited > 0
            and self.now - asset.audited_as_of <= 30 * DAY_MS
        )

    def is_overdue(self, code: str) -> bool:
        return any(
            h.kind == "redemption"
            and h.asset == code
            and h.status == "pending"
            and not h.stopped
            and h.due < self.now
            for h in self.holds.values()
        )

    def mint(
        self, code: str, creditor: str, amount: int, ref: bytes, reversal_of: bytes | None
    ) -> bool:
        asset = self.assets[code]
        supply = asset.minted - asset.burned + amount
        if (
            "JDCL" in self.suspended
            or "mint" in asset.paused
            or not self.may_credit(code, creditor)
            or (code, ref) in self.funding
            or not self.is_fresh(code)
            or self.is_overdue(code)
            or supply > asset.cap
            or supply * (10_000 + asset.bps) > self.get_backing(code) * 10_000
        ):
            return False
        if reversal_of is None:
            level = self.get_quota(code)
            if level < amount:
                return False
            asset.quota, asset.quota_at = level - amount, self.now
        else:
            hold = self.holds.get(reversal_of)
            if (
                hold is None
                or hold.status != "burned"
                or hold.asset != code
                or hold.debtor != creditor
                or hold.reversed + amount > hold.amount
            ):
                return False
            hold.reversed += amount
        self.funding.add((code, ref))
        asset.minted += amount
        self.move(code, None, creditor, amount)
        return True

    def redeem(self, hold_id: bytes, code: str, holder: str, amount: int, due: int) -> bool:
        if not self.may_debit(code, holder, amount):
            return False
        self.order += 1
        self.holds[hold_id] = Hold(
            "redemption", code, holder, "", amount, amount, self.now, self.order, due=due
        )
        return True

    def burn(self, hold_id: bytes, ref: bytes, paid_at: int) -> bool:
        hold = self.holds.get(hold_id)
        if hold is None or hold.kind != "redemption" or hold.status != "pending":
            return False
        orders = [
            f
            for f in self.freezes.values()
            if f.account == hold.debtor and f.asset in (None, hold.asset) and f.placed_at <= paid_at
        ]
        left = self.get_posted(hold.asset, hold.debtor) - hold.amount
        if (
            (hold.asset, ref) in self.payouts
            or any(f.stops(Direction.DEBIT) for f in orders)
            or left < sum(f.amount or 0 for f in orders)
            or not hold.placed_at <= paid_at <= self.now
        ):
            return False
        self.payouts.add((hold.asset, ref))
        hold.status, hold.open, hold.burned_at = "burned", 0, self.now
        self.assets[hold.asset].burned += hold.amount
        self.move(hold.asset, hold.debtor, None, hold.amount)
        return True

    # ---- compliance

    def freeze(self, freeze_id: bytes, order: Freeze) -> bool:
        self.freezes[freeze_id] = order
        self.set_clocks(order)
        return True

    def unfreeze(self, freeze_id: bytes) -> bool:
        order = self.freezes.pop(freeze_id, None)
        if order is None:
            return False
        self.set_clocks(order)
        return True

    def set_clocks(self, order: Freeze) -> None:
        """Clocks stop and start when an order changes, never between."""
        for hold in self.holds.values():
            if (
                hold.kind == "redemption"
                and hold.status == "pending"
                and hold.debtor == order.account
                and order.asset in (None, hold.asset)
            ):
                posted = self.get_posted(hold.asset, hold.debtor)
                frozen = self.get_frozen(hold.asset, hold.debtor)
                stopped = self.is_stopped(hold.asset, hold.debtor, Direction.DEBIT)
                hold.stopped = stopped or posted - hold.amount < frozen

    def seize(self, freeze_id: bytes, code: str, amount: int, to: str) -> bool:
        order = self.freezes.get(freeze_id)
        if order is None or order.asset not in (None, code) or order.direction is Direction.CREDIT:
            return False
        if to == order.account or not self.may_credit(code, to):
            return False
        if order.amount is not None and amount > order.amount:
            return False
        reachable = sorted(
            (h.order, hold_id)
            for hold_id, h in self.holds.items()
            if h.kind == "payment"
            and h.status == "pending"
            and (h.asset, h.debtor) == (code, order.account)
        )
        holds = [self.holds[hold_id] for _, hold_id in reachable]
        unheld = self.get_posted(code, order.account) - self.get_held(code, order.account)
        if amount > unheld + sum(h.open for h in holds):
            return False
        missing = amount - unheld
        for hold in holds:
            taken = max(0, min(missing, hold.open))
            hold.open -= taken
            missing -= taken
            if hold.open == 0:
                hold.status = "ended"
        self.move(code, order.account, to, amount)
        if order.amount is not None:
            order.amount -= amount
            if order.amount == 0:
                del self.freezes[freeze_id]
            self.set_clocks(order)
        return True

    def accuse(
        self, code: str, epoch: int, view: int, kind: str, *, present: int, genuine: bool
    ) -> bool:
        """Votes of a member in an epoch up to the present one, new, and not one too many."""
        place = (code, epoch, view, kind)
        count = sum(1 for known in self.evidence if known[:2] == (code, epoch))
        if epoch > present or place in self.evidence or count >= MAX_EVIDENCE_PER_EPOCH:
            return False
        if code not in self.voters or not genuine:
            return False
        self.evidence.add(place)
        return True

    def observe(self) -> dict[str, Any]:
        """Return what the ledger must show too."""
        keys = {k for k, v in self.posted.items() if v}
        keys |= {(f.asset, f.account) for f in self.freezes.values() if f.asset and f.amount}
        return {
            "balances": {
                k: (self.get_posted(*k), self.get_held(*k), self.get_frozen(*k)) for k in keys
            },
            "supply": {c: a.minted - a.burned for c, a in self.assets.items()},
            "backing": {c: self.get_backing(c) for c in self.assets},
            "holds": {i: (h.open, h.status) for i, h in self.holds.items()},
            "freezes": {i: f.amount for i, f in self.freezes.items()},
            "evidence": self.evidence,
        }
