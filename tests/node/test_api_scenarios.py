"""The stories that must not go wrong, told to the API as institutions would tell them.

Everything goes in as envelopes and is read back over HTTP. After every step the invariants hold on
the state, and a step that was refused changed no balance, hold, supply or reserve.
"""

from typing import Any

import pytest

from atpar.ledger.context import compute_entry_id
from atpar.ledger.hashing import HashTag
from atpar.ledger.invariants import check_invariants
from atpar.ledger.limits import DAY_MS, HOUR_MS
from atpar.ledger.operations import (
    AccountChange,
    Approve,
    Burn,
    Capture,
    Condition,
    Decision,
    Freeze,
    Hold,
    Limit,
    Operation,
    Propose,
    Redeem,
    Release,
    Seize,
    SetControls,
    SetMintQuota,
    Unfreeze,
    UpdateAccount,
)
from atpar.ledger.types import Direction
from tests.ledger.world import CNH, HKD, policy_of, transfer
from tests.node.api_client import Harness

WATCHED = ("ALFA/main", "BRVO/main", "CHRL/main", "DLTA/main")


class Scene:
    """A node, and everybody's keys."""

    def __init__(self) -> None:
        self.harness = Harness()
        self.gateway, self.world = self.harness.gateway, self.harness.world
        self.gateway.produces_at_once = True
        self.last: Any = None

    async def do(
        self,
        *ops: Operation,
        sender: str,
        by: tuple[str, ...] = (),
        keys: tuple[str, ...] | None = None,
    ) -> str:
        """Submit, wait until it is final, and return its code."""
        before = await self.read_money()
        self.last = self.world.make(*ops, sender=sender, by=by, keys=keys)
        foretold = (await self.harness.simulate(self.last))["code"]
        answer = await self.harness.submit(self.last, status=200, wait=5)
        assert answer["status"] == "final", answer
        assert check_invariants(self.world.view) == []
        code: str = answer["code"]
        assert foretold == code
        if code != "OK":
            assert await self.read_money() == before
        return code

    async def read_money(self) -> list[Any]:
        """Return balances, open holds, supply and reserve, as the API shows them."""
        found: list[Any] = []
        for account in WATCHED:
            answer = await self.harness.get(f"/v1/accounts/{account}")
            found.append((answer["balances"], answer["holds"]))
        for asset in (await self.harness.get("/v1/assets"))["assets"]:
            found.append((asset["supply"], asset["minted"], asset["burned"]))
            found.append({k: v for k, v in (asset["reserve"] or {}).items() if "stale" not in k})
        return found

    async def balance(self, account: str, asset: str = HKD) -> tuple[int, int, int]:
        """Return posted, held, frozen."""
        answer = await self.harness.get(f"/v1/accounts/{account}")
        for each in answer["balances"]:
            if each["asset"] == asset:
                return int(each["posted"]), int(each["held"]), int(each["frozen"])
        return 0, 0, 0

    def made(self, tag: HashTag) -> bytes:
        return compute_entry_id(tag, self.last.body.sender, self.last.body.tx_id, 0)

    async def redeem(self, amount: int, holder: str = "ALFA/main") -> bytes:
        assert await self.do(Redeem(HKD, holder, amount, bytes(32)), sender=holder) == "OK"
        return self.made(HashTag.HOLD)

    async def burn(self, redemption: bytes, **changes: Any) -> str:
        paid_at_ms = changes.get("paid_at_ms", self.world.now_ms)
        payout_ref = changes.get("payout_ref", self.world.next_id())
        op = Burn(redemption, payout_ref, paid_at_ms)
        return await self.do(op, sender="JDCL/treasury", by=("CUST/reserve",))

    async def release(self, hold: bytes, by: str) -> str:
        return await self.do(Release(hold, by, "AC04"), sender=by)

    async def hold(self, amount: int, *, arbiters: tuple[str, ...] = ()) -> bytes:
        op = Hold(
            asset=HKD,
            debtor="ALFA/main",
            creditor="BRVO/main",
            amount=amount,
            uetr=self.world.next_id(),
            purpose="",
            reference="",
            travel_rule_hash=None,
            travel_rule_ack=False,
            expires_at_ms=self.world.now_ms + DAY_MS,
            condition=Condition(arbiters, None, None, None),
            assignable=False,
        )
        assert await self.do(op, sender="ALFA/main") == "OK"
        return self.made(HashTag.HOLD)

    async def capture(self, hold: bytes, amount: int, *by: str, final: bool = False) -> str:
        op = Capture(hold, amount, None, None, final)
        return await self.do(op, sender="BRVO/main", by=by)

    async def freeze(
        self, account: str, *, direction: Direction = Direction.BOTH, amount: int | None = None
    ) -> bytes:
        op = Freeze(account, HKD, direction, amount, "JDCL/compliance", bytes(32), 0)
        assert await self.do(op, sender="JDCL/compliance") == "OK"
        return self.made(HashTag.FREEZE)

    async def unfreeze(self, freeze: bytes) -> None:
        assert await self.do(Unfreeze(freeze, ""), sender="JDCL/release") == "OK"

    async def attest(self, amount: int, **changes: Any) -> str:
        op = self.world.attestation(amount, **changes)
        code = await self.do(op, sender="CUST/reserve")
        if code == "OK":
            countersigned = self.world.countersignature()
            assert await self.do(countersigned, sender="AUDT/sign") == "OK"
        return code

    async def mint(self, amount: int, **changes: Any) -> str:
        return await self.do(self.world.mint("ALFA/main", amount, **changes), sender="JDCL/mint")


