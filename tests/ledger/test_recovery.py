"""A light client crosses epochs that administrators opened, and is led to no fork on the way."""

import dataclasses
import functools

import pytest
from msgspec.structs import replace

from atpar.ledger.blocks import compute_digest
from atpar.ledger.codec import encode
from atpar.ledger.commitment import commit_state
from atpar.ledger.errors import ForkFound, NonCanonical, ProofInvalid
from atpar.ledger.histories import check_one_history
from atpar.ledger.limits import MAX_ABANDONED_BLOCKS
from atpar.ledger.proofs import (
    PROOF_FILE,
    BoundaryStep,
    FinalityProof,
    RecoveryStep,
    TrustRoot,
    Verified,
    follow_epochs,
    parse_proof,
    render_proof,
    verify_proof,
)
from atpar.ledger.proving import build_proof_file, build_solvency_proof, prove_sets
from atpar.ledger.records import CURRENT, VALIDATORS, identify_validators
from atpar.ledger.recovery import RECOVERY, RecoveryDocument
from atpar.ledger.state import Overlay
from tests.ledger.epochs import Chain
from tests.ledger.finality import get_trust
from tests.ledger.test_proofs import list_alterations
from tests.ledger.world import BANKS

JOINED = ("ALFA", "BRVO", "CHRL", "ECHO")


def verify(chain: Chain) -> Verified:
    return verify_proof(chain.prove(), get_trust(chain))


def refuse(chain: Chain, steps: list, message: str) -> None:
    with pytest.raises(ProofInvalid, match=message):
        follow_epochs(steps, get_trust(chain))


def rotate(chain: Chain) -> Chain:
    """ECHO takes DLTA's seat, BRVO rotates its vote key and ALFA its administrator's."""
    chain.add_participant()
    chain.set_validators(JOINED, BRVO_vote="BRVO-vote2", ALFA_gov="ALFA-gov2")
    return chain.end_epoch()


@functools.cache
def rotated() -> Chain:
    """Genesis, an epoch by `set_validators`, and two blocks in it; not to be changed."""
    return rotate(Chain()).extend(2)


@functools.cache
def recovered() -> Chain:
    """As above, then a recovery, blocks, a boundary, and blocks again; not to be changed."""
    chain = rotate(Chain()).extend(2)
    return chain.recover_by("ALFA", "BRVO", "ECHO").end_epoch().extend(1)


# ---- what is followed


def test_sets_are_followed_through_set_validators_a_recovery_and_further_epochs() -> None:
    chain = Chain()
    rotate(chain).extend(2).recover_by("ALFA", "BRVO", "ECHO")
    assert verify(chain.extend(1)).block.epoch == 2
    chain.set_validators(BANKS, BRVO_vote="BRVO-vote2", ALFA_gov="ALFA-gov2").end_epoch()
    verified = verify(chain.extend(1))
    assert verified.block.epoch == 3
    assert verified.block.signers == BANKS[:3]
    assert [opening.document is not None for opening in verified.epochs] == [0, 0, 1, 0]
    crossed = verified.epochs[2]
    assert crossed.document is not None
    assert crossed.start is not None
    assert crossed.start.height == crossed.document.body.height == 8
    assert [each.participant for each in crossed.document.signatures] == ["ALFA", "BRVO", "ECHO"]


def test_recovery_with_members_of_the_set_that_was_fixed_for_the_next_epoch() -> None:
    chain = Chain().add_participant()
    chain.set_validators(JOINED).extend(1)
    chain.recover_by("ALFA", "BRVO", "DLTA", members=("ALFA", "BRVO", "DLTA", "ECHO")).extend(1)
    assert [m.participant for m in chain.validators.members] == ["ALFA", "BRVO", "DLTA", "ECHO"]
    assert verify(chain).block.epoch == 1
    # ECHO's administrator counts from here on, CHRL's no longer.
    follow_epochs(
        [*chain.steps, chain.make_step(sign_all(chain, "ALFA", "BRVO", "ECHO"))], trust(chain)
    )
    strange = chain.make_step(sign_all(chain, "ALFA", "BRVO", "CHRL", CHRL="CHRL-gov"))
    refuse(chain, [*chain.steps, strange], "CHRL is no validator of epoch 1")


