"""Real validators in a temporary folder, for one test or one module of tests."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from atpar.cli.testnet.lifecycle import bring_up, prepare
from atpar.cli.testnet.network import look, make_command, stop_network
from atpar.cli.testnet.processes import wait_until
from atpar.cli.testnet.record import TestnetRecord, load_record, locked

END_TIMEOUT_S = 60.0


def ignore(_text: str) -> None:
    """Say nothing."""


@contextmanager
def running_network(folder: Path, *, load_accounts: int = 0) -> Iterator[TestnetRecord]:
    """Run four validators; on leaving nothing that was started still runs."""
    with locked(folder):
        record = prepare(folder, validators=4, load_accounts=load_accounts)
    try:
        yield bring_up(folder, record, ignore, attest=True)
    finally:
        stop_network(folder, load_record(folder))


def wait_ready(record: TestnetRecord) -> None:
    """Wait until every validator serves; between hearing of a block and having it, one does not."""
    wait_until(
        lambda: all(view.state == "ready" for view in look(record)),
        what="validators that are ready",
        timeout_s=END_TIMEOUT_S,
    )


def read_heights(record: TestnetRecord) -> list[int]:
    """Return the last final block of every validator, once each has answered."""
    found: list[int] = []

    def has_all() -> bool:
        found[:] = [view.height for view in look(record) if view.height is not None]
        return len(found) == len(record.validators)

    wait_until(has_all, what="an answer of every validator", timeout_s=END_TIMEOUT_S)
    return found


def run_node_to_its_end(home: Path) -> subprocess.CompletedProcess[str]:
    """Start a node that must refuse to run; return how it ended."""
    return subprocess.run(
        make_command("node", "run", "--home", str(home)),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=END_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def read_metric(api: str, name: str, **labels: str) -> float:
    """Return the sum of all series of a metric that carry these labels."""
    page = httpx.get(f"{api}/metrics", timeout=10, trust_env=False).text
    total = 0.0
    for line in page.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{([^}}]*)\}})? ([0-9.eE+]+)", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            total += float(found[2])
    return total


def read_memory_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])
