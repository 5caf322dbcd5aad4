"""The API against requests that are wrong, hostile, too big, too slow or too many."""

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from atpar.ledger.jsonform import to_json
from atpar.ledger.operations import Decision, Void
from atpar.ledger.records import Verdict
from atpar.node.api import ROUTES
from atpar.node.api_forms import BatchForm, ProposalForm, TransactionForm
from atpar.node.api_http import encode_answer, is_msgpack_body, to_plain, wants_msgpack
from atpar.node.gateway import TxStatus
from atpar.node.problems import API_STATUS, LEDGER_STATUS, ApiCode, Problem
from tests.node.api_client import JSON, MSGPACK, Harness, encode
from tests.patience import DEADLINE_S


@pytest.fixture
def harness() -> Harness:
    return Harness()


def check_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = msgspec.json.decode(response.content)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    return problem


# ---- routes


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/status", "/v1/status/", "/v1//status", "/%00", "/é", "//"]
)
async def test_unknown_route_is_a_problem(harness: Harness, path: str) -> None:
    check_problem(await harness.client.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_unknown_method_is_a_problem_that_names_the_known_ones(
    harness: Harness, method: str
) -> None:
    response = await harness.client.request(method, "/v1/status")
    check_problem(response, 405, "METHOD_NOT_ALLOWED")
    assert "GET" in response.headers["allow"]


async def test_method_of_another_route_on_the_same_path_is_served(harness: Harness) -> None:
    assert (await harness.client.get("/v1/transactions")).status_code == 400
    assert (await harness.client.post("/v1/transactions", json={})).status_code == 400
    response = await harness.client.delete("/v1/transactions")
    check_problem(response, 405, "METHOD_NOT_ALLOWED")
    assert set(response.headers["allow"].replace(" ", "").split(",")) >= {"GET", "POST"}


async def test_head_is_answered_like_get(harness: Harness) -> None:
    response = await harness.client.head("/v1/status")
    assert response.status_code == 200


async def test_every_route_refuses_a_parameter_that_it_does_not_have(harness: Harness) -> None:
    for route in ROUTES:
        if route.method == "GET" and route.group.value == "read":
            path = route.path.format(
                hash="ab" * 32,
                participant="ALFA",
                name="main",
                code="HKD.JDCL",
                redemption="00" * 32,
                height="latest",
                freeze="00" * 32,
                hold="00" * 32,
                proposal="00" * 32,
                id="00" * 32,
                epoch=0,
                view=3,
                kind="nullify_finalize",
            )
            response = await harness.client.get(f"{path}?no-such=1")
            problem = check_problem(response, 400, "INVALID_PARAMETER")
            assert problem["field"] == "no-such"


# ---- forms


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "multipart/form-data", "", "application/json; charset=x"],
)
async def test_body_of_another_type_is_415(harness: Harness, content_type: str) -> None:
    response = await harness.client.post(
        "/v1/transactions", content=b"{}", headers={"content-type": content_type}
    )
    check_problem(response, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert "application/json" in response.headers["accept-post"]


async def test_compressed_body_is_415(harness: Harness) -> None:
    response = await harness.client.post(
        "/v1/transactions", content=b"x", headers={**JSON, "content-encoding": "gzip"}
    )
    check_problem(response, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_answer_in_no_offered_form_is_406_before_any_work(harness: Harness) -> None:
    tx = harness.world.make(Void(), sender="ALFA/main")
    response = await harness.client.post(
        "/v1/transactions", json={"envelope": encode(tx)}, headers={"accept": "text/html"}
    )
    check_problem(response, 406, "NOT_ACCEPTABLE")
    assert harness.gateway.submitted == []


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/*", False),
        ("application/json", False),
        ("application/msgpack", True),
        ("application/x-msgpack", True),
        ("application/msgpack, */*", True),
        ("application/msgpack;q=0.5, application/json", False),
        ("application/msgpack, application/json;q=0.9", True),
        ("application/json;q=0, */*", True),
        ("application/json;q=0.1, application/msgpack;q=0.2", True),
        ("text/html, */*;q=0.1", False),
        ("APPLICATION/MSGPACK", True),
        ("application/json;q=nonsense, application/msgpack;q=0.1", True),
    ],
)
def test_accept_header_chooses_the_form(accept: str | None, expected: bool) -> None:
    assert wants_msgpack(accept) is expected


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*", "json"])
def test_accept_header_that_fits_nothing_is_refused(accept: str) -> None:
    with pytest.raises(Problem, match="Accept"):
        wants_msgpack(accept)


@given(st.text(max_size=60))
def test_any_accept_and_content_type_is_either_understood_or_refused(text: str) -> None:
    for choose in (wants_msgpack, is_msgpack_body):
        with contextlib.suppress(Problem):
            assert choose(text) in (True, False)


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 400])
@pytest.mark.parametrize("as_msgpack", [True, False])
async def test_lists_of_any_length_are_encoded_like_short_ones(
    count: int, as_msgpack: bool
) -> None:
    form = BatchForm(read_height=7, results=(UNKNOWN_FORM,) * count)
    data = await encode_answer(form, as_msgpack=as_msgpack)
    if as_msgpack:
        assert data == msgspec.msgpack.encode(to_plain(form))
    else:
        assert data == msgspec.json.encode(to_json(form))


