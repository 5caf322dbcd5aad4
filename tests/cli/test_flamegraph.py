"""Flame graphs: processor time is charged to the function, and the thread, that used it."""

import signal
import time
from pathlib import Path
from types import FrameType
from xml.etree import ElementTree

import pytest
import trio

from atpar.cli.flamegraph import (
    FOLDED,
    Sampler,
    list_targets,
    render_folded,
    render_svg,
    sampling,
)

SVG = "{http://www.w3.org/2000/svg}"


class Listener:
    """Counts the samples. A busy machine may let the timer miss its time, so tests ask for them."""

    def __init__(self) -> None:
        self.taken = 0
        note = signal.getsignal(signal.SIGPROF)
        assert callable(note)

        def count(number: int, frame: FrameType | None) -> None:
            note(number, frame)
            self.taken += 1

        signal.signal(signal.SIGPROF, count)


def use_processor(seconds: float, listener: Listener) -> None:
    """Use this much processor time, with a sample in every millisecond of it and at its end."""
    end = time.thread_time() + seconds
    while (now := time.thread_time()) < end:
        taken = listener.taken
        while time.thread_time() < now + 0.001:
            pass
        signal.raise_signal(signal.SIGPROF)
        while listener.taken == taken:
            pass


def find_share(stacks: dict[tuple[str, ...], int], name: str) -> float:
    inside = sum(n for stack, n in stacks.items() if any(f.endswith(name) for f in stack))
    return inside / sum(stacks.values())


def test_time_is_charged_to_the_function_that_used_it() -> None:
    sampler = Sampler(interval_s=0.001)
    before = time.process_time()
    sampler.start()
    use_processor(0.3, Listener())
    sampler.stop()
    spent_us = (time.process_time() - before) * 1e6
    assert find_share(sampler.stacks, ".use_processor") > 0.9
    assert sum(sampler.stacks.values()) == pytest.approx(spent_us, rel=0.2)


def test_a_thread_is_charged_for_its_own_work_and_a_waiting_one_for_nothing() -> None:
    sampler = Sampler(interval_s=0.001)
    sampler.start()
    trio.run(trio.to_thread.run_sync, use_processor, 0.3, Listener())
    sampler.stop()
    assert find_share(sampler.stacks, "use_processor") > 0.8
    assert (f"{__name__}.use_processor",) in sampler.stacks, "its callers are not looked at"
    assert find_share(sampler.stacks, "run_sync") < 0.2


def test_samples_are_taken_from_start_to_stop() -> None:
    sampler = Sampler(interval_s=0.5)
    sampler.start()
    assert signal.getitimer(signal.ITIMER_PROF)[1] == 0.5
    sampler.stop()
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_the_folded_form_has_one_line_a_stack() -> None:
    stacks = {("main", "work", "hash"): 70, ("main", "idle"): 30}
    assert render_folded(stacks) == "main;idle 30\nmain;work;hash 70\n"


def test_the_picture_shows_each_function_as_wide_as_its_share() -> None:
    stacks = {("main", "work"): 750, ("main", "wait<x>"): 250}
    picture = ElementTree.fromstring(render_svg(stacks))
    widths = {}
    for group in picture.iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert box is not None
        widths[(title.text or "").partition(":")[0]] = float(box.attrib["width"])
    assert widths["work"] / widths["wait<x>"] == pytest.approx(3, rel=0.01)
    assert widths["main"] == widths["processor time"]


def test_a_run_without_any_sample_still_gives_a_picture() -> None:
    assert "processor time" in render_svg({})


def test_both_forms_are_written_where_a_folder_is_named(tmp_path: Path) -> None:
    with sampling(*list_targets(tmp_path / "new", "v1")):
        use_processor(0.05, Listener())
    assert (tmp_path / "new" / "v1.svg").read_text().startswith("<svg")
    assert "use_processor" in (tmp_path / "new" / f"v1{FOLDED}").read_text()
    assert list_targets(None, "v1") == []
