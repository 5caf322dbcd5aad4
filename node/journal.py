"""votes.journal: what this validator signed and learnt, on disk before it left the machine.

An append-only file. It opens with a record that names chain and validator, written once by
`node init`: a validator without one casts no vote, so a wiped disk is never taken for a first
start. Everything decided in one turn of the loop is appended together and fsynced once; only then
may messages leave. The consensus engine's records are opaque here.

**Frame.** `length u32 | check of the length u32 | checksum 8 bytes | payload`, big-endian. The
length has a check of its own, so that a rotted length is never read as a record cut short.

**Reading back.** A crash can leave the last append incomplete: a *tail* that ends inside a frame,
or that is all zeros, was never synced, so no message depended on it, and it is cut. A *complete*
frame with a wrong check was once synced and has rotted since: votes that were sent may be missing,
and the journal is lost. So is one whose first record is not the opening.

**Compaction** writes what is still needed to a new file, syncs it, renames it over the old one
and syncs the directory; a crash at any point leaves the one or the other, complete. The caller
leaves out only records whose commit is synced in `chain.db`.

A failed write or fsync is final: after it the kernel may have dropped the pages while a second
fsync reports success, so the journal refuses all use and the node stops.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Protocol

from msgspec import Meta

from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.errors import NonCanonical
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.types import ChainId, ParticipantCode, PublicKey
from atpar.node.errors import DiskFault, JournalLost, JournalMismatch, JournalMissing
from atpar.node.limits import MAX_JOURNAL_BYTES, MAX_JOURNAL_RECORD_BYTES

VERSION: Final = 1
_HEAD = struct.Struct(">II8s")
HEAD_BYTES: Final = _HEAD.size
_ADVICE: Final = (
    "do not delete or edit it: a vote that was sent may be missing, and a second, different vote "
    "would be equivocation. Keep this validator stopped, and let it begin anew without a vote "
    "until the next epoch: `atpar node rejoin`, which keeps the file"
)


class Opening(Wire, frozen=True):
    """The first record of a journal: whose votes it holds."""

    version: Annotated[int, Meta(ge=0, le=65_535)]
    chain_id: ChainId
    participant: ParticipantCode
    vote_key: PublicKey


_OPENING = Codec[Opening](Opening, name="journal opening", max_bytes=256)


def encode_frame(payload: bytes) -> bytes:
    """Return the bytes of one record as they stand in the file."""
    assert len(payload) <= MAX_JOURNAL_RECORD_BYTES, f"journal record of {len(payload)} bytes"
    length = len(payload).to_bytes(4, "big")
    return _HEAD.pack(len(payload), zlib.crc32(length), _compute_checksum(payload)) + payload


def _compute_checksum(payload: bytes) -> bytes:
    return compute_hash(HashTag.JOURNAL, payload)[:8]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a journal's bytes hold."""

    opening: Opening | None
    """None when not even the first record is complete: the journal was never begun."""
    records: list[bytes]
    size: int
    """Bytes of complete records; what follows is a tail to be cut."""


def replay(data: bytes) -> Replayed:
    """Return everything that complete records say; a torn or all-zero tail is left out.

    Raises:
        JournalLost: a complete record is damaged, or the first one is not an opening.
    """
    opening: Opening | None = None
    records = []
    size = 0
    for end, payload in _read_frames(data):
        if opening is None:
            try:
                opening = _OPENING.decode(payload)
            except NonCanonical as error:
                raise JournalLost(
                    f"votes.journal: no opening record ({error}); {_ADVICE}"
                ) from error
        else:
            records.append(payload)
        size = end
    return Replayed(opening, records, size)


def _read_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (end, payload) of each complete frame."""
    offset = 0
    total = len(data)
    while total - offset >= HEAD_BYTES:
        length, length_check, checksum = _HEAD.unpack_from(data, offset)
        if zlib.crc32(data[offset : offset + 4]) != length_check:
            if not any(data[offset:]):
                return
            raise JournalLost(f"votes.journal: damaged record length at byte {offset}; {_ADVICE}")
        end = offset + HEAD_BYTES + length
        if end > total:
            return
        payload = data[offset + HEAD_BYTES : end]
        if _compute_checksum(payload) != checksum:
            raise JournalLost(f"votes.journal: damaged record at byte {offset}; {_ADVICE}")
        yield end, payload
        offset = end


def check_opening(
    found: Replayed, expected: Opening, *, keys: frozenset[bytes] = frozenset()
) -> Opening:
    """Return a journal's opening after checking that it is of this chain and validator.

    It names the vote key under which the journal began; `keys` are others that this validator has
    voted with, or will.

    Raises:
        JournalLost: not even its opening is complete.
        JournalMismatch: it belongs to something else; the message gives both values.
    """
    opening = found.opening
    if opening is None:
        raise JournalLost(f"votes.journal: the opening record is missing; {_ADVICE}")
    for name in ("version", "chain_id", "participant", "vote_key"):
        own, wanted = getattr(opening, name), getattr(expected, name)
        if own != wanted and not (name == "vote_key" and own in keys):
            own, wanted = (v.hex() if isinstance(v, bytes) else v for v in (own, wanted))
            raise JournalMismatch(f"votes.journal: {name} is {own}, this node has {wanted}")
    return opening


# ---- the file


class File(Protocol):
    """What the journal needs of an open file; tests substitute one that fails."""

    def write(self, data: bytes, /) -> int:
        """Append bytes; return how many were taken."""

    def sync(self) -> None:
        """Return once everything written is on the disk."""

    def close(self) -> None:
        """Close it; further use is an error."""


class Disk(Protocol):
    """What the journal needs of a folder; tests substitute one that fails at chosen steps."""

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes, or None if there is no such file."""

    def open_append(self, path: Path, *, size: int) -> File:
        """Open a file for appending, created if missing and cut to `size` bytes first."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target, atomically."""

    def sync_folder(self, path: Path) -> None:
        """Return once the folder's entries are on the disk."""


