"""The demo and the testnet commands as a person runs them, each a process of its own."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from atpar.cli.testnet.network import make_command
from atpar.cli.testnet.processes import ProcessRef, is_running, wait_until
from atpar.cli.testnet.record import load_record

COMMAND_TIMEOUT_S = 240.0


def atpar(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        make_command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def answer_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def list_processes(folder: Path) -> list[ProcessRef]:
    record = load_record(folder)
    found = [*(each.process for each in record.validators), record.attester, record.links]
    return [process for process in found if process is not None]


def test_demo_tells_the_whole_story_and_leaves_nothing_running(tmp_path: Path) -> None:
    told = answer_of(atpar("demo", "--keep", "kept", "--json", cwd=tmp_path))
    codes = [step["code"] for step in told["steps"]]
    assert codes.count("OK") == len(codes) - 3
    assert {"FUNDING_REUSED", "RESERVE_SHORT", "ACCOUNT_FROZEN"} <= set(codes)
    assert len(set(told["state_roots"].values())) == 1
    assert not any(is_running(process) for process in list_processes(tmp_path / "kept"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        make_command("demo", "--keep", "kept"),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    folder = tmp_path / "kept"
    try:
        wait_until(
            lambda: (folder / "testnet.json").exists() and len(list_processes(folder)) == 4,
            what="four validators",
            timeout_s=60,
        )
        demo.send_signal(number)
        assert demo.wait(timeout=60) == 130
    finally:
        demo.kill()
        demo.wait()
    assert not any(is_running(process) for process in list_processes(folder))


def test_testnet_goes_up_takes_a_mint_and_is_stopped_exactly(tmp_path: Path) -> None:
    up = answer_of(atpar("testnet", "up", "--detach", "--json", "--dir", "net", cwd=tmp_path))
    try:
        assert Path(up["genesis"]).is_file()
        assert [each["name"] for each in up["validators"]] == ["v1", "v2", "v3", "v4"]
        assert all(isinstance(each["pid"], int) for each in up["validators"])
        mint = ("testnet", "mint", "--to", "ALFA/treasury", "--amount", "100.00", "--json")
        minted = answer_of(atpar(*mint, "--dir", "net", cwd=tmp_path))
        assert minted["code"] == "OK"
        verify = ("verify", minted["receipt"], "--genesis", up["genesis"], "--json")
        assert answer_of(atpar(*verify, cwd=tmp_path))["valid"] is True

        def all_ready() -> bool:
            status = answer_of(atpar("testnet", "status", "--json", "--dir", "net", cwd=tmp_path))
            return [each["state"] for each in status["validators"]] == ["ready"] * 4

        wait_until(all_ready, what="validators that are ready", timeout_s=60)
        change = ("--json", "--dir", "net")
        cut = answer_of(atpar("testnet", "partition", "1,BRVO", *change, cwd=tmp_path))
        assert cut == {"partition": [["v1", "v2"], ["v3", "v4"]], "slow_ms": {}}
        slow = answer_of(atpar("testnet", "slow", "v3", "--ms", "300", *change, cwd=tmp_path))
        assert slow == {**cut, "slow_ms": {"v3": 300}}
        looked = atpar("testnet", "status", "--dir", "net", cwd=tmp_path)
        assert "v1, v2 cut off from v3, v4" in looked.stderr
        assert "v3 slowed by 300 ms" in looked.stderr
        whole = answer_of(atpar("testnet", "heal", *change, cwd=tmp_path))
        assert whole == {"partition": [], "slow_ms": {}}
        again = atpar("testnet", "up", "--detach", "--dir", "net", cwd=tmp_path)
        assert again.returncode == 2, "it runs already"
    finally:
        stopped = answer_of(atpar("testnet", "stop", "--json", "--dir", "net", cwd=tmp_path))
    assert stopped["stopped"] == 6
    assert not any(is_running(process) for process in list_processes(tmp_path / "net"))
    assert answer_of(atpar("testnet", "stop", "--json", "--dir", "net", cwd=tmp_path)) == {
        "dir": str(tmp_path / "net"),
        "stopped": 0,
    }
