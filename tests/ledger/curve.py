"""Edwards25519 in plain integers, written from RFC 8032 alone, to make the keys and signatures
that no honest library makes: small order, mixed order, non-canonical.
"""

from hashlib import sha512

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)

Point = tuple[int, int]
IDENTITY: Point = (0, 1)


def recover_x(y: int, sign: int) -> int | None:
    """Return the x of a point, as RFC 8032 section 5.1.3 finds it; None if y is on no point."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * SQRT_M1 % P
    if (x * x - square) % P:
        return None
    return (P - x) % P if x % 2 != sign else x


BASE_Y = 4 * pow(5, -1, P) % P
BASE: Point = (recover_x(BASE_Y, 0) or 0, BASE_Y)


def add(a: Point, b: Point) -> Point:
    cross = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + cross, -1, P) % P
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - cross, -1, P) % P
    return x, y


def multiply(scalar: int, point: Point) -> Point:
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def encode_point(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _find_order_eight() -> Point:
    for y in range(2, 100):
        x = recover_x(y, 0)
        if x is not None:
            point = multiply(L, (x, y))
            if multiply(4, point) != IDENTITY:
                return point
    raise AssertionError("no point of order 8")


TORSION: list[Point] = [multiply(k, _find_order_eight()) for k in range(8)]
"""The eight points of small order; TORSION[k] has order 8 / gcd(k, 8)."""


def list_small_order_encodings() -> list[bytes]:
    """Return every 32-byte string that ZIP 215 decodes to a point of small order.

    A point's y may be written y or, where it fits below 2^255, y + p; and x = 0 may carry either
    sign bit.
    """
    found = set()
    for x, y in TORSION:
        for written in (y, y + P):
            if written < 2**255:
                for sign in (0, 1) if x == 0 else (x & 1,):
                    found.add((written | sign << 255).to_bytes(32, "little"))
    return sorted(found)


def is_canonical(encoded: bytes) -> bool:
    number = int.from_bytes(encoded, "little")
    y, sign = number & (2**255 - 1), number >> 255
    return y < P and not (sign and y in (1, P - 1))


def compute_challenge(encoded_r: bytes, encoded_a: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(encoded_r + encoded_a + message).digest(), "little") % L


def sign_crafted(
    secret: int, message: bytes, *, nonce: int, torsion_a: Point, torsion_r: Point
) -> tuple[bytes, bytes]:
    """Return (key, signature) with A = a B + T_A and R = r B + T_R: valid with the cofactor."""
    encoded_a = encode_point(add(multiply(secret, BASE), torsion_a))
    encoded_r = encode_point(add(multiply(nonce, BASE), torsion_r))
    challenge = compute_challenge(encoded_r, encoded_a, message)
    s = (nonce + challenge * secret) % L
    return encoded_a, encoded_r + s.to_bytes(32, "little")


def verify_cofactorless(key: Point, encoded_a: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether s B = R + k A without the factor 8, for a canonical R."""
    s, encoded_r = int.from_bytes(signature[32:], "little"), signature[:32]
    challenge = compute_challenge(encoded_r, encoded_a, message)
    expected = add(multiply(s, BASE), multiply(challenge, ((P - key[0]) % P, key[1])))
    return encode_point(expected) == encoded_r
