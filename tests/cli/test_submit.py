"""What a command says when nodes are gone, busy, slow or lying: never a guess about money."""

import json

import httpx
import pytest

from tests.cli.fake_node import URL
from tests.cli.helpers import run

HKD = "HKD.JDCL"


@pytest.fixture
def funded(desk):
    desk.node.gateway.fund("ALFA/main", 100_000)
    return desk


def pay(desk, *extra, transport=None, amount="25.00"):
    return run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", amount, "--asset", HKD,
        "--home", desk.folder, "--json", *extra, transport=transport or desk.node,
    )  # fmt: skip


def is_submission(request):
    return request.method == "POST" and request.url.path == "/v1/transactions"


def test_no_node_is_unreachable_and_nothing_is_kept(funded):
    result = run(
        "transfer", "--from", "ALFA/main", "--to", "BRVO/main", "--amount", "1", "--asset", HKD,
        "--home", funded.folder, "--json",
    )  # fmt: skip
    assert result.exit_code == 5
    assert result.error["kind"] == "unreachable"
    assert "no node answered" in result.error["message"]
    assert "signing with" not in result.err
    assert funded.get_receipts() == []


def test_bytes_of_an_earlier_try_survive_a_later_one_that_reaches_nobody(funded):
    funded.node.is_producing = False
    assert pay(funded, "--timeout", "0.3").exit_code == 7
    (pending,) = funded.get_receipts()
    before = pending.read_bytes()
    send = ("tx", "send", pending, "--home", funded.folder, "--json", "--timeout", "0.3")
    assert run(*send).exit_code == 5
    assert pending.read_bytes() == before

    def refuse_submissions(request, response):
        if is_submission(request):
            raise httpx.ConnectError("connection refused")
        return response

    funded.node.tamper = refuse_submissions
    assert run(*send, transport=funded.node).exit_code == 5
    assert pending.read_bytes() == before
    funded.node.tamper = None
    funded.node.is_producing = True
    assert run(*send, transport=funded.node).exit_code == 0
    assert [path.name for path in funded.get_receipts()] == [pending.name.split(".")[0] + ".json"]


def test_timeout_is_unknown_with_ids_and_never_called_a_failure(funded):
    funded.node.is_producing = False
    result = pay(funded, "--timeout", "0.3")
    assert result.exit_code == 7
    error = result.error
    assert error["kind"] == "outcome_unknown"
    assert {"tx_id", "tx_hash", "sender", "valid_until_ms", "file"} <= set(error)
    assert error["tx_hash"] in error["message"]
    assert error["tx_id"] in error["message"]
    assert "fail" not in result.err.lower()
    assert "cannot pay twice" in error["advice"]
    # The signed bytes were kept, and sending them again gives the one outcome.
    (pending,) = funded.get_receipts()
    assert str(pending) == error["file"]
    funded.node.is_producing = True
    again = run("tx", "send", pending, "--home", funded.folder, "--json", transport=funded.node)
    assert again.exit_code == 0, again.err
    assert again.json["tx_hash"] == error["tx_hash"]
    assert [path.name for path in funded.get_receipts()] == [f"{error['tx_id']}.json"]


def test_connection_lost_after_sending_is_unknown(funded):
    def lose(request, response):
        if is_submission(request):
            raise httpx.ReadTimeout("no answer")
        return response

    funded.node.is_producing = False
    funded.node.tamper = lose
    result = pay(funded, "--timeout", "0.3")
    assert result.exit_code == 7
    assert len(funded.get_receipts()) == 1


def test_connection_lost_after_sending_is_resolved_by_the_next_try(funded):
    lost = []

    def lose(request, response):
        if is_submission(request) and not lost:
            lost.append(request)
            raise httpx.RemoteProtocolError("peer closed connection")
        return response

    funded.node.tamper = lose
    result = pay(funded)
    assert result.exit_code == 0, result.err
    assert lost
    assert result.json["code"] == "OK"


def test_second_node_is_used_when_the_first_is_gone(funded):
    def route(request):
        if request.url.host == "dead":
            raise httpx.ConnectError("connection refused")
        request.url = request.url.copy_with(host="node")
        return funded.node.handle_request(request)

    result = pay(
        funded, "--node", "http://dead", "--node", URL, transport=httpx.MockTransport(route)
    )
    assert result.exit_code == 0, result.err


