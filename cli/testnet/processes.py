"""Processes that a testnet starts: begun apart from the terminal, ended exactly, found again later.

A process is known by its id *and* the instant it started: ids are reused, and `testnet stop` must
never end a stranger that happens to have the id of a validator that died last week.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

POLL_S: Final = 0.02
"""How often a condition of another process is looked at."""
TERMINATE_TIMEOUT_S: Final = 10.0
"""How long a process may take to end by itself before it is killed."""
KILL_TIMEOUT_S: Final = 5.0


class ProcessRef(msgspec.Struct, frozen=True):
    """One process that was started: enough to recognise it later."""

    pid: int
    started: str
    """The system's own mark of its start; compared, never interpreted."""


class DeadlinePassed(Exception):
    """A condition did not come true in time."""


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float) -> None:
    """Wait until a condition holds.

    Raises:
        DeadlinePassed: it did not within `timeout_s`; the message says what was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise DeadlinePassed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def get_start_mark(pid: int) -> str | None:
    """Return the mark of a running process's start, or None if no such process runs.

    A zombie counts as ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return _ask_ps(pid) if not Path("/proc/self/stat").exists() else None
    except ProcessLookupError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _ask_ps(pid: int) -> str | None:
    """Return the start mark where there is no /proc (macOS)."""
    done = subprocess.run(  # noqa: S603 - a fixed command and a number
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607 - ps is where PATH says
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, started = done.stdout.strip().partition(" ")
    return None if done.returncode != 0 or state.startswith("Z") else started.strip()


def get_processor_s(process: ProcessRef) -> float | None:
    """Return the processor seconds that exactly this process has used; None if it cannot be told.

    Its own threads count, worker processes do not.
    """
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[19] != process.started:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(
    command: Sequence[str], *, log: Path, cwd: Path, environment: dict[str, str] | None = None
) -> ProcessRef:
    """Start a process in a session of its own, its output appended to `log`.

    It outlives this process and gets no signal that the terminal sends to us.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(  # noqa: S603 - our own command line
            list(command),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    _children[child.pid] = child
    return ProcessRef(child.pid, get_start_mark(child.pid) or "gone")


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Processes that this process started: it has to reap them, or they stay zombies."""


def is_running(process: ProcessRef) -> bool:
    """Return whether exactly this process still runs."""
    child = _children.get(process.pid)
    if child is not None:
        child.poll()
    return get_start_mark(process.pid) == process.started


def send_signal(process: ProcessRef, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; return whether it still ran."""
    if not is_running(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def kill(process: ProcessRef) -> None:
    """End a process at once, as a power cut would, and its workers with it."""
    if not is_running(process):
        return
    # The process leads its own session, so its group holds it and its workers, nobody else.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        send_signal(process, signal.SIGKILL)
    wait_until(
        lambda: not is_running(process),
        what=f"the end of process {process.pid}",
        timeout_s=KILL_TIMEOUT_S,
    )


def stop(processes: Iterable[ProcessRef]) -> int:
    """Ask processes to end, wait, and kill those that do not; return how many were killed."""
    asked = [process for process in processes if send_signal(process, signal.SIGTERM)]
    deadline = time.monotonic() + TERMINATE_TIMEOUT_S
    while any(is_running(process) for process in asked) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    stubborn = [process for process in asked if is_running(process)]
    for process in stubborn:
        kill(process)
    return len(stubborn)
