"""What was read lately, within a bound in bytes: two generations, so that forgetting is cheap.

An entry read again moves to the young generation; when that would hold more than half of the bound,
the old one is forgotten as a whole and the young one takes its place. What is hot stays, for one
dictionary look-up and no list of who came last.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

ENTRY_BYTES: Final = 300
"""What an entry takes beside key and value: two objects' heads and its place in a dictionary."""
MISSING: Final = object()


class ByteCache:
    """Entries in numbered tables, counted in bytes by a function of key and value."""

    __slots__ = ("_generation_bytes", "_measure", "_old", "_old_bytes", "_young_bytes", "young")

    def __init__(self, max_bytes: int, measure: Callable[[bytes, Any], int]) -> None:
        """Hold at most `max_bytes`, as `measure` counts them: the same whenever it is asked."""
        self._generation_bytes = max_bytes // 2
        self._measure = measure
        self.young: dict[int, dict[bytes, Any]] = {}
        """Read by those who cannot afford a call for every record; written only here."""
        self._old: dict[int, dict[bytes, Any]] = {}
        self._young_bytes = 0
        self._old_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, (*self.young.values(), *self._old.values())))

    @property
    def held_bytes(self) -> int:
        """What all entries take, one that is in both generations twice; never above the bound."""
        return self._young_bytes + self._old_bytes

    def get(self, table: int, key: bytes) -> Any:
        """Return an entry, or MISSING. It counts as read."""
        entries = self.young.get(table)
        value = MISSING if entries is None else entries.get(key, MISSING)
        return self.recall(table, key) if value is MISSING else value

    def recall(self, table: int, key: bytes) -> Any:
        """As `get`, for a caller who has found nothing in `young`."""
        entries = self._old.get(table)
        value = MISSING if entries is None else entries.get(key, MISSING)
        if value is not MISSING:
            self.put(table, key, value)
        return value

    def put(self, table: int, key: bytes, value: Any) -> None:
        """Keep an entry, in place of the one with its key; one above half the bound is not kept."""
        entries, size = self.young.get(table), self._measure(key, value)
        if entries is not None and key in entries:
            after = self._young_bytes + size - self._measure(key, entries[key])
            if size <= self._generation_bytes >= after:
                entries[key], self._young_bytes = value, after
                return
            self.drop(table, key)
        if size > self._generation_bytes:
            self.drop(table, key)
            return
        if self._young_bytes + size > self._generation_bytes:
            self._old, self._old_bytes = self.young, self._young_bytes
            self.young, self._young_bytes, entries = {}, 0, None
        if entries is None:
            entries = self.young.setdefault(table, {})
        entries[key] = value
        self._young_bytes += size

    def drop(self, table: int, key: bytes) -> None:
        """Forget an entry, if it is held."""
        entries = self.young.get(table)
        if entries is not None and key in entries:
            self._young_bytes -= self._measure(key, entries.pop(key))
        entries = self._old.get(table)
        if entries is not None and key in entries:
            self._old_bytes -= self._measure(key, entries.pop(key))

    def drop_all(self, table: int, keys: Iterable[bytes]) -> None:
        """Forget many entries of one table."""
        if table in self.young or table in self._old:
            for key in keys:
                self.drop(table, key)
