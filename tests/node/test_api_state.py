"""Accounts, statements, assets and redemptions through the API."""

from typing import Any

import msgspec
import pytest

from atpar.ledger.limits import DAY_MS
from atpar.ledger.operations import Burn, Freeze, OpenAccount, Redeem, Release
from atpar.ledger.proofs import (
    AccountClaim,
    SolvencyClaim,
    Verified,
    compute_trust_root,
    parse_proof,
    verify_proof,
)
from atpar.ledger.reads import get_account
from atpar.ledger.types import Direction
from atpar.node.gateway import Entry
from atpar.node.limits import MAX_PAGE_ENTRIES
from atpar.node.recover import (
    add_signature,
    apply_recovery,
    compute_sign_body,
    draft_recovery,
)
from tests.ledger.world import BANKS, CNH, HKD, World, key_of, transfer
from tests.node.api_client import Harness


@pytest.fixture
def harness() -> Harness:
    made = Harness()
    made.gateway.fund("ALFA/main", 1_000)
    return made


def run(harness: Harness, *ops: Any, sender: str, by: list[str] | None = None) -> bytes:
    """Run operations in a block of their own; return what holds and freezes of it are named by."""
    world = harness.world
    tx = world.make(*ops, sender=sender, by=by)
    assert [code.name for code in harness.gateway.run(tx)] == ["OK"]
    world.last = tx
    return tx.hash


def verify(harness: Harness, proof: Any) -> Verified:
    trust = compute_trust_root(harness.world.genesis.document)
    return verify_proof(parse_proof(msgspec.json.encode(proof)), trust)


# ---- accounts


async def test_account_shows_balances_as_decimal_strings_and_the_height(harness: Harness) -> None:
    answer = await harness.get("/v1/accounts/ALFA/main")
    assert answer["read_height"] == harness.world.header.height
    assert answer["read_timestamp_ms"] == harness.world.header.timestamp_ms
    assert answer["balances"] == [
        {
            "asset": HKD,
            "posted": "1000",
            "held": "0",
            "frozen": "0",
            "available": "1000",
            "blocked": [],
        }
    ]
    assert answer["policy"]["threshold"] == 1
    assert answer["status"] == "open"
    assert answer["proof"] is None


