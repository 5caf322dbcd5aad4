"""Signers: signatures that the one rule accepts, and only for their kind and chain."""

import pytest

from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.keys import verify
from atpar.node.config import KeysSection
from atpar.node.keystore import LOCAL_LOG2_N, PassphraseMissing, WrongPassphrase, write_key
from atpar.node.signer import (
    LocalSigner,
    SignerUnavailable,
    open_file_signer,
    open_signer,
    open_vote_signer,
)

SEED = bytes(range(32))
CHAIN = b"c" * 32


def test_signature_holds_for_its_kind_and_chain_only():
    signer = LocalSigner(SEED)
    signature = signer.sign(SignKind.TRANSACTION, CHAIN, b"body")
    for kind in SignKind:
        message = compute_sign_bytes(kind, CHAIN, b"body")
        assert verify(signer.public_key, message, signature) == (kind is SignKind.TRANSACTION)
    other = compute_sign_bytes(SignKind.TRANSACTION, b"d" * 32, b"body")
    assert not verify(signer.public_key, other, signature)


def test_keystore_file_becomes_a_signer(tmp_path):
    path = tmp_path / "vote.key"
    write_key(path, seed=SEED, passphrase="p", log2_n=LOCAL_LOG2_N)
    assert open_signer(str(path), passphrase="p").public_key == LocalSigner(SEED).public_key
    assert open_file_signer(path, "p").public_key == LocalSigner(SEED).public_key
    with pytest.raises(WrongPassphrase):
        open_signer(str(path), passphrase="q")


def test_signers_to_come_say_so():
    for location in ("pkcs11:token=alfa", "remote:10.0.0.9:7300"):
        with pytest.raises(SignerUnavailable, match="not supported"):
            open_signer(location, passphrase="")


def test_signer_never_shows_its_seed():
    assert SEED.hex() not in repr(LocalSigner(SEED))
    assert not hasattr(LocalSigner(SEED), "__dict__")


def test_vote_key_opens_with_the_nearest_passphrase(tmp_path):
    path = tmp_path / "vote.key"
    write_key(path, seed=SEED, passphrase="p", log2_n=LOCAL_LOG2_N)
    (tmp_path / "good").write_text("p\n")
    (tmp_path / "bad").write_text("q\n")
    good = KeysSection(vote=str(path), passphrase_file=tmp_path / "good")
    bad = KeysSection(vote=str(path), passphrase_file=tmp_path / "bad")
    bare = KeysSection(vote=str(path))
    public = LocalSigner(SEED).public_key
    assert open_vote_signer(bad, passphrase="p", environment={}).public_key == public
    wrong = {"ATPAR_PASSPHRASE": "q"}
    assert open_vote_signer(good, environment=wrong).public_key == public
    assert open_vote_signer(bare, environment={"ATPAR_PASSPHRASE": "p"}).public_key == public
    with pytest.raises(WrongPassphrase):
        open_vote_signer(bare, environment=wrong)
    with pytest.raises(PassphraseMissing, match="ATPAR_PASSPHRASE"):
        open_vote_signer(bare, environment={})
    with pytest.raises(SignerUnavailable):
        open_vote_signer(KeysSection(vote="pkcs11:token=a"), environment={})