def sign_all(chain: Chain, *codes: str, **names: str) -> RecoveryDocument:
    return chain.sign(chain.draft(), *codes, **names)


def trust(chain: Chain) -> TrustRoot:
    return get_trust(chain)


def test_epoch_that_stopped_before_its_first_block_is_recovered() -> None:
    chain = rotate(Chain())
    chain.recover_by("ALFA", "BRVO", "CHRL")
    step = chain.steps[-1]
    assert isinstance(step, RecoveryStep)
    assert step.base is None
    assert step.sets is not None
    assert verify(chain.extend(1)).block.epoch == 2


def test_chain_is_recovered_twice_on_one_block_and_on_genesis() -> None:
    chain = Chain()
    chain.recover_by(*BANKS[:3]).recover_by(*BANKS[1:])
    assert verify(chain.extend(1)).block.epoch == 2
    chain.recover_by(*BANKS[:3]).recover_by(*BANKS[1:])
    assert verify(chain.extend(1)).block.epoch == 4
    checkpoint = replace_genesis(trust(chain))
    with pytest.raises(ProofInvalid, match="the block that epoch 0 began on is not known"):
        verify_proof(chain.prove(), checkpoint)


def replace_genesis(root: TrustRoot) -> TrustRoot:
    """Return the trust root of somebody who was told the set, and has no genesis document."""
    return TrustRoot(root.chain_id, root.validators)


# ---- alterations


@functools.cache
def small() -> Chain:
    """One recovery after one block: the shortest file that has every part."""
    return Chain().extend(1).recover_by(*BANKS[:3]).extend(1)


@pytest.mark.no_cover
def test_no_flipped_byte_of_a_file_with_a_recovery_passes() -> None:
    data = encode(small().prove())
    assert verify_proof(PROOF_FILE.decode(data), trust(small()))
    for altered in list_alterations(data, (0x01, 0x80)):
        with pytest.raises((NonCanonical, ProofInvalid)):
            verify_proof(PROOF_FILE.decode(altered), trust(small()))


def test_file_with_a_recovery_reads_back_from_json_and_says_its_steps() -> None:
    file = recovered().prove()
    assert parse_proof(render_proof(file)) == file
    for kind in (b'"boundary_step"', b'"recovery_step"'):
        assert kind in render_proof(file)


def test_missing_doubled_and_swapped_steps_are_refused() -> None:
    chain = recovered()
    first, second, third = chain.steps
    file = chain.prove()
    for steps in (
        (second, third), (first, third), (first, second), (first, second, second, third),
        (second, first, third), (first, second, third, third), (),
    ):  # fmt: skip
        with pytest.raises(ProofInvalid):
            verify_proof(replace(file, epochs=steps), trust(chain))


# ---- who may sign


@pytest.mark.parametrize(
    ("signers", "names", "message"),
    [
        (("ALFA", "BRVO"), {}, "2 signatures, the quorum is 3"),
        ((), {}, "0 signatures"),
        (("ALFA", "ALFA", "BRVO"), {}, "repeat one"),
        (("BRVO", "ALFA", "CHRL"), {}, "not sorted"),
        (("ALFA", "BRVO", "CHRL"), {"CHRL": "ECHO-gov"}, "of CHRL does not verify"),
        (("ALFA", "BRVO", "CHRL"), {"CHRL": "CHRL-vote"}, "of CHRL does not verify"),
        (("ALFA", "BRVO", "CHRL"), {"ALFA": "ALFA-gov"}, "of ALFA does not verify"),
        (("ALFA", "BRVO", "DLTA"), {"DLTA": "DLTA-gov"}, "DLTA is no validator of epoch 1"),
        (("ALFA", "BRVO", "CHRL", "DLTA"), {"DLTA": "DLTA-gov"}, "DLTA is no validator"),
    ],
    ids=["few", "none", "twice", "order", "foreign", "vote-key", "rotated-out", "left", "one-more"],
)
def test_document_counts_only_the_administrators_in_force(
    signers: tuple[str, ...], names: dict[str, str], message: str
) -> None:
    chain = rotated()
    document = chain.sign(chain.draft(), *signers, **names)
    refuse(chain, [*chain.steps, chain.make_step(document)], message)