@pytest.mark.parametrize("as_msgpack", [True, False])
async def test_long_lists_of_wire_values_keep_their_field_names(as_msgpack: bool) -> None:
    verdicts = tuple(Verdict(bytes([n]) * 32, Decision.APPROVE) for n in range(30))
    form = ProposalForm(
        proposal=bytes(32),
        sender="ALFA/main",
        ops=(),
        bundle_hash=bytes(32),
        placed_at_ms=0,
        expires_at_ms=0,
        makers=(bytes(32),) * 30,
        verdicts=verdicts,
        principals=(),
    )
    data = await encode_answer(form, as_msgpack=as_msgpack)
    decoded = msgspec.msgpack.decode(data) if as_msgpack else msgspec.json.decode(data)
    assert decoded == (to_plain(form) if as_msgpack else to_json(form))
    assert decoded["verdicts"][3]["decision"] == "approve"


UNKNOWN_FORM = TransactionForm(
    read_height=7,
    read_timestamp_ms=5,
    status=TxStatus.UNKNOWN,
    tx_hash=b"\1" * 32,
    sender=None,
    tx_id=None,
    valid_until_ms=None,
    code="OK",
    message='"é\\',
    height=None,
    receipt=None,
    retry_after_ms=None,
    proof=None,
)


# ---- bodies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'"x"',
        b"{}",
        b'{"envelope": 5}',
        b'{"envelope": null}',
        b'{"envelope": "?"}',
        b'{"envelope": "AAA"}',
        b'{"envelope": "AA==", "x": 1}',
        b'{"envelopes": "AA=="}',
        b'{"envelopes": [5]}',
        b'{"envelopes": ["AA=="], "envelope": "AA=="}',
        b'{"Envelope": "AA=="}',
        b"\xff\xfe",
        b'{"envelope": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"envelope": ' + b"[" * 100_000,
        b'{"envelope": "' + b"A" * 1_000,
        b"NaN",
        b"1e999",
    ],
)
async def test_malformed_json_is_a_problem(harness: Harness, body: bytes) -> None:
    for path in ("/v1/transactions", "/v1/simulate"):
        response = await harness.client.post(path, content=body, headers=JSON)
        check_problem(response, 400, "MALFORMED_BODY")
    assert harness.gateway.submitted == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "MALFORMED_BODY"),
        (b"\x90", 400, "MALFORMED_BODY"),
        (b"\xc0", 400, "NON_CANONICAL"),
        (b"\x91" * 100_000, 400, "NON_CANONICAL"),
        (b"\xdd\xff\xff\xff\xff", 400, "NON_CANONICAL"),
        (b"\xc6\xff\xff\xff\xff", 400, "NON_CANONICAL"),
        (b"\x92\xc4\x00\x90\x00", 400, "NON_CANONICAL"),
        (b"\x91\xa1x", 400, "NON_CANONICAL"),
        (b"\xc1", 400, "NON_CANONICAL"),
    ],
)
async def test_malformed_msgpack_is_a_problem(
    harness: Harness, body: bytes, status: int, code: str
) -> None:
    response = await harness.client.post("/v1/transactions", content=body, headers=MSGPACK)
    check_problem(response, status, code)


@given(st.binary(max_size=200), st.booleans())
@example(b'{"envelopes":["' + b"A" * 100 + b'"]}', False)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_is_answered(body: bytes, msgpack: bool) -> None:
    async def main() -> None:
        response = await HARNESS.client.post(
            "/v1/transactions", content=body, headers=MSGPACK if msgpack else JSON
        )
        assert response.status_code in (200, 400, 413), response.text

    trio.run(main)
    assert HARNESS.gateway.pending == {}


HARNESS = Harness()


