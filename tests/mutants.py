"""Plants known mistakes in a copy of the tree, one at a time: the tests must notice each.

    make mutants                        or: python -m tests.mutants [NAME ...] [--every-killer]

Each mutant is an exact replacement of source text; it fails loudly when that text has moved. A
command that notices one has to pass on the untouched copy. A survivor, or a mutant that no longer
applies, makes the exit code 1.
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

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300
Command = tuple[str, ...]


def sim(profile: str, seeds: str) -> Command:
    """Return the command that runs seeds of a profile."""
    return ("tests.sim", "run", "--profile", profile, "--seeds", seeds, "--json")


def test(*paths: str) -> Command:
    """Return the command that runs tests until the first failure."""
    return ("pytest", "-q", "-x", *paths)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake, and who should notice it."""

    name: str
    path: str
    old: str
    new: str
    killers: tuple[Command, ...]


SAFETY = test("tests/consensus/test_safety.py")
REPLICA = test("tests/consensus/test_replica.py", "tests/consensus/test_traps.py")
LEDGER = "tests/ledger"
LIGHT_CLIENT = test("tests/ledger/test_recovery.py")
RECOVERY = test("tests/node/test_recover.py")

MUTANTS = (
    Mutant(
        "finalize after nullify",
        "consensus/safety.py",
        "        if view in self._nullified:\n            return None\n        if kind",
        "        if kind is SignKind.NOTARIZE and view in self._nullified:\n"
        "            return None\n        if kind",
        (sim("partition", "0-14"), SAFETY),
    ),
    Mutant(
        "nullify after finalize",
        "consensus/safety.py",
        "            if view in self._finalized or view in self._nullified:",
        "            if view in self._nullified:",
        (SAFETY,),
    ),
    Mutant(
        "two notarizes in a view",
        "consensus/safety.py",
        "            if view in self._notarized:\n                return None\n",
        "",
        (SAFETY,),
    ),
    Mutant(
        "no memory of votes across a restart",
        "consensus/engine.py",
        "        self.gate.restore(vote)\n",
        "",
        (sim("crash", "0-19"), REPLICA),
    ),
    Mutant(
        "no ancestry check",
        "consensus/state.py",
        "            if state is None or state.nullification is None:\n                return False\n",
        "",
        (test("tests/consensus/test_ancestry.py"),),
    ),
    Mutant(
        "quorum of f + 1",
        "ledger/certificates.py",
        "    return validators - (validators - 1) // 3",
        "    return (validators - 1) // 3 + 1",
        (sim("partition", "0-14"), test("tests/ledger/test_certificates.py")),
    ),
    Mutant(
        "vote without a record",
        "consensus/engine.py",
        "        self._out.append(Persist(VoteRecord(vote)))\n",
        "",
        (sim("honest", "0-2"), REPLICA),
    ),
    Mutant(
        "send before persist",
        "node/driver.py",
        "        if records and self._journal is not None:\n            await self._append(records)\n",
        "        for action in decided:\n"
        "            if isinstance(action, actions.Send | actions.Broadcast):\n"
        "                self._perform(action)\n"
        "        decided = [\n"
        "            action\n"
        "            for action in decided\n"
        "            if not isinstance(action, actions.Send | actions.Broadcast)\n"
        "        ]\n"
        "        if records and self._journal is not None:\n            await self._append(records)\n",
        (test("tests/node/test_driver.py"),),
    ),
    Mutant(
        "skip the state-root comparison",
        "ledger/execute.py",
        "    for name in header.__struct_fields__:\n"
        "        _check_same(name, getattr(header, name), getattr(executed.header, name))\n",
        "",
        (sim("byzantine", "13-15"), test("tests/ledger/test_execute.py")),
    ),
    Mutant(
        "batch verification that accepts one bad signature",
        "node/validator.py",
        "            if all(given.verdicts[position:end]):",
        "            if sum(not good for good in given.verdicts[position:end]) <= 1:",
        (sim("byzantine", "45"), test("tests/node/test_validator.py")),
    ),
    Mutant(
        "batch in the ledger that accepts one bad signature",
        "ledger/keys.py",
        "        return list(map(ed_verify, signatures, messages, keys))",
        "        found = list(map(ed_verify, signatures, messages, keys))\n"
        "        return [True] * len(found) if found.count(False) <= 1 else found",
        (test("tests/ledger/test_batch.py"),),
    ),
    Mutant(
        "known keys among others of which every signature is believed",
        "node/known_keys.py",
        "                verdicts[place] = is_confirmed\n",
        "                verdicts[place] = is_confirmed or True\n",
        (test("tests/node/test_known_keys.py"),),
    ),
    Mutant(
        "batch of known keys of which every signature is believed",
        "node/known_keys.py",
        "            verdicts = checker.confirm(tables, keys, messages, signatures)\n",
        "            verdicts = [True] * len(keys)\n",
        (test("tests/node/test_known_keys.py"),),
    ),
    Mutant(
        "sums whose sign of x is not compared",
        "node/curve_code.py",
        "        encoding = b.or_(self.reduce(self.multiply(y, own)), sign)\n",
        "        encoding = b.or_(self.reduce(self.multiply(y, own)), b.and_(sign, ir.Constant(NUMBER, 0)))\n",
        (test("tests/node/test_known_keys.py"),),
    ),
    Mutant(
        "used ids denied while some were not read yet",
        "node/used_ids.py",
        "        self.is_complete = False\n",
        "        self.is_complete = True\n",
        (test("tests/node/test_used_ids.py"),),
    ),
    Mutant(
        "used ids noted after they are on the disk",
        "node/store.py",
        "        self._note_used_ids(block.overlay for block in blocks)\n        self._engine.write(_encode_commit(blocks, position) + pages)\n",
        "        self._engine.write(_encode_commit(blocks, position) + pages)\n        self._note_used_ids(block.overlay for block in blocks)\n",
        (test("tests/node/test_used_ids.py"),),
    ),
    Mutant(
        "records that the cache lacks taken for none beside others that it has",
        "ledger/state.py",
        "        if not all(records):",
        "        if not any(records):",
        (test("tests/ledger/test_state.py"), test("tests/ledger/test_payment_runs.py")),
    ),
    Mutant(
        "a block one byte too large",
        "ledger/execute.py",
        "        if self._bytes + size > self.params.max_block_bytes:",
        "        if self._bytes + size > self.params.max_block_bytes + 1:",
        (test("tests/ledger/test_execute.py"),),
    ),
    Mutant(
        "looking ahead without a bound in operations",
        "ledger/execute.py",
        "            if len(following) == _FORESEEN or ops >= _FORESEEN_OPS:",
        "            if len(following) == _FORESEEN:",
        (test("tests/ledger/test_execute.py"),),
    ),
    Mutant(
        "sums of nodes inside a page forgotten by the code for trees",
        "node/tree_writer.py",
        "            self.add_to(self._change, b.load(self._change_below))\n",
        "",
        (test("tests/node/test_tree_code.py"),),
    ),
    Mutant(
        "code used for blocks before it was tried",
        "node/ledger_code.py",
        "    compare_with_python(code.tree)\n    compare_with_decoding(code.payments)\n    return code\n",
        "    return code\n",
        (test("tests/node/test_ledger_code.py"),),
    ),
    Mutant(
        "longer heads than need be taken for canonical by the code for payments",
        "node/payment_code.py",
        "    w.demand_same(head.measure(w, number), b.add(width, word(1)))\n",
        "",
        (test("tests/node/test_payment_code.py"),),
    ),
    Mutant(
        "room not looked at by the code for payments",
        "node/payment_code.py",
        '        self.demand(self.b.icmp_unsigned("<=", count, self.b.sub(self.end, self.place)))\n',
        "",
        (test("tests/node/test_payment_code.py"),),
    ),
    Mutant(
        "payments to oneself recognised by the code for payments",
        "node/payment_code.py",
        "        r.demand(b.not_(r.is_same(creditor_at, sender_at, size)))\n",
        "        pass\n",
        (test("tests/node/test_payment_code.py"),),
    ),
    Mutant(
        "own payments in an envelope of any form",
        "ledger/transactions.py",
        "        _has_good_form(body, envelope.signatures) and are_own_payments(body.sender, body.ops),\n",
        "        are_own_payments(body.sender, body.ops),\n",
        (test("tests/ledger/test_values.py"),),
    ),
    Mutant(
        "votes checked ahead of which every one is believed",
        "node/votes_ahead.py",
        "                if is_valid:\n",
        "                if is_valid is not None:\n",
        (test("tests/node/test_votes_ahead.py"),),
    ),
    Mutant(
        "verified-cache keyed by client id",
        "node/validator.py",
        "        unverified = [tx for tx in body.transactions if tx.hash not in self.verified]\n",
        "        find = self.mempool.find\n"
        "        fresh = [tx for tx in body.transactions if tx.hash not in self.verified]\n"
        "        unverified = [tx for tx in fresh if find(tx.body.sender, tx.body.tx_id) is None]\n",
        (test("tests/sim/test_findings.py"),),
    ),
    Mutant(
        "header.parent unchecked",
        "consensus/proposals.py",
        "    if info.parent != parent.digest:",
        "    if False:",
        (test("tests/consensus/test_traps.py"),),
    ),
    Mutant(
        "nullification jumps ahead",
        "consensus/engine.py",
        "                state.nullification = certificate\n",
        "                state.nullification = certificate\n"
        "                self.view = max(self.view, view)\n",
        (REPLICA, sim("partition", "0-14")),
    ),
    Mutant(
        "reserve gate on the supply before the mint",
        "ledger/supply.py",
        "    needed = after * (",
        "    needed = (after - op.amount) * (",
        (test("tests/ledger/test_supply.py"),),
    ),
    Mutant(
        "transfer that reads both balances before it writes",
        "ledger/payments.py",
        '        _add(ctx, f"{asset}|{debtor}".encode(), -amount)\n'
        "    if creditor is not None:\n"
        '        _add(ctx, f"{asset}|{creditor}".encode(), amount)\n',
        '        held = ctx.overlay.get(BALANCES, f"{asset}|{creditor}".encode()) or NO_BALANCE\n'
        '        _add(ctx, f"{asset}|{debtor}".encode(), -amount)\n'
        "    if creditor is not None:\n"
        "        if debtor is not None:\n"
        '            ctx.overlay.put(BALANCES, f"{asset}|{creditor}".encode(), held)\n'
        '        _add(ctx, f"{asset}|{creditor}".encode(), amount)\n',
        (test("tests/ledger/test_payments.py"),),
    ),
    Mutant(
        "plain payments that may go to the debtor",
        "ledger/plain.py",
        "                or creditor == debtor\n",
        "",
        (test("tests/ledger/test_payment_runs.py"),),
    ),
    Mutant(
        "plain payments out of what is held",
        "ledger/plain.py",
        "                    floor = balance.held\n",
        "                    floor = 0\n",
        (test("tests/ledger/test_payment_runs.py"),),
    ),
    Mutant(
        "plain payments that forget what the debtor did before",
        "ledger/plain.py",
        "        free = posted.get(debtor, payer.balance.posted) - payer.floor\n",
        "        free = payer.balance.posted - payer.floor\n",
        (test("tests/ledger/test_payment_runs.py"),),
    ),
    Mutant(
        "plain payments that are not settled before other operations",
        "ledger/execute.py",
        "        self._plain.settle()\n        overlay.checkpoint()\n",
        "        overlay.checkpoint()\n",
        (test("tests/ledger/test_payment_runs.py"),),
    ),
    Mutant(
        "an id used twice in one block",
        "ledger/ids.py",
        "        if key in self._used:\n            return self._height\n",
        "",
        (test("tests/ledger/test_ids.py"),),
    ),
    Mutant(
        "a purge that loses the rest of a run",
        "ledger/ids.py",
        "            overlay.put(TX_LISTS, _run_key(hour, first), kept)\n",
        "            del first\n",
        (test("tests/ledger/test_ids.py"),),
    ),
    Mutant(
        "proof verifier that trusts the total",
        "ledger/treeproofs.py",
        "    if computed != root:\n",
        "    if computed.hash != root.hash:\n",
        (test("tests/ledger/test_tree.py", "tests/ledger/test_proofs.py"),),
    ),
    Mutant(
        "a recovery by fewer administrators than the quorum",
        "ledger/recovery.py",
        "    if len(names) < quorum:",
        "    if len(names) < quorum - 1:",
        (LIGHT_CLIENT, RECOVERY),
    ),
    Mutant(
        "administrators of a set that is not the one that stopped",
        "ledger/proofs.py",
        "    if identify_validators(records) != before.validators:",
        "    if records.epoch != before.validators.epoch:",
        (LIGHT_CLIENT,),
    ),
    Mutant(
        "a recovery below a block that its epoch finalised",
        "ledger/proofs.py",
        "    if len(base.headers) > 1:",
        "    if len(base.headers) < 0:",
        (LIGHT_CLIENT,),
    ),
    Mutant(
        "a recovery below a block that this validator voted to finalise",
        "consensus/recovery.py",
        "        if above.digest not in abandoned:",
        "        if abandoned and above.digest not in abandoned:",
        (RECOVERY, test("tests/consensus/test_recovery.py")),
    ),
    Mutant(
        "votes in an epoch that the journal has left",
        "consensus/replica.py",
        "        if self._has_left(start.epoch) or not self._may_vote(start.validators):",
        "        if not self._may_vote(start.validators):",
        (RECOVERY,),
    ),
)


