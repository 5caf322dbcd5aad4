"""Holds, proposals, controls and parameters through the API."""

from typing import Any

import pytest

from atpar.ledger.codes import Code
from atpar.ledger.context import compute_entry_id
from atpar.ledger.hashing import HashTag
from atpar.ledger.limits import DAY_MS
from atpar.ledger.operations import (
    Approve,
    Capture,
    Condition,
    Decision,
    Hold,
    Limit,
    Propose,
    SetControls,
    SetParams,
)
from atpar.node.access import Group
from tests.ledger.world import HKD, public
from tests.node.api_client import Harness
from tests.node.test_api_access import bearer, make_rules

NO_CONDITION = Condition((), None, None, None)


@pytest.fixture
def harness() -> Harness:
    made = Harness()
    made.gateway.fund("ALFA/main", 10_000)
    return made


def hold(harness: Harness, amount: int, creditor: str = "BRVO/main") -> bytes:
    world = harness.world
    op = Hold(
        asset=HKD,
        debtor="ALFA/main",
        creditor=creditor,
        amount=amount,
        uetr=world.next_id(),
        purpose="",
        reference="escrow",
        travel_rule_hash=None,
        travel_rule_ack=False,
        expires_at_ms=world.now_ms + DAY_MS,
        condition=NO_CONDITION,
        assignable=True,
    )
    world.last = world.make(op, sender="ALFA/main")
    assert harness.gateway.run(world.last) == [Code.OK]
    return world.hold_id()


def propose(harness: Harness, *ops: Any, sender: str, key: str) -> bytes:
    world = harness.world
    tx = world.make(Propose(ops, world.now_ms + DAY_MS), sender=sender, keys=[key])
    assert harness.gateway.run(tx) == [Code.OK]
    return compute_entry_id(HashTag.PROPOSAL, sender, tx.body.tx_id, 0)


# ---- holds


async def test_hold_shows_what_it_is_for_and_what_became_of_it(harness: Harness) -> None:
    hold_id = hold(harness, 100)
    capture = Capture(hold_id, 30, None, None, False)
    tx = harness.world.make(capture, sender="BRVO/main")
    assert harness.gateway.run(tx) == [Code.OK]
    answer = await harness.get(f"/v1/holds/{hold_id.hex()}")
    found = answer["hold"]
    assert (found["amount"], found["captured"], found["open"]) == ("100", "30", "70")
    assert (found["kind"], found["status"], found["creditor"]) == (
        "payment",
        "pending",
        "BRVO/main",
    )
    assert found["payment"]["reference"] == "escrow"
    assert found["payment"]["condition"]["arbiters"] == []
    assert answer["read_height"] == harness.world.header.height


async def test_holds_of_debtor_and_creditor_come_in_pages(harness: Harness) -> None:
    ids = [hold(harness, amount) for amount in range(1, 8)]
    other = hold(harness, 9, "CHRL/main")
    for query, expected in (
        (f"debtor=ALFA/main&asset={HKD}", [*ids, other]),
        ("creditor=BRVO/main", sorted(ids)),
        ("creditor=CHRL/main", [other]),
        (f"debtor=BRVO/main&asset={HKD}", []),
        (f"debtor=ALFA/main&asset={HKD}&kind=redemption", []),
    ):
        listed: list[str] = []
        after = ""
        while True:
            page = await harness.get(f"/v1/holds?{query}&limit=3{after}")
            listed += [form["hold"] for form in page["holds"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert listed == [hold_id.hex() for hold_id in expected], query


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/holds", 400, "INVALID_PARAMETER"),
        ("/v1/holds?creditor=ALFA/main&debtor=ALFA/main", 400, "INVALID_PARAMETER"),
        ("/v1/holds?debtor=ALFA/main", 400, "INVALID_PARAMETER"),
        ("/v1/holds?debtor=ALFA/main&asset=HKD.JDCL&kind=gift", 400, "INVALID_PARAMETER"),
        ("/v1/holds?creditor=ALFA/main&asset=HKD.JDCL", 400, "INVALID_PARAMETER"),
        ("/v1/holds?creditor=ALFA/main&after=00", 400, "INVALID_PARAMETER"),
        ("/v1/holds?creditor=", 400, "INVALID_PARAMETER"),
        ("/v1/holds/00", 400, "INVALID_PARAMETER"),
        ("/v1/holds/" + "00" * 32, 404, "UNKNOWN_HOLD"),
        ("/v1/proposals/" + "00" * 32, 404, "UNKNOWN_PROPOSAL"),
        ("/v1/proposals?sender=x", 400, "INVALID_PARAMETER"),
        ("/v1/proposals?after=x", 400, "INVALID_PARAMETER"),
        ("/v1/proposals?after=ALFA/main|zz", 400, "INVALID_PARAMETER"),
    ],
)
async def test_question_that_has_no_answer_is_a_problem(
    harness: Harness, path: str, status: int, code: str
) -> None:
    assert (await harness.get(path, status=status))["code"] == code