@given(
    st.sampled_from([route for route in ROUTES if route.path != "/v1/events"]),
    st.data(),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_parameters_are_answered(route: Any, data: st.DataObject) -> None:
    part = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    names = [piece[1:-1] for piece in route.path.split("/") if piece.startswith("{")]
    path = route.path.format(**{name: data.draw(part, name) for name in names})
    queries = [query.name for query in route.queries] + ["other"]
    params = data.draw(st.lists(st.tuples(st.sampled_from(queries), part), max_size=3), "params")

    async def main() -> None:
        response = await HARNESS.client.request(
            route.method, quote(path, safe="/"), params=params, headers=JSON
        )
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"

    trio.run(main)


# ---- bounds


async def post_raw(
    harness: Harness, messages: Iterator[dict[str, Any]], *headers: tuple[bytes, bytes]
) -> tuple[int, dict[str, Any]]:
    """Submit a JSON body as ASGI messages; return status and document."""

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return next(messages)

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = make_scope(
        "POST", "/v1/transactions", [(b"content-type", b"application/json"), *headers]
    )
    await harness.api.app(scope, receive, send)
    assert harness.api.context.body_bytes == harness.api.context.in_flight == 0
    return sent[0]["status"], msgspec.json.decode(sent[1]["body"])


def pour(total: int, seen: list[int]) -> Iterator[dict[str, Any]]:
    for start in range(0, total, 1_000):
        size = min(1_000, total - start)
        seen.append(size)
        yield {"type": "http.request", "body": b" " * size, "more_body": start + size < total}


async def test_body_at_the_limit_is_read_and_one_past_it_is_413() -> None:
    harness = Harness(max_request_bytes=10_000)
    for total, code in ((10_000, "MALFORMED_BODY"), (10_001, "BODY_TOO_LARGE")):
        response = await harness.client.post("/v1/transactions", content=b" " * total, headers=JSON)
        check_problem(response, API_STATUS[ApiCode[code]], code)


async def test_body_that_does_not_say_its_length_is_cut_while_it_streams() -> None:
    seen: list[int] = []
    status, problem = await post_raw(Harness(max_request_bytes=10_000), pour(1_000_000, seen))
    assert (status, problem["code"]) == (413, "BODY_TOO_LARGE")
    assert sum(seen) == 11_000


async def test_announced_length_beyond_the_limit_is_refused_unread(harness: Harness) -> None:
    for announced in ("99999999999", "9" * 4_000):
        response = await harness.client.post(
            "/v1/transactions", content=b"", headers={**JSON, "content-length": announced}
        )
        check_problem(response, 413, "BODY_TOO_LARGE")


async def test_bodies_of_all_requests_together_are_bounded() -> None:
    harness = Harness(max_body_bytes_in_flight=5_000)
    status, problem = await post_raw(harness, pour(5_000, []))
    assert (status, problem["code"]) == (400, "MALFORMED_BODY")
    status, problem = await post_raw(harness, pour(5_001, []))
    assert (status, problem["code"]) == (503, "OVERLOADED")


async def test_body_that_trickles_is_408(autojump_clock: trio.testing.MockClock) -> None:
    harness = Harness(body_timeout_s=5.0)

    async def receive() -> dict[str, Any]:
        await trio.sleep(1)
        return {"type": "http.request", "body": b" ", "more_body": True}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = make_scope("POST", "/v1/transactions", [(b"content-type", b"application/json")])
    await harness.api.app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert msgspec.json.decode(sent[1]["body"])["code"] == "BODY_TIMEOUT"


async def test_client_that_hangs_up_in_its_body_disturbs_nobody(harness: Harness) -> None:
    messages = [
        {"type": "http.request", "body": b'{"env', "more_body": True},
        {"type": "http.disconnect"},
    ]
    await post_raw(harness, iter(messages))
    assert harness.gateway.submitted == []


async def test_client_that_hangs_up_while_waiting_ends_the_wait(harness: Harness) -> None:
    tx = harness.world.make(Void(), sender="ALFA/main")
    body = msgspec.json.encode({"envelope": encode(tx)})
    messages = [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]
    with trio.fail_after(DEADLINE_S):
        status, _ = await post_raw(harness, iter(messages), (b"prefer", b"wait=30"))
    assert status == 202
    assert list(harness.gateway.pending) == [tx.hash]


async def test_requests_beyond_the_bound_are_told_to_come_back() -> None:
    harness = Harness(max_in_flight=1)
    harness.gateway.stall = trio.Event()
    tx = harness.world.make(Void(), sender="ALFA/main")
    async with trio.open_nursery() as nursery:

        async def first() -> None:
            response = await harness.client.post("/v1/transactions", json={"envelope": encode(tx)})
            assert response.status_code == 202

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        response = await harness.client.get("/v1/status")
        check_problem(response, 503, "OVERLOADED")
        assert response.headers["retry-after"] == "1"
        assert (await harness.client.get("/health/live")).status_code == 200
        assert (await harness.client.get("/metrics")).status_code == 200
        harness.gateway.stall.set()
    assert (await harness.client.get("/v1/status")).status_code == 200


def make_scope(
    method: str, path: str, headers: list[tuple[bytes, bytes]] | None = None
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers or [],
        "client": None,
        "server": None,
    }


# ---- what else every answer has


async def test_answers_are_not_stored_by_caches(harness: Harness) -> None:
    for path in ("/v1/status", "/v1/nothing", "/v1/blocks/99"):
        assert (await harness.client.get(path)).headers["cache-control"] == "no-store"


async def test_requests_are_counted_by_route_never_by_path(harness: Harness) -> None:
    for path in ("/v1/blocks/0", "/v1/blocks/99", "/v1/secret-1", "/v1/secret-2"):
        await harness.client.get(path)
    text = (await harness.client.get("/metrics")).text
    assert 'api_requests_total{method="GET",route="/v1/blocks/{height}",status="200"} 1' in text
    assert 'api_requests_total{method="GET",route="/v1/blocks/{height}",status="404"} 1' in text
    assert 'api_requests_total{method="other",route="unmatched",status="404"} 2.0' in text
    assert "secret" not in text


def test_every_code_has_a_status() -> None:
    assert set(API_STATUS) == set(ApiCode)
    assert all(400 <= status < 600 for status in [*API_STATUS.values(), *LEDGER_STATUS.values()])
