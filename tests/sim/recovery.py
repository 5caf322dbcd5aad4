"""What operators and administrators do when too few can vote: a document reopens the chain.

Everybody is stopped. The administrators look for the highest final block and for votes that name
one above it, a quorum of them signs one document, and each operator applies it and starts the node
again. A node that is lower than the document's block first fetches what it lacks.
"""

from collections.abc import Callable

from atpar.consensus.records import JournalRecord
from atpar.consensus.recovery import list_open_votes
from atpar.node.datadir import decode_records, read_position
from atpar.node.errors import JournalError
from atpar.node.journal import create_journal, open_journal
from atpar.node.recover import (
    RecoveryFile,
    add_signature,
    apply_recovery,
    compute_sign_body,
    draft_recovery,
    make_recovered_records,
)
from atpar.node.store import Store
from tests.ledger.world import key_of, public
from tests.sim.cluster import PATH, Cluster, Machine, get_vote_keys

QUIET_MS = 6_000
"""Long enough for everything that can still become final to be so everywhere."""
POLL_MS = 500
FETCH_MS = 15_000


def lose_journal(cluster: Cluster, machine: Machine) -> None:
    """Stop a machine and lose its journal: it does not start any more."""
    if machine.is_up:
        cluster.crash(machine.id)
    cluster.note("wiped", machine.id)
    machine.was_forgetful = True
    machine.disk.cached.pop(PATH, None)
    machine.disk.synced.pop(PATH, None)


class Operators:
    """Everybody who looks after a machine, for one recovery."""

    def __init__(self, cluster: Cluster, boot: Callable[[Machine], None]) -> None:
        self._cluster = cluster
        self._boot = boot
        self._machines = list(cluster.machines.values())

    def reopen(self) -> bool:
        """Recover the chain; return whether everybody could apply the document in time."""
        cluster = self._cluster
        cluster.run(QUIET_MS)
        for machine in self._machines:
            if machine.is_up:
                cluster.crash(machine.id, tail=None)
        file = self._agree()
        cluster.note("recovery", f"epoch {file.body.epoch} at {file.body.height}")
        lower = []
        for machine in self._machines:
            if Store(machine.engine).position.height == file.body.height:
                self._apply(machine, file)
            else:
                lower.append(machine)
                if self._read(machine) is None:
                    # It follows without a vote until it has the block.
                    cluster.begin_new_journal(machine)
            self._boot(machine)
        return all(self._catch_up(machine, file) for machine in lower)

    def _agree(self) -> RecoveryFile:
        """Return the document that a quorum of the stopped epoch's administrators signs."""
        best = max(self._machines, key=lambda machine: Store(machine.engine).position.height)
        store = Store(best.engine)
        position = read_position(store)
        abandoned = [
            above.digest
            for machine in self._machines
            for above in list_open_votes(
                self._read(machine) or [], position.tip, epoch=position.start.epoch
            )
        ]
        file = draft_recovery(store, abandoned=abandoned)
        stopped = position.start.validators
        for member in stopped.members[: stopped.quorum]:
            code = member.participant
            signature = key_of(f"{code}-gov").sign(compute_sign_body(file)).signature
            file = add_signature(file, code, signature)
        return file

    def _read(self, machine: Machine) -> list[JournalRecord] | None:
        """Return what a stopped machine's journal holds; None where it has none that is whole."""
        opening = self._cluster.get_opening(machine.code)
        keys = frozenset(public(name) for name in get_vote_keys(machine.code))
        try:
            journal, found = open_journal(PATH, opening, keys=keys, disk=machine.disk)
        except JournalError:
            return None
        journal.close()
        return decode_records(found)

    def _apply(self, machine: Machine, file: RecoveryFile) -> None:
        """Do what `atpar node recover apply` does on a stopped node."""
        held = self._read(machine)
        start = apply_recovery(Store(machine.engine), file, held)
        opening, records = self._cluster.get_opening(machine.code), make_recovered_records(start)
        if held is None:
            create_journal(PATH, opening, records, disk=machine.disk)
        else:
            keys = frozenset(public(name) for name in get_vote_keys(machine.code))
            journal, _ = open_journal(PATH, opening, keys=keys, disk=machine.disk)
            journal.append(records)
            journal.close()

    def _catch_up(self, machine: Machine, file: RecoveryFile) -> bool:
        """Wait until a lower node has the document's block, then apply it there too."""
        for _ in range(FETCH_MS // POLL_MS):
            if machine.height >= file.body.height:
                self._cluster.crash(machine.id, tail=None)
                self._apply(machine, file)
                self._boot(machine)
                return True
            self._cluster.run(POLL_MS)
        return False
