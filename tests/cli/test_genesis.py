"""The genesis ceremony: four banks on their own machines found a chain together."""

import json
import re
import shutil

import pytest

from atpar.ledger.genesis import check_genesis, compute_chain_id, parse_genesis
from tests.cli.ceremony import (
    BANKS,
    ENVIRONMENT,
    add_asset,
    get_complete_draft,
    get_sealed,
    join,
    join_bank,
    make_keys,
    run_as,
    start,
)
from tests.cli.helpers import run


@pytest.fixture
def copy(tmp_path):
    """A folder with a complete draft and all keys that the test may change."""
    folder = tmp_path / "ceremony"
    shutil.copytree(get_complete_draft(), folder)
    return folder


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_sealed_document_is_what_every_node_accepts():
    folder = get_sealed()
    document = parse_genesis((folder / "genesis.json").read_bytes())
    check_genesis(document, sealed=True)
    assert [entry.participant for entry in document.validators] == list(BANKS)
    assert [entry.participant for entry in document.observers] == ["AUDT", "REGU"]
    assert document.quotas[0].capacity == 100_000_000_00
    result = run("genesis", "check", folder / "genesis.json", "--json").json
    assert result["valid"]
    assert result["sealed"]
    assert result["missing"] == []
    assert result["chain_id"] == compute_chain_id(document).hex()
    assert set(result) == {
        "document", "valid", "sealed", "chain_id", "name", "validators", "assets", "missing",
    }  # fmt: skip


def test_no_private_key_is_in_the_document():
    folder = get_sealed()
    text = (folder / "genesis.json").read_text()
    assert "PRIVATE" not in text
    assert "sealed_seed" not in text
    assert text.count("BEGIN CERTIFICATE") == 6


def test_hash_is_the_chain_id_with_and_without_signatures():
    folder = get_sealed()
    first = run("genesis", "hash", folder / "genesis.json")
    second = run("genesis", "hash", folder / "draft.json")
    assert first.exit_code == second.exit_code == 0
    assert first.out == second.out
    assert re.fullmatch(r"[0-9a-f]{64}\n", first.out)


def test_draft_that_misses_validators_says_which_field(tmp_path):
    draft = start(tmp_path)
    result = run("genesis", "check", draft, "--draft", "--json")
    assert result.exit_code == 3
    assert result.error["message"].startswith(f"{draft}: validators: 0")


def test_new_draft_takes_parameters_and_refuses_unknown_ones(tmp_path):
    path = tmp_path / "d.json"
    result = run("genesis", "new", "x", "-o", path, "--param", "delta_ms=333", "--json")
    assert result.json == {"draft": str(path), "name": "x"}
    assert json.loads(path.read_text())["params"]["delta_ms"] == 333
    for bad in ("delta=1", "delta_ms=x", "delta_ms"):
        assert run("genesis", "new", "x", "-o", tmp_path / "e", "--param", bad).exit_code == 2
    assert run("genesis", "new", "x", "-o", path).exit_code == 2
    assert run("genesis", "new", "No Caps", "-o", tmp_path / "f").exit_code == 3


def test_join_makes_a_root_once_and_keeps_it(tmp_path):
    start(tmp_path)
    result = join_bank(tmp_path, "ALFA", 0)
    assert result.exit_code == 0
    assert "tls-root.key: move the key offline" in result.err
    assert result.out == f"ALFA joined {tmp_path / 'draft.json'} as validator\n"
    root = (tmp_path / "ALFA" / "tls-root.pem").read_text()
    again = join(tmp_path, "ALFA", "bank", "--address", "127.0.0.1:7300", "--replace")
    assert again.exit_code == 0
    value = json.loads((tmp_path / "draft.json").read_text())
    assert [v["root_certificate"] for v in value["validators"]] == [root]
    assert value["validators"][0]["address"] == "127.0.0.1:7300"


def test_joining_twice_needs_replace(copy):
    result = join(copy, "ALFA", "bank")
    assert result.exit_code == 2
    assert "--replace" in result.err


