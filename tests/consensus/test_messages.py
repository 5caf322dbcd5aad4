"""Messages, records and evidence as bytes: one encoding each, and bounds that hold."""

import msgpack
import pytest

from atpar.consensus.leader import compute_leaders
from atpar.consensus.limits import (
    MAX_CERTIFICATES_PER_ANSWER,
    MAX_MESSAGE_BYTES,
    MAX_SYNC_BLOCKS,
    MAX_VOTES_PER_ANSWER,
)
from atpar.consensus.messages import (
    BlockRequest,
    BlockResponse,
    CertificatesRequest,
    CertificatesResponse,
    Lane,
    Message,
    Proposal,
    SyncRequest,
    SyncResponse,
    VotesRequest,
    VotesResponse,
    decode_message,
    encode_message,
    get_lane,
)
from atpar.consensus.records import (
    BodyRecord,
    CertificateRecord,
    CertifiedRecord,
    EpochOpenedRecord,
    JournalLostRecord,
    JournalRecord,
    VoteRecord,
    decode_record,
    encode_record,
)
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.blocks import ValidatorKey, ValidatorSetId
from atpar.ledger.certificates import (
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
)
from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.evidence import (
    ConflictingFinalize,
    ConflictingNotarize,
    Evidence,
    NullifyFinalize,
    build_evidence,
    decode_evidence,
    encode_evidence,
    get_place,
    verify_evidence,
)
from atpar.ledger.limits import MAX_BLOCK_BYTES
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, compute_signed_bytes

P = Proposition(1, 7, 6, b"d" * 32)
BODY = NullifyBody(1, 7)
SIG = b"s" * 64
CERTIFICATE = (b"\x07", (SIG,) * 3)
NOTARIZATION = Notarization(P, *CERTIFICATE)
NULLIFICATION = Nullification(BODY, *CERTIFICATE)
FINALIZATION = Finalization(P, *CERTIFICATE)
MESSAGES: list[tuple[Message, Lane]] = [
    (Notarize(P, SIG), Lane.VOTES),
    (Nullify(BODY, SIG), Lane.VOTES),
    (Finalize(P, SIG), Lane.VOTES),
    (NOTARIZATION, Lane.VOTES),
    (NULLIFICATION, Lane.VOTES),
    (FINALIZATION, Lane.VOTES),
    (Proposal(Notarize(P, SIG), b"block"), Lane.PROPOSALS),
    (BlockRequest(b"d" * 32), Lane.FETCH),
    (BlockResponse(b"d" * 32, b""), Lane.FETCH),
    (CertificatesRequest(1, 2), Lane.FETCH),
    (CertificatesResponse((NULLIFICATION, NOTARIZATION)), Lane.FETCH),
    (SyncRequest(1, 2), Lane.FETCH),
    (SyncResponse(2, (b"a", b"b"), FINALIZATION), Lane.FETCH),
    (SyncResponse(2, (), None), Lane.FETCH),
    (VotesRequest(1), Lane.FETCH),
    (VotesResponse(1, (Notarize(P, SIG), Nullify(BODY, SIG)), None), Lane.FETCH),
]
RECORDS: list[JournalRecord] = [
    EpochOpenedRecord(1, 10, b"d" * 32),
    VoteRecord(Finalize(P, SIG)),
    CertificateRecord(NOTARIZATION),
    CertifiedRecord(P),
    BodyRecord(b"block"),
    JournalLostRecord(1),
]


@pytest.mark.parametrize(("message", "lane"), MESSAGES)
def test_message_survives_its_bytes_and_has_a_lane(message: Message, lane: Lane) -> None:
    data = encode_message(message)
    assert decode_message(data) == message
    assert get_lane(message) is lane


@pytest.mark.parametrize(("message", "lane"), MESSAGES)
def test_independent_reader_sees_the_tag_first(message: Message, lane: Lane) -> None:
    fields = msgpack.unpackb(encode_message(message))
    assert isinstance(fields[0], int)
    assert len(fields) == 1 + len(message.__struct_fields__)


