"""The only place that writes to the terminal: results to stdout, progress to stderr.

With `--json` stdout carries exactly one object with stable keys (streams: one object a line), ids
and amounts as strings; the progress on stderr is the same as without.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from atpar.cli.errors import CliError

TICK = "✓"
WIDE = 1_000
"""Columns of a table that goes into a file or pipe: nothing is ever cut."""

Row = Sequence[object]


class Output:
    """Writes what a command has to say, in one of two forms."""

    def __init__(self) -> None:
        self.as_json = False

    # ---- results

    def show(self, data: Mapping[str, Any], text: str | Iterable[str] = ()) -> None:
        """Print a result: the object as JSON, or the lines for people."""
        if self.as_json:
            click.echo(json.dumps(data, ensure_ascii=False))
            return
        for line in [text] if isinstance(text, str) else text:
            click.echo(line.rstrip())

    def show_event(self, data: Mapping[str, Any], text: str) -> None:
        """Print one item of a stream, at once."""
        self.show(data, text)
        sys.stdout.flush()

    # ---- progress

    def note(self, text: str) -> None:
        """Print a line of progress."""
        click.echo(text, err=True)

    def done(self, text: str) -> None:
        """Print a step that is done."""
        click.echo(f"{click.style(TICK, fg='green')} {text}", err=True)

    def warn(self, text: str) -> None:
        """Print something that needs attention and does not stop the command."""
        click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)

    # ---- questions

    def is_interactive(self) -> bool:
        """Return whether a person can answer: both ends of the terminal are there."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    # ---- errors

    def fail(self, error: CliError) -> None:
        """Print an error: for people on stderr, and with --json as the object on stdout."""
        click.echo(f"{click.style('error:', fg='red')} {error.message}", err=True)
        if meaning := error.details.get("meaning"):
            click.echo(f"  what it means: {meaning}", err=True)
        click.echo(f"  what to do: {error.advice}", err=True)
        if self.as_json:
            body = {
                "kind": error.kind,
                "exit_code": error.exit_code,
                "message": error.message,
                "advice": error.advice,
                **error.details,
            }
            click.echo(json.dumps({"error": body}, ensure_ascii=False))


def table(headings: Sequence[str], rows: Iterable[Row], *, right: Iterable[str] = ()) -> list[str]:
    """Return the lines of a table; the columns named in `right` are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    on_right = set(right)
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        grid.add_column(
            heading, justify="right" if heading in on_right else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(grid)
    return [line.rstrip() for line in capture.get().splitlines()]


def fields(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Return `name   value` lines, the values aligned; None is shown as a dash."""
    known = list(pairs)
    width = max((len(name) for name, _ in known), default=0)
    return [f"{name:<{width}}  {_cell(value)}" for name, value in known]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))


def clean(text: str) -> str:
    """Return text from outside without control characters, so that it cannot drive a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
