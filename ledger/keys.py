"""The one signature rule, ZIP 215, and which keys may be registered.

What is a valid signature is a consensus rule, and Ed25519 libraries disagree on crafted ones, so
every node uses exactly one verifier with exactly one rule (cofactored; non-canonical encodings of
A and R accepted; s < L required). Keys are registered only when canonical and not of small order,
because ZIP 215 accepts a small-order key for any message.

Source: ZIP 215, https://zips.z.cash/zip-0215
"""

from collections.abc import Iterable
from typing import Final

from ed25519_zebra import ed_verify

FIELD_PRIME: Final = 2**255 - 19
_D: Final = (-121665 * pow(121666, FIELD_PRIME - 2, FIELD_PRIME)) % FIELD_PRIME
_SQRT_M1: Final = pow(2, (FIELD_PRIME - 1) // 4, FIELD_PRIME)

SignedTriple = tuple[bytes, bytes, bytes]
"""(public key 32 bytes, signed message, signature 64 bytes)"""


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether the signature is valid under ZIP 215."""
    try:
        return bool(ed_verify(signature, message, public_key))
    except ValueError:
        return False


def verify_batch(triples: Iterable[SignedTriple]) -> list[bool]:
    """Return one verdict per triple, in order; a bad entry never spoils another."""
    return [verify(key, message, signature) for key, message, signature in triples]