@pytest.mark.parametrize("record", RECORDS)
def test_record_survives_its_bytes(record: JournalRecord) -> None:
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\xcc\x10",
        encode_message(Nullify(BODY, SIG)) + b"\x00",
        encode_message(Nullify(BODY, SIG))[:-1],
        b"\x93\xcc\x11" + encode_message(Nullify(BODY, SIG))[2:],
        encode_message(Nullify(BODY, SIG)).replace(b"\x07", b"\xcc\x07", 1),
        b"\x93\x11\x92\x01\xff" + b"\xc4\x40" + SIG,
        b"\x91" * 2_000,
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(NonCanonical):
        decode_message(data)
    with pytest.raises(NonCanonical):
        decode_record(data)


def test_answers_at_their_bounds_pass_and_one_past_them_do_not() -> None:
    certificates = (NULLIFICATION,) * MAX_CERTIFICATES_PER_ANSWER
    votes: tuple[Vote, ...] = (Nullify(BODY, SIG),) * MAX_VOTES_PER_ANSWER
    blocks = (b"b",) * MAX_SYNC_BLOCKS
    at: list[Message] = [
        CertificatesResponse(certificates),
        VotesResponse(1, votes, None),
        SyncResponse(1, blocks, None),
        BlockResponse(b"d" * 32, b"b" * MAX_BLOCK_BYTES),
        Proposal(Notarize(P, SIG), b"b" * MAX_BLOCK_BYTES),
    ]
    past: list[Message] = [
        CertificatesResponse((*certificates, NULLIFICATION)),
        VotesResponse(1, (*votes, votes[0]), None),
        SyncResponse(1, (*blocks, b"b"), None),
        BlockResponse(b"d" * 32, b"b" * (MAX_BLOCK_BYTES + 1)),
        Proposal(Notarize(P, SIG), b"b" * (MAX_BLOCK_BYTES + 1)),
    ]
    for message in at:
        assert decode_message(encode_message(message)) == message
    for message in past:
        with pytest.raises(NonCanonical):
            decode_message(encode_message(message))


def test_message_longer_than_the_bound_is_refused_unread() -> None:
    with pytest.raises(NonCanonical, match="at most"):
        decode_message(b"\x00" * (MAX_MESSAGE_BYTES + 1))


# ---- validators and leaders


def keys(size: int) -> tuple[ValidatorKey, ...]:
    return tuple(ValidatorKey(f"BANK{i:03d}", bytes([i]) * 32) for i in range(1, size + 1))


@pytest.mark.parametrize(
    ("size", "quorum", "faults"),
    [(4, 3, 1), (5, 4, 1), (6, 5, 1), (7, 5, 2), (10, 7, 3), (100, 67, 33)],
)
def test_quorum_and_faults_follow_from_the_size(size: int, quorum: int, faults: int) -> None:
    validators = ValidatorSet.from_id(ValidatorSetId(0, keys(size)))
    assert (validators.size, validators.quorum, validators.faults) == (size, quorum, faults)
    assert 2 * quorum - size > faults


def test_set_refuses_wrong_sizes_and_repeats() -> None:
    four = keys(4)
    for members in (four[:3], (*keys(127), ValidatorKey("OVER", b"\xff" * 32))):
        with pytest.raises(ValueError, match="validators, allowed"):
            ValidatorSet(0, members)
    with pytest.raises(ValueError, match="participant stands twice"):
        ValidatorSet(0, (*four, ValidatorKey(four[0].participant, b"z" * 32)))
    with pytest.raises(ValueError, match="vote key stands twice"):
        ValidatorSet(0, (*four, ValidatorKey("NEWX", four[0].vote_key)))


def test_each_validator_leads_one_of_n_views_and_epochs_differ() -> None:
    first = compute_leaders(b"c" * 32, ValidatorSet(0, keys(31)))
    assert sorted(first) == list(range(31))
    assert first == compute_leaders(b"c" * 32, ValidatorSet(0, keys(31)))
    assert first != compute_leaders(b"c" * 32, ValidatorSet(1, keys(31)))
    assert first != compute_leaders(b"d" * 32, ValidatorSet(0, keys(31)))


def test_set_hash_is_the_one_in_headers() -> None:
    assert ValidatorSet(0, keys(4)).compute_hash() != ValidatorSet(1, keys(4)).compute_hash()