class OsFile:
    """An unbuffered file descriptor opened for appending."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> int:
        """Append bytes; return how many were taken."""
        return os.write(self._descriptor, data)

    def sync(self) -> None:
        """Return once everything written is on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class OsDisk:
    """The real file system."""

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes, or None if there is no such file."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def open_append(self, path: Path, *, size: int) -> OsFile:
        """Open a file for appending, created if missing and cut to `size` bytes first."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        os.ftruncate(descriptor, size)
        return OsFile(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target, atomically."""
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Return once the folder's entries are on the disk."""
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """Return once a folder's entries, renames included, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """The open journal. Not thread-safe: the driver gives it to one thread at a time."""

    def __init__(self, path: Path, disk: Disk, *, opening: Opening, size: int) -> None:
        """Use `open_journal`."""
        self.path = path
        self.size = size
        """Bytes in the file: what a caller looks at to decide when to rewrite."""
        self._disk = disk
        self._opening = opening
        self._file: File | None = None
        self._failure: str | None = None

    def append(self, records: Sequence[bytes]) -> None:
        """Append records and return once they are on the disk.

        Raises:
            DiskFault: a write or the fsync failed, now or earlier. Nothing that depends on the
                records may be sent, and the journal cannot be used any more.
        """
        if not records:
            return
        data = b"".join([encode_frame(record) for record in records])
        if self.size + len(data) > MAX_JOURNAL_BYTES:
            self._failure = f"{self.size} bytes, nothing was committed for too long"
        self._guard(lambda: self._append_bytes(data))

    def rewrite(self, records: Sequence[bytes]) -> None:
        """Replace everything with these records, atomically.

        Raises:
            DiskFault: as `append`. The old file or the new one is in place, complete.
        """
        frames = [encode_frame(encode(self._opening)), *(encode_frame(r) for r in records)]
        self._guard(lambda: self._replace(b"".join(frames)))

    def close(self) -> None:
        """Close the file. Everything appended is already on the disk."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _guard(self, action: Callable[[], None]) -> None:
        """Run a disk action; after one failure nothing is tried again."""
        if self._failure is not None:
            raise DiskFault(f"{self.path}: {self._failure}")
        try:
            action()
        except OSError as error:
            self._failure = f"{error.strerror or error}"
            raise DiskFault(
                f"{self.path}: {self._failure}; the node stops so that no vote leaves unsaved. "
                "Check the disk (space, health, permissions), then start the node again"
            ) from error

    def _append_bytes(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._disk.open_append(self.path, size=self.size)
        write_all(self._file, data)
        self._file.sync()
        self.size += len(data)

    def _replace(self, data: bytes) -> None:
        self.close()
        self._file = _replace_file(self._disk, self.path, data)
        self.size = len(data)


def write_all(file: File, data: bytes) -> None:
    """Write all bytes, however few the system takes at a time."""
    view = memoryview(data)
    while view:
        taken = file.write(view)  # type: ignore[arg-type]
        view = view[taken:]


def _replace_file(disk: Disk, path: Path, data: bytes) -> File:
    """Put a file with these bytes at a path, atomically and synced; return it open."""
    new = path.with_name(path.name + ".new")
    file = disk.open_append(new, size=0)
    write_all(file, data)
    file.sync()
    disk.replace(new, path)
    disk.sync_folder(path.parent)
    return file


def create_journal(
    path: Path, opening: Opening, records: Sequence[bytes] = (), *, disk: Disk | None = None
) -> None:
    """Write a new journal with its opening and first records; `node init` does this once.

    Raises:
        JournalMismatch: there is a file at the path already; it is left alone.
        DiskFault: a write or fsync failed.
    """
    disk = OsDisk() if disk is None else disk
    frames = [encode_frame(encode(opening)), *(encode_frame(record) for record in records)]
    try:
        if disk.read(path) is not None:
            raise JournalMismatch(f"{path} exists already; it is never overwritten")
        _replace_file(disk, path, b"".join(frames)).close()
    except OSError as error:
        raise DiskFault(f"{path}: {error.strerror or error}") from error


def open_journal(
    path: Path,
    expected: Opening,
    *,
    keys: frozenset[bytes] = frozenset(),
    disk: Disk | None = None,
) -> tuple[Journal, list[bytes]]:
    """Open this validator's journal; return it and the records it holds, oldest first.

    `keys` as in `check_opening`.

    Raises:
        JournalMissing, JournalMismatch, JournalLost: this validator may not vote with it.
        DiskFault: it cannot be read.
    """
    disk = OsDisk() if disk is None else disk
    try:
        data = disk.read(path)
    except OSError as error:
        raise DiskFault(f"{path}: {error.strerror or error}") from error
    if data is None:
        raise JournalMissing(
            f"{path} does not exist. A new validator makes it with `atpar node init`. If this "
            "validator has voted before, put the very file back where it was, or let the validator "
            "begin anew without a vote until the next epoch: `atpar node rejoin`"
        )
    found = replay(data)
    opening = check_opening(found, expected, keys=keys)
    return Journal(path, disk, opening=opening, size=found.size), found.records
