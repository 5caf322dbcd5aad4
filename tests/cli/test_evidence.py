"""`atpar evidence`: listed, shown, exported, checked again offline, and put on the ledger."""

import json

import httpx
import pytest

from atpar.node.evidence import compute_evidence_id
from tests.ledger.evidence import make_pair

PLACE = "BRVO/0/3/conflicting_notarize"


@pytest.fixture
def found(desk):
    """The id of what the node has found."""
    gateway = desk.node.gateway
    evidence = make_pair(chain_id=gateway.world.chain_id)
    gateway.store.add_evidence(evidence)
    return compute_evidence_id(evidence).hex()


@pytest.fixture
def exported(desk, found, tmp_path):
    path = tmp_path / "evidence.json"
    assert desk.run("evidence", "export", found, path).exit_code == 0
    return path


def test_evidence_is_listed_exported_and_verified_offline(desk, tmp_path):
    gateway = desk.node.gateway
    assert "none found" in desk.run("evidence", "list").out
    gateway.store.add_evidence(make_pair(chain_id=gateway.world.chain_id))
    (item,) = desk.run("evidence", "list", "--json").json["evidence"]
    shown = desk.run("evidence", "show", item["id"])
    assert shown.exit_code == 0, shown.err
    assert shown.out.startswith("✓ BRVO signed two notarizes for different blocks in one view")
    assert "not recorded" in shown.out
    path = tmp_path / "evidence.json"
    assert desk.run("evidence", "export", item["id"], path).exit_code == 0
    checked = desk.run_offline("verify", path, "--json")
    assert checked.exit_code == 0, checked.err
    assert checked.json["participant"] == "BRVO"
    path.write_text(path.read_text().replace('"BRVO"', '"CHRL"'))
    assert desk.run_offline("verify", path).exit_code == 6


def test_what_was_exported_is_recorded_and_proven(desk, found, exported, tmp_path):
    recorded = desk.run("evidence", "record", exported, "--by", "AUDT/admin")
    assert recorded.exit_code == 0, recorded.err
    assert "signing with AUDT/a1, AUDT/a2" in recorded.err
    # Who signs sees what is recorded, down to the kind of each message.
    for words in ("conflicting_notarize", "evidence participant", "BRVO", "first proposition view"):
        assert words in recorded.err
    height = desk.node.world.header.height
    assert f"recorded at height {height} by AUDT/admin" in desk.run("evidence", "list").out
    proof = tmp_path / "record.json"
    for which in (found, PLACE):
        shown = desk.run("evidence", "show", which, "--proof", proof)
        assert shown.exit_code == 0, shown.err
        assert f"recorded at height {height} by AUDT/admin" in shown.out
        as_json = desk.run("evidence", "show", which, "--proof", proof, "--json").json
        assert as_json["recorded"]["by"] == "AUDT/admin"
        assert as_json["recorded"] | {"id": found} == as_json["recorded"]
    checked = desk.run_offline("verify", proof, "--json")
    assert checked.exit_code == 0, checked.err
    assert (checked.json["section"], checked.json["record"]["by"]) == ("evidence", "AUDT/admin")
    again = desk.run("evidence", "record", exported, "--by", "ALFA/admin", "--json")
    assert (again.exit_code, again.error["code"]) == (6, "EVIDENCE_RECORDED")


def test_what_other_nodes_found_is_listed_once_it_is_recorded(desk, exported):
    desk.node.gateway.store.list_evidence = list
    assert desk.run("evidence", "list", "--json").json["evidence"] == []
    assert desk.run("evidence", "record", exported, "--by", "BRVO/admin").exit_code == 0
    (item,) = desk.run("evidence", "list", "--json").json["evidence"]
    assert (item["place"], item["recorded"]["by"]) == (PLACE, "BRVO/admin")
    assert desk.run("evidence", "show", PLACE).exit_code == 0


def test_two_officers_record_one_after_the_other(desk, exported):
    made = desk.run(
        "propose", "evidence", "record", exported, "--by", "AUDT/admin", "--key", "AUDT/a1",
        "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    assert "record_evidence" in desk.run("proposals", "show", made.json["proposal"]).out
    assert desk.run("evidence", "list", "--json").json["evidence"][0]["recorded"] is None
    done = desk.run("approve", made.json["proposal"], "--json")
    assert done.json["executed"] is True, done.err
    (item,) = desk.run("evidence", "list", "--json").json["evidence"]
    assert item["recorded"]["by"] == "AUDT/admin"


def test_only_sound_evidence_is_signed(desk, exported, tmp_path):
    altered = tmp_path / "altered.json"
    altered.write_text(exported.read_text().replace('"BRVO"', '"CHRL"'))
    assert desk.run("evidence", "record", altered, "--by", "AUDT/admin").exit_code == 6
    altered.write_text("{}")
    assert desk.run("evidence", "record", altered, "--by", "AUDT/admin").exit_code == 2
    nobody = desk.run("evidence", "record", exported)
    assert (nobody.exit_code, "--by CODE/admin" in nobody.err) == (2, True)
    assert not any(each.startswith("POST") for each in desk.node.requests)
    teller = desk.run("evidence", "record", exported, "--by", "ALFA/main")
    assert (teller.exit_code, "VALUE_INVALID" in teller.err) == (6, True)


def test_a_record_is_what_its_proof_shows_whatever_the_node_says(desk, found, exported, tmp_path):
    def claim_a_record(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        answer = json.loads(response.content)
        if "item" in answer:
            answer["item"]["recorded"] = {
                "id": found, "by": "REGU/admin", "height": 7, "recorded_at_ms": 1,
            }  # fmt: skip
        return httpx.Response(response.status_code, json=answer)

    desk.node.gateway.fund("ALFA/main", 1)
    desk.node.tamper = claim_a_record
    proof = tmp_path / "record.json"
    shown = desk.run("evidence", "show", found, "--proof", proof)
    assert (shown.exit_code, "not recorded" in shown.out) == (0, True)
    desk.node.tamper = None
    other = make_pair(chain_id=desk.node.world.chain_id, code="CHRL")
    desk.node.gateway.store.add_evidence(other)
    kept = json.loads(proof.read_text())

    def prove_something_else(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        answer = json.loads(response.content)
        return httpx.Response(response.status_code, json={**answer, "proof": kept})

    desk.node.tamper = prove_something_else
    lied = desk.run("evidence", "show", compute_evidence_id(other).hex(), "--proof", proof)
    assert (lied.exit_code, "something else" in lied.err) == (6, True)


@pytest.mark.parametrize("which", ["../status", "BRVO/0/3", "BRVO/0/3/x?y=1", ""])
def test_what_names_no_evidence_is_not_sent(desk, which):
    assert desk.run("evidence", "show", which).exit_code == 2
    assert desk.node.requests == []
