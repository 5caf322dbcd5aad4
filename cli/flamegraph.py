"""Flame graphs: where this process spends its processor time, as stacks and as a picture.

A `Sampler` interrupts the program after every few milliseconds of processor time and notes the
stack of the main thread, and of each other thread the function it is in, with the processor time
that this thread has used since. So threads that wait
count nothing, work in threads counts where it was done, and the whole adds up to what the system
charges the process for. Time inside the C library shows in the Python function that called it.

It needs no privilege and no other program. While the main thread is blocked in anything but a trio
loop, nothing is noted; what other threads use then is charged to where they are afterwards.
"""

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import click

INTERVAL_S: Final = 0.005
"""Processor time between two samples."""
MAX_DEPTH: Final = 200
"""Frames of a stack that are kept, innermost first."""
PICTURE: Final = ".svg"
FOLDED: Final = ".folded"
"""A target with this suffix gets text: one line per stack, what other tools read."""

WIDTH: Final = 1_400
ROW: Final = 17
CHAR: Final = 6.6
"""Width of a letter of the labels."""
NARROWEST: Final = 0.4
"""Boxes that would be narrower are left out, in units of the picture."""

Stack = tuple[str, ...]
"""Labels from the outermost function to the innermost."""

ENVIRONMENT: Final = "ATPAR_FLAMEGRAPHS"
flamegraphs_option = click.option(
    "--flamegraphs", type=click.Path(path_type=Path, file_okay=False), envvar=ENVIRONMENT,
    help="At the end, write where the processor time went into this folder.",
)  # fmt: skip


