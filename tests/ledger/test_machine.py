"""Random histories of every operation against the plain model, and an adversary without one.

`ATPAR_TEST_LONG=1` runs 1,000 histories of 100 steps each; otherwise a few short ones. After every
step: the outcome is the model's, so are balances, supply, backing, holds and freezes; a refused
transaction changed nothing (`World.apply`); all invariants hold; the proposer's block and the
voter's are the same (`World.adopt`). At the end of each history the blocks are replayed from
genesis, and the state root is computed anew from the records alone.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atpar.ledger import records
from atpar.ledger.codes import Code
from atpar.ledger.context import compute_entry_id
from atpar.ledger.evidence import get_place
from atpar.ledger.execute import execute_block
from atpar.ledger.hashing import HashTag
from atpar.ledger.jsonform import operation_name
from atpar.ledger.limits import DAY_MS, HOUR_MS
from atpar.ledger.operations import (
    Approve,
    Assign,
    AttestReserve,
    Burn,
    Capture,
    Condition,
    Decision,
    Freeze,
    Hold,
    Limit,
    Mint,
    Operation,
    PauseChange,
    PauseScope,
    Propose,
    RecordEvidence,
    Redeem,
    Release,
    Seize,
    SetControls,
    SetMintQuota,
    SetPause,
    Unfreeze,
)
from atpar.ledger.reads import get_hold, list_recorded_evidence
from atpar.ledger.state import Base, MemoryBacking
from atpar.ledger.terms import compute_due
from atpar.ledger.transactions import decode_transaction
from atpar.ledger.types import Direction, ParticipantStatus, Role
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote
from tests.ledger import model
from tests.ledger.evidence import make_pair
from tests.ledger.test_payments import suspend
from tests.ledger.world import (
    BANKS,
    CNH,
    HKD,
    START_MS,
    World,
    make_document,
    make_params,
    make_terms,
    transfer,
)

LONG: Final = bool(os.environ.get("ATPAR_TEST_LONG"))
ASSETS: Final = (HKD, CNH)
ACCOUNTS: Final = ("ALFA/main", "ALFA/other", "BRVO/main", "CHRL/main")
CAP: Final = 5_000
BPS: Final = 250
EPOCH_BLOCKS: Final = 24
VOTES: Final[dict[str, type[Vote]]] = {
    "conflicting_notarize": Notarize,
    "conflicting_finalize": Finalize,
    "nullify_finalize": Nullify,
}
HISTORY: Final = settings(
    max_examples=1_000 if LONG else 12,
    stateful_step_count=100 if LONG else 40,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)

assets = st.sampled_from(ASSETS)
accounts = st.sampled_from(ACCOUNTS)
amounts = st.one_of(
    st.integers(1, 300), st.sampled_from([100, 50, 1, 99, 101, 499, 500, 501, 1_000, 5_000])
)
refs = st.integers(0, 60).map(lambda n: n.to_bytes(16, "big"))
directions = st.sampled_from(list(Direction))
picks = st.integers(0, 2**16)
jumps = st.sampled_from([0, 1, 500, HOUR_MS, 9 * HOUR_MS, DAY_MS, 3 * DAY_MS])


def make_world() -> World:
    return World(
        make_document(
            terms=make_terms(cap=CAP, overcollateral_bps=BPS),
            params=make_params(epoch_blocks=EPOCH_BLOCKS),
        )
    )


class LedgerMachine(RuleBasedStateMachine):
    """Honest signers, any order of operations, any amounts: the ledger does what the model does."""

    def __init__(self) -> None:
        super().__init__()
        self.world = make_world()
        self.model = model.Model(
            now=START_MS,
            assets={
                code: model.Asset(CAP, BPS, quota_cap=10**14, quota_rate=10**14, quota_at=START_MS)
                for code in ASSETS
            },
            accounts=set(ACCOUNTS),
            voters=set(BANKS),
        )
        for asset in self.model.assets.values():
            asset.quota += asset.quota_cap

    @initialize(amount=st.sampled_from([500, 100, 1_000]))
    def begin(self, amount: int) -> None:
        """Money and holds are there from the start, so that short histories reach far."""
        for asset in ASSETS:
            self.attest(asset, 10 * amount, 0, [])
            self.audit(asset, 0)
            for account in ACCOUNTS:
                ref = self.world.next_id()
                self.mint(asset, account, amount, ref, pick=0, reverses=False)
        self.redeem(HKD, "ALFA/main", amount // 2)
        self.place_hold(HKD, "ALFA/main", "BRVO/main", amount // 4, DAY_MS)
        self.place_hold(HKD, "BRVO/main", "CHRL/main", amount, DAY_MS)

    # ---- plumbing

    def step(
        self,
        ops: Sequence[Operation],
        act: Callable[[], bool],
        *,
        sender: str,
        by: Sequence[str] = (),
    ) -> Code:
        """Run a transaction on the ledger and in the model; both agree on the outcome."""
        world = self.world
        supplies = {asset: world.supply(asset) for asset in ASSETS}
        tx = world.make(*ops, sender=sender, by=by)
        world.last = tx
        code = world.apply(tx)
        self.model.advance(world.header.timestamp_ms)
        before = self.model.copy()
        if not act():
            self.model.restore(before)
            assert code is not Code.OK, f"the model refuses {ops}"
        else:
            assert code is Code.OK, f"the model allows {ops}, the ledger says {code!r}"
        self.check_effect(supplies)
        return code

    def check_effect(self, supplies: dict[str, int]) -> None:
        """Invariants 1 and 3: only mints and burns change a supply, by their postings."""
        for posting in self.world.executed[-1].postings:
            if posting.debtor is None:
                supplies[posting.asset] += posting.amount
            elif posting.creditor is None:
                supplies[posting.asset] -= posting.amount
        assert supplies == {asset: self.world.supply(asset) for asset in ASSETS}

    def choose(self, ids: Sequence[bytes], pick: int) -> bytes:
        """One of the ids, or now and then one that does not exist."""
        return ids[pick % len(ids)] if ids and pick % 31 != 30 else bytes(32)

    def holds(self, *kinds: str) -> list[bytes]:
        """Holds of these kinds, the pending ones three times as likely."""
        found = [(i, h) for i, h in self.model.holds.items() if h.kind in kinds]
        return [i for i, h in found for _ in range(3 if h.status == "pending" else 1)]

    # ---- time

    @rule(ms=jumps)
    def let_time_pass(self, ms: int) -> None:
        self.world.advance(ms)
        self.world.block()
        self.model.advance(self.world.header.timestamp_ms)

    # ---- supply

    @rule(
        asset=assets,
        amount=st.integers(0, 12_000),
        age=st.sampled_from([0, 0, 1, 5, HOUR_MS]),
        picked=st.lists(picks, max_size=3),
    )
    def attest(self, asset: str, amount: int, age: int, picked: list[int]) -> None:
        ids = [self.choose(self.holds("redemption"), pick) for pick in picked]
        listed = tuple(sorted({i for i in ids if i in self.model.holds}))
        as_of = max(0, self.world.header.timestamp_ms + 1 - age)
        op = self.world.attestation(amount, asset, paid=listed, as_of_ms=as_of)
        self.step(
            [op],
            lambda: self.model.attest(asset, amount, as_of, listed),
            sender="CUST/reserve",
        )

    @rule(asset=assets, back=st.integers(0, 3))
    def audit(self, asset: str, back: int) -> None:
        reserve = self.model.assets[asset]
        sequence = max(0, reserve.sequence - back)
        as_of, amount, listed = reserve.stated.get(sequence, (0, 0, ()))
        report = self.world.attestation(0, asset).report_hash
        op = AttestReserve(asset, Role.AUDITOR, sequence, as_of, amount, listed, report)
        self.step([op], lambda: self.model.audit(asset, sequence), sender="AUDT/sign")

    @rule(
        asset=assets,
        capacity=st.sampled_from([0, 50, 1_000, 10**6]),
        rate=st.sampled_from([0, 1, 777, 10**6]),
    )
    def set_quota(self, asset: str, capacity: int, rate: int) -> None:
        op = SetMintQuota(asset, "JDCL/mint", capacity, rate)
        self.step([op], lambda: self.model.set_quota(asset, capacity, rate), sender="JDCL/treasury")

    @rule(
        asset=assets,
        creditor=accounts,
        amount=amounts,
        ref=refs,
        pick=picks,
        reverses=st.sampled_from([False, False, True]),
    )
    def mint(
        self, asset: str, creditor: str, amount: int, ref: bytes, *, pick: int, reverses: bool
    ) -> None:
        burned = self.holds("redemption")
        source = self.choose(burned, pick) if reverses and burned else None
        op = Mint(asset, "JDCL/mint", creditor, amount, ref, source)
        code = self.step(
            [op],
            lambda: self.model.mint(asset, creditor, amount, ref, source),
            sender="JDCL/mint",
            by=["CUST/reserve"] if source is not None else [],
        )
        if code is Code.OK:
            # Invariant 4, with R summed anew over the whole history.
            supply = self.world.supply(asset)
            assert supply * (10_000 + BPS) <= self.model.get_backing(asset) * 10_000

    @rule(asset=assets, holder=accounts, amount=amounts)
    def redeem(self, asset: str, holder: str, amount: int) -> None:
        op = Redeem(asset, holder, amount, bytes(32))

        def act() -> bool:
            terms = make_terms()
            due = compute_due(terms, self.model.now)
            return self.model.redeem(self.world.hold_id(), asset, holder, amount, due)

        self.step([op], act, sender=holder)

    @rule(pick=picks, ref=refs, age=st.sampled_from([0, 0, 0, 1, 3, HOUR_MS, -1]))
    def burn(self, pick: int, ref: bytes, age: int) -> None:
        redemption = self.choose(self.holds("redemption"), pick)
        paid_at = max(0, self.world.header.timestamp_ms + 1 - age)
        op = Burn(redemption, ref, paid_at)
        self.step(
            [op],
            lambda: self.model.burn(redemption, ref, paid_at),
            sender="JDCL/treasury",
            by=["CUST/reserve"],
        )

    # ---- payments and holds

    @rule(asset=assets, debtor=accounts, creditor=accounts, amount=amounts)
    def pay(self, asset: str, debtor: str, creditor: str, amount: int) -> None:
        if debtor == creditor:
            return
        self.step(
            [transfer(debtor, creditor, amount, asset)],
            lambda: self.model.transfer(asset, debtor, creditor, amount),
            sender=debtor,
        )

    @rule(legs=st.lists(st.tuples(assets, accounts, accounts, amounts), min_size=2, max_size=4))
    def pay_in_one(self, legs: list[tuple[str, str, str, int]]) -> None:
        """Several payments, by several debtors, in one transaction: all or none."""
        legs = [leg for leg in legs if leg[1] != leg[2]]
        if not legs:
            return
        self.step(
            [transfer(d, c, n, a) for a, d, c, n in legs],
            lambda: all(self.model.transfer(*leg) for leg in legs),
            sender=legs[0][1],
            by=sorted({leg[1] for leg in legs}),
        )

    @rule(
        asset=assets,
        debtor=accounts,
        creditor=accounts,
        amount=amounts,
        life=st.sampled_from([0, 1, HOUR_MS, DAY_MS]),
    )
    def place_hold(self, asset: str, debtor: str, creditor: str, amount: int, life: int) -> None:
        if debtor == creditor:
            return
        expires_at = self.world.header.timestamp_ms + 1 + life
        op = Hold(
            asset=asset,
            debtor=debtor,
            creditor=creditor,
            amount=amount,
            uetr=bytes(16),
            purpose="",
            reference="",
            travel_rule_hash=None,
            travel_rule_ack=False,
            expires_at_ms=expires_at,
            condition=Condition((), None, None, None),
            assignable=True,
        )
        self.step(
            [op],
            lambda: self.model.hold(
                self.world.hold_id(), asset, debtor, creditor, amount, expires_at
            ),
            sender=debtor,
        )

    @rule(pick=picks, amount=amounts, final=st.booleans())
    def capture(self, pick: int, amount: int, *, final: bool) -> None:
        hold = self.choose(self.holds("payment"), pick)
        found = get_hold(self.world.view, hold)
        op = Capture(hold, amount, None, None, final)
        self.step(
            [op],
            lambda: self.model.capture(hold, amount, final=final),
            sender="ALFA/main" if found is None else found.creditor,
        )

    @rule(pick=picks, by=st.sampled_from(["debtor", "creditor", "JDCL/treasury"]))
    def release(self, pick: int, by: str) -> None:
        hold = self.choose(self.holds("payment", "redemption"), pick)
        found = get_hold(self.world.view, hold)
        account = by if found is None or "/" in by else getattr(found, by)
        account = account if "/" in account else "ALFA/main"
        self.step(
            [Release(hold, account, "")],
            lambda: self.model.release(hold, account),
            sender=account,
            by=["CUST/reserve"] if self.is_listed(hold) else [],
        )

    def is_listed(self, hold: bytes) -> bool:
        return any(hold in asset.listed for asset in self.model.assets.values())

    @rule(pick=picks, to=accounts, amount=amounts)
    def assign(self, pick: int, to: str, amount: int) -> None:
        hold = self.choose(self.holds("payment"), pick)
        found = get_hold(self.world.view, hold)
        op = Assign(hold, to, amount, None, False)
        self.step(
            [op],
            lambda: self.model.assign(hold, self.world.hold_id(), to, amount),
            sender=to,
            by=[] if found is None else [found.creditor],
        )

    # ---- compliance

    @rule(
        asset=st.one_of(st.none(), assets),
        account=accounts,
        direction=directions,
        amount=st.one_of(st.none(), amounts),
    )
    def freeze(
        self, asset: str | None, account: str, direction: Direction, amount: int | None
    ) -> None:
        if asset is None or direction is Direction.CREDIT:
            amount = None
        by = "REGU/admin" if asset is None else "JDCL/compliance"
        op = Freeze(account, asset, direction, amount, by, bytes(32), 0)

        def act() -> bool:
            order = model.Freeze(account, asset, direction, amount, self.model.now)
            return self.model.freeze(self.world.freeze_id(), order)

        self.step([op], act, sender=by)

    @precondition(lambda self: self.model.freezes)
    @rule(pick=picks)
    def unfreeze(self, pick: int) -> None:
        freeze = self.choose(list(self.model.freezes), pick)
        order = self.model.freezes.get(freeze)
        by = "REGU/admin" if order is not None and order.asset is None else "JDCL/release"
        self.step([Unfreeze(freeze, "")], lambda: self.model.unfreeze(freeze), sender=by)

    @precondition(lambda self: self.model.freezes)
    @rule(pick=picks, asset=assets, amount=amounts, to=accounts)
    def seize(self, pick: int, asset: str, amount: int, to: str) -> None:
        freeze = self.choose(list(self.model.freezes), pick)
        op = Seize(freeze, asset, amount, to, bytes(32))
        self.step(
            [op],
            lambda: self.model.seize(freeze, asset, amount, to),
            sender="JDCL/seizure",
            by=["REGU/watch"],
        )

    @rule(
        asset=assets,
        scope=st.sampled_from(list(PauseScope)),
        change=st.sampled_from(list(PauseChange)),
    )
    def set_pause(self, asset: str, scope: PauseScope, change: PauseChange) -> None:
        def act() -> bool:
            paused = self.model.assets[asset].paused
            (paused.add if change is PauseChange.PAUSE else paused.discard)(scope.value)
            return True

        by = "JDCL/pause" if change is PauseChange.PAUSE else "JDCL/unpause"
        self.step([SetPause(asset, change, (scope,))], act, sender=by)

    @rule(
        asset=assets,
        account=accounts,
        amount=st.one_of(st.none(), st.sampled_from([0, 50, 300])),
        setter=st.sampled_from(["issuer", "participant", "regulator"]),
    )
    def set_limit(self, asset: str, account: str, amount: int | None, setter: str) -> None:
        by = {
            "issuer": "JDCL/admin",
            "participant": f"{account[:4]}/admin",
            "regulator": "REGU/watch",
        }[setter]
        limit = None if amount is None else Limit(amount, DAY_MS)
        op = SetControls(by, asset, account, None, None, None, limit)

        def act() -> bool:
            self.model.limits.pop((asset, account, setter), None)
            if amount is not None:
                self.model.limits[(asset, account, setter)] = amount
            return True

        self.step([op], act, sender=by)

    @rule(code=st.sampled_from(["ALFA", "BRVO", "JDCL"]), active=st.booleans())
    def suspend(self, code: str, *, active: bool) -> None:
        suspend(
            self.world, code, ParticipantStatus.ACTIVE if active else ParticipantStatus.SUSPENDED
        )
        self.model.advance(self.world.header.timestamp_ms)
        (self.model.suspended.discard if active else self.model.suspended.add)(code)

    # ---- evidence

    @rule(
        code=st.sampled_from([*BANKS, "BRVO", "AUDT"]),
        kind=st.sampled_from(sorted(VOTES)),
        view=st.integers(1, 3),
        ahead=st.sampled_from([0, 0, 0, -1, 1]),
        block=st.integers(1, 3),
        flaw=st.sampled_from([None, None, None, "key", "chain"]),
        by=st.sampled_from(["ALFA/admin", "BRVO/admin", "AUDT/admin"]),
    )
    def accuse(
        self, code: str, kind: str, view: int, ahead: int, block: int, flaw: str | None, by: str
    ) -> None:
        present = self.world.header.height // EPOCH_BLOCKS
        epoch = max(0, present + ahead)
        evidence = make_pair(
            VOTES[kind],
            chain_id=bytes(32) if flaw == "chain" else self.world.chain_id,
            view=view,
            epoch=epoch,
            code=code,
            key="CHRL-gov" if flaw == "key" else None,
            blocks=(block, block + 1),
        )
        self.step(
            [RecordEvidence(by, evidence)],
            lambda: self.model.accuse(
                code, epoch, view, kind, present=present, genuine=flaw is None
            ),
            sender=by,
        )

    # ---- who may not, and what was before

    @rule(
        asset=assets,
        debtor=accounts,
        creditor=accounts,
        amount=amounts,
        key=st.sampled_from(["BRVO-a1", "JDCL-m1", "CHRL-gov"]),
    )
    def forge(self, asset: str, debtor: str, creditor: str, amount: int, key: str) -> None:
        """A payment signed by somebody else never enters a block."""
        if debtor == creditor:
            return
        code = self.world.run(transfer(debtor, creditor, amount, asset), keys=[key])
        self.model.advance(self.world.header.timestamp_ms)
        assert code is Code.UNINVOLVED_SIGNATURE

    @precondition(lambda self: any(e.transactions for e in self.world.executed))
    @rule(pick=picks)
    def replay(self, pick: int) -> None:
        """What was in a block never enters another."""
        done = [tx for executed in self.world.executed for tx in executed.transactions]
        code = self.world.apply(done[pick % len(done)])
        self.model.advance(self.world.header.timestamp_ms)
        assert code in (Code.ID_REUSED, Code.EXPIRED)

    @rule(asset=assets, creditor=accounts, amount=amounts, ref=refs)
    def propose_and_approve(self, asset: str, creditor: str, amount: int, ref: bytes) -> None:
        """A mint by maker and checker: nothing before the checker, everything with it."""
        world = self.world
        op = Propose(
            (Mint(asset, "JDCL/mint", creditor, amount, ref, None),), world.now_ms + 9 * DAY_MS
        )
        before = world.supply(asset)
        code = world.run(op, sender="JDCL/mint", keys=["JDCL-m1"])
        self.model.advance(world.header.timestamp_ms)
        if code is Code.LIMIT_OF_ENTRIES:
            return
        assert code is Code.OK
        assert world.supply(asset) == before
        proposal = compute_entry_id(HashTag.PROPOSAL, "JDCL/mint", world.last.body.tx_id, 0)
        found = world.view.get(records.PROPOSALS, proposal)
        assert found is not None
        approve = Approve(proposal, found.bundle_hash, Decision.APPROVE)
        assert world.run(approve, sender="JDCL/mint", keys=["JDCL-m1"]) is Code.SAME_SIGNER
        self.model.advance(world.header.timestamp_ms)
        code = world.run(approve, sender="JDCL/mint", keys=["JDCL-m2"])
        self.model.advance(world.header.timestamp_ms)
        kept = self.model.copy()
        allowed = self.model.mint(asset, creditor, amount, ref, None)
        if not allowed:
            self.model.restore(kept)
        assert (code is Code.OK) == allowed, code

    # ---- after every step

    @invariant()
    def the_ledger_shows_what_the_model_shows(self) -> None:
        world, expected = self.world, self.model.observe()
        found = {}
        for key, balance in world.view.scan(records.BALANCES, b""):
            asset, _, account = key.decode().partition("|")
            if balance.posted or balance.frozen:
                found[(asset, account)] = (balance.posted, balance.held, balance.frozen)
        assert found == expected["balances"]
        assert {asset: world.supply(asset) for asset in ASSETS} == expected["supply"]
        assert {asset: world.backing_of(asset) for asset in ASSETS} == expected["backing"]
        shown = {i: (h.open, h.status.value) for i, h in world.view.scan(records.HOLDS, b"")}
        assert shown == expected["holds"]
        orders = {i: order.amount for i, order in world.view.scan(records.FREEZES, b"")}
        assert orders == expected["freezes"]
        recorded = set()
        for record in list_recorded_evidence(world.view):
            place = get_place(record.evidence)
            name = operation_name(type(record.evidence))
            recorded.add((record.evidence.participant, *place, name))
        assert recorded == expected["evidence"]

    def teardown(self) -> None:
        replay_from_genesis(self.world)


def replay_from_genesis(world: World) -> None:
    """Invariant 12: the blocks alone give the same roots, and the records alone too."""
    backing = MemoryBacking()
    backing.apply(world.genesis.overlay.encode_writes())
    header, digest = world.genesis.header, world.genesis.digest
    for block in world.executed:
        txs = [decode_transaction(raw) for raw in block.block.transactions]
        again = execute_block(
            Base(backing), header, digest, block.block, txs, chain_id=world.chain_id
        )
        assert again.header == block.header
        backing.apply(again.overlay.encode_writes())
        header, digest = again.header, again.digest
    assert backing.spaces == world.backing.spaces
    assert world.compute_fresh_root() == world.header.state_root


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = HISTORY
