"""What `atpar node check` looks at: that a home's files belong together, and to the chain as it is.

Who this node is follows from the newest state that its own store has verified, since keys, roots
and members change from epoch to epoch; from the genesis document where there is no store to read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atpar.cli.errors import KeystoreProblem
from atpar.ledger.genesis import Genesis
from atpar.node.config import LoadedConfig, NodeConfig, compute_timing
from atpar.node.datadir import JOURNAL_NAME, STORE_NAME, make_opening, open_chain
from atpar.node.errors import IdentityInvalid, JournalMissing, StoreLocked, StoreMissing
from atpar.node.identity import Roots, check_own_leaf
from atpar.node.journal import check_opening, replay
from atpar.node.keystore import read_key
from atpar.node.seats import Seat, find_seat, get_genesis_sets, make_roots, read_sets


@dataclass(frozen=True, slots=True)
class _Registered:
    """What is registered of this node."""

    seat: Seat
    roots: Roots
    since: str
    """As of when."""
    is_newest: bool
    """Whether the store was read; otherwise a later epoch may say something else."""


def check_home(loaded: LoadedConfig, genesis: Genesis) -> Iterator[tuple[str, str]]:
    """Yield (what, finding) for each thing that is in order; the first that is not raises."""
    config = loaded.config
    own, data = config.node.participant, config.node.data
    document = genesis.document
    yield "genesis", f"chain {document.name}, {len(document.validators)} validators, sealed"
    found = _find_registered(config, genesis)
    yield "participant", f"{own} {_describe_seat(found.seat)}, {found.since}"
    timing = compute_timing(config, document.params)
    finding = f"leader {timing.leader_timeout_ms} ms, advance {timing.advance_timeout_ms} ms"
    yield "timeouts", f"{finding}, skip {timing.skip_timeout_ms} ms"
    held = _read_held_keys(config) if found.seat.votes else []
    if held:
        yield "vote key", _check_vote_key(config, held, found)
    if not config.node.joins:
        yield "TLS", _check_leaf(config, found)
    expected = held[0] if held else found.seat.vote_key  # None of an observer
    known = found.seat.known_keys.union(held) if found.is_newest else None
    yield from check_data(data, genesis, own, expected, keys=known)


def _describe_seat(seat: Seat) -> str:
    if not seat.votes:
        return "is observer of this chain"
    return "is validator of this chain" if seat.vote_key else "has no vote on this chain"


def _find_registered(config: NodeConfig, genesis: Genesis) -> _Registered:
    """Return what is registered of this node, as its store has verified it.

    A node that runs keeps its store to itself.

    Raises:
        StartRefused, StoreError, DiskFault: nothing is, or the store cannot be used.
    """
    folder = config.node.data
    try:
        is_there = (folder / STORE_NAME).is_dir()
        store = open_chain(folder, chain_id=genesis.chain_id) if is_there else None
    except StoreLocked:
        store = None
    if store is None:
        roots = make_roots(genesis, get_genesis_sets(genesis))
        since = "by the genesis document"
        return _Registered(find_seat(genesis, None, config), roots, since, is_newest=False)
    try:
        sets, seat = read_sets(store), find_seat(genesis, store, config)
        since = f"in epoch {sets.current.epoch} at height {store.position.height}"
        return _Registered(seat, make_roots(genesis, sets), since, is_newest=True)
    finally:
        store.close()


def _read_held_keys(config: NodeConfig) -> list[bytes]:
    """Return the public keys of the keystore files that the configuration names."""
    names = [config.keys.vote, config.keys.next_vote]
    return [read_key(Path(name)).public_key for name in names if name and ":" not in name]


def _check_vote_key(config: NodeConfig, held: list[bytes], found: _Registered) -> str:
    registered = found.seat.vote_key
    if registered is None or registered in held:
        return (registered or held[0]).hex()
    if config.node.joins or not found.is_newest:
        return f"{held[0].hex()}, not the one registered {found.since}: a later epoch may say so"
    raise KeystoreProblem(
        f"keys.vote is {held[0].hex()}, {registered.hex()} is registered {found.since}",
        advice="put the registered vote key in place; one that takes over later is keys.next_vote",
    )


def _check_leaf(config: NodeConfig, found: _Registered) -> str:
    try:
        leaf = check_own_leaf(found.roots, config.node.participant, config.keys.tls_certificate)
    except IdentityInvalid as error:
        if found.is_newest:
            raise
        return f"{error}, {found.since}: a later epoch may say so"
    return f"leaf of the registered root, valid until {leaf.not_valid_after_utc:%Y-%m-%d}"


def check_data(
    folder: Path,
    genesis: Genesis,
    participant: str,
    vote_key: bytes | None,
    *,
    keys: frozenset[bytes] | None = frozenset(),
) -> Iterator[tuple[str, str]]:
    """Yield what is found of store and journal; without a vote key there is no journal.

    `keys`: others under which the journal may have begun; None where they are not known.

    Raises:
        StoreMissing, JournalError: they are not there, or not this validator's.
    """
    store, journal = folder / STORE_NAME, folder / JOURNAL_NAME
    if not store.is_dir():
        raise StoreMissing(f"{store}: there is no database yet")
    yield "store", str(store)
    if vote_key is None:
        return
    if not journal.is_file():
        raise JournalMissing(f"{journal}: there is no journal")
    found = replay(journal.read_bytes())
    opening = make_opening(chain_id=genesis.chain_id, participant=participant, vote_key=vote_key)
    if keys is None:
        keys = frozenset() if found.opening is None else frozenset({found.opening.vote_key})
    check_opening(found, opening, keys=keys)
    yield "journal", f"{len(found.records)} records, whole"
