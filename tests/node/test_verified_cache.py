"""That a transaction's id was seen with good signatures says nothing about another envelope."""

from atpar.ledger.transactions import decode_transaction, encode_envelope
from tests.node.test_validator import (
    deliver_forged,
    forge_proposal,
    get_digest,
    has_notarized,
    pay,
    rested_cluster,
)


def test_forged_envelope_with_the_id_of_a_verified_one_gets_no_vote() -> None:
    cluster = rested_cluster()
    good = pay(cluster, 5)
    signatures = [(s.key, bytes(64)) for s in good.signatures]
    forged = decode_transaction(encode_envelope(good.body_bytes, signatures))
    leader, message = forge_proposal(cluster, [forged])
    for node in cluster.nodes.values():
        if node.code != leader:
            node.running.admit([good])
    for node in deliver_forged(cluster, leader, message):
        assert not has_notarized(node, get_digest(message))
