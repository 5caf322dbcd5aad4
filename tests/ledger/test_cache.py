"""The cache holds what is hot, and never more than its bound."""

import sys
from enum import Enum
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import astuple

from atpar.ledger.cache import MISSING, ByteCache
from atpar.ledger.records import SECTIONS
from atpar.ledger.state import Base, measure_record
from tests.ledger.world import World


def measure(key: bytes, value: int) -> int:
    del key
    return value


def test_entry_of_half_the_bound_is_kept_and_one_byte_more_is_not() -> None:
    cache = ByteCache(20, measure)
    cache.put(1, b"a", 10)
    assert cache.get(1, b"a") == 10
    cache.put(1, b"b", 11)
    assert cache.get(1, b"b") is MISSING
    cache.put(1, b"a", 11)
    assert cache.get(1, b"a") is MISSING, "its old value would be wrong"
    assert cache.held_bytes == 0


def test_generation_turns_at_half_the_bound_and_forgets_at_the_next() -> None:
    cache = ByteCache(20, measure)
    cache.put(1, b"a", 4)
    cache.put(1, b"b", 6)
    assert (cache.held_bytes, len(cache)) == (10, 2)
    cache.put(1, b"c", 1)
    assert (cache.held_bytes, len(cache)) == (11, 3)
    assert cache.get(1, b"a") == 4, "read again, so it is young again"
    cache.put(1, b"d", 6)
    assert cache.get(1, b"b") is MISSING
    assert cache.get(1, b"a") == 4


@settings(max_examples=200, deadline=None)
@given(
    bound=st.integers(0, 40),
    steps=st.lists(
        st.tuples(st.sampled_from("gpd"), st.integers(0, 2), st.integers(0, 5), st.integers(0, 12)),
        max_size=60,
    ),
)
def test_cache_never_lies_and_never_passes_its_bound(
    bound: int, steps: list[tuple[str, int, int, int]]
) -> None:
    cache, truth = ByteCache(bound, measure), dict[tuple[int, bytes], int]()
    for what, table, number, value in steps:
        key = bytes([number])
        if what == "p":
            cache.put(table, key, value)
            truth[table, key] = value
        elif what == "d":
            cache.drop(table, key)
            truth.pop((table, key), None)
        found = cache.get(table, key)
        assert found is MISSING or found == truth[table, key]
        assert 0 <= cache.held_bytes <= bound
        entries = [*cache.young.values(), *cache._old.values()]
        assert cache.held_bytes == sum(sum(entry.values()) for entry in entries)


def compute_size(value: Any, seen: set[int]) -> int:
    """What an object and all that it refers to take, each once."""
    if id(value) in seen or value is None or isinstance(value, Enum) or value in ("", 0, ()):
        return 0
    seen.add(id(value))
    parts: tuple[Any, ...] = ()
    if isinstance(value, Struct):
        parts = astuple(value)
    elif isinstance(value, tuple):
        parts = value
    return sys.getsizeof(value) + sum(compute_size(part, seen) for part in parts)


def test_records_are_counted_at_no_less_than_they_take() -> None:
    """With 100 bytes for the place in a dictionary that is at most three quarters full."""
    world = World()
    world.fund("ALFA/main", 1_000)
    base, counted, taken = Base(world.backing), 0, 0
    for section in SECTIONS:
        for key, record in base.scan(section, b""):
            size = compute_size(record, set()) + sys.getsizeof(key) + 100
            assert measure_record(key, record) >= 0.75 * size, (section.name, record)
            counted += measure_record(key, record)
            taken += size
    assert counted >= taken
