"""`atpar testnet`: a network of real validators on this machine, and what can be done to it."""

import os
import tempfile
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from atpar.cli.amounts import format_amount
from atpar.cli.context import State, output_options, pass_state
from atpar.cli.errors import WrongUsage
from atpar.cli.flamegraph import ENVIRONMENT, flamegraphs_option, list_targets, sampling
from atpar.cli.output import table
from atpar.cli.testnet import watch
from atpar.cli.testnet.attester import attest_all, keep_attesting
from atpar.cli.testnet.layout import create_testnet, list_container_seats
from atpar.cli.testnet.lifecycle import (
    bring_up,
    ended_like_interrupted,
    prepare,
    temporary_network,
)
from atpar.cli.testnet.line_commands import (
    describe_lines,
    heal_command,
    links_command,
    partition_command,
    slow_command,
)
from atpar.cli.testnet.network import (
    NodeView,
    kill_node,
    look,
    start_attester,
    start_links,
    start_node,
    start_nodes,
    stop_network,
    wait_returned,
)
from atpar.cli.testnet.officers import ATTESTED
from atpar.cli.testnet.options import dir_option, profile_option, validators_option
from atpar.cli.testnet.processes import is_running
from atpar.cli.testnet.profiles import LAN, find_profile
from atpar.cli.testnet.recipe import CNH, HKD, ISSUER, SCALE
from atpar.cli.testnet.record import DEFAULT_DIR, TestnetRecord, load_record, locked
from atpar.ledger.certificates import compute_quorum

CLIENT = "client"
"""Name of the load generator's flame graph."""
SUGGESTION = "atpar testnet mint --to ALFA/treasury --amount 100.00 --asset HKD.JDCL"


@click.group("testnet")
def testnet_command() -> None:
    """Run a network of real validators on this machine: real sockets, disks and signatures."""


for command in (links_command, partition_command, heal_command, slow_command):
    testnet_command.add_command(command)


# ---- up and down


@testnet_command.command("up")
@validators_option
@profile_option
@dir_option
@click.option("--detach", is_flag=True, help="Return once a block is final; it keeps running.")
@click.option("--no-wait", is_flag=True, help="Return at once, without waiting for a block.")
@click.option("--fresh", is_flag=True, help="Refuse to take up the testnet of a folder again.")
@click.option("--no-attest", is_flag=True, help="Leave the reserves unattested: no mints.")
@click.option("--direct", is_flag=True,
              help="No process between the validators: nothing can be cut or slowed.")  # fmt: skip
@output_options
@pass_state
def up_command(
    state: State,
    *,
    validators: int,
    profile: str,
    direct: bool,
    folder: Path,
    detach: bool,
    no_wait: bool,
    fresh: bool,
    no_attest: bool,
) -> None:
    """Start a network and watch it; or take up the one that was stopped in the folder.

    Example: atpar testnet up --detach
    """
    output = state.output
    if direct and profile != LAN:
        raise WrongUsage(f"--direct and --profile {profile}", advice="use one of them")
    lines = None if direct else find_profile(profile)
    with locked(folder):
        existed = (folder / "testnet.json").exists()
        if existed and fresh:
            raise WrongUsage(f"{folder} holds a testnet already", advice="choose another --dir")
        record = prepare(folder, validators=validators)
        _check_stopped(folder, record)
        count = len(record.validators)
        verb = "found" if existed else f"sealed by {count} of {count}"
        output.done(f"genesis {verb:<26}chain {record.name}")
        try:
            if lines is not None:
                record = start_links(folder, record, profile=lines)
            record = _start(state, folder, record, wait=not no_wait, attest=not no_attest)
        except BaseException:
            stop_network(folder, load_record(folder))
            raise
    if detach or no_wait:
        output.show(_describe(folder, record), _introduce(folder, record))
        return
    if state.output.as_json:
        output.show(_describe(folder, record))
    else:
        for line in _introduce(folder, record):
            output.note(line)
    try:
        # Ctrl-C is how a person ends watching: no error.
        with suppress(KeyboardInterrupt), ended_like_interrupted():
            watch.watch(record, output)
    finally:
        stop_network(folder, load_record(folder))
        output.note(f"stopped; `atpar testnet up --dir {folder}` takes it up again")


