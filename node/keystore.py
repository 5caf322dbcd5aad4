"""Keystore files: one Ed25519 seed each, encrypted under a passphrase.

The seed is sealed with AES-256-GCM under a key that scrypt derives from the passphrase, in a JSON
file of mode 0600. The public key and a name stay readable, so that keys can be listed without a
passphrase. Three things are told apart when a file does not open: the file is damaged (a plain
checksum over it fails), the passphrase is wrong (a check value derived by scrypt differs), or the
file was altered by someone (checksum and passphrase hold, the seal does not).

Source: RFC 7914 (scrypt), NIST SP 800-38D (GCM).
"""

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta
from nacl.signing import SigningKey

from atpar.node.errors import NodeError

FORMAT: Final = "atpar-key/1"
STANDARD_LOG2_N: Final = 17
"""128 MiB and about half a second for each try at a passphrase."""
LOCAL_LOG2_N: Final = 4
"""No protection to speak of: for tests and local testnets, whose passphrase is no secret."""
MIN_LOG2_N: Final = 4
MAX_LOG2_N: Final = 20
MAX_KEYSTORE_BYTES: Final = 16 * 1024
MAX_PASSPHRASE_BYTES: Final = 1_024
SEED_BYTES: Final = 32
SUFFIX: Final = ".key"

_BLOCK_SIZE: Final = 8
_PARALLELISM: Final = 1
_CHECK_TAG: Final = b"atpar/keystore-check/v1\0"

assert MIN_LOG2_N <= LOCAL_LOG2_N < STANDARD_LOG2_N <= MAX_LOG2_N


class KeystoreError(NodeError):
    """Root of what a keystore raises on purpose. `path` is the file."""

    exit_code: ClassVar[int] = 4

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class KeyMissing(KeystoreError):
    """There is no such file, or it cannot be read."""


class KeyExists(KeystoreError):
    """A file of that name is already there; keys are never overwritten."""


class KeyExposed(KeystoreError):
    """Others than the owner may read the file."""


class KeyDamaged(KeystoreError):
    """The file is not a whole keystore file, or was altered."""


class WrongPassphrase(KeystoreError):
    """The file is whole; the passphrase does not open it."""


class PassphraseMissing(KeystoreError):
    """No source gives a passphrase, or the file that should hold it cannot be used."""


Hex16 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
    public_key: Hex32
    kdf: Annotated[str, Meta(pattern=r"\Ascrypt\Z")]
    log2_n: Annotated[int, Meta(ge=MIN_LOG2_N, le=MAX_LOG2_N)]
    block_size: Annotated[int, Meta(ge=_BLOCK_SIZE, le=_BLOCK_SIZE)]
    parallelism: Annotated[int, Meta(ge=_PARALLELISM, le=_PARALLELISM)]
    salt: Hex32
    passphrase_check: Hex32
    cipher: Annotated[str, Meta(pattern=r"\Aaes-256-gcm\Z")]
    nonce: Annotated[str, Meta(pattern=r"\A[0-9a-f]{24}\Z")]
    sealed_seed: Annotated[str, Meta(pattern=r"\A[0-9a-f]{96}\Z")]
    """32 bytes of seed and 16 of authentication tag."""
    checksum: Hex32
    """SHA-256 of the other fields: tells damage from a wrong passphrase, proves nothing."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a keystore file says without its passphrase."""

    path: Path
    name: str
    public_key: bytes
    log2_n: int


def create_seed() -> bytes:
    """Return 32 fresh random bytes, an Ed25519 seed."""
    return secrets.token_bytes(SEED_BYTES)


def compute_public_key(seed: bytes) -> bytes:
    """Return the 32-byte Ed25519 public key of a seed."""
    return bytes(SigningKey(seed).verify_key)