@pytest.fixture
def scene() -> Scene:
    """ALFA/main has 1,000 HKD, and CHRL/main 1,000 CNH; both are backed to the unit."""
    made = Scene()
    made.gateway.fund("ALFA/main", 1_000)
    made.gateway.fund("CHRL/main", 1_000, CNH)
    return made


# ---- redemptions


async def test_the_same_coins_are_redeemed_once(scene: Scene) -> None:
    first = await scene.redeem(600)
    again = Redeem(HKD, "ALFA/main", 401, bytes(32))
    assert await scene.do(again, sender="ALFA/main") == "INSUFFICIENT_FUNDS"
    last = await scene.redeem(400)
    pay = transfer("ALFA/main", "BRVO/main", 1)
    assert await scene.do(pay, sender="ALFA/main") == "INSUFFICIENT_FUNDS"
    payout = scene.world.next_id()
    assert await scene.burn(first, payout_ref=payout) == "OK"
    assert await scene.burn(first) == "HOLD_NOT_PENDING"
    assert await scene.burn(last, payout_ref=payout) == "PAYOUT_REUSED"
    assert await scene.release(first, "JDCL/treasury") == "HOLD_NOT_PENDING"
    assert await scene.burn(last) == "OK"
    asset = await scene.harness.get(f"/v1/assets/{HKD}")
    assert (asset["supply"], asset["minted"], asset["burned"]) == ("0", "1000", "1000")


async def test_a_freeze_in_each_state_of_a_redemption(scene: Scene) -> None:
    frozen = await scene.freeze("ALFA/main")
    refused = Redeem(HKD, "ALFA/main", 1, bytes(32))
    assert await scene.do(refused, sender="ALFA/main") == "ACCOUNT_FROZEN"
    await scene.unfreeze(frozen)

    pending, paid = await scene.redeem(300), await scene.redeem(200)
    scene.world.advance(1_000)
    paid_at_ms = scene.world.now_ms - 500
    frozen = await scene.freeze("ALFA/main")
    scene.world.advance(1_000)
    listed = await scene.harness.get("/v1/redemptions?status=blocked")
    assert len(listed["redemptions"]) == 2
    # Paid before the freeze: the money has left. Paid after it: it must not leave.
    assert await scene.burn(pending) == "REDEMPTION_BLOCKED"
    assert await scene.burn(paid, paid_at_ms=paid_at_ms) == "OK"
    assert await scene.release(pending, "JDCL/treasury") == "OK"
    assert await scene.balance("ALFA/main") == (800, 0, 0)
    seize = Seize(frozen, HKD, 300, "DLTA/main", bytes(32))
    assert await scene.do(seize, sender="JDCL/seizure", by=("REGU/watch",)) == "OK"

    # Ended ones are not reached by any freeze, and the freeze stays.
    assert await scene.burn(pending) == "HOLD_NOT_PENDING"
    assert await scene.burn(paid) == "HOLD_NOT_PENDING"
    assert await scene.balance("DLTA/main") == (300, 0, 0)


async def test_a_listing_names_a_redemption_once_and_none_that_is_burned(scene: Scene) -> None:
    burned, pending = await scene.redeem(100), await scene.redeem(50)
    assert await scene.burn(burned) == "OK"
    scene.world.advance(1_000)
    assert await scene.attest(900, paid=[burned]) == "REDEMPTION_LISTED"
    twice = scene.world.make(
        scene.world.attestation(900, paid=[pending, pending]), sender="CUST/reserve"
    )
    answer = await scene.harness.submit(twice, status=422)
    assert answer["code"] == "VALUE_INVALID"
    assert await scene.attest(850, paid=[pending]) == "OK"
    reserve = (await scene.harness.get(f"/v1/assets/{HKD}"))["reserve"]
    assert (reserve["attested"], reserve["backing"]) == ("850", "900")
    assert await scene.mint(1) == "RESERVE_SHORT"
    assert await scene.burn(pending) == "OK"
    assert await scene.mint(1) == "RESERVE_SHORT"


