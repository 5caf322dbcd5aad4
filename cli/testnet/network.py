"""Running a testnet's processes: start, wait for the first final block, kill, restart, stop."""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from atpar.cli.errors import NotReady
from atpar.cli.testnet.ask import ask_status
from atpar.cli.testnet.links import LINKS_FILE, read_ports
from atpar.cli.testnet.ports import release_ports
from atpar.cli.testnet.processes import (
    DeadlinePassed,
    ProcessRef,
    is_running,
    kill,
    start,
    stop,
    wait_until,
)
from atpar.cli.testnet.record import TestnetRecord, ValidatorRecord, load_record, save_record

PEERS_VARIABLE: Final = "ATPAR_NETWORK__PEERS"
START_TIMEOUT_S: Final = 60.0
INTERRUPTIONS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ATTEST_EVERY_S: Final = "600"
LAUNCHER: Final = "import sys; from atpar.cli.main import main; sys.exit(main())"
"""Runs `atpar` with this very interpreter, wherever its script was installed."""


def make_command(*arguments: str) -> list[str]:
    """Return the command line that runs `atpar` with these arguments."""
    return [sys.executable, "-c", LAUNCHER, *arguments]


@dataclass(frozen=True, slots=True)
class NodeView:
    """One validator as seen from outside, right now."""

    validator: ValidatorRecord
    is_running: bool
    status: dict[str, Any] | None
    """Its answer to /v1/status, null when it gives none."""

    @property
    def state(self) -> str:
        """`ready`, `catching_up`, …; `stopped` without a process, `silent` without an answer."""
        if not self.is_running:
            return "stopped"
        return "silent" if self.status is None else str(self.status["state"])

    @property
    def height(self) -> int | None:
        """The last final block on its disk."""
        return None if self.status is None else int(self.status["read_height"])


def look(record: TestnetRecord) -> list[NodeView]:
    """Return how every validator is; they are asked side by side."""
    with ThreadPoolExecutor(max_workers=len(record.validators)) as pool:
        return list(pool.map(_look_at, record.validators))


def _look_at(validator: ValidatorRecord) -> NodeView:
    alive = validator.process is not None and is_running(validator.process)
    return NodeView(validator, alive, ask_status(validator.api) if alive else None)


# ---- starting


def start_node(folder: Path, record: TestnetRecord, index: int) -> TestnetRecord:
    """Start one validator; return the record that names its process, saved."""
    validator = record.validators[index]
    home = (folder / validator.name).resolve()
    process = start(
        make_command("node", "run", "--home", str(home)),
        log=home / "logs" / "output.log",
        cwd=home,
        environment=_point_to_links(folder, record, validator.participant),
    )
    return _save_validator(folder, index, process)


def _point_to_links(folder: Path, record: TestnetRecord, participant: str) -> dict[str, str]:
    """Return the environment in which a validator finds its peers through the links process."""
    if record.links is None or not is_running(record.links):
        return {}
    ports = read_ports(folder)
    assert ports is not None, "the record names the process once it listens"
    return {PEERS_VARIABLE: msgspec.json.encode(ports.lines[participant]).decode()}


def start_links(folder: Path, record: TestnetRecord, *, profile: str) -> TestnetRecord:
    """Start the process between the validators; return once it listens. Start them after it.

    Raises:
        NotReady: it does not listen in time.
    """
    (folder / LINKS_FILE).unlink(missing_ok=True)
    process = start(
        make_command("testnet", "links", "--dir", str(folder.resolve()), "--profile", profile),
        log=folder / "logs" / "links.log",
        cwd=folder,
    )
    record = replace(record, links=process)
    save_record(folder, record)
    try:
        wait_until(
            lambda: read_ports(folder) is not None or not is_running(process),
            what="the lines between the validators",
            timeout_s=START_TIMEOUT_S,
        )
    except DeadlinePassed as error:
        raise NotReady(str(error), advice=f"look into {folder}/logs/links.log") from error
    if not is_running(process):
        raise NotReady(
            "the process between the validators ended by itself",
            advice=f"look into {folder}/logs/links.log",
        )
    return record


