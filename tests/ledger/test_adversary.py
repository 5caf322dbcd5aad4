"""An adversary whose only aim is to break an invariant: any operation, any signers, any order.

It knows every key and every id, puts several transactions into one block and several operations
into one transaction, and proposes bundles of anything. Nothing predicts the outcome here; what
must hold holds after every block: money is conserved, every refusal leaves the state alone, frozen
amounts stay, and the whole state passes `check_invariants`.
"""

import os
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.authority import list_principals
from atpar.ledger.codes import Code
from atpar.ledger.context import compute_entry_id
from atpar.ledger.errors import Refused
from atpar.ledger.execute import build_block
from atpar.ledger.hashing import HashTag
from atpar.ledger.invariants import check_invariants
from atpar.ledger.limits import DAY_MS, HOUR_MS
from atpar.ledger.operations import (
    AccountChange,
    Approve,
    Assign,
    Burn,
    Capture,
    Condition,
    Decision,
    Freeze,
    Hold,
    Limit,
    Mint,
    OpenAccount,
    Operation,
    PauseChange,
    PauseScope,
    Propose,
    RecordEvidence,
    Redeem,
    Release,
    Seize,
    SetAsset,
    SetControls,
    SetMintQuota,
    SetParams,
    SetParticipant,
    SetPause,
    SetValidators,
    Unfreeze,
    UpdateAccount,
    Void,
)
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import Direction, ParticipantStatus
from atpar.ledger.votes import Finalize, Notarize, Nullify
from tests.ledger.evidence import make_pair
from tests.ledger.test_governance import members_of
from tests.ledger.test_machine import replay_from_genesis
from tests.ledger.world import (
    BANKS,
    CNH,
    HKD,
    POLICIES,
    ROLES,
    World,
    make_document,
    make_params,
    make_terms,
    policy_of,
    transfer,
)

LONG: Final = bool(os.environ.get("ATPAR_TEST_LONG"))
GOV: Final = "CHAIN/governance"
EVERYONE: Final = (*sorted(POLICIES), GOV)
HOLDERS: Final = (
    *("ALFA/main", "BRVO/main", "CHRL/main") * 3,
    *("ALFA/other", "JDCL/mint", "JDCL/treasury", GOV),
)
AMOUNTS: Final = (*(1, 2, 5, 20, 50) * 3, 99, 100, 101, 400, 10**18 - 1)

picks = st.integers(0, 2**32)


