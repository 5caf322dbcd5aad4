"""Finds the highest rate that still holds, by trying rates one after the other."""

import math
from collections.abc import Callable
from typing import Final

STEP: Final = 1.4
"""From one rate to the next while all hold, or none does."""
CLOSE_ENOUGH: Final = 1.06
"""The search ends when the lowest rate that failed is not more than so many times the best."""
MAX_TRIALS: Final = 12


def find_highest_rate(holds: Callable[[float], bool], *, start: float) -> float | None:
    """Return the highest rate tried that held, None if none did.

    No rate is tried twice, and none above one that failed.
    """
    best, failed, rate = 0.0, math.inf, start
    for _ in range(MAX_TRIALS):
        if holds(rate):
            best = rate
        else:
            failed = rate
        if failed <= best * CLOSE_ENOUGH:
            break
        if math.isinf(failed):
            rate = best * STEP
        elif best == 0.0:
            rate = failed / STEP
        else:
            rate = math.sqrt(best * failed)
    return best or None