def test_key_on_another_machine_joins_by_its_proof(tmp_path):
    start(tmp_path)
    make_keys(tmp_path, "ALFA", "maker")
    make_keys(tmp_path, "elsewhere", "checker")
    proof = run_as(
        tmp_path, "elsewhere", "keys", "prove", "checker", "--participant", "ALFA",
        "--for-genesis", "--json",
    )  # fmt: skip
    path = tmp_path / "proof.json"
    path.write_text(proof.out)
    args = (
        "genesis", "join", tmp_path / "draft.json", "--participant", "ALFA",
        "--lei", "ATPR0000000000ALFA09", "--bic", "ALFAHKH0", "--jurisdiction", "HK",
        "--role", "bank", "--admin", f"2:maker,{proof.json['key']}",
    )  # fmt: skip
    result = run_as(tmp_path, "ALFA", *args, "--proof", path)
    assert result.exit_code == 0, result.err
    for change in ({"participant": "BRVO"}, {"chain_id": "11" * 32}, {"signature": "00" * 64}):
        path.write_text(json.dumps({**proof.json, **change}))
        result = run_as(tmp_path, "ALFA", *args, "--replace", "--proof", path)
        assert result.exit_code == 2, change
    path.write_text("[]")
    assert run_as(tmp_path, "ALFA", *args, "--replace", "--proof", path).exit_code == 2


@pytest.mark.parametrize(
    "policy",
    ["", "2", "2:", ":maker", "0:maker", "3:maker,checker", "1:maker,maker", "x:maker",
     "1:maker*0", "1:maker*x", "1:maker*1001"],
)  # fmt: skip
def test_policies_that_no_one_could_meet_are_refused(copy, policy):
    result = run_as(
        copy, "ALFA", "genesis", "join", copy / "draft.json", "--participant", "NEWB",
        "--lei", "ATPR0000000000ALFA09", "--bic", "ALFAHKH0", "--jurisdiction", "HK",
        "--role", "bank", "--admin", policy,
    )  # fmt: skip
    assert result.exit_code == 2
    assert "2:maker,checker" in result.err


def test_unknown_key_in_a_policy_is_a_keystore_error(copy):
    result = join(copy, "ALFA", "bank", "--replace", "--account", "x=1:nobody")
    assert result.exit_code == 4
    assert "no key 'nobody'" in result.err


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("--lei", "short"), "participant.lei"),
        (("--bic", "alfa"), "participant.bic"),
        (("--jurisdiction", "Hongkong"), "participant.jurisdiction"),
        (("--participant", "al"), "participant.participant"),
        (("--address", "nowhere"), "validator.address"),
        (("--account", "Big=1:payments"), "account Big.account"),
    ],
)
def test_values_out_of_form_name_the_field(copy, args, field):
    result = join(copy, "ALFA", "bank", "--replace", *args)
    assert result.exit_code == 3
    assert result.err.startswith(f"error: {field}: ")


def test_change_of_the_draft_drops_signatures(copy):
    signed = run_as(copy, "ALFA", "genesis", "sign", copy / "draft.json", "--participant", "ALFA")
    assert signed.out.endswith("missing: BRVO, CHRL, DLTA\n")
    result = join(copy, "REGU", "regulator", "--replace")
    assert result.exit_code == 0
    assert "signatures are dropped" in result.err
    assert json.loads((copy / "draft.json").read_text())["signatures"] == []


def test_signing_shows_the_document_and_asks(copy):
    args = (
        "genesis",
        "sign",
        copy / "draft.json",
        "--participant",
        "ALFA",
        "--keys",
        copy / "ALFA",
    )
    declined = run(*args, answers="n\n", environment=ENVIRONMENT)
    assert declined.exit_code == 130
    assert "nothing was signed" in declined.err
    assert "administrator's key" in declined.err
    assert "CNH.JDCL" in declined.err
    assert json.loads((copy / "draft.json").read_text())["signatures"] == []
    assert run(*args, answers="y\n", environment=ENVIRONMENT).exit_code == 0
    assert run(*args, "--yes", "--json", environment=ENVIRONMENT).json["signatures"] == 1


def test_signing_with_the_wrong_key_or_as_nobody_is_refused(copy):
    wrong = run_as(
        copy, "ALFA", "genesis", "sign", copy / "draft.json", "--participant", "ALFA",
        "--governance-key", "vote",
    )  # fmt: skip
    assert wrong.exit_code == 2
    assert "the document names" in wrong.err
    nobody = run_as(copy, "CUST", "genesis", "sign", copy / "draft.json", "--participant", "CUST")
    assert nobody.exit_code == 2


def test_seal_needs_every_signature(copy):
    run_as(copy, "ALFA", "genesis", "sign", copy / "draft.json", "--participant", "ALFA")
    result = run("genesis", "seal", copy / "draft.json", "-o", copy / "g.json")
    assert result.exit_code == 3
    assert "signatures: missing: BRVO, CHRL, DLTA" in result.err
    assert not (copy / "g.json").exists()


