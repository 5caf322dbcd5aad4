"""The event stream over real connections: order, resuming, filters, slow and many clients."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import msgspec
import pytest
import trio

from atpar.ledger.operations import Burn, Redeem
from atpar.ledger.transactions import Transaction
from atpar.node.access import Group
from atpar.node.api import serve_api
from tests.ledger.world import HKD, transfer
from tests.node.api_client import Harness
from tests.node.test_api_access import bearer, make_rules
from tests.patience import DEADLINE_S


@dataclass
class Event:
    id: str | None
    kind: str
    data: dict[str, Any]


class Reader:
    """One client of the stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)
        self.buffer = b""
        self.response: h11.Response | None = None

    async def open(self, path: str, **headers: str) -> int:
        listed = [("Host", "node"), *((k.replace("_", "-"), v) for k, v in headers.items())]
        request = self.http.send(h11.Request(method="GET", target=path, headers=listed))
        end = self.http.send(h11.EndOfMessage())
        await self.stream.send_all((request or b"") + (end or b""))
        self.response = await self._next()
        return self.response.status_code

    async def _next(self) -> Any:
        with trio.fail_after(DEADLINE_S):
            while True:
                event = self.http.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self.http.receive_data(await self.stream.receive_some())

    async def read_body(self) -> bytes:
        body = b""
        while isinstance(event := await self._next(), h11.Data):
            body += bytes(event.data)
        return body

    async def read(self, count: int) -> list[Event]:
        """Return the next events; comments and `retry` are passed over."""
        found: list[Event] = []
        while len(found) < count:
            while b"\n\n" not in self.buffer:
                event = await self._next()
                assert isinstance(event, h11.Data), event
                self.buffer += bytes(event.data)
            block, _, self.buffer = self.buffer.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            if "event" in fields:
                data = msgspec.json.decode(fields["data"])
                found.append(Event(fields.get("id"), fields["event"], data))
        return found


@asynccontextmanager
async def serving(harness: Harness) -> AsyncIterator[Any]:
    """Serve a harness; yields a function that opens a client."""
    stop = trio.Event()
    clients: list[Reader] = []
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve_api, harness.api, "127.0.0.1:0", stop=stop))
        port = int(address.rpartition(":")[2])

        async def connect() -> Reader:
            stream = await trio.open_tcp_stream("127.0.0.1", port, happy_eyeballs_delay=math.inf)
            clients.append(Reader(stream))
            return clients[-1]

        try:
            yield connect
        finally:
            stop.set()
            for client in clients:
                await client.stream.aclose()


@pytest.fixture
def harness() -> Harness:
    made = Harness()
    made.gateway.fund("ALFA/main", 1_000)
    return made


def pay(harness: Harness, amount: int, creditor: str = "BRVO/main") -> Transaction:
    return harness.world.make(transfer("ALFA/main", creditor, amount), sender="ALFA/main")


async def test_stream_starts_with_what_becomes_final_from_now_on(harness: Harness) -> None:
    async with serving(harness) as connect:
        client = await connect()
        assert await client.open("/v1/events") == 200
        assert (b"content-type", b"text/event-stream") in client.response.headers
        txs = [pay(harness, 1), pay(harness, 10**6)]
        harness.gateway.run(*txs)
        block, first, second = await client.read(3)
        height = harness.world.header.height
        assert (block.id, block.kind, block.data["tx_count"]) == (f"{height}.0", "block", 2)
        assert [first.id, second.id] == [f"{height}.1", f"{height}.2"]
        assert {first.data["code"], second.data["code"]} == {"OK", "INSUFFICIENT_FUNDS"}
        assert {first.data["tx_hash"], second.data["tx_hash"]} == {tx.hash.hex() for tx in txs}
        assert first.data["accounts"] == ["ALFA/main", "BRVO/main"]


async def test_stream_from_the_beginning_shows_everything_in_order(harness: Harness) -> None:
    for amount in range(1, 6):
        harness.gateway.run(pay(harness, amount), pay(harness, amount + 10))
    async with serving(harness) as connect:
        client = await connect()
        await client.open("/v1/events?after=0")
        events = await client.read(3 * 2 + 5 * 3)
        cursors = [tuple(map(int, event.id.split("."))) for event in events if event.id]
        assert cursors == sorted(set(cursors))
        assert len(cursors) == len(events)
        assert cursors[0] == (1, 0)


@pytest.mark.parametrize("as_header", [True, False])
async def test_stream_resumes_after_any_event_without_gap_or_repetition(
    harness: Harness, as_header: bool
) -> None:
    for amount in range(1, 4):
        harness.gateway.run(pay(harness, amount), pay(harness, amount + 10))
    async with serving(harness) as connect:
        whole = await connect()
        await whole.open("/v1/events?after=0")
        ids = [event.id for event in await whole.read(3 * 2 + 3 * 3)]
        for position, cursor in enumerate(ids[:-1]):
            client = await connect()
            if as_header:
                await client.open("/v1/events", Last_Event_ID=str(cursor))
            else:
                await client.open(f"/v1/events?after={cursor}")
            rest = await client.read(len(ids) - position - 1)
            assert [event.id for event in rest] == ids[position + 1 :]
            await client.stream.aclose()