async def test_account_shows_freezes_and_holds(harness: Harness) -> None:
    run(harness, Redeem(HKD, "ALFA/main", 300, bytes(32)), sender="ALFA/main")
    hold = harness.world.hold_id()
    order = Freeze(
        *("ALFA/main", HKD, Direction.DEBIT, 200, "JDCL/compliance", b"\1" * 32, 5),
    )
    run(harness, order, sender="JDCL/compliance")
    everything = Freeze(
        *("ALFA/main", HKD, Direction.BOTH, None, "JDCL/compliance", b"\2" * 32, 5),
    )
    run(harness, everything, sender="JDCL/compliance")
    answer = await harness.get("/v1/accounts/ALFA/main")
    (balance,) = answer["balances"]
    assert (balance["held"], balance["frozen"], balance["available"]) == ("300", "200", "500")
    assert balance["blocked"] == ["debit", "credit"]
    assert {f["amount"] for f in answer["freezes"]} == {"200", None}
    one = await harness.get(f"/v1/freezes/{answer['freezes'][0]['freeze']}")
    assert one["freeze"] == answer["freezes"][0]
    assert [h["hold"] for h in answer["holds"]] == [hold.hex()]
    assert answer["holds_left_out"] is False


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/accounts/ALFA/nobody", 404, "UNKNOWN_ACCOUNT"),
        ("/v1/accounts/ZZZZ/main", 404, "UNKNOWN_ACCOUNT"),
        ("/v1/accounts/ALFA/nobody/entries", 404, "UNKNOWN_ACCOUNT"),
        ("/v1/accounts/alfa/main", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/" + "x" * 26, 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/main%0a", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/%00", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/main?proof=2", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/main?height=x", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/main?height=-1", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/main?height=1", 410, "HEIGHT_NOT_RETAINED"),
        ("/v1/accounts/ALFA/main?height=99", 404, "HEIGHT_UNKNOWN"),
        ("/v1/accounts/ALFA/main?height=" + "9" * 19, 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA", 404, "NOT_FOUND"),
        ("/v1/accounts/ALFA/main/", 404, "NOT_FOUND"),
        ("/v1/participants/ZZZZ", 404, "UNKNOWN_PARTICIPANT"),
        ("/v1/participants/ZZZZ/accounts", 404, "UNKNOWN_PARTICIPANT"),
        ("/v1/participants/ALFA/accounts?after=%20", 400, "INVALID_PARAMETER"),
        ("/v1/assets/USD.JDCL", 404, "UNKNOWN_ASSET"),
        ("/v1/assets/nonsense", 400, "INVALID_PARAMETER"),
        ("/v1/assets/HKD.JDCL?height=1", 410, "HEIGHT_NOT_RETAINED"),
        ("/v1/redemptions?asset=USD.JDCL", 404, "UNKNOWN_ASSET"),
        ("/v1/redemptions?status=lost", 400, "INVALID_PARAMETER"),
        ("/v1/redemptions?due_before_ms=5", 400, "INVALID_PARAMETER"),
        ("/v1/redemptions?after=zz", 400, "INVALID_PARAMETER"),
        ("/v1/redemptions?limit=0", 400, "INVALID_PARAMETER"),
        ("/v1/redemptions?limit=501", 400, "INVALID_PARAMETER"),
        ("/v1/redemptions/" + "00" * 32, 404, "UNKNOWN_REDEMPTION"),
        ("/v1/redemptions/zz", 400, "INVALID_PARAMETER"),
        ("/v1/freezes/" + "00" * 32, 404, "UNKNOWN_FREEZE"),
        ("/v1/accounts/ALFA/main/entries?after=1.2", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/main/entries?after=1.2.x", 400, "INVALID_PARAMETER"),
        ("/v1/accounts/ALFA/main/entries?asset=x", 400, "INVALID_PARAMETER"),
    ],
)
async def test_question_that_has_no_answer_is_a_problem(
    harness: Harness, path: str, status: int, code: str
) -> None:
    assert (await harness.get(path, status=status))["code"] == code


async def test_height_that_is_final_now_is_answered(harness: Harness) -> None:
    height = harness.world.header.height
    answer = await harness.get(f"/v1/accounts/ALFA/main?height={height}")
    assert answer["read_height"] == height
    assert (await harness.get(f"/v1/assets/{HKD}?height={height}"))["read_height"] == height


async def test_accounts_of_a_participant_come_in_pages(harness: Harness) -> None:
    world = harness.world
    names = sorted([*(f"customer-{n:03}" for n in range(25)), "a", "z-9"])
    existing = get_account(world.view, "ALFA/main")
    assert existing is not None
    ops = [OpenAccount(f"ALFA/{name}", existing.policy, False, ()) for name in names]
    run(harness, *ops, sender="ALFA/admin")
    listed: list[str] = []
    query = "?limit=7"
    while True:
        page = await harness.get(f"/v1/participants/ALFA/accounts{query}")
        assert len(page["accounts"]) <= 7
        listed += [row["account"] for row in page["accounts"]]
        if page["next"] is None:
            break
        query = f"?limit=7&after={page['next']}"
    assert listed == sorted(
        [*(f"ALFA/{name}" for name in names), "ALFA/admin", "ALFA/main", "ALFA/other"]
    )


# ---- proofs


async def test_account_proof_shows_the_balance_offline(harness: Harness) -> None:
    answer = await harness.get("/v1/accounts/ALFA/main?proof=1")
    verified = verify(harness, answer["proof"])
    assert verified.block.height == answer["read_height"]
    assert isinstance(verified.claim, AccountClaim)
    ((asset, balance),) = verified.claim.balances
    assert (asset, balance.posted) == (HKD, 1_000)


async def test_account_that_holds_nothing_is_proven_to_hold_nothing(harness: Harness) -> None:
    answer = await harness.get("/v1/accounts/DLTA/main?proof=1")
    claim = verify(harness, answer["proof"]).claim
    assert isinstance(claim, AccountClaim)
    assert {asset: balance.posted for asset, balance in claim.balances} == {CNH: 0, HKD: 0}


async def test_solvency_proof_shows_supply_and_reserve_offline(harness: Harness) -> None:
    answer = await harness.get(f"/v1/assets/{HKD}?proof=1")
    claim = verify(harness, answer["proof"]).claim
    assert isinstance(claim, SolvencyClaim)
    row = next(row for row in claim.assets if row.asset == HKD)
    assert row.posted == row.supply == int(answer["supply"]) == 1_000
    assert row.attested == int(answer["reserve"]["attested"])


async def test_proof_before_the_first_block_is_not_there_yet() -> None:
    harness = Harness()
    problem = await harness.get(f"/v1/assets/{HKD}?proof=1", status=409)
    assert problem["code"] == "NOT_PROVABLE"


# ---- statements


async def test_statement_pages_join_and_add_up(harness: Harness) -> None:
    world = harness.world
    uetr = b"\x05" * 16
    for amount in (10, 20, 30):
        payment = transfer("ALFA/main", "BRVO/main", amount, uetr=uetr, reference=f"inv {amount}")
        run(harness, payment, sender="ALFA/main")
    run(
        harness,
        *(transfer("ALFA/main", "BRVO/main", n) for n in (1, 2)),
        transfer("BRVO/main", "ALFA/main", 4),
        sender="ALFA/main",
        by=["BRVO/main"],
    )
    lines: list[dict[str, Any]] = []
    query = "?limit=2"
    while True:
        page = await harness.get(f"/v1/accounts/ALFA/main/entries{query}")
        lines += page["entries"]
        if page["next"] is None:
            break
        query = f"?limit=2&after={page['next']}"
    assert [int(line["amount"]) for line in lines] == [1_000, -10, -20, -30, -1, -2, 4]
    posted = 0
    for line in lines:
        posted += int(line["amount"])
        assert int(line["posted"]) == posted
    assert lines[1]["counterparty"] == "BRVO/main"
    assert (lines[1]["reference"], lines[1]["uetr"]) == ("inv 10", uetr.hex())
    assert lines[0]["kind"] == "mint"
    assert posted == world.balance("ALFA/main").posted
    later = await harness.get(f"/v1/accounts/ALFA/main/entries?after={lines[-1]['cursor']}")
    assert later["entries"] == []


async def test_statement_claims_no_block_that_came_after_it_was_read(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = harness.gateway.store
    read = store.get_entries

    def read_before_a_block(*args: Any, **given: Any) -> list[Entry]:
        lines = read(*args, **given)
        harness.gateway.fund("ALFA/main", 77)
        return lines

    height = harness.world.header.height
    with monkeypatch.context() as patch:
        patch.setattr(store, "get_entries", read_before_a_block)
        page = await harness.get("/v1/accounts/ALFA/main/entries")
    assert [line["amount"] for line in page["entries"]] == ["1000"]
    assert page["read_height"] == height
    after = page["entries"][-1]["cursor"]
    later = await harness.get(f"/v1/accounts/ALFA/main/entries?after={after}")
    assert [line["amount"] for line in later["entries"]] == ["77"]
    assert later["read_height"] == harness.world.header.height > height


async def test_statement_can_be_of_one_asset(harness: Harness) -> None:
    harness.gateway.fund("ALFA/main", 77, CNH)
    answer = await harness.get(f"/v1/accounts/ALFA/main/entries?asset={CNH}")
    assert [line["amount"] for line in answer["entries"]] == ["77"]


# ---- participants and assets


async def test_participants_are_listed_with_roles(harness: Harness) -> None:
    answer = await harness.get("/v1/participants")
    by_code = {p["participant"]: p for p in answer["participants"]}
    assert by_code["ALFA"]["is_validator"]
    assert not by_code["JDCL"]["is_validator"]
    assert by_code["JDCL"]["roles"] == ["issuer"]
    assert (await harness.get("/v1/participants/JDCL"))["bic"] == by_code["JDCL"]["bic"]


async def test_asset_shows_supply_against_reserve(harness: Harness) -> None:
    answer = await harness.get(f"/v1/assets/{HKD}")
    assert (answer["supply"], answer["minted"], answer["burned"]) == ("1000", "1000", "0")
    assert answer["coverage_bps"] == 10_000
    assert answer["is_underbacked"] is False
    assert answer["reserve"]["is_stale"] is False
    assert answer["quotas"][0]["minter"] == "JDCL/mint"
    assert (answer["scale"], answer["terms"]["treasury"]) == (2, "JDCL/treasury")
    listed = await harness.get("/v1/assets")
    assert [asset["asset"] for asset in listed["assets"]] == [CNH, HKD]
    assert listed["assets"][0]["reserve"] is None
    assert listed["assets"][0]["coverage_bps"] is None


async def test_asset_shows_a_shortfall_and_staleness(harness: Harness) -> None:
    world = harness.world
    world.advance(1)
    run(harness, world.attestation(900), sender="CUST/reserve")
    answer = await harness.get(f"/v1/assets/{HKD}")
    assert answer["is_underbacked"] is True
    assert answer["coverage_bps"] == 9_000
    world.advance(2 * DAY_MS)
    harness.gateway.produce()
    assert (await harness.get(f"/v1/assets/{HKD}"))["reserve"]["is_stale"] is True


# ---- redemptions


def redeem(harness: Harness, *amounts: int) -> list[bytes]:
    ids = []
    for amount in amounts:
        run(harness, Redeem(HKD, "ALFA/main", amount, bytes(32)), sender="ALFA/main")
        ids.append(harness.world.hold_id())
    return ids


async def test_redemptions_by_status(harness: Harness) -> None:
    world = harness.world
    pending, burned, returned = redeem(harness, 1, 2, 3)
    burn = Burn(burned, world.next_id(), world.now_ms)
    run(harness, burn, sender="JDCL/treasury", by=["CUST/reserve"])
    run(harness, Release(returned, "JDCL/treasury", "AC04"), sender="JDCL/treasury")
    for status, hold in (("pending", pending), ("burned", burned), ("returned", returned)):
        answer = await harness.get(f"/v1/redemptions?asset={HKD}&status={status}")
        assert [r["redemption"] for r in answer["redemptions"]] == [hold.hex()], status
        assert answer["redemptions"][0]["status"] == status
    one = (await harness.get(f"/v1/redemptions/{burned.hex()}"))["redemption"]
    assert one["payout_ref"] == burn.payout_ref.hex()
    assert (one["amount"], one["holder"]) == ("2", "ALFA/main")
    assert len((await harness.get("/v1/redemptions"))["redemptions"]) == 3
    assert (await harness.get(f"/v1/redemptions?asset={CNH}"))["redemptions"] == []


async def test_overdue_and_blocked_redemptions_are_marked(harness: Harness) -> None:
    world = harness.world
    redeem(harness, 1)
    world.advance(7 * DAY_MS)
    harness.gateway.produce()
    answer = await harness.get("/v1/redemptions?status=overdue")
    assert answer["redemptions"][0]["is_overdue"] is True
    assert (await harness.get(f"/v1/assets/{HKD}"))["is_overdue"] is True
    order = Freeze(
        *("ALFA/main", HKD, Direction.BOTH, None, "JDCL/compliance", b"\2" * 32, 5),
    )
    run(harness, order, sender="JDCL/compliance")
    answer = await harness.get("/v1/redemptions?status=blocked")
    assert answer["redemptions"][0]["is_blocked"] is True
    assert (await harness.get("/v1/redemptions?status=overdue"))["redemptions"] == []


async def test_redemptions_by_due_time_come_in_order_and_pages(harness: Harness) -> None:
    ids = redeem(harness, *range(1, 8))
    due = (await harness.get(f"/v1/redemptions/{ids[0].hex()}"))["redemption"]["due_ms"]
    base = f"/v1/redemptions?asset={HKD}&due_before_ms={due + DAY_MS * 30}&limit=3"
    listed: list[str] = []
    after = ""
    while True:
        page = await harness.get(base + after)
        listed += [r["redemption"] for r in page["redemptions"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert sorted(listed) == sorted(hold.hex() for hold in ids)
    nothing = await harness.get(f"/v1/redemptions?asset={HKD}&due_before_ms={due}")
    assert nothing["redemptions"] == []


async def test_redemptions_by_id_come_in_pages_without_gap_or_repetition(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atpar.node.api_holds.MAX_RECORDS_EXAMINED", 4)
    ids = redeem(harness, *range(1, 12))
    listed: list[str] = []
    after = ""
    while True:
        page = await harness.get(f"/v1/redemptions?limit=3{after}")
        listed += [r["redemption"] for r in page["redemptions"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert listed == sorted(hold.hex() for hold in ids)


async def test_page_at_the_largest_limit_is_answered(harness: Harness) -> None:
    await harness.get(f"/v1/redemptions?limit={MAX_PAGE_ENTRIES}")
    await harness.get(f"/v1/accounts/ALFA/main/entries?limit={MAX_PAGE_ENTRIES}")


async def test_msgpack_answer_has_the_same_fields_with_bin_and_integers(harness: Harness) -> None:
    response = await harness.client.get(
        f"/v1/assets/{HKD}", headers={"accept": "application/msgpack"}
    )
    binary = msgspec.msgpack.decode(response.content)
    text = await harness.get(f"/v1/assets/{HKD}")
    assert list(binary) == list(text)
    assert binary["supply"] == 1_000
    assert binary["reserve"]["report_hash"] == bytes.fromhex(text["reserve"]["report_hash"])


def test_world_has_the_accounts_these_tests_name() -> None:
    assert {"ALFA/main", "DLTA/main", "JDCL/compliance"} <= set(World().policies)


async def test_state_that_a_recovery_changed_is_not_proven_until_the_next_block(
    harness: Harness,
) -> None:
    """No header has its root: a proof would not verify, and must not look like one that lies."""
    store = harness.gateway.store
    drafted = draft_recovery(store)
    for bank in BANKS[:3]:
        signature = key_of(f"{bank}-gov").sign(compute_sign_body(drafted)).signature
        drafted = add_signature(drafted, bank, signature)
    apply_recovery(store, drafted, None)
    for path in (f"/v1/assets/{HKD}?proof=1", "/v1/accounts/ALFA/main?proof=1"):
        problem = await harness.get(path, status=409)
        assert problem["code"] == "NOT_PROVABLE"
        assert "the next final block proves this state" in problem["detail"]
    assert (await harness.get(f"/v1/assets/{HKD}"))["proof"] is None