def _start(
    state: State, folder: Path, record: TestnetRecord, *, wait: bool, attest: bool
) -> TestnetRecord:
    if wait:
        record = bring_up(folder, record, state.output.done, attest=attest)
    else:
        record = start_nodes(folder, record)
    return start_attester(folder) if attest else record


def _check_stopped(folder: Path, record: TestnetRecord) -> None:
    running = [
        validator.name
        for validator in record.validators
        if validator.process is not None and is_running(validator.process)
    ]
    if running:
        raise WrongUsage(
            f"the testnet in {folder} runs already: {', '.join(running)}",
            advice=f"stop it first: atpar testnet stop --dir {folder}; or use another --dir",
        )


def _describe(folder: Path, record: TestnetRecord) -> dict[str, Any]:
    return {
        "dir": str(folder.resolve()),
        "genesis": str((folder / "genesis.json").resolve()),
        "chain": record.name,
        "validators": [
            {
                "name": each.name,
                "api": each.api,
                "pid": None if each.process is None else each.process.pid,
            }
            for each in record.validators
        ],
    }


def _introduce(folder: Path, record: TestnetRecord) -> list[str]:
    suffix = "" if folder == DEFAULT_DIR else f" --dir {folder}"
    return [
        "",
        f"API  {record.validators[0].api}/v1",
        f"try  {SUGGESTION}{suffix}",
        f"     atpar --home {folder} account list ALFA",
        f"stop atpar testnet stop{suffix}",
        "",
    ]


@testnet_command.command("prepare")
@validators_option
@dir_option
@output_options
@pass_state
def prepare_command(state: State, *, validators: int, folder: Path) -> None:
    """Write the folder of a network that runs in containers v1, v2, …; start nothing.

    Each node's home is DIR/v1, DIR/v2, …: run it with `atpar node run --home DIR/v1` in a
    container of that name. Safe to repeat.

    Example: atpar testnet prepare --dir network
    """
    with locked(folder):
        if not (folder / "testnet.json").exists():
            create_testnet(folder, list_container_seats(validators), port_base=0)
        record = load_record(folder)
    homes = ", ".join(each.name for each in record.validators)
    state.output.show(_describe(folder, record), f"chain {record.name} in {folder}: {homes}")


@testnet_command.command("stop")
@dir_option
@output_options
@pass_state
def stop_command(state: State, *, folder: Path) -> None:
    """End exactly what `up` started. Safe to repeat; the folder stays.

    Example: atpar testnet stop
    """
    load_record(folder)
    with locked(folder):
        stopped = stop_network(folder, load_record(folder))
    text = f"stopped {stopped} processes" if stopped else "nothing was running"
    state.output.show({"dir": str(folder.resolve()), "stopped": stopped}, text)


# ---- looking


@testnet_command.command("status")
@dir_option
@output_options
@pass_state
def status_command(state: State, *, folder: Path) -> None:
    """Show one row per validator: state, height, view, lag.

    Example: atpar testnet status --json
    """
    record = load_record(folder)
    views = look(record)
    rows = watch.list_rows(views, watch.ask_validators(views))
    state.output.show(
        {
            "dir": str(folder.resolve()),
            "chain": record.name,
            "validators": [
                _describe_view(view, row) for view, row in zip(views, rows, strict=True)
            ],
        },
        table(watch.HEADINGS, rows, right=watch.RIGHT),
    )
    reason = watch.explain_standstill(views)
    for said in ([] if reason is None else [reason]) + describe_lines(folder, record):
        state.output.warn(said)


