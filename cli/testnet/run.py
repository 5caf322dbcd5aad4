"""`atpar testnet run`: a measured run under open-loop load, with faults, and what it must prove.

A run passes only if every payment's fate is known and good, all validators agree on the state, the
sum of all balances is the supply of each asset, and every account of the load holds exactly what
it must after each payment that succeeded took effect once.
"""

import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from atpar.cli.errors import NotReady
from atpar.cli.testnet.ask import ask
from atpar.cli.testnet.faults import Fault, do_faults, undo_faults
from atpar.cli.testnet.figures import Finality, summarise_finality
from atpar.cli.testnet.follow import Follower
from atpar.cli.testnet.layout import GENESIS_FILE
from atpar.cli.testnet.load import Load
from atpar.cli.testnet.network import look, now_ms, start_node, wait_height
from atpar.cli.testnet.officers import Officers
from atpar.cli.testnet.payments import LoadAccount, PaymentRing, Signed
from atpar.cli.testnet.processes import get_processor_s
from atpar.cli.testnet.recipe import CNH, HKD, ISSUER, build_institutions
from atpar.cli.testnet.record import TestnetRecord, load_record
from atpar.cli.testnet.submit import ApiTarget
from atpar.cli.testnet.wire import Wire
from atpar.ledger.codes import Code
from atpar.ledger.genesis import parse_genesis
from atpar.ledger.operations import Mint, Operation
from atpar.node.service import relax_collector

FUNDED: Final = 50_000_00
"""Minor units on each account before the load starts."""
MAX_LOAD_ACCOUNTS: Final = 64
SETTLE_TIMEOUT_S: Final = 60.0
MAX_REPORTED_CODES: Final = 5
KNOWN_CODES: Final = frozenset(Code)


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure."""

    validators: int
    profile: str
    rate: float
    duration_s: float
    bulk: int
    faults: tuple[Fault, ...]

    @property
    def load_accounts(self) -> int:
        """Accounts for load at each bank: enough to spread, few enough to fund."""
        return max(1, MAX_LOAD_ACCOUNTS // self.validators // 2)

    @property
    def count(self) -> int:
        """Transactions of the whole run."""
        return max(1, round(self.rate * self.duration_s))


@dataclass(frozen=True, slots=True)
class Report:
    """What came out."""

    order: Order
    submitted: int
    finalized: int
    failed: int
    lost: int
    active_s: float
    """From the first scheduled send to the last verified proof of finality."""
    finality: Finality
    height: int
    state_roots_equal: bool
    conservation: bool
    failures: dict[str, int]
    """Code -> how often."""
    processor_s: dict[str, float]
    """Processor seconds of each validator that ran throughout, and of this client, under load."""
    details: tuple[str, ...]
    """What exactly is wrong, for people."""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints; its keys are stable."""
        seconds = max(self.active_s, self.order.duration_s) if self.finalized else math.inf
        return {
            "validators": self.order.validators,
            "profile": self.order.profile,
            "duration_s": self.order.duration_s,
            "submitted": self.submitted,
            "finalized": self.finalized,
            "failed": self.failed,
            "lost": self.lost,
            "tps": round(self.finalized / seconds, 1),
            "transfers_per_s": round(self.finalized * self.order.bulk / seconds, 1),
            "finality_ms": msgspec.structs.asdict(self.finality),
            "height": self.height,
            "state_roots_equal": self.state_roots_equal,
            "conservation": self.conservation,
            "faults": [fault.as_json() for fault in self.order.faults],
            "processor_us": self.compute_processor_us(),
        }

    def compute_processor_us(self) -> dict[str, float]:
        """Return microseconds of processor time per final transaction, process by process."""
        count = max(self.finalized, 1)
        spent = {name: seconds * 1e6 / count for name, seconds in self.processor_s.items()}
        spent["sum"] = sum(spent.values())
        return {name: round(value, 1) for name, value in spent.items()}

    def list_lines(self) -> list[str]:
        """Return the report for people."""
        found = self.as_json()
        figures = "  ".join(
            f"{name} {'-' if value is None else value}"
            for name, value in found["finality_ms"].items()
        )
        roots = "equal" if self.state_roots_equal else "DIFFERENT"
        money = "conserved" if self.conservation else "NOT CONSERVED"
        counts = f"{self.submitted} submitted  {self.finalized} final  {self.failed} failed"
        spent = "  ".join(f"{name} {value}" for name, value in found["processor_us"].items())
        return [
            f"{counts}  {self.lost} lost",
            f"{found['tps']} transactions/s, {found['transfers_per_s']} transfers/s",
            f"finality in ms: {figures}",
            f"processor us a transaction: {spent}",
            f"height {self.height}, state roots {roots}, money {money}",
        ]

    def list_broken(self) -> list[str]:
        """Return every promise that this run broke; empty when all hold."""
        broken = []
        if self.lost:
            broken.append(f"{self.lost} payments have an unknown fate")
        if self.failed:
            common = sorted(self.failures.items(), key=lambda item: -item[1])[:MAX_REPORTED_CODES]
            broken.append(f"{self.failed} payments failed: {dict(common)}")
        if not self.state_roots_equal:
            broken.append("the validators' state roots differ")
        if not self.conservation:
            broken.append("money appeared, vanished or moved twice")
        return broken + list(self.details)


