"""`atpar node`: set up from a sealed genesis document, checked without touching anything."""

import json
import shutil
import stat

import httpx
import pytest
from msgspec.structs import replace

from atpar.ledger.commitment import commit_state
from atpar.ledger.epochs import open_epoch
from atpar.ledger.genesis import compute_chain_id, parse_genesis, render_genesis
from atpar.ledger.proofs import render_proof
from atpar.ledger.proving import build_proof_file, build_record_proof
from atpar.ledger.records import CURRENT, VALIDATORS, ValidatorSet, identify_validators
from atpar.ledger.recovery import RecoveryBody, RecoveryDocument
from atpar.ledger.state import Overlay
from atpar.node.config import load_config
from atpar.node.datadir import open_chain
from atpar.node.keystore import read_key
from atpar.node.seats import read_sets
from tests.cli.ceremony import ENVIRONMENT, get_sealed
from tests.cli.helpers import FAST, answering, run
from tests.ledger.epochs import Chain
from tests.ledger.world import sign_document


def init(home, *extra, code="ALFA", keys=None):
    sealed = get_sealed()
    return run(
        "node", "init", "--home", home, "--participant", code,
        "--genesis", sealed / "genesis.json", "--keys", keys or sealed / code, *extra,
        environment=ENVIRONMENT,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path):
    result = init(tmp_path / "alfa")
    assert result.exit_code == 0, result.err
    return tmp_path / "alfa"


def test_init_makes_a_home_that_checks(home):
    config = load_config(home / "node.toml", environment={}).config
    assert config.node.participant == "ALFA"
    assert config.network.listen == "127.0.0.1:7200"
    assert config.votes_journal.is_file()
    assert config.chain_db.is_dir()
    assert (home / "genesis.json").read_bytes() == (get_sealed() / "genesis.json").read_bytes()
    for name in ("vote.key", "tls-leaf.key"):
        assert stat.S_IMODE((home / "keys" / name).stat().st_mode) == 0o600
    assert not (home / "keys" / "tls-root.key").exists()
    result = run("node", "check", "--home", home, "--json")
    assert result.exit_code == 0, result.err
    data = result.json
    assert data["valid"] is True
    assert {"key": "node.participant", "value": "ALFA", "origin": "node.toml"} in data["settings"]
    names = [entry["check"] for entry in data["checks"]]
    assert names == ["genesis", "participant", "timeouts", "vote key", "TLS", "store", "journal"]


def test_node_that_joins_later_is_set_up_without_a_seat_in_genesis(tmp_path):
    keys = tmp_path / "keys"
    made = run("keys", "new", "vote", *FAST, "--keys", keys, environment=ENVIRONMENT)
    assert made.exit_code == 0, made.err
    refused = init(tmp_path / "echo", code="ECHO", keys=keys)
    assert refused.exit_code == 3
    assert "neither validator nor observer" in refused.err
    joined = init(tmp_path / "echo", "--joins", code="ECHO", keys=keys)
    assert joined.exit_code == 0, joined.err
    config = load_config(tmp_path / "echo" / "node.toml", environment={}).config
    assert config.node.joins
    assert config.votes_journal.is_file()
    checked = run("node", "check", "--home", tmp_path / "echo", "--json")
    assert checked.exit_code == 0, checked.err


