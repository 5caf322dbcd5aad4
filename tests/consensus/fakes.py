"""Blocks, keys and signatures for tests of consensus: cheap, and pure functions of their inputs."""

import hashlib
from collections.abc import Iterable

import msgspec

from atpar.consensus.types import BlockInfo
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.blocks import ValidatorKey

CHAIN_ID = b"c" * 32
GENESIS = hashlib.sha256(b"genesis").digest()
WALL_ZERO_MS = 1_700_000_000_000
NAMES = tuple(f"{a}{b}{c}X" for a in "ABCDE" for b in "AB" for c in "ABCD")
"""Participant codes, in index order."""


class FakeBlock(msgspec.Struct, frozen=True, array_like=True):
    """What consensus sees of a block, and the ids of its transactions."""

    epoch: int
    view: int
    height: int
    parent: bytes
    proposer: str
    timestamp_ms: int
    transactions: tuple[int, ...]
    is_bad: bool = False
    """Its execution fails everywhere."""


_encode = msgspec.msgpack.encode
_decoder = msgspec.msgpack.Decoder(FakeBlock)


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def encode_block(block: FakeBlock) -> bytes:
    return _encode(block)


def decode_fake(data: bytes) -> FakeBlock:
    return _decoder.decode(data)


def decode_block(data: bytes) -> BlockInfo | None:
    try:
        block = _decoder.decode(data)
    except msgspec.DecodeError:
        return None
    return BlockInfo(
        digest=digest_of(data),
        epoch=block.epoch,
        view=block.view,
        height=block.height,
        parent=block.parent,
        proposer=block.proposer,
        timestamp_ms=block.timestamp_ms,
        has_transactions=bool(block.transactions),
    )


def make_key(name: str, generation: int = 0) -> bytes:
    return hashlib.sha256(f"key {name} {generation}".encode()).digest()


def fake_sign(key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(key + message).digest()


def fake_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    return fake_sign(key, message) == signature


def make_validators(epoch: int, names: Iterable[str]) -> ValidatorSet:
    return ValidatorSet(epoch, tuple(ValidatorKey(name, make_key(name)) for name in names))
