"""Frames: both sides of every bound, any split of the stream, and a claim of 4 GiB."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atpar.node.errors import FrameInvalid
from atpar.node.framing import (
    MAX_PAYLOAD_BYTES,
    Channel,
    Frame,
    FrameDecoder,
    encode_frame,
)


@given(
    st.lists(st.tuples(st.sampled_from(list(Channel)), st.binary(max_size=200)), max_size=8),
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
)
def test_frames_survive_any_split_of_the_stream(
    frames: list[tuple[Channel, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode_frame(channel, payload) for channel, payload in frames)
    decoder = FrameDecoder()
    found: list[Frame] = []
    position = 0
    while position < len(stream):
        size = cuts[position % len(cuts)]
        found += decoder.feed(stream[position : position + size])
        position += size
    assert found == frames
    assert decoder.buffered_bytes == 0


@pytest.mark.parametrize("channel", Channel)
def test_payload_at_the_bound_passes_and_one_past_it_does_not(channel: Channel) -> None:
    bound = MAX_PAYLOAD_BYTES[channel]
    assert FrameDecoder().feed(encode_frame(channel, bytes(bound))) == [(channel, bytes(bound))]
    header = (bound + 2).to_bytes(4, "big") + bytes((channel,))
    with pytest.raises(FrameInvalid, match=f"claims {bound + 2} bytes"):
        FrameDecoder().feed(header)


def test_claim_of_four_gigabytes_is_refused_at_the_fourth_byte_without_memory() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(b"\xff\xff\xff") == []
    tracemalloc.start()
    with pytest.raises(FrameInvalid, match="claims 4294967295 bytes"):
        decoder.feed(b"\xff")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024


def test_frame_of_length_zero_is_refused() -> None:
    with pytest.raises(FrameInvalid, match="claims 0 bytes"):
        FrameDecoder().feed(bytes(4))


def test_empty_payload_is_a_frame() -> None:
    assert FrameDecoder().feed(encode_frame(Channel.VOTES, b"")) == [(Channel.VOTES, b"")]


@pytest.mark.parametrize("channel", [6, 7, 255])
def test_unknown_channel_is_refused(channel: int) -> None:
    with pytest.raises(FrameInvalid, match="does not exist"):
        FrameDecoder().feed(b"\0\0\0\x02" + bytes((channel, 0)))


def test_garbage_is_refused_or_waits_within_the_bound() -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameInvalid):
        decoder.feed(b"GET / HTTP/1.1\r\nHost: bank\r\n\r\n")


def test_own_payload_past_the_bound_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="at most 4096"):
        encode_frame(Channel.CONTROL, bytes(4_097))