def test_check_shows_origins_and_precedence(home):
    result = run(
        "node", "check", "--home", home, "--api-listen", "127.0.0.1:9001",
        environment={"ATPAR_LOG__LEVEL": "debug", "ATPAR_API__LISTEN": "127.0.0.1:9002"},
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    lines = {line.split()[0]: line.split() for line in result.out.splitlines() if line}
    assert lines["api.listen"] == ["api.listen", "127.0.0.1:9001", "flag", "--api-listen"]
    assert lines["log.level"] == ["log.level", "debug", "environment", "ATPAR_LOG__LEVEL"]
    assert lines["network.listen"][-1] == "node.toml"
    assert lines["consensus.retry_ms"] == ["consensus.retry_ms", "1000", "default"]
    assert result.out.rstrip().endswith("valid")


def test_init_twice_is_refused_and_changes_nothing(home):
    before = (home / "data" / "votes.journal").read_bytes()
    result = init(home)
    assert result.exit_code == 3
    assert "a node already" in result.err
    assert (home / "data" / "votes.journal").read_bytes() == before


def test_init_begins_a_store_anew_that_was_set_aside_and_keeps_the_journal(home):
    data = home / "data"
    before = (data / "votes.journal").read_bytes()
    (data / "chain.db").rename(data / "chain.db.damaged")
    result = init(home)
    assert result.exit_code == 0, result.err
    assert "votes.journal kept" in result.out
    assert (data / "votes.journal").read_bytes() == before
    assert run("node", "check", "--home", home).exit_code == 0


def test_init_does_not_make_up_for_lost_data(home):
    shutil.rmtree(home / "data")
    result = init(home)
    assert result.exit_code == 8
    assert "could let it vote twice" in result.err
    assert not (home / "data").exists()


def test_init_that_was_cut_short_completes_when_repeated(home):
    leaf = (home / "keys" / "tls-leaf.pem").read_bytes()
    (home / "node.toml").unlink()
    assert init(home).exit_code == 0
    assert (home / "keys" / "tls-leaf.pem").read_bytes() == leaf
    assert run("node", "check", "--home", home).exit_code == 0


def test_init_never_gives_a_store_a_new_journal(home):
    (home / "node.toml").unlink()
    (home / "data" / "votes.journal").unlink()
    result = init(home)
    assert result.exit_code == 3
    assert "never overwritten" in result.err
    assert not (home / "data" / "votes.journal").exists()


def test_init_refuses_data_of_another_validator(home, tmp_path):
    other = tmp_path / "brvo"
    shutil.copytree(home / "data", other / "data")
    result = init(other, code="BRVO")
    assert result.exit_code == 8
    assert not (other / "node.toml").exists()


def test_observer_gets_a_home_without_vote_key_or_journal(tmp_path):
    result = init(tmp_path / "audt", "--json", code="AUDT")
    assert result.exit_code == 0, result.err
    assert result.json["validator"] is False
    assert not (tmp_path / "audt" / "keys" / "vote.key").exists()
    assert not (tmp_path / "audt" / "data" / "votes.journal").exists()
    assert run("node", "check", "--home", tmp_path / "audt").exit_code == 0


def test_init_refuses_the_wrong_vote_key(tmp_path):
    result = init(tmp_path / "n", "--vote-key", "maker")
    assert result.exit_code == 4
    assert "registers" in result.err
    assert not (tmp_path / "n" / "node.toml").exists()


def test_init_refuses_a_root_that_is_not_registered(tmp_path):
    keys = tmp_path / "keys"
    shutil.copytree(get_sealed() / "ALFA", keys)
    for name in ("tls-root.pem", "tls-root.key"):
        shutil.copy2(get_sealed() / "BRVO" / name, keys / name)
    result = init(tmp_path / "n", keys=keys)
    assert result.exit_code == 3
    assert "not by the root of ALFA" in result.err
    assert not (tmp_path / "n" / "keys" / "tls-leaf.pem").exists()


def test_init_refuses_strangers_and_unsealed_documents(tmp_path):
    assert init(tmp_path / "n", code="CUST").exit_code == 3
    sealed = get_sealed()
    result = run(
        "node", "init", "--home", tmp_path / "n", "--participant", "ALFA",
        "--genesis", sealed / "draft.json", "--keys", sealed / "ALFA",
    )  # fmt: skip
    assert result.exit_code == 3
    assert "signatures: missing" in result.err


def test_init_refuses_an_address_it_could_not_read_back(tmp_path):
    result = init(tmp_path / "n", "--api-listen", "nonsense")
    assert result.exit_code == 2
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("command", ["check", "run"])
def test_home_without_node_toml_is_a_configuration_error(tmp_path, command):
    result = run("node", command, "--home", tmp_path)
    assert result.exit_code == 3
    assert "node init" in result.err


def test_check_names_unknown_keys(home):
    with (home / "node.toml").open("a") as file:
        file.write("\n[api]\nlistn = 1\n")
    result = run("node", "check", "--home", home)
    assert result.exit_code == 3
    assert "api.listn: unknown key, from node.toml; did you mean `listen`?" in result.err


def test_check_finds_a_foreign_vote_key(home):
    shutil.copy2(get_sealed() / "BRVO" / "vote.key", home / "keys" / "vote.key")
    result = run("node", "check", "--home", home)
    assert result.exit_code == 4


def test_check_finds_a_missing_journal_as_a_safety_matter(home):
    (home / "data" / "votes.journal").unlink()
    result = run("node", "check", "--home", home, "--json")
    assert result.exit_code == 8
    assert result.error["kind"] == "safety_stop"


def test_check_finds_a_rotted_journal(home):
    path = home / "data" / "votes.journal"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(bytes(data))
    assert run("node", "check", "--home", home).exit_code == 8


def test_check_finds_a_missing_store(home):
    shutil.rmtree(home / "data" / "chain.db")
    assert run("node", "check", "--home", home).exit_code == 3


def test_check_finds_contradicting_timeouts(home):
    result = run("node", "check", "--home", home,
                 environment={"ATPAR_CONSENSUS__SKIP_TIMEOUT_MS": "700"})  # fmt: skip
    assert result.exit_code == 3
    assert "700" in result.err


STATUS = {
    "chain_name": "local", "state": "ready", "detail": "serving", "read_height": 5, "alarms": [],
}  # fmt: skip


def test_status_is_zero_only_when_ready():
    ready = run("node", "status", "--json", transport=answering({"/v1/status": STATUS}))
    assert ready.exit_code == 0
    assert ready.json == STATUS
    for state, code in (("catching_up", 9), ("starting", 9), ("halted", 8)):
        answer = {"/v1/status": {**STATUS, "state": state}}
        result = run("node", "status", transport=answering(answer))
        assert result.exit_code == code
        assert "read height  5" in result.out


def test_status_of_a_node_that_is_not_there_is_unreachable():
    def refuse(request):
        raise httpx.ConnectError("connection refused")

    result = run("node", "status", "--json", transport=httpx.MockTransport(refuse))
    assert result.exit_code == 5
    assert "connection refused" in result.error["message"]
    assert "--node" in result.error["advice"]


def test_status_asks_the_next_node_when_one_is_gone(tmp_path):
    def handle(request):
        if request.url.host == "dead":
            raise httpx.ConnectTimeout("timed out")
        return httpx.Response(200, json=STATUS)

    result = run(
        "node", "status", "--node", "http://dead:1", "--node", "http://alive:1/", "--json",
        transport=httpx.MockTransport(handle),
    )  # fmt: skip
    assert result.exit_code == 0


def test_status_reads_the_url_of_the_nodes_own_home(home):
    seen = []

    def handle(request):
        seen.append(str(request.url))
        return httpx.Response(200, json=STATUS)

    run("node", "status", "--home", home, transport=httpx.MockTransport(handle))
    assert seen == ["http://127.0.0.1:7101/v1/status"]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, "<html>", 5),
        (200, "[]", 5),
        (200, "[" * 100_000, 5),
        (503, json.dumps({"code": "NOT_READY", "detail": "starting"}), 9),
        (429, json.dumps({"code": "MEMPOOL_FULL"}), 9),
        (403, json.dumps({"code": "FORBIDDEN"}), 3),
        (404, json.dumps({"code": "NOT_FOUND"}), 2),
        (404, json.dumps({"code": "UNKNOWN_ACCOUNT"}), 6),
        (500, json.dumps({"code": "INTERNAL_ERROR"}), 9),
    ],
)
def test_answers_that_are_no_status_end_with_their_code(status, body, code):
    def handle(request):
        return httpx.Response(status, text=body)

    result = run("node", "status", transport=httpx.MockTransport(handle))
    assert result.exit_code == code
    assert "what to do:" in result.err


