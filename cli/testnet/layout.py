"""Writes a testnet's folder: keys, certificates, genesis document, and a home for every node."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atpar.cli.errors import WrongUsage
from atpar.cli.testnet.ports import HOST, list_ports
from atpar.cli.testnet.recipe import (
    BANKS,
    MAX_BANKS,
    MIN_BANKS,
    VOTE_KEY,
    Place,
    World,
    build_world,
)
from atpar.cli.testnet.record import (
    FORMAT,
    PASSPHRASE,
    PASSPHRASE_FILE,
    RECORD,
    TestnetRecord,
    ValidatorRecord,
    get_key_path,
    save_record,
)
from atpar.ledger.genesis import Genesis, build_genesis, render_genesis
from atpar.node.config import (
    ApiSection,
    KeysSection,
    LogSection,
    NetworkSection,
    NodeConfig,
    NodeSection,
    VerifierSection,
    render_config,
)
from atpar.node.datadir import create_data
from atpar.node.identity import create_identity
from atpar.node.keystore import LOCAL_LOG2_N, create_seed, write_key

GENESIS_FILE: Final = "genesis.json"


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one validator listens, and where others find it."""

    api_listen: str
    network_listen: str
    api: str
    """URL of its API."""
    network: str
    """host:port for the other validators."""


def list_local_seats(port_base: int, count: int) -> list[Seat]:
    """Return the seats of validators on this machine: neighbouring ports of the loopback."""
    seats = []
    for api_port, network_port in list_ports(port_base, count):
        api, network = f"{HOST}:{api_port}", f"{HOST}:{network_port}"
        seats.append(Seat(api, network, f"http://{api}", network))
    return seats


def list_container_seats(count: int) -> list[Seat]:
    """Return the seats of validators in containers named v1, v2, …"""
    everywhere = "0.0.0.0"  # noqa: S104 - inside a container; what is published is decided outside
    return [
        Seat(f"{everywhere}:7101", f"{everywhere}:7201", f"http://v{n}:7101", f"v{n}:7201")
        for n in range(1, count + 1)
    ]


_NOT_IN_THE_WAY: Final = frozenset({".lock", "lost+found"})


def create_testnet(
    folder: Path, seats: Sequence[Seat], *, port_base: int, load_accounts: int = 0, workers: int = 0
) -> tuple[TestnetRecord, World]:
    """Write everything a testnet needs into a folder, which may hold nothing else.

    `workers` is the number of verification processes of each node: nodes that share a few cores
    check signatures best in line.

    Raises:
        WrongUsage: an impossible number of validators, or the folder is in use.
    """
    if not MIN_BANKS <= len(seats) <= MAX_BANKS:
        raise WrongUsage(
            f"{len(seats)} validators; {MIN_BANKS} to {MAX_BANKS} are possible",
            advice=f"use --validators {MIN_BANKS}",
        )
    _check_folder(folder)
    places = []
    for index, seat in enumerate(seats):
        home = folder / f"v{index + 1}"
        (home / "keys").mkdir(parents=True)
        root = create_identity(home / "keys", BANKS[index])
        places.append(Place(seat.network, root))
    world = build_world(
        places,
        name=f"local-{secrets.token_hex(2)}",
        timestamp_ms=time.time_ns() // 1_000_000,
        draw_seed=create_seed,
        load_accounts=load_accounts,
    )
    document = render_genesis(world.document)
    (folder / GENESIS_FILE).write_bytes(document)
    genesis = build_genesis(world.document)
    for index, code in enumerate(world.validators):
        home = folder / f"v{index + 1}"
        (home / GENESIS_FILE).write_bytes(document)
        _write_node(home, world, genesis, code=code, seat=seats[index], workers=workers)
    record = TestnetRecord(
        format=FORMAT,
        name=world.document.name,
        chain=world.chain_id.hex(),
        port_base=port_base,
        load_accounts=load_accounts,
        validators=tuple(
            ValidatorRecord(
                name=f"v{index + 1}",
                participant=code,
                api=seats[index].api,
                network=seats[index].network,
                process=None,
            )
            for index, code in enumerate(world.validators)
        ),
        attester=None,
    )
    _write_client_side(folder, world, record)
    save_record(folder, record)
    return record, world


def _check_folder(folder: Path) -> None:
    if (folder / RECORD).exists() or (folder / GENESIS_FILE).exists():
        raise WrongUsage(
            f"{folder} holds a testnet already",
            advice=f"choose another folder with --dir, or remove {folder}",
        )
    others = sorted(path.name for path in folder.iterdir() if path.name not in _NOT_IN_THE_WAY)
    if others:
        raise WrongUsage(
            f"{folder} is not empty: it holds {others[0]}", advice="choose a new folder with --dir"
        )


def _write_node(
    home: Path, world: World, genesis: Genesis, *, code: str, seat: Seat, workers: int
) -> None:
    """Write one node's home as `atpar node init` leaves it."""
    vote = world.rings[code].get_signer(VOTE_KEY)
    seed = world.rings[code].seeds[VOTE_KEY]
    write_key(home / "keys" / "vote.key", seed=seed, passphrase=PASSPHRASE, log2_n=LOCAL_LOG2_N)
    _write_private(home / PASSPHRASE_FILE, PASSPHRASE)
    config = NodeConfig(
        node=NodeSection(participant=code),
        keys=KeysSection(passphrase_file=Path(PASSPHRASE_FILE)),
        network=NetworkSection(listen=seat.network_listen),
        api=ApiSection(listen=seat.api_listen),
        verifier=VerifierSection(workers=workers),
        log=LogSection(file=Path("logs/node.log")),
    )
    (home / "node.toml").write_text(render_config(config))
    (home / "logs").mkdir()
    create_data(home / "data", genesis, participant=code, vote_key=vote.public_key)


def _write_client_side(folder: Path, world: World, record: TestnetRecord) -> None:
    """Write what makes the folder a home for the commands that a person types."""
    _write_private(folder / PASSPHRASE_FILE, PASSPHRASE)
    for code, ring in world.rings.items():
        (folder / "keys" / code).mkdir(parents=True)
        for name, seed in ring.seeds.items():
            if name != VOTE_KEY:
                path = get_key_path(folder, code, name)
                write_key(path, seed=seed, passphrase=PASSPHRASE, log2_n=LOCAL_LOG2_N)
    (folder / "receipts").mkdir()
    nodes = ", ".join(f'"{each.api}"' for each in record.validators)
    (folder / "client.toml").write_text(
        f"# Makes this folder a home: atpar --home {folder.name} account list\n"
        f"nodes = [{nodes}]\n"
        f'genesis = "{GENESIS_FILE}"\n'
        'keys = "keys"\n'
        f'passphrase_file = "{PASSPHRASE_FILE}"\n'
        'receipts = "receipts"\n'
    )


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text + "\n")
