"""`atpar demo`: the whole life of a stablecoin on a fresh network of four validators.

Everything is done with the ordinary commands, each run as a process of its own, exactly as shown
(with `--json` added, so that its answer can be checked). The demo fails if any step does not do
what the story says, and leaves nothing running either way.
"""

import json
import os
import subprocess
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from atpar.cli.amounts import format_amount
from atpar.cli.context import State, output_options, pass_state
from atpar.cli.errors import EXIT_DONE, CliError, RefusedByLedger, WrongUsage
from atpar.cli.output import Output, table
from atpar.cli.testnet.lifecycle import ended_like_interrupted
from atpar.cli.testnet.network import make_command, stop_network
from atpar.cli.testnet.recipe import CNH, HKD, SCALE
from atpar.cli.testnet.record import load_record

COMMAND_TIMEOUT_S: Final = 120.0
WIDTH: Final = 96
MAX_STATUS_TRIES: Final = 20


class DemoFailed(CliError):
    """A step did not do what the story says."""

    exit_code = 1
    kind = "demo_failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one command ended."""

    arguments: tuple[str, ...]
    exit_code: int
    answer: dict[str, Any]
    """Its JSON object; for an error, what is under `error`."""


@dataclass
class Told:
    """One transaction of the story, for the table at the end."""

    title: str
    code: str
    height: int | None
    final_ms: float | None
    signatures: str


