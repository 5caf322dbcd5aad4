"""Lines between validators that can be cut and slowed, on real sockets; and the profiles."""

import random
import select
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import trio

from atpar.cli.errors import WrongUsage
from atpar.cli.testnet.links import (
    MAX_ORDER_BYTES,
    MAX_SLOW_MS,
    Condition,
    Lines,
    Order,
    Ports,
    read_ports,
    run_links,
    send_order,
)
from atpar.cli.testnet.ports import HOST
from atpar.cli.testnet.profiles import PROFILES, Profile, find_profile, load_profile
from tests.cli.helpers import run
from tests.patience import DEADLINE_S

CODES = ("ALFA", "BRVO", "CHRL")


@dataclass
class World:
    """Three peers that accept connections, and the lines between them."""

    ports: Ports
    accepted: dict[str, trio.MemoryReceiveChannel[trio.SocketStream]]
    stack: AsyncExitStack

    async def dial(self, one: str, other: str) -> trio.SocketStream:
        host, _, port = self.ports.lines[one][other].rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        return await self.stack.enter_async_context(stream)

    async def answer(self, other: str) -> trio.SocketStream:
        """Return the other end of the next connection that arrives."""
        return await self.stack.enter_async_context(await self.accepted[other].receive())

    async def connect(self, one: str, other: str) -> tuple[trio.SocketStream, trio.SocketStream]:
        """Return both ends of a connection."""
        return await self.dial(one, other), await self.answer(other)

    async def order(self, order: Order) -> Condition:
        return await trio.to_thread.run_sync(send_order, self.ports, order)


@asynccontextmanager
async def open_world(folder: Path, profile: Profile = PROFILES["lan"]) -> AsyncIterator[World]:
    accepted = {}
    addresses = []
    with trio.fail_after(DEADLINE_S):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            for code in CODES:
                arrivals, accepted[code] = trio.open_memory_channel[trio.SocketStream](10)
                listener = (await trio.open_tcp_listeners(0, host=HOST))[0]
                addresses.append(f"{HOST}:{listener.socket.getsockname()[1]}")
                nursery.start_soon(accept_all, listener, arrivals)
            await nursery.start(run_links, folder, CODES, addresses, profile)
            ports = read_ports(folder)
            assert ports is not None
            yield World(ports, accepted, stack)
            nursery.cancel_scope.cancel()


async def accept_all(
    listener: trio.SocketListener, arrivals: trio.MemorySendChannel[trio.SocketStream]
) -> None:
    async with listener:
        while True:
            await arrivals.send(await listener.accept())


