"""Virtual time: one queue of events, and clocks of machines that are wrong."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

Action = Callable[[], None]


MAX_PLANNED_EVENTS = 1_000_000
"""More than this at once is a storm of messages: a finding, not a reason to fill the memory."""


class Timeline:
    """Events in order of their time; of one time, in the order in which they were planned."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.steps = 0
        """Events that happened."""
        self._queue: list[tuple[int, int, Action]] = []
        self._count = 0

    def at(self, time_ms: int, action: Action) -> None:
        self._count += 1
        if len(self._queue) >= MAX_PLANNED_EVENTS:
            raise OverflowError(f"{len(self._queue)} planned events at {self.now_ms} ms: a storm")
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), self._count, action))

    def after(self, delay_ms: int, action: Action) -> None:
        self.at(self.now_ms + delay_ms, action)

    def run(self, duration_ms: int, *, until: Callable[[], bool] | None = None) -> bool:
        """Run for so long, or until a condition holds; return whether it did."""
        end = self.now_ms + duration_ms
        queue = self._queue
        while True:
            if until is not None and until():
                return True
            if not queue or queue[0][0] > end:
                self.now_ms = end
                return until is None
            self.now_ms, _, action = heapq.heappop(queue)
            self.steps += 1
            action()


@dataclass
class WallClock:
    """What a machine believes the time to be: skewed, drifting, frozen, or jumping."""

    offset_ms: int = 0
    drift_ppm: int = 0
    frozen_at: int | None = None
    """True time at which it stopped."""

    def read(self, true_ms: int) -> int:
        base = true_ms if self.frozen_at is None else self.frozen_at
        return base + self.offset_ms + base % 10**9 * self.drift_ppm // 10**6
