"""Figures of a measured run: percentiles by nearest rank, and the finality summary.

Nearest rank always returns a value that was measured; nothing is interpolated, so `max` and a
high percentile of few samples agree.
"""

import math
from collections.abc import Sequence

import msgspec


class Finality(msgspec.Struct, frozen=True):
    """Time from the scheduled send to a verified proof of finality, in milliseconds."""

    p50: float | None
    p99: float | None
    p999: float | None
    max: float | None


def get_percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least `share` (above 0, at most 1) of all do not exceed.

    `ordered` is ascending and not empty.
    """
    rank = max(1, math.ceil(share * len(ordered)))
    return ordered[rank - 1]


def summarise_finality(samples_ms: Sequence[float]) -> Finality:
    """Return the summary; all null when nothing became final."""
    if not samples_ms:
        return Finality(None, None, None, None)
    ordered = sorted(samples_ms)
    return Finality(
        p50=round(get_percentile(ordered, 0.5), 1),
        p99=round(get_percentile(ordered, 0.99), 1),
        p999=round(get_percentile(ordered, 0.999), 1),
        max=round(ordered[-1], 1),
    )
