"""A chain that lost too many journals stands still, and goes on by its administrators' word."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from atpar.consensus.messages import Lane, decode_message
from atpar.consensus.records import (
    CertificateRecord,
    EpochOpenedRecord,
    JournalRecord,
    VoteRecord,
)
from atpar.consensus.recovery import check_journal
from atpar.consensus.types import EpochStart
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.certificates import Finalization, Proposition
from atpar.ledger.codes import Code
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.invariants import check_invariants
from atpar.ledger.operations import RecordEvidence
from atpar.ledger.votes import Finalize, Notarize, Nullify, get_body
from atpar.node.datadir import (
    decode_records,
    make_lost_records,
    make_opening,
    open_votes,
    read_position,
)
from atpar.node.errors import JournalMissing
from atpar.node.journal import create_journal, open_journal
from atpar.node.kv import MemoryKeyValue
from atpar.node.recover import (
    RecoveryFile,
    add_signature,
    apply_recovery,
    begin_journal,
    compute_sign_body,
    continue_journal,
    draft_recovery,
    join_recoveries,
    judge_recovery,
    make_recovered_records,
    parse_recovery,
    read_journal,
    render_recovery,
)
from atpar.node.store import Store, write_genesis
from tests.altering import flip
from tests.ledger.evidence import make_pair
from tests.ledger.world import BANKS, key_of, public
from tests.node.cluster import PATH, Cluster
from tests.node.test_epochs import (
    EPOCH_BLOCKS,
    JOINED,
    change_set,
    follow,
    make_epochs,
    pay_through,
)
from tests.node.test_validator import pay, settle

WIPED = ("CHRL", "DLTA")


def wipe(cluster: Cluster, *codes: str) -> None:
    """Lose the journals of nodes that are down."""
    for code in codes:
        disk = cluster.nodes[code].disk
        disk.cached.pop(PATH)
        disk.synced.pop(PATH)


def begin_store(cluster: Cluster, code: str) -> None:
    """Begin the store of a node that is down anew, at genesis."""
    genesis = cluster.world.genesis
    engine = cluster.nodes[code].engine = MemoryKeyValue()
    write_genesis(
        engine,
        chain_id=genesis.chain_id,
        header=genesis.header,
        digest=genesis.digest,
        overlay=genesis.overlay,
    )


def get_store(cluster: Cluster, code: str = "ALFA") -> Store:
    return Store(cluster.nodes[code].engine)


def sign(file: RecoveryFile, *codes: str) -> RecoveryFile:
    for code in codes:
        signature = key_of(f"{code}-gov").sign(compute_sign_body(file)).signature
        file = add_signature(file, code, signature)
    return file


def make_stuck() -> Cluster:
    """Return a cluster whose quorum is lost: all at one height, two journals gone."""
    cluster = make_epochs()
    paid = pay(cluster)
    settle(cluster, paid)
    assert cluster.run(10_000, until=lambda: len(cluster.state_roots()) == 1)
    cluster.crash()
    wipe(cluster, *WIPED)
    return cluster


def read_records(cluster: Cluster, code: str) -> list[JournalRecord] | None:
    """Return what the journal of a node that is down holds; None where it is gone."""
    disk = cluster.nodes[code].disk
    if PATH not in disk.cached:
        return None
    return decode_records(open_journal(PATH, cluster._opening(code), disk=disk)[1])


def recover(cluster: Cluster, file: RecoveryFile, *codes: str) -> None:
    """Apply a document to nodes that are down, as `atpar node recover apply` does."""
    for code in codes or BANKS:
        node = cluster.nodes[code]
        start = apply_recovery(Store(node.engine), file, read_records(cluster, code))
        opening, records = cluster._opening(code), make_recovered_records(start)
        if PATH in node.disk.cached:
            open_journal(PATH, opening, disk=node.disk)[0].append(records)
        else:
            create_journal(PATH, opening, records, disk=node.disk)


def check_votes(cluster: Cluster) -> None:
    """No node ever signed two different votes that exclude each other."""
    for node in cluster.nodes.values():
        cast: dict[tuple[type, int, int], object] = {}
        for _, _, data in node.sent:
            vote = decode_message(data)
            if isinstance(vote, Notarize | Nullify | Finalize):
                body = get_body(vote)
                place = (type(vote), body.epoch, body.view)
                assert cast.setdefault(place, body) == body, f"{node.code} voted twice: {place}"
        for kind, epoch, view in list(cast):
            assert kind is not Nullify or (Finalize, epoch, view) not in cast


def test_two_lost_journals_stop_the_chain_and_a_document_reopens_it() -> None:
    cluster = make_stuck()
    cluster.start("ALFA", "BRVO")
    for code in WIPED:
        with pytest.raises(JournalMissing):
            cluster.start(code)
        cluster.nodes[code].validator = None
    stuck = pay(cluster)
    cluster.submit(stuck)
    cluster.run(60_000)
    assert cluster.find_final("ALFA", stuck) is None
    cluster.crash("ALFA", "BRVO")

    drafted = draft_recovery(get_store(cluster))
    assert drafted.body.epoch == 1
    parts = [parse_recovery(render_recovery(sign(drafted, code))) for code in BANKS[:3]]
    file = join_recoveries(parts)
    recover(cluster, file)
    cluster.start()
    settle(cluster, stuck, within_ms=30_000)
    settle(cluster, pay(cluster))
    assert {read_position(get_store(cluster, code)).start.epoch for code in BANKS} == {1}
    check_votes(cluster)
    assert not any(node.halt for node in cluster.nodes.values())


def test_recovered_epoch_ends_at_the_ledgers_boundary_and_survives_restarts() -> None:
    cluster = make_stuck()
    recover(cluster, sign(draft_recovery(get_store(cluster)), *BANKS[:3]))
    cluster.start()
    settle(cluster, pay(cluster), within_ms=30_000)
    cluster.crash()
    cluster.start()
    pay_through(cluster, EPOCH_BLOCKS + 3, *BANKS)
    position = read_position(get_store(cluster))
    assert (position.start.epoch, position.start.height) == (2, EPOCH_BLOCKS)
    check_votes(cluster)
    assert {follow(cluster, code) for code in BANKS} == {2}
    assert not any(node.alarms for node in cluster.nodes.values())


def test_node_without_the_document_waits_in_peace_until_it_has_it() -> None:
    cluster = make_stuck()
    file = sign(draft_recovery(get_store(cluster)), *BANKS[:3])
    recover(cluster, file, "BRVO", "CHRL", "DLTA")
    cluster.start("ALFA", "BRVO", "CHRL", "DLTA")
    alfa = cluster.nodes["ALFA"]
    height = alfa.height
    paid = [pay(cluster) for _ in range(3)]
    cluster.submit(*paid)
    assert cluster.run(30_000, until=lambda: bool(cluster.find_final("BRVO", paid[-1])))
    cluster.run(5_000)
    assert alfa.height == height
    assert not any(node.faults for node in cluster.nodes.values())
    cluster.crash("ALFA")
    recover(cluster, file, "ALFA")
    cluster.start("ALFA")
    settle(cluster, *paid, pay(cluster), within_ms=30_000)
    check_votes(cluster)


def test_journal_lost_again_after_the_recovery_does_not_vote_again() -> None:
    cluster = make_stuck()
    file = sign(draft_recovery(get_store(cluster)), *BANKS[:3])
    recover(cluster, file)
    cluster.start()
    settle(cluster, pay(cluster), within_ms=30_000)
    cluster.crash("DLTA")
    wipe(cluster, "DLTA")
    recover(cluster, file, "DLTA")
    settle(cluster, pay(cluster), within_ms=30_000)
    cluster.start("DLTA")
    settle(cluster, pay(cluster), within_ms=30_000)
    check_votes(cluster)


def test_validator_that_begins_its_journal_anew_votes_from_the_named_epoch_on() -> None:
    cluster = make_epochs()
    settle(cluster, pay(cluster))
    cluster.crash("DLTA")
    wipe(cluster, "DLTA")
    node = cluster.nodes["DLTA"]
    begin_store(cluster, "DLTA")
    create_journal(PATH, cluster._opening("DLTA"), make_lost_records(0, 1), disk=node.disk)
    before = len(node.sent)
    cluster.start("DLTA")
    pay_through(cluster, 3 * EPOCH_BLOCKS + 3, *BANKS)
    votes = [decode_message(data) for _, _, data in node.sent[before:]]
    epochs = {get_body(vote).epoch for vote in votes if isinstance(vote, Notarize | Finalize)}
    assert epochs == {2, 3}
    check_votes(cluster)


def test_document_is_refused_below_quorum_on_another_tip_and_for_strangers() -> None:
    cluster = make_stuck()
    store = get_store(cluster)
    drafted = draft_recovery(store)
    before = dict(cluster.nodes["ALFA"].engine.values)
    body = drafted.body
    stranger = replace(body.members[0], vote_key=public("ZULU-vote"))
    abandoning = replace(body, abandoned=(b"a" * 32,))
    for file, why in (
        (sign(drafted, "ALFA", "BRVO"), "2 signatures, the quorum is 3"),
        (sign(replace(drafted, body=replace(body, height=body.height - 1)), *BANKS), "final tip"),
        (sign(replace(drafted, body=replace(body, epoch=2)), *BANKS), "expected 1"),
        (
            sign(
                replace(drafted, body=replace(body, members=(stranger, *body.members[1:]))), *BANKS
            ),
            "registered neither",
        ),
        (sign(replace(drafted, chain_id=b"x" * 32), *BANKS), "not this one"),
        (replace(sign(drafted, *BANKS), body=abandoning), "does not verify"),
    ):
        with pytest.raises(ProofInvalid, match=why):
            apply_recovery(store, file, None)
    assert cluster.nodes["ALFA"].engine.values == before
    with pytest.raises(ProofInvalid, match="different documents"):
        join_recoveries([drafted, replace(drafted, body=replace(body, epoch=2))])


def test_light_client_follows_over_changes_of_the_set_and_a_recovery() -> None:
    cluster = make_epochs()
    change_set(cluster)
    cluster.add("ECHO")
    cluster.start("ECHO")
    pay_through(cluster, EPOCH_BLOCKS + 3)
    cluster.run(1_000)
    height = cluster.nodes["ALFA"].height
    assert {cluster.nodes[code].height for code in JOINED} == {height}
    cluster.crash()
    wipe(cluster, "CHRL", "ECHO")
    file = sign(draft_recovery(get_store(cluster)), "ALFA", "BRVO", "ECHO")
    recover(cluster, file, *JOINED)
    cluster.start(*JOINED)
    pay_through(cluster, 2 * EPOCH_BLOCKS + 2)
    assert {follow(cluster, code) for code in JOINED} == {3}
    check_votes(cluster)


def test_light_client_follows_over_recoveries_without_a_block_between() -> None:
    cluster = make_stuck()
    for epoch in (1, 2):
        recover(cluster, sign(draft_recovery(get_store(cluster)), *BANKS[:3]))
        assert read_position(get_store(cluster)).start.epoch == epoch
    cluster.start()
    settle(cluster, pay(cluster), within_ms=30_000)
    assert {follow(cluster, code) for code in BANKS} == {2}


def test_applying_twice_changes_nothing() -> None:
    cluster = make_stuck()
    file = sign(draft_recovery(get_store(cluster)), *BANKS)
    first = apply_recovery(get_store(cluster), file, None)
    after = dict(cluster.nodes["ALFA"].engine.values)
    assert apply_recovery(get_store(cluster), file, None) == first
    assert cluster.nodes["ALFA"].engine.values == after


def test_journal_that_proves_a_higher_block_final_stops_the_recovery() -> None:
    cluster = make_stuck()
    tip = read_position(get_store(cluster)).tip
    assert tip.finalization is not None
    check_journal([CertificateRecord(tip.finalization)], tip, epoch=0, abandoned=())
    above = Proposition(0, tip.view + 1, tip.view, b"n" * 32)
    record = CertificateRecord(Finalization(above, b"\7", (bytes(64),) * 3))
    with pytest.raises(ProofInvalid, match="start the node once"):
        check_journal([record], tip, epoch=0, abandoned=())


def test_damaged_journal_is_set_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    cluster = make_stuck()
    file = sign(draft_recovery(get_store(cluster)), *BANKS[:3])
    start = apply_recovery(get_store(cluster), file, None)
    opening = make_opening(
        chain_id=cluster.world.chain_id, participant="ALFA", vote_key=public("ALFA-vote")
    )
    assert read_journal(tmp_path, opening, keys=frozenset()) is None
    assert begin_journal(tmp_path, opening, start) is None
    path = tmp_path / PATH.name
    path.write_bytes(flip(path.read_bytes(), at=-1))
    assert read_journal(tmp_path, opening, keys=frozenset()) is None
    aside = begin_journal(tmp_path, opening, start)
    assert aside is not None
    assert aside.exists()
    continue_journal(tmp_path, opening, start, keys=frozenset())
    sets = ValidatorSet(2, start.validators.members)
    following = EpochStart(sets, start.digest, start.height, 0)
    for _ in range(2):
        continue_journal(tmp_path, opening, following, keys=frozenset())
    journal, records = open_votes(tmp_path, opening)
    journal.close()
    assert records == [EpochOpenedRecord(epoch, start.height, start.digest) for epoch in (1, 2)]


def test_lower_node_fetches_the_missing_blocks_before_it_applies_the_document() -> None:
    cluster = make_epochs()
    cluster.crash("ALFA")
    for _ in range(3):
        settle(cluster, pay(cluster))
    cluster.run(1_000)
    cluster.crash("BRVO", "CHRL", "DLTA")
    wipe(cluster, *WIPED)
    file = sign(draft_recovery(get_store(cluster, "BRVO")), *BANKS[1:])
    with pytest.raises(ProofInvalid, match="final tip here"):
        apply_recovery(get_store(cluster), file, None)
    highest = get_store(cluster, "BRVO").position.height
    assert get_store(cluster, "CHRL").position.height == highest
    recover(cluster, file, "BRVO", "CHRL", "DLTA")
    cluster.start("ALFA", "BRVO", "CHRL", "DLTA")
    cluster.submit(pay(cluster))
    assert cluster.run(30_000, until=lambda: cluster.nodes["ALFA"].height == highest)
    cluster.run(3_000)
    cluster.crash("ALFA")
    recover(cluster, file, "ALFA")
    cluster.start("ALFA")
    settle(cluster, pay(cluster), within_ms=30_000)
    check_votes(cluster)
    assert not any(node.faults for node in cluster.nodes.values())


def test_validator_that_voted_to_finalise_a_block_above_refuses_the_document() -> None:
    """Three honest validators vote for a block, a fourth sees it final, and nobody reaches it."""
    cluster = make_epochs()
    settle(cluster, pay(cluster))
    assert cluster.run(10_000, until=lambda: len(cluster.state_roots()) == 1)
    stop_before_finality(cluster, "DLTA")
    final = cluster.nodes["DLTA"].height
    others = BANKS[:3]
    assert {cluster.nodes[code].height for code in others} == {final - 1}
    file = sign(draft_recovery(get_store(cluster)), *others)
    for code in others:
        with pytest.raises(ProofInvalid, match="voted to finalise block"):
            judge_recovery(get_store(cluster, code), file, read_records(cluster, code))
        with pytest.raises(ProofInvalid, match="voted to finalise block"):
            recover(cluster, file, code)
    # They were right: the block is final, and found so once all are back.
    cluster.start()
    settle(cluster, pay(cluster), within_ms=30_000)
    check_votes(cluster)


def stop_before_finality(cluster: Cluster, code: str) -> None:
    """Pay, and stop all when only this node has heard the finalize votes of a quorum."""
    height, transmit = cluster.nodes[code].height, cluster._transmit

    def lose(sender: str, receiver: str, lane: Lane, data: bytes) -> None:
        is_lost = isinstance(decode_message(data), Finalize | Finalization)
        if receiver == code or not is_lost:
            transmit(sender, receiver, lane, data)

    cluster._transmit = lose
    cluster.submit(pay(cluster))
    assert cluster.run(5_000, until=lambda: cluster.nodes[code].height > height)
    cluster.crash()
    cluster._transmit = transmit


def test_abandoned_block_is_named_by_the_administrators() -> None:
    cluster = make_stuck()
    store = get_store(cluster)
    tip = read_position(store).tip
    vote = VoteRecord(Finalize(Proposition(0, tip.view + 1, tip.view, b"n" * 32), bytes(64)))
    refused = sign(draft_recovery(store), *BANKS)
    with pytest.raises(ProofInvalid, match="voted to finalise block 6e6e"):
        apply_recovery(store, refused, [vote])
    named = sign(draft_recovery(store, abandoned=[b"n" * 32]), *BANKS)
    assert apply_recovery(store, named, [vote]).epoch == 1


def test_store_begun_anew_does_not_vote_in_the_epoch_before_the_recovery() -> None:
    """Journals that opened the recovered epoch are not led back into the one that stopped."""
    cluster = make_epochs()
    settle(cluster, pay(cluster))
    assert cluster.run(10_000, until=lambda: len(cluster.state_roots()) == 1)
    cluster.crash()
    file = sign(draft_recovery(get_store(cluster)), *BANKS[:3])
    recover(cluster, file, *BANKS[:3])
    cluster.start(*BANKS[:3])
    paid = pay(cluster)
    cluster.submit(paid)
    assert cluster.run(30_000, until=lambda: bool(cluster.find_final("CHRL", paid)))
    cluster.run(1_000)
    cluster.crash(*BANKS[:3])
    for code in BANKS[:2]:
        begin_store(cluster, code)
    others = ("ALFA", "BRVO", "DLTA")
    cluster.start(*others)
    cluster.submit(pay(cluster))
    cluster.run(30_000)
    assert {cluster.nodes[code].height for code in others} == {file.body.height}
    check_votes(cluster)


def test_evidence_is_recorded_of_the_stopped_epoch_and_of_the_recovered_one() -> None:
    cluster = make_stuck()
    recover(cluster, sign(draft_recovery(get_store(cluster), [*BANKS]), *BANKS[:3]))
    cluster.start()
    settle(cluster, pay(cluster), within_ms=30_000)
    outcomes = {}
    for epoch in (0, 1, 2):
        evidence = make_pair(chain_id=cluster.world.chain_id, epoch=epoch, code="DLTA")
        op = RecordEvidence("AUDT/admin", evidence)
        tx = cluster.world.make(op, sender="AUDT/admin")
        settle(cluster, tx)
        place = cluster.find_final("ALFA", tx)
        assert place is not None
        receipts = get_store(cluster).get_receipts(place[0])
        assert receipts is not None
        outcomes[epoch] = Code(receipts[place[1]].code)
    assert outcomes == {0: Code.OK, 1: Code.OK, 2: Code.UNKNOWN_EPOCH}
    assert check_invariants(get_store(cluster).get_final().view) == []
    assert len(cluster.state_roots()) == 1
