"""The node's errors: who is at fault decides what happens.

    NodeError                       root
    ├── DiskFault                   a write or fsync failed: the node stops, nothing was sent
    ├── StoreError                  chain.db cannot be used as it is
    │   ├── StoreLocked             another process has it open
    │   ├── StoreSchema             written by another version of the software
    │   ├── StoreMismatch           belongs to another chain
    │   ├── StoreMissing            no chain.db at that place yet
    │   └── StoreCorrupt            bytes that this node wrote do not read back
    ├── JournalError                votes.journal cannot be used as it is
    │   ├── JournalMissing          no journal: `node init` was not run, or the disk was wiped
    │   ├── JournalMismatch         belongs to another chain, epoch or validator
    │   └── JournalLost             a complete record is damaged: this node may not vote on it
    ├── StartRefused                configuration, keys and genesis do not belong together
    ├── AddressUnavailable          a port is in use, or an address is not of this machine
    ├── IdentityInvalid             a certificate or its key cannot be used, or is not registered
    ├── VerifierError               signatures could not be checked; nothing is known of them
    │   ├── VerifierBusy            too many are waiting: try again later
    │   ├── VerifierStopped         the node is stopping
    │   └── VerifierFailed          workers die on it again and again: the node stops
    ├── PeerFault                   a peer sent what no honest peer sends: drop the peer
    │   └── FrameInvalid            a frame too long, or of a channel that does not exist
    └── Halted                      a safety stop: going on could make two histories

A request's fault is not an error here: it becomes a `ledger.errors.Refused` with a code. A broken
invariant of ours is an `AssertionError` and stops the node.
"""

from typing import ClassVar


class NodeError(Exception):
    """Root of everything the node raises on purpose."""

    exit_code: ClassVar[int] = 1


class DiskFault(NodeError):
    """A write or an fsync failed. What was not synced counts as not written; stop the node."""

    exit_code: ClassVar[int] = 8


class StoreError(NodeError):
    """`chain.db` cannot be used as it is."""

    exit_code: ClassVar[int] = 3


class StoreLocked(StoreError):
    """Another process has the database open."""


class StoreSchema(StoreError):
    """The database was written with another layout; the message names both versions."""


class StoreMismatch(StoreError):
    """The database belongs to another chain; the message names both."""


class StoreMissing(StoreError):
    """There is no database at that place."""


class StoreCorrupt(StoreError):
    """Bytes that this node wrote do not read back as what they were."""

    exit_code: ClassVar[int] = 8


class JournalError(NodeError):
    """`votes.journal` cannot be used as it is."""

    exit_code: ClassVar[int] = 8


class JournalMissing(JournalError):
    """There is no journal: without one this validator casts no vote."""


class JournalMismatch(JournalError):
    """The journal belongs to another chain, epoch or validator."""


class JournalLost(JournalError):
    """A complete record is damaged, so votes that were sent may be missing: do not vote."""


class StartRefused(NodeError):
    """The configuration, the keys and the genesis document do not belong together."""

    exit_code: ClassVar[int] = 3


class AddressUnavailable(NodeError):
    """A port to listen on is in use, or the address is not one of this machine."""

    exit_code: ClassVar[int] = 3


class IdentityInvalid(NodeError):
    """A certificate or its key cannot be used, or no registered root issued it."""

    exit_code: ClassVar[int] = 3


class VerifierError(NodeError):
    """Signatures could not be checked. Nothing is known of them; they did not pass."""


class VerifierBusy(VerifierError):
    """Too many signatures are waiting already. Nothing was queued; try again later."""


class VerifierStopped(VerifierError):
    """The node is stopping."""


class VerifierFailed(VerifierError):
    """Workers cannot be started, or die on the same batch again and again."""


class PeerFault(NodeError):
    """A peer sent something that no honest peer sends. The connection is dropped."""


class FrameInvalid(PeerFault):
    """A frame longer than its channel allows, or of a channel that does not exist."""


class Halted(NodeError):
    """A safety stop, such as a certified block whose execution differs here."""

    exit_code: ClassVar[int] = 8
