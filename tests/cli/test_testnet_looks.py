"""What is said of a testnet that stands still, or of a validator that was dead already."""

import pytest

from atpar.cli.testnet import watch
from atpar.cli.testnet.network import NodeView
from atpar.cli.testnet.record import ValidatorRecord, load_record
from tests.cli.helpers import run

VALIDATORS = [ValidatorRecord(f"v{n}", f"BNK{n}", "", "", None) for n in range(1, 5)]


@pytest.mark.parametrize(("running", "stands"), [(4, False), (3, False), (2, True), (0, True)])
def test_lost_quorum_is_explained(running: int, *, stands: bool) -> None:
    views = [NodeView(each, n < running, None) for n, each in enumerate(VALIDATORS)]
    reason = watch.explain_standstill(views)
    assert (reason is not None) is stands
    if reason is not None:
        assert f"{running} of 4 validators run, 3 are needed" in reason


def test_dead_validator_is_not_said_to_be_killed_in_the_folder_that_home_names(tmp_path):
    folder = tmp_path / "net"
    assert run("testnet", "prepare", "--dir", folder).exit_code == 0
    home = {"ATPAR_HOME": str(folder)}
    result = run("testnet", "kill", "3", environment=home)
    assert result.exit_code == 0
    assert f"{load_record(folder).validators[2].name} was not running" in result.out
    assert "no quorum: 0 of 4" in run("testnet", "status", environment=home).err
