"""Where time comes from: real, or whatever a test says.

Two clocks, never mixed: the *monotonic* one drives timers and measures, and never jumps; the *wall*
clock gives blocks their timestamps and may be set by an administrator at any moment.
"""

import time
from typing import Protocol

import trio


class Clock(Protocol):
    """Milliseconds, as integers."""

    def now_ms(self) -> int:
        """Return monotonic milliseconds since some fixed moment."""

    def wall_ms(self) -> int:
        """Return milliseconds since the Unix epoch, UTC."""


class LoopClock:
    """The clock of the running trio loop, so that waits and deadlines agree in tests too."""

    def now_ms(self) -> int:
        """Return the loop's monotonic time in milliseconds, rounded down."""
        return int(trio.current_time() * 1_000)

    def wall_ms(self) -> int:
        """Return milliseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1_000_000