def write_key(
    path: Path, *, seed: bytes, passphrase: str, log2_n: int = STANDARD_LOG2_N
) -> StoredKey:
    """Seal a seed into a new file of mode 0600 and return what can be read from it.

    The file appears whole or not at all, and is on disk when this returns.

    Raises:
        KeyExists: a file is already there.
        KeystoreError: the folder is missing or not writable, or the passphrase is empty or long.
    """
    _check_passphrase(path, passphrase)
    if not MIN_LOG2_N <= log2_n <= MAX_LOG2_N:
        raise KeystoreError(
            path, f"cannot be written: log2_n {log2_n} is not in {MIN_LOG2_N}..{MAX_LOG2_N}"
        )
    salt, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    key, check = _derive(passphrase, salt, log2_n)
    fields = {
        "format": FORMAT,
        "name": path.name.removesuffix(SUFFIX),
        "public_key": compute_public_key(seed).hex(),
        "kdf": "scrypt",
        "log2_n": log2_n,
        "block_size": _BLOCK_SIZE,
        "parallelism": _PARALLELISM,
        "salt": salt.hex(),
        "passphrase_check": check.hex(),
        "cipher": "aes-256-gcm",
        "nonce": nonce.hex(),
    }
    sealed = AESGCM(key).encrypt(nonce, seed, _compute_header(fields))
    fields["sealed_seed"] = sealed.hex()
    fields["checksum"] = _compute_checksum(fields)
    try:
        file = msgspec.convert(fields, _File)
    except msgspec.ValidationError as error:
        raise KeystoreError(path, f"cannot be written: {error}") from error
    _write_private(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
    return _describe(path, file)


def read_key(path: Path) -> StoredKey:
    """Return what a keystore file says without its passphrase.

    Raises:
        KeyMissing: no such file, or no right to read it.
        KeyExposed: its mode lets others read it.
        KeyDamaged: it is not a whole keystore file.
    """
    return _describe(path, _read(path))


def open_key(path: Path, passphrase: str) -> bytes:
    """Return the 32-byte seed.

    Raises:
        KeyMissing, KeyExposed, KeyDamaged: as `read_key`; also when the seal does not hold.
        WrongPassphrase: the file is whole and the passphrase does not open it.
    """
    file = _read(path)
    _check_passphrase(path, passphrase)
    key, check = _derive(passphrase, bytes.fromhex(file.salt), file.log2_n)
    if not hmac.compare_digest(check.hex(), file.passphrase_check):
        raise WrongPassphrase(path, "the passphrase does not open it")
    header = _compute_header(msgspec.to_builtins(file))
    try:
        seed = AESGCM(key).decrypt(
            bytes.fromhex(file.nonce), bytes.fromhex(file.sealed_seed), header
        )
    except InvalidTag as error:
        raise KeyDamaged(path, "altered after it was written: the seal does not hold") from error
    if compute_public_key(seed).hex() != file.public_key:
        raise KeyDamaged(path, f"the seed is not that of public key {file.public_key}")
    return seed


def read_passphrase(path: Path) -> str:
    """Return the first line of a passphrase file, without its line end.

    Raises:
        PassphraseMissing: it cannot be read, or its first line is empty.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_PASSPHRASE_BYTES + 2)
        passphrase = line.rstrip(b"\r\n").decode()
    except OSError as error:
        raise PassphraseMissing(path, f"passphrase file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PassphraseMissing(path, f"passphrase file: {error}") from error
    if not passphrase:
        raise PassphraseMissing(path, "passphrase file: its first line is empty")
    return passphrase


def list_keys(folder: Path) -> list[StoredKey]:
    """Return the keystore files of a folder, by name.

    Raises:
        KeyMissing: no such folder.
        KeyExposed, KeyDamaged: of the first file that cannot be used.
    """
    if not folder.is_dir():
        raise KeyMissing(folder, "no such folder")
    return [read_key(path) for path in sorted(folder.glob(f"*{SUFFIX}")) if _is_keystore(path)]


# ---- the file


def _is_keystore(path: Path) -> bool:
    """Return whether a `.key` file claims to be ours: TLS keys (PEM) may lie beside them."""
    try:
        with path.open("rb") as file:
            return not file.read(11).startswith(b"-----BEGIN ")
    except OSError as error:
        raise KeyMissing(path, f"cannot be read: {error.strerror}") from error


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_KEYSTORE_BYTES + 1)
    except OSError as error:
        raise KeyMissing(path, f"cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise KeyExposed(path, f"mode {mode:04o} lets others read it; run: chmod 600 {path}")
    if len(data) > MAX_KEYSTORE_BYTES:
        raise KeyDamaged(path, f"longer than {MAX_KEYSTORE_BYTES} bytes")
    try:
        file_ = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise KeyDamaged(path, f"not a keystore file: {error}") from error
    if file_.format != FORMAT:
        raise KeyDamaged(path, f"format {file_.format!r:.40}, expected {FORMAT!r}")
    if _compute_checksum(msgspec.to_builtins(file_)) != file_.checksum:
        raise KeyDamaged(path, "damaged: its checksum does not match; restore it from a backup")
    return file_


def _describe(path: Path, file: _File) -> StoredKey:
    return StoredKey(path, file.name, bytes.fromhex(file.public_key), file.log2_n)


def _derive(passphrase: str, salt: bytes, log2_n: int) -> tuple[bytes, bytes]:
    """Return the sealing key and the value that tells whether a passphrase is the right one."""
    kdf = Scrypt(salt=salt, length=64, n=2**log2_n, r=_BLOCK_SIZE, p=_PARALLELISM)
    derived = kdf.derive(passphrase.encode())
    return derived[:32], hashlib.sha256(_CHECK_TAG + derived[32:]).digest()


def _compute_header(fields: dict[str, object]) -> bytes:
    """Return what the seal covers besides the seed: every field before it."""
    rest = {k: v for k, v in fields.items() if k not in ("sealed_seed", "checksum")}
    return msgspec.json.encode(rest, order="sorted")


def _compute_checksum(fields: dict[str, object]) -> str:
    rest = {k: v for k, v in fields.items() if k != "checksum"}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()


def _check_passphrase(path: Path, passphrase: str) -> None:
    length = len(passphrase.encode())
    if not 0 < length <= MAX_PASSPHRASE_BYTES:
        raise WrongPassphrase(
            path, f"a passphrase of {length} bytes; 1 to {MAX_PASSPHRASE_BYTES} are possible"
        )


def _write_private(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # A link fails where a rename would replace an existing key.
            os.link(temporary, path)
        finally:
            temporary.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise KeyExists(path, "is already there; keys are never overwritten") from error
    except OSError as error:
        raise KeystoreError(path, f"cannot be written: {error.strerror}") from error