async def test_burns_between_as_of_and_the_attestation_are_not_minted_again(scene: Scene) -> None:
    redemption = await scene.redeem(400)
    as_of_ms = scene.world.now_ms
    scene.world.advance(60_000)
    # The custodian looked at 1,000; then 400 were paid out and burned; then it attests 1,000.
    assert await scene.burn(redemption) == "OK"
    assert await scene.attest(1_000, as_of_ms=as_of_ms) == "OK"
    reserve = (await scene.harness.get(f"/v1/assets/{HKD}"))["reserve"]
    assert (reserve["attested"], reserve["backing"]) == ("1000", "600")
    assert await scene.mint(1) == "RESERVE_SHORT"


# ---- holds


async def test_a_freeze_in_each_state_of_a_hold(scene: Scene) -> None:
    hold = await scene.hold(500)
    debtor = await scene.freeze("ALFA/main", direction=Direction.DEBIT)
    assert await scene.capture(hold, 100) == "ACCOUNT_FROZEN"
    await scene.unfreeze(debtor)
    creditor = await scene.freeze("BRVO/main", direction=Direction.CREDIT)
    assert await scene.capture(hold, 100) == "CREDITOR_REFUSED"
    # Going back to its owner stays possible.
    other = await scene.do(Release(hold, "BRVO/main", ""), sender="BRVO/main")
    assert other == "OK"
    await scene.unfreeze(creditor)
    hold = await scene.hold(500)
    amount = await scene.freeze("ALFA/main", direction=Direction.DEBIT, amount=700)
    assert await scene.capture(hold, 301) == "AMOUNT_BLOCKED"
    assert await scene.capture(hold, 300) == "OK"
    assert await scene.capture(hold, 1) == "AMOUNT_BLOCKED"
    await scene.unfreeze(amount)
    assert await scene.capture(hold, 200) == "OK"
    await scene.freeze("ALFA/main")
    assert await scene.capture(hold, 1) == "ACCOUNT_FROZEN"
    assert await scene.balance("BRVO/main") == (500, 0, 0)


async def test_a_seizure_inside_an_escrow_leaves_what_it_did_not_take(scene: Scene) -> None:
    hold = await scene.hold(900, arbiters=("CUST/reserve",))
    redemption = await scene.redeem(50)
    freeze = await scene.freeze("ALFA/main")
    by = ("REGU/watch",)
    over = Seize(freeze, HKD, 951, "DLTA/main", bytes(32))
    assert await scene.do(over, sender="JDCL/seizure", by=by) == "INSUFFICIENT_FUNDS"
    take = Seize(freeze, HKD, 450, "DLTA/main", bytes(32))
    assert await scene.do(take, sender="JDCL/seizure", by=by) == "OK"
    form = (await scene.harness.get(f"/v1/holds/{hold.hex()}"))["hold"]
    assert (form["open"], form["released"], form["status"]) == ("500", "400", "pending")
    await scene.unfreeze(freeze)
    assert await scene.capture(hold, 501, "CUST/reserve") == "INSUFFICIENT_FUNDS"
    assert await scene.capture(hold, 500, "CUST/reserve") == "OK"
    assert await scene.burn(redemption) == "OK"
    assert await scene.balance("ALFA/main") == (0, 0, 0)
    asset = await scene.harness.get(f"/v1/assets/{HKD}")
    assert asset["supply"] == "950"


# ---- quotas, limits, the last unit


async def test_a_quota_refills_at_the_edge_and_never_beyond_its_capacity(scene: Scene) -> None:
    quota = SetMintQuota(HKD, "JDCL/mint", 1_000, 86_400)  # one unit a second
    assert await scene.do(quota, sender="JDCL/treasury") == "OK"
    assert await scene.attest(10**6) == "OK"
    assert await scene.mint(1_001) == "QUOTA_EXCEEDED"
    assert await scene.mint(1_000) == "OK"
    emptied_ms = scene.world.header.timestamp_ms
    scene.world.now_ms = emptied_ms + 998
    assert await scene.mint(1) == "QUOTA_EXCEEDED"
    scene.world.now_ms = emptied_ms + 1_000
    assert await scene.mint(1) == "OK"
    scene.world.advance(HOUR_MS)
    assert await scene.mint(1_001) == "QUOTA_EXCEEDED"
    assert await scene.mint(1_000) == "OK"


