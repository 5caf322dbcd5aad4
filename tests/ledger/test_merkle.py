"""RFC 6962 trees: the known answers of Certificate Transparency, and every size against the RFC."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atpar.ledger.errors import ProofInvalid
from atpar.ledger.limits import MAX_BLOCK_TRANSACTIONS
from atpar.ledger.merkle import build_path, compute_leaf_hash, compute_root, verify_path

# The test inputs and answers of the Certificate Transparency reference implementations.
CT_ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_PATHS = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def rfc_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = 1
    while 2 * k < len(entries):
        k *= 2
    return sha256(b"\x01" + rfc_root(entries[:k]) + rfc_root(entries[k:])).digest()


def rfc_path(m: int, entries: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1, word for word."""
    if len(entries) == 1:
        return []
    k = 1
    while 2 * k < len(entries):
        k *= 2
    if m < k:
        return [*rfc_path(m, entries[:k]), rfc_root(entries[k:])]
    return [*rfc_path(m - k, entries[k:]), rfc_root(entries[:k])]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert compute_root(CT_ENTRIES[:size]).hex() == CT_ROOTS[size]


@pytest.mark.parametrize(("index", "size"), CT_PATHS)
def test_paths_are_those_of_certificate_transparency(index: int, size: int) -> None:
    path = build_path(CT_ENTRIES[:size], index)
    assert [digest.hex() for digest in path] == CT_PATHS[index, size]


@pytest.mark.parametrize("size", [*range(1, 35), 63, 64, 65, 100])
def test_every_entry_of_every_size_agrees_with_the_rfc_and_verifies(size: int) -> None:
    entries = [b"entry %d" % i for i in range(size)]
    root = compute_root(entries)
    assert root == rfc_root(entries)
    for index in range(size):
        path = build_path(entries, index)
        assert path == rfc_path(index, entries)
        verify_path(entries[index], index=index, count=size, path=path, root=root)


@given(st.integers(1, 40), st.data())
def test_wrong_place_count_entry_or_path_is_refused(size: int, data: st.DataObject) -> None:
    entries = [bytes([i]) for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    path, root = build_path(entries, index), compute_root(entries)
    verify_path(entries[index], index=index, count=size, path=path, root=root)
    wrong: list[dict] = [
        {"entry": b"other"},
        {"root": bytes(32)},
        {"path": [*path, bytes(32)]},
        {"index": -1},
        {"index": size},
        {"count": 0},
    ]
    wrong += [{"index": other} for other in range(size) if other != index]
    if path:
        at, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
        flipped = bytearray(path[at])
        flipped[bit // 8] ^= 1 << bit % 8
        wrong += [{"path": path[1:]}, {"path": path[:-1]}, {"path": path[::-1]}] * (len(path) > 1)
        wrong += [{"path": [*path[:at], bytes(flipped), *path[at + 1 :]]}, {"path": []}]
    for change in wrong:
        given_ = {
            "entry": entries[index],
            "index": index,
            "count": size,
            "path": path,
            "root": root,
        }
        given_.update(change)
        with pytest.raises(ProofInvalid):
            verify_path(given_.pop("entry"), **given_)


def test_node_cannot_pass_for_an_entry() -> None:
    """The classic attack on trees without tags: the concatenation of two hashes as one entry."""
    entries = [b"a", b"b"]
    node = compute_leaf_hash(b"a") + compute_leaf_hash(b"b")
    with pytest.raises(ProofInvalid, match="leads to"):
        verify_path(node, index=0, count=1, path=[], root=compute_root(entries))


def test_entry_beyond_the_last_has_no_path() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            build_path([b"a", b"b", b"c"], index)


def test_largest_block_has_a_path_for_first_and_last() -> None:
    entries = [b"%d" % i for i in range(MAX_BLOCK_TRANSACTIONS)]
    root = compute_root(entries)
    for index in (0, MAX_BLOCK_TRANSACTIONS - 1):
        path = build_path(entries, index)
        verify_path(entries[index], index=index, count=len(entries), path=path, root=root)
