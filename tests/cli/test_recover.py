"""`atpar node recover`: drafted on one node, signed by administrators, applied on all."""

import shutil

import pytest

from atpar.consensus.records import JournalLostRecord, VoteRecord, encode_record
from atpar.ledger.certificates import Proposition
from atpar.ledger.genesis import compute_chain_id, parse_genesis
from atpar.ledger.votes import Finalize
from atpar.node.datadir import make_opening, open_votes
from atpar.node.journal import open_journal
from atpar.node.keystore import read_key
from tests.cli.ceremony import ENVIRONMENT, get_sealed
from tests.cli.helpers import run
from tests.cli.test_node import init

CODES = ("ALFA", "BRVO", "CHRL", "DLTA")


@pytest.fixture
def homes(tmp_path):
    for code in CODES:
        assert init(tmp_path / code, code=code).exit_code == 0
        # Keys of one's own: what was signed with them is noted beside them.
        shutil.copytree(get_sealed() / code, tmp_path / "keys" / code)
    return tmp_path


def recover(*args):
    return run("node", "recover", *args, environment=ENVIRONMENT)


def sign(path, code, out):
    keys = path.parent / "keys" / code
    return recover("sign", path, "--participant", code, "--keys", keys, "--out", out)


def test_quorum_of_administrators_reopens_a_chain_whose_journals_are_lost(homes):
    path = homes / "recovery.json"
    drafted = recover("draft", path, "--home", homes / "ALFA", "--json")
    assert drafted.exit_code == 0, drafted.err
    assert (drafted.json["epoch"], drafted.json["height"]) == (1, 0)
    assert drafted.json["members"] == list(CODES)
    for code in CODES[:2]:
        (homes / code / "data" / "votes.journal").unlink()
    parts = [homes / f"{code}.json" for code in CODES[:3]]
    for code, part in zip(CODES, parts, strict=False):
        assert sign(path, code, part).exit_code == 0
    assert recover("join", path, *parts[:2]).exit_code == 0
    few = recover("apply", path, "--home", homes / "ALFA")
    assert few.exit_code == 6
    assert "2 signatures, the quorum is 3" in few.err
    assert not (homes / "ALFA" / "data" / "votes.journal").exists()
    joined = recover("join", path, *parts, "--json")
    assert joined.json["signed_by"] == ["ALFA", "BRVO", "CHRL"]
    for code in CODES:
        for _ in range(2):
            applied = recover("apply", path, "--home", homes / code)
            assert applied.exit_code == 0, applied.err
            assert "epoch 1 is open" in applied.out
        assert (homes / code / "data" / "votes.journal").exists()


def test_signature_of_a_key_that_is_not_the_administrators_is_refused(homes):
    path = homes / "recovery.json"
    assert recover("draft", path, "--home", homes / "ALFA").exit_code == 0
    for code in CODES[:2]:
        assert sign(path, code, path).exit_code == 0
    wrong = recover(
        "sign", path, "--participant", "CHRL", "--governance-key", "maker", "--keys",
        homes / "keys" / "CHRL",
    )  # fmt: skip
    assert wrong.exit_code == 0
    refused = recover("apply", path, "--home", homes / "CHRL")
    assert refused.exit_code == 6
    assert "CHRL does not verify" in refused.err


def vote_above(home, code):
    """Let a stopped node's journal hold a finalize vote that nobody saw the outcome of."""
    chain_id = compute_chain_id(parse_genesis((home / "genesis.json").read_bytes()))
    vote_key = read_key(home / "keys" / "vote.key").public_key
    opening = make_opening(chain_id=chain_id, participant=code, vote_key=vote_key)
    journal, _ = open_journal(home / "data" / "votes.journal", opening)
    vote = Finalize(Proposition(0, 1, 0, b"\x42" * 32), bytes(64))
    journal.append([encode_record(VoteRecord(vote))])
    journal.close()


