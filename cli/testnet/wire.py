"""A lean HTTP client for measuring: kept-alive connections on trio and h11, MessagePack bodies.

A general client costs more processor time a request than the node that answers it, and load
generator and validators share the same cores. Everything else uses `cli/client.py`.
"""

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

MESSAGEPACK: Final = "application/msgpack"
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_IDLE: Final = 64
RECEIVE_BYTES: Final = 256 * 1024


class Unreachable(Exception):
    """The node did not answer: refused, reset, silent too long, or not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Wire:
    """Connections to one node's API. Requests may run side by side; each takes a connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._idle: list[_Connection] = []

    async def get(self, path: str, *, timeout_s: float) -> Answer:
        """Ask for a resource as MessagePack.

        Raises:
            Unreachable: no complete answer came within `timeout_s`.
        """
        return await self._request("GET", path, b"", {}, timeout_s)

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float
    ) -> Answer:
        """Send a MessagePack body.

        Raises:
            Unreachable: no complete answer came within `timeout_s`; it may have been received.
        """
        return await self._request("POST", path, body, headers, timeout_s)

    async def stream_lines(self, path: str, *, silence_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the lines of an answer that does not end, such as server-sent events.

        Raises:
            Unreachable: it ended, broke, or nothing came for `silence_s`.
        """
        connection, _ = await self._take(fresh=True)
        try:
            request = h11.Request(
                method="GET",
                target=path,
                headers=[("host", f"{self._host}:{self._port}"), ("accept", "text/event-stream")],
            )
            rest = b""
            async with aclosing(connection.stream(request, silence_s=silence_s)) as chunks:
                async for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
        except (trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError) as error:
            raise Unreachable(f"{self.url}: {error or 'silent'}") from error
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose()
        raise Unreachable(f"{self.url}: the stream ended")

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        request = self._build(method, path, body, headers)
        # An idle connection may have been closed by the other side: then one fresh try.
        while True:
            connection, reused = await self._take()
            try:
                with trio.fail_after(timeout_s):
                    answer = await connection.exchange(request, body)
            except (trio.BrokenResourceError, trio.ClosedResourceError, _Closed) as error:
                await connection.aclose()
                if reused:
                    continue
                raise Unreachable(f"{self.url}: the connection broke") from error
            except (trio.TooSlowError, h11.RemoteProtocolError) as error:
                await connection.aclose()
                raise Unreachable(f"{self.url}: {error or 'no answer in time'}") from error
            except BaseException:
                with trio.CancelScope(shield=True):
                    await connection.aclose()
                raise
            if connection.is_reusable() and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
            else:
                await connection.aclose()
            return answer

    def _build(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> h11.Request:
        fields = {"host": f"{self._host}:{self._port}", "accept": MESSAGEPACK, **headers}
        if method == "POST":
            fields |= {"content-type": MESSAGEPACK, "content-length": str(len(body))}
        return h11.Request(method=method, target=path, headers=list(fields.items()))

    async def _take(self, *, fresh: bool = False) -> tuple["_Connection", bool]:
        if self._idle and not fresh:
            return self._idle.pop(), True
        try:
            with trio.fail_after(5.0):
                stream = await trio.open_tcp_stream(
                    self._host, self._port, happy_eyeballs_delay=math.inf
                )
        except (OSError, trio.TooSlowError) as error:
            raise Unreachable(f"{self.url}: {error}") from error
        return _Connection(stream), False


class _Closed(Exception):
    """The other side closed before it answered."""


class _Connection:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def exchange(self, request: h11.Request, body: bytes) -> Answer:
        parts = [self._http.send(request)]
        if body:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        await self._stream.send_all(b"".join(part for part in parts if part))
        response: h11.Response | None = None
        received = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                if not data and response is None:
                    raise _Closed
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > MAX_ANSWER_BYTES:
                    raise h11.RemoteProtocolError("the answer is too long")
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                headers = {
                    name.decode("ascii"): value.decode("latin-1")
                    for name, value in response.headers
                }
                return Answer(response.status_code, headers, bytes(received))

    async def stream(
        self, request: h11.Request, *, silence_s: float
    ) -> AsyncGenerator[bytes, None]:
        head = self._http.send(request)
        end = self._http.send(h11.EndOfMessage())
        assert head is not None
        assert end is not None
        await self._stream.send_all(head + end)
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                with trio.fail_after(silence_s):
                    data = await self._stream.receive_some(RECEIVE_BYTES)
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                if event.status_code != HTTPStatus.OK:
                    raise h11.RemoteProtocolError(f"HTTP {event.status_code}")
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                return

    def is_reusable(self) -> bool:
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)
