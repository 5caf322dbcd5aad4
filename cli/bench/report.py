"""What every benchmark prints: rows of figures, with the machine, the commit and the command."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from atpar.cli.flamegraph import sampling
from atpar.cli.output import Output
from atpar.ledger.hashing import FEW, find_many_hashes
from atpar.node.ledger_code import prepare_ledger_code

T = TypeVar("T")
Row = Mapping[str, float | int | str | bool]


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one benchmark."""

    name: str
    rows: Sequence[Row]
    """One per variant, all with the same keys."""
    notes: Sequence[str] = ()
    """What a reader has to know to read them."""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "bench": self.name,
            "command": " ".join(["atpar", *sys.argv[1:]]),
            "commit": get_commit(),
            "machine": describe_machine(),
            "load_average": [round(value, 2) for value in os.getloadavg()],
            "notes": list(self.notes),
            "results": [dict(row) for row in self.rows],
        }

    def list_lines(self) -> list[str]:
        """Return a table for people: one line per figure, one column per variant."""
        lines = []
        for name in self.rows[0]:
            cells = "".join(f"{_show(row.get(name)):>16}" for row in self.rows)
            lines.append(f"{name:>28}{cells}")
        return [*lines, *(f"  {note}" for note in self.notes)]


def show(output: Output, report: Report) -> None:
    """Print a report as a table or as JSON."""
    output.show(report.as_json(), report.list_lines())


def run_profiled(work: Callable[[], T], target: Path | None) -> T:
    """Run the work; with a target, write a flame graph of it: `flamegraph.write` says how.

    It runs with the machine code that a node makes when it starts.
    """
    prepare_ledger_code(warn=lambda text: click.echo(text, err=True)).join()
    with sampling(*filter(None, [target])):
        return work()


def describe_machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "platform": platform.platform(),
        "processor": _find_processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "ledger_code": find_many_hashes(FEW) is not None,
    }


def _find_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def get_commit() -> str:
    """Return the commit of the source tree, marked when files differ from it; else `unknown`."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def compute_median(values: Iterable[float]) -> float:
    """Return the middle value of a run's samples."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
