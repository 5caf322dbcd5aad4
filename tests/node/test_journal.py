"""The journal: what a crash may take, what it may not, and what counts as lost."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from atpar.ledger.codec import encode
from atpar.node.errors import DiskFault, JournalLost, JournalMismatch, JournalMissing
from atpar.node.journal import (
    HEAD_BYTES,
    Journal,
    Opening,
    create_journal,
    encode_frame,
    open_journal,
    replay,
)
from tests.sim.disk import FakeDisk, PowerLost

PATH = Path("/data/votes.journal")
OPENING = Opening(version=1, chain_id=b"c" * 32, participant="ALFA", vote_key=b"k" * 32)
HEAD = encode_frame(encode(OPENING))


def make_records(count: int, *, first: int = 0) -> list[bytes]:
    return [bytes([i % 251, 7]) * 20 for i in range(first, first + count)]


def begin(disk: FakeDisk) -> tuple[Journal, list[bytes]]:
    return open_journal(PATH, OPENING, disk=disk)


def new_disk() -> FakeDisk:
    disk = FakeDisk()
    create_journal(PATH, OPENING, disk=disk)
    disk.steps = 0
    disk.log.clear()
    return disk


def test_entries_read_back_in_order() -> None:
    disk = new_disk()
    journal, empty = begin(disk)
    entries = make_records(7)
    journal.append(entries[:3])
    journal.append(entries[3:])
    assert empty == []
    assert begin(disk)[1] == entries


def test_one_append_is_one_write_and_one_sync() -> None:
    disk = new_disk()
    journal, _ = begin(disk)
    journal.append(make_records(20))
    assert disk.log == ["write", "sync"]


def test_append_of_nothing_touches_no_disk() -> None:
    disk = new_disk()
    begin(disk)[0].append([])
    assert disk.log == []


def test_short_writes_are_continued() -> None:
    disk = new_disk()
    disk.short_writes = True
    entries = make_records(5)
    begin(disk)[0].append(entries)
    assert begin(disk)[1] == entries


def test_missing_journal_is_no_first_start() -> None:
    with pytest.raises(JournalMissing, match="atpar node init"):
        open_journal(PATH, OPENING, disk=FakeDisk())


def test_create_never_overwrites() -> None:
    disk = new_disk()
    with pytest.raises(JournalMismatch, match="never overwritten"):
        create_journal(PATH, OPENING, disk=disk)


def test_empty_file_is_lost() -> None:
    disk = FakeDisk(cached={PATH: b""})
    with pytest.raises(JournalLost, match="opening record is missing"):
        open_journal(PATH, OPENING, disk=disk)


@pytest.mark.parametrize(
    ("field", "value"),
    [("chain_id", b"d" * 32), ("participant", "BRVO"), ("vote_key", b"j" * 32)],
)
def test_journal_of_something_else_is_refused(field: str, value: object) -> None:
    disk = new_disk()
    names = ("version", "chain_id", "participant", "vote_key")
    expected = Opening(**({n: getattr(OPENING, n) for n in names} | {field: value}))
    with pytest.raises(JournalMismatch, match=field):
        open_journal(PATH, expected, disk=disk)


def test_every_torn_tail_is_cut_and_appending_goes_on() -> None:
    entries = make_records(3)
    head = HEAD + encode_frame(entries[0]) + encode_frame(entries[1])
    last = encode_frame(entries[2])
    for kept in range(len(last)):
        data = head + last[:kept]
        disk = FakeDisk(synced={PATH: data}, cached={PATH: data})
        journal, found = begin(disk)
        assert found == entries[:2]
        journal.append(entries[2:])
        assert begin(disk)[1] == entries


@pytest.mark.parametrize("zeros", [1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 4096])
def test_all_zero_tail_is_cut(zeros: int) -> None:
    entries = make_records(2)
    data = HEAD + b"".join(map(encode_frame, entries)) + bytes(zeros)
    disk = FakeDisk(synced={PATH: data}, cached={PATH: data})
    journal, found = begin(disk)
    assert found == entries
    journal.append(make_records(1))
    assert begin(disk)[1] == [*entries, *make_records(1)]


def test_every_flipped_bit_of_a_complete_record_is_lost_never_cut() -> None:
    data = HEAD + b"".join(map(encode_frame, make_records(3)))
    for position in range(len(data)):
        for bit in (0, 7):
            rotted = bytearray(data)
            rotted[position] ^= 1 << bit
            with pytest.raises(JournalLost):
                replay(bytes(rotted))


def test_zeroed_record_before_others_is_lost() -> None:
    records = [HEAD, *map(encode_frame, make_records(3))]
    data = records[0] + records[1] + bytes(len(records[2])) + records[3]
    with pytest.raises(JournalLost, match="do not delete"):
        replay(data)


def test_entry_before_an_opening_is_lost() -> None:
    with pytest.raises(JournalLost, match="no opening"):
        replay(encode_frame(make_records(1)[0]))


@pytest.mark.parametrize("step", [0, 1])
def test_failed_write_or_sync_stops_all_further_use(step: int) -> None:
    disk = new_disk()
    disk.fail_at = step
    journal, _ = begin(disk)
    with pytest.raises(DiskFault, match="No space left"):
        journal.append(make_records(1))
    with pytest.raises(DiskFault):
        journal.append(make_records(1))
    with pytest.raises(DiskFault):
        journal.rewrite([])


def test_rewrite_replaces_everything_and_appending_goes_on() -> None:
    disk = new_disk()
    journal, _ = begin(disk)
    entries = make_records(10)
    journal.append(entries)
    journal.rewrite(entries[7:])
    assert begin(disk)[1] == entries[7:]
    assert journal.size == len(disk.cached[PATH])
    journal.append(entries[:1])
    assert begin(disk)[1] == [*entries[7:], entries[0]]
    assert journal.size == len(disk.cached[PATH])


def run_history(disk: FakeDisk) -> tuple[list[bytes], list[bytes]]:
    """Append, rewrite, append; return (what was acknowledged and is needed, what was tried)."""
    safe: list[bytes] = []
    tried: list[bytes] = []
    entries = make_records(9)

    def append(journal: Journal, batch: list[bytes]) -> None:
        tried.extend(batch)
        journal.append(batch)
        safe.extend(batch)

    try:
        journal, _ = begin(disk)
        append(journal, entries[:4])
        del safe[:2]  # what a commit covers may go, from now on
        journal.rewrite(entries[2:4])
        append(journal, entries[4:6])
        append(journal, entries[6:])
        del safe[:4]
        journal.rewrite(entries[6:])
    except (PowerLost, DiskFault):
        pass
    return safe, tried


def count_steps() -> int:
    disk = new_disk()
    run_history(disk)
    return disk.steps


def check_survivors(after: FakeDisk, safe: Iterable[bytes], tried: list[bytes]) -> None:
    found = begin(after)[1]
    assert [entry for entry in safe if entry not in found] == []
    assert [entry for entry in found if entry not in tried] == []
    assert found == [entry for entry in tried if entry in found]


@pytest.mark.parametrize("tail", [None, 0, 1, HEAD_BYTES, HEAD_BYTES + 10])
@pytest.mark.parametrize("zeros", [0, 512])
def test_power_cut_at_every_step_keeps_every_acknowledged_entry(
    tail: int | None, zeros: int
) -> None:
    steps = count_steps()
    assert steps > 12
    for step in range(steps):
        disk = new_disk()
        disk.cut_at = step
        safe, tried = run_history(disk)
        partial = tail is not None and tail > 0
        check_survivors(disk.survive(tail=tail, zeros=0 if partial else zeros), safe, tried)


def test_failure_at_every_step_keeps_every_acknowledged_entry() -> None:
    for step in range(count_steps()):
        disk = new_disk()
        disk.fail_at = step
        safe, tried = run_history(disk)
        check_survivors(disk, safe, tried)


def test_real_files(tmp_path: Path) -> None:
    path = tmp_path / "votes.journal"
    create_journal(path, OPENING)
    journal, _ = open_journal(path, OPENING)
    journal.append(make_records(6))
    journal.rewrite(make_records(3))
    journal.append(make_records(1))
    journal.close()
    again, found = open_journal(path, OPENING)
    assert found == [*make_records(3), *make_records(1)]
    again.close()
    assert [p.name for p in tmp_path.iterdir()] == ["votes.journal"]
    assert path.stat().st_mode & 0o777 == 0o600
