"""Signers: whoever holds a private key and signs with it, near or far.

The rest of the program never sees a seed. A signer is told the *kind* of what it signs, so that a
token or a remote signer can refuse kinds it is not meant for, and a remote one can keep its own
record of votes. Only the local keystore exists so far; the other two have their place in
`open_signer`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, Protocol

from msgspec.structs import replace
from nacl.signing import SigningKey

from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.node.config import KeysSection
from atpar.node.errors import NodeError
from atpar.node.keystore import PassphraseMissing, open_key, read_passphrase

PASSPHRASE_VARIABLE: Final = "ATPAR_PASSPHRASE"  # noqa: S105 - a name, not a secret
PKCS11_SCHEME: Final = "pkcs11:"
REMOTE_SCHEME: Final = "remote:"


class SignerUnavailable(NodeError):
    """The signer cannot be used: not supported here, not connected, or it refused."""

    exit_code: ClassVar[int] = 4


class Signer(Protocol):
    """One private key, used through its signatures alone."""

    @property
    def public_key(self) -> bytes:
        """The 32-byte Ed25519 public key."""

    def sign(self, kind: SignKind, chain_id: bytes, body: bytes) -> bytes:
        """Return the 64-byte signature over kind, chain and body.

        Raises:
            SignerUnavailable: the key's holder did not answer, or refused.
        """


class LocalSigner:
    """A signer whose seed is in this process."""

    __slots__ = ("_key", "public_key")

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.public_key = bytes(self._key.verify_key)

    def __repr__(self) -> str:
        return f"LocalSigner({self.public_key.hex()})"

    def sign(self, kind: SignKind, chain_id: bytes, body: bytes) -> bytes:
        """Return the 64-byte signature over kind, chain and body."""
        return self._key.sign(compute_sign_bytes(kind, chain_id, body)).signature


def open_signer(location: str, *, passphrase: str) -> Signer:
    """Return the signer at a location: the path of a keystore file.

    Raises:
        SignerUnavailable: the location is a kind of signer that this version does not have.
        KeystoreError: the keystore file does not open.
    """
    for scheme, name in ((PKCS11_SCHEME, "PKCS#11 tokens"), (REMOTE_SCHEME, "remote signers")):
        if location.startswith(scheme):
            raise SignerUnavailable(f"{location}: {name} are not supported by this version")
    return LocalSigner(open_key(Path(location), passphrase))


def open_vote_signer(
    keys: KeysSection,
    *,
    passphrase: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Signer:
    """Return the signer of a node's vote key.

    The passphrase is the one given, else that of `keys.passphrase_file`, else of ATPAR_PASSPHRASE.

    Raises:
        SignerUnavailable: as `open_signer`.
        KeystoreError: the keystore file does not open, or there is no passphrase.
    """
    if passphrase is None and keys.passphrase_file is not None:
        passphrase = read_passphrase(keys.passphrase_file)
    if passphrase is None:
        passphrase = (os.environ if environment is None else environment).get(PASSPHRASE_VARIABLE)
    if passphrase is None and ":" not in keys.vote:
        raise PassphraseMissing(
            Path(keys.vote), f"no passphrase: set keys.passphrase_file or {PASSPHRASE_VARIABLE}"
        )
    return open_signer(keys.vote, passphrase=passphrase or "")


def open_vote_signers(keys: KeysSection, *, passphrase: str | None = None) -> list[Signer]:
    """Return the signers of `keys.vote` and, where there is one, `keys.next_vote`.

    Raises:
        SignerUnavailable, KeystoreError: as `open_vote_signer`.
    """
    signers = [open_vote_signer(keys, passphrase=passphrase)]
    if keys.next_vote is not None:
        following = replace(keys, vote=keys.next_vote, next_vote=None)
        signers.append(open_vote_signer(following, passphrase=passphrase))
    return signers


def open_file_signer(path: Path, passphrase: str) -> LocalSigner:
    """Return the signer of one keystore file.

    Raises:
        KeystoreError: the file does not open.
    """
    return LocalSigner(open_key(path, passphrase))
