"""`atpar node`: set up, run, check and look at one node.

A node is a folder, its home: `node.toml`, `genesis.json`, `keys/`, `data/`, `logs/`. Running it is
the business of `node/service.py`; here are the preparations, and checks that touch nothing.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from atpar.cli.context import (
    NODE_FILE,
    State,
    get_environment_passphrase,
    keys_options,
    node_home_option,
    node_options,
    output_options,
    pass_state,
)
from atpar.cli.errors import (
    ConfigurationProblem,
    KeystoreProblem,
    NotReady,
    SafetyStop,
    WrongUsage,
)
from atpar.cli.files import read_input, write_new, write_over
from atpar.cli.flamegraph import flamegraphs_option, list_targets, sampling
from atpar.cli.keyring import KeyRing, ask_passphrase
from atpar.cli.output import fields, table
from atpar.cli.recover import recover_group, rejoin
from atpar.ledger.genesis import Genesis, build_genesis, check_genesis, parse_genesis
from atpar.node.config import (
    ApiSection,
    KeysSection,
    LoadedConfig,
    NetworkSection,
    NodeConfig,
    NodeSection,
    load_config,
    render_config,
)
from atpar.node.keystore import read_key, read_passphrase

F = TypeVar("F", bound=Callable[..., Any])

VOTE_KEY_FILE: Final = "vote.key"
VALIDATORS_FILE: Final = "validators.json"
LOOPBACK: Final = ("127.", "localhost", "[::1]")

_OVERRIDES: Final = {
    "--api-listen": "api.listen",
    "--network-listen": "network.listen",
    "--node-data": "node.data",
    "--log-level": "log.level",
    "--verifier-workers": "verifier.workers",
}


@click.group(name="node")
def node_command() -> None:
    """Set up, run and inspect one node.

    A node lives in one folder, its home. Exit codes of `run`: 0 stopped as asked, 1 internal
    error, 3 configuration, 4 keys, 8 safety stop: a person must look before it is started again.
    """


node_command.add_command(recover_group)
node_command.add_command(rejoin)


def _overrides(function: F) -> F:
    for option in reversed(_OVERRIDES):
        key = _OVERRIDES[option]
        kind = click.IntRange(0, 256) if key == "verifier.workers" else str
        function = click.option(option, type=kind, help=f"Instead of {key}.")(function)
    return function


def _load(home: Path, overrides: dict[str, Any]) -> LoadedConfig:
    flags = {
        key: overrides.get(option.removeprefix("--").replace("-", "_"))
        for option, key in _OVERRIDES.items()
    }
    path = home / NODE_FILE
    if not path.is_file():
        raise ConfigurationProblem(
            f"no {NODE_FILE} in {home.resolve()}",
            advice="use --home DIR, or `atpar node init` to set a node up",
        )
    return load_config(path, flags=flags)


# ---- init


@node_command.command()
@node_home_option
@click.option("--participant", required=True, metavar="CODE", help="Who runs the node.")
@click.option(
    "--genesis", "genesis_path", required=True, type=click.Path(path_type=Path, dir_okay=False),
    help="The sealed genesis document.",
)  # fmt: skip
@click.option("--vote-key", default="vote", show_default=True, help="Name in the folder of keys.")
@click.option(
    "--joins", is_flag=True,
    help="The chain's genesis does not name it: it votes from a later epoch on.",
)  # fmt: skip
@click.option(
    "--validators", type=click.Path(path_type=Path, dir_okay=False),
    help="A proof of the validators in force, from /v1/validators?proof=1: whom to connect with.",
)  # fmt: skip
@click.option("--network-listen", help="host:port for validators (default: as registered).")
@click.option("--api-listen", help="host:port of the API (default: 127.0.0.1:7101).")
@output_options
@keys_options
@pass_state
def init(
    state: State,
    *,
    home: Path,
    participant: str,
    genesis_path: Path,
    vote_key: str,
    joins: bool,
    validators: Path | None,
    network_listen: str | None,
    api_listen: str | None,
) -> None:
    """Set up a node's home from a sealed genesis document and the folder of keys.

    Takes the encrypted vote key, and issues a TLS leaf certificate from tls-root.pem and
    tls-root.key in the folder of keys; the root's key can go offline afterwards. Opens the vote
    journal: without it a validator does not vote. Never replaces anything: once it has succeeded it
    refuses. Only a chain.db that is not there any more is begun anew, beside the journal that is
    kept: the node then fetches the chain from the others.

    Example: atpar node init --home alfa --participant ALFA --genesis genesis.json --keys keys
    """
    if (home / NODE_FILE).exists():
        _begin_store_anew(state, home, participant, read_input(genesis_path))
        return
    document_bytes = read_input(genesis_path)
    genesis = _build_genesis(document_bytes)
    announced = None if validators is None else _check_announced(validators, genesis)
    source = KeyRing(state)
    if joins:
        seat = _make_seat(source, participant, source.find(vote_key).public_key)
    else:
        seat = _find_seat(genesis, participant)
    bootstrap = None if announced is None else Path(VALIDATORS_FILE)
    node = NodeSection(participant=participant, joins=joins, bootstrap=bootstrap)
    config = _make_config(state, node, seat["address"], network_listen, api_listen)
    key_bytes, public_key = b"", None
    if seat["vote_key"] is not None:
        key = source.find(vote_key)
        public_key = key.public_key
        if public_key != seat["vote_key"]:
            raise KeystoreProblem(
                f"key {vote_key} is {public_key.hex()}, the genesis document registers"
                f" {seat['vote_key'].hex()} for {participant}",
                advice="use --vote-key NAME or --keys DIR; --joins, if a later epoch registers it",
            )
        key_bytes = read_input(key.stored.path)
    _make_folders(home)
    if key_bytes:
        _write_once(home / "keys" / VOTE_KEY_FILE, key_bytes, mode=0o600)
    _issue_leaf(source.folder, home / "keys", participant, seat["root_certificate"])
    _write_once(home / "genesis.json", document_bytes, mode=0o644)
    if announced is not None:
        write_over(home / VALIDATORS_FILE, announced)
    _make_data(home / "data", genesis, participant, public_key)
    write_new(home / NODE_FILE, render_config(config).encode())
    _show_home(
        state,
        home,
        config,
        genesis,
        validator=public_key is not None,
        lines=[
            f"{home}: node of {participant} on chain {genesis.document.name}",
            f"next: atpar node check --home {home}, then atpar node run --home {home}",
        ],
    )


def _show_home(
    state: State,
    home: Path,
    config: NodeConfig,
    genesis: Genesis,
    *,
    validator: bool,
    lines: list[str],
) -> None:
    values = {
        "home": str(home),
        "participant": config.node.participant,
        "chain_id": genesis.chain_id.hex(),
        "validator": validator,
        "config": str(home / NODE_FILE),
    }
    state.output.show(values, lines)


def _check_announced(path: Path, genesis: Genesis) -> bytes:
    """Return the proof of a file, or of an API's answer, that shows the validators in force.

    Raises:
        ProofInvalid: it does not.
    """
    from atpar.cli.verify import decode_proof, find_proof_within
    from atpar.ledger.limits import MAX_PROOF_BYTES
    from atpar.ledger.proofs import render_proof
    from atpar.node.bootstrap import verify_announced

    data = read_input(path, max_bytes=2 * MAX_PROOF_BYTES)
    file = decode_proof(find_proof_within(data) or data)
    verify_announced(file, genesis.document)
    return render_proof(file)


def _begin_store_anew(state: State, home: Path, participant: str, document: bytes) -> None:
    """Make the missing `chain.db` of a node; its votes.journal stays, and binds it.

    Raises:
        ConfigurationProblem: nothing is missing, or the node is another's or of another chain.
        SafetyStop: the journal is gone too.
    """
    from atpar.node.datadir import JOURNAL_NAME, STORE_NAME, create_data

    config = _load(home, {}).config
    genesis = _build_genesis(read_input(config.node.genesis))
    is_same = config.node.participant == participant
    if not is_same or genesis.chain_id != _build_genesis(document).chain_id:
        raise ConfigurationProblem(
            f"{home} is a node already, of {config.node.participant} on chain"
            f" {genesis.document.name}",
            advice="use another --home",
        )
    data, vote_key = config.node.data, _find_first_key(config, genesis)
    if (data / STORE_NAME).exists():
        raise ConfigurationProblem(
            f"{home} is a node already", advice="`atpar node check` shows its configuration"
        )
    if vote_key is not None and not (data / JOURNAL_NAME).exists():
        raise SafetyStop(
            f"{data}: {STORE_NAME} and {JOURNAL_NAME} are gone. If this validator has voted, a new"
            " journal could let it vote twice",
            advice="put the folder back where it was, not an old copy; or begin anew without a vote"
            " until the next epoch: `atpar node rejoin`",
        )
    create_data(data, genesis, participant=participant, vote_key=vote_key)
    _show_home(
        state,
        home,
        config,
        genesis,
        validator=vote_key is not None,
        lines=[
            f"{data / STORE_NAME} begun anew, {JOURNAL_NAME} kept",
            f"next: atpar node run --home {home}; it fetches the chain from the others",
        ],
    )


def _find_first_key(config: NodeConfig, genesis: Genesis) -> bytes | None:
    """Return the vote key that a store at genesis goes with: genesis's own, or a newcomer's.

    None of an observer. Later keys follow as the node fetches the chain; until then it is expected
    to hold another, which `node.joins` says.

    Raises:
        ConfigurationProblem: `node.joins` is needed and not set.
    """
    from atpar.node.errors import StartRefused
    from atpar.node.seats import check_vote_keys, find_seat

    try:
        seat = find_seat(genesis, None, config)
        if not seat.votes:
            return None
        held = read_key(Path(config.keys.vote)).public_key if ":" not in config.keys.vote else None
        if held is not None:
            check_vote_keys(seat, [held], config)
    except StartRefused as error:
        raise ConfigurationProblem(
            str(error),
            advice="where a later epoch registers it, set node.joins = true until it is there",
        ) from error
    return seat.vote_key or held


def _build_genesis(data: bytes) -> Genesis:
    document = parse_genesis(data)
    check_genesis(document, sealed=True)
    return build_genesis(document)


def _find_seat(genesis: Genesis, participant: str) -> dict[str, Any]:
    for validator in genesis.document.validators:
        if validator.participant == participant:
            return {
                "vote_key": validator.vote_key,
                "address": validator.address,
                "root_certificate": validator.root_certificate,
            }
    for observer in genesis.document.observers:
        if observer.participant == participant:
            return {
                "vote_key": None,
                "address": None,
                "root_certificate": observer.root_certificate,
            }
    names = [v.participant for v in genesis.document.validators]
    names += [o.participant for o in genesis.document.observers]
    raise ConfigurationProblem(
        f"{participant} is neither validator nor observer of this chain",
        advice=f"the genesis document names {', '.join(names)}",
    )


def _make_seat(source: KeyRing, participant: str, vote_key: bytes) -> dict[str, Any]:
    """Return the seat that a participant is to have, from its own folder of keys."""
    from atpar.node.identity import ROOT_CERTIFICATE, create_identity

    path = source.folder / ROOT_CERTIFICATE
    root = path.read_text("ascii") if path.exists() else create_identity(source.folder, participant)
    return {"vote_key": vote_key, "address": None, "root_certificate": root}


def _make_config(
    state: State,
    node: NodeSection,
    address: str | None,
    network_listen: str | None,
    api_listen: str | None,
) -> NodeConfig:
    if network_listen is None and address is not None:
        # The registered name may be one that only others resolve: listen on every interface,
        # unless the whole chain lives on this machine.
        port = address.rpartition(":")[2]
        network_listen = address if address.startswith(LOOPBACK) else f"0.0.0.0:{port}"
    passphrase_file = state.get_passphrase_path()
    config = NodeConfig(
        node=node,
        keys=KeysSection(
            passphrase_file=None if passphrase_file is None else passphrase_file.resolve()
        ),
        network=NetworkSection(listen=network_listen or NetworkSection().listen),
        api=ApiSection(listen=api_listen or ApiSection().listen),
    )
    try:
        msgspec.convert(msgspec.to_builtins(config.network), NetworkSection)
        msgspec.convert(msgspec.to_builtins(config.api), ApiSection)
    except msgspec.ValidationError as error:
        raise WrongUsage(f"listen address: {error}", advice="write host:port") from error
    return config


def _make_folders(home: Path) -> None:
    try:
        for folder in (home, home / "keys", home / "logs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationProblem(
            f"{home}: {error.strerror}", advice="use --home DIR in a folder you can write to"
        ) from error


def _make_data(folder: Path, genesis: Genesis, participant: str, vote_key: bytes | None) -> None:
    """Make store and journal, or accept the whole ones that an earlier try made.

    A store without a journal may be one whose journal was lost: that is refused, never mended.
    """
    from atpar.cli.nodecheck import check_data
    from atpar.node.datadir import JOURNAL_NAME, STORE_NAME, create_data

    wanted = [folder / STORE_NAME] + ([] if vote_key is None else [folder / JOURNAL_NAME])
    if all(path.exists() for path in wanted):
        list(check_data(folder, genesis, participant, vote_key))
    else:
        create_data(folder, genesis, participant=participant, vote_key=vote_key)


def _write_once(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file, or leave the same one that an earlier try wrote."""
    if path.exists() and read_input(path) == data:
        return
    write_new(path, data, mode=mode)


