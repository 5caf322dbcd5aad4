"""Bytes that are surely not what they were.

A test that writes a constant over a byte alters nothing when the constant stood there already: one
run in 256. Turning a bit always does.
"""


def flip(data: bytes, at: int = 0, bit: int = 0) -> bytes:
    """Return `data` with one bit of its byte `at` turned, counted from its end if negative."""
    altered = bytearray(data)
    altered[at] ^= 1 << bit
    return bytes(altered)
