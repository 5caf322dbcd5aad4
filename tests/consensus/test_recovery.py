"""A chain that too few can vote on is reopened by its administrators."""

import pytest
from msgspec.structs import replace

from atpar.consensus.events import EpochOpened
from atpar.consensus.recovery import (
    RECOVERY,
    AdminSignature,
    RecoveryBody,
    RecoveryDocument,
    check_recovery,
    compute_recovery_bytes,
    open_recovered,
)
from atpar.consensus.safety import GateState
from atpar.consensus.types import Tip
from atpar.ledger.codec import encode
from atpar.ledger.errors import NonCanonical, ProofInvalid
from tests.consensus.cluster import Cluster
from tests.consensus.fakes import CHAIN_ID, NAMES, fake_sign, fake_verify, make_key
from tests.consensus.fakes import make_validators as make_set

STOPPED = make_set(0, NAMES[:4])
ADMINS = {name: make_key(name, 9) for name in NAMES[:4]}
BODY = RecoveryBody(1, 7, b"d" * 32, make_set(1, NAMES[:4]).members)


def sign(
    body: RecoveryBody, names: tuple[str, ...], *, chain_id: bytes = CHAIN_ID
) -> RecoveryDocument:
    message = compute_recovery_bytes(body, chain_id)
    signatures = tuple(AdminSignature(name, fake_sign(ADMINS[name], message)) for name in names)
    return RecoveryDocument(body, signatures)


def check(document: RecoveryDocument) -> None:
    check_recovery(
        document, chain_id=CHAIN_ID, stopped=STOPPED, admin_keys=ADMINS, verify=fake_verify
    )


def test_document_signed_by_a_quorum_opens_the_next_epoch() -> None:
    document = sign(BODY, NAMES[:3])
    check(document)
    assert RECOVERY.decode(encode(document)) == document
    start = open_recovered(document, Tip(b"d" * 32, 7, 1_000, None))
    assert (start.epoch, start.height, start.digest) == (1, 7, b"d" * 32)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (sign(BODY, NAMES[:2]), "2 signatures, the quorum is 3"),
        (sign(BODY, (NAMES[1], NAMES[0], NAMES[2])), "not sorted"),
        (sign(BODY, (NAMES[0], NAMES[0], NAMES[1])), "repeat"),
        (sign(BODY, NAMES[:3], chain_id=b"x" * 32), "does not verify"),
        (sign(replace(BODY, epoch=2), NAMES[:3]), "expected 1"),
        (sign(replace(BODY, members=BODY.members[:3]), NAMES[:3]), "3 validators"),
        (replace(sign(BODY, NAMES[:3]), body=replace(BODY, height=8)), "does not verify"),
    ],
    ids=["few", "order", "repeat", "chain", "epoch", "set", "body"],
)
def test_document_that_does_not_prove_it_is_refused(document: RecoveryDocument, why: str) -> None:
    with pytest.raises(ProofInvalid, match=why):
        check(document)


def test_signature_of_a_stranger_is_refused() -> None:
    document = sign(BODY, NAMES[:2])
    stranger = AdminSignature("ZZZZ", b"s" * 64)
    with pytest.raises(ProofInvalid, match="no validator"):
        check(RecoveryDocument(BODY, (*document.signatures, stranger)))


def test_document_for_another_tip_is_refused() -> None:
    with pytest.raises(ProofInvalid, match="final tip here"):
        open_recovered(sign(BODY, NAMES[:3]), Tip(b"e" * 32, 7, 1_000, None))


def test_document_longer_than_the_bound_is_refused() -> None:
    with pytest.raises(NonCanonical, match="at most"):
        RECOVERY.decode(b"\x00" * 65_537)


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
    body = RecoveryBody(
        1, replica.tip.height, replica.tip.digest, make_set(1, cluster.names).members
    )
    document = sign(body, NAMES[:3])
    check(document)
    for node in cluster.live:
        assert node.replica is not None
        start = open_recovered(document, node.replica.tip)
        node.disk.start = start
        node.disk.tip = Tip(start.digest, start.height, start.timestamp_ms, None)
        node.feed(EpochOpened(start))
    cluster.run_until(lambda: cluster.is_final(transaction), 5_000)
    cluster.pay(1_000)
