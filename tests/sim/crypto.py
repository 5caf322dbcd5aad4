"""Signatures for simulated machines: real ones, or keyed hashes that cost a fiftieth.

A cheap signature can be made by anybody who knows the public key. Nobody in here forges: every
Byzantine actor signs through the ring with its own key names only.
"""

import hashlib
from collections.abc import Callable, Sequence

from atpar.ledger import keys
from atpar.ledger.keys import SignedTriple
from tests.ledger.world import key_of, public


def _compute_cheap(public_key: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=public_key, digest_size=64).digest()


class Keyring:
    """Signs by key name, and verifies."""

    def __init__(self, *, is_real: bool) -> None:
        self.is_real = is_real

    def sign(self, name: str, message: bytes) -> bytes:
        if self.is_real:
            return key_of(name).sign(message).signature
        return _compute_cheap(public(name), message)

    def get_signer(self, name: str) -> Callable[[bytes], bytes]:
        return lambda message: self.sign(name, message)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        if self.is_real:
            return keys.verify(public_key, message, signature)
        return _compute_cheap(public_key, message) == signature

    def verify_batch(self, triples: Sequence[SignedTriple]) -> list[bool]:
        if self.is_real:
            return keys.verify_batch(triples)
        return [self.verify(*triple) for triple in triples]