def test_seal_names_where_copies_differ(copy):
    other = copy / "other.json"
    shutil.copy(copy / "draft.json", other)
    edit(other, lambda value: value["assets"][1]["terms"].update(cap="5"))
    result = run("genesis", "seal", copy / "draft.json", other, "-o", copy / "g.json")
    assert result.exit_code == 3
    assert "differ in assets[1].terms.cap" in result.err
    edit(other, lambda value: value["validators"].pop())
    result = run("genesis", "seal", copy / "draft.json", other, "-o", copy / "g.json")
    assert "differ in validators" in result.err


def test_changed_field_after_signing_breaks_the_signature(tmp_path):
    path = tmp_path / "genesis.json"
    shutil.copy(get_sealed() / "genesis.json", path)
    edit(path, lambda value: value["quotas"][0].update(capacity="1"))
    result = run("genesis", "check", path)
    assert result.exit_code == 3
    assert result.err.startswith(f"error: {path}: signatures[0].signature: ")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("document", lambda v: v.update(extra=1)),
        ("name", lambda v: v.update(name="Ceremony!")),
        ("format", lambda v: v.update(format="atpar-genesis/2")),
        ("params.delta_ms", lambda v: v["params"].update(delta_ms="x")),
        ("validators[0].vote_key", lambda v: v["validators"][0].update(vote_key="00")),
        ("validators[1].address", lambda v: v["validators"][1].update(
            address=v["validators"][0]["address"])),
        ("validators[2].root_certificate", lambda v: v["validators"][2].update(
            root_certificate="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ("assets[0].issuer", lambda v: v["assets"][0].update(issuer="ALFA")),
        ("quotas[0].minter", lambda v: v["quotas"][0].update(minter="CHRL/minter")),
        ("participants[1].participant", lambda v: v["participants"][1].update(
            participant="ALFA")),
    ],
)  # fmt: skip
def test_inconsistency_is_named_by_field(tmp_path, field, change):
    path = tmp_path / "genesis.json"
    shutil.copy(get_sealed() / "genesis.json", path)
    edit(path, change)
    result = run("genesis", "check", path, "--json")
    assert result.exit_code == 3
    message = result.error["message"]
    expected = "extra" if field == "document" else field.replace("assets[0].issuer", "assets[0]")
    assert message.startswith(f"{path}: {expected}"), message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', "[" * 100_000])
def test_what_is_no_document_is_refused(tmp_path, text):
    path = tmp_path / "g.json"
    path.write_text(text)
    for command in ("check", "hash"):
        result = run("genesis", command, path)
        assert result.exit_code == 3
        assert "Traceback" not in result.err


def test_missing_file_is_wrong_usage(tmp_path):
    assert run("genesis", "check", tmp_path / "none").exit_code == 2


def test_assets_are_added_once_with_exact_amounts(tmp_path):
    draft = start(tmp_path)
    assert add_asset(tmp_path, "HKD.JDCL").exit_code == 0
    assert add_asset(tmp_path, "HKD.JDCL").exit_code == 2
    value = json.loads(draft.read_text())
    assert value["assets"][0]["terms"]["cap"] == "100000000000"
    assert value["assets"][0]["terms"]["compliance_release"] == "JDCL/compliance-release"
    assert [q["minter"] for q in value["quotas"]] == ["ALFA/minter", "BRVO/minter"]
    base = ("genesis", "asset", draft, "CNH.JDCL", "--custodian", "CUST/reserve", "--auditor",
            "AUDT/audit", "--regulator", "REGU/supervision")  # fmt: skip
    assert run(*base, "--cap", "1.005", "--minter", "ALFA/minter=1").exit_code == 2
    assert run(*base, "--cap", "1", "--minter", "ALFA/minter").exit_code == 2
    wrong = run(*base[:3], "hkd", *base[4:], "--cap", "1", "--minter", "ALFA/minter=1")
    assert wrong.exit_code == 3


def test_every_command_has_an_example():
    for command in ("new", "join", "asset", "sign", "seal", "check", "hash"):
        assert "Example: atpar genesis" in run("genesis", command, "--help").out


def test_check_of_an_unsealed_document_suggests_draft(tmp_path):
    value = json.loads((get_sealed() / "genesis.json").read_text())
    value["signatures"] = value["signatures"][:1]
    path = tmp_path / "draft.json"
    path.write_text(json.dumps(value))
    result = run("genesis", "check", path, "--json")
    assert result.exit_code == 3
    assert result.error["message"].startswith(f"{path}: signatures: missing: ")
    assert "--draft" in result.error["advice"]
    assert run("genesis", "check", path, "--draft").exit_code == 0
