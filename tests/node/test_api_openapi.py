"""The OpenAPI document: current, complete, and true of the answers."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from atpar.node.api import ROUTES
from atpar.node.openapi import make_openapi, render_openapi
from tests.ledger.world import HKD, transfer
from tests.node.api_client import Harness

DOCUMENT = make_openapi()
STORED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_stored_document_is_current() -> None:
    assert STORED.read_bytes() == render_openapi(), (
        "the interface changed: python -m atpar.node.openapi docs/openapi.json"
    )


async def test_served_document_is_the_stored_one() -> None:
    response = await Harness().client.get("/openapi.json")
    assert response.content == STORED.read_bytes()


def test_every_route_is_described() -> None:
    described = {
        (method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item
    }
    assert described == {(route.method, route.path) for route in ROUTES}
    ids = [op["operationId"] for item in DOCUMENT["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere() -> None:
    text = render_openapi().decode()
    for name in set(re.findall(r'"#/components/schemas/(\w+)"', text)):
        assert name in DOCUMENT["components"]["schemas"]


def check(value: Any, schema: dict[str, Any], path: str = "") -> None:
    """Check a JSON value against the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for arms in (schema.get("anyOf"), schema.get("oneOf")):
        if arms is not None:
            assert any(fits(value, arm) for arm in arms), (path, value)
    if "const" in schema:
        assert value == schema["const"], path
    if "enum" in schema:
        assert value in schema["enum"], (path, value)
    if "type" in schema:
        kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
        expected = kinds.get(schema["type"], type(None))
        assert isinstance(value, expected), (path, value)
    if "pattern" in schema:
        assert re.search(schema["pattern"], value), (path, value)
    if schema.get("type") == "array":
        for index, item in enumerate(value):
            check(item, schema["items"], f"{path}[{index}]")
    if schema.get("type") == "object":
        assert set(value) == set(schema["required"]) == set(schema["properties"]), path
        for name, item in value.items():
            check(item, schema["properties"][name], f"{path}.{name}")


def fits(value: Any, schema: dict[str, Any]) -> bool:
    try:
        check(value, schema)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("/v1/accounts/{participant}/{name}", "/v1/accounts/ALFA/main?proof=1"),
        ("/v1/accounts/{participant}/{name}/entries", "/v1/accounts/ALFA/main/entries"),
        ("/v1/participants", "/v1/participants"),
        ("/v1/participants/{participant}/accounts", "/v1/participants/ALFA/accounts"),
        ("/v1/assets", "/v1/assets"),
        ("/v1/assets/{code}", f"/v1/assets/{HKD}?proof=1"),
        ("/v1/redemptions", "/v1/redemptions"),
        ("/v1/blocks/{height}", "/v1/blocks/latest?full=1"),
        ("/v1/blocks/{height}", "/v1/blocks/0"),
        ("/v1/validators", "/v1/validators"),
        ("/v1/peers", "/v1/peers"),
        ("/v1/status", "/v1/status"),
        ("/health/ready", "/health/ready"),
        ("/v1/transactions/{hash}", "/v1/transactions/HASH?proof=1"),
        ("/v1/transactions", "/v1/transactions?uetr=" + "05" * 16),
    ],
)
async def test_answer_is_as_described(route: str, path: str) -> None:
    harness = Harness()
    harness.gateway.fund("ALFA/main", 1_000)
    tx = harness.world.make(
        transfer("ALFA/main", "BRVO/main", 3, uetr=b"\5" * 16), sender="ALFA/main"
    )
    harness.gateway.run(tx)
    answer = await harness.get(path.replace("HASH", tx.hash.hex()))
    operation = DOCUMENT["paths"][route]["get"]
    check(answer, operation["responses"]["200"]["content"]["application/json"]["schema"])


async def test_problem_is_as_described() -> None:
    problem = await Harness().get("/v1/blocks/x", status=400)
    schema = DOCUMENT["components"]["schemas"]["Problem"]
    assert set(problem) <= set(schema["properties"])
    assert set(problem) >= set(schema["required"])
    assert problem["code"] in schema["properties"]["code"]["enum"]


def test_document_is_json_with_no_surprises() -> None:
    assert msgspec.json.decode(render_openapi()) == DOCUMENT
