"""What a peer that catches up is given, and where an answer ends."""

import pytest

from atpar.consensus.limits import MAX_SYNC_BLOCKS, MAX_SYNC_BYTES
from atpar.consensus.messages import (
    BlockRequest,
    BlockResponse,
    SyncRequest,
    SyncResponse,
    decode_message,
    encode_message,
)
from atpar.node import serving
from atpar.node.kv import MemoryKeyValue
from atpar.node.serving import answer
from atpar.node.store import FinalBlock, Store, write_genesis
from tests.node.chains import CHAIN, Chain, make_payment


def make_store(chain: Chain) -> Store:
    engine = MemoryKeyValue()
    write_genesis(
        engine,
        chain_id=CHAIN,
        header=chain.genesis_header,
        digest=chain.genesis_digest,
        overlay=chain.genesis,
    )
    return Store(engine)


def finalize_by(blocks: list[FinalBlock]) -> list[FinalBlock]:
    """Return the blocks as finalised together by the last one."""
    top = blocks[-1]
    fields = FinalBlock.__dataclass_fields__
    return [
        FinalBlock(
            **{name: getattr(block, name) for name in fields}
            | {"finalization": top.finalization, "finalized_height": top.header.height}
        )
        for block in blocks
    ]


def sync(store: Store, first: int) -> SyncResponse:
    found = answer(store, SyncRequest(0, first))
    assert isinstance(found, SyncResponse)
    assert decode_message(encode_message(found)) == found
    return found


def test_block_is_found_by_its_digest_and_nothing_by_another() -> None:
    chain = Chain()
    store = make_store(chain)
    block = chain.next(make_payment(1))
    store.commit([block])
    assert answer(store, BlockRequest(block.digest)) == BlockResponse(
        block.digest, block.block_bytes
    )
    assert answer(store, BlockRequest(bytes(32))) == BlockResponse(bytes(32), b"")
    assert answer(store, BlockRequest(chain.genesis_digest)).block == b""


def test_run_ends_at_the_highest_block_with_a_finalization() -> None:
    chain = Chain()
    store = make_store(chain)
    store.commit(finalize_by([chain.next(), chain.next()]))
    store.commit([chain.next()])
    store.commit(finalize_by([chain.next(), chain.next(), chain.next()]))
    found = sync(store, 1)
    assert len(found.blocks) == 6
    assert found.finalization == store.get_finalization(6)
    assert sync(store, 4).first_height == 4
    assert len(sync(store, 4).blocks) == 3


@pytest.mark.parametrize("first", [0, 7, 10**15])
def test_nothing_at_that_height_is_an_empty_answer(first: int) -> None:
    chain = Chain()
    store = make_store(chain)
    store.commit([chain.next()])
    found = sync(store, first)
    assert found.blocks == ()
    assert found.finalization is None


def test_answer_is_bounded_in_blocks() -> None:
    chain = Chain()
    store = make_store(chain)
    for _ in range(MAX_SYNC_BLOCKS + 1):
        store.commit([chain.next()])
    found = sync(store, 1)
    assert len(found.blocks) == MAX_SYNC_BLOCKS
    assert found.finalization == store.get_finalization(MAX_SYNC_BLOCKS)
    assert len(sync(store, 2).blocks) == MAX_SYNC_BLOCKS


def test_answer_is_bounded_in_bytes_but_holds_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain()
    store = make_store(chain)
    size = 0
    for number in range(4):
        block = chain.next(make_payment(number))
        size = len(block.block_bytes)
        store.commit([block])
    monkeypatch.setattr(serving, "MAX_SYNC_BYTES", 2 * size + 8)
    assert len(sync(store, 1).blocks) == 2
    monkeypatch.setattr(serving, "MAX_SYNC_BYTES", 10)
    assert len(sync(store, 1).blocks) == 1
    assert MAX_SYNC_BYTES > 10


def test_long_run_without_a_certificate_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_SYNC_BLOCKS", 3)
    chain = Chain()
    store = make_store(chain)
    store.commit(finalize_by([chain.next() for _ in range(5)]))
    first, second = sync(store, 1), sync(store, 4)
    assert (len(first.blocks), first.finalization) == (3, None)
    assert len(second.blocks) == 2
    assert second.finalization == store.get_finalization(5)
