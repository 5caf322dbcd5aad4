"""Plants known mistakes in copies of the code and checks that the tests notice each.

    python -m tests.mutants [NAME …]        (make mutants)

A mutant is a change that a tired engineer could make and that would lose or multiply money or
history. Each is planted alone in a copy, and the tests that should notice run there. A mutant that
no test kills fails the run: then a test is missing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("cli", "consensus", "ledger", "node", "tests", "docs", "deploy", ".links")
TIMEOUT_S = 900.0
TESTS_FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """One planted mistake."""

    name: str
    path: str
    found: str
    """Text that occurs exactly once in the file."""
    planted: str
    tests: tuple[str, ...]
    """Where a test should notice."""


MUTANTS = (
    Mutant(
        "finalize-after-nullify",
        "consensus/safety.py",
        "        if view in self._nullified:\n",
        "        if view in self._nullified and kind is SignKind.NOTARIZE:\n",
        ("tests/consensus",),
    ),
    Mutant(
        "nullify-after-finalize",
        "consensus/safety.py",
        "if view in self._finalized or view in self._nullified:",
        "if view in self._nullified:",
        ("tests/consensus",),
    ),
    Mutant(
        "two-notarizes-in-a-view",
        "consensus/safety.py",
        "            if view in self._notarized:\n                return None\n",
        "",
        ("tests/consensus",),
    ),
    Mutant(
        "no-ancestry-check",
        "consensus/engine.py",
        "if parent is None or not self.is_nullified_between(proposition.parent_view, view):\n"
        "            first =",
        "if parent is None:\n            first =",
        ("tests/consensus",),
    ),
    Mutant(
        "quorum-of-f-plus-one",
        "ledger/certificates.py",
        "    return validators - (validators - 1) // 3\n",
        "    return (validators - 1) // 3 + 1\n",
        ("tests/ledger", "tests/consensus"),
    ),
    Mutant(
        "send-before-persist",
        "node/driver.py",
        "        if records and self._journal is not None:\n"
        "            await self._append(records)\n"
        "        for action in decided:\n"
        "            if not isinstance(action, actions.Persist):\n"
        "                self._perform(action)\n",
        "        for action in decided:\n"
        "            if not isinstance(action, actions.Persist):\n"
        "                self._perform(action)\n"
        "        if records and self._journal is not None:\n"
        "            await self._append(records)\n",
        ("tests/node",),
    ),
    Mutant(
        "state-root-not-compared",
        "ledger/execute.py",
        "    for name in header.__struct_fields__:\n        _check_same(",
        '    for name in header.__struct_fields__:\n        if name == "state_root":\n'
        "            continue\n        _check_same(",
        ("tests/ledger", "tests/node"),
    ),
    Mutant(
        "batch-forgives-one-bad-signature",
        "ledger/keys.py",
        "    return [verify(key, message, signature) for key, message, signature in triples]\n",
        "    verdicts = [verify(key, message, signature) for key, message, signature in triples]\n"
        "    return [True] * len(verdicts) if verdicts.count(False) == 1 else verdicts\n",
        ("tests/ledger", "tests/node"),
    ),
    Mutant(
        "verified-cache-keyed-by-client-id",
        "node/validator.py",
        "        unverified = [tx for tx in body.transactions if tx.hash not in self._verified]\n",
        "        known = self._verified\n"
        "        unverified = [tx for tx in body.transactions if tx.body.tx_id not in known]\n"
        "        for tx in body.transactions:\n"
        "            self._verified.add(tx.body.tx_id)\n",
        ("tests/node",),
    ),
    Mutant(
        "header-parent-unchecked",
        "consensus/proposals.py",
        "    if info.parent != parent.digest:\n",
        "    if False:\n",
        ("tests/consensus",),
    ),
    Mutant(
        "reserve-gate-before-the-mint",
        "ledger/supply.py",
        "    needed = after * (MAX_BASIS_POINTS",
        "    needed = (after - op.amount) * (MAX_BASIS_POINTS",
        ("tests/ledger",),
    ),
    Mutant(
        "transfer-reads-both-balances-first",
        "ledger/payments.py",
        "    if debtor is not None:\n"
        '        _add(ctx, f"{asset}|{debtor}".encode(), -amount)\n'
        "    if creditor is not None:\n",
        '    key = f"{asset}|{creditor}".encode()\n'
        "    old = ctx.overlay.get(BALANCES, key)\n"
        "    if debtor is not None:\n"
        '        _add(ctx, f"{asset}|{debtor}".encode(), -amount)\n'
        "    if old is not None:\n"
        "        ctx.overlay.put(BALANCES, key, old)\n"
        "    if creditor is not None:\n",
        ("tests/ledger",),
    ),
    Mutant(
        "proof-verifier-trusts-the-total",
        "ledger/tree.py",
        "    if computed != root:\n        raise ProofInvalid(",
        "    if computed.hash != root.hash:\n        raise ProofInvalid(",
        ("tests/ledger",),
    ),
    Mutant(
        "funding-reference-not-remembered",
        "ledger/supply.py",
        "    if ctx.overlay.get(FUNDING_REFS, reference) is not None:\n",
        "    if False:\n",
        ("tests/ledger",),
    ),
)


def plant(mutant: Mutant, folder: Path) -> None:
    """Write a copy of the project with the mistake in it."""
    for name in COPIED:
        shutil.copytree(
            ROOT / name,
            folder / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("pyproject.toml", "README.md", "requirements.lock", "requirements-test.lock"):
        shutil.copy(ROOT / name, folder / name)
    path = folder / mutant.path
    text = path.read_text()
    assert text.count(mutant.found) == 1, f"{mutant.name}: its place in {mutant.path} has moved"
    path.write_text(text.replace(mutant.found, mutant.planted))


def run_tests(mutant: Mutant, folder: Path) -> tuple[int, str]:
    """Run the tests that should notice in a copy; return pytest's exit code and last words."""
    # The links make `atpar` a namespace of this very copy, before the installed one.
    environment = {**os.environ, "PYTHONPATH": str(folder / ".links"), "PYTHONSAFEPATH": ""}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        # A mistake that makes a test wait for ever has been noticed too.
        return TESTS_FAILED, f"no end within {TIMEOUT_S:.0f} s"
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    return done.returncode, (failed or lines or ["nothing"])[-1]


def main() -> int:
    """Plant each mutant; return 1 if any survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    names = parser.parse_args().names
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survivors = []
    for mutant in chosen:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="atpar-mutant-") as temporary:
            plant(mutant, Path(temporary))
            code, words = run_tests(mutant, Path(temporary))
        killed = code == TESTS_FAILED
        verdict = "killed" if killed else "SURVIVED" if code == 0 else f"BROKEN ({code})"
        seconds = time.monotonic() - began
        sys.stdout.write(f"{verdict:<10} {mutant.name:<36} {seconds:5.0f} s  {words[:110]}\n")
        sys.stdout.flush()
        if not killed:
            survivors.append(mutant.name)
    sys.stdout.write(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
