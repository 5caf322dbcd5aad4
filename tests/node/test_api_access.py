"""Bearer tokens by route group, and reads scoped to one's own accounts."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from atpar.node.access import AccessRules, Grant, Group, Token, load_access
from atpar.node.config import ConfigInvalid
from atpar.node.problems import Problem
from tests.ledger.world import HKD, transfer
from tests.node.api_client import Harness

SECRET = "s3cret"


def make_rules(*groups: Group, participants: frozenset[str] | None = None) -> AccessRules:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    return AccessRules(
        open=frozenset({Group.HEALTH}),
        token=(Token("bank", digest, frozenset(groups), participants),),
    )


def bearer(secret: str = SECRET) -> dict[str, Any]:
    return {"headers": {"authorization": f"Bearer {secret}"}}


async def test_closed_group_needs_a_token() -> None:
    harness = Harness(access=make_rules(Group.READ))
    response = await harness.client.get("/v1/status")
    assert harness.check(response, 401)["code"] == "UNAUTHENTICATED"
    assert response.headers["www-authenticate"].startswith("Bearer")
    for wrong in ("nonsense", "", "s3cret ", "S3CRET", "é"):
        headers = {"authorization": f"Bearer {wrong}".encode()}
        status = 200 if wrong == "s3cret " else 401
        assert (await harness.client.get("/v1/status", headers=headers)).status_code == status
    await harness.get("/v1/status", **bearer())
    await harness.get("/health/live")


async def test_token_opens_only_its_groups() -> None:
    harness = Harness(access=make_rules(Group.READ))
    assert (await harness.get("/v1/peers", status=403, **bearer()))["code"] == "FORBIDDEN"
    response = await harness.client.post("/v1/transactions", json={}, **bearer())
    assert harness.check(response, 403)["code"] == "FORBIDDEN"


async def test_token_scheme_other_than_bearer_is_not_one() -> None:
    harness = Harness(access=make_rules(Group.READ))
    await harness.get("/v1/status", status=401, headers={"authorization": f"Basic {SECRET}"})
    await harness.get("/v1/status", status=401, headers={"authorization": SECRET})


@pytest.fixture
def scoped() -> Harness:
    rules = make_rules(*Group, participants=frozenset({"BRVO"}))
    harness = Harness(access=rules)
    harness.gateway.fund("ALFA/main", 1_000)
    world = harness.world
    harness.gateway.run(
        world.make(transfer("ALFA/main", "BRVO/main", 5, uetr=b"\1" * 16), sender="ALFA/main"),
        world.make(transfer("ALFA/main", "CHRL/main", 6, uetr=b"\2" * 16), sender="ALFA/main"),
    )
    return harness


async def test_scoped_token_reads_its_own_accounts_only(scoped: Harness) -> None:
    await scoped.get("/v1/accounts/BRVO/main", **bearer())
    for path in (
        "/v1/accounts/ALFA/main",
        "/v1/accounts/ALFA/main/entries",
        "/v1/accounts/ALFA/no-such-account",
        "/v1/participants/ALFA/accounts",
        "/v1/transactions?sender=ALFA/main&tx_id=" + "00" * 16,
        "/v1/events?account=ALFA/main",
    ):
        problem = await scoped.get(path, status=403, **bearer())
        assert problem["code"] == "FORBIDDEN", path


async def test_scoped_token_sees_transactions_that_concern_it(scoped: Harness) -> None:
    block = await scoped.get("/v1/blocks/latest", **bearer())
    shown = {tx["sender"] for tx in block["transactions"]}
    assert shown == {"ALFA/main", None}
    mine = next(tx for tx in block["transactions"] if tx["sender"])
    other = next(tx for tx in block["transactions"] if not tx["sender"])
    await scoped.get(f"/v1/transactions/{mine['tx_hash']}?proof=1", **bearer())
    await scoped.get(f"/v1/transactions/{other['tx_hash']}", status=403, **bearer())
    found = await scoped.get("/v1/transactions?uetr=" + "01" * 16, **bearer())
    assert len(found["transactions"]) == 1
    found = await scoped.get("/v1/transactions?uetr=" + "02" * 16, **bearer())
    assert found["transactions"] == []


async def test_scoped_token_gets_no_receipts_in_one_piece(scoped: Harness) -> None:
    problem = await scoped.get("/v1/blocks/latest?receipts=1", status=403, **bearer())
    assert problem["code"] == "FORBIDDEN"


async def test_scoped_token_gets_no_proof_that_shows_others(scoped: Harness) -> None:
    await scoped.get("/v1/accounts/BRVO/main?proof=1", **bearer())
    problem = await scoped.get("/v1/accounts/BRVO/other?proof=1", status=409, **bearer())
    assert problem["code"] == "NOT_PROVABLE"


async def test_scoped_token_reads_what_is_public(scoped: Harness) -> None:
    await scoped.get(f"/v1/assets/{HKD}?proof=1", **bearer())
    await scoped.get("/v1/validators", **bearer())
    await scoped.get("/v1/redemptions", **bearer())


# ---- the file


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_access_file_is_read(tmp_path: Path) -> None:
    rules = load_access(
        write(
            tmp_path / "access.toml",
            f"""
            open = ["health"]
            [[token]]
            name = "alfa"
            sha256 = "{hashlib.sha256(b"x").hexdigest()}"
            groups = ["read", "submit"]
            participants = ["ALFA"]
            """,
        )
    )
    assert rules.authorise(Group.READ, "Bearer x") == Grant(frozenset({"ALFA"}))
    assert rules.authorise(Group.HEALTH, None) == Grant(None)
    with pytest.raises(Problem):
        rules.authorise(Group.OPERATE, "Bearer x")


@pytest.mark.parametrize(
    "text",
    [
        "open = 5",
        "opn = []",
        'open = ["everything"]',
        '[[token]]\nname = "x"',
        '[[token]]\nname = "x"\nsha256 = "zz"\ngroups = []',
        '[[token]]\nname = "x"\nsha256 = "' + "a" * 64 + '"\ngroups = []\nparticipants = ["alfa"]',
        "not toml",
        "[[" * 10_000,
    ],
)
def test_access_file_that_is_wrong_names_itself(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"access\.toml"):
        load_access(write(tmp_path / "access.toml", text))


def test_access_file_that_is_missing_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="nowhere"):
        load_access(tmp_path / "nowhere")
