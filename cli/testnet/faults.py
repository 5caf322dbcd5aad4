"""What is done to the validators and their lines in the middle of a measured run."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from atpar.cli.errors import WrongUsage
from atpar.cli.testnet.line_commands import choose_apart, give_order, heal_all
from atpar.cli.testnet.links import MAX_SLOW_MS, Order
from atpar.cli.testnet.network import kill_node, start_node
from atpar.cli.testnet.record import TestnetRecord, load_record

_NUMBER: Final = r"v?([0-9]{1,2})"
_FORM: Final = re.compile(
    rf"(?:(kill|restart):(?:{_NUMBER}|(all))"
    rf"|(partition):({_NUMBER}(?:\+{_NUMBER})*)"
    r"|(heal)"
    rf"|(slow):{_NUMBER}=([0-9]{{1,6}}))"
    r"@([0-9]{1,5}(?:\.[0-9]+)?)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something done in the middle of a run."""

    at_s: float
    action: str
    """`kill`, `restart`, `partition`, `heal` or `slow`."""
    which: str = ""
    """1, 2, …, or `all`; `1+2` for one side of a partition; empty for `heal`."""
    ms: int = 0
    """How much slower, for `slow`."""

    @property
    def changes_lines(self) -> bool:
        """Whether something has to stand between the validators for it."""
        return self.action in ("partition", "heal", "slow")

    def as_json(self) -> dict[str, Any]:
        """Return how a report shows it."""
        shown = {"at_s": self.at_s, "action": self.action, "validator": self.which or None}
        return {**shown, "ms": self.ms} if self.action == "slow" else shown


def parse_faults(
    *, kills: Iterable[str], restarts: Iterable[str], listed: str | None
) -> tuple[Fault, ...]:
    """Return the faults that the options name, in order of time.

    Raises:
        WrongUsage: one is not `N@SECONDS`, or not `kill:N@SECONDS` and the like in a list.
    """
    parts = [f"kill:{text}" for text in kills] + [f"restart:{text}" for text in restarts]
    parts += [part.strip() for part in (listed or "").split(",") if part]
    return tuple(sorted(map(_parse, parts), key=lambda fault: fault.at_s))


def _parse(part: str) -> Fault:
    found = _FORM.fullmatch(part)
    if found is None:
        raise WrongUsage(
            f"not a fault: {part}",
            advice="write --kill 3@10 --restart 3@20, or --faults"
            " kill:3@10,restart:3@20,partition:1+2@25,heal@30,slow:4=300@35",
        )
    killed, one, everyone, cut, side, _, _, heal, slow, slowed, ms, at = found.groups()
    action = killed or cut or heal or slow
    which = one or everyone or slowed or (side or "").replace("v", "")
    return Fault(float(at), action, which, int(ms or 0))


def check_faults(faults: Iterable[Fault], *, validators: int, duration_s: float) -> None:
    """Check that every fault can happen: to one of the validators, while there is load.

    Raises:
        WrongUsage: one cannot.
    """
    for fault in faults:
        named = [] if fault.which in ("", "all") else fault.which.split("+")
        wrong = next((name for name in named if not 1 <= int(name) <= validators), None)
        if wrong is not None:
            raise WrongUsage(
                f"no validator {wrong!r} to {fault.action}", advice=f"1 to {validators}, or all"
            )
        if fault.action == "partition" and len(set(named)) == validators:
            raise WrongUsage(
                f"partition:{fault.which}: all validators on one side",
                advice="name those of one side only",
            )
        if fault.ms > MAX_SLOW_MS:
            raise WrongUsage(
                f"slow: {fault.ms} ms, at most {MAX_SLOW_MS}", advice="partition it instead"
            )
        if fault.at_s >= duration_s:
            raise WrongUsage(
                f"{fault.action} at {fault.at_s:g} s, but the load ends at {duration_s:g} s",
                advice="use a longer --duration, or an earlier time",
            )


async def do_faults(folder: Path, faults: Sequence[Fault]) -> None:
    """Do each at its time, counted from now."""
    start = trio.current_time()
    for fault in faults:
        await trio.sleep_until(start + fault.at_s)
        record = load_record(folder)
        if fault.changes_lines:
            order = _make_order(record, fault)
            await trio.to_thread.run_sync(give_order, folder, record, order)
            continue
        everyone = range(len(record.validators))
        chosen = everyone if fault.which == "all" else [record.find(fault.which)]
        if fault.action == "kill":
            async with trio.open_nursery() as nursery:
                for index in chosen:
                    nursery.start_soon(trio.to_thread.run_sync, kill_node, record, index)
        else:
            for index in chosen:
                record = await trio.to_thread.run_sync(start_node, folder, record, index)


def _make_order(record: TestnetRecord, fault: Fault) -> Order:
    match fault.action:
        case "partition":
            return Order(apart=choose_apart(record, fault.which.split("+")))
        case "slow":
            return Order(slow_ms={record.find(fault.which): fault.ms})
        case _:
            return heal_all(record)


def undo_faults(folder: Path, faults: Sequence[Fault]) -> None:
    """Make all lines whole again, if any may have been changed."""
    record = load_record(folder)
    if any(fault.changes_lines for fault in faults):
        give_order(folder, record, heal_all(record))