# ---- keys that changed since genesis


def rotate(home, name):
    """Let the node's store have verified an epoch in which its vote key is another."""
    store = open_chain(home / "data", chain_id=get_chain_id(home))
    try:
        sets = read_sets(store)
        key = read_key(home / "keys" / name).public_key
        members = tuple(
            replace(member, vote_key=key) if member.participant == "ALFA" else member
            for member in sets.current.members
        )
        opened = ValidatorSet(1, members)
        overlay = Overlay(store.get_final().view)
        open_epoch(overlay, opened)
        commit_state(overlay)
        identity = identify_validators(opened)
        body = RecoveryBody(1, 0, store.position.digest, identity.members, ())
        store.write_recovery(RecoveryDocument(body, ()), overlay, sets=None)
    finally:
        store.close()


def get_chain_id(home):
    return compute_chain_id(parse_genesis((home / "genesis.json").read_bytes()))


@pytest.fixture
def rotated(home):
    """A home whose vote key is `next.key` since epoch 1; `vote.key` is still genesis's."""
    made = run("keys", "new", "next", *FAST, "--keys", home / "keys", environment=ENVIRONMENT)
    assert made.exit_code == 0, made.err
    rotate(home, "next.key")
    return home


def check(home, **environment):
    return run("node", "check", "--home", home, "--json", environment=environment)


def test_check_compares_the_vote_key_with_the_newest_verified_set(rotated):
    keys = rotated / "keys"
    registered = read_key(keys / "next.key").public_key.hex()
    stale = check(rotated)
    assert stale.exit_code == 4
    assert f"{registered} is registered in epoch 1 at height 0" in stale.error["message"]
    waiting = check(rotated, ATPAR_KEYS__NEXT_VOTE="keys/next.key")
    assert waiting.exit_code == 0, waiting.err
    (keys / "vote.key").rename(keys / "old.key")
    (keys / "next.key").rename(keys / "vote.key")
    found = check(rotated)
    assert found.exit_code == 0, found.err
    details = {entry["check"]: entry["detail"] for entry in found.json["checks"]}
    assert details["vote key"] == registered
    assert details["participant"] == "ALFA is validator of this chain, in epoch 1 at height 0"


