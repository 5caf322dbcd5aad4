"""The data folder: made once, opened together, and what it says about where to go on."""

from pathlib import Path

import pytest

from atpar.consensus.records import EpochOpenedRecord, encode_record
from atpar.ledger.records import BALANCES, balance_key
from atpar.node.datadir import (
    create_data,
    decode_records,
    make_opening,
    open_chain,
    open_votes,
    read_position,
)
from atpar.node.errors import (
    JournalLost,
    JournalMismatch,
    JournalMissing,
    StoreCorrupt,
    StoreMismatch,
    StoreMissing,
)
from tests.ledger.world import HKD, default_genesis, public


def make(folder: Path) -> None:
    create_data(folder, default_genesis(), participant="ALFA", vote_key=public("ALFA-vote"))


def opening_of(code: str) -> object:
    return make_opening(
        chain_id=default_genesis().chain_id, participant=code, vote_key=public(f"{code}-vote")
    )


def test_new_folder_starts_at_genesis_with_the_right_to_vote(tmp_path: Path) -> None:
    genesis = default_genesis()
    make(tmp_path)
    store = open_chain(tmp_path, chain_id=genesis.chain_id)
    position = read_position(store)
    assert position.header == genesis.header
    assert position.digest == genesis.digest
    assert position.tip.finalization is None
    assert position.start.epoch == 0
    assert position.start.digest == genesis.digest
    assert position.start.validators.members == genesis.validators.members
    assert store.get(BALANCES.id, balance_key(HKD, "ALFA/main")) is None
    journal, records = open_votes(tmp_path, opening_of("ALFA"))
    assert records == [EpochOpenedRecord(0, 0, genesis.digest)]
    journal.close()
    store.close()


def test_observer_has_no_journal(tmp_path: Path) -> None:
    create_data(tmp_path, default_genesis(), participant=None, vote_key=None)
    assert [path.name for path in tmp_path.iterdir()] == ["chain.db"]
    with pytest.raises(JournalMissing):
        open_votes(tmp_path, opening_of("AUDT"))


def test_making_it_twice_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    before = (tmp_path / "votes.journal").read_bytes()
    with pytest.raises(StoreMismatch, match="never overwritten"):
        make(tmp_path)
    assert (tmp_path / "votes.journal").read_bytes() == before


def test_store_set_aside_is_begun_anew_and_the_journal_is_kept(tmp_path: Path) -> None:
    make(tmp_path)
    journal, _ = open_votes(tmp_path, opening_of("ALFA"))
    journal.append([encode_record(EpochOpenedRecord(7, 0, bytes(32)))])
    journal.close()
    before = (tmp_path / "votes.journal").read_bytes()
    (tmp_path / "chain.db").rename(tmp_path / "old.db")
    with pytest.raises(StoreMissing):
        open_chain(tmp_path, chain_id=default_genesis().chain_id)
    make(tmp_path)
    open_chain(tmp_path, chain_id=default_genesis().chain_id).close()
    assert (tmp_path / "votes.journal").read_bytes() == before


def test_store_is_not_begun_anew_beside_a_damaged_journal(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "votes.journal"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    (tmp_path / "chain.db").rename(tmp_path / "old.db")
    with pytest.raises(JournalLost):
        make(tmp_path)
    assert not (tmp_path / "chain.db").exists()


def test_journal_is_not_made_again_beside_a_store(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "votes.journal").unlink()
    with pytest.raises(StoreMismatch):
        make(tmp_path)
    assert not (tmp_path / "votes.journal").exists()


def test_wiped_journal_is_not_made_again_by_opening(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "votes.journal").unlink()
    with pytest.raises(JournalMissing, match="put the very file back"):
        open_votes(tmp_path, opening_of("ALFA"))
    assert not (tmp_path / "votes.journal").exists()


def test_journal_of_another_validator_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(JournalMismatch, match="participant is ALFA, this node has BRVO"):
        open_votes(tmp_path, opening_of("BRVO"))


def test_record_that_is_not_ours_is_a_lost_journal() -> None:
    with pytest.raises(JournalLost, match="does not read back"):
        decode_records([b"\x93\x01\x02"])


def test_store_without_its_first_file_is_corrupt_not_missing(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "chain.db" / "CURRENT").unlink()
    with pytest.raises(StoreCorrupt, match="CURRENT is missing"):
        open_chain(tmp_path, chain_id=default_genesis().chain_id)
