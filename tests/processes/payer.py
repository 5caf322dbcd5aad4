"""Somebody who pays, one payment after the other, while a test does things to the network."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from atpar.cli.errors import NodeUnreachable, OutcomeUnknown
from atpar.cli.testnet.network import look, now_ms, wait_height
from atpar.cli.testnet.officers import Officers
from atpar.cli.testnet.payments import PaymentRing, Signed
from atpar.cli.testnet.processes import wait_until
from atpar.cli.testnet.record import TestnetRecord
from atpar.cli.testnet.run import (
    FUNDED,
    Order,
    check_conservation,
    compare_roots,
    fund,
    list_load_accounts,
)

ORDER = Order(validators=4, profile="lan", rate=1, duration_s=1, bulk=1, faults=())
PATIENCE_S = 60.0


class Payer:
    """Pays between the load accounts until stopped; sends again what it knows no answer for."""

    def __init__(self, folder: Path, record: TestnetRecord) -> None:
        self.officers = Officers(folder, record)
        accounts = list_load_accounts(self.officers, ORDER)
        fund(self.officers, [each.account for each in accounts])
        self._ring = PaymentRing(bytes.fromhex(record.chain), accounts, bulk=1)
        self._payments = self._ring.make(now_ms=now_ms())
        self.paid: list[bytes] = []
        """Hashes of what is final with code OK."""
        self._stop = threading.Event()
        self._faults: list[Exception] = []

    def make(self) -> Signed:
        """Return the next payment."""
        return next(self._payments)

    def pay(self, signed: Signed) -> None:
        """Send a payment until it is final, the same bytes however often."""

        def is_final() -> bool:
            try:
                self.officers.send(signed)
            except (OutcomeUnknown, NodeUnreachable):
                return False
            return True

        wait_until(is_final, what="a payment", timeout_s=PATIENCE_S)
        self.paid.append(signed.hash)

    def wait_paid(self, more: int) -> None:
        """Wait until so many further payments are final."""
        goal = len(self.paid) + more
        wait_until(
            lambda: len(self.paid) >= goal or bool(self._faults),
            what=f"{more} payments",
            timeout_s=PATIENCE_S,
        )
        assert self._faults == []

    @contextmanager
    def paying(self) -> Iterator[None]:
        """Pay in a thread of its own for as long as the context lasts."""
        self._stop.clear()
        thread = threading.Thread(target=self._pay_on)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        assert self._faults == []

    def _pay_on(self) -> None:
        try:
            while not self._stop.is_set():
                self.pay(self.make())
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            self._faults.append(error)

    def check(self, folder: Path, record: TestnetRecord) -> None:
        """Check that these validators agree on the state, and that each payment counted once."""
        height = max(view.height or 0 for view in look(record))
        wait_height(folder, record, height)
        wrong: list[str] = []
        assert compare_roots(record, height, wrong), wrong
        expected = self._ring.compute_expected(FUNDED, iter(self.paid))
        assert check_conservation(record, ORDER, expected, wrong, exact=True), wrong


def choose(record: TestnetRecord, names: Sequence[str]) -> TestnetRecord:
    """Return the record with only these validators."""
    kept = tuple(each for each in record.validators if each.name in names)
    return replace(record, validators=kept)
