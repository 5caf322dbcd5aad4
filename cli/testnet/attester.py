"""The helper process of a testnet: custodian and auditor attest the reserves again and again.

    python -m atpar.cli.testnet.attester DIR

It ends by itself when the folder is gone or every validator has stopped.
"""

import sys
import time
from pathlib import Path
from typing import Final

from atpar.cli.errors import CliError, ConfigurationProblem
from atpar.cli.testnet.officers import Officers
from atpar.cli.testnet.processes import is_running
from atpar.cli.testnet.recipe import CNH, HKD
from atpar.cli.testnet.record import load_record

INTERVAL_S: Final = 600.0
CHECK_S: Final = 2.0


def main(folder: Path) -> int:
    """Attest every ten minutes until the testnet is gone; return the exit code."""
    due = time.monotonic() + INTERVAL_S
    while True:
        time.sleep(CHECK_S)
        try:
            record = load_record(folder)
        except ConfigurationProblem:
            return 0
        processes = [validator.process for validator in record.validators]
        if not any(process is not None and is_running(process) for process in processes):
            return 0
        if time.monotonic() < due:
            continue
        try:
            for asset in (HKD, CNH):
                Officers(folder, record).attest(asset)
        except CliError as error:
            sys.stderr.write(f"attestation failed, trying again: {error}\n")
            continue
        due = time.monotonic() + INTERVAL_S


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