def test_administrators_of_a_set_that_is_only_fixed_do_not_count_yet() -> None:
    chain = Chain().add_participant()
    chain.set_validators(JOINED, ALFA_gov="ALFA-gov2")
    early = chain.sign(chain.draft(), "ALFA", "BRVO", "CHRL", ALFA="ALFA-gov2")
    refuse(chain, [chain.make_step(early)], "of ALFA does not verify")
    joining = chain.sign(chain.draft(), "BRVO", "CHRL", "ECHO", ECHO="ECHO-gov")
    refuse(chain, [chain.make_step(joining)], "ECHO is no validator of epoch 0")


def test_keys_that_were_rotated_out_reopen_no_epoch_that_has_ended() -> None:
    """The quorum of epoch 0, keys and all, against what its own last block names."""
    chain = Chain().extend(1)
    chain.end_epoch()
    step = chain.steps[0]
    assert isinstance(step, BoundaryStep)
    header = step.boundary.headers[0]
    body = chain.draft(epoch=1, height=header.height, digest=chain.digest)
    document = chain.sign(body, *BANKS[:3])
    refuse(
        chain,
        [RecoveryStep(document, step.boundary, prove_sets(chain.view))],
        "block 6 is the last of epoch 0 and names the set of epoch 1",
    )


# ---- what is signed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 1}, "opens epoch 1, expected 2"),
        ({"epoch": 3}, "opens epoch 3, expected 2"),
        ({"height": 7}, "starts at block 7"),
        ({"height": 9}, "starts at block 9"),
        ({"digest": b"x" * 32}, "proven is 8"),
        ({"members": ()}, "0 validators"),
        ({"abandoned": (b"b" * 32, b"a" * 32)}, "abandoned: not sorted"),
        ({"abandoned": (b"a" * 32, b"a" * 32)}, "stands twice"),
    ],
    ids=["past", "ahead", "below", "above", "digest", "set", "order", "twice"],
)
def test_document_that_says_something_else_is_refused(
    changes: dict[str, object], message: str
) -> None:
    chain = rotated()
    document = chain.sign(chain.draft(**changes), "ALFA", "BRVO", "CHRL")
    refuse(chain, [*chain.steps, chain.make_step(document)], message)


def test_document_of_another_chain_is_refused() -> None:
    chain = rotated()
    document = chain.sign(chain.draft(), "ALFA", "BRVO", "CHRL", chain_id=b"c" * 32)
    refuse(chain, [*chain.steps, chain.make_step(document)], "of ALFA does not verify")


def test_members_stand_in_the_state_or_nowhere() -> None:
    chain = rotated()
    body = chain.draft()
    first, second = body.members[:2]
    for members, message in (
        ((replace(first, vote_key=second.vote_key), *body.members[1:]), "another vote key"),
        ((first, first, *body.members[2:]), "a participant stands twice"),
        (body.members[:3], "3 validators, allowed 4"),
        ((*body.members[:3], replace(first, participant="DLTA")), "DLTA is registered neither"),
    ):
        document = chain.sign(replace(body, members=members), "ALFA", "BRVO", "CHRL")
        refuse(chain, [*chain.steps, chain.make_step(document)], message)


def test_abandoned_blocks_are_bounded() -> None:
    chain = rotated()
    digests = tuple(number.to_bytes(32, "big") for number in range(MAX_ABANDONED_BLOCKS))
    document = chain.sign(chain.draft(abandoned=digests), "ALFA", "BRVO", "CHRL")
    assert RECOVERY.decode(encode(document)) == document
    body = replace(document.body, abandoned=(*digests, b"\xff" * 32))
    with pytest.raises(NonCanonical, match=r"abandoned|length"):
        RECOVERY.decode(encode(replace(document, body=body)))
    with pytest.raises(NonCanonical, match="at most"):
        RECOVERY.decode(b"\x00" * (RECOVERY.max_bytes + 1))