# ---- evidence

CHAIN_ID = b"c" * 32


@pytest.fixture(scope="module")
def liar() -> tuple[ValidatorSetId, "Signer"]:
    signer = Signer()
    members = (*keys(3), ValidatorKey("LIAR", signer.public_key))
    return ValidatorSetId(1, members), signer


class Signer:
    """A real Ed25519 key."""

    def __init__(self) -> None:
        from nacl.signing import SigningKey

        self._key = SigningKey(b"k" * 32)
        self.public_key = bytes(self._key.verify_key)

    def __call__(self, vote: Vote) -> Vote:
        signature = self._key.sign(compute_signed_bytes(vote, CHAIN_ID)).signature
        match vote:
            case Notarize(proposition):
                return Notarize(proposition, signature)
            case Nullify(body):
                return Nullify(body, signature)
            case Finalize(proposition):
                return Finalize(proposition, signature)


OTHER = Proposition(1, 7, 6, b"o" * 32)


def make_evidence(sign: Signer) -> list[Evidence]:
    pairs: list[tuple[Vote, Vote]] = [
        (Notarize(P, SIG), Notarize(OTHER, SIG)),
        (Finalize(P, SIG), Finalize(OTHER, SIG)),
        (Nullify(BODY, SIG), Finalize(P, SIG)),
        (Finalize(P, SIG), Nullify(BODY, SIG)),
    ]
    return [build_evidence("LIAR", sign(a), sign(b)) for a, b in pairs]


def test_evidence_of_each_kind_verifies_and_survives_its_bytes(
    liar: tuple[ValidatorSetId, Signer],
) -> None:
    validators, sign = liar
    kinds = []
    for evidence in make_evidence(sign):
        verify_evidence(evidence, CHAIN_ID, validators)
        assert decode_evidence(encode_evidence(evidence)) == evidence
        assert get_place(evidence) == (1, 7)
        kinds.append(type(evidence))
    assert kinds == [ConflictingNotarize, ConflictingFinalize, NullifyFinalize, NullifyFinalize]


def test_evidence_with_any_byte_changed_is_refused(liar: tuple[ValidatorSetId, Signer]) -> None:
    validators, sign = liar
    for evidence in make_evidence(sign):
        data = encode_evidence(evidence)
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1
            with pytest.raises((ProofInvalid, NonCanonical)):
                verify_evidence(decode_evidence(bytes(changed)), CHAIN_ID, validators)


def test_messages_that_an_honest_validator_may_both_send_are_no_evidence(
    liar: tuple[ValidatorSetId, Signer],
) -> None:
    validators, sign = liar
    notarize, finalize = sign(Notarize(P, SIG)), sign(Finalize(P, SIG))
    later = sign(Nullify(NullifyBody(1, 8), SIG))
    assert isinstance(notarize, Notarize)
    assert isinstance(finalize, Finalize)
    assert isinstance(later, Nullify)
    cases: list[tuple[Evidence, str]] = [
        (ConflictingNotarize("LIAR", notarize, notarize), "the same"),
        (ConflictingFinalize("LIAR", finalize, finalize), "the same"),
        (NullifyFinalize("LIAR", later, finalize), "views"),
        (ConflictingNotarize("NOBODY", notarize, notarize), "no validator"),
    ]
    for evidence, why in cases:
        with pytest.raises(ProofInvalid, match=why):
            verify_evidence(evidence, CHAIN_ID, validators)


def test_evidence_of_another_epoch_or_chain_is_refused(liar: tuple[ValidatorSetId, Signer]) -> None:
    validators, sign = liar
    evidence = make_evidence(sign)[0]
    with pytest.raises(ProofInvalid, match="epoch"):
        verify_evidence(evidence, CHAIN_ID, ValidatorSetId(2, validators.members))
    with pytest.raises(ProofInvalid, match="does not verify"):
        verify_evidence(evidence, b"x" * 32, validators)


def test_notarize_and_finalize_of_one_block_do_not_conflict() -> None:
    with pytest.raises(AssertionError):
        build_evidence("LIAR", Notarize(P, SIG), Finalize(P, SIG))
