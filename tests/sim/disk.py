"""A disk in memory that fails, or loses power, at a chosen step."""

from dataclasses import dataclass, field
from pathlib import Path


class PowerLost(BaseException):
    """The machine stopped at this very step. Not an error that code could handle."""


@dataclass
class FakeDisk:
    """What is synced survives a power cut; what is not may be there in part, or not at all."""

    synced: dict[Path, bytes] = field(default_factory=dict)
    cached: dict[Path, bytes] = field(default_factory=dict)
    fail_at: int | None = None
    """The step (write, sync, replace, folder sync) that fails with an OSError, counted from 0."""
    cut_at: int | None = None
    """The step at which power is lost: before it has any effect."""
    short_writes: bool = False
    steps: int = 0
    log: list[str] = field(default_factory=list)

    def step(self, name: str) -> None:
        number, self.steps = self.steps, self.steps + 1
        self.log.append(name)
        if number == self.cut_at:
            raise PowerLost
        if number == self.fail_at:
            raise OSError(28, "No space left on device")

    def survive(self, *, tail: int | None = None, zeros: int = 0) -> "FakeDisk":
        """Return the disk after a power cut.

        `tail` bytes of each unsynced append made it to the disk (None: all of them), followed by
        `zeros` zero bytes. Renames count as durable in order once done (a journaling file system).
        """
        after = {}
        for path, data in self.cached.items():
            kept = self.synced.get(path, b"")
            after[path] = kept
            if data != kept:
                assert data.startswith(kept)
                rest = data[len(kept) :]
                after[path] += (rest if tail is None else rest[:tail]) + bytes(zeros)
        return FakeDisk(synced=dict(after), cached=dict(after))

    # ---- what the journal uses

    def read(self, path: Path) -> bytes | None:
        return self.cached.get(path)

    def open_append(self, path: Path, *, size: int) -> "FakeFile":
        self.cached[path] = self.cached.get(path, b"")[:size]
        self.synced[path] = self.synced.get(path, b"")[:size]
        return FakeFile(self, path)

    def replace(self, source: Path, target: Path) -> None:
        self.step("replace")
        self.cached[target] = self.cached.pop(source)
        self.synced[target] = self.synced.pop(source)
        for file in self.files:
            if file.path == source:
                file.path = target

    def sync_folder(self, path: Path) -> None:
        self.step("sync_folder")

    files: list["FakeFile"] = field(default_factory=list)


@dataclass
class FakeFile:
    disk: FakeDisk
    path: Path

    def __post_init__(self) -> None:
        self.disk.files.append(self)

    def write(self, data: bytes) -> int:
        self.disk.step("write")
        if self.disk.short_writes:
            data = data[: max(1, len(data) // 2)]
        self.disk.cached[self.path] += bytes(data)
        return len(data)

    def sync(self) -> None:
        self.disk.step("sync")
        self.disk.synced[self.path] = self.disk.cached[self.path]

    def close(self) -> None:
        self.disk.files.remove(self)