def test_full_mempool_is_not_ready_and_nothing_was_taken(funded):
    funded.node.gateway.room = 0
    result = pay(funded, "--timeout", "0.3")
    assert result.exit_code == 9
    assert "nothing was taken now" in result.error["message"]
    assert funded.get_receipts() == []


@pytest.mark.parametrize("what", ["signature", "header", "receipt", "missing", "other"])
def test_node_that_claims_finality_without_proof_is_not_believed(funded, what):
    other = pay(funded, amount="1.00")
    other_proof = json.loads(
        (funded.folder / "receipts" / f"{other.json['tx_id']}.json").read_text()
    )

    def lie(request, response):
        body = response.json() if response.content else {}
        proof = body.get("proof") if isinstance(body, dict) else None
        if not proof:
            return response
        inner = proof["proof"]
        if what == "signature":
            value = inner["finality"]["finalization"]["signatures"]
            value[0] = "00" * 64
        elif what == "header":
            inner["finality"]["headers"][-1]["height"] += 1
        elif what == "receipt":
            inner["receipt"]["code"] = 254
        elif what == "missing":
            body["proof"] = None
        else:
            body["proof"] = other_proof
        return httpx.Response(200, json=body)

    funded.node.tamper = lie
    result = pay(funded, "--timeout", "0.4")
    assert result.exit_code == 7
    assert "proof" in result.error["message"] or "proven" in result.error["message"]


def test_refusal_by_a_lagging_node_after_a_lost_answer_is_not_definitive(funded):
    """The first node may have taken it; the second, behind, says that the account is unknown."""

    def answer(request):
        if not is_submission(request):
            request.url = request.url.copy_with(host="node")
            return funded.node.handle_request(request)
        if request.url.host == "first":
            raise httpx.ReadTimeout("no answer")
        return httpx.Response(422, json={"code": "UNKNOWN_ACCOUNT", "detail": "behind"})

    path = funded.folder / "t.json"
    made = pay(funded, "-o", path)
    assert made.exit_code == 0, made.err
    result = run(
        "tx", "send", path, "--home", funded.folder, "--json", "--timeout", "0.3",
        "--node", "http://first", "--node", "http://second",
        transport=httpx.MockTransport(answer),
    )  # fmt: skip
    assert result.exit_code == 7


@pytest.mark.parametrize(
    ("status", "body", "exit_code"),
    [
        (200, b"<html>hello</html>", 7),
        (502, b"bad gateway", 7),
        (503, b'{"code": "NOT_READY", "detail": "starting"}', 9),
        (401, b'{"code": "UNAUTHENTICATED", "detail": "token"}', 3),
    ],
)
def test_answers_that_are_none_of_a_node(funded, status, body, exit_code):
    path = funded.folder / "t.json"
    assert pay(funded, "-o", path).exit_code == 0

    def answer(request, response):
        return httpx.Response(status, content=body) if is_submission(request) else response

    funded.node.tamper = answer
    result = run(
        "tx", "send", path, "--home", funded.folder, "--json", "--timeout", "0.3",
        transport=funded.node,
    )  # fmt: skip
    assert result.exit_code == exit_code, result.err


def test_interruption_while_waiting_keeps_the_bytes(funded, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("atpar.cli.signing.send_until_final", interrupt)
    result = pay(funded)
    assert result.exit_code == 130
    assert "unknown" in result.error["message"]
    assert result.error["file"] == str(funded.get_receipts()[0])


def test_expired_transaction_is_refused_with_its_proof(funded):
    path = funded.folder / "t.json"
    assert pay(funded, "-o", path, "--valid-for", "1").exit_code == 0
    funded.node.world.now_ms += 120_000
    result = run("tx", "send", path, "--home", funded.folder, "--json", transport=funded.node)
    assert result.exit_code == 6
    assert result.error["code"] == "EXPIRED"


def test_token_goes_with_every_request(funded):
    seen = []

    def record(request, response):
        seen.append(request.headers.get("authorization"))
        return response

    funded.node.tamper = record
    with (funded.folder / "client.toml").open("a") as file:
        file.write('token_file = "token"\n')
    missing = pay(funded)
    assert missing.exit_code == 3
    (funded.folder / "token").write_text("secret\n")
    assert pay(funded).exit_code == 0
    assert set(seen) == {"Bearer secret"}
