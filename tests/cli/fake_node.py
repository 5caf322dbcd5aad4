"""A network of one node for the command line: the real API over a real ledger in memory.

Only consensus is faked: whatever is submitted is in the next block, final at once, unless the test
says otherwise. The world's clock is the real one, because commands date their transactions with it.
"""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import trio

from atpar.ledger.genesis import render_genesis
from atpar.node.api import make_api
from atpar.node.api_http import ApiOptions
from atpar.node.keystore import LOCAL_LOG2_N, write_key
from atpar.node.metrics import Metrics
from tests.cli.helpers import Run, run
from tests.ledger.world import BANKS, POLICIES, World, key_of, make_document, sign_document
from tests.node.fake_gateway import FakeGateway

PASSPHRASE = "geheim"
URL = "http://node"


class Node(httpx.BaseTransport):
    """The node, as the network that a command sees."""

    def __init__(self) -> None:
        self.world = World(sign_document(make_document()))
        self.tick()
        self.gateway = FakeGateway(self.world)
        options = ApiOptions(clock_ms=lambda: self.world.now_ms)
        self.api = make_api(self.gateway, options, Metrics())
        self.is_producing = True
        """Whether what is submitted becomes final by itself."""
        self.requests: list[str] = []
        self.tamper: Callable[[httpx.Request, httpx.Response], httpx.Response] | None = None
        """Called with each answer; what it returns or raises is what the command sees."""

    def tick(self) -> None:
        """Bring the world's clock to the real time."""
        self.world.now_ms = max(self.world.now_ms, time.time_ns() // 1_000_000)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.tick()
        self.requests.append(f"{request.method} {request.url.path}")
        if not self.is_producing:
            request.headers.pop("prefer", None)
        response = trio.run(self._call, request)
        if self.is_producing and self.gateway.pending:
            self.gateway.produce()
        return response if self.tamper is None else self.tamper(request, response)

    async def _call(self, request: httpx.Request) -> httpx.Response:
        transport = httpx.ASGITransport(self.api.app)
        async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
            headers = {k: v for k, v in request.headers.items() if k != "content-length"}
            answer = await client.request(
                request.method, request.url, content=request.read(), headers=headers
            )
            return httpx.Response(
                answer.status_code, headers=answer.headers, content=answer.content
            )


class Desk:
    """A person's folder on this world: the genesis document, and keys by institution."""

    def __init__(self, folder: Path, node: Node) -> None:
        self.folder = folder
        self.node = node
        (folder / "genesis.json").write_bytes(render_genesis(node.world.genesis.document))
        (folder / "passphrase").write_text(PASSPHRASE + "\n")
        (folder / "client.toml").write_text(f'nodes = ["{URL}"]\npassphrase_file = "passphrase"\n')
        governance = [f"{bank}-gov" for bank in BANKS]
        for names in [*(names for _, names in POLICIES.values()), governance]:
            for name in names:
                code, _, rest = name.partition("-")
                path = folder / "keys" / code / f"{rest}.key"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    seed = bytes(key_of(name))
                    write_key(path, seed=seed, passphrase=PASSPHRASE, log2_n=LOCAL_LOG2_N)

    def run(self, *args: str | Path, answers: str | None = None) -> Run:
        """Run a command from this folder against the node."""
        return run(*args, "--home", self.folder, answers=answers, transport=self.node)

    def run_offline(self, *args: str | Path) -> Run:
        """Run a command from this folder with no network."""
        return run(*args, "--home", self.folder)

    def get_receipts(self) -> list[Path]:
        """Return the files in the folder of receipts."""
        return sorted((self.folder / "receipts").glob("*"))
