"""Nodes that must not start say why, and end with the exit code of the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from atpar.cli.errors import ConfigurationProblem, KeystoreProblem, SafetyStop
from atpar.cli.testnet.lifecycle import prepare
from atpar.cli.testnet.network import stop_network
from atpar.cli.testnet.record import PASSPHRASE, TestnetRecord, load_record
from atpar.node.keystore import LOCAL_LOG2_N, create_seed, write_key
from tests.processes.network import run_node_to_its_end, running_network, wait_ready


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[TestnetRecord]:
    """A network that never ran."""
    yield prepare(tmp_path, validators=4)
    stop_network(tmp_path, load_record(tmp_path))


@pytest.mark.usefixtures("prepared")
def test_node_with_another_vote_key_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "v1" / "keys" / "vote.key"
    path.unlink()
    write_key(path, seed=create_seed(), passphrase=PASSPHRASE, log2_n=LOCAL_LOG2_N)
    ended = run_node_to_its_end(tmp_path / "v1")
    assert ended.returncode in (ConfigurationProblem.exit_code, KeystoreProblem.exit_code)
    assert "vote" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("prepared")
def test_node_with_a_wrong_passphrase_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "v1" / "passphrase").write_text("not it\n")
    ended = run_node_to_its_end(tmp_path / "v1")
    assert ended.returncode == KeystoreProblem.exit_code
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("prepared")
def test_node_with_another_chains_genesis_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "v1" / "genesis.json"
    path.write_text(path.read_text().replace('"heartbeat_ms": 5000', '"heartbeat_ms": 5001'))
    ended = run_node_to_its_end(tmp_path / "v1")
    assert ended.returncode == ConfigurationProblem.exit_code
    assert "Traceback" not in ended.stderr


def test_node_with_a_damaged_journal_stops_for_safety(tmp_path: Path) -> None:
    with running_network(tmp_path):
        pass
    journal = tmp_path / "v1" / "data" / "votes.journal"
    data = bytearray(journal.read_bytes())
    data[len(data) // 3] ^= 0x10
    journal.write_bytes(data)
    ended = run_node_to_its_end(tmp_path / "v1")
    assert ended.returncode == SafetyStop.exit_code
    assert "journal" in ended.stderr
    assert journal.read_bytes() == data, "the evidence is left as it was"


def test_second_node_on_the_same_folder_is_refused_and_the_first_lives(tmp_path: Path) -> None:
    with running_network(tmp_path) as record:
        ended = run_node_to_its_end(tmp_path / "v1")
        assert ended.returncode == ConfigurationProblem.exit_code
        assert "Traceback" not in ended.stderr
        wait_ready(record)
