"""`atpar bench`: the benchmarks as commands."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from atpar.cli.bench.report import Report, Row, run_profiled, show
from atpar.cli.context import State, output_options, pass_state
from atpar.cli.errors import InternalProblem
from atpar.cli.flamegraph import FOLDED, PICTURE
from atpar.cli.testnet.recipe import BANKS

profile_option = click.option(
    "--profile", type=click.Path(path_type=Path, dir_okay=False),
    help="Write a flame graph to this file: SVG, or stacks as text if it ends in .folded.",
)  # fmt: skip
seed_option = click.option(
    "--seed", type=int, default=1, show_default=True, help="Same seed, same work."
)

ATPAR: Final = (sys.executable, "-c", "from atpar.cli.main import main; main()")


@click.group("bench")
def bench_command() -> None:
    """Measure this machine: ratios inside one run are what to compare.

    Figures of a busy machine are wrong; every report holds the load average.
    """


@bench_command.command("verify")
@click.option("--workers", type=click.IntRange(0, 64), multiple=True, default=(0, 1, 2),
              show_default=True, help="Numbers of worker processes to try.")  # fmt: skip
@click.option("--signatures", type=click.IntRange(1_000, 1_000_000), default=8_192,
              show_default=True, help="In each round.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1_000), default=16, show_default=True)
@seed_option
@profile_option
@output_options
@pass_state
def verify_command(
    state: State, /, *, workers: Sequence[int], profile: Path | None, **options: int
) -> None:
    """Signatures a second: the node's verifier against the bare library.

    Example: atpar bench verify
    """
    from atpar.cli.bench.verify import measure

    report = run_profiled(lambda: measure(workers=workers, **options), profile)
    show(state.output, report)


@bench_command.command("execute")
@click.option("--accounts", "sizes", type=click.IntRange(2, 100_000_000), multiple=True,
              default=(1_000, 1_000_000), show_default=True)  # fmt: skip
@click.option("--blocks", type=click.IntRange(1, 10_000), default=60, show_default=True)
@click.option("--transfers", type=click.IntRange(100, 4_000), default=1_000, show_default=True,
              help="In each block.")  # fmt: skip
@seed_option
@profile_option
@output_options
@pass_state
def execute_command(
    state: State, /, *, sizes: Sequence[int], profile: Path | None, **options: int
) -> None:
    """A payment without its signature: decoding, checks, effect, receipt.

    Example: atpar bench execute
    """
    from atpar.cli.bench.execute import measure

    report = run_profiled(lambda: measure(sizes=sizes, **options), profile)
    show(state.output, report)


@bench_command.command("tree")
@click.option("--accounts", "sizes", type=click.IntRange(2, 100_000_000), multiple=True,
              default=(1_000, 1_000_000), show_default=True)  # fmt: skip
@click.option("--blocks", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--transfers", type=click.IntRange(1, 10_000), default=1_000, show_default=True,
              help="In each block.")  # fmt: skip
@seed_option
@profile_option
@output_options
@pass_state
def tree_command(
    state: State, /, *, sizes: Sequence[int], profile: Path | None, **options: int
) -> None:
    """The solvency tree, per touched balance, against hashing alone.

    Example: atpar bench tree
    """
    from atpar.cli.bench.tree import measure

    def run() -> Report:
        rows = [measure(count, **options) for count in sizes]
        notes = ["all per touched balance or per account, times in microseconds"]
        return Report("tree", rows, notes)

    show(state.output, run_profiled(run, profile))


@bench_command.command("state")
@click.option("--accounts", type=click.IntRange(2, 100_000_000), default=100_000,
              show_default=True, help="Built on the disk first: about 300 bytes each.")  # fmt: skip
@click.option("--blocks", type=click.IntRange(2, 100_000), default=50, show_default=True)
@click.option("--transactions", type=click.IntRange(1, 4_000), default=1_000, show_default=True,
              help="In each block.")  # fmt: skip
@seed_option
@profile_option
@output_options
@pass_state
def state_command(state: State, /, *, profile: Path | None, **options: int) -> None:
    """What a large state costs one validator: memory, disk, time per payment.

    Example: atpar bench state --accounts 10000000 --blocks 300
    """
    from atpar.cli.bench.state import measure

    show(state.output, run_profiled(lambda: measure(**options), profile))


@bench_command.command("pipeline")
@click.option("--blocks", type=click.IntRange(2, 1_000), default=10, show_default=True)
@click.option("--transactions", type=click.IntRange(1, 4_000), default=1_000, show_default=True,
              help="In each block.")  # fmt: skip
@click.option("--bulk", type=click.IntRange(1, 1_000), default=1, show_default=True,
              help="Transfers in each transaction.")  # fmt: skip
@seed_option
@profile_option
@output_options
@pass_state
def pipeline_command(state: State, /, *, profile: Path | None, **options: int) -> None:
    """One validator's whole way of a payment, stage by stage.

    Example: atpar bench pipeline
    """
    from atpar.cli.bench.pipeline import measure

    show(state.output, run_profiled(lambda: measure(**options), profile))


@bench_command.command("testnet")
@click.option("--rate", "rates", type=float, multiple=True, default=(200.0, 1_000.0, 2_000.0),
              show_default=True, help="Transactions a second, one run for each.")  # fmt: skip
@click.option("--duration", type=float, default=15.0, show_default=True)
@click.option("--bulk", type=click.IntRange(1, 1_000), default=1, show_default=True)
@click.option("--find-p99-ms", type=click.FloatRange(min=0, min_open=True), metavar="MS",
              help="Instead of all rates: start at the first one and search the highest with a p99"
                   " below this, nothing lost and nothing failed.")  # fmt: skip
@profile_option
@output_options
@pass_state
def testnet_command(
    state: State,
    /,
    *,
    rates: Sequence[float],
    find_p99_ms: float | None,
    profile: Path | None,
    **load: Any,
) -> int:
    """Four real validators under open-loop load, at one rate after the other.

    The flame graph shows the first validator during the last run.

    Example: atpar bench testnet --rate 2000 --duration 60 --find-p99-ms 2000
    """
    from atpar.cli.bench.search import find_highest_rate

    rows: list[Row] = []
    codes: list[int] = []

    def run(rate: float) -> Row:
        state.output.note(f"{rate:.5g}/s for {load['duration']:g} s ...")
        code, row = _run_testnet(rate, profile=profile, **load)
        codes.append(code)
        rows.append(row)
        state.output.note(f"{rate:.5g}/s: {row['tps']}/s final, p99 {row['p99_ms']} ms")
        return row

    notes = ["finality from the scheduled send to a receipt with a verified certificate"]
    if find_p99_ms is None:
        for rate in rates:
            run(rate)
        worst = max(codes)
    else:
        found = find_highest_rate(lambda rate: _holds(run(rate), find_p99_ms), start=rates[0])
        said = "none of them" if found is None else f"{found:.5g}/s is the highest that"
        notes.append(f"{said} held: p99 below {find_p99_ms:g} ms, nothing lost, nothing failed")
        # Too slow is what a search is for; a broken promise is not.
        broken = [code for code, row in zip(codes, rows, strict=True) if not _is_sound(row)]
        worst = max(broken) if broken else 0 if found else InternalProblem.exit_code
    show(state.output, Report("testnet", rows, notes))
    return worst


def _holds(row: Row, p99_ms: float) -> bool:
    """Return whether a run kept every promise and was fast enough."""
    p99 = row["p99_ms"]
    fast = isinstance(p99, float) and p99 < p99_ms
    return _is_sound(row) and fast and row["lost"] == row["failed"] == 0


def _is_sound(row: Row) -> bool:
    """Return whether all validators agree and all money is there, however slow the run was."""
    return row["state_roots_equal"] is True and row["conservation"] is True


def _run_testnet(
    rate: float, *, duration: float, bulk: int, profile: Path | None
) -> tuple[int, Row]:
    """Return the exit code and the figures of one run."""
    command = [*ATPAR, "testnet", "run", "--json", "--rate", f"{rate}"]
    command += ["--duration", f"{duration}", "--bulk", f"{bulk}"]
    with tempfile.TemporaryDirectory(prefix="atpar-flames-") as folder:
        if profile is not None:
            command += ["--flamegraphs", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if profile is not None:
            suffix = FOLDED if profile.suffix == FOLDED else PICTURE
            _copy_if_there(Path(folder) / f"{BANKS[0]}{suffix}", profile)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise InternalProblem(
            f"testnet run ended with {done.returncode} and no figures",
            advice="run it by itself: atpar testnet run",
        ) from None
    if "finality_ms" not in found:
        raise InternalProblem(f"testnet run: {found}", advice="run it by itself")
    latencies, spent = found.pop("finality_ms"), found.pop("processor_us")
    found.pop("faults")
    row = {"rate": rate, **found, **{f"{k}_ms": v for k, v in latencies.items()}}
    return done.returncode, {
        **row,
        **{f"processor_us_{name}": value for name, value in spent.items()},
    }


def _copy_if_there(source: Path, target: Path) -> None:
    """Copy a file; a run that failed has none, and says itself why."""
    if source.exists():
        shutil.copyfile(source, target)
