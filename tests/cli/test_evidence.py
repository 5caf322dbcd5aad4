"""`atpar evidence`: listed, shown, exported, and checked again offline."""

from tests.ledger.evidence import make_pair


def test_evidence_is_listed_exported_and_verified_offline(desk, tmp_path):
    gateway = desk.node.gateway
    assert "none found" in desk.run("evidence", "list").out
    gateway.store.add_evidence(make_pair(chain_id=gateway.world.chain_id))
    (item,) = desk.run("evidence", "list", "--json").json["evidence"]
    shown = desk.run("evidence", "show", item["id"])
    assert shown.exit_code == 0, shown.err
    assert shown.out.startswith("✓ BRVO signed two notarizes for different blocks in one view")
    path = tmp_path / "evidence.json"
    assert desk.run("evidence", "export", item["id"], path).exit_code == 0
    checked = desk.run_offline("verify", path, "--json")
    assert checked.exit_code == 0, checked.err
    assert checked.json["participant"] == "BRVO"
    path.write_text(path.read_text().replace('"BRVO"', '"CHRL"'))
    assert desk.run_offline("verify", path).exit_code == 6
