"""What two connected nodes say about the connection itself: the messages of channel CONTROL."""

from typing import Annotated, Final

from msgspec import Meta

from atpar.ledger.codec import Codec, Wire
from atpar.ledger.types import ChainId
from atpar.node.limits import MAX_CONTROL_FRAME_BYTES

PROTOCOL_VERSION: Final = 1
INSTANCE_BYTES: Final = 16


class Hello(Wire, frozen=True, tag=1):
    """Sent first, by both sides."""

    protocol: Annotated[int, Meta(ge=0, le=65_535)]
    chain_id: ChainId
    instance: Annotated[bytes, Meta(min_length=INSTANCE_BYTES, max_length=INSTANCE_BYTES)]
    """Random for each start of the node."""


class Welcome(Wire, frozen=True, tag=2):
    """The lower code's decision to use this connection. Higher numbers are newer."""

    number: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Ping(Wire, frozen=True, tag=3):
    """Asks for a pong with the same number."""

    number: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Pong(Wire, frozen=True, tag=4):
    """Answers a ping."""

    number: Annotated[int, Meta(ge=0, le=2**63 - 1)]


Control = Hello | Welcome | Ping | Pong
CONTROL = Codec[Control](Control, name="control message", max_bytes=MAX_CONTROL_FRAME_BYTES)
