"""The validator set changes while payments go on: real ledger and disks, virtual time."""

import pytest
from msgspec.structs import replace

from atpar.consensus.messages import decode_message
from atpar.ledger.blocks import ValidatorSetId
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.operations import NewValidator, SetValidators
from atpar.ledger.proofs import (
    FinalityProof,
    compute_trust_root,
    follow_epochs,
    verify_finality,
)
from atpar.ledger.transactions import Transaction
from atpar.ledger.votes import Finalize, Notarize, Nullify
from atpar.node.store import Store
from tests.ledger.test_members import new_participant
from tests.ledger.world import (
    BANKS,
    make_certificate,
    make_document,
    make_params,
    possess_all,
    public,
)
from tests.node.cluster import Cluster
from tests.node.test_validator import pay, settle

EPOCH_BLOCKS = 24
DOCUMENT = make_document(params=make_params(epoch_blocks=EPOCH_BLOCKS))
JOINED = ("ALFA", "BRVO", "CHRL", "ECHO")


def make_epochs(**options: object) -> Cluster:
    """Return a running cluster with short epochs, in which ALFA/main holds a million."""
    cluster = Cluster(document=DOCUMENT, **options)
    cluster.start()
    cluster.world.advance(1_000)
    cluster.world.fund("ALFA/main", 1_000_000)
    for block in cluster.world.executed:
        settle(cluster, *block.transactions)
    return cluster


def set_validators(cluster: Cluster, codes: tuple[str, ...], **keys: str) -> Transaction:
    """Return a transaction that fixes the next set; `keys` names vote keys that change."""
    names = {code: keys.get(code, f"{code}-vote") for code in codes}
    members = tuple(
        NewValidator(
            participant=code,
            vote_key=public(names[code]),
            admin_key=public(f"{code}-gov"),
            root_certificate=make_certificate(code),
            address=f"{code.lower()}.test:7201",
        )
        for code in codes
    )
    proofs = []
    for code in codes:
        fresh = [names[code]] if code in keys else []
        if code not in BANKS:
            fresh += [f"{code}-vote", f"{code}-gov"]
        proofs += possess_all(code, fresh, cluster.world.chain_id)
    op = SetValidators(members, tuple(sorted(proofs, key=lambda proof: proof.key)))
    return cluster.world.make(op, sender="CHAIN/governance")


def change_set(cluster: Cluster) -> None:
    """DLTA leaves, ECHO joins, BRVO rotates its vote key: from the next epoch on."""
    cluster.nodes["BRVO"].next_keys = ["BRVO-vote2"]
    cluster.crash("BRVO")
    cluster.start("BRVO")
    settle(cluster, cluster.world.make(new_participant(cluster.world), sender="CHAIN/governance"))
    settle(cluster, set_validators(cluster, JOINED, BRVO="BRVO-vote2"))


def pay_through(cluster: Cluster, height: int, *codes: str) -> list[Transaction]:
    """Pay one payment after the other until these nodes have a height; return the payments."""
    paid = []
    for _ in range(4 * height):
        if all(cluster.nodes[code].height >= height for code in codes or JOINED):
            return paid
        paid.append(pay(cluster, len(paid) + 1))
        cluster.submit(paid[-1])
        assert cluster.run(
            10_000,
            until=lambda: all(cluster.find_final(code, paid[-1]) for code in codes or JOINED),
        )
    raise AssertionError(f"height {height} was not reached")


def follow(cluster: Cluster, code: str) -> int:
    """Follow a node's chain as a light client does; return the last epoch that it proves."""
    store = Store(cluster.nodes[code].engine)
    trust = compute_trust_root(DOCUMENT)
    for height in range(1, store.position.height + 1):
        path = store.get_finality_path(height)
        assert path is not None
        epoch = path.finalization.proposition.epoch
        steps = store.get_epoch_steps(epoch)
        members = follow_epochs(steps, trust)[-1].validators
        header = verify_finality(
            FinalityProof(path.finalization, path.headers),
            chain_id=trust.chain_id,
            validators=members,
        )
        assert header == store.get_header(height)
    return epoch


