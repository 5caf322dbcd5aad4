"""A quorum of validators loses everything; administrators reopen the chain, as an operator would.

The steps are those of `docs/operations.md`, with the commands that it names.
"""

import shutil
from pathlib import Path
from typing import Any

from atpar.cli.testnet.ask import ask_status
from atpar.cli.testnet.network import kill_node, look, start_node
from atpar.cli.testnet.processes import stop, wait_until
from atpar.cli.testnet.record import PASSPHRASE_FILE, TestnetRecord, load_record
from tests.cli.helpers import run
from tests.processes.network import running_network
from tests.processes.payer import ORDER, Payer

WAIT_S = 60.0
CODES = ("ALFA", "BRVO", "CHRL", "DLTA")
WIPED = (2, 3)


def atpar(*arguments: str | Path) -> dict[str, Any]:
    """Run a command that needs no node; return the object that it prints."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, (arguments, done.err)
    found: dict[str, Any] = done.json
    return found


def stop_nodes(record: TestnetRecord, *indexes: int) -> None:
    processes = [record.validators[index].process for index in indexes]
    assert stop(process for process in processes if process is not None) == 0


def start_nodes(folder: Path, *indexes: int) -> TestnetRecord:
    record = load_record(folder)
    for index in indexes:
        record = start_node(folder, record, index)
    return record


def wait_at(record: TestnetRecord, height: int, *indexes: int) -> None:
    """Wait until these nodes answer and their last final block is at this height."""

    def are_there() -> bool:
        found = [ask_status(record.validators[index].api) for index in indexes]
        return all(status is not None and status["read_height"] == height for status in found)

    wait_until(are_there, what=f"block {height}", timeout_s=WAIT_S)


def wait_equal_heights(record: TestnetRecord, *indexes: int) -> int:
    """Wait until these nodes answer with one and the same height; return it."""
    heights: set[int | None] = set()

    def are_equal() -> bool:
        nonlocal heights
        views = look(record)
        heights = {views[index].height for index in indexes}
        return len(heights) == 1 and None not in heights

    wait_until(are_equal, what="equal heights", timeout_s=WAIT_S)
    return heights.pop() or 0


def lose_quorum(folder: Path, payer: Payer) -> int:
    """Let all die at once and two lose their data folder; return the others' final height."""
    payer.pay(payer.make())
    record = load_record(folder)
    paid_at = wait_equal_heights(record, 0, 1, 2, 3)
    for index in range(4):
        kill_node(record, index)
    for index in WIPED:
        shutil.rmtree(folder / record.validators[index].name / "data")
    height = wait_equal_heights(start_nodes(folder, 0, 1), 0, 1)
    assert height >= paid_at
    return height


def sign_document(folder: Path, path: Path) -> None:
    """Let three administrators sign copies of a document, each alone, and join them."""
    parts = []
    for code in CODES[:3]:
        part = folder / f"recovery-{code}.json"
        shutil.copy(path, part)
        keys, passphrase = folder / "keys" / code, folder / PASSPHRASE_FILE
        sign = ("node", "recover", "sign", part, "--participant", code)
        signed = atpar(*sign, "--keys", keys, "--passphrase-file", passphrase)
        assert signed["signed_by"] == [code]
        parts.append(part)
    joined = atpar("node", "recover", "join", path, *parts)
    assert joined["signed_by"] == list(CODES[:3])


def test_chain_whose_quorum_was_wiped_is_reopened_and_every_payment_counts_once(
    tmp_path: Path,
) -> None:
    with running_network(tmp_path, load_accounts=ORDER.load_accounts) as started:
        payer = Payer(tmp_path, started)
        height = lose_quorum(tmp_path, payer)
        homes = [tmp_path / each.name for each in started.validators]
        stop_nodes(load_record(tmp_path), 0, 1)

        path = tmp_path / "recovery.json"
        drafted = atpar("node", "recover", "draft", path, "--home", homes[0])
        assert (drafted["epoch"], drafted["height"]) == (1, height)
        for index in (0, 1):
            atpar("node", "recover", "check", path, "--home", homes[index])
        sign_document(tmp_path, path)
        for index in (0, 1):
            atpar("node", "recover", "apply", path, "--home", homes[index])
        start_nodes(tmp_path, 0, 1)

        for index in WIPED:
            atpar("node", "rejoin", "--home", homes[index], "--epoch", "0")
        record = start_nodes(tmp_path, *WIPED)
        wait_at(record, height, *WIPED)
        stop_nodes(record, *WIPED)
        for index in WIPED:
            atpar("node", "recover", "apply", path, "--home", homes[index])
        record = start_nodes(tmp_path, *WIPED)

        with payer.paying():
            payer.wait_paid(20)
        payer.check(tmp_path, record)
        assert {view.status["epoch"] for view in look(record) if view.status is not None} == {1}