# ---- what proves the administrators


def test_sets_of_another_block_prove_nothing() -> None:
    chain = rotate(Chain())
    early = prove_sets(chain.view)
    chain.add_participant("FOXT").extend(1)
    step = chain.make_step(chain.sign(chain.draft(), "ALFA", "BRVO", "CHRL"))
    refuse(chain, [*chain.steps, replace(step, sets=early)], "table: hashes to")
    refuse(chain, [*chain.steps, replace(step, sets=None)], "nothing proves those after block 8")
    swapped = replace(prove_sets(chain.view), current=early.following)
    refuse(chain, [*chain.steps, replace(step, sets=swapped)], "not as claimed")


def forge(chain: Chain, overlay: Overlay) -> RecoveryStep:
    """Return a step on a block that the validators signed over a state that cannot be."""
    body = chain.draft()
    root = commit_state(overlay)
    chain.header = replace(chain.header, state_root=root)
    chain.digest = compute_digest(chain.header)
    document = chain.sign(replace(body, digest=chain.digest), "ALFA", "BRVO", "CHRL")
    return RecoveryStep(document, chain.prove_last(), prove_sets(overlay))


def test_state_that_registers_another_set_proves_no_administrators() -> None:
    current = rotated().validators
    turned = (*current.members[1:], current.members[0])
    for record, message in (
        (replace(current, epoch=2), "the set of epoch 2, not the one that epoch 1 has"),
        (replace(current, members=turned), "the set of epoch 1, not the one that epoch 1 has"),
        (None, "the state has no validators"),
    ):
        chain = rotate(Chain()).extend(2)
        overlay = Overlay(chain.view)
        if record is None:
            overlay.delete(VALIDATORS, CURRENT)
        else:
            overlay.put(VALIDATORS, CURRENT, record)
        refuse(chain, [*chain.steps, forge(chain, overlay)], message)


def test_base_below_a_final_block_of_its_epoch_is_refused() -> None:
    chain = rotate(Chain()).extend(1)
    lower, sets = chain.header, prove_sets(chain.view)
    body = chain.draft()
    upper = chain.extend(1).prove_last()
    base = FinalityProof(upper.finalization, (*upper.headers, lower))
    step = RecoveryStep(chain.sign(body, "ALFA", "BRVO", "CHRL"), base, sets)
    refuse(chain, [*chain.steps, step], "block 8 of epoch 1 is final, above block 7")


def test_what_is_known_already_is_not_proven_again() -> None:
    chain = Chain()
    step = chain.make_step(chain.sign(chain.draft(), *BANKS[:3]))
    refuse(chain, [replace(step, sets=prove_sets(chain.view))], "nothing to prove")


def test_base_is_needed_where_the_epoch_has_final_blocks() -> None:
    """Without it the document would have to build on the block that the epoch began on."""
    chain = rotated()
    step = chain.make_step(chain.sign(chain.draft(), "ALFA", "BRVO", "CHRL"))
    refuse(chain, [*chain.steps, replace(step, base=None)], "starts at block 8")
    early = prove_sets(rotate(Chain()).view)
    on_start = replace(step, base=None, sets=early)
    refuse(chain, [*chain.steps, on_start], "starts at block 8 .* proven is 6")


# ---- two stories


def fork(*, members: tuple[str, ...] | None = None, blocks: int = 0) -> Verified:
    """Return a proof of a chain that was recovered after so many blocks, for these members."""
    chain = rotate(Chain()).extend(1 + blocks)
    chain.recover_by("ALFA", "BRVO", "ECHO", members=members)
    return verify(chain.extend(1))