def test_members_leave_join_and_rotate_keys_while_payments_go_on() -> None:
    cluster = make_epochs()
    change_set(cluster)
    pay_through(cluster, EPOCH_BLOCKS, *BANKS)
    assert cluster.run(5_000, until=lambda: bool(cluster.nodes["ALFA"].opened))
    cluster.add("ECHO")
    cluster.start("ECHO")
    pay_through(cluster, 2 * EPOCH_BLOCKS + 3)
    assert [start.epoch for start in cluster.nodes["ECHO"].opened] == [1, 2]
    (first, *_) = cluster.nodes["ALFA"].opened
    assert [(m.participant, m.vote_key) for m in first.validators.members] == [
        (code, public("BRVO-vote2" if code == "BRVO" else f"{code}-vote")) for code in JOINED
    ]
    # Two of three votes are of the rotated key and of the member that joined.
    cluster.crash("ALFA", "DLTA")
    pay_through(cluster, 3 * EPOCH_BLOCKS + 3, "BRVO", "CHRL", "ECHO")
    assert follow(cluster, "ECHO") == 3
    cluster.start("ALFA")
    assert cluster.run(
        20_000, until=lambda: len({cluster.nodes[code].height for code in JOINED}) == 1
    )
    assert not [alarm for node in cluster.nodes.values() for alarm in node.alarms]
    assert not any(node.faults for node in cluster.nodes.values())
    assert follow(cluster, "ALFA") == 3


def test_member_that_left_is_dismissed_once_it_has_the_boundary() -> None:
    cluster = make_epochs()
    change_set(cluster)
    cluster.add("ECHO")
    cluster.start("ECHO")
    cluster.cut("DLTA")
    pay_through(cluster, 2 * EPOCH_BLOCKS - 2)
    assert cluster.nodes["DLTA"].height < EPOCH_BLOCKS
    assert not any(node.dismissed for node in cluster.nodes.values())
    cluster.heal()
    dismissed = cluster.nodes["ALFA"].dismissed
    assert cluster.run(20_000, until=lambda: dismissed == ["DLTA"])
    assert [start.epoch for start in cluster.nodes["DLTA"].opened][:1] == [1]


def test_cluster_restarts_in_the_middle_of_every_epoch() -> None:
    cluster = make_epochs()
    change_set(cluster)
    cluster.add("ECHO")
    cluster.start("ECHO")
    for stop in (EPOCH_BLOCKS, EPOCH_BLOCKS + 5, 2 * EPOCH_BLOCKS):
        pay_through(cluster, stop, *(JOINED if stop > EPOCH_BLOCKS else BANKS))
        cluster.crash(*BANKS, "ECHO")
        cluster.start(*BANKS, "ECHO")
    pay_through(cluster, 3 * EPOCH_BLOCKS + 1)
    assert follow(cluster, "BRVO") == 3
    assert not [alarm for node in cluster.nodes.values() for alarm in node.alarms]


def test_member_without_its_new_vote_key_observes_until_it_has_it() -> None:
    cluster = make_epochs()
    settle(cluster, set_validators(cluster, BANKS, BRVO="BRVO-vote2"))
    pay_through(cluster, EPOCH_BLOCKS + 2, *BANKS)
    brvo = cluster.nodes["BRVO"]
    brvo.sent.clear()
    pay_through(cluster, EPOCH_BLOCKS + 4, *BANKS)
    votes = [decode_message(data) for _, _, data in brvo.sent]
    assert not [vote for vote in votes if isinstance(vote, Notarize | Nullify | Finalize)]
    cluster.crash("BRVO")
    brvo.next_keys = ["BRVO-vote2"]
    cluster.start("BRVO")
    # Its journal has this epoch's opening, and the others hold no vote of it: it may vote.
    cluster.crash("ALFA")
    pay_through(cluster, EPOCH_BLOCKS + 8, "BRVO", "CHRL", "DLTA")


def test_light_client_refuses_a_step_that_is_missing_or_of_another_set() -> None:
    cluster = make_epochs()
    change_set(cluster)
    cluster.add("ECHO")
    cluster.start("ECHO")
    pay_through(cluster, 2 * EPOCH_BLOCKS + 2)
    store = Store(cluster.nodes["ECHO"].engine)
    first, second = store.get_epoch_steps(2)
    trust = compute_trust_root(DOCUMENT)
    stranger = ValidatorSetId(1, (*first.validators.members[:3], first.validators.members[0]))
    for steps in ([second], [second, first], [replace(first, validators=stranger), second]):
        with pytest.raises(ProofInvalid):
            follow_epochs(steps, trust)