def start_nodes(folder: Path, record: TestnetRecord) -> TestnetRecord:
    """Start all validators."""
    for index in range(len(record.validators)):
        record = start_node(folder, record, index)
    return record


def start_attester(folder: Path) -> TestnetRecord:
    """Start the helper that keeps the reserve attested while a testnet runs."""
    process = start(
        make_command(
            "testnet", "attest", "--dir", str(folder.resolve()), "--every", ATTEST_EVERY_S
        ),
        log=folder / "logs" / "attester.log",
        cwd=folder,
    )
    record = replace(load_record(folder), attester=process)
    save_record(folder, record)
    return record


def _save_validator(folder: Path, index: int, process: ProcessRef) -> TestnetRecord:
    record = load_record(folder)
    validators = list(record.validators)
    validators[index] = replace(validators[index], process=process)
    record = replace(record, validators=tuple(validators))
    save_record(folder, record)
    return record


# ---- waiting


def wait_network(
    folder: Path,
    record: TestnetRecord,
    condition: Callable[[Sequence[NodeView]], bool],
    *,
    what: str,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Wait until a condition on all validators holds.

    Raises:
        NotReady: a process ended, or the time is over; the message ends with its last words.
    """

    def check() -> bool:
        views = look(record)
        for view in views:
            if not view.is_running:
                raise _explain_end(folder, view.validator)
        return condition(views)

    try:
        wait_until(check, what=what, timeout_s=timeout_s)
    except DeadlinePassed as error:
        raise NotReady(
            str(error),
            advice=f"look into {folder}/v1/logs; atpar testnet status --dir {folder}",
        ) from error


def wait_connected(folder: Path, record: TestnetRecord) -> None:
    """Wait until every validator is connected to a quorum.

    Raises:
        NotReady: it did not happen in time, or a process ended.
    """

    def connected(views: Sequence[NodeView]) -> bool:
        return all(
            view.status is not None and view.status["connected_validators"] >= view.status["quorum"]
            for view in views
        )

    wait_network(folder, record, connected, what="a connected quorum")


def wait_height(
    folder: Path, record: TestnetRecord, height: int, *, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Wait until every validator has a final block of at least this height.

    Raises:
        NotReady: it did not happen in time, or a process ended.
    """

    def reached(views: Sequence[NodeView]) -> bool:
        return all(view.height is not None and view.height >= height for view in views)

    wait_network(folder, record, reached, what=f"block {height}", timeout_s=timeout_s)


def wait_returned(
    folder: Path, record: TestnetRecord, index: int, *, timeout_s: float = START_TIMEOUT_S
) -> int:
    """Wait until one validator is ready and no block behind the others; return its own height.

    Raises:
        NotReady: it did not happen in time, or its process ended.
    """
    goal = max((view.height or 0 for view in look(record)), default=0)
    one = replace(record, validators=(record.validators[index],))

    reached = goal

    def returned(views: Sequence[NodeView]) -> bool:
        nonlocal reached
        reached = views[0].height or 0
        return views[0].state == "ready" and reached >= goal

    name = record.validators[index].name
    wait_network(folder, one, returned, what=f"the return of {name}", timeout_s=timeout_s)
    return reached


def _explain_end(folder: Path, validator: ValidatorRecord) -> NotReady:
    log = folder / validator.name / "logs" / "output.log"
    words = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
    said = " / ".join(words) or "it left no word"
    return NotReady(
        f"{validator.name} ({validator.participant}) ended by itself: {said}",
        advice=f"its logs are in {folder / validator.name / 'logs'}",
    )


# ---- ending


def kill_node(record: TestnetRecord, index: int) -> None:
    """End one validator as a power cut would."""
    process = record.validators[index].process
    if process is not None:
        kill(process)


def stop_network(folder: Path, record: TestnetRecord) -> int:
    """End exactly what was started for a testnet; return how many processes were still running."""
    validators = [validator.process for validator in record.validators]
    processes = [record.attester, *validators, record.links]
    running = [process for process in processes if process is not None and is_running(process)]
    # A second Ctrl-C must not leave half of them running; it is heard afterwards.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        stop(running)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    release_ports(record.port_base, owner=folder)
    return len(running)


def now_ms() -> int:
    """Return the wall clock in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
