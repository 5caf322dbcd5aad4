"""Finality and throughput of the last minute, from what the validators' `/metrics` count."""

import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from atpar.cli.testnet.ask import OK, NoAnswer, exchange

WINDOW_S: Final = 60.0
_SAMPLE: Final = re.compile(
    r"^(atpar_finality_seconds_bucket|atpar_transactions_total)\{([^}]*)\} ([0-9.eE+]+)$",
    re.MULTILINE,
)
_LE: Final = re.compile(r'le="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Counts:
    """Running counts at one instant."""

    at_s: float
    transactions: int
    """Executed, by the node that counts most."""
    buckets: dict[float, int]
    """Upper bound in seconds -> transactions final within it, over all nodes."""


def read_counts(pages: Sequence[str], *, at_s: float) -> Counts:
    """Return the counts of several nodes' metrics pages."""
    transactions, buckets = 0, dict[float, int]()
    for page in pages:
        executed = 0
        for name, labels, value in _SAMPLE.findall(page):
            if name == "atpar_transactions_total":
                executed += int(float(value))
            elif (bound := _LE.search(labels)) is not None:
                limit = math.inf if bound[1] == "+Inf" else float(bound[1])
                buckets[limit] = buckets.get(limit, 0) + int(float(value))
        transactions = max(transactions, executed)
    return Counts(at_s, transactions, buckets)


class Window:
    """The counts of the last minute."""

    def __init__(self) -> None:
        self._seen: deque[Counts] = deque()

    def note(self, counts: Counts) -> None:
        """Take note of counts; forget those older than a minute."""
        self._seen.append(counts)
        while counts.at_s - self._seen[0].at_s > WINDOW_S:
            self._seen.popleft()

    def compute_rate(self) -> float:
        """Return transactions a second; a node that restarted counts from zero, never below."""
        first, last = self._seen[0], self._seen[-1]
        if last.at_s <= first.at_s:
            return 0.0
        return max(0, last.transactions - first.transactions) / (last.at_s - first.at_s)

    def compute_quantile_ms(self, share: float) -> float | None:
        """Return the upper bound, in ms, under which this share became final; None without any."""
        first, last = self._seen[0].buckets, self._seen[-1].buckets
        grown = {bound: last[bound] - first.get(bound, 0) for bound in sorted(last)}
        total = grown.get(math.inf, 0)
        if total <= 0:
            return None
        for bound, count in grown.items():
            if count >= share * total:
                return bound * 1000
        return None


def fetch_pages(apis: Sequence[str], *, timeout_s: float) -> list[str]:
    """Return the metrics pages of the nodes that answer."""
    pages = []
    for api in apis:
        try:
            status, page = exchange(api, "/metrics", timeout_s=timeout_s)
        except NoAnswer:
            continue
        if status == OK:
            pages.append(page.decode())
    return pages