async def test_bytes_pass_in_both_directions_and_the_end_too(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        here, there = await world.connect("ALFA", "BRVO")
        await here.send_all(b"ping")
        assert await there.receive_some(10) == b"ping"
        await there.send_all(b"pong")
        assert await here.receive_some(10) == b"pong"
        await there.aclose()
        assert await here.receive_some(10) == b""


async def test_cut_line_passes_nothing_and_gives_up_what_it_held_when_healed(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world:
        here, there = await world.connect("ALFA", "BRVO")
        other_here, other_there = await world.connect("BRVO", "CHRL")
        assert await world.order(Order(apart=(0,))) == Condition(apart=(0,))
        await here.send_all(b"held")
        late = await world.dial("CHRL", "ALFA")
        await late.send_all(b"late")
        for _ in range(20):  # whatever would pass has had its turn
            await other_here.send_all(b"x")
            await other_there.receive_some(1)
        readable, _, _ = select.select([there.socket.fileno()], [], [], 0)
        assert not readable, "something passed a cut line"
        with pytest.raises(trio.WouldBlock):
            world.accepted["ALFA"].receive_nowait()
        await world.order(Order(apart=()))
        assert await there.receive_some(10) == b"held"
        assert await (await world.answer("ALFA")).receive_some(10) == b"late"


async def test_connection_that_was_given_up_on_a_cut_line_never_arrives(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.order(Order(apart=(0, 2)))
        given_up = await world.dial("ALFA", "BRVO")
        await given_up.aclose()
        patient = await world.dial("CHRL", "BRVO")
        await patient.send_all(b"me")
        await world.order(Order(apart=()))
        assert await (await world.answer("BRVO")).receive_some(10) == b"me"
        with pytest.raises(trio.WouldBlock):
            world.accepted["BRVO"].receive_nowait()


async def test_slow_validator_sends_and_receives_later(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        here, there = await world.connect("ALFA", "BRVO")
        assert await world.order(Order(slow_ms={1: 150})) == Condition(slow_ms={1: 150})
        began = trio.current_time()
        await here.send_all(b"a")
        assert await there.receive_some(1) == b"a"
        assert trio.current_time() - began >= 0.15
        await there.send_all(b"b")
        assert await here.receive_some(1) == b"b"
        assert trio.current_time() - began >= 0.30
        assert await world.order(Order(slow_ms={1: 0})) == Condition()


async def test_line_to_a_peer_that_is_down_ends_at_once(tmp_path: Path) -> None:
    # A port that is bound and not listened on refuses, and nobody else gets it meanwhile.
    with socket.socket() as silent, trio.fail_after(DEADLINE_S):
        silent.bind((HOST, 0))
        address = f"{HOST}:{silent.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            lan = PROFILES["lan"]
            ports = await nursery.start(run_links, tmp_path, CODES, [address] * 3, lan)
            host, _, port = ports.lines["ALFA"]["BRVO"].rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                assert await stream.receive_some(1) == b""
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "order",
    [Order(apart=(3,)), Order(slow_ms={3: 1}), Order(slow_ms={0: MAX_SLOW_MS + 1})],
)
async def test_orders_about_nobody_or_beyond_bounds_change_nothing(
    tmp_path: Path, order: Order
) -> None:
    async with open_world(tmp_path) as world:
        with pytest.raises(OSError, match="does not take"):
            await world.order(order)
        most = Order(slow_ms={2: MAX_SLOW_MS})
        assert await world.order(most) == Condition(slow_ms={2: MAX_SLOW_MS})


@pytest.mark.parametrize("data", [b"x" * MAX_ORDER_BYTES + b"\n", b"{}x\n", b'{"cut": []}\n'])
async def test_what_is_no_order_gets_no_answer(tmp_path: Path, data: bytes) -> None:
    async with open_world(tmp_path) as world:
        async with await trio.open_tcp_stream(HOST, world.ports.control) as stream:
            await stream.send_all(data)
            with suppress(trio.BrokenResourceError):  # closed with some of it unread
                assert await stream.receive_some(10) == b""
        assert await world.order(Order()) == Condition()


# ---- profiles


def test_delay_is_half_the_round_trip_and_some_jitter() -> None:
    lines = Lines(PROFILES["global"], rng=random.Random(7))
    drawn = [lines.draw_delay_s(0, 1) for _ in range(200)]
    assert 0.095 <= min(drawn) < max(drawn) <= 0.095 * 1.05
    assert PROFILES["global"].compute_delay_s(0, 4) == 0, "two at one site"
    assert PROFILES["global"].compute_delay_s(1, 0) == PROFILES["global"].compute_delay_s(0, 1)


@pytest.mark.parametrize("name", PROFILES)
def test_every_named_profile_has_all_its_lines(name: str) -> None:
    profile = load_profile(name)
    count = len(profile.sites)
    delays = {(a, b): profile.compute_delay_s(a, b) for a in range(count) for b in range(count)}
    assert all(a == b or delay > 0 for (a, b), delay in delays.items())
    assert find_profile(name) == name


def test_profile_of_a_file_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile(("HKG", "SIN"), {"SIN-HKG": 36.0}, 5)
    (tmp_path / "mine.json").write_bytes(msgspec.json.encode(profile))
    monkeypatch.chdir(tmp_path)
    found = find_profile("mine.json")
    monkeypatch.undo()
    assert load_profile(found) == profile
    assert profile.compute_delay_s(0, 1) == 0.018


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"sites": ["HKG", "SIN"]}', "rtt_ms: HKG-SIN is missing"),
        ('{"sites": ["HKG", "HKG"]}', "one stands there twice"),
        ('{"sites": ["HKG"], "rtt_ms": {"HKG-SIN": 1}}', "'HKG-SIN' is not one line"),
        (
            '{"sites": ["HKG", "SIN"], "rtt_ms": {"HKG-SIN": 1, "SIN-HKG": 1}}',
            "'HKG-SIN' is not one line",
        ),
        ('{"sites": ["HKG", "SIN"], "rtt_ms": {"HKG-SIN": 2001}}', "<= 2000"),
        ('{"sites": [], "rtt_ms": {}}', ">= 1"),
        ('{"sites": ["HKG"], "rtt": {}}', "unknown field"),
    ],
)
def test_profile_that_does_not_name_each_line_once_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(WrongUsage, match=said):
        load_profile(str(path))


def test_unknown_profile_is_refused_before_anything_starts(tmp_path: Path) -> None:
    result = run("testnet", "up", "--profile", "moon", "--dir", tmp_path / "net")
    assert result.exit_code == 2
    assert "no profile 'moon'" in result.err
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("command", [("partition", "1"), ("heal",), ("slow", "1", "--ms", "5")])
def test_lines_of_a_testnet_without_links_cannot_be_changed(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert run("testnet", "prepare", "--dir", tmp_path).exit_code == 0
    result = run("testnet", *command, "--dir", tmp_path)
    assert result.exit_code == 3
    assert "lines cannot be changed" in result.err


@pytest.mark.parametrize(
    ("names", "said"), [("1,2,3,4", "all validators on one side"), ("1,7", "no validator '7'")]
)
def test_impossible_partition_is_refused(tmp_path: Path, names: str, said: str) -> None:
    assert run("testnet", "prepare", "--dir", tmp_path).exit_code == 0
    result = run("testnet", "partition", names, "--dir", tmp_path)
    assert result.exit_code == 2
    assert said in result.err
