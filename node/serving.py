"""Answers to peers that catch up, made from the store alone."""

from typing import assert_never

from atpar.consensus.limits import MAX_SYNC_BLOCKS, MAX_SYNC_BYTES
from atpar.consensus.messages import BlockRequest, BlockResponse, SyncRequest, SyncResponse
from atpar.ledger.certificates import Finalization
from atpar.node.store import Store


def answer(store: Store, request: BlockRequest | SyncRequest) -> BlockResponse | SyncResponse:
    """Return the response to a request; an empty one when there is nothing to give."""
    match request:
        case BlockRequest():
            return _answer_block(store, request)
        case SyncRequest():
            return _answer_sync(store, request)
        case _:
            assert_never(request)


def _answer_block(store: Store, request: BlockRequest) -> BlockResponse:
    height = store.find_height(request.digest)
    block = None if height is None else store.get_block_bytes(height)
    return BlockResponse(request.digest, b"" if block is None else block)


def _answer_sync(store: Store, request: SyncRequest) -> SyncResponse:
    """Return consecutive blocks of the asker's epoch, up to the highest with a finalization.

    Of a later epoch nothing: an asker that has not opened it (it lacks a recovery document) could
    not check them.
    """
    first = request.first_height
    blocks: list[bytes] = []
    size = 0
    proven: tuple[int, Finalization] | None = None
    for height in range(first, min(first + MAX_SYNC_BLOCKS, store.position.height + 1)):
        header = store.get_header(height)
        block = store.get_block_bytes(height)
        if header is None or block is None:
            break
        size += len(block)
        if header.epoch != request.epoch or (blocks and size > MAX_SYNC_BYTES):
            break
        blocks.append(block)
        finalization = store.get_finalization(height)
        if finalization is not None:
            proven = len(blocks), finalization
    if proven is None:
        return SyncResponse(first, tuple(blocks), None)
    count, finalization = proven
    return SyncResponse(first, tuple(blocks[:count]), finalization)