def test_node_that_voted_to_finalise_a_block_above_says_so_before_anybody_signs(homes):
    path = homes / "recovery.json"
    assert recover("draft", path, "--home", homes / "ALFA").exit_code == 0
    checked = recover("check", path, "--home", homes / "BRVO", "--json")
    assert checked.exit_code == 0, checked.err
    assert (checked.json["abandoned"], checked.json["signed_by"]) == ([], [])
    vote_above(homes / "BRVO", "BRVO")
    for command in ("check", "apply"):
        refused = recover(command, path, "--home", homes / "BRVO")
        assert refused.exit_code == 6
        assert f"voted to finalise block {'42' * 32} of view 1" in refused.err
    path.unlink()
    drafted = recover("draft", path, "--home", homes / "ALFA", "--abandon", "42" * 32, "--json")
    assert drafted.json["abandoned"] == ["42" * 32]
    assert recover("check", path, "--home", homes / "BRVO").exit_code == 0
    for code in CODES[:3]:
        assert sign(path, code, path).exit_code == 0
    assert recover("apply", path, "--home", homes / "BRVO").exit_code == 0


def test_digest_that_is_none_is_a_wrong_usage(homes):
    for text in ("42", "zz" * 32, "AB" * 32):
        drafted = recover("draft", homes / "x.json", "--home", homes / "ALFA", "--abandon", text)
        assert drafted.exit_code == 2
        assert "is no block digest" in drafted.err


def test_administrator_signs_one_document_for_an_epoch_however_often(homes):
    first, second = homes / "first.json", homes / "second.json"
    assert recover("draft", first, "--home", homes / "ALFA").exit_code == 0
    drafted = recover("draft", second, "--home", homes / "ALFA", "--abandon", "42" * 32)
    assert drafted.exit_code == 0
    for _ in range(2):
        assert sign(first, "ALFA", first).exit_code == 0
    before = second.read_bytes()
    refused = sign(second, "ALFA", second)
    assert refused.exit_code == 8
    assert "this key signed another document for epoch 1" in refused.err
    assert second.read_bytes() == before
    assert sign(second, "BRVO", second).exit_code == 0
    (note,) = (homes / "keys" / "ALFA").glob("*.signed.json")
    note.rename(homes / "moved-away")
    assert sign(second, "ALFA", second).exit_code == 0


# ---- one validator without its journal


def rejoin(home, *args):
    return run("node", "rejoin", "--home", home, *args, environment=ENVIRONMENT)


def read_lost_epochs(home, code="ALFA"):
    chain_id = compute_chain_id(parse_genesis((home / "genesis.json").read_bytes()))
    vote_key = read_key(home / "keys" / "vote.key").public_key
    opening = make_opening(chain_id=chain_id, participant=code, vote_key=vote_key)
    journal, records = open_votes(home / "data", opening)
    journal.close()
    assert all(isinstance(record, JournalLostRecord) for record in records)
    return [record.epoch for record in records]


def test_wiped_data_folder_is_begun_anew_without_a_vote_in_the_running_epoch(homes):
    home = homes / "ALFA"
    shutil.rmtree(home / "data")
    genesis = home / "genesis.json"
    refused = run("node", "init", "--home", home, "--participant", "ALFA", "--genesis", genesis)
    assert refused.exit_code == 8
    assert "atpar node rejoin" in refused.err
    begun = rejoin(home, "--epoch", "2", "--json")
    assert begun.exit_code == 0, begun.err
    assert begun.json["begun"] == ["votes.journal", "chain.db"]
    assert begun.json["first_epoch_with_a_vote"] == 3
    assert read_lost_epochs(home) == [0, 1, 2]
    again = rejoin(home, "--epoch", "2")
    assert again.exit_code == 3
    assert "votes.journal is there and whole" in again.err


def test_damaged_journal_is_kept_beside_the_one_that_is_begun_anew(homes):
    path = homes / "ALFA" / "data" / "votes.journal"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    begun = rejoin(homes / "ALFA", "--epoch", "0")
    assert begun.exit_code == 0, begun.err
    assert path.with_name("votes.journal.lost-before-epoch-1").read_bytes() == damaged
    assert read_lost_epochs(homes / "ALFA") == [0]


def test_journal_that_is_whole_is_never_begun_anew(homes):
    path = homes / "ALFA" / "data" / "votes.journal"
    before = path.read_bytes()
    refused = rejoin(homes / "ALFA", "--epoch", "0")
    assert refused.exit_code == 3
    assert "this validator may vote with it" in refused.err
    assert path.read_bytes() == before


@pytest.mark.parametrize(("epoch", "code"), [(9_999, 0), (10_000, 2)])
def test_epochs_without_a_vote_are_bounded(homes, epoch, code):
    shutil.rmtree(homes / "ALFA" / "data")
    assert rejoin(homes / "ALFA", "--epoch", str(epoch)).exit_code == code
    assert (homes / "ALFA" / "data").exists() is (code == 0)