def _issue_leaf(source: Path, target: Path, participant: str, registered: str) -> None:
    from atpar.node.errors import IdentityInvalid
    from atpar.node.identity import (
        LEAF_CERTIFICATE,
        LEAF_KEY,
        ROOT_CERTIFICATE,
        ROOT_KEY,
        Credential,
        Roots,
        check_own_leaf,
        issue_leaf,
        write_credential,
    )

    roots = Roots([(participant, registered.encode())])
    if not (target / LEAF_CERTIFICATE).exists():
        ready = source / LEAF_CERTIFICATE
        if ready.exists() and ready.parent != target:
            for name in (LEAF_CERTIFICATE, LEAF_KEY):
                shutil.copy2(source / name, target / name)
        else:
            root = Credential(
                read_input(source / ROOT_CERTIFICATE, max_bytes=8_192),
                read_input(source / ROOT_KEY, max_bytes=8_192),
            )
            leaf = issue_leaf(root, participant)
            write_credential(target / LEAF_CERTIFICATE, target / LEAF_KEY, leaf)
    try:
        check_own_leaf(roots, participant, target / LEAF_CERTIFICATE)
    except IdentityInvalid as error:
        (target / LEAF_CERTIFICATE).unlink()
        (target / LEAF_KEY).unlink(missing_ok=True)
        raise ConfigurationProblem(
            str(error), advice=f"put the registered root's files into {source} and repeat"
        ) from error


