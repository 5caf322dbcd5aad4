"""Every `atpar` command in the documents and in `deploy/` exists, with every option it is given."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest

from atpar.cli.main import cli
from atpar.ledger.jsonform import operation_name
from atpar.ledger.operations import Operation

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
DEPLOYED = sorted(
    path for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.suffix != ".json"
)
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(atpar [a-z][^`]*)`")
LINE = re.compile(
    r"^\s*(?:\$ |try +|ExecStart(?:Pre)?=|#   (?:sudo -u atpar )?)?(?:\S*/)?(atpar [a-z-].*)$"
)
LIST = re.compile(r'\[("[^\]]*")\]')
END = re.compile(r" {2,}| #|[;|]| → ")
"""What ends a command in a line of text: a wide gap before an explanation, a comment, a pipe."""


def list_documented(path: Path) -> Iterator[str]:
    text = path.read_text()
    for block in FENCE.findall(text):
        yield from list_lines(block)
    yield from (found.replace("\n", " ") for found in INLINE.findall(FENCE.sub("", text)))


def list_lines(text: str) -> Iterator[str]:
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        found = LINE.match(line)
        if found:
            yield END.split(found[1])[0].strip()


def list_deployed(path: Path) -> Iterator[str]:
    text = path.read_text()
    yield from list_lines(text)
    for found in LIST.findall(text):
        words = json.loads(f"[{found}]")
        if words[0] == "atpar" or words[0] in cli.list_commands(click.Context(cli)):
            yield shlex.join(words if words[0] == "atpar" else ["atpar", *words])


COMMANDS = sorted(
    {
        *(command for path in DOCUMENTS for command in list_documented(path)),
        *(command for path in DEPLOYED for command in list_deployed(path)),
    }
)


def test_documents_show_commands() -> None:
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("line", COMMANDS)
def test_command_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="atpar")
    options: set[str] = set()
    while isinstance(command, click.Group):
        options |= {opt for param in command.params for opt in param.opts}
        while words and words[0].startswith("-"):
            assert words.pop(0).partition("=")[0] in options, line
            if words and not words[0].startswith("-"):
                words.pop(0)
        if not words:
            return
        found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]!r} in: {line}"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    options |= {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
    options |= {"--help"}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= options, f"{sorted(used - options)} in: {line}"


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_readme_names_every_operation_and_every_document() -> None:
    readme = (ROOT / "README.md").read_text()
    operations = {operation_name(kind) for kind in get_args(Operation)}
    assert not {name for name in operations if f"`{name}`" not in readme}
    documents = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert not {name for name in documents if name not in readme}
