"""Canonical bytes: one value, one encoding, for everything that is hashed, signed or stored.

MessagePack through msgspec Structs encoded as arrays. msgspec accepts several encodings of one
value (wide integers, `bin16` for a short string), so a decoded value counts only if encoding it
again gives the same bytes. No map, set or `Raw` may stand in a hashed Struct.
"""

from typing import Any, Final, Generic, TypeVar

import msgspec

from atpar.ledger.errors import NonCanonical

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""Return the canonical bytes of a Struct (or of a tuple of plain values)."""

DECODING_FAULTS: Final = (
    msgspec.DecodeError,
    RecursionError,
    UnicodeDecodeError,
    OverflowError,
)
"""What a msgspec decoder raises on hostile bytes."""


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of every Struct that is hashed, signed, stored or sent: an array with fixed fields.

    Subclasses define no default for any field: an omitted field would be a second encoding.
    Frozen, and without lists or dicts inside, they form no cycles: the collector need not look
    at them, which makes decoding a payment a fifth faster.
    """


T = TypeVar("T")


class Codec(Generic[T]):
    """Decodes one type and refuses every encoding of it but the canonical one."""

    def __init__(self, kind: Any, *, name: str, max_bytes: int) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self.name = name
        self.max_bytes = max_bytes

    def decode(self, data: bytes) -> T:
        """Return the value of `data`.

        Raises:
            NonCanonical: too long, not MessagePack, another shape, a value out of range, or not
                the canonical encoding.
        """
        if len(data) > self.max_bytes:
            raise NonCanonical(f"{self.name}: {len(data)} bytes, at most {self.max_bytes}")
        try:
            value = self._decoder.decode(data)
        except DECODING_FAULTS as error:
            raise NonCanonical(f"{self.name}: {error}") from error
        if encode(value) != data:
            raise NonCanonical(f"{self.name}: not the canonical encoding")
        return value

    def decode_stored(self, data: bytes) -> T:
        """Return the value of bytes this node encoded itself: no canonical check."""
        return self._decoder.decode(data)
