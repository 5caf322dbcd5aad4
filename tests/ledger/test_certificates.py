"""A certificate is a quorum of distinct members of one epoch, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from atpar.ledger.blocks import ValidatorKey
from atpar.ledger.certificates import (
    FINALIZATION,
    MAX_CERTIFICATE_BYTES,
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
    check_certificate,
    compute_certificate_triples,
    compute_quorum,
    compute_vote_bytes,
    decode_bitmap,
    encode_bitmap,
)
from atpar.ledger.codec import Codec, encode
from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.hashing import SignKind
from atpar.ledger.limits import MAX_VALIDATORS
from tests.altering import flip
from tests.ledger.samples import (
    BANKS,
    CERTIFICATES,
    CHAIN_ID,
    NULLIFY,
    PROPOSITION,
    VALIDATORS,
    public_of,
    sign_votes,
    signer_of,
)

MEMBERS = VALIDATORS.members
CODEC: Codec[Certificate] = Codec(Certificate, name="certificate", max_bytes=MAX_CERTIFICATE_BYTES)
KINDS = {
    Notarization: SignKind.NOTARIZE,
    Nullification: SignKind.NULLIFY,
    Finalization: SignKind.FINALIZE,
}

each_kind = pytest.mark.parametrize("certificate", CERTIFICATES, ids=lambda c: type(c).__name__)


def get_body(certificate: Certificate) -> Proposition | NullifyBody:
    return certificate.body if isinstance(certificate, Nullification) else certificate.proposition


def remake(certificate: Certificate, *signers: int, size: int = 4) -> Certificate:
    kind = type(certificate)
    body = get_body(certificate)
    signatures = sign_votes(KINDS[kind], body, signers)
    return kind(body, encode_bitmap(signers, size), signatures)


def check(certificate: Certificate) -> None:
    check_certificate(certificate, CHAIN_ID, MEMBERS)


# ---- quorum


@pytest.mark.parametrize(
    ("validators", "quorum"),
    [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7), (31, 21), (100, 67)],
)
def test_quorum_is_n_minus_f(validators: int, quorum: int) -> None:
    assert compute_quorum(validators) == quorum


@given(st.integers(1, MAX_VALIDATORS))
def test_two_quorums_always_share_an_honest_member(validators: int) -> None:
    faulty = (validators - 1) // 3
    assert 2 * compute_quorum(validators) - validators > faulty
    assert compute_quorum(validators) <= validators - faulty


@each_kind
@pytest.mark.parametrize("signers", [(0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 2, 3)])
def test_quorum_or_more_is_accepted(certificate: Certificate, signers: tuple[int, ...]) -> None:
    check(remake(certificate, *signers))


@each_kind
@pytest.mark.parametrize("signers", [(), (0,), (3,), (0, 1), (2, 3)])
def test_less_than_a_quorum_is_refused(certificate: Certificate, signers: tuple[int, ...]) -> None:
    with pytest.raises(ProofInvalid, match=f"signers: {len(signers)}, the quorum is 3"):
        check(remake(certificate, *signers))


# ---- bitmaps


@given(st.integers(1, MAX_VALIDATORS), st.data())
def test_bitmap_round_trips(validators: int, data: st.DataObject) -> None:
    indexes = data.draw(st.sets(st.integers(0, validators - 1)))
    bitmap = encode_bitmap(sorted(indexes), validators)
    assert len(bitmap) == (validators + 7) // 8
    assert decode_bitmap(bitmap, validators) == sorted(indexes)


def test_least_significant_bit_is_the_first_validator() -> None:
    assert encode_bitmap([0], 4) == b"\x01"
    assert encode_bitmap([8], 9) == b"\x00\x01"
    assert decode_bitmap(b"\x05\x80", 16) == [0, 2, 15]


@pytest.mark.parametrize(
    ("bitmap", "validators"),
    [(b"", 4), (b"\x07\x00", 4), (b"\x07", 9), (b"\x07\x00\x00", 16)],
)
def test_bitmap_of_another_length_is_refused(bitmap: bytes, validators: int) -> None:
    with pytest.raises(ProofInvalid, match="bytes, expected"):
        decode_bitmap(bitmap, validators)


@pytest.mark.parametrize(("bitmap", "validators"), [(b"\x17", 4), (b"\x87", 7), (b"\x07\x80", 15)])
def test_bit_beyond_the_last_validator_is_refused(bitmap: bytes, validators: int) -> None:
    with pytest.raises(ProofInvalid, match="beyond validator"):
        decode_bitmap(bitmap, validators)


@each_kind
def test_signatures_must_match_the_bitmap_in_number(certificate: Certificate) -> None:
    signatures = certificate.signatures
    for wrong in (signatures[:-1], (*signatures, signatures[0]), ()):
        with pytest.raises(ProofInvalid, match="signatures: "):
            check(replace(certificate, signatures=wrong))


@each_kind
def test_signatures_must_stand_in_the_order_of_their_signers(certificate: Certificate) -> None:
    a, b, c = certificate.signatures
    for wrong in ((b, a, c), (a, a, c), (a, b, b)):
        with pytest.raises(ProofInvalid, match="does not verify"):
            check(replace(certificate, signatures=wrong))


@each_kind
def test_bitmap_that_names_other_members_is_refused(certificate: Certificate) -> None:
    for signers in ((0, 1, 2), (0, 1, 3), (1, 2, 3)):
        with pytest.raises(ProofInvalid, match="does not verify"):
            check(replace(certificate, signers=encode_bitmap(signers, 4)))


# ---- what the votes are for


@each_kind
def test_certificate_of_another_chain_is_refused(certificate: Certificate) -> None:
    with pytest.raises(ProofInvalid, match=r"signatures\[0\]"):
        check_certificate(certificate, bytes(32), MEMBERS)


@each_kind
def test_votes_of_one_kind_make_no_certificate_of_another(certificate: Certificate) -> None:
    body = get_body(certificate)
    for kind, sign_kind in KINDS.items():
        if kind is type(certificate) or (kind is Nullification) != isinstance(body, NullifyBody):
            continue
        with pytest.raises(ProofInvalid, match=r"signatures\[0\]"):
            check(kind(body, certificate.signers, certificate.signatures))
        check(kind(body, certificate.signers, sign_votes(sign_kind, body)))


def test_nullify_bytes_are_no_prefix_of_proposition_bytes() -> None:
    nullify = compute_vote_bytes(SignKind.NULLIFY, CHAIN_ID, NULLIFY)
    for kind in (SignKind.NOTARIZE, SignKind.FINALIZE):
        assert not compute_vote_bytes(kind, CHAIN_ID, PROPOSITION).startswith(nullify)


@pytest.mark.parametrize(
    "change", [{"epoch": 4}, {"view": 301}, {"parent_view": 299}, {"digest": bytes(32)}]
)
def test_every_field_of_the_proposition_is_signed(change: dict) -> None:
    certificate = CERTIFICATES[2]
    assert isinstance(certificate, Finalization)
    with pytest.raises(ProofInvalid, match=r"signatures\[0\]"):
        check(replace(certificate, proposition=replace(PROPOSITION, **change)))


@each_kind
def test_members_of_another_epoch_are_refused(certificate: Certificate) -> None:
    others = tuple(ValidatorKey(bank, public_of(f"{bank} next vote")) for bank in BANKS)
    with pytest.raises(ProofInvalid, match=r"signatures\[0\]"):
        check_certificate(certificate, CHAIN_ID, others)
    with pytest.raises(ProofInvalid, match="does not verify"):
        check_certificate(certificate, CHAIN_ID, MEMBERS[::-1])
    with pytest.raises(ProofInvalid):
        check_certificate(certificate, CHAIN_ID, MEMBERS[:3])
    with pytest.raises(ProofInvalid, match="the quorum is 4"):
        check_certificate(certificate, CHAIN_ID, (*MEMBERS, others[0]))


def test_one_bad_signature_among_many_is_named() -> None:
    certificate = remake(CERTIFICATES[2], 0, 1, 2, 3)
    bad = list(certificate.signatures)
    bad[2] = signer_of("CHRL vote").sign(b"something else").signature
    with pytest.raises(ProofInvalid, match=r"signatures\[2\]"):
        check(replace(certificate, signatures=tuple(bad)))


@each_kind
def test_triples_are_the_members_keys_in_order(certificate: Certificate) -> None:
    triples = compute_certificate_triples(certificate, CHAIN_ID, MEMBERS)
    assert [key for key, _, _ in triples] == [MEMBERS[i].vote_key for i in (0, 2, 3)]
    assert len({message for _, message, _ in triples}) == 1


# ---- bytes


@each_kind
def test_no_altered_byte_passes(certificate: Certificate) -> None:
    data = encode(certificate)
    check(CODEC.decode(data))
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises((NonCanonical, ProofInvalid)):
                check(CODEC.decode(flip(data, at, bit)))


def test_largest_certificate_fits_its_bound() -> None:
    signers = tuple(range(MAX_VALIDATORS))
    largest = Finalization(
        Proposition(2**63 - 1, 2**63 - 1, 2**63 - 1, bytes(32)),
        encode_bitmap(signers, MAX_VALIDATORS),
        (bytes(64),) * MAX_VALIDATORS,
    )
    assert FINALIZATION.decode(encode(largest)) == largest
    one_more = replace(largest, signatures=(bytes(64),) * (MAX_VALIDATORS + 1))
    with pytest.raises(NonCanonical):
        FINALIZATION.decode(encode(one_more))


def test_hundred_validators_make_a_certificate_of_a_few_kilobytes() -> None:
    quorum = compute_quorum(100)
    certificate = Finalization(
        PROPOSITION, encode_bitmap(range(quorum), 100), (bytes(64),) * quorum
    )
    assert len(encode(certificate)) < 4_600
