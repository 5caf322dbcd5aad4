"""The root command: help, versions, and where errors end."""

import subprocess
import sys

import click
import pytest

from atpar.cli import main as main_module
from atpar.cli.errors import (
    BY_EXIT_CODE,
    CliError,
    InternalProblem,
    RefusedByLedger,
    SafetyStop,
    WrongUsage,
    explain,
)
from atpar.ledger.codes import Code
from atpar.ledger.errors import GenesisInvalid, NonCanonical, ProofInvalid, Refused
from atpar.ledger.jsonform import JsonInvalid
from atpar.node.config import ConfigInvalid
from atpar.node.errors import Halted, JournalLost, StoreLocked
from tests.cli.helpers import run


@pytest.fixture
def broken_command(monkeypatch):
    """A command `broken` that raises what the test puts into the list."""
    errors: list[BaseException] = []

    @click.command()
    def broken_command() -> None:
        raise errors[0]

    module = type(sys)("atpar.cli.broken")
    module.broken_command = broken_command
    monkeypatch.setitem(sys.modules, "atpar.cli.broken", module)
    monkeypatch.setitem(main_module.COMMANDS, "broken", ("broken", "Fail."))
    return errors


def test_help_lists_every_command_without_importing_them():
    code = (
        "import sys; from atpar.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'trio', 'httpx', 'rich', 'cryptography', 'starlette'}\n"
        "found = sorted(heavy & set(sys.modules)); assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in main_module.COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_unknown_command_suggests_the_nearest():
    result = run("trasnfer")
    assert result.exit_code == 2
    assert "did you mean `transfer`?" in result.err
    assert "what to do: see `atpar --help`" in result.err
    assert result.out == ""


def test_unknown_option_is_wrong_usage_with_the_command_named():
    result = run("keys", "show", "x", "--frob")
    assert result.exit_code == 2
    assert "atpar keys show --help" in result.err


def test_json_may_stand_before_or_after_the_command(tmp_path):
    for args in (("--json", "keys", "list"), ("keys", "list", "--json")):
        result = run(*args, "--keys", tmp_path / "none")
        assert result.exit_code == 4
        assert result.error["kind"] == "keystore"
        assert result.error["exit_code"] == 4
        assert set(result.error) == {"kind", "exit_code", "message", "advice"}


def test_unexpected_exception_is_one_line_without_traceback(broken_command):
    broken_command.append(ZeroDivisionError("division\nby zero"))
    result = run("broken")
    assert result.exit_code == 1
    assert result.err.splitlines()[0] == "error: internal error: ZeroDivisionError: division"
    assert "--debug" in result.err
    assert "Traceback" not in result.err + result.out


def test_debug_adds_the_traceback(broken_command):
    broken_command.append(ZeroDivisionError("x"))
    result = run("--debug", "broken")
    assert result.exit_code == 1
    assert "Traceback" in result.err


def test_error_inside_a_nursery_is_seen_through(broken_command):
    broken_command.append(ExceptionGroup("nursery", [ExceptionGroup("inner", [Halted("roots")])]))
    result = run("broken")
    assert result.exit_code == 8
    assert "roots" in result.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interruption_is_130(broken_command, error):
    broken_command.append(error)
    result = run("broken")
    assert result.exit_code == 130


@pytest.mark.parametrize("kind", sorted(BY_EXIT_CODE.values(), key=lambda k: k.exit_code))
def test_every_class_ends_the_process_with_its_code(broken_command, kind):
    broken_command.append(kind("what happened", advice="what to do", tx_hash="ab"))
    result = run("--json", "broken")
    assert result.exit_code == kind.exit_code
    assert result.error == {
        "kind": kind.kind,
        "exit_code": kind.exit_code,
        "message": "what happened",
        "advice": "what to do",
        "tx_hash": "ab",
    }
    assert "what to do: what to do" in result.err


def test_exit_codes_are_the_documented_ones():
    codes = {*BY_EXIT_CODE, RefusedByLedger.exit_code}
    assert codes == {1, 2, 3, 4, 5, 6, 7, 8, 9, 130}


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ConfigInvalid("api.listen", "bad"), "configuration", "api.listen: bad"),
        (GenesisInvalid("assets[0]", "bad"), "configuration", "assets[0]: bad"),
        (StoreLocked("held"), "configuration", "held"),
        (JournalLost("rotted"), "safety_stop", "rotted"),
        (Halted("roots"), "safety_stop", "roots"),
        (JsonInvalid("ops[0].amount", "bad"), "wrong_usage", "ops[0].amount"),
        (OSError(5, "weird"), "internal_error", "weird"),
    ],
)
def test_errors_of_lower_layers_are_explained(error, kind, text):
    found = explain(error)
    assert found.kind == kind
    assert text in found.message
    assert found.advice not in ("", "see --help")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(Code.EXPIRED, "3 is past 2"), "EXPIRED"),
        (NonCanonical("body: not canonical"), "NON_CANONICAL"),
        (ProofInvalid("root differs"), "PROOF_INVALID"),
    ],
)
def test_refusals_keep_their_code(error, code):
    found = explain(error)
    assert isinstance(found, RefusedByLedger)
    assert found.code == found.details["code"] == code
    assert str(error) in found.message
    assert found.advice


def test_every_error_class_has_a_distinct_code_and_name():
    kinds = [*BY_EXIT_CODE.values(), RefusedByLedger]
    assert len({kind.exit_code for kind in kinds}) == len({kind.kind for kind in kinds}) == 10
    assert all(issubclass(kind, CliError) for kind in kinds)
    assert (InternalProblem.exit_code, WrongUsage.exit_code, SafetyStop.exit_code) == (1, 2, 8)


def list_leaves(command, path=()):
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            if found.hidden:  # a process that another command starts
                continue
            yield from list_leaves(found, (*path, name))
    else:
        yield " ".join(path), command


def test_every_command_helps_with_an_example():
    leaves = dict(list_leaves(main_module.cli))
    assert len(leaves) > 80
    bare = [path for path, command in leaves.items() if "Example: " not in (command.help or "")]
    assert bare == []
    for path, command in leaves.items():
        options = {option for param in command.params for option in param.opts}
        assert "--json" in options, path


@pytest.mark.parametrize("path", [(), ("testnet",), ("tx",)])
def test_group_without_arguments_shows_its_help_and_no_error(path):
    result = run(*path)
    assert result.exit_code == 2
    assert result.err.startswith("Usage: atpar")
    assert "Commands:" in result.err
    assert "error:" not in result.err
