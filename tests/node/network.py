"""Real networks on loopback for tests: certificates, free ports, and a few nodes' transports."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trio

from atpar.node.config import NetworkSection
from atpar.node.identity import Credential, Roots, create_root, issue_leaf, write_credential
from atpar.node.metrics import Metrics
from atpar.node.peers import Drop, PeerSpec
from atpar.node.transport import Network
from tests.patience import DEADLINE_S

CHAIN = bytes(range(32))
CODES = ("ALFA", "BRVO", "CHRL", "DLTA")
FAST = NetworkSection(
    listen="127.0.0.1:0",
    handshake_timeout_ms=20_000,
    reconnect_min_ms=5,
    reconnect_max_ms=50,
    idle_timeout_ms=60_000,
    ping_interval_ms=50,
)


@cache
def get_root(code: str) -> Credential:
    return create_root(code)


def make_roots(codes: Sequence[str] = CODES) -> Roots:
    return Roots([(code, get_root(code).certificate) for code in codes])


def write_leaf(folder: Path, code: str, leaf: Credential | None = None) -> tuple[Path, Path]:
    """Write a leaf (a good one of `code` unless given); return its two files."""
    number = len(list(folder.iterdir()))
    paths = folder / f"{number}-{code}.pem", folder / f"{number}-{code}.key"
    write_credential(*paths, leaf or issue_leaf(get_root(code), code))
    return paths


@dataclass
class Node:
    """One node's transport with what a test looks at."""

    network: Network
    metrics: Metrics
    listener: trio.SocketListener
    scope: trio.CancelScope

    @property
    def port(self) -> int:
        return int(self.listener.socket.getsockname()[1])

    def count_dropped(self, drop: Drop) -> int:
        """Return how many connections this node closed for a reason."""
        name = "atpar_connections_dropped_total"
        value = self.metrics.registry.get_sample_value(name, {"reason": drop.value})
        return int(value or 0)

    async def wait_until(self, is_true: object) -> None:
        with trio.fail_after(DEADLINE_S):
            await self.network.wait_until(is_true)  # type: ignore[arg-type]

    async def wait_dropped(self, drop: Drop, count: int = 1) -> None:
        await self.wait_until(lambda: self.count_dropped(drop) >= count)


async def open_listener(port: int = 0) -> trio.SocketListener:
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    return listener


def make_network(
    folder: Path,
    code: str,
    peers: Sequence[PeerSpec],
    *,
    section: NetworkSection = FAST,
    leaf: Credential | None = None,
    chain_id: bytes = CHAIN,
    metrics: Metrics | None = None,
) -> Network:
    certificate, key = write_leaf(folder, code, leaf)
    return Network(
        own=code,
        chain_id=chain_id,
        peers=peers,
        roots=make_roots(),
        certificate=certificate,
        key=key,
        section=section,
        metrics=metrics or Metrics(),
        rng=random.Random(code),
    )


async def start(
    nursery: trio.Nursery, network: Network, metrics: Metrics, listener: trio.SocketListener
) -> Node:
    """Run a network in a nursery until its node's scope is cancelled."""
    scope = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with scope:
            await network.run([listener], task_status=task_status)

    await nursery.start(run)
    return Node(network, metrics, listener, scope)


@asynccontextmanager
async def running(
    folder: Path,
    codes: Sequence[str],
    *,
    section: NetworkSection = FAST,
    observers: Sequence[str] = (),
    connected: bool = True,
) -> AsyncIterator[list[Node]]:
    """Run the transports of several nodes that all know each other; stop them at the end."""
    listeners = [await open_listener() for _ in codes]
    specs = [
        PeerSpec(code) if code in observers else PeerSpec(code, "127.0.0.1", port_of(listener))
        for code, listener in zip(codes, listeners, strict=True)
    ]
    async with trio.open_nursery() as nursery:
        nodes = []
        for code, listener in zip(codes, listeners, strict=True):
            metrics = Metrics()
            network = make_network(folder, code, specs, section=section, metrics=metrics)
            nodes.append(await start(nursery, network, metrics, listener))
        if connected:
            for node in nodes:
                await wait_connected(node, len(codes) - 1)
        yield nodes
        nursery.cancel_scope.cancel()


async def wait_connected(node: Node, count: int) -> None:
    await node.wait_until(lambda: len(node.network.connected) == count)


def port_of(listener: trio.SocketListener) -> int:
    return int(listener.socket.getsockname()[1])