# ---- the run


def measure(
    folder: Path, record: TestnetRecord, order: Order, *, say: Callable[[str], None]
) -> Report:
    """Put load on a running network and return the report. Killed validators are started again.

    Raises:
        NotReady: the network did not come back together afterwards.
    """
    officers = Officers(folder, record)
    accounts = list_load_accounts(officers, order)
    fund(officers, [account.account for account in accounts])
    ring = PaymentRing(bytes.fromhex(record.chain), accounts, bulk=order.bulk)
    making = ring.make(now_ms=now_ms())
    payments = [next(making) for _ in range(order.count)]
    say(f"{order.count} payments at {order.rate:g}/s between {len(accounts)} accounts ...")
    relax_collector()
    before = _read_processor(record)
    load, seconds, digests = trio.run(_run_load, folder, record, order, payments)
    after = _read_processor(record)
    undo_faults(folder, order.faults)
    record = _start_stopped(folder)
    height = _settle(folder, record)
    details: list[str] = []
    roots = compare_roots(record, height, details)
    _check_history(record, digests, details)
    succeeded = (payments[index].hash for index in load.tally.succeeded)
    expected = ring.compute_expected(FUNDED, succeeded)
    conserved = check_conservation(record, order, expected, details, exact=load.tally.lost == 0)
    tally = load.tally
    return Report(
        order=order,
        submitted=tally.submitted,
        finalized=len(tally.succeeded),
        failed=len(tally.failed),
        lost=tally.lost,
        active_s=seconds,
        finality=summarise_finality([tally.final_after_ms[index] for index in tally.succeeded]),
        height=height,
        state_roots_equal=roots,
        conservation=conserved,
        failures=_count_codes(tally.failed.values()),
        processor_s={name: after[name] - before[name] for name in after if name in before},
        details=tuple(details),
    )


def list_load_accounts(officers: Officers, order: Order) -> list[LoadAccount]:
    """Return the accounts that pay each other, the banks taking turns."""
    institutions = build_institutions(order.validators, load_accounts=order.load_accounts)
    names = [
        f"{bank.code}/load-{number}"
        for number in range(1, order.load_accounts + 1)
        for bank in institutions[: order.validators]
    ]
    return [LoadAccount(name, officers.get_signers(name)[0]) for name in names]


def fund(officers: Officers, accounts: Sequence[str]) -> None:
    """Mint the same amount to every account, in one transaction."""
    minter = f"{ISSUER}/minter"
    ops: list[Operation] = [
        Mint(HKD, minter, account, FUNDED, uuid.uuid4().bytes, None) for account in accounts
    ]
    officers.send(officers.sign(minter, ops))


def _read_processor(record: TestnetRecord) -> dict[str, float]:
    """Return the processor seconds of each running validator of the record, and of this process."""
    seconds = {
        validator.name: get_processor_s(validator.process)
        for validator in record.validators
        if validator.process is not None
    }
    known = {name: used for name, used in seconds.items() if used is not None}
    return {**known, "client": time.process_time()}