# ---- run


@node_command.command()
@node_home_option
@_overrides
@output_options
@click.option(
    "--passphrase-file", "passphrase_file", envvar="ATPAR_PASSPHRASE_FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of keys.passphrase_file; ATPAR_PASSPHRASE and a prompt work too.",
)  # fmt: skip
@flamegraphs_option
@pass_state
def run(
    state: State,
    /,
    *,
    home: Path,
    passphrase_file: Path | None,
    flamegraphs: Path | None,
    **overrides: Any,
) -> None:
    """Run the node in the foreground until SIGTERM or SIGINT.

    Example: atpar node run --home alfa
    """
    loaded = _load(home, overrides)
    config = loaded.config
    import trio

    from atpar.node.service import run_node

    passphrase = _find_passphrase(state, config.keys, passphrase_file)
    with sampling(*list_targets(flamegraphs, config.node.participant)):
        trio.run(partial(run_node, config, passphrase=passphrase))


def _find_passphrase(state: State, keys: KeysSection, given: Path | None) -> str | None:
    """Return the vote key's passphrase if a flag names it or a person is there to ask.

    None leaves it to the node: keys.passphrase_file, then ATPAR_PASSPHRASE.
    """
    if given is not None:
        return read_passphrase(given)
    is_elsewhere = keys.passphrase_file is not None or get_environment_passphrase() is not None
    if is_elsewhere or not Path(keys.vote).is_file() or not state.output.is_interactive():
        return None
    return ask_passphrase(state, f"Passphrase of {keys.vote}")


