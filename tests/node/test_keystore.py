"""Keystore files: what opens them, and that damage, alteration and wrong passphrases differ."""

import hashlib
import json
import re
import stat

import pytest

from atpar.node import keystore
from atpar.node.keystore import (
    LOCAL_LOG2_N,
    MAX_KEYSTORE_BYTES,
    MAX_PASSPHRASE_BYTES,
    KeyDamaged,
    KeyExists,
    KeyExposed,
    KeyMissing,
    KeystoreError,
    WrongPassphrase,
    compute_public_key,
    create_seed,
    list_keys,
    open_key,
    read_key,
    write_key,
)
from tests.altering import flip

SEED = bytes(range(32))
# RFC 8032 style check: the public key of the seed 00 01 … 1f, computed with two libraries.
PUBLIC = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "alfa.key"
    write_key(path, seed=SEED, passphrase="geheim", log2_n=LOCAL_LOG2_N)
    return path


def edit(path, **changes):
    fields = json.loads(path.read_text())
    fields.update(changes)
    path.write_text(json.dumps(fields))


def edit_with_checksum(path, **changes):
    """Change fields as someone would who repairs the checksum too."""
    fields = json.loads(path.read_text())
    fields.update(changes)
    fields["checksum"] = keystore._compute_checksum(fields)
    path.write_text(json.dumps(fields))


def test_seed_comes_back_with_the_passphrase(path):
    assert open_key(path, "geheim") == SEED
    stored = read_key(path)
    assert stored.public_key.hex() == PUBLIC
    assert (stored.name, stored.log2_n, stored.path) == ("alfa", LOCAL_LOG2_N, path)


