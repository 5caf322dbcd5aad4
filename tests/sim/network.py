"""A network that is slow, loses, repeats and reorders messages, and can be cut in one direction."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two machines. Probabilities are per thousand messages."""

    latency_ms: tuple[float, float] = (1, 3)
    """Fastest and slowest."""
    loss: int = 0
    duplication: int = 0
    reordering: int = 0
    """Messages that do not keep to the order of their connection."""
    hiccup: int = 0
    hiccup_ms: int = 0
    """A message held up for so long, and all behind it, as when a packet is sent again."""


class Network:
    """Decides when each message arrives, and whether at all."""

    def __init__(self, rng: random.Random, link: Link) -> None:
        self._rng = rng
        self.default = link
        self.links: dict[tuple[str, str], Link] = {}
        """Links that differ from the default, by (sender, receiver)."""
        self.cuts: set[tuple[str, str]] = set()
        """Directions in which nothing passes."""
        self._last: dict[tuple[str, str], float] = {}

    def plan(self, sender: str, receiver: str, now_ms: int) -> list[int]:
        """Return the arrival times of one message: none, one or two."""
        way = (sender, receiver)
        if way in self.cuts:
            return []
        link = self.links.get(way, self.default)
        rng = self._rng
        if link.loss and rng.randrange(1_000) < link.loss:
            return []
        low, high = link.latency_ms
        arrives = now_ms + low + (high - low) * rng.random()
        if link.hiccup and rng.randrange(1_000) < link.hiccup:
            arrives += link.hiccup_ms
        if not link.reordering or rng.randrange(1_000) >= link.reordering:
            arrives = max(arrives, self._last.get(way, 0))
            self._last[way] = arrives
        times = [round(arrives)]
        if link.duplication and rng.randrange(1_000) < link.duplication:
            times.append(round(arrives + (high - low + 1) * 3 * rng.random()))
        return times

    def is_open(self, one: str, other: str) -> bool:
        return (one, other) not in self.cuts

    def cut(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Let nothing pass from any of these to any of those."""
        targets = list(receivers)
        self.cuts |= {(a, b) for a in senders for b in targets if a != b}

    def change(self, sender: str, receiver: str, **changes: object) -> None:
        """Make one direction differ."""
        way = (sender, receiver)
        self.links[way] = replace(self.links.get(way, self.default), **changes)  # type: ignore[arg-type]

    def restore(self) -> None:
        """End every fault of the network: cuts, loss, and links that differ."""
        self.cuts.clear()
        self.links.clear()
        self.default = replace(self.default, loss=0, duplication=0, reordering=0, hiccup=0)