async def _run_load(
    folder: Path, record: TestnetRecord, order: Order, payments: list[Signed]
) -> tuple[Load, float, dict[int, bytes]]:
    wires = [Wire(validator.api) for validator in record.validators]
    targets = [ApiTarget(wire) for wire in wires]
    load = Load(payments, targets, rate=order.rate, transfers=order.bulk)
    last_final = math.nan

    def note(tx_hash: bytes, code: int) -> None:
        nonlocal last_final
        load.note_final(tx_hash, code)
        last_final = load.elapsed_s()

    follower = Follower(wires, parse_genesis((folder / GENESIS_FILE).read_bytes()), note)
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.run)
        nursery.start_soon(do_faults, folder, order.faults)
        await load.run()
        nursery.cancel_scope.cancel()
    for wire in wires:
        await wire.aclose()
    return load, last_final, follower.digests


# ---- what must hold afterwards


def _start_stopped(folder: Path) -> TestnetRecord:
    record = load_record(folder)
    for index, view in enumerate(look(record)):
        if not view.is_running:
            record = start_node(folder, record, index)
    return record


def _settle(folder: Path, record: TestnetRecord) -> int:
    """Wait until every validator has what the first to be asked had last; return that height."""
    height = max(view.height or 0 for view in look(record))
    wait_height(folder, record, height, timeout_s=SETTLE_TIMEOUT_S)
    return height


def compare_roots(record: TestnetRecord, height: int, details: list[str]) -> bool:
    """Return whether all validators have the same header, and so the same state, at a height."""
    roots = {}
    for validator in record.validators:
        block = ask(validator.api, f"/v1/blocks/{height}", timeout_s=SETTLE_TIMEOUT_S)
        if block is None:
            raise NotReady(
                f"{validator.name} does not show block {height}",
                advice=f"look into {validator.name}/logs",
            )
        roots[validator.name] = (block["header"]["state_root"], block["digest"])
    if len(set(roots.values())) == 1:
        return True
    details.append(f"at height {height}: {roots}")
    return False


def _check_history(record: TestnetRecord, digests: dict[int, bytes], details: list[str]) -> None:
    """Check that every block that was proven final during the run is still the block there.

    The digest covers the receipts. The heights go round the validators, all of which have the
    same last block, so one of them speaks for all.
    """
    for height, digest in digests.items():
        validator = record.validators[height % len(record.validators)]
        found = _demand(validator.api, f"/v1/blocks/{height}?limit=1")["digest"]
        if found != digest.hex():
            details.append(
                f"{validator.name}: block {height} was {digest.hex()}, now it is {found}"
            )


def check_conservation(
    record: TestnetRecord,
    order: Order,
    expected: dict[str, int],
    details: list[str],
    *,
    exact: bool,
) -> bool:
    """Return whether balances add up to the supply and, if `exact`, are what the payments made.

    Every validator is asked for itself.
    """
    institutions = build_institutions(order.validators, load_accounts=order.load_accounts)
    accounts = [f"{each.code}/{name}" for each in institutions for name in each.accounts]
    sound = True
    for validator in record.validators:
        held = {asset: dict.fromkeys(accounts, 0) for asset in (HKD, CNH)}
        for name in accounts:
            for balance in _demand(validator.api, f"/v1/accounts/{name}")["balances"]:
                held[balance["asset"]][name] = int(balance["posted"])
        for asset, balances in held.items():
            supply = int(_demand(validator.api, f"/v1/assets/{asset}")["supply"])
            total = sum(balances.values())
            if supply != total:
                sound = False
                details.append(f"{validator.name}: {asset} supply {supply}, balances {total}")
        wrong = [name for name, amount in expected.items() if exact and held[HKD][name] != amount]
        if wrong:
            sound = False
            name = wrong[0]
            details.append(
                f"{validator.name}: {len(wrong)} balances are not what the payments made them,"
                f" {name} has {held[HKD][name]} instead of {expected[name]}"
            )
    return sound


def _demand(api: str, path: str) -> dict[str, Any]:
    found = ask(api, path, timeout_s=SETTLE_TIMEOUT_S)
    if found is None:
        raise NotReady(f"{api}{path}: no answer", advice="look into the validators' logs")
    return found


def _count_codes(codes: Iterable[int]) -> dict[str, int]:
    names = [Code(code).name if code in KNOWN_CODES else str(code) for code in codes]
    return dict(Counter(names))
