"""The HTTP server: what hostile and unlucky clients can and cannot do to it."""

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise

import h11
import msgspec
import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atpar.node.http_server import HttpBounds, HttpServer, Message, Receive, Scope, Send
from tests.patience import DEADLINE_S

OK_HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: node\r\n\r\n"


async def answer_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send(OK_HEAD)
    await send({"type": "http.response.body", "body": b"ok"})


async def answer_length(scope: Scope, receive: Receive, send: Send) -> None:
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        total += len(message["body"])
        if not message["more_body"]:
            break
    body = str(total).encode()
    await send({**OK_HEAD, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise KeyError("a defect")


class Client:
    """The other end of one served connection, speaking bytes."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def read_all(self) -> bytes:
        with trio.fail_after(DEADLINE_S):
            while data := await self.stream.receive_some():
                self.buffer += bytes(data)
        return self.buffer

    async def read_until(self, mark: bytes) -> bytes:
        with trio.fail_after(DEADLINE_S):
            while mark not in self.buffer:
                data = await self.stream.receive_some()
                assert data, self.buffer
                self.buffer += bytes(data)
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark


Script = Callable[[Client], Awaitable[None]]


async def converse(server: HttpServer, script: Script) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, theirs)
        await script(Client(ours))
        await ours.aclose()
    assert server.connections == 0


def bounds(**changed: float) -> HttpBounds:
    return HttpBounds(**{"linger_timeout_s": 0.05, **changed})  # type: ignore[arg-type]


async def test_two_requests_on_one_connection_are_answered_in_turn() -> None:
    async def script(client: Client) -> None:
        for _ in range(2):
            await client.stream.send_all(GET)
            assert (await client.read_until(b"ok")).startswith(b"HTTP/1.1 200")

    await converse(HttpServer(answer_ok), script)


async def test_pipelined_requests_are_answered_in_order() -> None:
    seen: list[str] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await answer_ok(scope, receive, send)

    async def script(client: Client) -> None:
        await client.stream.send_all(GET + GET.replace(b"a%20b", b"next"))
        await client.read_until(b"ok")
        await client.read_until(b"ok")

    await converse(HttpServer(note), script)
    assert seen == ["/a b", "/next"]


async def test_body_in_pieces_reaches_the_application_whole() -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: 6\r\n\r\nabc")
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.send_all(b"def")
        assert (await client.read_until(b"\r\n\r\n6")).startswith(b"HTTP/1.1 200")

    await converse(HttpServer(answer_length), script)


async def test_expect_continue_is_confirmed_before_the_body_comes() -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(
            b"POST / HTTP/1.1\r\nHost: n\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
        await client.read_until(b"HTTP/1.1 100 \r\n\r\n")
        await client.stream.send_all(b"abc")
        await client.read_until(b"\r\n\r\n3")

    await converse(HttpServer(answer_length), script)


async def test_answer_before_the_body_closes_the_connection_after_it() -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: 99\r\n\r\nabc")
        data = await client.read_all()
        assert data.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in data

    await converse(HttpServer(answer_ok, bounds()), script)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 4 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 20_000, 431),
    ],
)
async def test_malformed_http_is_answered_with_a_problem_document(data: bytes, status: int) -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(data)
        head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d" % status)
        assert b"application/problem+json" in head
        problem = msgspec.json.decode(body)
        assert (problem["status"], problem["code"]) == (status, "MALFORMED_HTTP")

    await converse(HttpServer(answer_ok, bounds()), script)


@pytest.mark.parametrize("name", ["h2c", "websocket"])
async def test_upgrade_is_ignored(name: str) -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(
            b"GET / HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nHTTP2-Settings: A\r\n"
            b"Upgrade: " + name.encode() + b"\r\n\r\n"
        )
        data = await client.read_until(b"ok")
        assert data.startswith(b"HTTP/1.1 200")

    await converse(HttpServer(answer_ok, bounds()), script)


async def test_head_at_the_limit_is_served_and_one_past_it_is_not() -> None:
    small = bounds(max_head_bytes=200)
    blank = b"GET / HTTP/1.1\r\nHost: n\r\nX: %b\r\n\r\n"
    fits = blank % (b"y" * (200 - len(blank % b"")))
    assert len(fits) == 200

    async def at(client: Client) -> None:
        await client.stream.send_all(fits)
        await client.read_until(b"ok")

    async def past(client: Client) -> None:
        await client.stream.send_all(fits.replace(b"yy", b"yyy", 1))
        assert (await client.read_all()).startswith(b"HTTP/1.1 431")

    await converse(HttpServer(answer_ok, small), at)
    await converse(HttpServer(answer_ok, small), past)


async def test_defect_in_the_application_is_a_500_problem_and_the_server_lives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(GET)
        head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500")
        assert msgspec.json.decode(body)["code"] == "INTERNAL_ERROR"
        assert b"defect" not in body
        assert b"Traceback" not in body

    server = HttpServer(fail, bounds())
    for _ in range(2):
        await converse(server, script)
    assert "a defect" in capsys.readouterr().out


async def test_application_that_fails_in_the_middle_never_looks_complete(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError

    async def script(client: Client) -> None:
        await client.stream.send_all(GET)
        data = await client.read_all()
        assert b"half" in data
        assert not data.endswith(b"0\r\n\r\n")

    await converse(HttpServer(half), script)


async def test_application_is_told_when_the_client_hangs_up() -> None:
    told: list[Message] = []

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        told.append(await receive())
        told.append(await receive())

    async def script(client: Client) -> None:
        await client.stream.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()

    await converse(HttpServer(patient), script)
    assert [m["type"] for m in told] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("kind", ["nothing", "half a body", "a wrong length"])
async def test_application_that_answers_wrongly_never_looks_complete(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
        if kind != "nothing":
            await send(OK_HEAD)
            more = kind == "half a body"
            await send({"type": "http.response.body", "body": b"x", "more_body": more})

    async def script(client: Client) -> None:
        await client.stream.send_all(GET)
        data = await client.read_all()
        assert data == b"" or b" 500 " in data or not data.endswith(b"ok")

    await converse(HttpServer(wrong, bounds()), script)
    assert "connection failed" in capsys.readouterr().out


async def test_defect_in_the_answer_to_head_leaves_the_server_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(GET.replace(b"GET", b"HEAD"))
        await client.read_all()

    await converse(HttpServer(fail, bounds()), script)


async def test_body_that_is_not_chunked_as_announced_can_still_be_refused() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"
        await answer_ok(scope, receive, send)

    async def script(client: Client) -> None:
        await client.stream.send_all(
            b"POST / HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
        assert (await client.read_all()).startswith(b"HTTP/1.1 200")

    await converse(HttpServer(refuse, bounds()), script)


async def test_client_that_sends_too_far_ahead_is_dropped() -> None:
    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    async def script(client: Client) -> None:
        await client.stream.send_all(GET)
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(DEADLINE_S):
            while True:
                await client.stream.send_all(b"x" * 30_000)
                await trio.testing.wait_all_tasks_blocked()

    await converse(HttpServer(patient), script)


async def test_connection_without_a_complete_head_is_closed_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(client: Client) -> None:
        await client.stream.send_all(b"GET / HT")
        with trio.fail_after(20):
            assert await client.stream.receive_some() == b""

    await converse(HttpServer(answer_ok), script)


async def test_client_that_does_not_read_is_disconnected_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, GET)
        with trio.fail_after(60):
            await HttpServer(endless).serve(theirs)
    assert await ours.receive_some() != b""


async def test_connection_beyond_the_bound_takes_the_place_of_the_longest_idle_one() -> None:
    server = HttpServer(answer_ok, bounds(max_connections=2))
    pairs = [trio.testing.memory_stream_pair() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for _, theirs in pairs:
            nursery.start_soon(server.serve, theirs)
            await trio.testing.wait_all_tasks_blocked()
        first, second, third = (ours for ours, _ in pairs)
        assert await first.receive_some() == b""
        for stream in (second, third):
            await stream.send_all(GET)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            await stream.aclose()
    assert server.refused == 1


async def test_connection_beyond_the_bound_is_closed_while_all_others_are_answered() -> None:
    release = trio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answer_ok(scope, receive, send)

    server = HttpServer(slow, bounds(max_connections=1))
    first, first_end = trio.testing.memory_stream_pair()
    second, second_end = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, first_end)
        await first.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.serve, second_end)
        assert await second.receive_some() == b""
        release.set()
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200")
        await first.aclose()
    assert server.refused == 1


async def test_other_tasks_get_the_processor_between_requests_that_come_at_once() -> None:
    order: list[str] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        order.append("request")
        await answer_ok(scope, receive, send)

    async def other() -> None:
        while order.count("request") < 10:
            order.append("other")
            await trio.lowlevel.checkpoint()

    server = HttpServer(note, bounds())
    pairs = [trio.testing.memory_stream_pair() for _ in range(10)]
    async with trio.open_nursery() as nursery:
        for _, theirs in pairs:
            nursery.start_soon(server.serve, theirs)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(other)
        for ours, _ in pairs:
            nursery.start_soon(ours.send_all, GET)
        for ours, _ in pairs:
            assert (await ours.receive_some()).startswith(b"HTTP/1.1 200")
            await ours.aclose()
    positions = [index for index, what in enumerate(order) if what == "request"]
    assert all(later - earlier > 1 for earlier, later in pairwise(positions))


async def test_stop_closes_idle_connections_and_lets_requests_finish() -> None:
    release = trio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answer_ok(scope, receive, send)

    server = HttpServer(slow)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(server.run, "127.0.0.1:0"))
        host, _, port = address.rpartition(":")
        idle = Client(await trio.open_tcp_stream(host, int(port)))
        busy = Client(await trio.open_tcp_stream(host, int(port)))
        await busy.stream.send_all(GET)
        with trio.fail_after(DEADLINE_S):
            while server.connections < 2 or len(server.idle) != 1:
                await trio.testing.wait_all_tasks_blocked()
        server.stop()
        assert await idle.read_all() == b""
        release.set()
        assert b"connection: close" in await busy.read_all()
    await idle.stream.aclose()
    await busy.stream.aclose()


async def test_stop_does_not_wait_for_a_client_that_never_reads() -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})

    server = HttpServer(endless, bounds(grace_s=0.1))
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(partial(server.run, "127.0.0.1:0"))
            host, _, port = address.rpartition(":")
            stream = await trio.open_tcp_stream(host, int(port))
            await stream.send_all(GET)
            await stream.receive_some(1)
            server.stop()
        await stream.aclose()


HOSTILE = (
    b"\x16\x03\x01" + b"\xff" * 200,
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n" + b"x" * 999,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 999,
    b"GET / HT",
    b"",
)


class ResetStream(trio.abc.HalfCloseableStream):
    """A connection whose client resets it as soon as the answer has left."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.answer = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.answer:
            raise trio.BrokenResourceError
        data, self.data = self.data, b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.answer += bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError("not connected")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("data", HOSTILE)
async def test_client_that_resets_after_the_answer_leaves_the_server_alone(
    data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    server = HttpServer(answer_ok, bounds())
    await server.serve(ResetStream(data))
    assert server.connections == 0
    assert "connection failed" not in capsys.readouterr().out


async def test_connections_that_are_reset_at_any_moment_leave_the_server_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = HttpServer(answer_length, bounds())
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.run, "127.0.0.1:0")
        port = int(address.rpartition(":")[2])
        for number in range(120):
            with socket.create_connection(("127.0.0.1", port)) as client:
                # Closing sends a reset, not an orderly end.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(HOSTILE[number % len(HOSTILE)])
                for _ in range(number % 4):
                    await trio.lowlevel.checkpoint()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(GET)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await stream.aclose()
        server.stop()
    assert "connection failed" not in capsys.readouterr().out


@given(st.binary(max_size=300))
@example(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n\xff\xff")
@example(b"POST / HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n\r\nab")
@settings(max_examples=100, deadline=None)
def test_no_bytes_bring_the_server_down(data: bytes) -> None:
    async def main() -> None:
        async def script(client: Client) -> None:
            await client.stream.send_all(data)
            await client.stream.send_eof()
            await client.read_all()

        await converse(HttpServer(answer_length, bounds(linger_timeout_s=0.01)), script)

    trio.run(main)


def test_answers_are_http_that_another_reader_accepts() -> None:
    async def main() -> bytes:
        got = b""

        async def script(client: Client) -> None:
            nonlocal got
            await client.stream.send_all(GET.replace(b"GET", b"HEAD"))
            await client.stream.send_eof()
            got = await client.read_all()

        await converse(HttpServer(answer_ok), script)
        return got

    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="HEAD", target="/", headers=[("Host", "n")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(trio.run(main))
    response = reader.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == 200
    assert isinstance(reader.next_event(), h11.EndOfMessage)
