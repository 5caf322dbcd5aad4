"""The keys a person has: keystore files of a folder, found by name and opened with a passphrase.

A name is the file's path below the folder without `.key`: `maker`, or `ALFA/maker` where a folder
holds the keys of several institutions. The passphrase comes from --passphrase-file, from
ATPAR_PASSPHRASE, from `client.toml`, or a prompt on a terminal, and never from the command line.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from atpar.cli.context import State, get_environment_passphrase
from atpar.cli.errors import KeystoreProblem
from atpar.node.keystore import (
    SUFFIX,
    KeystoreError,
    StoredKey,
    WrongPassphrase,
    read_key,
    read_passphrase,
)
from atpar.node.signer import LocalSigner, open_file_signer

MAX_KEY_FILES: Final = 10_000
MAX_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class NamedKey:
    """One keystore file and the name by which a person calls it."""

    name: str
    stored: StoredKey

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return self.stored.public_key


@dataclass(frozen=True, slots=True)
class BrokenKey:
    """A `.key` file that cannot be read as a keystore file, and why."""

    name: str
    path: Path
    reason: KeystoreError


class KeyRing:
    """The keys below one folder; each is opened at most once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.folder = state.get_keys_path()
        self._passphrases: list[str] = []
        self._signers: dict[Path, LocalSigner] = {}

    def scan(self) -> Iterator[NamedKey | BrokenKey]:
        """Yield every key file of the folder and of its folders, by name."""
        if not self.folder.is_dir():
            return
        found = itertools.chain(
            self.folder.glob(f"*{SUFFIX}"),
            self.folder.glob(f"*/*{SUFFIX}"),
        )
        paths = sorted(itertools.islice(found, MAX_KEY_FILES))
        for path in paths:
            if path.name.startswith("."):
                continue
            name = path.relative_to(self.folder).as_posix().removesuffix(SUFFIX)
            try:
                if not _is_pem(path):
                    yield NamedKey(name, read_key(path))
            except KeystoreError as error:
                yield BrokenKey(name, path, error)

    def list_usable(self) -> list[NamedKey]:
        """Return the readable keys by name; warn about the others."""
        usable = []
        for key in self.scan():
            if isinstance(key, NamedKey):
                usable.append(key)
            else:
                self._state.output.warn(str(key.reason))
        return usable

    def find(self, name: str) -> NamedKey:
        """Return the key with a name, at a path, or with a public key in hex.

        Raises:
            KeystoreProblem: there is none.
            KeystoreError: its file cannot be used.
        """
        for path in (self.folder / f"{name}{SUFFIX}", Path(name), Path(f"{name}{SUFFIX}")):
            if path.is_file():
                return NamedKey(name, read_key(path))
        for key in self.scan():
            if isinstance(key, NamedKey) and key.public_key.hex() == name.lower():
                return key
        raise KeystoreProblem(
            f"no key {name!r} in {self.folder}",
            advice=f"`atpar keys list --keys {self.folder}` shows what is there",
        )

    def open(self, key: NamedKey) -> LocalSigner:
        """Return the signer of a key, asking for its passphrase if none known opens it.

        Raises:
            KeystoreProblem: no passphrase is given and nobody can be asked.
            KeystoreError: the file does not open.
        """
        path = key.stored.path
        if path not in self._signers:
            self._signers[path] = self._open(key)
        return self._signers[path]

    def _open(self, key: NamedKey) -> LocalSigner:
        given = get_passphrase(self._state)
        for passphrase in [given] if given is not None else self._passphrases:
            try:
                return open_file_signer(key.stored.path, passphrase)
            except WrongPassphrase:
                if given is not None:
                    raise
        for remaining in reversed(range(MAX_TRIES)):
            passphrase = ask_passphrase(self._state, f"Passphrase of {key.name}")
            try:
                signer = open_file_signer(key.stored.path, passphrase)
            except WrongPassphrase:
                if not remaining:
                    raise
                self._state.output.warn("that is not the passphrase")
            else:
                self._passphrases.append(passphrase)
                return signer
        raise AssertionError("the last try either returned or raised")


def get_passphrase(state: State) -> str | None:
    """Return the passphrase that flag, environment or file give, or None.

    Raises:
        PassphraseMissing: the named file cannot be read or its first line is empty.
    """
    from_environment = get_environment_passphrase()
    if state.passphrase_file is None and from_environment is not None:
        return from_environment
    path = state.get_passphrase_path()
    if path is None:
        return None
    return read_passphrase(path)


def ask_passphrase(state: State, prompt: str, *, twice: bool = False) -> str:
    """Return the passphrase that a person types, unseen.

    Raises:
        KeystoreProblem: nobody is there to ask.
    """
    if not state.output.is_interactive():
        raise KeystoreProblem(
            "no passphrase, and no terminal to ask for it",
            advice="use --passphrase-file FILE, or set ATPAR_PASSPHRASE",
        )
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
    return answer


def _is_pem(path: Path) -> bool:
    """Return whether the file is a TLS key, which may lie beside ours."""
    try:
        with path.open("rb") as file:
            return file.read(11) == b"-----BEGIN "
    except OSError:
        return False