async def test_a_limit_is_used_to_the_exact_amount_and_starts_anew(scene: Scene) -> None:
    control = SetControls("ALFA/admin", HKD, "ALFA/main", None, None, None, Limit(100, DAY_MS))
    assert await scene.do(control, sender="ALFA/admin") == "OK"

    async def pay(amount: int) -> str:
        return await scene.do(transfer("ALFA/main", "BRVO/main", amount), sender="ALFA/main")

    assert await pay(101) == "LIMIT_EXCEEDED"
    assert await pay(60) == "OK"
    assert await pay(41) == "LIMIT_EXCEEDED"
    await scene.hold(40)
    assert await pay(1) == "LIMIT_EXCEEDED"
    scene.world.advance(DAY_MS)
    assert await pay(100) == "OK"


async def test_the_last_unit_of_everything(scene: Scene) -> None:
    assert await scene.mint(1) == "RESERVE_SHORT"
    pay = transfer("ALFA/main", "BRVO/main", 1_001)
    assert await scene.do(pay, sender="ALFA/main") == "INSUFFICIENT_FUNDS"
    pay = transfer("ALFA/main", "BRVO/main", 1_000)
    assert await scene.do(pay, sender="ALFA/main") == "OK"
    assert await scene.balance("ALFA/main") == (0, 0, 0)
    over = Redeem(HKD, "BRVO/main", 1_001, bytes(32))
    assert await scene.do(over, sender="BRVO/main") == "INSUFFICIENT_FUNDS"
    redemption = await scene.redeem(1_000, "BRVO/main")
    assert await scene.burn(redemption) == "OK"
    assert await scene.balance("BRVO/main") == (0, 0, 0)
    assert (await scene.harness.get(f"/v1/assets/{HKD}"))["supply"] == "0"


# ---- two parties


async def test_an_exchange_with_one_frozen_side_moves_nothing(scene: Scene) -> None:
    legs = (
        transfer("ALFA/main", "CHRL/main", 100),
        transfer("CHRL/main", "ALFA/main", 92, CNH),
    )
    order = Freeze("CHRL/main", CNH, Direction.DEBIT, None, "JDCL/compliance", bytes(32), 0)
    assert await scene.do(order, sender="JDCL/compliance") == "OK"
    freeze = scene.made(HashTag.FREEZE)
    assert await scene.do(*legs, sender="ALFA/main", by=("CHRL/main",)) == "ACCOUNT_FROZEN"
    await scene.unfreeze(freeze)
    blocked = await scene.freeze("CHRL/main", direction=Direction.CREDIT)
    # That the creditor is frozen is not for the payer to know.
    assert await scene.do(*legs, sender="ALFA/main", by=("CHRL/main",)) == "CREDITOR_REFUSED"
    await scene.unfreeze(blocked)
    assert await scene.do(*legs, sender="ALFA/main", by=("CHRL/main",)) == "OK"
    assert await scene.balance("ALFA/main", CNH) == (92, 0, 0)
    assert await scene.balance("CHRL/main") == (100, 0, 0)


async def test_keys_that_rotate_during_a_proposal_do_not_count_any_more(scene: Scene) -> None:
    assert await scene.attest(2_000) == "OK"
    mint = scene.world.mint("ALFA/main", 1_000)
    ask = Propose((mint,), scene.world.now_ms + DAY_MS)
    assert await scene.do(ask, sender="JDCL/mint", keys=("JDCL-m1",)) == "OK"
    proposal = scene.made(HashTag.PROPOSAL)
    form = (await scene.harness.get(f"/v1/proposals/{proposal.hex()}"))["proposal"]
    assert form["principals"] == [{"account": "JDCL/mint", "is_met": False}]

    policy = policy_of(2, ("JDCL-m2", "JDCL-m9"))
    rotate = UpdateAccount("JDCL/mint", AccountChange.UPDATE, policy, None, False, None)
    keys = ("JDCL-m1", "JDCL-m2", "JDCL-m9")
    assert await scene.do(rotate, sender="JDCL/mint", keys=keys) == "OK"

    approve = Approve(proposal, bytes.fromhex(form["bundle_hash"]), Decision.APPROVE)
    assert await scene.do(approve, sender="JDCL/mint", keys=("JDCL-m2",)) == "OK"
    assert await scene.balance("ALFA/main") == (1_000, 0, 0)
    assert await scene.do(approve, sender="JDCL/mint", keys=("JDCL-m2",)) == "SAME_SIGNER"
    assert await scene.do(approve, sender="JDCL/mint", keys=("JDCL-m9",)) == "OK"
    assert await scene.balance("ALFA/main") == (2_000, 0, 0)
    await scene.harness.get(f"/v1/proposals/{proposal.hex()}", status=404)