# ---- check


@node_command.command()
@node_home_option
@_overrides
@output_options
@pass_state
def check(state: State, /, *, home: Path, **overrides: Any) -> None:
    """Show the effective configuration with the origin of each value, and check what it names.

    Changes nothing and needs no passphrase. The node may be running; but then its store cannot be
    read, and keys and certificates are compared with the genesis document.

    Example: atpar node check --home alfa
    """
    from atpar.cli.nodecheck import check_home

    loaded = _load(home, overrides)
    settings = [
        {"key": key, "value": _plain(value), "origin": origin}
        for key, value, origin in loaded.describe()
    ]
    rows = [(s["key"], _shown(s["value"]), s["origin"]) for s in settings]
    if not state.output.as_json:
        state.output.show({}, [*table(("key", "value", "from"), rows), ""])
    checks = []
    genesis = _build_genesis(read_input(loaded.config.node.genesis))
    for name, detail in check_home(loaded, genesis):
        checks.append({"check": name, "detail": detail})
        state.output.done(f"{name}: {detail}")
    state.output.show(
        {"home": str(loaded.home), "valid": True, "settings": settings, "checks": checks}, "valid"
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _shown(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or None
    return value


# ---- status


@node_command.command()
@output_options
@node_options
@pass_state
def status(state: State) -> None:
    """Show a node's state, height, view and peers. Exit code 0 only when it is ready.

    Example: atpar node status --home alfa
    """
    from atpar.cli.fetch import fetch

    data = fetch(state, "/v1/status")
    rows = [(key.replace("_", " "), _shown_status(value)) for key, value in data.items()]
    state.output.show(data, fields(rows))
    name = data.get("state")
    detail = str(data.get("detail", ""))
    if name == "halted":
        raise SafetyStop(f"halted: {detail}", advice="a person must look before it is restarted")
    if name != "ready":
        raise NotReady(f"{name}: {detail}", advice="`atpar node status` again in a while")


def _shown_status(value: object) -> object:
    if isinstance(value, list):
        return (
            f"{len(value)}" if value and isinstance(value[0], dict) else ", ".join(map(str, value))
        )
    return value
