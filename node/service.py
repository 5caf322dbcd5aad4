"""One node, assembled: opens what it needs, starts every part, and ends them in order.

    genesis, keys, store, journal        checked and opened first; anything wrong says what to do
      └─ verifier, network, driver, gossip, API, watch        one nursery, one task tree each

`run_node` returns when SIGTERM or SIGINT asked for it: the API stops taking requests and its waits
end with what is known, then everything else is cancelled, the last commits are written, and the
files are closed. It raises a `NodeError` when the node must not go on; its `exit_code` says what
kind of person to call.
"""

import gc
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Final

import trio

from atpar.consensus.records import JournalRecord
from atpar.consensus.types import Timing
from atpar.ledger.errors import GenesisInvalid
from atpar.ledger.genesis import Genesis, build_genesis, check_genesis, parse_genesis
from atpar.ledger.hashing import SignKind
from atpar.ledger.records import ValidatorSet
from atpar.ledger.transactions import Transaction
from atpar.node.access import OPEN_TO_ALL, load_access
from atpar.node.admission import Admission
from atpar.node.api import make_api, serve_api
from atpar.node.api_http import ApiOptions
from atpar.node.bootstrap import load_announced
from atpar.node.clock import Clock, LoopClock
from atpar.node.config import NodeConfig, compute_timing
from atpar.node.datadir import make_opening, open_chain, open_votes, read_position
from atpar.node.driver import Driver
from atpar.node.errors import (
    AddressUnavailable,
    NodeError,
    StartRefused,
    StoreMissing,
)
from atpar.node.gateway import NodeState
from atpar.node.gossip import Gossip
from atpar.node.http_server import HttpBounds
from atpar.node.identity import Roots, check_own_leaf
from atpar.node.journal import Journal
from atpar.node.ledger_code import prepare_ledger_code
from atpar.node.limits import GC_YOUNG_OBJECTS, THREAD_SWITCH_S, WATCH_INTERVAL_S
from atpar.node.local_gateway import LocalGateway
from atpar.node.logs import Position, configure_logging, get_logger
from atpar.node.mempool import Added, Mempool
from atpar.node.metrics import Metrics
from atpar.node.pacing import BlockPacer, BlockStopwatch
from atpar.node.peers import parse_address
from atpar.node.seats import (
    Sets,
    check_vote_keys,
    find_seat,
    make_peers,
    make_roots,
    read_sets,
)
from atpar.node.signer import Signer, open_vote_signers
from atpar.node.store import Store
from atpar.node.transport import Network
from atpar.node.validator import Validator, ValidatorConfig
from atpar.node.verifier import Priority, Verifier
from atpar.node.votes_ahead import VotesAhead
from atpar.node.votewatch import VoteWatch

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = get_logger("service")


@dataclass(frozen=True, slots=True)
class NodeHandle:
    """A running node, for whoever started it."""

    api: tuple[str, ...]
    """Addresses that the API is bound to, as host:port."""
    network_port: int
    """Port of the validator network."""
    stop: trio.Event
    """Set it to end the node as SIGTERM does."""
    gateway: LocalGateway
    network: Network


async def run_node(
    config: NodeConfig,
    *,
    passphrase: str | None = None,
    task_status: trio.TaskStatus[NodeHandle] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until SIGTERM or SIGINT.

    Raises:
        NodeError: it cannot start, or must not go on; `exit_code` is the process's.
        ConfigInvalid, GenesisInvalid: what it was told contradicts itself.
    """
    stop = trio.Event()
    relax_collector()
    sys.setswitchinterval(THREAD_SWITCH_S)
    with _single_fault():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_signals, stop)
            await serve_node(config, stop=stop, passphrase=passphrase, task_status=task_status)
            nursery.cancel_scope.cancel()


def relax_collector() -> None:
    """Let the cyclic garbage collector of this process run rarely, and pass over what is there now.

    For a whole process that is about to work: everything loaded so far stays anyway.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS)


async def _watch_signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async for number in signals:
            log.info("asked to stop", signal=signal.Signals(number).name)
            stop.set()


