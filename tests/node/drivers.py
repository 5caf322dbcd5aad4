"""Drivers in one trio loop over real disks, joined by queues instead of sockets."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import trio

from atpar.ledger.keys import SignedTriple, verify, verify_batch
from atpar.ledger.transactions import Transaction
from atpar.node import actions
from atpar.node.datadir import create_data, make_opening, open_chain, open_votes, read_position
from atpar.node.driver import Driver
from atpar.node.framing import Channel
from atpar.node.journal import Disk, Journal, OsDisk, OsFile
from atpar.node.mempool import Mempool
from atpar.node.metrics import Metrics
from atpar.node.peers import Inbox, Received
from atpar.node.store import FinalBlock, Store
from atpar.node.validator import Validator, ValidatorConfig
from atpar.node.votes_ahead import Check, VotesAhead
from tests.ledger.world import START_MS, World, key_of, public


class TestClock:
    """The loop's time; the wall clock starts in the test world's first minutes."""

    __test__ = False

    def __init__(self) -> None:
        self.origin = int(trio.current_time() * 1_000)

    def now_ms(self) -> int:
        return int(trio.current_time() * 1_000)

    def wall_ms(self) -> int:
        return START_MS + 60_000 + self.now_ms() - self.origin


@dataclass
class Links:
    """What one driver sends goes straight into the other drivers' inboxes."""

    code: str
    hub: "Hub"
    inbox: Inbox = field(default_factory=Inbox)
    dropped: list[tuple[str, str]] = field(default_factory=list)

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        self.hub.log.append((self.code, "send", payload))
        other = self.hub.members.get(peer)
        if other is not None:
            other.links.inbox.offer(Received(self.code, channel, payload))

    def broadcast(self, channel: Channel, payload: bytes) -> None:
        for peer in self.hub.members:
            if peer != self.code:
                self.send(peer, channel, payload)

    def at_once(self) -> AbstractContextManager[None]:
        return nullcontext()

    def drop_peer(self, peer: str, reason: str) -> None:
        self.dropped.append((peer, reason))

    def dismiss_peer(self, peer: str) -> None:
        pass


@dataclass
class Witness:
    """An observer that remembers."""

    finals: list[FinalBlock] = field(default_factory=list)
    dropped: list[actions.DropTransaction] = field(default_factory=list)
    alarms: list[actions.Alarm] = field(default_factory=list)
    halts: list[actions.Halt] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    def on_final(self, blocks: Sequence[FinalBlock]) -> None:
        self.finals.extend(blocks)
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    def on_dropped(self, dropped: actions.DropTransaction) -> None:
        self.dropped.append(dropped)

    def on_view(self, entered: actions.EnterView) -> None:
        pass

    def on_epoch(self, opened: actions.OpenEpoch) -> None:
        pass

    def on_alarm(self, alarm: actions.Alarm) -> None:
        self.alarms.append(alarm)

    def on_halt(self, halt: actions.Halt) -> None:
        self.halts.append(halt)

    async def wait_final(self, *txs: Transaction) -> None:
        """Wait until all are final here; the test fails after a deadline."""
        wanted = {tx.hash for tx in txs}
        with trio.fail_after(20):
            while not wanted <= {tx.hash for b in self.finals for tx in b.transactions}:
                await self.changed.wait()


@dataclass
class LoggedFile:
    """A real file whose fsyncs are noted in the hub's log."""

    file: OsFile
    code: str
    hub: "Hub"

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def sync(self) -> None:
        self.hub.check_disk(self.code)
        self.file.sync()
        self.hub.log.append((self.code, "fsync", b""))

    def close(self) -> None:
        self.file.close()


@dataclass
class LoggedDisk:
    """A real disk that fails on demand."""

    code: str
    hub: "Hub"
    disk: OsDisk = field(default_factory=OsDisk)

    def read(self, path: Path) -> bytes | None:
        return self.disk.read(path)

    def open_append(self, path: Path, *, size: int) -> LoggedFile:
        return LoggedFile(self.disk.open_append(path, size=size), self.code, self.hub)

    def replace(self, source: Path, target: Path) -> None:
        self.disk.replace(source, target)

    def sync_folder(self, path: Path) -> None:
        self.disk.sync_folder(path)


@dataclass
class Member:
    """One running driver."""

    driver: Driver
    links: Links
    witness: Witness
    store: Store
    journal: Journal
    metrics: Metrics


class Hub:
    """Drivers by participant code, and the order of what they did."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder = folder
        self.world = world
        self.clock = TestClock()
        self.check_votes: Check | None = None
        """Set before a driver is opened, it checks the votes of every turn ahead."""
        self.members: dict[str, Member] = {}
        self.log: list[tuple[str, str, bytes]] = []
        self.broken: set[str] = set()
        """Codes whose next fsync fails."""

    def check_disk(self, code: str) -> None:
        if code in self.broken:
            raise OSError(5, "Input/output error")

    def prepare(self, code: str) -> None:
        create_data(
            self.folder / code,
            self.world.genesis,
            participant=code,
            vote_key=public(f"{code}-vote"),
        )

    def open(self, code: str) -> Member:
        folder = self.folder / code
        opening = make_opening(
            chain_id=self.world.chain_id, participant=code, vote_key=public(f"{code}-vote")
        )
        store = open_chain(folder, chain_id=self.world.chain_id)
        journal, records = open_votes(folder, opening)
        disk: Disk = LoggedDisk(code, self)
        journal._disk = disk
        key = key_of(f"{code}-vote")
        votes = None
        if self.check_votes is not None:
            votes = VotesAhead(chain_id=self.world.chain_id, check=self.check_votes)
        validator = Validator(
            ValidatorConfig(
                chain_id=self.world.chain_id,
                participant=code,
                sign=lambda data: key.sign(data).signature,
                verify=verify if votes is None else votes.verify,
            ),
            backing=store,
            position=read_position(store),
            records=records,
            mempool=Mempool(),
        )
        links, witness, metrics = Links(code, self), Witness(), Metrics()
        driver = Driver(
            validator,
            journal=journal,
            store=store,
            links=links,
            verify=verify_now,
            clock=self.clock,
            observer=witness,
            metrics=metrics,
            votes=votes,
        )
        member = Member(driver, links, witness, store, journal, metrics)
        self.members[code] = member
        return member

    @asynccontextmanager
    async def running(self, *codes: str):
        """Run drivers until the block ends; their disks are closed then."""
        async with trio.open_nursery() as nursery:
            for code in codes:
                await nursery.start(self.open(code).driver.run)
            self.connect(*codes)
            yield nursery
            nursery.cancel_scope.cancel()
        for code in codes:
            self.close(code)

    def connect(self, *codes: str) -> None:
        for code in codes:
            for other in self.members:
                if other != code:
                    self.members[code].driver.note_connection(other, True)
                    self.members[other].driver.note_connection(code, True)

    def close(self, code: str) -> None:
        member = self.members.pop(code)
        member.store.close()
        member.journal.close()
        for other in self.members.values():
            other.driver.note_connection(code, False)

    def submit(self, *txs: Transaction) -> None:
        for member in self.members.values():
            member.driver.admit(txs)


async def verify_now(triples: Sequence[SignedTriple]) -> Sequence[bool]:
    await trio.lowlevel.checkpoint()
    return verify_batch(triples)
