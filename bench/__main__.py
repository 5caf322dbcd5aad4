"""Runs all benchmarks and writes their figures: `make bench`.

    python -m bench [NAME …]

Each writes `bench/results/NAME.json` with the machine, the commit and the command. Machines are
noisy: compare the ratios inside one file before you compare two files.
"""

import argparse
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ATPAR = [sys.executable, "-c", "from atpar.cli.main import main; main()"]
LOAD = ["testnet", "run", "--validators", "4", "--duration", "30", "--json"]

BENCHMARKS: dict[str, list[str]] = {
    "verify": [*ATPAR, "bench", "verify", "--json"],
    "execute": [*ATPAR, "bench", "execute", "--json"],
    "tree": [*ATPAR, "bench", "tree", "--json"],
    "state": [*ATPAR, "bench", "state", "--json"],
    "testnet-200": [*ATPAR, *LOAD, "--rate", "200"],
    "testnet-crash": [
        *ATPAR, *LOAD, "--rate", "200", "--kill", "3@10", "--restart", "3@20",
    ],
    "testnet-load": [*ATPAR, *LOAD, "--rate", "5000"],
    "testnet-bulk": [*ATPAR, *LOAD, "--rate", "400", "--bulk", "100"],
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"no benchmark {', '.join(unknown)}")
    RESULTS.mkdir(exist_ok=True)
    worst = 0
    for name in names:
        print(f"== {name}", flush=True)
        done = subprocess.run(BENCHMARKS[name], stdout=subprocess.PIPE, text=True, check=False)
        (RESULTS / f"{name}.json").write_text(done.stdout, encoding="utf-8")
        print(done.stdout)
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
