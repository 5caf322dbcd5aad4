"""Pages over records: exactly the keys after the cursor, in order."""

from hypothesis import given
from hypothesis import strategies as st

from atpar.ledger.codec import Codec
from atpar.ledger.state import Base, MemoryBacking, Section
from atpar.node.paging import NAME_BYTES, scan_after

NUMBERS = Section(1, "numbers", Codec[int](int, name="number", max_bytes=9), proven=False)
KEYS = st.binary(max_size=6) | st.text("ab/-", max_size=8).map(str.encode)


@given(st.sets(KEYS, max_size=30), KEYS, st.none() | KEYS)
def test_scan_after_yields_the_keys_after_the_cursor_in_order(
    keys: set[bytes], prefix: bytes, after: bytes | None
) -> None:
    backing = MemoryBacking()
    backing.apply(iter([(1, key, b"\x01") for key in keys]))
    found = [key for key, _ in scan_after(Base(backing), NUMBERS, prefix, after)]
    assert found == sorted(
        key for key in keys if key.startswith(prefix) and (after is None or key > after)
    )


@given(st.sets(st.text("az09-", min_size=1, max_size=25), max_size=30), st.text("az09-"))
def test_scan_after_walks_account_names_to_their_full_depth(names: set[str], after: str) -> None:
    backing = MemoryBacking()
    backing.apply(iter([(1, f"ALFA/{name}".encode(), b"\x01") for name in names]))
    found = scan_after(
        *(Base(backing), NUMBERS, b"ALFA/", f"ALFA/{after}".encode()),
        alphabet=NAME_BYTES,
        depth=25,
    )
    assert [key.decode() for key, _ in found] == sorted(
        f"ALFA/{name}" for name in names if name > after
    )
