"""`atpar keys`: what a person sees, and that private keys stay private."""

import json
import stat

import pytest

from atpar.ledger.keys import verify_possession
from atpar.ledger.types import ZERO_HASH
from atpar.node.keystore import open_key, read_key
from tests.cli.helpers import FAST, run

ENVIRONMENT = {"ATPAR_PASSPHRASE": "geheim"}


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "keys"
    result = run("keys", "new", "maker", "--keys", folder, *FAST, environment=ENVIRONMENT)
    assert result.exit_code == 0, result.err
    return folder


def test_new_key_shows_its_public_part(tmp_path):
    result = run(
        "keys", "new", "maker", "--keys", tmp_path / "k", *FAST, "--json", environment=ENVIRONMENT
    )
    path = tmp_path / "k" / "maker.key"
    assert result.json == {
        "name": "maker",
        "public_key": read_key(path).public_key.hex(),
        "path": str(path),
        "scrypt_log2_n": 4,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_default_cost_is_the_standard_one(tmp_path):
    result = run("keys", "new", "--help")
    assert "default: 17" in result.out
    assert "passphrase" not in result.out.replace("--passphrase-file", "").split("Options")[0]


def test_existing_key_is_not_overwritten(keys):
    before = (keys / "maker.key").read_bytes()
    result = run("keys", "new", "maker", "--keys", keys, *FAST, environment=ENVIRONMENT)
    assert result.exit_code == 4
    assert "never overwritten" in result.err
    assert (keys / "maker.key").read_bytes() == before


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a/b/c", "a\nb"])
def test_names_that_leave_the_folder_are_refused(keys, name):
    result = run("keys", "new", name, "--keys", keys, *FAST, environment=ENVIRONMENT)
    assert result.exit_code == 2


def test_show_and_list_need_no_passphrase(keys):
    public = read_key(keys / "maker.key").public_key.hex()
    shown = run("keys", "show", "maker", "--keys", keys)
    assert shown.out.splitlines()[:2] == ["name        maker", f"public key  {public}"]
    for name in (public, public.upper(), str(keys / "maker.key"), str(keys / "maker")):
        assert public in run("keys", "show", name, "--keys", keys, "--json").out
    listed = run("keys", "list", "--keys", keys)
    assert listed.out.splitlines() == [
        "name    public key                                                         problem",
        "─" * 82,
        f"maker   {public}",
    ]


def test_list_shows_nested_keys_and_damaged_ones(keys):
    run("keys", "new", "ALFA/vote", "--keys", keys, *FAST, environment=ENVIRONMENT)
    (keys / "bad.key").write_text("{}")
    (keys / "bad.key").chmod(0o600)
    (keys / "tls-root.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    items = run("keys", "list", "--keys", keys, "--json").json["keys"]
    assert [item["name"] for item in items] == ["ALFA/vote", "bad", "maker"]
    assert "not a keystore file" in items[1]["error"]


def test_missing_key_and_folder_are_keystore_errors(keys, tmp_path):
    result = run("keys", "show", "nobody", "--keys", keys)
    assert result.exit_code == 4
    assert f"no key 'nobody' in {keys}" in result.err
    assert run("keys", "list", "--keys", tmp_path / "none").exit_code == 4


def test_prompts_ask_twice_for_a_new_passphrase(tmp_path):
    result = run(
        "keys", "new", "maker", "--keys", tmp_path, *FAST, answers="eins\nzwei\neins\neins\n"
    )
    assert result.exit_code == 0
    assert "do not match" in result.err
    assert open_key(tmp_path / "maker.key", "eins")


def test_without_terminal_or_source_there_is_no_passphrase(tmp_path):
    result = run("keys", "new", "maker", "--keys", tmp_path, *FAST)
    assert result.exit_code == 4
    assert "ATPAR_PASSPHRASE" in result.err


def test_passphrase_comes_from_file_before_environment(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("aus der datei\nsecond line\n")
    result = run(
        "keys", "new", "maker", "--keys", tmp_path, "--passphrase-file", secret, *FAST,
        environment=ENVIRONMENT,
    )  # fmt: skip
    assert result.exit_code == 0
    assert open_key(tmp_path / "maker.key", "aus der datei")


@pytest.mark.parametrize("content", [None, b"", b"\nx", b"\xff\xfe\n"])
def test_unusable_passphrase_files_are_named(tmp_path, content):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    result = run("keys", "new", "m", "--keys", tmp_path, "--passphrase-file", secret, *FAST)
    assert result.exit_code == 4
    assert str(secret) in result.err


def test_client_file_names_folder_and_passphrase(tmp_path):
    (tmp_path / "client.toml").write_text('keys = "mine"\npassphrase_file = "secret"\n')
    (tmp_path / "secret").write_text("geheim\n")
    result = run("keys", "new", "maker", "--home", tmp_path, *FAST)
    assert result.exit_code == 0, result.err
    assert open_key(tmp_path / "mine" / "maker.key", "geheim")


def test_client_file_with_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "client.toml").write_text('kies = "mine"\n')
    result = run("keys", "list", "--home", tmp_path)
    assert result.exit_code == 3
    assert "kies" in result.err


def test_wrong_passphrase_is_asked_again_twice(keys):
    prove = ("keys", "prove", "maker", "--participant", "ALFA", "--for-genesis", "--keys", keys)
    assert run(*prove, answers="a\nb\ngeheim\n").exit_code == 0
    failed = run(*prove, answers="a\nb\nc\n")
    assert failed.exit_code == 4
    assert "does not open" in failed.err


def test_proof_of_possession_verifies(keys):
    result = run(
        "keys", "prove", "maker", "--participant", "ALFA", "--for-genesis", "--keys", keys,
        "--json", environment=ENVIRONMENT,
    )  # fmt: skip
    proof = result.json
    assert verify_possession(
        ZERO_HASH,
        participant="ALFA",
        public_key=bytes.fromhex(proof["key"]),
        signature=bytes.fromhex(proof["signature"]),
    )


def test_exported_copy_imports_as_the_same_key(keys, tmp_path):
    copy = tmp_path / "copy.key"
    new_secret = tmp_path / "new"
    new_secret.write_text("neu\n")
    result = run(
        "keys", "export", "maker", "--to", copy, "--new-passphrase-file", new_secret,
        "--keys", keys, *FAST, environment=ENVIRONMENT,
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    seed = open_key(keys / "maker.key", "geheim")
    assert open_key(copy, "neu") == seed
    assert seed.hex() not in copy.read_text()
    other = tmp_path / "other"
    result = run(
        "keys", "import", "again", "--from", copy, "--keys", other, *FAST,
        environment={"ATPAR_PASSPHRASE": "neu"},
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    assert open_key(other / "again.key", "neu") == seed


def test_plain_seed_goes_to_a_private_file_with_a_warning(keys, tmp_path):
    target = tmp_path / "seed"
    result = run(
        "keys", "export", "maker", "--to", target, "--plain-seed", "--keys", keys,
        environment=ENVIRONMENT,
    )  # fmt: skip
    seed = open_key(keys / "maker.key", "geheim")
    assert target.read_text() == seed.hex() + "\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "warning" in result.err
    assert seed.hex() not in result.out + result.err
    again = run("keys", "export", "maker", "--to", target, "--plain-seed", "--keys", keys,
                environment=ENVIRONMENT)  # fmt: skip
    assert again.exit_code == 2


def test_seed_is_imported_from_stdin_or_file(tmp_path):
    seed = bytes(range(32))
    (tmp_path / "seed").write_text(seed.hex())
    for source, stdin in (("-", seed.hex() + "\n"), (str(tmp_path / "seed"), None)):
        folder = tmp_path / f"k{len(source)}"
        result = run(
            "keys", "import", "m", "--from", source, "--keys", folder, *FAST,
            environment=ENVIRONMENT, stdin=stdin,
        )  # fmt: skip
        assert result.exit_code == 0, result.err
        assert open_key(folder / "m.key", "geheim") == seed


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33])
def test_what_is_no_seed_is_not_imported(tmp_path, text):
    (tmp_path / "seed").write_text(text)
    result = run(
        "keys", "import", "m", "--from", tmp_path / "seed", "--keys", tmp_path / "k", *FAST,
        environment=ENVIRONMENT,
    )  # fmt: skip
    assert result.exit_code == 4
    assert not (tmp_path / "k" / "m.key").exists()


def test_no_command_takes_a_passphrase_as_an_argument():
    for command in ("new", "show", "list", "import", "export", "prove"):
        text = run("keys", command, "--help").out
        assert "--passphrase " not in text
        assert "--seed " not in text
        assert "Example: atpar keys" in text


def test_json_list_is_stable(keys):
    data = run("keys", "list", "--keys", keys, "--json").json
    assert set(data) == {"folder", "keys"}
    assert set(data["keys"][0]) == {"name", "public_key", "path", "scrypt_log2_n"}
    json.dumps(data)
