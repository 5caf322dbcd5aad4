"""`python -m tests.sim`: run seeds, replay one with a line per event, measure finality."""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.sim.profiles import PROFILES
from tests.sim.runner import Outcome, Summary, compute_percentile, run_seed, run_seeds
from tests.sim.wan import Setting, measure, measure_heal, summarize


def parse_range(text: str) -> range:
    """Return the seeds of `A-B` (both included) or `A`."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def get_commit() -> str:
    """Return the commit that this tree stands on, marked when files differ from it."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def describe(total: Summary) -> dict[str, object]:
    return {
        "seeds": total.seeds,
        "steps": total.steps,
        "violations": total.violations,
        "stalls": total.stalls,
        "finality_ms": {
            "p50": compute_percentile(total.latencies, 50),
            "p99": compute_percentile(total.latencies, 99),
        },
        "digest": total.digest,
    }


def run(options: argparse.Namespace) -> int:
    started, cpu = time.monotonic(), time.process_time()
    commit = get_commit()

    def report(outcome: Outcome) -> None:
        what = outcome.violation or outcome.stall
        if what is not None:
            print(f"seed {outcome.seed}: {what}", file=sys.stderr)
            print(
                f"  at commit {commit}; replay: python -m tests.sim replay --seed {outcome.seed}"
                f" --profile {options.profile} --validators {options.validators}",
                file=sys.stderr,
            )
        if options.verbose:
            kinds = ",".join(outcome.kinds)
            print(
                f"seed {outcome.seed}: {outcome.steps} steps, height {outcome.height},"
                f" recovery {outcome.recovery_ms} ms [{kinds}]",
                file=sys.stderr,
            )

    total = run_seeds(
        options.seeds,
        profile=options.profile,
        validators=options.validators,
        jobs=options.jobs,
        report=report,
    )
    found = describe(total)
    if options.json:
        print(json.dumps(found))
    else:
        spent, used = time.monotonic() - started, time.process_time() - cpu
        found["recovery_ms"] = {
            "p50": compute_percentile(total.recoveries, 50),
            "p99": compute_percentile(total.recoveries, 99),
            "max": max(total.recoveries, default=None),
        }
        for name, value in found.items():
            print(f"{name:12} {value}")
        print(f"{'blocks':12} {total.heights}")
        print(f"{'seconds':12} {spent:.1f} ({used:.1f} of one core)")
        if options.jobs == 1:
            print(f"{'seeds/min':12} {60 * total.seeds / max(used, 0.001):.0f} on one core")
    return 1 if total.violations or total.stalls else 0


def replay(options: argparse.Namespace) -> int:
    outcome = run_seed(
        options.seed, profile=options.profile, validators=options.validators, trace=print
    )
    if outcome.violation is not None:
        print(f"VIOLATION {outcome.violation}")
    if outcome.stall is not None:
        print(f"STALL {outcome.stall}")
    print(f"steps {outcome.steps}, digest {outcome.digest}")
    return 1 if outcome.violation or outcome.stall else 0


def wan(options: argparse.Namespace) -> int:
    """Print wide-area figures for every number of validators, one object or one line each."""
    rows = []
    measured = []
    for validators in options.validators:
        faults = (validators - 1) // 3
        crashed = faults if options.crashed == "f" else int(options.crashed)
        setting = Setting(
            validators=validators,
            rtt_ms=options.rtt,
            jitter_percent=options.jitter,
            rate_per_s=options.rate,
            crashed=crashed,
            seconds=options.seconds,
            seed=options.seed,
        )
        row: dict[str, object] = {"validators": validators, "crashed": crashed}
        if options.heal:
            times = [
                measure_heal(replace(setting, seed=seed), cut_ms=10_000)
                for seed in range(options.heal)
            ]
            row["first_payment_ms"] = summarize([first for first, _ in times])
            row["all_payments_ms"] = summarize([last for _, last in times])
        else:
            figures = measure(setting)
            measured.append((setting, figures))
            row["calm_ms"] = summarize(figures.calm)
            if crashed:
                row["first_5_s_ms"] = summarize(figures.aftermath)
                row["after_5_s_ms"] = summarize(figures.steady)
            row["not_final"] = figures.unfinal
        rows.append(row)
        if not options.json:
            print(row)
    if options.json:
        print(json.dumps({"commit": get_commit(), "rtt_ms": options.rtt, "rows": rows}))
    if options.plot is not None and measured:
        from tests.sim.plot import (
            draw_finality,
        )  # the one thing here that needs a package for tests

        draw_finality(options.plot, measured)
    return 0


def parse_pair(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, act in (("run", run), ("replay", replay)):
        command = commands.add_parser(name)
        command.set_defaults(act=act)
        command.add_argument("--profile", choices=PROFILES, default="all")
        command.add_argument("--validators", type=int, default=4)
        if name == "run":
            command.add_argument("--seeds", type=parse_range, default=range(200))
            command.add_argument("--json", action="store_true")
            command.add_argument("--jobs", type=int, default=1, help="processes; same digest")
            command.add_argument("--verbose", action="store_true")
        else:
            command.add_argument("--seed", type=int, required=True)
    command = commands.add_parser("wan")
    command.set_defaults(act=wan)
    command.add_argument(
        "--validators", type=lambda t: [int(n) for n in t.split(",")], default=[4, 7, 10, 31]
    )
    command.add_argument("--crashed", default="0", help="how many adjacent leaders die, or f")
    command.add_argument("--rtt", type=parse_pair, default=(200, 250))
    command.add_argument("--jitter", type=float, default=5.0, help="percent of the latency")
    command.add_argument("--rate", type=float, default=50.0, help="payments a second")
    command.add_argument("--seconds", type=int, default=20)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--heal", type=int, default=0, help="so many healed partitions instead")
    command.add_argument("--plot", type=Path, help="draw the figures into this SVG file")
    command.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: int = options.act(options)
    return result


if __name__ == "__main__":
    sys.exit(main())
