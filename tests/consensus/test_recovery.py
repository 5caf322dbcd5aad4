"""A chain that too few can vote on is reopened by its administrators."""

import pytest

from atpar.consensus.events import EpochOpened
from atpar.consensus.records import CertificateRecord, JournalRecord, VoteRecord
from atpar.consensus.recovery import check_journal, list_open_votes, open_recovered
from atpar.consensus.safety import GateState
from atpar.consensus.types import Tip
from atpar.ledger.certificates import (
    Finalization,
    Nullification,
    NullifyBody,
    Proposition,
)
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.recovery import RecoveryBody, RecoveryDocument
from atpar.ledger.votes import Finalize, Notarize
from tests.consensus.cluster import Cluster
from tests.consensus.fakes import NAMES
from tests.consensus.fakes import make_validators as make_set

TIP = Tip(b"d" * 32, 7, 1_000, Finalization(Proposition(0, 9, 8, b"d" * 32), b"\7", ()))
ABOVE = Proposition(0, 10, 9, b"e" * 32)


def make_document(digest: bytes = b"d" * 32) -> RecoveryDocument:
    """Return one that nobody signed: that is checked before, in `ledger/recovery.py`."""
    return RecoveryDocument(RecoveryBody(1, 7, digest, make_set(1, NAMES[:4]).members, ()), ())


def test_document_opens_the_next_epoch_on_the_final_tip_and_nowhere_else() -> None:
    start = open_recovered(make_document(), TIP)
    assert (start.epoch, start.height, start.digest) == (1, 7, b"d" * 32)
    with pytest.raises(ProofInvalid, match="final tip here"):
        open_recovered(make_document(b"e" * 32), TIP)


def check(*records: JournalRecord, abandoned: tuple[bytes, ...] = ()) -> None:
    check_journal(records, TIP, epoch=0, abandoned=abandoned)


def test_own_finalize_vote_above_the_tip_stands_against_a_document() -> None:
    """It may have completed a quorum on a machine that nobody reached."""
    vote = VoteRecord(Finalize(ABOVE, bytes(64)))
    with pytest.raises(ProofInvalid, match=r"voted to finalise block 6565.* of view 10"):
        check(vote)
    with pytest.raises(ProofInvalid, match="of view 10"):
        check(vote, abandoned=(b"f" * 32,))
    check(vote, abandoned=(ABOVE.digest,))
    assert list_open_votes([vote], TIP, epoch=0) == [ABOVE]


def test_votes_that_can_finalise_nothing_above_the_tip_do_not_count() -> None:
    nullified = CertificateRecord(Nullification(NullifyBody(0, 10), b"\7", ()))
    other_view = CertificateRecord(Nullification(NullifyBody(0, 11), b"\7", ()))
    other_epoch = CertificateRecord(Nullification(NullifyBody(1, 10), b"\7", ()))
    vote = VoteRecord(Finalize(ABOVE, bytes(64)))
    check(vote, nullified)
    check(nullified, vote)
    for unrelated in (other_view, other_epoch):
        with pytest.raises(ProofInvalid, match="of view 10"):
            check(vote, unrelated)
    check(
        VoteRecord(Notarize(ABOVE, bytes(64))),
        VoteRecord(Finalize(Proposition(0, 9, 8, b"x" * 32), bytes(64))),
        VoteRecord(Finalize(Proposition(0, 10, 9, TIP.digest), bytes(64))),
        VoteRecord(Finalize(Proposition(1, 10, 9, b"e" * 32), bytes(64))),
    )


def test_finalization_above_the_tip_stops_the_recovery_whatever_is_abandoned() -> None:
    proven = CertificateRecord(Finalization(ABOVE, b"\7", ()))
    with pytest.raises(ProofInvalid, match="start the node once"):
        check(proven, abandoned=(ABOVE.digest,))


def test_chain_that_too_few_can_vote_on_goes_on_after_recovery() -> None:
    cluster = Cluster().boot()
    for _ in range(3):
        cluster.pay(1_000)
    cluster.run(500)
    for name in cluster.names[:2]:
        node = cluster.nodes[name]
        cluster.kill(node)
        node.disk.journal.clear()
        node.boot()
    transaction = cluster.submit()
    cluster.run(20_000)
    assert not cluster.is_final(transaction)
    lost = [
        node for node in cluster.live if node.replica and node.replica.gate_state is GateState.LOST
    ]
    assert len(lost) == 2
    tips = {node.replica.tip.digest for node in cluster.live if node.replica}
    assert len(tips) == 1
    replica = cluster.live[0].replica
    assert replica is not None
    members = make_set(1, cluster.names).members
    body = RecoveryBody(1, replica.tip.height, replica.tip.digest, members, ())
    document = RecoveryDocument(body, ())
    for node in cluster.live:
        assert node.replica is not None
        start = open_recovered(document, node.replica.tip)
        node.disk.start = start
        node.disk.tip = Tip(start.digest, start.height, start.timestamp_ms, None)
        node.feed(EpochOpened(start))
    cluster.run_until(lambda: cluster.is_final(transaction), 5_000)
    cluster.pay(1_000)
