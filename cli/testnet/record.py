"""What a testnet is: its folder, and the record of it that every later command reads.

DIR/
  testnet.json      this record: validators, processes, ports
  client.toml       makes DIR a home for `atpar --home DIR …`
  genesis.json
  passphrase        of all keys below; a testnet's keys protect nothing
  keys/             the officers' keys: ALFA/maker.key, JDCL/minter-checker.key, …
  receipts/         what `atpar verify` checks offline
  links.json        where the process listens that can cut and slow the lines between validators
  logs/             attester.log, links.log
  v1/ v2/ …         one node's home each: node.toml, genesis.json, keys/, data/, logs/
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from atpar.cli.errors import ConfigurationProblem, WrongUsage
from atpar.cli.testnet.processes import ProcessRef

FORMAT: Final = "atpar-testnet/1"
RECORD: Final = "testnet.json"
DEFAULT_DIR: Final = Path("testnet")
PASSPHRASE: Final = "testnet"  # noqa: S105 - the keys it opens protect nothing
PASSPHRASE_FILE: Final = "passphrase"  # noqa: S105 - a file name


class ValidatorRecord(msgspec.Struct, frozen=True):
    """One validator of a testnet."""

    name: str
    """`v1`, `v2`, …: also its folder."""
    participant: str
    api: str
    """URL of its API."""
    network: str
    """host:port of its validator network."""
    process: ProcessRef | None
    """The process that was last started for it; null before the first."""


class TestnetRecord(msgspec.Struct, frozen=True):
    """A testnet as the commands know it."""

    __test__ = False

    format: str
    name: str
    """`local-7f3a`: the chain's name."""
    chain: str
    """Chain id, hex."""
    port_base: int
    load_accounts: int
    """Accounts for load at each bank."""
    validators: tuple[ValidatorRecord, ...]
    attester: ProcessRef | None
    links: ProcessRef | None = None
    """The process between the validators, through which they find each other; null: they do so
    directly."""

    def find(self, which: str) -> int:
        """Return the index of the validator called `3`, `v3` or `CHRL`.

        Raises:
            WrongUsage: there is no such validator.
        """
        for index, each in enumerate(self.validators):
            if which.lower() in (each.name, each.name[1:], each.participant.lower()):
                return index
        names = ", ".join(f"{each.name} ({each.participant})" for each in self.validators)
        raise WrongUsage(f"no validator {which!r}", advice=f"one of {names}")


def load_record(folder: Path) -> TestnetRecord:
    """Return the record of the testnet in a folder.

    Raises:
        ConfigurationProblem: there is none, or it cannot be read.
    """
    path = folder / RECORD
    try:
        record = msgspec.json.decode(path.read_bytes(), type=TestnetRecord)
    except FileNotFoundError:
        raise ConfigurationProblem(
            f"no testnet in {folder}",
            advice=f"start one: atpar testnet up --dir {folder}, or name its folder with --dir",
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationProblem(
            f"{path}: {error}", advice="remove the folder and start a new testnet"
        ) from error
    if record.format != FORMAT:
        raise ConfigurationProblem(
            f"{path}: format {record.format!r:.40}, expected {FORMAT!r}",
            advice="it was made by another version: remove the folder and start a new testnet",
        )
    return record


def save_record(folder: Path, record: TestnetRecord) -> None:
    """Write the record; it appears whole or not at all."""
    temporary = folder / f".{RECORD}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    temporary.replace(folder / RECORD)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two commands must not change one testnet at the same time.

    Raises:
        ConfigurationProblem: the folder is not there and cannot be made, or not written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigurationProblem(
            f"{folder}: {error.strerror or error}", advice="choose another --dir"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def get_key_path(folder: Path, participant: str, key: str) -> Path:
    """Return the keystore file of an officer's key."""
    return folder / "keys" / participant / f"{key}.key"


def is_valid_name(name: str) -> bool:
    """Return whether a chain may be called so."""
    return re.fullmatch(r"[a-z0-9-]{1,32}", name, re.ASCII) is not None
