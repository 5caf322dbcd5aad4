"""The one signature rule, ZIP 215, and which keys may be registered.

What is a valid signature is a consensus rule, and Ed25519 libraries disagree on crafted ones, so
every node uses exactly one verifier with exactly one rule (cofactored; non-canonical encodings of
A and R accepted; s < L required). Keys are registered only when canonical and not of small order,
because ZIP 215 accepts a small-order key for any message.

A registered key need not be free of torsion: under the cofactored rule A and A + T (T of small
order) answer to the same secret scalar, so such a key gives its owner nothing that a second key
would not, and nobody else can register it without that secret. The check would cost a
multiplication by L, about a millisecond in Python, for each of thousands of keys in a block.

Source: ZIP 215, https://zips.z.cash/zip-0215; RFC 8032 section 5.1.3 for decoding.
"""

from collections.abc import Sequence
from typing import Final

from ed25519_zebra import ed_verify

from atpar.ledger.codec import encode
from atpar.ledger.hashing import SignKind, compute_sign_bytes

FIELD_PRIME: Final = 2**255 - 19
GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
CURVE_D: Final = (-121665 * pow(121666, FIELD_PRIME - 2, FIELD_PRIME)) % FIELD_PRIME
_SQRT_M1: Final = pow(2, (FIELD_PRIME - 1) // 4, FIELD_PRIME)

SignedTriple = tuple[bytes, bytes, bytes]
"""(public key 32 bytes, signed message, signature 64 bytes)"""
Point = tuple[int, int]
"""Affine (x, y) on the curve -x^2 + y^2 = 1 + d x^2 y^2, both reduced modulo the field prime."""


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether the signature is valid under ZIP 215."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    try:
        return bool(ed_verify(signature, message, public_key))
    except ValueError:
        return False


def verify_batch(triples: Sequence[SignedTriple]) -> list[bool]:
    """Return one verdict per triple, in order; a bad entry never spoils another."""
    return verify_columns(*zip(*triples, strict=True)) if triples else []


def verify_columns(
    keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]
) -> list[bool]:
    """As `verify_batch`, of three columns of one length: the library is called from C alone."""
    assert len(keys) == len(messages) == len(signatures)
    try:
        return list(map(ed_verify, signatures, messages, keys))
    except ValueError:  # some versions of the library raise for a malformed entry
        return list(map(verify, keys, messages, signatures))


def is_registrable_key(public_key: bytes) -> bool:
    """Return whether a policy or a validator set may name this key.

    True for the canonical encoding of a curve point whose order does not divide 8.
    """
    point = decode_point(public_key)
    return point is not None and not _is_small_order(point)


def decode_point(encoded: bytes) -> Point | None:
    """Return the point of a canonical encoding; None for any other 32 bytes.

    Canonical: y below the field prime, and no sign bit on x = 0.
    """
    if len(encoded) != 32:
        return None
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= FIELD_PRIME:
        return None
    x = _recover_x(y)
    if x is None or (x == 0 and sign):
        return None
    return (FIELD_PRIME - x if x & 1 != sign else x), y


def _recover_x(y: int) -> int | None:
    """Return a root of x^2 = (y^2 - 1) / (d y^2 + 1), or None if the right side is no square."""
    u, v = (y * y - 1) % FIELD_PRIME, (CURVE_D * y * y + 1) % FIELD_PRIME
    x = u * pow(v, 3, FIELD_PRIME) * pow(u * pow(v, 7, FIELD_PRIME), _ROOT_EXPONENT, FIELD_PRIME)
    x %= FIELD_PRIME
    square = v * x * x % FIELD_PRIME
    if square == u:
        return x
    if square == FIELD_PRIME - u:
        return x * _SQRT_M1 % FIELD_PRIME
    return None


_ROOT_EXPONENT: Final = (FIELD_PRIME - 5) // 8


def _is_small_order(point: Point) -> bool:
    """Return whether 8 P is the identity: three doublings in projective coordinates."""
    x, y, z = point[0], point[1], 1
    for _ in range(3):
        # dbl-2008-bbjlp for a = -1, https://hyperelliptic.org/EFD/
        sum_squared = (x + y) ** 2 % FIELD_PRIME
        xx, yy = x * x % FIELD_PRIME, y * y % FIELD_PRIME
        f = yy - xx
        j = (f - 2 * z * z) % FIELD_PRIME
        x, y, z = (
            (sum_squared - xx - yy) * j % FIELD_PRIME,
            f * (-xx - yy) % FIELD_PRIME,
            f * j % FIELD_PRIME,
        )
    return x == 0 and y == z


def compute_possession_bytes(chain_id: bytes, *, participant: str, public_key: bytes) -> bytes:
    """Return what the owner of a key signs so that a participant may register it.

    In the genesis document, whose hash becomes the chain id, `chain_id` is 32 zero bytes.
    """
    return compute_sign_bytes(SignKind.POSSESSION, chain_id, encode((participant, public_key)))


def verify_possession(
    chain_id: bytes, *, participant: str, public_key: bytes, signature: bytes
) -> bool:
    """Return whether the key's owner agreed to its registration by this participant."""
    message = compute_possession_bytes(chain_id, participant=participant, public_key=public_key)
    return verify(public_key, message, signature)
