"""`atpar keys`: make, show, list, import, export keys, and prove that one is yours."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import click

from atpar.cli.context import (
    State,
    genesis_option,
    home_option,
    keys_options,
    output_options,
    pass_state,
)
from atpar.cli.errors import KeystoreProblem, WrongUsage
from atpar.cli.files import write_new
from atpar.cli.keyring import KeyRing, NamedKey, ask_passphrase, get_passphrase
from atpar.cli.output import fields, table
from atpar.node.keystore import (
    MAX_LOG2_N,
    MIN_LOG2_N,
    SEED_BYTES,
    STANDARD_LOG2_N,
    SUFFIX,
    create_seed,
    open_key,
    write_key,
)

COST = click.option(
    "--scrypt-log2-n",
    type=click.IntRange(MIN_LOG2_N, MAX_LOG2_N),
    default=STANDARD_LOG2_N,
    show_default=True,
    help="Cost of guessing the passphrase. Lower it for test keys only.",
)


@click.group(name="keys")
def keys_command() -> None:
    """Make, show, list, import and export keys.

    A key is one Ed25519 seed in one file, encrypted under a passphrase, mode 0600. Private keys
    never leave this machine: others get the public key and a proof of possession.
    """


@keys_command.command()
@click.argument("name")
@COST
@output_options
@home_option
@keys_options
@pass_state
def new(state: State, name: str, scrypt_log2_n: int) -> None:
    """Make a key.

    Example: atpar keys new maker --keys keys
    """
    path = _prepare(state, name)
    stored = write_key(
        path, seed=create_seed(), passphrase=_choose_passphrase(state), log2_n=scrypt_log2_n
    )
    _show_key(state, NamedKey(name, stored))


@keys_command.command()
@click.argument("name")
@output_options
@home_option
@keys_options
@pass_state
def show(state: State, name: str) -> None:
    """Show a key's public part. Needs no passphrase.

    Example: atpar keys show maker
    """
    _show_key(state, KeyRing(state).find(name))


@keys_command.command(name="list")
@output_options
@home_option
@keys_options
@pass_state
def list_(state: State) -> None:
    """List the keys of a folder and of its folders. Needs no passphrase.

    Example: atpar keys list --keys keys
    """
    ring = KeyRing(state)
    if not ring.folder.is_dir():
        raise KeystoreProblem(f"no folder {ring.folder}", advice="make a key, or use --keys DIR")
    rows, items = [], []
    for key in ring.scan():
        if isinstance(key, NamedKey):
            items.append(_describe(key))
            rows.append((key.name, key.public_key.hex(), ""))
        else:
            items.append({"name": key.name, "path": str(key.path), "error": str(key.reason)})
            rows.append((key.name, "", str(key.reason)))
    lines = table(("name", "public key", "problem"), rows) if rows else "no keys"
    state.output.show({"folder": str(ring.folder), "keys": items}, lines)


@keys_command.command(name="import")
@click.argument("name")
@click.option(
    "--from",
    "source",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="A keystore file, or a file (or - for stdin) with a seed of 64 hex digits.",
)
@COST
@output_options
@home_option
@keys_options
@pass_state
def import_(state: State, name: str, source: Path, scrypt_log2_n: int) -> None:
    """Take in a key from a backup, under a passphrase of this folder.

    Example: atpar keys import maker --from /media/backup/maker.key
    """
    path = _prepare(state, name)
    seed = _read_seed(state, source)
    stored = write_key(path, seed=seed, passphrase=_choose_passphrase(state), log2_n=scrypt_log2_n)
    _show_key(state, NamedKey(name, stored))


@keys_command.command()
@click.argument("name")
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path, dir_okay=False),
    help="The new file.",
)  # fmt: skip
@click.option(
    "--new-passphrase-file", type=click.Path(path_type=Path, dir_okay=False),
    help="Passphrase of the copy; the same as the key's without this option or a terminal.",
)  # fmt: skip
@click.option("--plain-seed", is_flag=True, help="Write the bare seed in hex. Think twice.")
@COST
@output_options
@home_option
@keys_options
@pass_state
def export(
    state: State,
    *,
    name: str,
    target: Path,
    new_passphrase_file: Path | None,
    plain_seed: bool,
    scrypt_log2_n: int,
) -> None:
    """Write a copy of a key for a backup, encrypted unless told otherwise.

    Example: atpar keys export maker --to /media/backup/maker.key
    """
    ring = KeyRing(state)
    key = ring.find(name)
    passphrase = get_passphrase(state)
    if passphrase is None:
        passphrase = ask_passphrase(state, f"Passphrase of {key.name}")
    seed = open_key(key.stored.path, passphrase)
    if plain_seed:
        write_new(target, seed.hex().encode() + b"\n", mode=0o600)
        state.output.warn(f"{target} holds the bare private key: whoever reads it can sign")
    else:
        if new_passphrase_file is not None:
            other = State(output=state.output, passphrase_file=new_passphrase_file)
            passphrase = get_passphrase(other) or passphrase
        elif state.output.is_interactive():
            passphrase = ask_passphrase(state, "Passphrase of the copy", twice=True)
        write_key(target, seed=seed, passphrase=passphrase, log2_n=scrypt_log2_n)
    data = {**_describe(key), "exported_to": str(target), "encrypted": not plain_seed}
    state.output.show(data, f"{key.name} written to {target}")


@keys_command.command()
@click.argument("name")
@click.option("--participant", required=True, help="Code of the institution that registers it.")
@click.option("--for-genesis", is_flag=True, help="For a genesis document, before a chain exists.")
@output_options
@home_option
@genesis_option
@keys_options
@pass_state
def prove(state: State, *, name: str, participant: str, for_genesis: bool) -> None:
    """Print a proof of possession, which lets a participant register the key.

    Example: atpar keys prove maker --participant ALFA --json
    """
    from atpar.cli.chain import load_chain
    from atpar.ledger.codec import encode
    from atpar.ledger.hashing import SignKind
    from atpar.ledger.types import ZERO_HASH

    ring = KeyRing(state)
    key = ring.find(name)
    chain_id = ZERO_HASH if for_genesis else load_chain(state).chain_id
    body = encode((participant, key.public_key))
    signature = ring.open(key).sign(SignKind.POSSESSION, chain_id, body)
    data = {
        "participant": participant,
        "key": key.public_key.hex(),
        "signature": signature.hex(),
        "chain_id": chain_id.hex(),
    }
    state.output.show(data, fields(data.items()))


def _describe(key: NamedKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "public_key": key.public_key.hex(),
        "path": str(key.stored.path),
        "scrypt_log2_n": key.stored.log2_n,
    }


def _show_key(state: State, key: NamedKey) -> None:
    lines = [("name", key.name), ("public key", key.public_key.hex()), ("file", key.stored.path)]
    state.output.show(_describe(key), fields(lines))


def _prepare(state: State, name: str) -> Path:
    """Return the path of a new key after making its folder, readable by the owner only."""
    if name.startswith((".", "/")) or ".." in name or name.count("/") > 1 or not name.isprintable():
        raise WrongUsage(
            f"{name!r} cannot be a key's name", advice="use letters, digits, dots and dashes"
        )
    path = state.get_keys_path() / f"{name}{SUFFIX}"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeystoreProblem(
            f"{path.parent}: cannot be made: {error.strerror}", advice="use --keys DIR"
        ) from error
    return path


def _choose_passphrase(state: State) -> str:
    given = get_passphrase(state)
    return given if given is not None else ask_passphrase(state, "New passphrase", twice=True)


def _read_seed(state: State, source: Path) -> bytes:
    if str(source) == "-":
        text = sys.stdin.readline(SEED_BYTES * 2 + 2)
    else:
        try:
            with source.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                head = file.read(SEED_BYTES * 2 + 2)
        except OSError as error:
            raise KeystoreProblem(f"{source}: {error.strerror}", advice="check --from") from error
        if head.lstrip().startswith(b"{"):
            passphrase = get_passphrase(state)
            if passphrase is None:
                passphrase = ask_passphrase(state, f"Passphrase of {source}")
            return open_key(source, passphrase)
        if mode & 0o077:
            state.output.warn(f"{source} can be read by others (mode {mode:04o})")
        text = head.decode("ascii", "replace")
    try:
        seed = bytes.fromhex(text.strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise KeystoreProblem(
            f"{source}: neither a keystore file nor a seed of {SEED_BYTES * 2} hex digits",
            advice="check --from",
        )
    return seed
