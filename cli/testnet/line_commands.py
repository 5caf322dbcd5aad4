"""`atpar testnet partition|heal|slow`: what can be done to the lines between the validators."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import trio

from atpar.cli.context import State, output_options, pass_state
from atpar.cli.errors import ConfigurationProblem, WrongUsage
from atpar.cli.testnet.links import (
    MAX_SLOW_MS,
    Condition,
    Order,
    read_ports,
    run_links,
    send_order,
)
from atpar.cli.testnet.options import dir_option, profile_option
from atpar.cli.testnet.processes import is_running
from atpar.cli.testnet.profiles import load_profile
from atpar.cli.testnet.record import TestnetRecord, load_record


def give_order(folder: Path, record: TestnetRecord, order: Order) -> Condition:
    """Change the lines of a running testnet; return what they are like then.

    Raises:
        ConfigurationProblem: nothing stands between its validators.
    """
    ports = read_ports(folder)
    if record.links is None or ports is None or not is_running(record.links):
        raise ConfigurationProblem(
            f"nothing stands between the validators of {folder}: their lines cannot be changed",
            advice="stop it and start it again without --direct: atpar testnet up",
        )
    try:
        return send_order(ports, order)
    except OSError as error:
        raise ConfigurationProblem(
            f"the process between the validators of {folder} does not answer: {error}",
            advice=f"look into {folder}/logs/links.log",
        ) from error


def choose_apart(record: TestnetRecord, names: Sequence[str]) -> tuple[int, ...]:
    """Return the indexes of the validators that a partition separates from the others.

    Raises:
        WrongUsage: one is unknown, or nobody would be left on one side.
    """
    apart = sorted({record.find(name.strip()) for name in names})
    if len(apart) == len(record.validators):
        raise WrongUsage("all validators on one side", advice="name those of one side only")
    return tuple(apart)


def describe_lines(folder: Path, record: TestnetRecord) -> list[str]:
    """Return what is not as it should be between the validators, in words."""
    if record.links is None or not is_running(record.links):
        return []
    return _describe(record, give_order(folder, record, Order()))


def _describe(record: TestnetRecord, condition: Condition) -> list[str]:
    shown = _name(record, condition)
    lines = [" cut off from ".join(", ".join(side) for side in shown["partition"])]
    lines += [
        f"{name} slowed by {ms} ms in each direction" for name, ms in shown["slow_ms"].items()
    ]
    return list(filter(None, lines))


def _name(record: TestnetRecord, condition: Condition) -> dict[str, Any]:
    """Return the condition of the lines by the validators' names: what `--json` prints."""
    names = [each.name for each in record.validators]
    apart = [names[index] for index in condition.apart]
    rest = [name for name in names if name not in apart]
    slow = {names[index]: ms for index, ms in sorted(condition.slow_ms.items())}
    return {"partition": [apart, rest] if apart else [], "slow_ms": slow}


def _show(state: State, record: TestnetRecord, condition: Condition) -> None:
    lines = _describe(record, condition) or ["all lines are whole"]
    state.output.show(_name(record, condition), lines)


@click.command("partition")
@click.argument("names", metavar="A,B")
@dir_option
@output_options
@pass_state
def partition_command(state: State, *, names: str, folder: Path) -> None:
    """Cut the validators A,B (1,2 or v1,v2 or ALFA,BRVO) off from all others.

    As a broken cable does: nothing passes, nobody is told. A later partition takes its place.

    Example: atpar testnet partition 3,4
    """
    record = load_record(folder)
    apart = choose_apart(record, names.split(","))
    _show(state, record, give_order(folder, record, Order(apart=apart)))


@click.command("heal")
@dir_option
@output_options
@pass_state
def heal_command(state: State, *, folder: Path) -> None:
    """End the partition, and slow nobody any more.

    Example: atpar testnet heal
    """
    record = load_record(folder)
    _show(state, record, give_order(folder, record, heal_all(record)))


def heal_all(record: TestnetRecord) -> Order:
    """Return the order that makes all lines whole and as fast as the profile has them."""
    return Order(apart=(), slow_ms=dict.fromkeys(range(len(record.validators)), 0))


@click.command("slow")
@click.argument("which")
@click.option("--ms", type=click.IntRange(0, MAX_SLOW_MS), required=True,
              help="Added to everything that it sends and receives; 0 ends it.")  # fmt: skip
@dir_option
@output_options
@pass_state
def slow_command(state: State, *, which: str, ms: int, folder: Path) -> None:
    """Slow the lines of validator WHICH (3, v3 or CHRL).

    Example: atpar testnet slow 3 --ms 300
    """
    record = load_record(folder)
    order = Order(slow_ms={record.find(which): ms})
    _show(state, record, give_order(folder, record, order))


@click.command("links", hidden=True)
@profile_option
@dir_option
def links_command(*, profile: str, folder: Path) -> None:
    """Stand between the validators of a testnet; `up` and `run` start this."""
    record = load_record(folder)
    codes = [each.participant for each in record.validators]
    addresses = [each.network for each in record.validators]
    trio.run(run_links, folder, codes, addresses, load_profile(profile))