def test_file_is_private_and_holds_no_seed(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SEED.hex() not in path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["alfa.key"]


def test_same_key_twice_gives_different_files(tmp_path, path):
    other = tmp_path / "other.key"
    write_key(other, seed=SEED, passphrase="geheim", log2_n=LOCAL_LOG2_N)
    first, second = json.loads(path.read_text()), json.loads(other.read_text())
    for field in ("salt", "nonce", "sealed_seed", "passphrase_check"):
        assert first[field] != second[field]


def test_wrong_passphrase_is_told_apart_from_damage(path):
    with pytest.raises(WrongPassphrase, match="does not open it"):
        open_key(path, "falsch")


def test_every_damaged_field_is_damage_even_with_the_wrong_passphrase(path):
    whole = json.loads(path.read_text())
    for field, value in whole.items():
        if isinstance(value, str) and re.fullmatch("[0-9a-f]+", value):
            edit(path, **{field: flip(bytes.fromhex(value)).hex()})
            for passphrase in ("geheim", "falsch"):
                with pytest.raises(KeyDamaged):
                    open_key(path, passphrase)
            path.write_text(json.dumps(whole))
    assert open_key(path, "geheim") == SEED


def test_every_cut_of_the_file_is_damage(path):
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(KeyDamaged):
            read_key(path)


def test_alteration_with_a_repaired_checksum_does_not_open(path):
    edit_with_checksum(path, public_key="aa" * 32)
    with pytest.raises(KeyDamaged, match="altered"):
        open_key(path, "geheim")


def test_renaming_the_key_inside_is_an_alteration(path):
    edit_with_checksum(path, name="brvo")
    with pytest.raises(KeyDamaged, match="altered"):
        open_key(path, "geheim")


def test_hostile_work_factor_is_refused_before_any_work(path):
    edit_with_checksum(path, log2_n=40)
    with pytest.raises(KeyDamaged, match="log2_n"):
        open_key(path, "geheim")


def test_other_format_and_unknown_fields_are_refused(path):
    edit_with_checksum(path, format="atpar-key/2")
    with pytest.raises(KeyDamaged, match="atpar-key/2"):
        read_key(path)
    edit(path, format="atpar-key/1", extra=1)
    with pytest.raises(KeyDamaged, match="extra"):
        read_key(path)


def test_file_that_others_can_read_is_refused(path):
    path.chmod(0o640)
    with pytest.raises(KeyExposed, match=r"0640.*chmod 600"):
        open_key(path, "geheim")


def test_existing_key_is_never_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(KeyExists):
        write_key(path, seed=create_seed(), passphrase="x", log2_n=LOCAL_LOG2_N)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(KeyMissing):
        read_key(tmp_path / "none.key")
    with pytest.raises(KeyMissing):
        list_keys(tmp_path / "none")
    with pytest.raises(KeystoreError, match="cannot be written"):
        write_key(tmp_path / "no" / "a.key", seed=SEED, passphrase="x", log2_n=LOCAL_LOG2_N)


def test_file_at_the_size_limit_and_past_it(path):
    data = path.read_bytes()
    path.write_bytes(data + b" " * (MAX_KEYSTORE_BYTES - len(data)))
    assert open_key(path, "geheim") == SEED
    path.write_bytes(data + b" " * (MAX_KEYSTORE_BYTES + 1 - len(data)))
    with pytest.raises(KeyDamaged, match="longer"):
        read_key(path)


def test_passphrase_at_its_limits_and_past_them(tmp_path):
    longest = "x" * MAX_PASSPHRASE_BYTES
    path = tmp_path / "long.key"
    write_key(path, seed=SEED, passphrase=longest, log2_n=LOCAL_LOG2_N)
    assert open_key(path, longest) == SEED
    for bad in ("", longest + "x"):
        with pytest.raises(WrongPassphrase):
            write_key(tmp_path / "bad.key", seed=SEED, passphrase=bad, log2_n=LOCAL_LOG2_N)
        with pytest.raises(WrongPassphrase):
            open_key(path, bad)


def test_passphrase_may_be_any_text(tmp_path):
    path = tmp_path / "u.key"
    write_key(path, seed=SEED, passphrase="銀行 ключ", log2_n=LOCAL_LOG2_N)
    assert open_key(path, "銀行 ключ") == SEED


def test_bad_name_or_cost_writes_nothing(tmp_path):
    for name, log2_n in (("a b.key", LOCAL_LOG2_N), ("a.key", 3), ("a.key", 21)):
        with pytest.raises(KeystoreError, match="cannot be written"):
            write_key(tmp_path / name, seed=SEED, passphrase="x", log2_n=log2_n)
    assert list(tmp_path.iterdir()) == []


def test_list_is_by_name_and_leaves_tls_keys_alone(tmp_path, path):
    write_key(tmp_path / "a.key", seed=create_seed(), passphrase="x", log2_n=LOCAL_LOG2_N)
    (tmp_path / "tls-leaf.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "notes.txt").write_text("x")
    assert [key.name for key in list_keys(tmp_path)] == ["a", "alfa"]


def test_listing_names_a_damaged_file(tmp_path, path):
    (tmp_path / "bad.key").write_text("{}")
    (tmp_path / "bad.key").chmod(0o600)
    with pytest.raises(KeyDamaged, match=r"bad\.key"):
        list_keys(tmp_path)


def test_files_written_by_the_first_version_stay_readable(tmp_path):
    """The format on disk is an interface: this text was written by version 1."""
    fields = {
        "format": "atpar-key/1", "name": "golden",
        "public_key": PUBLIC, "kdf": "scrypt", "log2_n": 4, "block_size": 8, "parallelism": 1,
        "salt": "11" * 32, "cipher": "aes-256-gcm", "nonce": "22" * 12,
    }  # fmt: skip
    derived = hashlib.scrypt(b"geheim", salt=b"\x11" * 32, n=16, r=8, p=1, dklen=64)
    check = hashlib.sha256(b"atpar/keystore-check/v1\0" + derived[32:]).hexdigest()
    assert keystore._derive("geheim", b"\x11" * 32, 4) == (derived[:32], bytes.fromhex(check))
    header = json.dumps(
        {**fields, "passphrase_check": check}, sort_keys=True, separators=(",", ":")
    )
    sealed = keystore.AESGCM(derived[:32]).encrypt(b"\x22" * 12, SEED, header.encode())
    fields |= {"passphrase_check": check, "sealed_seed": sealed.hex()}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path = tmp_path / "golden.key"
    path.write_text(json.dumps(fields))
    path.chmod(0o600)
    assert open_key(path, "geheim") == SEED


def test_seeds_are_fresh():
    assert create_seed() != create_seed()
    assert compute_public_key(SEED).hex() == PUBLIC
