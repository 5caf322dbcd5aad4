"""The custodian and the auditor of a testnet, who attest the reserves again and again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from atpar.cli.errors import CliError, ConfigurationProblem
from atpar.cli.testnet.officers import Officers
from atpar.cli.testnet.processes import is_running
from atpar.cli.testnet.recipe import CNH, HKD
from atpar.cli.testnet.record import TestnetRecord, load_record

RETRY_S: Final = 2.0


def attest_all(folder: Path, record: TestnetRecord) -> None:
    """Attest every reserve once.

    Raises:
        CliError: no validator answers, or the ledger refuses.
    """
    officers = Officers(folder, record)
    for asset in (HKD, CNH):
        officers.attest(asset)


def keep_attesting(folder: Path, *, every_s: float, say: Callable[[str], None]) -> None:
    """Attest every `every_s`, until the testnet is gone.

    At once too where nobody else has: `testnet up` attests before it starts this.

    It is gone when its folder is, or when every process that was started for it has ended.
    Validators that were started otherwise, in containers, count as there.
    """
    due: float | None = None
    while True:
        try:
            record = load_record(folder)
        except ConfigurationProblem:
            return
        started = [each.process for each in record.validators if each.process is not None]
        if started and not any(is_running(process) for process in started):
            return
        if due is None:
            due = time.monotonic() + (every_s if started else 0.0)
        if time.monotonic() >= due:
            try:
                attest_all(folder, record)
                due = time.monotonic() + every_s
                say("attested")
            except CliError as error:
                say(f"attestation failed, trying again: {error}")
        time.sleep(RETRY_S)