async def serve_node(
    config: NodeConfig,
    *,
    stop: trio.Event,
    passphrase: str | None = None,
    task_status: trio.TaskStatus[NodeHandle] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until `stop` is set: `run_node` without the signals.

    Raises:
        NodeError, ConfigInvalid, GenesisInvalid: as `run_node`.
    """
    with ExitStack() as files:
        position = _start_logging(config, files)
        setup = open_setup(config, files, passphrase=passphrase)
        node = _Node(config, setup, position)
        try:
            with _single_fault():
                await node.run(stop, task_status)
        except NodeError as fault:
            _report(fault)
            raise


# ---- what must be in order before anything starts


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a node opens, checked against each other."""

    genesis: Genesis
    roots: Roots
    sets: Sets
    announced: ValidatorSet | None
    """Validators of a later epoch, to connect with until that epoch is reached."""
    signers: list[Signer]
    """Of the vote key, and of the one that takes over later. Empty for an observer."""
    store: Store
    journal: Journal | None
    records: list[JournalRecord]
    timing: Timing


def open_setup(config: NodeConfig, files: ExitStack, *, passphrase: str | None) -> Setup:
    """Open genesis, keys, store and journal, and check that they belong together.

    Args:
        files: closes what was opened.

    Raises:
        NodeError, ConfigInvalid, GenesisInvalid: with what is wrong and what to do.
    """
    genesis = load_genesis(config.node.genesis)
    timing = make_timing(config, genesis)
    own = config.node.participant
    store = _open_store(config, genesis)
    files.callback(store.close)
    seat = find_seat(genesis, store, config)
    announced = load_announced(config.node.bootstrap, genesis.document)
    sets = read_sets(store, announced)
    roots = make_roots(genesis, sets)
    if not config.node.joins:
        check_own_leaf(roots, own, config.keys.tls_certificate)
    if not seat.votes:
        return Setup(genesis, roots, sets, announced, [], store, None, [], timing)
    signers = open_vote_signers(config.keys, passphrase=passphrase)
    held = [signer.public_key for signer in signers]
    check_vote_keys(seat, held, config)
    opening = make_opening(chain_id=genesis.chain_id, participant=own, vote_key=held[0])
    keys = seat.known_keys.union(held)
    journal, records = open_votes(config.node.data, opening, keys=keys)
    files.callback(journal.close)
    return Setup(genesis, roots, sets, announced, signers, store, journal, records, timing)


def load_genesis(path: Path) -> Genesis:
    """Return the genesis of a document file.

    Raises:
        GenesisInvalid: it cannot be read or is inconsistent; the message names the field.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GenesisInvalid(str(path), f"cannot be read: {error.strerror}") from error
    document = parse_genesis(data)
    check_genesis(document, sealed=True)
    return build_genesis(document)


def make_timing(config: NodeConfig, genesis: Genesis) -> Timing:
    """Return the durations of consensus.

    Raises:
        ConfigInvalid: this node's allowances contradict the chain's parameters.
    """
    timing = compute_timing(config, genesis.document.params)
    return Timing(
        delta_ms=timing.delta_ms,
        max_delta_ms=timing.max_delta_ms,
        build_allowance_ms=timing.build_allowance_ms,
        verify_allowance_ms=timing.verify_allowance_ms,
        retry_ms=timing.retry_ms,
        skip_timeout_ms=timing.skip_timeout_ms,
        heartbeat_ms=timing.heartbeat_ms,
        block_interval_ms=timing.block_interval_ms,
    )


def sign_vote(signer: Signer, data: bytes) -> bytes:
    """Return a signature over sign bytes (`hashing.compute_sign_bytes`), kind by kind."""
    prefix, _, rest = data.partition(b"\0")
    kind = SignKind(prefix.split(b"/")[1])
    return signer.sign(kind, rest[:32], rest[32:])


def _open_store(config: NodeConfig, genesis: Genesis) -> Store:
    try:
        return open_chain(config.node.data, chain_id=genesis.chain_id)
    except StoreMissing as error:
        raise StoreMissing(f"{error}: run `atpar node init` first") from error


def _start_logging(config: NodeConfig, files: ExitStack) -> Position:
    position = Position(node=config.node.participant)
    if config.log.file is None:
        return configure_logging(level=config.log.level, position=position)
    try:
        config.log.file.parent.mkdir(parents=True, exist_ok=True)
        stream = files.enter_context(config.log.file.open("a", encoding="utf-8", buffering=1))
    except OSError as error:
        raise StartRefused(f"log.file {config.log.file}: {error.strerror}") from error
    # Whatever is logged after the file is closed goes to the standard error.
    files.callback(configure_logging, level=config.log.level)
    return configure_logging(level=config.log.level, stream=stream, position=position)


# ---- the running node


def make_mempool(config: NodeConfig) -> Mempool:
    """Return where transactions wait for a block."""
    return Mempool(
        max_bytes=config.mempool.max_bytes,
        max_count=config.mempool.max_transactions,
        share_percent=config.mempool.participant_share_percent,
    )


def make_network(config: NodeConfig, setup: Setup, metrics: Metrics) -> Network:
    """Return the links to the other nodes, none of them open yet."""
    return Network(
        own=config.node.participant,
        chain_id=setup.genesis.chain_id,
        peers=make_peers(config, setup.genesis, setup.sets, set()),
        roots=setup.roots,
        certificate=config.keys.tls_certificate,
        key=config.keys.tls_key,
        section=config.network,
        metrics=metrics,
    )


def make_validator(
    config: NodeConfig, setup: Setup, mempool: Mempool, votes_ahead: VotesAhead
) -> Validator:
    """Return what decides, as the store and the journal left it. Without a key it only follows."""
    return Validator(
        ValidatorConfig(
            chain_id=setup.genesis.chain_id,
            participant=config.node.participant,
            timing=setup.timing,
            sign=partial(sign_vote, setup.signers[0]) if setup.signers else None,
            vote_key=setup.signers[0].public_key if setup.signers else None,
            next_keys={s.public_key: partial(sign_vote, s) for s in setup.signers[1:]},
            verify=votes_ahead.verify,
        ),
        backing=setup.store,
        position=read_position(setup.store),
        records=setup.records,
        mempool=mempool,
    )


class _Node:
    """All parts of one node, wired together."""

    def __init__(self, config: NodeConfig, setup: Setup, position: Position) -> None:
        chain_id, own = setup.genesis.chain_id, config.node.participant
        self.config = config
        self.setup = setup
        self.sets = setup.sets
        self.position = position
        self.metrics = Metrics()
        section = config.api
        self.access = OPEN_TO_ALL if section.access is None else load_access(section.access)
        self.clock: Clock = LoopClock()
        self.mempool = make_mempool(config)
        if config.verifier.key_tables:
            prepare_ledger_code()
        self.verifier = Verifier(
            workers=config.verifier.count_workers(),
            key_tables=config.verifier.key_tables,
            metrics=self.metrics,
        )
        self.network = make_network(config, setup, self.metrics)
        self.votes_ahead = VotesAhead(
            chain_id=chain_id, check=partial(self.verifier.verify, priority=Priority.VOTES)
        )
        self.validator = make_validator(config, setup, self.mempool, self.votes_ahead)
        self.admission = Admission(
            chain_id=chain_id,
            get_final=lambda: self.validator.final,
            admit=self._admit,
            mempool=self.mempool,
            verifier=self.verifier,
            get_wall_ms=self.clock.wall_ms,
            is_verified=self.validator.verified.__contains__,
        )
        self.gossip = Gossip(
            network=self.network,
            admission=self.admission,
            mempool=self.mempool,
            metrics=self.metrics,
        )
        self.validator.executor.stopwatch = BlockStopwatch(
            BlockPacer(), now_s=perf_counter, apply=self._pace_blocks
        )
        self.votes = VoteWatch(
            own=own,
            get_set=lambda: self.validator.epoch_start.validators,
            clock=self.clock,
            metrics=self.metrics,
        )
        self.gateway = LocalGateway(
            validator=self.validator,
            store=setup.store,
            admission=self.admission,
            gossip=self.gossip,
            network=self.network,
            votes=self.votes,
            clock=self.clock,
            metrics=self.metrics,
            chain_name=setup.genesis.document.name,
            version=get_version(),
        )
        self.driver = Driver(
            self.validator,
            journal=setup.journal,
            store=setup.store,
            links=self.network,
            verify=partial(self.verifier.verify, priority=Priority.BLOCKS),
            clock=self.clock,
            observer=self.gateway,
            metrics=self.metrics,
            votes=self.votes_ahead if self.verifier.workers else None,
        )
        self.network.on_change = self._note_connection
        self.network.on_vote = self.votes.note_frame
        self.gateway.update_peers = self._update_peers

    def _pace_blocks(self, pacer: BlockPacer) -> None:
        self.mempool.block_ops = pacer.max_ops
        self.validator.block_gap_ms = int(pacer.gap_s * 1_000)

    def _admit(self, transactions: Sequence[Transaction], judged_on: bytes) -> list[Added]:
        return self.driver.admit(transactions, judged_on)

    async def run(self, stop: trio.Event, task_status: trio.TaskStatus[NodeHandle]) -> None:
        """Run every part until `stop` is set or one of them fails."""
        self._introduce()
        host, port = parse_address(self.config.network.listen)
        listeners = await self.network.listen(host, port)
        load_used_ids = self.setup.store.follow_used_ids()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                trio.to_thread.run_sync, load_used_ids, trio.from_thread.check_cancelled
            )
            await nursery.start(self.verifier.run)
            await nursery.start(self.driver.run)
            self.gateway.state, self.gateway.detail = NodeState.CATCHING_UP, "following the chain"
            await nursery.start(self.gossip.run)
            await nursery.start(self.network.run, listeners)
            nursery.start_soon(self._watch)
            async with self._serving_api(nursery) as addresses:
                log.info("node runs", api=addresses, network=self.config.network.listen)
                network_port = int(listeners[0].socket.getsockname()[1])
                task_status.started(
                    NodeHandle(tuple(addresses), network_port, stop, self.gateway, self.network)
                )
                await stop.wait()
                self.gateway.stop()
            nursery.cancel_scope.cancel()
        log.info("node stopped")

    @asynccontextmanager
    async def _serving_api(self, nursery: trio.Nursery) -> AsyncIterator[list[str]]:
        """Serve the API for the length of the block; then let it finish what it has begun."""
        section = self.config.api
        options = ApiOptions(
            clock_ms=self.clock.wall_ms,
            access=self.access,
            max_wait_s=section.max_wait_ms / 1_000,
        )
        api = make_api(self.gateway, options, self.metrics)
        bounds = HttpBounds(max_connections=section.max_connections)
        stop, ended = trio.Event(), trio.Event()

        async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
            await serve_api(api, section.listen, stop=stop, bounds=bounds, task_status=task_status)
            ended.set()

        try:
            with _single_fault():
                addresses = await nursery.start(serve)
        except OSError as error:
            raise AddressUnavailable(f"api.listen {section.listen}: {error.strerror}") from error
        yield addresses
        stop.set()
        await ended.wait()

    def _introduce(self) -> None:
        header = self.setup.store.position
        self.position.height = header.height
        log.info(
            "node starts",
            version=get_version(),
            chain=self.setup.genesis.document.name,
            chain_id=self.setup.genesis.chain_id.hex(),
            validator=bool(self.setup.signers),
            journal_records=len(self.setup.records),
            verifier_workers=self.verifier.workers,
        )
        self.metrics.build_info.labels(get_version()).set(1)
        self.metrics.height.set(header.height)

    def _update_peers(self) -> None:
        """Bring the network in line with the members that the final state names."""
        genesis = self.setup.genesis
        sets = read_sets(self.setup.store, self.setup.announced)
        if sets != self.sets:
            self.sets = sets
            self.network.dismissed -= {m.participant for m in sets.current.members}
            peers = make_peers(self.config, genesis, sets, self.network.dismissed)
            self.network.update_peers(peers, make_roots(genesis, sets))

    def _note_connection(self, peer: str, connected: bool) -> None:  # noqa: FBT001
        self.driver.note_connection(peer, connected)
        if connected:
            self.gossip.greet(peer)

    async def _watch(self) -> None:
        """Keep gauges and the log's position current, and say when readiness changes."""
        state: NodeState | None = None
        while True:
            status = await self.gateway.status()
            self.position.height, self.position.view = status.height, status.view
            self.metrics.target_height.set(status.target_height)
            self.metrics.ready.set(1 if status.state is NodeState.READY else 0)
            self.metrics.mempool_transactions.set(status.mempool_transactions)
            self.metrics.mempool_bytes.set(status.mempool_bytes)
            self.network.observe()
            self.verifier.observe()
            if status.state is not state:
                state = status.state
                log.info("state changed", state=state.value, detail=status.detail)
            await trio.sleep(WATCH_INTERVAL_S)


def get_version() -> str:
    """Return the installed version of the package."""
    try:
        return version("atpar")
    except PackageNotFoundError:
        return "unknown"


# ---- one fault out of many


@contextmanager
def _single_fault() -> Iterator[None]:
    """Unwrap what nurseries wrapped: a single error, or the first of several node errors."""
    try:
        yield
    except BaseExceptionGroup as group:
        faults = list(_flatten(group))
        if len(faults) == 1 or (faults and all(isinstance(f, NodeError) for f in faults)):
            raise faults[0] from group
        raise


def _report(fault: NodeError) -> None:
    log.error(
        "node must stop",
        reason=str(fault),
        fault=type(fault).__name__,
        exit_code=fault.exit_code,
    )


def _flatten(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        elif not isinstance(error, trio.Cancelled):
            yield error