async def test_account_shows_controls_by_setter(harness: Harness) -> None:
    world = harness.world
    op = SetControls("ALFA/admin", HKD, "ALFA/main", None, 2, None, Limit(500, DAY_MS))
    assert harness.gateway.run(world.make(op, sender="ALFA/admin")) == [Code.OK]
    (control,) = (await harness.get("/v1/accounts/ALFA/main"))["controls"]
    assert (control["setter"], control["tier"]) == ("participant", 2)
    assert control["limit"] == {"amount": "500", "period_ms": DAY_MS}


# ---- proposals


async def test_proposal_shows_the_bundle_and_who_has_yet_to_agree(harness: Harness) -> None:
    world = harness.world
    mint = world.mint("ALFA/main", 50)
    pay = world.attestation(1)
    proposal = propose(harness, mint, pay, sender="JDCL/mint", key="JDCL-m1")
    form = (await harness.get(f"/v1/proposals/{proposal.hex()}"))["proposal"]
    assert [op["op"] for op in form["ops"]] == ["mint", "attest_reserve"]
    assert form["makers"] == [public("JDCL-m1").hex()]
    assert form["principals"] == [
        {"account": "CUST/reserve", "is_met": False},
        {"account": "JDCL/mint", "is_met": False},
    ]
    approve = Approve(proposal, bytes.fromhex(form["bundle_hash"]), Decision.APPROVE)
    tx = world.make(approve, sender="JDCL/mint", keys=["JDCL-m2"])
    assert harness.gateway.run(tx) == [Code.OK]
    form = (await harness.get(f"/v1/proposals/{proposal.hex()}"))["proposal"]
    assert [p["is_met"] for p in form["principals"]] == [False, True]
    assert [v["decision"] for v in form["verdicts"]] == ["approve", "approve"]


async def test_proposals_are_found_by_sender_and_by_who_has_to_agree(harness: Harness) -> None:
    world = harness.world
    ids = [
        propose(harness, world.mint("ALFA/main", n), sender="JDCL/mint", key="JDCL-m1")
        for n in range(1, 6)
    ]
    other = propose(harness, world.attestation(1), sender="CUST/reserve", key="CUST-k1")
    for query, expected in (
        ("", [other, *sorted(ids)]),
        ("sender=JDCL/mint", sorted(ids)),
        ("principal=CUST/reserve", [other]),
        ("principal=ALFA/main", []),
    ):
        listed: list[str] = []
        after = ""
        while True:
            page = await harness.get(f"/v1/proposals?{query}&limit=2{after}")
            listed += [form["proposal"] for form in page["proposals"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert listed == [proposal.hex() for proposal in expected], query


async def test_expired_proposal_is_not_open(harness: Harness) -> None:
    world = harness.world
    proposal = propose(harness, world.mint("ALFA/main", 1), sender="JDCL/mint", key="JDCL-m1")
    world.advance(2 * DAY_MS)
    harness.gateway.produce()
    await harness.get(f"/v1/proposals/{proposal.hex()}", status=404)
    assert (await harness.get("/v1/proposals"))["proposals"] == []


async def test_scoped_token_sees_what_it_takes_part_in() -> None:
    harness = Harness(access=make_rules(*Group, participants=frozenset({"BRVO"})))
    harness.gateway.fund("ALFA/main", 1_000)
    mine, other = hold(harness, 1), hold(harness, 2, "CHRL/main")
    await harness.get(f"/v1/holds/{mine.hex()}", **bearer())
    await harness.get(f"/v1/holds/{other.hex()}", status=403, **bearer())
    await harness.get(f"/v1/holds?debtor=ALFA/main&asset={HKD}", status=403, **bearer())
    mint = harness.world.mint("ALFA/main", 1)
    proposal = propose(harness, mint, sender="JDCL/mint", key="JDCL-m1")
    await harness.get(f"/v1/proposals/{proposal.hex()}", status=403, **bearer())
    assert (await harness.get("/v1/proposals", **bearer()))["proposals"] == []


# ---- parameters


async def test_params_show_what_is_in_force_and_what_is_to_come(harness: Harness) -> None:
    world = harness.world
    height = world.header.height + 10
    op = SetParams("block_interval_ms", 70, height)
    tx = world.make(op, sender="CHAIN/governance")
    assert harness.gateway.run(tx) == [Code.OK]
    answer = await harness.get("/v1/params")
    assert answer["params"]["block_interval_ms"] == 50
    assert answer["pending"] == [{"name": "block_interval_ms", "value": 70, "height": height}]