@dataclass
class Stage:
    """Where the story is told: the folder, the output, and what has happened so far."""

    folder: Path
    output: Output
    told: list[Told] = field(default_factory=list)
    chapter: int = 0

    # ---- telling

    def open_chapter(self, title: str, text: str) -> None:
        """Start a part of the story."""
        self.chapter += 1
        self.say("")
        self.say(click.style(f"{self.chapter:>2}  {title}", bold=True))
        for line in textwrap.wrap(text, WIDTH - 4):
            self.say(f"    {line}")

    def say(self, text: str) -> None:
        """Print a line; with --json only the object at the end goes to stdout."""
        if self.output.as_json:
            click.echo(text, err=True)
        else:
            click.echo(text)

    def good(self, text: str) -> None:
        """Print what went as it should."""
        self.say(f"    {click.style('✓', fg='green')} {text}")

    # ---- doing

    def run(self, *arguments: str) -> Ended:
        """Show and run one command; return how it ended."""
        self.say(f"    {click.style('$ atpar ' + _quote(arguments), fg='cyan')}")
        done = subprocess.run(  # noqa: S603 - our own command line
            make_command(*arguments, "--json"),
            cwd=self.folder,
            env={**os.environ, "ATPAR_HOME": str(self.folder), "ATPAR_TESTNET": str(self.folder)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        try:
            answer = json.loads(done.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise self.fail(arguments, f"printed no JSON: {done.stdout}{done.stderr}") from None
        return Ended(arguments, done.returncode, answer.get("error", answer))

    def expect(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must succeed; return its answer."""
        ended = self.run(*arguments)
        if ended.exit_code != EXIT_DONE:
            raise self.fail(arguments, f"exit code {ended.exit_code}: {ended.answer}")
        return ended.answer

    def send(self, title: str, *arguments: str) -> dict[str, Any]:
        """Run a command whose transaction must become final with code OK."""
        answer = self.expect(*arguments)
        if answer.get("status") != "final" or answer.get("code") != "OK":
            raise self.fail(arguments, f"not final: {answer}")
        self._tell(title, answer)
        accepted = answer.get("accepted_ms")
        start = "" if accepted is None else f"accepted {accepted:.0f} ms → "
        self.good(
            f"{start}FINAL #{answer['height']} in {answer['final_ms']:.0f} ms"
            f" ({answer['signatures']} of {answer['validators']} signatures)"
        )
        return answer

    def refuse(self, title: str, code: str, *arguments: str) -> None:
        """Run a command that the ledger must refuse with this code."""
        ended = self.run(*arguments)
        if ended.exit_code != RefusedByLedger.exit_code or ended.answer.get("code") != code:
            raise self.fail(arguments, f"expected {code}, got {ended.exit_code}: {ended.answer}")
        self._tell(title, ended.answer)
        iso = ended.answer.get("iso_reason") or "no ISO code"
        text = ended.answer.get("meaning") or ended.answer["message"].rpartition(": ")[2]
        self.good(f"{click.style('refused', fg='yellow')}, as it must be: {code} ({iso}), {text}")

    def fail(self, arguments: tuple[str, ...], why: str) -> DemoFailed:
        """Return the error that ends the demo."""
        return DemoFailed(
            f"chapter {self.chapter}: `atpar {_quote(arguments)}`: {why}",
            advice="the story went wrong here; run `atpar demo --keep DIR` and look at DIR/v1/logs",
        )

    def _tell(self, title: str, answer: dict[str, Any]) -> None:
        signatures = answer.get("signatures")
        self.told.append(
            Told(
                title=title,
                code=str(answer.get("code")),
                height=answer.get("height"),
                final_ms=answer.get("final_ms"),
                signatures="" if signatures is None else f"{signatures}/{answer['validators']}",
            )
        )


def _quote(arguments: tuple[str, ...]) -> str:
    return " ".join(f'"{each}"' if " " in each else each for each in arguments)


@click.command("demo")
@click.option(
    "--keep",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the network's folder here: genesis, keys, receipts, logs.",
)
@output_options
@pass_state
def demo_command(state: State, *, folder: Path | None) -> None:
    """Tell the whole story on a fresh network of four validators, then stop it.

    Attest a reserve, mint, be refused, pay, exchange two currencies in one step, freeze, lose a
    validator and get it back, redeem, burn, and verify a receipt offline.

    Example: atpar demo
    """
    if folder is not None:
        if folder.exists() and any(folder.iterdir()):
            raise WrongUsage(f"{folder} is not empty", advice="choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with ended_like_interrupted():
            _tell_story(Stage(folder.resolve(), state.output))
        return
    # The folder holds keys: it goes away however the story ends.
    with (
        ended_like_interrupted(),
        tempfile.TemporaryDirectory(prefix="atpar-demo-") as temporary,
    ):
        _tell_story(Stage(Path(temporary), state.output))


def _tell_story(stage: Stage) -> None:
    stage.say(click.style("atpar: money that is always worth par", bold=True))
    stage.say("Four fictional banks run the ledger. Every command below is real; this runs them")
    stage.say(f"with ATPAR_HOME={stage.folder}, and with --json to check each answer.")
    with _running(stage):
        receipt = _tell_chapters(stage)
        facts = _gather(stage)
    _verify_offline(stage, receipt)
    _conclude(stage, facts)


@contextmanager
def _running(stage: Stage) -> Iterator[None]:
    """Run the network for as long as the context lasts, however it ends."""
    try:
        _start(stage)
        yield
    finally:
        if (stage.folder / "testnet.json").exists():
            stop_network(stage.folder, load_record(stage.folder))


def _start(stage: Stage) -> None:
    stage.open_chapter(
        "Four banks start a network",
        "Banks A, B, C and D are the validators. There are an issuer, a custodian that keeps the"
        " reserve, an auditor and a regulator; and two coins, for Hong Kong dollars and renminbi.",
    )
    found = stage.expect("testnet", "up", "--detach", "--no-attest", "--direct")
    ports = ", ".join(each["api"].rpartition(":")[2] for each in found["validators"])
    stage.good(f"chain {found['chain']}: 4 processes on ports {ports}, first block final")


# ---- the chapters


def _tell_chapters(stage: Stage) -> Path:
    """Tell everything between start and end; return the receipt to verify offline."""
    _attest(stage)
    _mint(stage)
    _pay(stage)
    _exchange(stage)
    _freeze(stage)
    _lose_a_validator(stage)
    return _redeem(stage)


def _attest(stage: Stage) -> None:
    stage.open_chapter(
        "The reserve is attested",
        "No coin exists before the money does. The custodian states what the reserve accounts"
        " hold; the auditor checks the same report and countersigns.",
    )
    for asset, amount in ((HKD, "1,000,000.00"), (CNH, "500,000.00")):
        report = f"reserve-{asset[:3].lower()}.txt"
        (stage.folder / report).write_text(f"Balance of the {asset} reserve account: {amount}\n")
        stage.send(
            f"attest {asset}", "attest", asset, "--amount", amount, "--report", report, "--yes"
        )
        stage.send(
            f"countersign {asset}", "attest", asset, "--by", "auditor", "--report", report, "--yes"
        )


def _mint(stage: Stage) -> None:
    stage.open_chapter(
        "Bank A mints against its deposit",
        "Bank A has paid 600,000.00 into the reserve. Its maker and its checker sign; the payment's"
        " reference can mint once and never again; and nothing can be minted beyond the reserve.",
    )
    deposit = str(uuid.uuid4())
    mint = ("mint", "--to", "ALFA/treasury", "--asset", HKD)
    first = ("--amount", "600,000.00", "--funding-ref", deposit, "--yes")
    stage.send("bank A mints 600,000.00 HKD", *mint, *first)
    stage.refuse("the same deposit again", "FUNDING_REUSED", *mint, *first)
    beyond = ("--amount", "400,000.01", "--funding-ref", str(uuid.uuid4()), "--yes")
    stage.refuse("one cent beyond the reserve", "RESERVE_SHORT", *mint, *beyond)
    own = ("mint", "--to", "CHRL/treasury", "--asset", CNH, "--amount", "300,000.00")
    stage.send("bank C mints 300,000.00 CNH", *own, "--funding-ref", str(uuid.uuid4()), "--yes")


def _pay(stage: Stage) -> None:
    stage.open_chapter(
        "Bank A pays bank B",
        "Against an invoice, with an ISO 20022 purpose. Final means final: a certificate of three"
        " of the four validators over the block that holds the receipt.",
    )
    stage.send(
        "A pays B 125,000.00 HKD", "transfer", "--from", "ALFA/treasury", "--to", "BRVO/treasury",
        "--amount", "125,000.00", "--asset", HKD, "--reference", "INV-2026-0042",
        "--purpose", "SUPP", "--yes",
    )  # fmt: skip


def _exchange(stage: Stage) -> None:
    stage.open_chapter(
        "A and C exchange dollars for renminbi, in one step",
        "Payment versus payment: one transaction with a payment each way. Each bank reviews and"
        " signs the same file with its own key, on its own machine; both payments happen or"
        " neither does.",
    )
    stage.expect(
        "tx", "new", "pvp.json", "--sender", "ALFA/treasury",
        "--transfer", "ALFA/treasury", "CHRL/treasury", "92,000.00", HKD,
        "--transfer", "CHRL/treasury", "ALFA/treasury", "85,000.00", CNH,
    )  # fmt: skip
    stage.good("the file holds the exact bytes that both will sign")
    for bank in ("ALFA", "CHRL"):
        signed = stage.expect("tx", "sign", "pvp.json", "--keys", f"keys/{bank}", "--yes")
        complete = "complete" if signed.get("complete") else "the other bank still has to sign"
        stage.good(f"signed by {bank}: {complete}")
    stage.send("A and C exchange HKD for CNH", "tx", "send", "pvp.json")


def _freeze(stage: Stage) -> None:
    stage.open_chapter(
        "Compliance freezes an account",
        "One officer can freeze, quickly; lifting an order takes two. The order's hash is on the"
        " ledger, its text is not.",
    )
    (stage.folder / "order-17.txt").write_text("Freeze CHRL/treasury pending inquiry 17.\n")
    frozen = stage.send(
        "freeze bank C's HKD", "freeze", "CHRL/treasury", "--asset", HKD,
        "--order", "order-17.txt", "--yes",
    )  # fmt: skip
    stage.refuse(
        "C tries to pay", "ACCOUNT_FROZEN", "transfer", "--from", "CHRL/treasury",
        "--to", "DLTA/treasury", "--amount", "1,000.00", "--asset", HKD, "--yes",
    )  # fmt: skip
    stage.send(
        "the order is lifted", "unfreeze", frozen["freeze"], "--account", "CHRL/treasury",
        "--reason", "inquiry 17 closed", "--yes",
    )  # fmt: skip


def _lose_a_validator(stage: Stage) -> None:
    stage.open_chapter(
        "A validator dies, and payments go on",
        "Bank D's machine loses power: SIGKILL, in the middle of everything. Three of four still"
        " make a quorum. When it returns it remembers every vote, fetches what it missed, executes"
        " it, and votes again.",
    )
    stage.expect("testnet", "kill", "DLTA")
    stage.good("bank D's validator is gone")
    for number in (43, 44):
        stage.send(
            "A pays B while D is down", "transfer", "--from", "ALFA/treasury",
            "--to", "BRVO/treasury", "--amount", "10,000.00", "--asset", HKD,
            "--reference", f"INV-2026-00{number}", "--yes",
        )  # fmt: skip
    back = stage.expect("testnet", "restart", "DLTA")
    stage.good(f"bank D is back at block {back['height']} after {back['seconds']} s")
    stage.send(
        "A pays D", "transfer", "--from", "ALFA/treasury", "--to", "DLTA/treasury",
        "--amount", "5,000.00", "--asset", HKD, "--reference", "welcome back", "--yes",
    )  # fmt: skip


def _redeem(stage: Stage) -> Path:
    stage.open_chapter(
        "Bank B redeems at par",
        "The coins are held, not yet gone: they leave when the fiat has been paid out. The issuer"
        " and the custodian sign the burn, each with its own keys.",
    )
    payout = '{"iban": "see mandate 7", "amount": "100000.00"}\n'
    (stage.folder / "payout.json").write_text(payout)
    redeemed = stage.send(
        "B redeems 100,000.00 HKD", "redeem", "--from", "BRVO/treasury", "--amount", "100,000.00",
        "--asset", HKD, "--payout", "payout.json", "--yes",
    )  # fmt: skip
    stage.expect(
        "burn", redeemed["redemption"], "--payout-ref", str(uuid.uuid4()),
        "--keys", "keys/JDCL", "-o", "burn.json", "--yes",
    )  # fmt: skip
    stage.good("signed by the issuer's treasury; the custodian still has to sign")
    stage.expect("tx", "sign", "burn.json", "--keys", "keys/CUST", "--yes")
    stage.good("signed by the custodian, who confirms the payout")
    burned = stage.send("issuer and custodian burn them", "tx", "send", "burn.json")
    return Path(burned["receipt"])


# ---- the end


@dataclass(frozen=True, slots=True)
class Facts:
    """What the network says at the end."""

    assets: list[dict[str, Any]]
    validators: list[dict[str, Any]]


def _gather(stage: Stage) -> Facts:
    stage.open_chapter("What the ledger says now", "Supply against reserve, and all four states.")
    assets = [stage.expect("asset", "show", asset) for asset in (HKD, CNH)]
    status = _wait_same_height(stage, lambda: stage.expect("testnet", "status"))
    return Facts(assets, status["validators"])


def _wait_same_height(stage: Stage, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the status at an instant at which all four are at one height; blocks are rare now."""
    for _ in range(MAX_STATUS_TRIES):
        status = ask()
        if len({each["height"] for each in status["validators"]}) == 1:
            stage.good("all four at one height")
            return status
    raise stage.fail(("testnet", "status"), "the validators never were at one height")


def _verify_offline(stage: Stage, receipt: Path) -> None:
    stage.open_chapter(
        "The receipt, verified with no validator running",
        "The network is stopped. The file and the genesis document are enough: signatures, block,"
        " Merkle paths.",
    )
    record = load_record(stage.folder)
    shown = receipt.relative_to(stage.folder) if receipt.is_absolute() else receipt
    found = stage.expect("verify", str(shown), "--genesis", "genesis.json")
    if found.get("valid") is not True or found.get("code") != "OK":
        raise stage.fail(("verify",), f"not what was promised: {found}")
    stage.good(f"valid: final on {record.name} at height {found['height']}, code {found['code']}")
    altered = stage.folder / "altered.json"
    text = (stage.folder / receipt).read_text()
    spot = text.index('"timestamp_ms": ') + len('"timestamp_ms": ') + 3
    altered.write_text(text[:spot] + str((int(text[spot]) + 1) % 10) + text[spot + 1 :])
    ended = stage.run("verify", "altered.json", "--genesis", "genesis.json")
    if ended.exit_code != RefusedByLedger.exit_code:
        raise stage.fail(("verify", "altered.json"), f"one digit altered, and: {ended.answer}")
    stage.good("one digit altered: no longer valid")


def _conclude(stage: Stage, facts: Facts) -> None:
    rows = [[each.title, each.code, each.height, _ms(each), each.signatures] for each in stage.told]
    stage.say("")
    right = ("block", "final in ms")
    for line in table(("step", "result", "block", "final in ms", "votes"), rows, right=right):
        stage.say(f"  {line}")
    stage.say("")
    supplies = [_describe_asset(asset) for asset in facts.assets]
    for line in table(("asset", "supply", "reserve", "coverage"), supplies, right=AMOUNTS):
        stage.say(f"  {line}")
    stage.say("")
    roots = [[v["name"], v["participant"], v["height"], v["state_root"]] for v in facts.validators]
    for line in table(("", "bank", "height", "state root"), roots, right=("height",)):
        stage.say(f"  {line}")
    stage.say("")
    _check_facts(stage, facts)
    stage.good("every payment final, supply within the reserve, four equal states")
    stage.say("    next: atpar testnet up    and follow what it prints; make test    checks it all")
    if stage.output.as_json:
        stage.output.show(_as_json(stage, facts))


AMOUNTS: Final = ("supply", "reserve", "coverage")


def _ms(told: Told) -> str:
    return "-" if told.final_ms is None else f"{told.final_ms:.0f}"


def _describe_asset(asset: dict[str, Any]) -> list[object]:
    supply, backing = int(asset["supply"]), int(asset["reserve"]["backing"])
    coverage = asset["coverage_bps"]
    return [
        asset["asset"],
        format_amount(supply, scale=SCALE),
        format_amount(backing, scale=SCALE),
        "-" if coverage is None else f"{coverage / 100:.0f} %",
    ]


def _check_facts(stage: Stage, facts: Facts) -> None:
    """Check that the end is the one that the story makes.

    Raises:
        DemoFailed: it is not.
    """
    expected = {HKD: 500_000_00, CNH: 300_000_00}
    for asset in facts.assets:
        supply, backing = int(asset["supply"]), int(asset["reserve"]["backing"])
        if supply != expected[asset["asset"]] or supply > backing:
            raise stage.fail(("asset", "show"), f"supply {supply}, reserve {backing}")
    roots = {each["state_root"] for each in facts.validators}
    if len(roots) != 1 or None in roots:
        raise stage.fail(("testnet", "status"), f"state roots differ: {roots}")


def _as_json(stage: Stage, facts: Facts) -> dict[str, Any]:
    return {
        "steps": [
            {
                "title": each.title,
                "code": each.code,
                "height": each.height,
                "final_ms": each.final_ms,
            }
            for each in stage.told
        ],
        "assets": [
            {
                "asset": each["asset"],
                "supply": each["supply"],
                "reserve": each["reserve"]["backing"],
            }
            for each in facts.assets
        ],
        "state_roots": {each["name"]: each["state_root"] for each in facts.validators},
        "state_roots_equal": True,
    }