def test_two_documents_for_one_epoch_are_not_both_followed() -> None:
    chain = rotate(Chain()).extend(1)
    steps = list(chain.steps)
    one = chain.make_step(chain.sign(chain.draft(), "ALFA", "BRVO", "CHRL"))
    other = chain.make_step(
        chain.sign(chain.draft(("BRVO", "ALFA", "CHRL", "ECHO")), "ALFA", "BRVO", "ECHO")
    )
    for each in (one, other):
        assert follow_epochs([*steps, each], trust(chain))[-1].validators.epoch == 2
    refuse(chain, [*steps, one, other], "epoch 1 with validators .* expected epoch 2")
    again = replace(other, base=None, sets=None)
    refuse(chain, [*steps, one, again], "opens epoch 2, expected 3")
    refuse(chain, [*steps, again, again], "nothing proves those after block 6")


def test_fork_by_two_documents_is_found_and_names_who_signed_both() -> None:
    one, other = fork(), fork(members=("BRVO", "ALFA", "CHRL", "ECHO"))
    later = fork(blocks=1)
    for first, second in ((one, other), (other, one), (one, later), (later, one)):
        with pytest.raises(ForkFound, match=r"epoch 2 was opened twice.*both.*ALFA, BRVO, ECHO"):
            check_one_history(first, second)


def test_fork_of_a_document_and_the_epoch_that_went_on_is_found() -> None:
    chain = rotate(Chain()).extend(2)
    went_on = verify(chain)
    with pytest.raises(ForkFound, match="epoch 1 ended at height 7 by a recovery document"):
        check_one_history(went_on, fork())
    with pytest.raises(ForkFound, match="epoch 1 ended at height 7 by a recovery document"):
        check_one_history(fork(), went_on)
    ended = verify(chain.end_epoch().extend(1))
    with pytest.raises(ForkFound, match="epoch 2 was opened twice: by the block before"):
        check_one_history(ended, fork())


def test_two_final_blocks_at_one_height_are_found() -> None:
    plain = verify(rotate(Chain()).extend(1))
    other = rotate(Chain())
    other.add_participant("FOXT")
    with pytest.raises(ForkFound, match="two final blocks at height 7"):
        check_one_history(plain, verify(other))


def test_proofs_of_one_chain_tell_one_history() -> None:
    chain = rotate(Chain()).extend(1)
    told = [verify(chain)]
    chain.recover_by("ALFA", "BRVO", "CHRL")
    told += [verify(chain.extend(1)), verify(chain.end_epoch().extend(1))]
    start = told[-1].epochs[-1].validators
    short = replace(chain.prove(), epochs=())
    told.append(verify_proof(short, TrustRoot(chain.chain_id, start)))
    for first in told:
        for second in told:
            check_one_history(first, second)


def test_fork_is_found_between_proofs_that_start_from_a_later_set() -> None:
    chain = rotate(Chain()).extend(1)
    short = replace(chain.prove(), epochs=())
    verified = verify_proof(short, TrustRoot(chain.chain_id, identify_validators(chain.validators)))
    (opening,) = verified.epochs
    turned = replace(opening.validators, members=opening.validators.members[::-1])
    other = dataclasses.replace(verified, epochs=(dataclasses.replace(opening, validators=turned),))
    with pytest.raises(ForkFound, match=r"epoch 1 was opened twice: .* for ALFA, BRVO, CHRL, ECHO"):
        check_one_history(verified, other)


def test_proofs_of_two_chains_are_no_history() -> None:
    verified = verify(Chain().extend(1))
    foreign = Verified(b"c" * 32, verified.block, verified.claim, verified.epochs)
    with pytest.raises(ForkFound, match="two chains"):
        check_one_history(verified, foreign)


def test_recovered_set_is_the_one_that_headers_name() -> None:
    chain = recovered()
    openings = follow_epochs(chain.steps, trust(chain))
    assert openings[-1].validators == identify_validators(chain.validators)
    assert chain.header.epoch == 3


def test_proof_without_the_recovery_is_refused() -> None:
    chain = recovered()
    file = build_proof_file(build_solvency_proof(chain.view, chain.prove_last()), chain.steps[:1])
    with pytest.raises(ProofInvalid, match="epoch 3 with validators"):
        verify_proof(file, trust(chain))
