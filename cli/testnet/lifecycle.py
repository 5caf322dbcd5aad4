"""From nothing to a network that finalises blocks: what `testnet up`, `testnet run` and the demo
share, and the way back.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from atpar.cli.errors import ConfigurationProblem
from atpar.cli.testnet.attester import attest_all
from atpar.cli.testnet.layout import create_testnet, list_local_seats
from atpar.cli.testnet.network import (
    INTERRUPTIONS,
    look,
    start_links,
    start_nodes,
    stop_network,
    wait_connected,
    wait_height,
)
from atpar.cli.testnet.ports import NoPortsFree, claim_ports, release_ports
from atpar.cli.testnet.record import RECORD, TestnetRecord, load_record, locked

Say = Callable[[str], None]


def prepare(
    folder: Path, *, validators: int, load_accounts: int = 0, workers: int = 0
) -> TestnetRecord:
    """Return the testnet of a folder, made now unless it is there already.

    Raises:
        WrongUsage: an impossible number of validators, or the folder holds something else.
        ConfigurationProblem: no ports are free.
    """
    if (folder / RECORD).exists():
        return load_record(folder)
    try:
        base = claim_ports(validators, owner=folder)
    except NoPortsFree as error:
        raise ConfigurationProblem(
            str(error), advice="stop another testnet: atpar testnet stop --dir DIR"
        ) from error
    try:
        record, _ = create_testnet(
            folder,
            list_local_seats(base, validators),
            port_base=base,
            load_accounts=load_accounts,
            workers=workers,
        )
    except BaseException:
        release_ports(base, owner=folder)
        raise
    return record


def bring_up(folder: Path, record: TestnetRecord, say: Say, *, attest: bool) -> TestnetRecord:
    """Start a prepared network; return once a block is final on every validator.

    With `attest` the fictional custodian attests the reserves, which makes that block.

    Raises:
        NotReady: it did not become healthy in time, or a process ended.
    """
    began = time.monotonic()

    def step(text: str) -> None:
        say(f"{text:<44}{time.monotonic() - began:.1f} s")

    count = len(record.validators)
    first, last = (record.validators[i].api.rpartition("//")[2] for i in (0, -1))
    record = start_nodes(folder, record)
    step(f"{count} validators    {first}-{last.rpartition(':')[2]}")
    wait_connected(folder, record)
    step("quorum connected")
    height = max(view.height or 0 for view in look(record)) + 1
    if attest:
        attest_all(folder, record)
    wait_height(folder, record, height)
    step(f"block {height} final")
    return record


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Treat a request to end, or a closed terminal, like Ctrl-C: what was started is stopped.

    Only the first signal counts until the context ends, so that a second one cannot break off the
    cleaning up: whatever has to be cleaned up belongs inside.
    """
    previous = {number: signal.signal(number, _interrupt) for number in INTERRUPTIONS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in INTERRUPTIONS:
        signal.signal(number, _go_on)
    raise KeyboardInterrupt


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN, a process started while cleaning up does not inherit it."""


@contextmanager
def temporary_network(
    folder: Path,
    say: Say,
    *,
    validators: int,
    load_accounts: int,
    attest: bool,
    workers: int = 0,
    profile: str | None = None,
) -> Iterator[TestnetRecord]:
    """Run a network in an empty folder for as long as the context lasts; nothing stays running.

    With a `profile` the validators find each other over lines that can be cut and slowed.
    """
    with locked(folder):
        record = prepare(
            folder, validators=validators, load_accounts=load_accounts, workers=workers
        )
    count = len(record.validators)
    say(f"genesis sealed by {count} of {count}    chain {record.name}")
    try:
        if profile is not None:
            record = start_links(folder, record, profile=profile)
        yield bring_up(folder, record, say, attest=attest)
    finally:
        stop_network(folder, load_record(folder))
