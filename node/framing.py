"""Frames on a validator connection: a bounded length, a channel, one message.

    frame = length of the rest (4 bytes, big-endian) | channel (1 byte) | payload

Pure: bytes in, frames out. The length is checked against the bound of its channel as soon as the
five header bytes are there, so a frame that claims 4 GiB costs its sender the connection and us
nothing.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from atpar.node.errors import FrameInvalid
from atpar.node.limits import (
    MAX_CONTROL_FRAME_BYTES,
    MAX_FETCH_FRAME_BYTES,
    MAX_PROPOSAL_FRAME_BYTES,
    MAX_SNAPSHOT_FRAME_BYTES,
    MAX_TRANSACTIONS_FRAME_BYTES,
    MAX_VOTE_FRAME_BYTES,
)

LENGTH_BYTES: Final = 4
HEADER_BYTES: Final = LENGTH_BYTES + 1


class Channel(IntEnum):
    """What a frame is about. Lower goes first when a connection cannot take everything."""

    CONTROL = 0
    """The connection's own business: hello, welcome, ping. Never leaves the transport."""
    VOTES = 1
    """Votes and certificates."""
    PROPOSALS = 2
    FETCH = 3
    """Requests for missing blocks and certificates, and the answers."""
    TRANSACTIONS = 4
    """Gossip, many envelopes a frame."""
    SNAPSHOT = 5


MAX_PAYLOAD_BYTES: Final = {
    Channel.CONTROL: MAX_CONTROL_FRAME_BYTES,
    Channel.VOTES: MAX_VOTE_FRAME_BYTES,
    Channel.PROPOSALS: MAX_PROPOSAL_FRAME_BYTES,
    Channel.FETCH: MAX_FETCH_FRAME_BYTES,
    Channel.TRANSACTIONS: MAX_TRANSACTIONS_FRAME_BYTES,
    Channel.SNAPSHOT: MAX_SNAPSHOT_FRAME_BYTES,
}
_MAX_LENGTH: Final = max(MAX_PAYLOAD_BYTES.values()) + 1


class Frame(NamedTuple):
    """One message of one channel."""

    channel: Channel
    payload: bytes


def encode_header(channel: Channel, payload: bytes) -> bytes:
    """Return the five bytes that go before a payload.

    The caller's payload must respect the channel's bound: a longer one is our own bug.
    """
    assert len(payload) <= MAX_PAYLOAD_BYTES[channel], (
        f"{len(payload)} bytes for {channel.name}, at most {MAX_PAYLOAD_BYTES[channel]}"
    )
    return (len(payload) + 1).to_bytes(LENGTH_BYTES, "big") + bytes((channel,))


def encode_frame(channel: Channel, payload: bytes) -> bytes:
    """Return a whole frame."""
    return encode_header(channel, payload) + payload


class FrameDecoder:
    """Turns a byte stream into frames. Holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the frame that is still incomplete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream; return the frames that are complete now, in order.

        Raises:
            FrameInvalid: an unknown channel, or a length of zero or above the channel's bound.
                Nothing more can be read from this stream.
        """
        self._buffer += data
        frames: list[Frame] = []
        position = 0
        end = len(self._buffer)
        while end - position >= LENGTH_BYTES:
            self._check_length(position)
            if end - position < HEADER_BYTES:
                break
            channel, size = self._parse_header(position)
            stop = position + HEADER_BYTES + size
            if stop > end:
                break
            with memoryview(self._buffer) as view:  # a slice of the buffer itself would be a copy
                frames.append(Frame(channel, bytes(view[position + HEADER_BYTES : stop])))
            position = stop
        if position:
            del self._buffer[:position]
        return frames

    def _check_length(self, position: int) -> None:
        """Refuse a length that no channel has, without waiting for the channel byte."""
        length = int.from_bytes(self._buffer[position : position + LENGTH_BYTES], "big")
        if not 1 <= length <= _MAX_LENGTH:
            raise FrameInvalid(f"frame claims {length} bytes, at most {_MAX_LENGTH}")

    def _parse_header(self, position: int) -> tuple[Channel, int]:
        """Return the channel and the payload's size, both checked."""
        header = self._buffer[position : position + HEADER_BYTES]
        length = int.from_bytes(header[:LENGTH_BYTES], "big")
        try:
            channel = Channel(header[LENGTH_BYTES])
        except ValueError as error:
            raise FrameInvalid(f"channel {header[LENGTH_BYTES]} does not exist") from error
        bound = MAX_PAYLOAD_BYTES[channel]
        if length > bound + 1:
            raise FrameInvalid(f"{channel.name} frame claims {length} bytes, at most {bound + 1}")
        return channel, length - 1
