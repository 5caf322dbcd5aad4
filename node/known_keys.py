"""Checks signatures of keys that sign again and again several times faster than the library.

A signature (R, s) of a message by a key A is valid if 8 (s B - k A - R) is zero, where k is the
hash of R, A and the message (ZIP 215). The library starts each time from A alone. But the keys of
a consortium are few. For a key that is used often its multiples are kept in a table, and
`curve_code.py` computes s B - k A from tables alone.

**Only "valid" is said here, and only if the encoding of that sum is R, bit for bit.** Then the
equation holds exactly, not only times eight, so the signature is valid by the one rule. Whatever
else comes, a bad signature, an odd encoding or a key without a table, is for the library to judge:
the verdicts are the library's, one by one, and nobody can tell which way was taken.

Were the arithmetic wrong somewhere, it could refuse (and the library would be asked) but hardly let
a forgery pass: R goes into k, and k into the sum, so a forger would have to find an R that is the
result of a computation on its own hash. Nothing is used that has not first given the library's
verdicts on a few signatures.

A table takes 300 KB and 0.8 ms, so a key has to earn it; tables, and keys that are counted, are
bounded, the least recently used goes first. The code itself takes a few tenths of a second to
make: a thread does that when the node starts, or when the first key has earned a table, and the
library goes on meanwhile.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from atpar.ledger.keys import decode_point, verify_columns
from atpar.node.limits import KEY_USES_FOR_TABLE, MAX_KEY_TABLES, MAX_KEYS_COUNTED
from atpar.node.logs import get_logger

if TYPE_CHECKING:
    from atpar.node.table_checker import Table, TableChecker

log = get_logger("known_keys")


def _load_checker() -> "TableChecker":
    """Import what most short-lived processes never need: it takes 0.1 s and 50 MB."""
    from atpar.node.table_checker import make_checker

    return make_checker()


class KnownKeys:
    """The tables of the keys in use. For one thread."""

    def __init__(
        self,
        *,
        max_tables: int = MAX_KEY_TABLES,
        max_counted: int = MAX_KEYS_COUNTED,
        uses_for_table: int = KEY_USES_FOR_TABLE,
        make_checker: Callable[[], "TableChecker"] = _load_checker,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        """`warn` is told, in another thread, why there will be no tables."""
        self._max_tables = max_tables
        self._max_counted = max_counted
        self._uses_for_table = uses_for_table
        self._make_checker = make_checker
        self._warn = warn
        self._uses: dict[bytes, int] = {}
        """Of keys without a table."""
        self._tables: OrderedDict[bytes, Table] = OrderedDict()
        """The least recently used first."""
        self._checker: TableChecker | None = None
        self._thread: threading.Thread | None = None

    def verify_columns(
        self, keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]
    ) -> list[bool]:
        """As `atpar.ledger.keys.verify_columns`, with the same verdicts."""
        tables = self._find_tables(keys)
        if tables is None:
            for key, uses in Counter(keys).items():
                self._note_uses(key, uses)
            tables = self._find_tables(keys)
        else:
            for key in dict.fromkeys(keys):
                self._tables.move_to_end(key)
        checker = self._checker
        if checker is None or not keys:
            return verify_columns(keys, messages, signatures)
        if tables is not None and set(map(len, signatures)) == {64}:
            verdicts = checker.confirm(tables, keys, messages, signatures)
        else:
            verdicts = self._confirm_some(checker, keys, messages, signatures)
        if all(verdicts):
            return verdicts
        rest = [place for place, is_valid in enumerate(verdicts) if not is_valid]
        judged = verify_columns(*_pick(rest, keys, messages, signatures))
        for place, is_valid in zip(rest, judged, strict=True):
            verdicts[place] = is_valid
        return verdicts

    def prepare(self) -> None:
        """Have the code made, once, unless there are to be no tables. This waits for nothing."""
        if self._thread is None and self._max_tables:
            self._thread = threading.Thread(target=self._load, name="curve code")
            self._thread.start()

    @property
    def tables(self) -> int:
        """How many keys have a table."""
        return len(self._tables)

    def has_table(self, key: bytes) -> bool:
        """Return whether the next signature of this key is checked from its table."""
        return key in self._tables

    def wait_prepared(self) -> None:
        """Wait until the thread that makes the code has ended, if one was started."""
        if self._thread is not None:
            self._thread.join()

    def _find_tables(self, keys: Sequence[bytes]) -> "list[Table] | None":
        """Return each key's table, or None if some have none."""
        try:
            return list(map(self._tables.__getitem__, keys))
        except KeyError:
            return None

    def _confirm_some(
        self,
        checker: "TableChecker",
        keys: Sequence[bytes],
        messages: Sequence[bytes],
        signatures: Sequence[bytes],
    ) -> list[bool]:
        """Return which are certainly valid; those without a table or the length are not."""
        known = [
            place
            for place, (key, signature) in enumerate(zip(keys, signatures, strict=True))
            if key in self._tables and len(signature) == 64
        ]
        verdicts = [False] * len(keys)
        if known:
            tables = [self._tables[keys[place]] for place in known]
            confirmed = checker.confirm(tables, *_pick(known, keys, messages, signatures))
            for place, is_confirmed in zip(known, confirmed, strict=True):
                verdicts[place] = is_confirmed
        return verdicts

    def _note_uses(self, key: bytes, uses: int) -> None:
        """Count, and make the key's table once it has earned one."""
        if key in self._tables:
            self._tables.move_to_end(key)
            return
        total = self._uses.pop(key, 0) + uses
        if total < self._uses_for_table:
            self._count(key, total)
        elif self._checker is None:
            self._count(key, total)
            self.prepare()
        elif (point := decode_point(key)) is not None:
            self._tables[key] = self._checker.build_negative(point)
            if len(self._tables) > self._max_tables:
                self._tables.popitem(last=False)

    def _count(self, key: bytes, total: int) -> None:
        """Remember the uses of a key; the one that was seen least recently is forgotten."""
        if len(self._uses) >= self._max_counted:
            del self._uses[next(iter(self._uses))]
        self._uses[key] = total

    def _load(self) -> None:
        try:
            self._checker = self._make_checker()
        except (ImportError, OSError, RuntimeError) as error:
            # A system that allows no new code in memory, for one: then everything is as without.
            self._warn(f"signatures are checked by the library alone: {error}")


def _pick(places: Sequence[int], *columns: Sequence[bytes]) -> list[list[bytes]]:
    """Return some of each column."""
    return [[column[place] for place in places] for column in columns]