def _describe_view(view: NodeView, row: list[object]) -> dict[str, Any]:
    process = view.validator.process
    status = view.status or {}
    return {
        "name": view.validator.name,
        "participant": view.validator.participant,
        "api": view.validator.api,
        "pid": process.pid if process is not None and view.is_running else None,
        "state": view.state,
        "height": view.height,
        "view": status.get("view"),
        "lag": row[watch.HEADINGS.index("lag")],
        "missed_votes": row[watch.HEADINGS.index("missed")],
        "state_root": status.get("state_root"),
    }


# ---- doing things to it


@testnet_command.command("kill")
@click.argument("which")
@dir_option
@output_options
@pass_state
def kill_command(state: State, *, which: str, folder: Path) -> None:
    """End validator WHICH (3, v3, CHRL or all) with SIGKILL, as a power cut would.

    Example: atpar testnet kill 3
    """
    load_record(folder)
    with locked(folder):
        record = load_record(folder)
        indexes = _choose(record, which)
        running = [index for index in indexes if _is_alive(record, index)]
        for index in indexes:
            kill_node(record, index)
    killed = [record.validators[index].name for index in running]
    idle = [record.validators[index].name for index in indexes if index not in running]
    lines = [f"killed {', '.join(killed)}"] if killed else []
    if idle:
        lines.append(f"{', '.join(idle)} {'was' if len(idle) == 1 else 'were'} not running")
    state.output.show({"killed": killed, "not_running": idle}, lines)


def _is_alive(record: TestnetRecord, index: int) -> bool:
    process = record.validators[index].process
    return process is not None and is_running(process)


@testnet_command.command("restart")
@click.argument("which")
@dir_option
@output_options
@pass_state
def restart_command(state: State, *, which: str, folder: Path) -> None:
    """Start validator WHICH (3, v3, CHRL or all) again; return when it has caught up.

    Example: atpar testnet restart 3
    """
    began = time.monotonic()
    load_record(folder)
    with locked(folder):
        record = load_record(folder)
        indexes = _choose(record, which)
        for index in indexes:
            kill_node(record, index)
        for index in indexes:
            record = start_node(folder, record, index)
        if record.attester is not None and not is_running(record.attester):
            record = start_attester(folder)
    names = sorted(record.validators[index].name for index in indexes)
    running = sum(view.is_running for view in look(record))
    if running < compute_quorum(len(record.validators)):
        state.output.show(
            {"restarted": names, "height": None, "seconds": None},
            f"{', '.join(names)} started; validators running: {running}, too few for a block",
        )
        return
    heights = [wait_returned(folder, record, index) for index in indexes]
    seconds = round(time.monotonic() - began, 1)
    state.output.show(
        {"restarted": names, "height": max(heights), "seconds": seconds},
        f"{', '.join(names)} back at block {max(heights)} after {seconds} s",
    )


def _choose(record: TestnetRecord, which: str) -> list[int]:
    if which.lower() == "all":
        return list(range(len(record.validators)))
    return [record.find(which)]


@testnet_command.command("attest")
@dir_option
@click.option("--every", type=click.FloatRange(1), metavar="SECONDS", help="Again and again.")
@output_options
@pass_state
def attest_command(state: State, *, folder: Path, every: float | None) -> None:
    """Let the custodian attest the reserves and the auditor countersign them.

    Example: atpar testnet attest
    """
    record = load_record(folder)
    if every is not None:
        keep_attesting(folder, every_s=every, say=state.output.note)
        return
    attest_all(folder, record)
    amount = format_amount(ATTESTED, scale=SCALE)
    state.output.show(
        {"attested": {asset: str(ATTESTED) for asset in (HKD, CNH)}}, f"attested {amount} each"
    )


