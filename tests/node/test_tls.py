"""TLS connections of our own against trio's, an independent implementation of the same."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from atpar.node.identity import issue_leaf, make_contexts
from atpar.node.limits import READ_BYTES
from atpar.node.tls import TlsStream
from tests.node.network import get_root, make_roots, write_leaf
from tests.patience import DEADLINE_S

LARGE = bytes(range(256)) * 8_000
RECORD_BYTES = 2 + 5 + 1 + 16
"""A record that carries two: header, type and tag of TLS 1.3."""
Theirs = trio.SSLStream[trio.SocketStream]


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    files = write_leaf(tmp_path, "ALFA", issue_leaf(get_root("ALFA"), "ALFA"))
    return make_contexts(make_roots(), *files)


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, await trio.open_tcp_stream("127.0.0.1", port) as dialled:
        accepted = await listener.accept()
        async with accepted:
            with trio.fail_after(DEADLINE_S):
                yield dialled, accepted


@asynccontextmanager
async def pair(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], *, dials: bool
) -> AsyncIterator[tuple[TlsStream, Theirs]]:
    """Our end and trio's end of one connection; `dials` says whether ours dialled."""
    accepting, dialing = contexts
    async with tcp_pair() as (dialled, accepted):
        if dials:
            ours = TlsStream(dialled, dialing)
            theirs = trio.SSLStream(accepted, accepting, server_side=True)
        else:
            ours = TlsStream(accepted, accepting, server_side=True)
            theirs = trio.SSLStream(dialled, dialing)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.do_handshake)
            await ours.do_handshake()
        yield ours, theirs


async def read_all(stream: TlsStream | Theirs, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = await stream.receive_some()
        assert data
        received += data
    return bytes(received)


async def wait_arrived(stream: TlsStream, size: int) -> None:
    """Wait until so many bytes of TLS wait to be read."""
    while len(await stream._tcp.socket.recv(2 * size, socket.MSG_PEEK)) < size:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("dials", [True, False])
async def test_much_goes_both_ways_at_once(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], dials: bool
) -> None:
    got: dict[str, bytes] = {}

    async def read(name: str, stream: TlsStream | Theirs) -> None:
        got[name] = await read_all(stream, len(LARGE))

    async with pair(contexts, dials=dials) as (ours, theirs):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "ours", ours)
            nursery.start_soon(read, "theirs", theirs)
            nursery.start_soon(ours.send_all, LARGE)
            nursery.start_soon(theirs.send_all, LARGE)
        assert got == {"ours": LARGE, "theirs": LARGE}
        assert ours.get_peer_certificate() == theirs.getpeercert(binary_form=True)


async def test_what_arrived_in_many_records_is_read_at_once_and_within_the_bound(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts, dials=True) as (ours, theirs):
        for number in range(50):
            await theirs.send_all(b"%02d" % number)
        await wait_arrived(ours, 50 * RECORD_BYTES)
        assert await ours.receive_some() == b"".join(b"%02d" % n for n in range(50))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, LARGE)
            left = len(LARGE)
            while left:
                size = len(await ours.receive_some())
                assert 0 < size <= READ_BYTES
                left -= size


async def test_a_well_ended_connection_reads_as_nothing_again_and_again(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts, dials=False) as (ours, theirs):
        await theirs.send_all(b"last words")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.aclose)
            assert await read_all(ours, 10) == b"last words"
            assert await ours.receive_some() == b""
            assert await ours.receive_some() == b""
            nursery.cancel_scope.cancel()


async def test_a_connection_cut_off_is_broken_not_ended(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts, dials=True) as (ours, theirs):
        await trio.aclose_forcefully(theirs)
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some()


async def test_changed_bytes_on_the_way_break_the_connection(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts, dials=True) as (ours, theirs):
        await theirs.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ours.receive_some()
        assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_a_failed_handshake_names_the_fault_and_tells_the_other_side(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    accepting, _ = contexts
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    async with tcp_pair() as (dialled, accepted):
        ours = TlsStream(accepted, accepting, server_side=True)
        theirs = trio.SSLStream(dialled, stranger)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.do_handshake)
            with pytest.raises(trio.BrokenResourceError) as caught:
                await ours.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        with pytest.raises(trio.BrokenResourceError) as told:
            await theirs.receive_some()
        assert "certificate required" in str(told.value.__cause__).lower().replace("_", " ")


async def test_closing_while_another_task_reads_ends_the_reading(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts, dials=True) as (ours, _), trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await ours.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(ours)


async def test_what_is_not_taken_at_once_goes_out_first_with_what_is_sent_next(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts, dials=True) as (ours, theirs):
        assert ours.send_now(b"first")
        assert not ours.has_unsent
        sent = b"first"
        while not ours.has_unsent:  # until the system takes no more
            is_whole = ours.send_now(LARGE)
            sent += LARGE
            assert is_whole is not ours.has_unsent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, b"last")
            assert await read_all(theirs, len(sent) + 4) == sent + b"last"
        assert not ours.has_unsent


async def send_again_and_again(stream: TlsStream) -> None:
    while True:
        stream.send_now(LARGE)
        await trio.sleep(0.01)


async def test_sending_at_once_on_a_dead_connection_says_so(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts, dials=True) as (ours, theirs):
        await trio.aclose_forcefully(theirs)
        with pytest.raises(trio.BrokenResourceError):
            await send_again_and_again(ours)
