"""The lines between a testnet's validators, which can be cut and slowed.

One process stands between them: each validator is told, by its environment, to find each peer at
a port of this process, which passes the bytes on to the peer and back. They are encrypted from end
to end, and a node knows nothing of it: no code of a node can cut or slow anything, so nothing of
this can be reached in production.

A cut line behaves as a broken cable does. Nothing passes, nobody is told, connections stay open
until somebody loses patience, and a new one gets no answer. When the line is whole again, what was
held arrives. A delay holds for everything that is sent from then on, in both directions.

A server on the loopback takes orders, one a connection, as a line of JSON: see `send_order`.
"""

import random
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from atpar.cli.testnet.ports import HOST
from atpar.cli.testnet.profiles import Profile

LINKS_FILE: Final = "links.json"
MAX_HELD_CHUNKS: Final = 256
"""What waits in one direction of a connection; then its sender waits."""
MAX_ORDER_BYTES: Final = 4_096
MAX_SLOW_MS: Final = 60_000
ANSWER_TIMEOUT_S: Final = 10.0


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the lines shall be like from now on; what is null stays as it is."""

    apart: tuple[int, ...] | None = None
    """Indexes of the validators that are cut off from all others; none ends the partition."""
    slow_ms: dict[int, int] | None = None
    """Index -> what is added to everything that a validator sends and receives."""


class Condition(msgspec.Struct, frozen=True):
    """What the lines are like: the answer to each order."""

    apart: tuple[int, ...] = ()
    slow_ms: dict[int, int] = {}


class Ports(msgspec.Struct, frozen=True):
    """Where the process listens: what `links.json` holds while it runs."""

    control: int
    lines: dict[str, dict[str, str]]
    """Participant -> peer -> the address at which it finds that peer."""


class Lines:
    """The condition of all lines, and how long bytes take on them."""

    def __init__(self, profile: Profile, *, rng: random.Random | None = None) -> None:
        self.condition = Condition()
        self._profile = profile
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._changed = trio.Event()

    def take(self, order: Order) -> Condition:
        """Carry out an order; return what the lines are like now."""
        now = self.condition
        self.condition = Condition(
            apart=now.apart if order.apart is None else order.apart,
            slow_ms=now.slow_ms
            if order.slow_ms is None
            else {which: ms for which, ms in {**now.slow_ms, **order.slow_ms}.items() if ms},
        )
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        return self.condition

    def is_cut(self, one: int, other: int) -> bool:
        """Return whether nothing passes between two validators."""
        apart = self.condition.apart
        return (one in apart) is not (other in apart)

    async def wait_whole(self, one: int, other: int) -> None:
        """Wait until bytes pass between two validators."""
        while self.is_cut(one, other):
            await self._changed.wait()

    def draw_delay_s(self, one: int, other: int) -> float:
        """Return how long bytes take now from one validator to another."""
        slow = self.condition.slow_ms
        delay_s = self._profile.compute_delay_s(one, other)
        delay_s *= 1 + self._rng.uniform(0, self._profile.jitter_percent / 100)
        return delay_s + (slow.get(one, 0) + slow.get(other, 0)) / 1_000


Held = tuple[float, bytes]
"""When a piece is due at the other side, and the piece."""


class Connection:
    """One connection that a validator makes to a peer, and what is on its way on it."""

    def __init__(self, lines: Lines, one: int, other: int, stream: trio.SocketStream) -> None:
        self._lines = lines
        self._one, self._other = one, other
        self._stream = stream
        self._is_answered = False
        self._scope = trio.CancelScope()

    async def serve(self, host: str, port: int) -> None:
        """Pass everything on; return when either side has ended it."""
        there, from_one = trio.open_memory_channel[Held](MAX_HELD_CHUNKS)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, self._stream, there)
                # As long as a connection takes to be made: there and back.
                await trio.sleep(2 * self._lines.draw_delay_s(self._one, self._other))
                await self._lines.wait_whole(self._one, self._other)
                try:
                    peer = await trio.open_tcp_stream(host, port)
                except OSError:
                    self._scope.cancel()
                    return
                self._is_answered = True
                async with peer:
                    back, from_peer = trio.open_memory_channel[Held](MAX_HELD_CHUNKS)
                    nursery.start_soon(self._read, peer, back)
                    nursery.start_soon(self._write, from_peer, self._stream)
                    await self._write(from_one, peer)

    async def _read(self, source: trio.SocketStream, held: trio.MemorySendChannel[Held]) -> None:
        """Take in what one side sends, each piece with the time at which it arrives."""
        due = 0.0
        async with held:
            with suppress(trio.BrokenResourceError):
                async for data in source:
                    delay_s = self._lines.draw_delay_s(self._one, self._other)
                    due = max(due, trio.current_time() + delay_s)
                    await held.send((due, bytes(data)))
        if not self._is_answered:
            self._scope.cancel()

    async def _write(
        self, held: trio.MemoryReceiveChannel[Held], target: trio.SocketStream
    ) -> None:
        """Hand over what is due, in order, and after the last of it end the connection."""
        with suppress(trio.BrokenResourceError):
            async for due, data in held:
                if due > trio.current_time():
                    await trio.sleep_until(due)
                await self._lines.wait_whole(self._one, self._other)
                await target.send_all(data)
        await self._lines.wait_whole(self._one, self._other)
        self._scope.cancel()


async def run_links(
    folder: Path,
    participants: Sequence[str],
    addresses: Sequence[str],
    profile: Profile,
    *,
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen for every validator at one port for each of its peers, until cancelled."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lines = Lines(profile)
    async with trio.open_nursery() as nursery:
        ports: dict[str, dict[str, str]] = {code: {} for code in participants}
        for one, code in enumerate(participants):
            for other, peer in enumerate(participants):
                if one != other:
                    pass_on = partial(_pass_on, lines, one, other, addresses[other])
                    port = await _listen(nursery, pass_on)
                    ports[code][peer] = f"{HOST}:{port}"
        found = Ports(await _listen(nursery, partial(_obey, lines, len(participants))), ports)
        write_ports(folder, found)
        task_status.started(found)


async def _listen(
    nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[None]]
) -> int:
    """Serve a free port of the loopback; return it."""
    listeners: list[trio.SocketListener] = await nursery.start(
        partial(trio.serve_tcp, handler, 0, host=HOST)
    )
    return int(listeners[0].socket.getsockname()[1])


async def _pass_on(
    lines: Lines, one: int, other: int, address: str, stream: trio.SocketStream
) -> None:
    host, _, port = address.rpartition(":")
    await Connection(lines, one, other, stream).serve(host, int(port))


# ---- orders


async def _obey(lines: Lines, count: int, stream: trio.SocketStream) -> None:
    """Answer one order with the condition of the lines; what is no order gets no answer."""
    data = b""
    while not data.endswith(b"\n"):
        piece = await stream.receive_some(MAX_ORDER_BYTES)
        data += piece
        if not piece or len(data) > MAX_ORDER_BYTES:
            return
    try:
        order = msgspec.json.decode(data, type=Order)
    except msgspec.DecodeError:
        return
    named = (*(order.apart or ()), *(order.slow_ms or {}))
    slowness = (order.slow_ms or {}).values()
    if all(0 <= each < count for each in named) and all(0 <= ms <= MAX_SLOW_MS for ms in slowness):
        await stream.send_all(msgspec.json.encode(lines.take(order)) + b"\n")


def send_order(ports: Ports, order: Order) -> Condition:
    """Have an order carried out; return what the lines are like then.

    Raises:
        OSError: the process does not answer.
    """
    with socket.create_connection((HOST, ports.control), timeout=ANSWER_TIMEOUT_S) as stream:
        stream.sendall(msgspec.json.encode(order) + b"\n")
        with stream.makefile("rb") as answer:
            data = answer.readline(MAX_ORDER_BYTES)
    if not data:
        raise ConnectionResetError("it does not take this order")
    return msgspec.json.decode(data, type=Condition)


# ---- where it listens


def write_ports(folder: Path, ports: Ports) -> None:
    """Write the file that says where the process listens; it appears whole or not at all."""
    temporary = folder / f".{LINKS_FILE}"
    temporary.write_bytes(msgspec.json.encode(ports))
    temporary.replace(folder / LINKS_FILE)


def read_ports(folder: Path) -> Ports | None:
    """Return where the process listens; None while it does not."""
    try:
        return msgspec.json.decode((folder / LINKS_FILE).read_bytes(), type=Ports)
    except FileNotFoundError:
        return None