@testnet_command.command("mint")
@click.option("--to", "creditor", required=True, metavar="ACCOUNT", help="Who is credited.")
@click.option("--amount", required=True, help="In major units, such as 100.00.")
@click.option("--asset", default=HKD, show_default=True)
@dir_option
@output_options
@pass_state
def mint_command(state: State, *, creditor: str, amount: str, asset: str, folder: Path) -> None:
    """Mint against an invented deposit: plays the bank, its maker and its checker.

    Example: atpar testnet mint --to ALFA/treasury --amount 100.00
    """
    from atpar.cli.ops import check, parse_money
    from atpar.cli.signing import How, Session
    from atpar.ledger.operations import Mint

    load_record(folder)
    state.home = folder
    session = Session(state)
    minters = session.get_terms(asset).minters
    own = f"{creditor.partition('/')[0]}/minter"
    op = Mint(
        asset=asset,
        minter=own if own in minters else f"{ISSUER}/minter",
        creditor=creditor,
        amount=parse_money(session, amount, asset),
        funding_ref=uuid.uuid4().bytes,
        reversal_of=None,
    )
    session.run(op.minter, [check(op)], How(yes=True))


# ---- measuring


@testnet_command.command("run")
@validators_option
@profile_option
@click.option("--rate", type=click.FloatRange(0.1, 100_000), default=200.0, show_default=True,
              help="Transactions a second.")  # fmt: skip
@click.option("--duration", type=click.FloatRange(1, 86_400), default=30.0, show_default=True,
              help="Seconds of load.")  # fmt: skip
@click.option("--bulk", type=click.IntRange(1, 1_000), default=1, show_default=True,
              help="Transfers in each transaction.")  # fmt: skip
@click.option("--kill", "kills", multiple=True, metavar="N@S",
              help="Kill validator N (or all) S seconds into the load.")  # fmt: skip
@click.option("--restart", "restarts", multiple=True, metavar="N@S",
              help="Start it again S seconds into the load.")  # fmt: skip
@click.option(
    "--faults",
    metavar="LIST",
    help="As a list, lines too: kill:2@10,partition:1+2@20,heal@25,slow:3=300@30",
)
@click.option("--workers", type=click.IntRange(0, 64), default=0, show_default=True,
              help="Verification processes of each validator.")  # fmt: skip
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False),
              help="Keep everything in this new folder.")  # fmt: skip
@flamegraphs_option
@output_options
@pass_state
def run_command(
    state: State, /, *, folder: Path | None, flamegraphs: Path | None, **options: Any
) -> int:
    """Start a network, put load on it, report, stop. The exit code tells if a promise broke.

    Example: atpar testnet run --rate 200 --duration 30 --kill 3@10 --restart 3@20
    """
    with ExitStack() as stack:
        stack.enter_context(ended_like_interrupted())
        if flamegraphs is not None:
            # The validators inherit it.
            os.environ[ENVIRONMENT] = str(flamegraphs.resolve())
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="atpar-run-")
            folder = Path(stack.enter_context(temporary))
        stack.enter_context(sampling(*list_targets(flamegraphs, CLIENT)))
        return _run_in(state, folder, **options)


def _run_in(state: State, folder: Path, **options: Any) -> int:
    from atpar.cli.testnet.faults import check_faults, parse_faults
    from atpar.cli.testnet.run import Order, measure

    if (folder / "testnet.json").exists():
        raise WrongUsage(f"{folder} holds a testnet already", advice="choose another --dir")
    order = Order(
        validators=options["validators"],
        profile=options["profile"],
        rate=options["rate"],
        duration_s=options["duration"],
        bulk=options["bulk"],
        faults=parse_faults(
            kills=options["kills"], restarts=options["restarts"], listed=options["faults"]
        ),
    )
    check_faults(order.faults, validators=order.validators, duration_s=order.duration_s)
    lines = find_profile(order.profile)
    has_lines = order.profile != LAN or any(fault.changes_lines for fault in order.faults)
    network = temporary_network(
        folder,
        state.output.done,
        validators=order.validators,
        load_accounts=order.load_accounts,
        attest=True,
        workers=options["workers"],
        profile=lines if has_lines else None,
    )
    with network as record:
        report = measure(folder, record, order, say=state.output.note)
    state.output.show(report.as_json(), report.list_lines())
    for broken in report.list_broken():
        state.output.warn(broken)
    return 1 if report.list_broken() else 0
