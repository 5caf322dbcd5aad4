"""Parameters and validator sets from the command line, decided bank by bank."""

import json

import pytest

from atpar.node.identity import create_root
from tests.cli.helpers import run


def test_parameter_changes_at_its_height(desk):
    before = desk.run("params", "show", "--json").json
    result = desk.run("params", "set", "heartbeat_ms", "2000", "--at-height", "50")
    assert result.exit_code == 0, result.err
    assert "signing with ALFA/gov, BRVO/gov, CHRL/gov" in result.err
    after = desk.run("params", "show", "--json").json
    assert after["params"] == before["params"]
    assert after["pending"] == [{"name": "heartbeat_ms", "value": 2000, "height": 50}]
    assert "heartbeat_ms" in desk.run("params", "show").out


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [
        (("colour", "1"), 2),
        (("heartbeat_ms", "x"), 2),
        (("heartbeat_ms", "1"), 6),
        (("epoch_blocks", "100"), 6),
        (("heartbeat_ms", "2000", "--at-height", "1"), 6),
    ],
)
def test_parameters_have_ranges(desk, args, exit_code):
    desk.node.gateway.fund("ALFA/main", 1)
    result = desk.run("params", "set", *args)
    assert result.exit_code == exit_code, result.err


def test_validator_leaves_no_fewer_than_four(desk):
    shown = desk.run("validators", "show")
    assert "3 of 4" in shown.out
    assert "127.0.0.1:7101" in shown.out
    refused = desk.run("validators", "set", "--remove", "DLTA", "--json")
    assert refused.error["code"] == "QUORUM_UNSAFE"
    assert desk.run("validators", "set", "--remove", "NOBO").exit_code == 2
    assert desk.run("validators", "set").exit_code == 2


def test_fifth_validator_is_seated_from_the_file_it_made_itself(desk, tmp_path):
    for name in ("vote", "gov"):
        made = run(
            "keys", "new", f"JDCL/{name}", "--scrypt-log2-n", "4", "--home", desk.folder,
            transport=desk.node,
        )  # fmt: skip
        assert made.exit_code == 0, made.err
    root = tmp_path / "root.pem"
    root.write_bytes(create_root("JDCL").certificate)
    seat = tmp_path / "jdcl.json"
    member = desk.run(
        "validators", "member", "JDCL", seat, "--vote-key", "JDCL/vote", "--governance-key",
        "JDCL/gov", "--root-certificate", root, "--address", "10.0.0.5:7201",
    )  # fmt: skip
    assert member.exit_code == 0, member.err
    assert "PRIVATE" not in seat.read_text()
    proposal = desk.run(
        "propose", "validators", "set", "--add", seat, "--key", "ALFA/gov", "--json"
    ).json["proposal"]
    assert "10.0.0.5:7201" in desk.run("proposals", "show", proposal).out
    assert desk.run("approve", proposal).exit_code == 0
    assert desk.run("approve", proposal, "--json").json["executed"] is True
    answer = desk.run("validators", "show", "--json").json
    assert [each["participant"] for each in answer["next_members"]][-1] == "JDCL"
    assert len(answer["members"]) == 4
    # A second change starts from the set that is fixed already.
    again = desk.run("validators", "set", "--remove", "DLTA")
    assert again.exit_code == 0, again.err
    following = desk.run("validators", "show", "--json").json["next_members"]
    assert [each["participant"] for each in following] == ["ALFA", "BRVO", "CHRL", "JDCL"]


def test_member_files_are_checked(desk, tmp_path):
    path = tmp_path / "bad.json"
    for content in ("{", "{}", json.dumps({"member": {}, "possessions": []})):
        path.write_text(content)
        assert desk.run("validators", "set", "--add", path).exit_code == 2
    path.write_text("no certificate")
    result = desk.run(
        "validators", "member", "ALFA", tmp_path / "x", "--vote-key", "ALFA/pay",
        "--governance-key", "ALFA/gov", "--root-certificate", path, "--address", "a:1",
    )  # fmt: skip
    assert result.exit_code == 3
