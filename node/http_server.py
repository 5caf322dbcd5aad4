"""A small HTTP/1.1 server for one ASGI application, on trio and h11, with a bound on everything.

Hypercorn's trio worker was used first and replaced: one request with `Upgrade: h2c` and a broken
`HTTP2-Settings` header ended the whole process, a client that stopped reading blocked shutdown
for ever (its sends are shielded), it takes any number of connections, and answers malformed HTTP
without a body. There is no HTTP/2, no WebSocket and no upgrade here, on purpose.

Each connection is one task. What a client can make the server hold is bounded: request head,
bytes sent ahead, time per head, time per write. An application that fails answers 500 and is
logged; neither a client nor a defect in a request handler stops the node.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import h11
import msgspec
import trio

from atpar.node.limits import (
    API_HEAD_TIMEOUT_S,
    API_LINGER_TIMEOUT_S,
    API_SHUTDOWN_GRACE_S,
    API_WRITE_CHUNK_BYTES,
    API_WRITE_TIMEOUT_S,
    MAX_PIPELINED_BYTES,
    MAX_REQUEST_HEAD_BYTES,
)
from atpar.node.logs import get_logger

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

RECEIVE_BYTES: Final = 64 * 1024
SERVED_VERSIONS: Final = (b"1.0", b"1.1")
PROBLEM_TYPE: Final = b"application/problem+json"

log = get_logger("http")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBounds:
    """What one server holds and waits for. Tests shrink it."""

    max_connections: int = 1_000
    max_head_bytes: int = MAX_REQUEST_HEAD_BYTES
    head_timeout_s: float = API_HEAD_TIMEOUT_S
    write_timeout_s: float = API_WRITE_TIMEOUT_S
    linger_timeout_s: float = API_LINGER_TIMEOUT_S
    grace_s: float = API_SHUTDOWN_GRACE_S


@dataclass(slots=True)
class HttpServer:
    """One listening server. `run` serves until `stop` is called or it is cancelled."""

    app: Application
    bounds: HttpBounds = field(default_factory=HttpBounds)
    connections: int = 0
    """Open connections now."""
    refused: int = 0
    """Connections closed because there were too many."""
    idle: dict[trio.CancelScope, None] = field(default_factory=dict)
    """One scope for each connection that waits for a request, the longest waiting first."""
    _turn: trio.Lock = field(default_factory=trio.Lock)
    _stopping: trio.Event = field(default_factory=trio.Event)

    def stop(self) -> None:
        """Stop accepting, let requests under way finish within the grace time, then return."""
        self._stopping.set()
        for scope in self.idle:
            scope.cancel()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called: answers now close their connection."""
        return self._stopping.is_set()

    async def run(
        self,
        listen: str,
        *,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on `host:port` and serve; starts with the bound addresses, as `host:port`.

        Raises:
            OSError: the address cannot be bound.
        """
        host, _, port = listen.rpartition(":")
        listeners = await trio.open_tcp_listeners(int(port), host=host.strip("[]") or None)
        addresses = [_render_address(listener.socket.getsockname()) for listener in listeners]
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    partial(
                        trio.serve_listeners, self.serve, listeners, handler_nursery=connections
                    )
                )
                task_status.started(addresses)
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + self.bounds.grace_s

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends. Owns and closes the stream."""
        if self.connections >= self.bounds.max_connections:
            self.refused += 1
            if not self._drop_idle():
                await trio.aclose_forcefully(stream)
                return
        self.connections += 1
        connection = _Connection(stream, self)
        try:
            await connection.run()
        # The one place where any exception is caught: whatever goes wrong with one client or in
        # the handling of its request must not give it a way to stop a validator.
        except Exception:
            log.exception("connection failed")
            await connection.refuse(
                500, code="INTERNAL_ERROR", detail="the request failed in the node"
            )
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def take_turn(self) -> None:
        """Wait for one's turn to work on what a client sent: one connection per scheduler pass.

        The loop that reads requests also casts votes. However many clients send at once, whoever
        else has work gets the processor after each of them.
        """
        async with self._turn:
            await trio.lowlevel.checkpoint()

    def _drop_idle(self) -> bool:
        """Drop the connection that has waited longest for its client to ask; whether there is one.

        So clients that connect and never ask cannot keep others out.
        """
        for scope in self.idle:
            del self.idle[scope]
            scope.cancel()
            return True
        return False


def _render_address(name: Any) -> str:
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class UnfinishedAnswer(Exception):
    """The application returned without a complete answer: a defect of ours."""


class _Connection:
    """One client connection: requests one after another, each handed to the application."""

    def __init__(self, stream: trio.abc.Stream, server: HttpServer) -> None:
        self.stream = stream
        self.server = server
        self.bounds = server.bounds
        self.http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=server.bounds.max_head_bytes
        )
        self.gone = trio.Event()
        """Set once the client can no longer be answered."""

    async def run(self) -> None:
        """Serve requests until either side closes."""
        try:
            while await self._serve_one():
                self.http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self.refuse(error.error_status_hint, code="MALFORMED_HTTP", detail=str(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client went away: nobody to tell

    async def _serve_one(self) -> bool:
        """Serve one request; return whether another may follow on the connection."""
        request = await self._wait_head()
        if request is None:
            return False
        refusal = _judge_head(request, self.bounds)
        if refusal is not None:
            status, detail = refusal
            await self.refuse(status, code="MALFORMED_HTTP", detail=detail)
            return False
        exchange = _Exchange(self, request)
        exchange.skip_absent_body()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.watch_disconnect)
            await exchange.run_application(self.server.app)
            nursery.cancel_scope.cancel()
        if self.gone.is_set():
            return False
        if self.http.their_state is not h11.DONE:
            await self._linger()
            return False
        return self.http.our_state is h11.DONE and not self.server.is_stopping

    async def _wait_head(self) -> h11.Request | None:
        """Return the next request head; None when the client is done, slow, or we are stopping."""
        with trio.move_on_after(self.bounds.head_timeout_s) as scope:
            self.server.idle[scope] = None
            try:
                if self.server.is_stopping:
                    return None
                event = await self.wait_event()
            finally:
                self.server.idle.pop(scope, None)
            return event if isinstance(event, h11.Request) else None
        return None

    async def wait_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next HTTP event, reading from the client as needed."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = bytes(await self.stream.receive_some(RECEIVE_BYTES))
            await self.server.take_turn()
            self.http.receive_data(data)

    async def write(self, data: bytes | None) -> None:
        """Send bytes in chunks, each within the write timeout; a client too slow is gone."""
        if data is None or self.gone.is_set():
            return
        view = memoryview(data)
        try:
            for start in range(0, len(view), API_WRITE_CHUNK_BYTES):
                with trio.fail_after(self.bounds.write_timeout_s):
                    await self.stream.send_all(view[start : start + API_WRITE_CHUNK_BYTES])
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.gone.set()

    async def _linger(self) -> None:
        """Drop what the client still sends for a moment, so that it gets to read the answer."""
        try:
            with trio.move_on_after(self.bounds.linger_timeout_s):
                if isinstance(self.stream, trio.abc.HalfCloseableStream):
                    await self.stream.send_eof()
                while await self.stream.receive_some(RECEIVE_BYTES):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def refuse(self, status: int, *, code: str, detail: str) -> None:
        """Answer with a problem document, if an answer is still possible, and end."""
        if self.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE} or self.gone.is_set():
            return
        body = render_problem(status, code=code, detail=detail)
        headers = [
            (b"content-type", PROBLEM_TYPE),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        response = h11.Response(
            status_code=status, headers=headers, reason=HTTPStatus(status).phrase
        )
        try:
            parts = [
                self.http.send(event)
                for event in (response, h11.Data(data=body), h11.EndOfMessage())
            ]
        except h11.LocalProtocolError:
            return  # such as the answer to HEAD, which has no body
        await self.write(b"".join(part for part in parts if part))
        if not self.gone.is_set():
            await self._linger()


def _judge_head(request: h11.Request, bounds: HttpBounds) -> tuple[int, str] | None:
    """Return the status and reason to refuse a request head for, or None."""
    if request.http_version not in SERVED_VERSIONS:
        return 505, f"HTTP version {request.http_version.decode()}, served are 1.0 and 1.1"
    # h11 bounds a head only while it is incomplete.
    size = len(request.method) + len(request.target) + len(b"  HTTP/1.1\r\n\r\n")
    size += sum(len(name) + len(value) + len(b": \r\n") for name, value in request.headers)
    if size > bounds.max_head_bytes:
        return 431, f"the request head has {size} bytes, at most {bounds.max_head_bytes}"
    return None


class _Exchange:
    """One request and its answer, as the ASGI application sees them."""

    def __init__(self, connection: _Connection, request: h11.Request) -> None:
        self.connection = connection
        self.http = connection.http
        self.request = request
        self.body_read = trio.Event()
        """Set once the whole request came in."""
        self.body_delivered = False
        """Whether the application has been told so."""
        self.started: Message | None = None
        self.head_sent = False

    def skip_absent_body(self) -> None:
        """Pass over the end of a request that announces no body, so that it counts as read."""
        if not _announces_body(self.request):
            self.http.next_event()
            self.body_read.set()

    async def run_application(self, app: Application) -> None:
        """Run the application until it has answered."""
        await app(self._make_scope(), self.receive, self.send)
        is_open = self.http.our_state in {h11.SEND_RESPONSE, h11.SEND_BODY}
        if is_open and not self.connection.gone.is_set():
            raise UnfinishedAnswer(self.request.target.decode("ascii"))

    def _make_scope(self) -> Scope:
        raw_path, _, query = self.request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": self.request.http_version.decode("ascii"),
            "method": self.request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(raw_path.decode("ascii"), errors="replace"),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(self.request.headers),
            "client": None,
            "server": None,
            "extensions": {},
        }

    async def receive(self) -> Message:
        """Return the next part of the request body; after the last one wait for disconnection."""
        if self.body_delivered:
            await self.connection.gone.wait()
            return {"type": "http.disconnect"}
        if self.body_read.is_set():
            self.body_delivered = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.http.they_are_waiting_for_100_continue:
            proceed = h11.InformationalResponse(status_code=100, headers=[])
            await self.connection.write(self.http.send(proceed))
        try:
            event = await self.connection.wait_event()
        except h11.RemoteProtocolError:
            # A body cut short, or not chunked as announced: it never becomes a request, and the
            # application may still say so.
            self.body_delivered = True
            return {"type": "http.disconnect"}
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.connection.gone.set()
            return {"type": "http.disconnect"}
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        if isinstance(event, h11.EndOfMessage):
            self.body_read.set()
            self.body_delivered = True
            return {"type": "http.request", "body": b"", "more_body": False}
        self.connection.gone.set()
        return {"type": "http.disconnect"}

    async def watch_disconnect(self) -> None:
        """Once the request is read, notice a client that hangs up; bound what it sends ahead."""
        await self.body_read.wait()
        ahead = 0
        try:
            while data := await self.connection.stream.receive_some(RECEIVE_BYTES):
                ahead += len(data)
                self.http.receive_data(bytes(data))
                if ahead > MAX_PIPELINED_BYTES:
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.connection.gone.set()

    async def send(self, message: Message) -> None:
        """Send a part of the answer. Once the client is gone this does nothing."""
        if self.connection.gone.is_set():
            return
        if message["type"] == "http.response.start":
            self.started = message
            return
        assert self.started is not None, "a response body before its start"
        body, more = bytes(message.get("body", b"")), bool(message.get("more_body", False))
        parts: list[bytes | None] = []
        if not self.head_sent:
            headers = _list_headers(self.started["headers"], close=self._must_close())
            status = self.started["status"]
            response = h11.Response(
                status_code=status, headers=headers, reason=HTTPStatus(status).phrase
            )
            parts.append(self.http.send(response))
            self.head_sent = True
        if body and self.request.method != b"HEAD":
            parts.append(self.http.send(h11.Data(data=body)))
        if not more:
            parts.append(self.http.send(h11.EndOfMessage()))
        await self.connection.write(b"".join(part for part in parts if part))

    def _must_close(self) -> bool:
        return self.http.their_state is not h11.DONE or self.connection.server.is_stopping


def _announces_body(request: h11.Request) -> bool:
    lengths = [value for name, value in request.headers if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
    return chunked or any(length.strip(b"0") for length in lengths)


def _list_headers(
    headers: Iterable[tuple[bytes, bytes]], *, close: bool
) -> list[tuple[bytes, bytes]]:
    listed = [(bytes(name), bytes(value)) for name, value in headers]
    listed.append((b"date", formatdate(usegmt=True).encode("ascii")))
    if close:
        listed.append((b"connection", b"close"))
    return listed


def render_problem(status: int, *, code: str, detail: str) -> bytes:
    """Return an RFC 9457 problem document as JSON bytes."""
    return msgspec.json.encode(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": code,
            "detail": detail,
        }
    )
