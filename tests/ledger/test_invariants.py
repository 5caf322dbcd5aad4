"""Each invariant notices the fault that it is for, planted into a sound state."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.blocks import ValidatorSetId
from atpar.ledger.codes import Code
from atpar.ledger.invariants import check_invariants
from atpar.ledger.limits import MAX_EVIDENCE_PER_EPOCH
from atpar.ledger.operations import (
    Limit,
    PauseChange,
    PauseScope,
    Propose,
    RecordEvidence,
    SetControls,
    SetPause,
)
from atpar.ledger.records import HoldStatus, balance_key, number_key, time_key
from atpar.ledger.state import Overlay
from atpar.ledger.types import Direction
from tests.ledger.evidence import make_pair
from tests.ledger.test_accounts import RECOVERERS, recover
from tests.ledger.test_holds import place
from tests.ledger.world import HKD, World, policy_of

Plant = Callable[[Overlay], None]
ALFA = balance_key(HKD, "ALFA/main")


@pytest.fixture(scope="module")
def rich() -> World:
    """A state with something of everything."""
    world = World()
    world.fund("ALFA/main", 1_000)
    place(world, 100)
    burned = world.redeem("ALFA/main", 50)
    assert world.burn(burned) is Code.OK
    assert world.run(world.attestation(2_000)) is Code.OK
    later = world.redeem("ALFA/main", 10)
    assert world.burn(later) is Code.OK
    world.redeem("ALFA/main", 60)
    world.freeze("ALFA/main", direction=Direction.CREDIT)
    world.freeze("ALFA/main", direction=Direction.DEBIT, amount=5)
    world.freeze("BRVO/main", None, by="REGU/admin")
    limit = SetControls("ALFA/admin", HKD, "ALFA/main", None, None, None, Limit(5, 1_000))
    assert world.run(limit, sender="ALFA/admin") is Code.OK
    pause = SetPause(HKD, PauseChange.PAUSE, (PauseScope.CAPTURE,))
    assert world.run(pause, sender="JDCL/pause") is Code.OK
    assert world.run(recover(), sender="ALFA/admin", keys=RECOVERERS) is Code.OK
    propose = Propose((world.mint("ALFA/main", 1),), world.now_ms + 10**6)
    assert world.run(propose, sender="JDCL/mint", keys=["JDCL-m1"]) is Code.OK
    evidence = RecordEvidence("ALFA/admin", make_pair())
    assert world.run(evidence, sender="ALFA/admin") is Code.OK
    return world


def test_a_sound_state_passes(rich: World) -> None:
    assert check_invariants(rich.view) == []


def change(section: Any, key: bytes | None = None, /, **changes: object) -> Plant:
    """Alter a record: the one under the key, or the first of its section."""

    def plant(overlay: Overlay) -> None:
        found = key if key is not None else next(overlay.scan(section, b""))[0]
        overlay.put(section, found, replace(overlay.get(section, found), **changes))  # type: ignore[type-var]

    return plant


def drop(section: Any, key: bytes | None = None) -> Plant:
    def plant(overlay: Overlay) -> None:
        overlay.delete(section, key if key is not None else next(overlay.scan(section, b""))[0])

    return plant


def add(section: Any, key: bytes, record: object) -> Plant:
    return lambda overlay: overlay.put(section, key, record)


def hold(kind: str, status: HoldStatus = HoldStatus.PENDING, **changes: object) -> Plant:
    def plant(overlay: Overlay) -> None:
        for key, found in list(overlay.scan(records.HOLDS, b"")):
            if found.kind.value == kind and found.status is status:
                overlay.put(records.HOLDS, key, replace(found, **changes))
                return
        raise AssertionError(f"no {status.value} {kind}")

    return plant


def redemption(status: HoldStatus, **changes: object) -> Plant:
    def plant(overlay: Overlay) -> None:
        for key, found in list(overlay.scan(records.HOLDS, b"")):
            if found.redemption is not None and found.status is status:
                terms = replace(found.redemption, **changes)
                overlay.put(records.HOLDS, key, replace(found, redemption=terms))
                return
        raise AssertionError(f"no {status.value} redemption")

    return plant


def verdict_twice(overlay: Overlay) -> None:
    key, proposal = next(overlay.scan(records.PROPOSALS, b""))
    twice = (*proposal.verdicts, *proposal.verdicts)
    overlay.put(records.PROPOSALS, key, replace(proposal, verdicts=twice))


def span_backwards(overlay: Overlay) -> None:
    key, _ = next(overlay.scan(records.SPANS, b""))
    overlay.put(records.SPANS, key[:-8] + number_key(5), records.Span(4))


def evidence_without_end(overlay: Overlay) -> None:
    ((_, found),) = list(overlay.scan(records.EVIDENCE, b""))
    for view in range(MAX_EVIDENCE_PER_EPOCH):
        evidence = make_pair(view=10 + view)
        record = replace(found, evidence=evidence)
        overlay.put(records.EVIDENCE, records.evidence_key(evidence), record)


A = HKD.encode()
KEY = b"k" * 32
MARK = records.MARK
ORDER = records.FreezeOrder(
    "DLTA/main", HKD, Direction.DEBIT, 5, "JDCL/compliance", bytes(32), 0, 0
)

CASES: list[tuple[str, Plant]] = [
    ("no supply record", drop(records.SUPPLIES, A)),
    ("does not sum", change(records.SUPPLIES, A, minted=7)),
    ("does not sum", change(records.BALANCES, ALFA, posted=10**6)),
    (
        "unknown asset",
        add(records.BALANCES, b"EUR.JDCL|ALFA/main", replace(records.NO_BALANCE, posted=1)),
    ),
    ("record of zeros", add(records.BALANCES, b"HKD.JDCL|CHRL/main", records.NO_BALANCE)),
    ("of posted", change(records.BALANCES, ALFA, held=10**6)),
    ("open holds sum to", change(records.BALANCES, ALFA, held=1)),
    ("counts", change(records.BALANCES, ALFA, holds=9)),
    ("counts", change(records.BALANCES, ALFA, redemptions=9)),
    ("holds without a balance", drop(records.BALANCES, ALFA)),
    ("a part is negative", hold("payment", captured=-1)),
    ("with 0 open", hold("payment", released=100)),
    ("of kind", hold("payment", payment=None)),
    ("reversed", redemption(HoldStatus.BURNED, reversed=10**6)),
    ("index of open holds", drop(records.OPEN_HOLDS)),
    ("index of claims", drop(records.CLAIMS)),
    ("index of due times", drop(records.DUE)),
    ("index of due times", redemption(HoldStatus.PENDING, due_ms=5)),
    ("the formula gives", change(records.RESERVES, A, backing=1)),
    ("before attested", change(records.RESERVES, A, audited_sequence=9)),
    ("later time than attested", change(records.RESERVES, A, audited_as_of_ms=2**60)),
    ("index of recent burns", drop(records.RECENT_BURNS)),
    ("is not what the orders say", change(records.ACCOUNTS, b"BRVO/main", blocked=0)),
    ("the orders say", change(records.BALANCES, ALFA, frozen=4)),
    ("without a balance that shows them", add(records.FREEZES, KEY, ORDER)),
    ("index of freezes", drop(records.ACCOUNT_FREEZES)),
    ("units of", change(records.QUOTAS, None, units=-1)),
    ("limits, has", change(records.ASSETS, A, limits=0)),
    ("spans stand", drop(records.SPANS)),
    ("spans stand", change(records.ASSETS, A, paused=0)),
    ("before it began", span_backwards),
    ("index of recoveries", drop(records.RECOVERIES)),
    ("index of proposals", drop(records.OPEN_PROPOSALS)),
    ("decided twice", verdict_twice),
    ("POLICY_WEAK", change(records.ACCOUNTS, b"JDCL/treasury", policy=policy_of(1, ["JDCL-t1"]))),
    (
        "reaches the threshold",
        change(records.ACCOUNTS, b"DLTA/admin", policy=policy_of(1, ["DLTA-a1"])),
    ),
    (
        "not its participant's",
        change(records.ACCOUNTS, b"DLTA/main", policy=policy_of(1, ["ALFA-pay"])),
    ),
    ("sets are kept of epochs [], expected 0 to 0", drop(records.VOTERS)),
    ("expected 0 to 0", add(records.VOTERS, number_key(1), ValidatorSetId(1, ()))),
    ("is not the one in force", change(records.VOTERS, number_key(0), members=())),
    ("under another key", change(records.EVIDENCE, None, evidence=make_pair(view=9))),
    ("records, at most", evidence_without_end),
]


@pytest.mark.parametrize(
    ("message", "plant"), CASES, ids=[f"{i}-{m}" for i, (m, _) in enumerate(CASES)]
)
def test_a_planted_fault_is_named(rich: World, message: str, plant: Plant) -> None:
    overlay = Overlay(rich.view)
    plant(overlay)
    found = check_invariants(overlay)
    assert any(message in fault for fault in found), found


def test_time_keys_sort_by_asset_then_time() -> None:
    keys = [time_key("HKD.JDCL", n, KEY) for n in (1, 255, 256, 2**40)]
    assert keys == sorted(keys)
    assert records.IndexMark() == MARK