def copy_tree(target: Path) -> None:
    """Copy what the tests need; links stay links, so the copy imports itself."""
    skipped = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", ".*_cache", "htmlcov", "results", "build", "dist"
    )
    shutil.copytree(ROOT, target, symlinks=True, ignore=skipped)


def run(command: Command, tree: Path) -> bool:
    """Return whether a command succeeds in a tree; one that takes too long does not."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tree / '.links'}{os.pathsep}{tree}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def find_place(tree: Path) -> str:
    """Return the file from which a process in the copy imports the code under test."""
    environment = {**os.environ, "PYTHONPATH": f"{tree / '.links'}{os.pathsep}{tree}"}
    code = "import atpar.consensus.engine as e; print(e.__file__)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()


def judge(mutant: Mutant, tree: Path, *, every: bool) -> list[Command]:
    """Plant one mutant, and return the commands that fail; leave the tree as it was."""
    path = tree / mutant.path
    source = path.read_text()
    if source.count(mutant.old) != 1:
        raise LookupError(f"{mutant.path}: the text occurs {source.count(mutant.old)} times")
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        killers = []
        for command in mutant.killers:
            if not run(command, tree):
                killers.append(command)
                if not every:
                    break
        return killers
    finally:
        path.write_text(source)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; default: all")
    parser.add_argument("--every-killer", action="store_true", help="run all commands of each")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or any(n in m.name for n in options.names)]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="atpar-mutants-") as folder:
        tree = Path(folder).resolve() / "tree"
        copy_tree(tree)
        place = find_place(tree)
        if not place.startswith(str(tree)):
            print(f"the copy imports {place}, not itself")
            return 1
        clean: dict[Command, bool] = {}
        for mutant in chosen:
            began = time.monotonic()
            try:
                killers = judge(mutant, tree, every=options.every_killer)
            except LookupError as moved:
                verdict, bad = f"DOES NOT APPLY: {moved}", bad + 1
            else:
                for command in killers:
                    if command not in clean:
                        clean[command] = run(command, tree)
                names = [" ".join(p for p in c if p[0] != "-") for c in killers if clean[c]]
                verdict = f"killed by {', '.join(names)}" if names else "SURVIVED"
                if any(not clean[command] for command in killers):
                    verdict += ", and a command fails without it too"
                bad += not names
            print(f"{mutant.name:52} {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(chosen)} mutants, {bad} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
