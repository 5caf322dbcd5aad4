"""Pages over records in key order, for listings that may be long.

A view scans by prefix only, so the keys after a cursor are reached by a walk over the prefixes that
follow it: first those that share its longest part, then shorter ones. A page costs its own length
and some hundred seeks, wherever in the listing it starts.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

from atpar.ledger.state import Section, View

T = TypeVar("T")

ANY_BYTE: Final = bytes(range(256))
NAME_BYTES: Final = b"-0123456789abcdefghijklmnopqrstuvwxyz"
"""What the name part of an account id consists of, in order."""


def scan_after(
    view: View,
    section: Section[T],
    prefix: bytes,
    after: bytes | None,
    *,
    alphabet: bytes = ANY_BYTE,
    depth: int = 3,
) -> Iterator[tuple[bytes, T]]:
    """Yield (key, record) in key order for keys with the prefix that are greater than `after`.

    `after` None starts at the first. A cursor outside the prefix is compared like any key.
    `alphabet` is every byte that keys have in the first `depth` places after the prefix; deeper
    down keys are skipped one by one, so the walk is deep where many keys begin alike.
    """
    if after is None or not after.startswith(prefix):
        for key, record in view.scan(section, prefix):
            if after is None or key > after:
                yield key, record
        return
    bottom = min(len(after), len(prefix) + depth)
    for key, record in view.scan(section, after[:bottom]):
        if key > after:
            yield key, record
    for length in range(bottom - 1, len(prefix) - 1, -1):
        for following in alphabet:
            if following > after[length]:
                yield from view.scan(section, after[:length] + bytes((following,)))
