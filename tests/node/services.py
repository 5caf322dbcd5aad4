"""Whole nodes in one trio loop: real sockets, disks and API, on a testnet's folder."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from atpar.cli.testnet.lifecycle import prepare
from atpar.cli.testnet.network import stop_network
from atpar.cli.testnet.record import load_record
from atpar.node.config import NodeConfig, load_config
from atpar.node.gateway import NodeState
from atpar.node.service import NodeHandle, serve_node
from tests.patience import DEADLINE_S

POLL_S = 0.02


@contextmanager
def prepared_folder(folder: Path) -> Iterator[list[NodeConfig]]:
    """Make the folder of a testnet of four; its ports are given back at the end."""
    prepare(folder, validators=4, load_accounts=1)
    try:
        yield [load_home(folder / f"v{index}") for index in range(1, 5)]
    finally:
        stop_network(folder, load_record(folder))


def load_home(home: Path, **flags: object) -> NodeConfig:
    return load_config(
        home / "node.toml",
        environment={},
        flags={key.replace("__", "."): value for key, value in flags.items()},
    ).config


@dataclass
class Running:
    """One node of this process."""

    handle: NodeHandle
    scope: trio.CancelScope
    ended: trio.Event

    @property
    def url(self) -> str:
        return f"http://{self.handle.api[0]}"

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(self.url + path, timeout=DEADLINE_S)

    async def stop(self) -> None:
        """Stop it as SIGTERM does, and wait for its end."""
        self.handle.stop.set()
        with trio.fail_after(DEADLINE_S):
            await self.ended.wait()

    async def wait(self, is_true: Callable[[], object]) -> None:
        """Wait for a condition."""
        with trio.fail_after(DEADLINE_S):
            while not is_true():
                await trio.sleep(POLL_S)

    @property
    def height(self) -> int:
        return self.handle.gateway.reader.get_final().header.height


async def start(nursery: trio.Nursery, config: NodeConfig) -> Running:
    """Start a node in a nursery; errors of its start are raised here."""
    scope, ended = trio.CancelScope(), trio.Event()

    async def run(task_status: trio.TaskStatus[NodeHandle]) -> None:
        with scope:
            await serve_node(config, stop=trio.Event(), task_status=task_status)
        ended.set()

    with trio.fail_after(DEADLINE_S):
        handle: NodeHandle = await nursery.start(run)
    return Running(handle, scope, ended)


@asynccontextmanager
async def running_nodes(configs: Sequence[NodeConfig]) -> AsyncIterator[list[Running]]:
    """Run nodes until the block ends; enter when all of them are ready, if they are a quorum."""
    async with trio.open_nursery() as nursery:
        nodes = [await start(nursery, config) for config in configs]
        if len(nodes) >= 3:
            for node in nodes:
                await wait_ready(node)
        yield nodes
        nursery.cancel_scope.cancel()


async def wait_ready(node: Running) -> None:
    with trio.fail_after(DEADLINE_S):
        while (await node.handle.gateway.status()).state is not NodeState.READY:
            await trio.sleep(POLL_S)


async def expect_refusal(config: NodeConfig) -> None:
    """Start a node that must refuse; its error is raised."""
    with trio.fail_after(DEADLINE_S):
        await serve_node(config, stop=trio.Event())