class Draw:
    """Choices from one integer, so that a whole transaction is one draw of hypothesis."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def number(self, count: int) -> int:
        self.state = (self.state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return (self.state >> 33) % count

    def of(self, values: Any) -> Any:
        values = list(values)
        return values[self.number(len(values))]

    def chance(self, out_of: int) -> bool:
        return self.number(out_of) == 0


class Adversary(RuleBasedStateMachine):
    """Anything goes in; nothing breaks."""

    def __init__(self) -> None:
        super().__init__()
        document = make_document(
            terms=make_terms(cap=10**18 - 1), params=make_params(epoch_blocks=16)
        )
        self.world = World(document)
        self.draw = Draw(0)

    @initialize()
    def begin(self) -> None:
        for asset in (HKD, CNH):
            self.world.fund("ALFA/main", 400, asset)
            self.world.fund("BRVO/main", 400, asset)

    # ---- operations

    def ids(self, section: records.Section[Any]) -> list[bytes]:
        return [*[key for key, _ in self.world.view.scan(section, b"")][-12:], bytes(32)]

    def make_payment(self) -> Operation:
        d, world = self.draw, self.world
        hold = d.of(self.ids(records.HOLDS))
        asset, debtor, creditor = d.of((HKD, CNH)), d.of(HOLDERS), d.of(HOLDERS)
        condition = Condition((), None, None, None)
        if d.chance(4):
            condition = Condition((d.of(HOLDERS),), bytes(32), world.now_ms, None)
        return d.of(
            [
                transfer(debtor, creditor, d.of(AMOUNTS), asset),
                Redeem(asset, debtor, d.of(AMOUNTS), bytes(32)),
                Hold(
                    asset,
                    debtor,
                    creditor,
                    d.of(AMOUNTS),
                    bytes(16),
                    "",
                    "",
                    None,
                    False,
                    world.now_ms + d.of((0, 2, 10, HOUR_MS)),
                    condition,
                    d.chance(2),
                ),
                Capture(hold, d.of(AMOUNTS), b"x" if d.chance(2) else None, None, d.chance(2)),
                Release(hold, d.of(EVERYONE), ""),
                Assign(hold, creditor, d.of(AMOUNTS), None, False),
            ]
        )

    def make_supply(self) -> Operation:
        d, world = self.draw, self.world
        hold = d.of(self.ids(records.HOLDS))
        asset, creditor = d.of((HKD, CNH)), d.of(HOLDERS)
        listed = tuple(sorted({hold} - {bytes(32)}))
        stated = world.attestation(d.of((0, *AMOUNTS)), asset, paid=listed if d.chance(3) else ())
        return d.of(
            [
                Mint(
                    asset,
                    d.of(("JDCL/mint", "ALFA/main")),
                    creditor,
                    d.of(AMOUNTS),
                    d.number(5).to_bytes(16, "big"),
                    hold if d.chance(3) else None,
                ),
                Burn(hold, d.number(5).to_bytes(16, "big"), world.now_ms - d.of((0, 1, 5))),
                stated,
                replace(stated, as_of_ms=max(0, world.now_ms - d.number(20))),
                world.countersignature(asset),
                SetMintQuota(asset, "JDCL/mint", d.of((0, *AMOUNTS)), d.of((0, *AMOUNTS))),
            ]
        )

    def make_accusation(self) -> Operation:
        """Votes of anybody in any epoch, signed by the right key, another's, or for elsewhere."""
        d, world = self.draw, self.world
        code, own = d.of((*BANKS, "AUDT", "ZULU")), not d.chance(4)
        return RecordEvidence(
            d.of(("ALFA/admin", "AUDT/admin", "REGU/admin", "ALFA/main", GOV)),
            make_pair(
                d.of((Notarize, Finalize, Nullify)),
                chain_id=bytes(32) if d.chance(6) else world.chain_id,
                view=d.of((0, 1, 2, 2**63 - 1)),
                epoch=d.of((0, 0, 1, 2, 2**63 - 1)),
                code=code,
                key=f"{code if own else d.of(BANKS)}-vote",
                blocks=(d.number(3), d.number(3)),
            ),
        )

    def make_order(self) -> Operation:
        d = self.draw
        asset, account = d.of((HKD, CNH)), d.of(HOLDERS)
        amount = d.of(AMOUNTS) if d.chance(2) else None
        scopes = tuple(sorted({d.of(PauseScope), d.of(PauseScope)}))
        by = d.of(("JDCL/compliance", "REGU/admin", "REGU/watch"))
        limit = Limit(d.of((0, *AMOUNTS)), DAY_MS) if d.chance(2) else None
        return d.of(
            [
                Freeze(account, d.of((None, asset)), d.of(Direction), amount, by, bytes(32), 0),
                Unfreeze(d.of(self.ids(records.FREEZES)), ""),
                Seize(d.of(self.ids(records.FREEZES)), asset, d.of(AMOUNTS), account, bytes(32)),
                SetPause(asset, d.of(PauseChange), scopes),
                SetControls(
                    d.of(("JDCL/admin", "REGU/watch", "ALFA/admin")),
                    asset,
                    account,
                    None,
                    d.of((None, 0, 3)),
                    None,
                    limit,
                ),
            ]
        )

    def make_change(self) -> Operation:
        d, world = self.draw, self.world
        account = d.of(sorted(POLICIES))
        code = account[:4]
        names = [f"{code}-{suffix}" for suffix in ("a1", "a2", "pay", "x1", "m1", "t1")]
        policy = policy_of(1 + d.number(2), sorted({d.of(names), d.of(names)}))
        custodian = d.of(("CUST/reserve", "CUST/admin", "JDCL/treasury"))
        status = d.of(ParticipantStatus)
        return d.of(
            [
                UpdateAccount(
                    account,
                    d.of(AccountChange),
                    policy if d.chance(2) else None,
                    None,
                    d.chance(6),
                    "REGU/admin" if d.chance(3) else None,
                ),
                OpenAccount(f"{code}/n{d.number(3)}", policy, d.chance(2), ()),
                SetAsset(
                    HKD,
                    "JDCL",
                    "HKD",
                    2,
                    make_terms(
                        cap=d.of((0, 500, 10**18 - 1)),
                        custodian=custodian,
                        minters=tuple(sorted({"JDCL/mint", d.of(("ALFA/admin", "JDCL/mint"))})),
                        overcollateral_bps=d.of((0, 1, 10_000)),
                    ),
                ),
                SetParticipant(
                    code,
                    code.rjust(18, "0") + "00",
                    f"{code}HKH0",
                    "HK",
                    ROLES[code] if d.chance(2) else (),
                    status,
                    None,
                    None,
                    (),
                ),
                SetParams(
                    d.of(("max_window_ms", "tx_id_retention_ms", "heartbeat_ms", "epoch_blocks")),
                    d.of((0, 60_000, DAY_MS, 7 * DAY_MS)),
                    world.header.height + d.number(6),
                ),
                SetValidators(members_of(*BANKS[: 3 + d.number(2)]), ()),
            ]
        )

    def make_plain(self) -> Any:
        makers = (self.make_payment, self.make_supply, self.make_order, self.make_change)
        many = (*makers, self.make_payment, self.make_supply) * 2
        return self.draw.of((*many, self.make_accusation))()

    def make_op(self) -> Operation:
        d = self.draw
        if d.chance(12):
            bundle = tuple(self.make_plain() for _ in range(1 + d.number(3)))
            return Propose(bundle, self.world.now_ms + d.of((0, 5, DAY_MS)))
        if d.chance(8):
            proposal = d.of(self.ids(records.PROPOSALS))
            found = self.world.view.get(records.PROPOSALS, proposal)
            reviewed = bytes(32) if found is None else found.bundle_hash
            return Approve(proposal, reviewed, d.of(Decision))
        if d.chance(20):
            return Void()
        plain: Operation = self.make_plain()
        return plain

    def make_tx(self) -> Transaction:
        """Usually signed by everyone, so that authority is not what refuses it."""
        d, world = self.draw, self.world
        ops = tuple(self.make_op() for _ in range(d.of((1, 1, 1, 2, 3))))
        if not d.chance(4) and isinstance(ops[0], Propose | Approve):
            return self.make_statement(ops[0])
        principals = self.principals(ops)
        sender = d.of(principals if principals and not d.chance(5) else EVERYONE)
        everyone = sorted({name for _, names in POLICIES.values() for name in names})
        extra = [f"{bank}-gov" for bank in BANKS] + [f"{code}-x1" for code in ROLES]
        if d.chance(5):
            signers = [d.of([*everyone, *extra]) for _ in range(3)]
        else:
            signers = self.needed([sender, *principals], extra)
        return world.make(*ops, sender=sender, keys=signers[:64])

    def make_statement(self, op: Propose | Approve) -> Transaction:
        """One key of one target speaks on a bundle, as proposals are meant."""
        found = None
        if isinstance(op, Approve):
            found = self.world.view.get(records.PROPOSALS, op.proposal)
        bundle = op.ops if isinstance(op, Propose) else () if found is None else found.ops
        sender = self.draw.of(self.principals(tuple(bundle)) or ["JDCL/mint"])
        names = self.needed([sender], [f"{bank}-gov" for bank in BANKS]) or ["JDCL-m1"]
        return self.world.make(op, sender=sender, keys=[self.draw.of(names)])

    def principals(self, ops: tuple[Operation, ...]) -> list[str]:
        found: list[str] = []
        for op in ops:
            try:
                found += list_principals(self.world.view, op)
            except Refused:
                continue
        return found

    def needed(self, accounts: list[str], extra: list[str]) -> list[str]:
        names: set[str] = set()
        for account in accounts:
            if account == GOV:
                names.update(extra[:4])
            elif account in POLICIES:
                names.update(POLICIES[account][1])
        if self.draw.chance(6):
            names.add(self.draw.of(extra))
        return sorted(names)

    # ---- blocks

    @rule(seed=picks, count=st.integers(1, 4), ms=st.sampled_from([0, 0, 3, HOUR_MS, 3 * DAY_MS]))
    def attack(self, seed: int, count: int, ms: int) -> None:
        world = self.world
        self.draw = Draw(seed)
        world.advance(ms)
        txs = [self.make_tx() for _ in range(count)]
        before = self.measure()
        alone = self.run_alone(txs)
        codes = world.block(*txs)
        self.check(before, codes, alone)

    def run_alone(self, txs: list[Transaction]) -> dict[bytes, Code]:
        """The first transaction alone: what a block does must not depend on what follows."""
        world = self.world
        built, refused = build_block(
            world.view, world.make_template(), txs[:1], chain_id=world.chain_id
        )
        outcome = {tx.hash: refusal.code for tx, refusal in refused}
        outcome.update((r.tx_hash, Code(r.code)) for r in built.receipts)
        return {txs[0].hash: outcome[txs[0].hash]}

    def measure(self) -> dict[str, Any]:
        world = self.world
        return {
            "supply": {asset: world.supply(asset) for asset in (HKD, CNH)},
            "balances": dict(world.view.scan(records.BALANCES, b"")),
            "snapshot": world.snapshot_after_empty_block(),
        }

    def check(self, before: dict[str, Any], codes: list[Code], alone: dict[bytes, Code]) -> None:
        world = self.world
        executed = world.executed[-1]
        assert not check_invariants(world.view)
        assert next(iter(alone.values())) is codes[0]
        if Code.OK not in codes:
            assert world.snapshot() == before["snapshot"]
        supply = dict(before["supply"])
        taken: set[tuple[str, str]] = set()
        for posting in executed.postings:
            if posting.debtor is None:
                supply[posting.asset] += posting.amount
            if posting.creditor is None:
                supply[posting.asset] -= posting.amount
                taken.add((posting.asset, posting.debtor or ""))
        assert supply == {asset: world.supply(asset) for asset in supply}
        if not any(
            isinstance(op, Seize | Propose | Approve)
            for tx in executed.transactions
            for op in tx.body.ops
        ):
            self.check_frozen(before["balances"], taken)

    def check_frozen(
        self, before: dict[bytes, records.Balance], burned: set[tuple[str, str]]
    ) -> None:
        """Invariant 9: no debit invades a frozen amount, seizures and dated burns aside."""
        for key, was in before.items():
            asset, _, account = key.decode().partition("|")
            now = self.world.balance(account, asset)
            floor = min(was.frozen, now.frozen)
            if now.posted < was.posted and (asset, account) not in burned:
                assert now.posted >= floor, (asset, account, was, now)

    def teardown(self) -> None:
        replay_from_genesis(self.world)


def test_ids_of_a_transaction_are_known_before_it_is_sent() -> None:
    world = World()
    world.fund("ALFA/main", 10)
    tx = world.make(Redeem(HKD, "ALFA/main", 1, bytes(32)), sender="ALFA/main")
    expected = compute_entry_id(HashTag.HOLD, "ALFA/main", tx.body.tx_id, 0)
    assert world.apply(tx) is Code.OK
    assert [key for key, _ in world.view.scan(records.HOLDS, b"")] == [expected]


TestAdversary = pytest.mark.no_cover(Adversary.TestCase)
TestAdversary.settings = settings(
    max_examples=300 if LONG else 15,
    stateful_step_count=100 if LONG else 40,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
