"""Processes are recognised by their start, and ended exactly."""

import signal
import sys
from pathlib import Path

import pytest

from atpar.cli.testnet import processes
from atpar.cli.testnet.ports import BLOCK, RANDOM_BASES, claim_ports, list_ports, release_ports
from atpar.cli.testnet.processes import (
    DeadlinePassed,
    ProcessRef,
    is_running,
    kill,
    send_signal,
    start,
    stop,
    wait_until,
)

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]
DEAF_SCRIPT = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""
DEAF = [sys.executable, "-c", DEAF_SCRIPT]


def test_started_process_runs_until_stopped(tmp_path: Path) -> None:
    process = start(FOREVER, log=tmp_path / "log", cwd=tmp_path)
    assert is_running(process)
    assert stop([process]) == 0
    assert not is_running(process)


def test_stop_is_idempotent(tmp_path: Path) -> None:
    process = start(FOREVER, log=tmp_path / "log", cwd=tmp_path)
    kill(process)
    assert stop([process, process]) == 0
    kill(process)


def test_process_that_ignores_the_request_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TERMINATE_TIMEOUT_S", 0.2)
    process = start(DEAF, log=tmp_path / "log", cwd=tmp_path)
    wait_until(lambda: b"deaf" in (tmp_path / "log").read_bytes(), what="it", timeout_s=10)
    assert stop([process]) == 1
    assert not is_running(process)


def test_stranger_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    process = start(FOREVER, log=tmp_path / "log", cwd=tmp_path)
    stranger = ProcessRef(process.pid, "another start")
    assert not is_running(stranger)
    assert not send_signal(stranger, signal.SIGKILL)
    kill(stranger)
    assert is_running(process)
    kill(process)


def test_wait_says_what_it_waited_for() -> None:
    with pytest.raises(DeadlinePassed, match="the impossible"):
        wait_until(lambda: False, what="the impossible", timeout_s=0.0)


def test_two_testnets_get_different_ports(tmp_path: Path) -> None:
    owners = [tmp_path / "one", tmp_path / "two"]
    bases = [claim_ports(4, owner=owner) for owner in owners]
    try:
        assert bases[0] != bases[1]
        sets = [{port for pair in list_ports(base, 4) for port in pair} for base in bases]
        assert not sets[0] & sets[1]
    finally:
        for base, owner in zip(bases, owners, strict=True):
            release_ports(base, owner=owner)


def test_only_the_owner_releases_a_claim(tmp_path: Path) -> None:
    base = claim_ports(4, owner=tmp_path / "one")
    try:
        release_ports(base, owner=tmp_path / "other")
        again = claim_ports(4, owner=tmp_path / "two")
        assert again != base
        release_ports(again, owner=tmp_path / "two")
    finally:
        release_ports(base, owner=tmp_path / "one")


def test_blocks_of_ports_hold_every_size_of_network() -> None:
    highest = RANDOM_BASES[-1]
    assert max(max(pair) for pair in list_ports(highest, 31)) < highest + BLOCK < 32_768