def test_check_of_a_running_node_says_that_genesis_is_all_it_can_read(rotated):
    keys = rotated / "keys"
    (keys / "vote.key").rename(keys / "old.key")
    (keys / "next.key").rename(keys / "vote.key")
    store = open_chain(rotated / "data", chain_id=get_chain_id(rotated))
    try:
        found = check(rotated)
    finally:
        store.close()
    assert found.exit_code == 0, found.err
    details = {entry["check"]: entry["detail"] for entry in found.json["checks"]}
    assert details["vote key"].endswith(
        "not the one registered by the genesis document: a later epoch may say so"
    )


def test_leaf_of_another_root_is_refused_unless_a_later_epoch_may_register_it(home, tmp_path):
    assert init(tmp_path / "brvo", code="BRVO").exit_code == 0
    for name in ("tls-leaf.pem", "tls-leaf.key"):
        shutil.copy2(tmp_path / "brvo" / "keys" / name, home / "keys" / name)
    refused = check(home)
    assert refused.exit_code == 3
    assert "the root of BRVO" in refused.error["message"]
    store = open_chain(home / "data", chain_id=get_chain_id(home))
    try:
        found = check(home)
    finally:
        store.close()
    assert found.exit_code == 0, found.err
    details = {entry["check"]: entry["detail"] for entry in found.json["checks"]}
    assert details["TLS"].endswith("by the genesis document: a later epoch may say so")


def test_store_begun_anew_after_a_rotation_says_that_the_node_joins(rotated):
    keys, data = rotated / "keys", rotated / "data"
    (keys / "vote.key").rename(keys / "old.key")
    (keys / "next.key").rename(keys / "vote.key")
    (data / "chain.db").rename(data / "chain.db.damaged")
    refused = init(rotated)
    assert refused.exit_code == 3
    assert "set node.joins = true until it is there" in refused.err
    toml = rotated / "node.toml"
    toml.write_text(toml.read_text().replace("[node]", "[node]\njoins = true", 1))
    again = init(rotated)
    assert again.exit_code == 0, again.err
    assert "votes.journal kept" in again.out
    assert check(rotated).exit_code == 0


def test_newcomer_begins_its_store_anew(tmp_path):
    keys, home = tmp_path / "keys", tmp_path / "echo"
    assert run("keys", "new", "vote", *FAST, "--keys", keys, environment=ENVIRONMENT).exit_code == 0
    assert init(home, "--joins", code="ECHO", keys=keys).exit_code == 0
    (home / "data" / "chain.db").rename(home / "data" / "chain.db.damaged")
    again = init(home, code="ECHO", keys=keys)
    assert again.exit_code == 0, again.err
    assert check(home).exit_code == 0


def test_newcomer_is_told_its_peers_by_a_proof(tmp_path):
    chain = Chain().add_participant().set_validators(("ALFA", "BRVO", "CHRL", "ECHO"))
    chain.end_epoch().extend(1)
    genesis, told = tmp_path / "genesis.json", tmp_path / "told.json"
    genesis.write_bytes(render_genesis(sign_document(chain.genesis.document)))
    proof = build_record_proof(chain.view, VALIDATORS, CURRENT, chain.prove_last())
    file = render_proof(build_proof_file(proof, chain.steps))
    told.write_bytes(b'{"read_height": 7, "proof": ' + file + b"}")
    keys = tmp_path / "keys"
    assert run("keys", "new", "vote", *FAST, "--keys", keys, environment=ENVIRONMENT).exit_code == 0

    def set_up(home):
        return run(
            "node", "init", "--home", home, "--participant", "ECHO", "--genesis", genesis,
            "--keys", keys, "--joins", "--validators", told, environment=ENVIRONMENT,
        )  # fmt: skip

    made = set_up(tmp_path / "echo")
    assert made.exit_code == 0, made.err
    config = load_config(tmp_path / "echo" / "node.toml", environment={}).config
    assert config.node.bootstrap == tmp_path / "echo" / "validators.json"
    assert config.node.bootstrap.read_bytes() == file
    assert check(tmp_path / "echo").exit_code == 0
    told.write_bytes(render_proof(chain.prove()))
    refused = set_up(tmp_path / "again")
    assert refused.exit_code == 6
    assert "not of the validators in force" in refused.err
    assert not (tmp_path / "again").exists()
