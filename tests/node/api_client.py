"""What tests of the API share: an API over a fake gateway, called through ASGI."""

import base64
from typing import Any

import httpx
import msgspec
import trio

from atpar.ledger.transactions import Transaction
from atpar.node.api import Api, make_api
from atpar.node.api_http import ApiOptions
from atpar.node.metrics import Metrics
from tests.node.fake_gateway import FakeGateway
from tests.patience import DEADLINE_S

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}


class Harness:
    """One API and one client of it."""

    def __init__(self, gateway: FakeGateway | None = None, **options: Any) -> None:
        self.gateway = FakeGateway() if gateway is None else gateway
        self.world = self.gateway.world
        self.metrics = Metrics()
        options.setdefault("clock_ms", lambda: self.world.now_ms)
        self.api: Api = make_api(self.gateway, ApiOptions(**options), self.metrics)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.api.app), base_url="http://node"
        )

    async def get(self, path: str, status: int = 200, **kwargs: Any) -> dict[str, Any]:
        return self.check(await self.client.get(path, **kwargs), status)

    async def submit(
        self, *txs: Transaction | bytes, status: int = 202, wait: int | None = None
    ) -> dict[str, Any]:
        """Submit as JSON: one envelope alone, several as a batch."""
        encoded = [encode(tx) for tx in txs]
        body = {"envelope": encoded[0]} if len(txs) == 1 else {"envelopes": encoded}
        headers = {} if wait is None else {"prefer": f"wait={wait}"}
        response = await self.client.post("/v1/transactions", json=body, headers=headers)
        return self.check(response, status)

    async def simulate(self, tx: Transaction | bytes, status: int = 200) -> dict[str, Any]:
        response = await self.client.post("/v1/simulate", json={"envelope": encode(tx)})
        return self.check(response, status)

    def check(self, response: httpx.Response, status: int) -> dict[str, Any]:
        """Return the JSON of an answer; a refusal has to be a complete problem document."""
        assert response.status_code == status, response.text
        document: dict[str, Any] = msgspec.json.decode(response.content)
        if status >= 400 and response.headers["content-type"] != "application/json":
            assert response.headers["content-type"] == "application/problem+json"
            assert document["status"] == status
            assert document["code"]
            assert document["title"]
            assert "Traceback" not in response.text
        assert self.api.context.in_flight == 0
        assert self.api.context.body_bytes == 0
        return document


def encode(tx: Transaction | bytes) -> str:
    return base64.b64encode(tx if isinstance(tx, bytes) else tx.raw).decode()


async def settle(harness: Harness, pending: int) -> None:
    """Wait until the gateway holds a number of pending transactions."""
    with trio.fail_after(DEADLINE_S):
        while len(harness.gateway.pending) < pending:
            await trio.testing.wait_all_tasks_blocked()
