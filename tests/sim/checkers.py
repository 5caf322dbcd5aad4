"""What must hold at every step, over everything honest machines ever did, across their crashes.

A broken rule raises `Violation` at the very event that breaks it, so the end of a replay's trace
is the cause.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from atpar.consensus.messages import Lane, Proposal, decode_message
from atpar.consensus.records import VoteRecord, encode_record
from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    Proposition,
)
from atpar.ledger.commitment import commit_state
from atpar.ledger.invariants import check_invariants
from atpar.ledger.keys import SignedTriple
from atpar.ledger.records import SECTIONS
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, get_body
from atpar.node import actions
from atpar.node.store import FinalBlock, Store
from tests.sim.cluster import PATH, Machine


class Violation(Exception):
    """Something that must never happen happened."""


class Checkers:
    """Watches honest machines. One per run."""

    def __init__(
        self, *, faults: int, verify_batch: Callable[[Sequence[SignedTriple]], list[bool]]
    ) -> None:
        self._faults = faults
        self._verify_batch = verify_batch
        self.chain: dict[int, FinalBlock] = {}
        """height -> the block, as first finalised by anybody."""
        self.transactions: dict[bytes, int] = {}
        """Transaction hash -> the height at which it is final."""
        self._ids: dict[tuple[str, bytes], int] = {}
        self._votes: dict[tuple[str, int, int, type], Vote] = {}
        self._checked: dict[str, set[bytes]] = defaultdict(set)
        """Votes that were found on the disk of a machine before they left."""
        self._heard: dict[tuple[str, int, int, type], set[str]] = defaultdict(set)
        """Who received a machine's vote."""
        self._certificates: dict[tuple[int, int, type], Proposition | None] = {}
        self._seen: dict[bytes, None] = {}
        self._voted: dict[bytes, tuple[str, int, int, type]] = {}
        self._tips: dict[str, int] = {}
        self.honest: frozenset[str] = frozenset()
        """Ids of machines that never misbehave."""

    # ---- what leaves

    def on_sent(self, machine: Machine, peer: str | None, lane: Lane, data: bytes) -> None:
        if lane is Lane.FETCH:
            return
        if machine.halt is not None:
            raise Violation(f"{machine.id} sends after its safety stop")
        if data in self._checked[machine.id]:
            return
        message = decode_message(data)
        if isinstance(message, Notarization | Nullification | Finalization):
            self._note_certificate(machine, message, data)
            return
        vote = message.vote if isinstance(message, Proposal) else message
        assert isinstance(vote, Notarize | Nullify | Finalize)
        self._check_synced(machine, vote)
        self._checked[machine.id].add(data)
        self._note_vote(machine, vote, data)

    def _check_synced(self, machine: Machine, vote: Vote) -> None:
        record = encode_record(VoteRecord(vote))
        if machine.disk.synced[PATH].rfind(record) < 0:
            raise Violation(
                f"{machine.id} sends its {type(vote).__name__} of view {get_body(vote).view}"
                " before the record is on the disk"
            )

    def _note_vote(self, machine: Machine, vote: Vote, data: bytes) -> None:
        body = get_body(vote)
        key = (machine.code, body.epoch, body.view, type(vote))
        self._voted[data] = key
        first = self._votes.setdefault(key, vote)
        if get_body(first) != body and self._is_detectable(machine, key):
            raise Violation(
                f"{machine.id} signs two {type(vote).__name__} in epoch {body.epoch} view"
                f" {body.view}: {first} and {vote}"
            )
        if isinstance(vote, Notarize):
            return
        other = (*key[:3], Finalize if isinstance(vote, Nullify) else Nullify)
        if other in self._votes and self._is_detectable(machine, other):
            raise Violation(
                f"{machine.id} signs both nullify and finalize in epoch {body.epoch} view"
                f" {body.view}"
            )

    def _is_detectable(self, machine: Machine, earlier: tuple[str, int, int, type]) -> bool:
        """Return whether this machine could know of its earlier vote.

        With its journal whole: always. A machine that lost records asks Q - 1 of its n - 1 peers;
        what fewer than n - Q + 1 of them received, no question can find (and no quorum can have
        been made of it without another liar).
        """
        return not machine.was_forgetful or len(self._heard[earlier]) > self._faults

    def on_delivered(self, sender: Machine, receiver: Machine, data: bytes) -> None:
        key = self._voted.get(data)
        if key is not None and receiver.is_honest:
            self._heard[key].add(receiver.code)

    def _note_certificate(self, machine: Machine, held: Certificate, data: bytes) -> None:
        self._checked[machine.id].add(data)
        if data in self._seen:
            return
        self._seen[data] = None
        if isinstance(held, Nullification):
            epoch, view, stated = held.body.epoch, held.body.view, None
        else:
            stated = held.proposition
            epoch, view = stated.epoch, stated.view
        kind = type(held)
        if self._certificates.setdefault((epoch, view, kind), stated) != stated:
            raise Violation(f"two {kind.__name__} of epoch {epoch} view {view} differ")
        final = self._certificates.get((epoch, view, Finalization))
        if final is not None and (epoch, view, Nullification) in self._certificates:
            raise Violation(f"epoch {epoch} view {view} is both nullified and final")
        notarized = self._certificates.get((epoch, view, Notarization))
        if final is not None and notarized is not None and notarized != final:
            raise Violation(f"epoch {epoch} view {view}: another block is final than notarized")

    # ---- what becomes final

    def on_final(self, machine: Machine, block: FinalBlock) -> None:
        header = block.header
        height = header.height
        known = self.chain.get(height)
        # A crash after the batch and before the notice skips heights; none may come twice in one
        # boot, and a new boot goes on above what the disk holds.
        tip = self._tips.get(machine.id, 0)
        if height <= tip:
            raise Violation(f"{machine.id} reports height {height} after {tip}")
        self._tips[machine.id] = max(tip, height)
        if known is not None:
            if known.digest != block.digest:
                raise Violation(
                    f"two final blocks at height {height}: {known.digest.hex()[:8]} and, on"
                    f" {machine.id}, {block.digest.hex()[:8]}"
                )
            if known.header.state_root != header.state_root or known.receipts != block.receipts:
                raise Violation(f"{machine.id}: other results at height {height}")
            return
        below = self.chain.get(height - 1)
        if below is not None and header.parent != below.digest:
            raise Violation(f"height {height} does not stand on height {height - 1}")
        above = self.chain.get(height + 1)
        if above is not None and above.header.parent != block.digest:
            raise Violation(f"height {height + 1} does not stand on height {height}")
        self.chain[height] = block
        broken = check_invariants(machine.running.final.view)
        if broken:
            raise Violation(f"{machine.id} at height {height}: {'; '.join(broken)}")
        for tx in block.transactions:
            if not all(self._verify_batch(tx.compute_triples())):
                raise Violation(f"height {height} carries a transaction that nobody signed")
            if tx.hash in self.transactions:
                raise Violation(
                    f"transaction {tx.hash.hex()[:8]} is final at heights"
                    f" {self.transactions[tx.hash]} and {height}"
                )
            self.transactions[tx.hash] = height
            used = self._ids.setdefault((tx.body.sender, tx.body.tx_id), height)
            if used != height:
                raise Violation(f"an id of {tx.body.sender} is used at heights {used} and {height}")

    def forget_tip(self, machine: Machine) -> None:
        """Expect heights again: a machine's store was replaced by an older one."""
        self._tips.pop(machine.id, None)

    # ---- what honest machines say of each other and of themselves

    def on_halt(self, machine: Machine, halt: actions.Halt) -> None:
        raise Violation(f"{machine.id} halts: {halt.kind.value}, {halt.message}")

    def on_drop_peer(self, machine: Machine, peer: str, reason: str) -> None:
        if peer in self.honest:
            raise Violation(f"{machine.id} drops honest {peer}: {reason}")

    # ---- at the end

    def check_end(self, machines: list[Machine], *, deeply: bool) -> None:
        """Compare disks, and look at one state as a whole."""
        roots: dict[int, bytes] = {}
        for machine in machines:
            store = Store(machine.engine)
            height = store.position.height
            header = store.get_header(height)
            assert header is not None
            if roots.setdefault(height, header.state_root) != header.state_root:
                raise Violation(f"{machine.id}: another state root at height {height}")
        if deeply and machines:
            self._check_state(machines[0])

    def _check_state(self, machine: Machine) -> None:
        store = Store(machine.engine)
        final = store.get_final()
        broken = check_invariants(final.view)
        if broken:
            raise Violation(f"{machine.id}: {'; '.join(broken)}")
        fresh = Overlay(Base(MemoryBacking()))
        for section in SECTIONS:
            for key, record in final.view.scan(section, b""):
                fresh.put(section, key, record)
        if commit_state(fresh) != final.header.state_root:
            raise Violation(f"{machine.id}: the state on the disk is not that of the header")
