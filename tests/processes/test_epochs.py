"""The voting set changes while payments flow: one joins, one takes another vote key, one leaves.

The steps are those of `docs/operations.md`, with the commands that it names.
"""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from atpar.cli.testnet import recipe
from atpar.cli.testnet.ask import ask
from atpar.cli.testnet.layout import GENESIS_FILE
from atpar.cli.testnet.network import kill_node, start_node
from atpar.cli.testnet.ports import HOST, list_ports
from atpar.cli.testnet.processes import stop, wait_until
from atpar.cli.testnet.record import (
    PASSPHRASE_FILE,
    TestnetRecord,
    ValidatorRecord,
    load_record,
    save_record,
)
from tests.cli.helpers import run
from tests.processes.network import running_network
from tests.processes.payer import ORDER, Payer, choose

EPOCH_BLOCKS = 60
WAIT_S = 60.0
NEWCOMER = "JDCL"


def atpar(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    """Run a command against the network; return the object that it prints."""
    passphrase = ("--passphrase-file", folder / PASSPHRASE_FILE)
    done = run(*arguments, *passphrase, "--json", transport=httpx.HTTPTransport())
    assert done.exit_code == 0, (arguments, done.err)
    found: dict[str, Any] = done.json
    return found


def prepare_newcomer(folder: Path, record: TestnetRecord) -> Path:
    """Set up and start the node of one that is no validator yet; return its member file."""
    keys, home = folder / "newcomer", folder / "v5"
    api, network = (f"{HOST}:{port}" for port in list_ports(record.port_base, 5)[4])
    for name in ("vote", "governance"):
        new = run(
            "keys", "new", name, "--keys", keys, "--scrypt-log2-n", "4",
            "--passphrase-file", folder / PASSPHRASE_FILE,
        )  # fmt: skip
        assert new.exit_code == 0, new.err
    genesis = folder / GENESIS_FILE
    init = ("node", "init", "--home", home, "--participant", NEWCOMER, "--joins")
    listen = ("--network-listen", network, "--api-listen", api)
    atpar(folder, *init, *listen, "--genesis", genesis, "--keys", keys)
    member = ValidatorRecord("v5", NEWCOMER, f"http://{api}", network, None)
    record = replace(record, validators=(*record.validators, member))
    save_record(folder, record)
    start_node(folder, record, 4)
    return make_member(folder, NEWCOMER, keys, root=keys / "tls-root.pem", address=network)


def make_member(
    folder: Path, code: str, keys: Path, *, root: Path, address: str, vote_key: str = "vote"
) -> Path:
    path = folder / f"{code}.json"
    atpar(
        folder, "--home", folder, "validators", "member", code, path, "--keys", keys,
        "--vote-key", vote_key, "--root-certificate", root, "--address", address,
    )  # fmt: skip
    return path


def prepare_rotation(folder: Path, record: TestnetRecord, index: int) -> Path:
    """Give a validator its next vote key; return its member file."""
    seat = record.validators[index]
    home, keys = folder / seat.name, folder / "keys" / seat.participant
    made = run(
        "keys", "new", "vote-2", "--keys", keys, "--scrypt-log2-n", "4",
        "--passphrase-file", folder / PASSPHRASE_FILE,
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    shutil.copy(keys / "vote-2.key", home / "keys" / "next.key")
    config = (home / "node.toml").read_text()
    assert "[keys]\n" in config
    changed = config.replace("[keys]\n", '[keys]\nnext_vote = "keys/next.key"\n')
    (home / "node.toml").write_text(changed)
    assert seat.process is not None
    stop([seat.process])
    start_node(folder, load_record(folder), index)
    root, address = home / "keys" / "tls-root.pem", seat.network
    return make_member(
        folder, seat.participant, keys, root=root, address=address, vote_key="vote-2"
    )


def wait_set(api: str, codes: list[str]) -> int:
    """Wait until these are the validators; return the epoch."""

    def is_set() -> bool:
        found = ask(api, "/v1/validators")
        return found is not None and [v["participant"] for v in found["validators"]] == codes

    wait_until(is_set, what=f"the set {codes}", timeout_s=WAIT_S)
    found = ask(api, "/v1/validators")
    assert found is not None
    return int(found["epoch"])


def wait_height(api: str, height: int) -> None:
    def is_there() -> bool:
        found = ask(api, "/v1/status")
        return found is not None and found["read_height"] >= height

    wait_until(is_there, what=f"block {height} at {api}", timeout_s=WAIT_S)


def test_validators_join_rotate_and_leave_while_payments_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(recipe.build_params(), epoch_blocks=EPOCH_BLOCKS, heartbeat_ms=200)
    monkeypatch.setattr(recipe, "build_params", lambda: params)
    with running_network(tmp_path, load_accounts=ORDER.load_accounts) as record:
        payer = Payer(tmp_path, record)
        first = record.validators[0].api
        with payer.paying():
            added = [prepare_newcomer(tmp_path, record), prepare_rotation(tmp_path, record, 1)]
            adding = [part for path in added for part in ("--add", path)]
            change = ("validators", "set", *adding, "--remove", "DLTA", "--yes")
            changed = atpar(tmp_path, "--home", tmp_path, *change)
            assert changed["code"] == "OK"
            epoch = wait_set(first, ["ALFA", "BRVO", "CHRL", NEWCOMER])
            payer.wait_paid(5)
            # The one that left has the last block of its last epoch, and is missed by nobody.
            wait_height(record.validators[3].api, epoch * EPOCH_BLOCKS)
            kill_node(record, 3)
            # Without CHRL the quorum of three needs the newcomer and the new key.
            kill_node(record, 2)
            payer.wait_paid(10)
            start_node(tmp_path, load_record(tmp_path), 2)
            payer.wait_paid(5)
        payer.check(tmp_path, choose(load_record(tmp_path), ["v1", "v2", "v3", "v5"]))
