"""Work in a thread that the loop waits for in place: quick, slow, failing, never abandoned."""

import threading
import time
from functools import partial

import pytest
import trio

from atpar.node.errors import DiskFault
from atpar.node.promptly import PASSES, PromptThread

PATIENCE_S = 0.05


async def count_rounds(count: list[int]) -> None:
    while True:
        count[0] += 1
        await trio.sleep(0.005)


async def test_quick_work_is_done_in_a_thread_before_any_other_task_runs() -> None:
    thread = PromptThread(patience_s=5.0)
    others = [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_rounds, others)
        ident = await thread.run(threading.get_ident)
        assert ident != threading.get_ident()
        assert others == [0]
        nursery.cancel_scope.cancel()


async def test_slow_work_leaves_the_loop_to_others_and_so_do_the_next_few() -> None:
    thread = PromptThread(patience_s=PATIENCE_S)
    others = [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_rounds, others)
        await thread.run(lambda: time.sleep(6 * PATIENCE_S))
        assert others[0] > 1
        for _ in range(PASSES):
            before = others[0]
            await thread.run(lambda: time.sleep(PATIENCE_S / 2))  # not waited for in place
            assert others[0] > before
        before = others[0]
        await thread.run(lambda: None)
        assert others[0] == before
        nursery.cancel_scope.cancel()


async def test_the_loop_stands_still_no_longer_than_its_patience() -> None:
    thread = PromptThread(patience_s=PATIENCE_S)
    release = threading.Event()
    async with trio.open_nursery() as nursery:
        started = trio.current_time()
        nursery.start_soon(thread.run, release.wait)
        await trio.sleep(0)
        await trio.sleep(0)
        assert PATIENCE_S * 0.9 < trio.current_time() - started < 20 * PATIENCE_S
        release.set()


@pytest.mark.parametrize("pause_s", [0.0, 3 * PATIENCE_S])
async def test_a_failure_reaches_the_caller(pause_s: float) -> None:
    def fail() -> None:
        time.sleep(pause_s)
        raise DiskFault("no space")

    with pytest.raises(DiskFault, match="no space"):
        await PromptThread(patience_s=PATIENCE_S).run(fail)


async def test_cancelled_work_is_waited_for() -> None:
    done = []

    def work() -> None:
        time.sleep(4 * PATIENCE_S)
        done.append("written")

    with trio.move_on_after(PATIENCE_S / 2):
        await PromptThread(patience_s=PATIENCE_S).run(work)
    assert done == ["written"]


async def test_work_that_ends_as_the_patience_does_is_never_missed() -> None:
    with trio.fail_after(30):
        for step in range(300):
            pause_s = 0.0008 + step % 10 * 0.00005
            await PromptThread(patience_s=0.001).run(partial(time.sleep, pause_s))