class Sampler:
    """Samples this process between `start` and `stop`. Only for the main thread."""

    def __init__(self, *, interval_s: float = INTERVAL_S) -> None:
        self._spent: Counter[tuple[int, ...]] = Counter()
        """Microseconds by stack, innermost first, each function as the id of its code."""
        self._labels: dict[int, tuple[str, CodeType]] = {}
        """What an id stands for; the code itself is kept, so that its id is not used again."""
        self._interval_s = interval_s
        self._used: dict[int, float] = {}
        """Processor seconds that each thread had used at the last sample."""

    def start(self) -> None:
        """Begin."""
        self._charge(sys._getframe())
        self._spent.clear()
        signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, self._interval_s, self._interval_s)

    def stop(self) -> None:
        """End; what was found stays."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        # A signal that is under way must not end the process.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)

    @property
    def stacks(self) -> dict[Stack, int]:
        """Microseconds of processor time by stack."""
        labels = {ident: label for ident, (label, _) in self._labels.items()}
        found: Counter[Stack] = Counter()
        for stack, spent in self._spent.items():
            found[tuple(labels[ident] for ident in reversed(stack))] += spent
        return found

    def _note(self, _number: int, frame: FrameType | None) -> None:
        if frame is not None:
            self._charge(frame)

    def _charge(self, main: FrameType) -> None:
        own = threading.get_ident()
        used: dict[int, float] = {}
        for ident, frame in sys._current_frames().items():
            # Whoever has a frame is alive as long as the interpreter's lock is ours.
            used[ident] = time.clock_gettime(time.pthread_getcpuclockid(ident))
            spent = round((used[ident] - self._used.get(ident, 0.0)) * 1_000_000)
            if spent > 0:
                # Another thread may go on while its stack is read here, and CPython 3.11 has
                # crashed over frames that had returned meanwhile: of it, the function is enough.
                seen = (main, MAX_DEPTH) if ident == own else (frame, 1)
                self._spent[self._read_stack(*seen)] += spent
        self._used = used

    def _read_stack(self, frame: FrameType | None, depth: int) -> tuple[int, ...]:
        """Return the ids of the innermost functions, at most so many."""
        idents: list[int] = []
        while frame is not None and len(idents) < depth:
            code = frame.f_code
            ident = id(code)
            idents.append(ident)
            if ident not in self._labels:
                label = f"{frame.f_globals.get('__name__', '?')}.{code.co_qualname}"
                self._labels[ident] = label.replace(";", ","), code
            if len(idents) < depth:
                frame = frame.f_back
        return tuple(idents)


@contextmanager
def sampling(*targets: Path) -> Iterator[None]:
    """Sample the block and write the flame graph to each target; without one do nothing."""
    if not targets:
        yield
        return
    sampler = Sampler()
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()
        for target in targets:
            write(target, sampler.stacks)


def list_targets(folder: Path | None, name: str) -> list[Path]:
    """Return where the flame graph of a process goes, as picture and as text; none without folder.

    The folder is made if it is not there.
    """
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"{name}{suffix}" for suffix in (PICTURE, FOLDED)]


def write(target: Path, stacks: Mapping[Stack, int]) -> None:
    """Write stacks as text if the target ends in `.folded`, else as an SVG picture."""
    text = render_folded(stacks) if target.suffix == FOLDED else render_svg(stacks)
    target.write_text(text, encoding="utf-8")


# ---- pictures


@dataclass(slots=True)
class _Box:
    """One function in one place of the picture."""

    total: int = 0
    own: int = 0
    children: dict[str, "_Box"] = field(default_factory=dict)


def render_folded(stacks: Mapping[Stack, int]) -> str:
    """Return one line per stack: functions from the outermost, then microseconds."""
    lines = (f"{';'.join(stack)} {spent}" for stack, spent in sorted(stacks.items()))
    return "".join(f"{line}\n" for line in lines)


def render_svg(stacks: Mapping[Stack, int]) -> str:
    """Return a picture: outermost functions at the bottom, as wide as their share of the time."""
    root = _Box()
    for stack, spent in stacks.items():
        box = root
        box.total += spent
        for label in stack:
            box = box.children.setdefault(label, _Box())
            box.total += spent
        box.own += spent
    scale = (WIDTH - 20) / max(root.total, 1)
    drawn = list(_lay_out("processor time", root, 10.0, 0, scale))
    height = (max(depth for depth, _ in drawn) + 3) * ROW
    font = 'font-family="monospace" font-size="11"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {font}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fffdf7"/>',
    ]
    parts += [
        f'<g transform="translate(0 {height - (depth + 2) * ROW})">{body}</g>'
        for depth, body in drawn
    ]
    return "\n".join([*parts, "</svg>\n"])


def _lay_out(
    label: str, box: _Box, left: float, depth: int, scale: float
) -> Iterator[tuple[int, str]]:
    """Yield (row from the bottom, SVG) of a box and all that stand on it."""
    yield depth, _draw(label, box, left, scale)
    for name, child in sorted(box.children.items()):
        width = child.total * scale
        if width >= NARROWEST:
            yield from _lay_out(name, child, left, depth + 1, scale)
        left += width


def _draw(label: str, box: _Box, left: float, scale: float) -> str:
    width = box.total * scale
    share = width / (WIDTH - 20)
    tint = sum(label.encode()) % 50
    seconds, own = box.total / 1_000_000, box.own / 1_000_000
    shown = _shorten(label, int((width - 4) / CHAR))
    text = f'<text x="{left + 2:.1f}" y="12">{escape(shown)}</text>' if len(shown) > 1 else ""
    title = f"{label}: {seconds:.3f} s, {share:.1%}; itself {own:.3f} s"
    return (
        f"<title>{escape(title)}</title>"
        f'<rect x="{left:.1f}" width="{max(width - 0.3, 0.2):.1f}" height="{ROW - 1}"'
        f' fill="rgb({205 + tint},{120 + tint * 2},{60 + tint})"/>{text}'
    )


def _shorten(label: str, letters: int) -> str:
    """Return as much of a label as fits, its end rather than its beginning."""
    parts = label.split(".")
    while len(parts) > 1 and len(".".join(parts)) > letters:
        del parts[0]
    return ".".join(parts)[: max(letters, 0)]