async def test_stream_can_be_of_one_kind_and_one_account(harness: Harness) -> None:
    harness.gateway.run(pay(harness, 1), pay(harness, 2, "CHRL/main"), pay(harness, 3))
    async with serving(harness) as connect:
        client = await connect()
        await client.open("/v1/events?after=3&types=transaction&account=CHRL/main")
        (event,) = await client.read(1)
        assert event.data["accounts"] == ["ALFA/main", "CHRL/main"]
        blocks = await connect()
        await blocks.open("/v1/events?after=0&types=block")
        assert {event.kind for event in await blocks.read(4)} == {"block"}


async def test_burn_is_an_event_of_the_holder_whom_it_does_not_name(harness: Harness) -> None:
    world = harness.world
    world.last = world.make(Redeem(HKD, "ALFA/main", 5, bytes(32)), sender="ALFA/main")
    harness.gateway.run(world.last)
    burn = Burn(world.hold_id(), world.next_id(), world.now_ms)
    harness.gateway.run(world.make(burn, sender="JDCL/treasury", by=["CUST/reserve"]))
    async with serving(harness) as connect:
        client = await connect()
        await client.open("/v1/events?after=4&types=transaction&account=ALFA/main")
        (event,) = await client.read(1)
        assert event.data["sender"] == "JDCL/treasury"


async def test_alarm_is_told_when_it_rises_and_when_it_is_over(harness: Harness) -> None:
    async with serving(harness) as connect:
        client = await connect()
        harness.gateway.alarms = ("disk nearly full",)
        await client.open("/v1/events?types=alarm")
        (event,) = await client.read(1)
        assert (event.id, event.data["alarms"]) == (None, ["disk nearly full"])
        harness.gateway.alarms = ()
        harness.gateway.produce()
        (event,) = await client.read(1)
        assert event.data["alarms"] == []


async def test_slow_client_lags_and_loses_nothing(harness: Harness) -> None:
    async with serving(harness) as connect:
        client = await connect()
        await client.open("/v1/events?types=transaction")
        hashes = []
        for _ in range(30):
            txs = [pay(harness, 1) for _ in range(10)]
            hashes += [tx.hash.hex() for tx in txs]
            harness.gateway.run(*txs)
            await trio.lowlevel.checkpoint()
        events = await client.read(300)
        assert sorted(event.data["tx_hash"] for event in events) == sorted(hashes)
        assert len(harness.api.context.event_cache) <= 9


async def test_quiet_stream_is_kept_alive() -> None:
    harness = Harness(stream_keepalive_s=0.01)
    async with serving(harness) as connect:
        client = await connect()
        await client.open("/v1/events")
        with trio.fail_after(DEADLINE_S):
            while b": alive\n\n" not in client.buffer:
                client.buffer += bytes((await client._next()).data)


async def test_clients_beyond_the_bound_are_told_to_come_back() -> None:
    harness = Harness(max_stream_clients=1)
    async with serving(harness) as connect:
        first, second = await connect(), await connect()
        assert await first.open("/v1/events") == 200
        assert await second.open("/v1/events") == 503
        assert msgspec.json.decode(await second.read_body())["code"] == "OVERLOADED"
        await first.stream.aclose()
        with trio.fail_after(DEADLINE_S):
            while harness.api.context.stream_clients:
                await trio.testing.wait_all_tasks_blocked()
        third = await connect()
        assert await third.open("/v1/events") == 200


async def test_stopping_node_ends_the_stream_properly(harness: Harness) -> None:
    async with serving(harness) as connect:
        client = await connect()
        await client.open("/v1/events")
        await client._next()
        harness.api.stop()
        while isinstance(event := await client._next(), h11.Data):
            pass
        assert isinstance(event, h11.EndOfMessage)


async def test_scoped_token_gets_events_of_its_own_accounts() -> None:
    rules = make_rules(*Group, participants=frozenset({"CHRL"}))
    harness = Harness(access=rules)
    harness.gateway.fund("ALFA/main", 1_000)
    harness.gateway.run(pay(harness, 1), pay(harness, 2, "CHRL/main"))
    async with serving(harness) as connect:
        client = await connect()
        token = bearer()["headers"]["authorization"]
        await client.open("/v1/events?after=0&types=transaction", Authorization=token)
        (event,) = await client.read(1)
        assert "CHRL/main" in event.data["accounts"]


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("?after=x", {}, 400, "INVALID_PARAMETER"),
        ("?after=1.2.3", {}, 400, "INVALID_PARAMETER"),
        ("?after=99", {}, 400, "INVALID_PARAMETER"),
        ("?types=blok", {}, 400, "INVALID_PARAMETER"),
        ("?account=x", {}, 400, "INVALID_PARAMETER"),
        ("?other=1", {}, 400, "INVALID_PARAMETER"),
        ("", {"last-event-id": "1.x"}, 400, "INVALID_PARAMETER"),
        ("", {"accept": "application/json"}, 406, "NOT_ACCEPTABLE"),
    ],
)
async def test_stream_that_cannot_be_is_a_problem(
    harness: Harness, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    response = await harness.client.get(f"/v1/events{query}", headers=headers)
    assert harness.check(response, status)["code"] == code
