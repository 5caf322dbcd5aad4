"""One signature rule: ZIP 215 in every corner, each case made here; and which keys register."""

import hashlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from atpar.ledger import keys
from atpar.ledger.keys import (
    compute_possession_bytes,
    decode_point,
    is_registrable_key,
    verify,
    verify_batch,
    verify_possession,
)
from tests.ledger import curve

SMALL = curve.list_small_order_encodings()
MESSAGE = b"Zcash"


def sodium_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def alter_s(signature: bytes, by: int) -> bytes:
    s = int.from_bytes(signature[32:], "little") + by
    return signature[:32] + s.to_bytes(32, "little")


# ---- small order: ZIP 215 accepts all of it


def test_there_are_fourteen_encodings_of_the_eight_small_order_points() -> None:
    assert len(set(curve.TORSION)) == 8
    assert len(SMALL) == 14
    assert sum(curve.is_canonical(encoded) for encoded in SMALL) == 8


def test_all_196_small_order_pairs_are_valid_with_s_zero() -> None:
    for a in SMALL:
        for r in SMALL:
            assert verify(a, MESSAGE, r + bytes(32)), (a.hex(), r.hex())


def test_small_order_pairs_are_valid_for_any_message() -> None:
    for message in (b"", b"another", bytes(1000)):
        assert all(verify(a, message, a + bytes(32)) for a in SMALL)


def test_small_order_key_with_nonzero_s_needs_the_matching_r() -> None:
    r = curve.encode_point(curve.multiply(7, curve.BASE))
    for a in SMALL:
        assert verify(a, MESSAGE, r + (7).to_bytes(32, "little"))
        assert not verify(a, MESSAGE, r + (8).to_bytes(32, "little"))


def test_libsodium_disagrees_on_small_order() -> None:
    verdicts = {sodium_verify(a, MESSAGE, r + bytes(32)) for a in SMALL for r in SMALL}
    assert False in verdicts
    assert all(verify(a, MESSAGE, r + bytes(32)) for a in SMALL for r in SMALL)


# ---- mixed order and the cofactor


def crafted_cases() -> Iterator[tuple[int, int, bytes, bytes]]:
    for number, (i, j) in enumerate((i, j) for i in range(8) for j in range(8)):
        key, signature = curve.sign_crafted(
            1_000 + number,
            MESSAGE,
            nonce=2_000 + number,
            torsion_a=curve.TORSION[i],
            torsion_r=curve.TORSION[j],
        )
        yield i, j, key, signature


@pytest.mark.no_cover
def test_mixed_order_keys_and_nonces_are_valid() -> None:
    """Every combination of torsion in A and R: all valid with the cofactor, most without not."""
    only_with_cofactor = 0
    for i, j, key, signature in crafted_cases():
        assert verify(key, MESSAGE, signature), (i, j)
        assert not verify(key, MESSAGE + b"!", signature), (i, j)
        point = decode_point(key)
        assert point is not None
        without = curve.verify_cofactorless(point, key, MESSAGE, signature)
        only_with_cofactor += not without
        if i == j == 0:
            assert without
    assert only_with_cofactor > 40


def test_libsodium_refuses_what_only_the_cofactor_makes_valid() -> None:
    refused = [not sodium_verify(key, MESSAGE, sig) for _, _, key, sig in crafted_cases()]
    assert any(refused)
    assert not all(refused)


# ---- s


def test_s_at_or_above_the_group_order_is_refused() -> None:
    """s + L verifies in the equation: accepting it would make a second signature from any first."""
    signer = SigningKey(hashlib.sha256(b"signer").digest())
    key, signature = bytes(signer.verify_key), signer.sign(MESSAGE).signature
    assert verify(key, MESSAGE, signature)
    s = int.from_bytes(signature[32:], "little")
    for multiple in range(1, (2**256 - s) // curve.L + 1):
        assert not verify(key, MESSAGE, alter_s(signature, multiple * curve.L))


@pytest.mark.parametrize("s", [curve.L, curve.L + 1, 2**253, 2**255 - 1, 2**256 - 1])
def test_s_beyond_the_range_is_refused_even_with_small_order(s: int) -> None:
    for a in SMALL:
        assert not verify(a, MESSAGE, a + s.to_bytes(32, "little"))


def test_largest_s_in_range_is_accepted() -> None:
    s = curve.L - 1
    r = curve.encode_point(curve.multiply(s, curve.BASE))
    assert verify(SMALL[0], MESSAGE, r + s.to_bytes(32, "little"))


# ---- non-canonical encodings and points off the curve


def list_non_canonical() -> list[bytes]:
    """Return every encoding with y >= p, or x = 0 with the sign bit, that is on the curve."""
    high_y = [
        (curve.P + offset | sign << 255).to_bytes(32, "little")
        for offset in range(19)
        for sign in (0, 1)
        if curve.recover_x(offset, sign) is not None
    ]
    return high_y + [(y | 1 << 255).to_bytes(32, "little") for y in (1, curve.P - 1)]


def test_non_canonical_r_is_accepted_where_the_equation_holds() -> None:
    """R of small order written as y + p, under an honest key: s = k a."""
    secret = 12_345
    key = curve.encode_point(curve.multiply(secret, curve.BASE))
    accepted = 0
    for r in list_non_canonical():
        if r in SMALL:
            s = curve.compute_challenge(r, key, MESSAGE) * secret % curve.L
            assert verify(key, MESSAGE, r + s.to_bytes(32, "little")), r.hex()
            accepted += 1
    assert accepted == 6


def test_challenge_covers_the_bytes_as_given_not_the_point() -> None:
    secret = 999
    key = curve.encode_point(curve.multiply(secret, curve.BASE))
    canonical, other = (e for e in SMALL if int.from_bytes(e, "little") % 2**255 in (1, curve.P + 1)
                        and e[31] < 128)  # fmt: skip
    s = curve.compute_challenge(canonical, key, MESSAGE) * secret % curve.L
    encoded_s = s.to_bytes(32, "little")
    assert verify(key, MESSAGE, canonical + encoded_s) != verify(key, MESSAGE, other + encoded_s)


def test_bytes_on_no_point_are_refused_as_key_and_as_r() -> None:
    off_curve = [y.to_bytes(32, "little") for y in range(300) if curve.recover_x(y, 0) is None]
    assert len(off_curve) > 100
    signer = SigningKey(bytes(32))
    signature = signer.sign(MESSAGE).signature
    for encoded in off_curve:
        assert not verify(encoded, MESSAGE, SMALL[0] + bytes(32))
        assert not verify(bytes(signer.verify_key), MESSAGE, encoded + signature[32:])
        assert not is_registrable_key(encoded)


@pytest.mark.parametrize("key_bytes", [0, 1, 31, 33, 64])
def test_keys_of_another_length_are_refused(key_bytes: int) -> None:
    assert not verify(bytes(key_bytes), MESSAGE, bytes(64))
    assert not is_registrable_key(bytes(key_bytes))


@pytest.mark.parametrize("signature_bytes", [0, 63, 65, 128])
def test_signatures_of_another_length_are_refused(signature_bytes: int) -> None:
    assert not verify(SMALL[0], MESSAGE, bytes(signature_bytes))


def test_verifier_that_raises_has_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: bytes) -> bool:
        raise ValueError("malformed")

    monkeypatch.setattr(keys, "ed_verify", refuse)
    assert not verify(SMALL[0], MESSAGE, bytes(64))


# ---- honest signatures


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_signatures_of_libsodium_are_always_valid(seed: bytes, message: bytes) -> None:
    signer = SigningKey(seed)
    key, signature = bytes(signer.verify_key), signer.sign(message).signature
    assert verify(key, message, signature)
    assert is_registrable_key(key)


@given(st.integers(0, 8 * 96 - 1), st.integers(0, 30))
def test_any_flipped_bit_of_key_or_signature_is_refused(bit: int, number: int) -> None:
    signer = SigningKey(hashlib.sha256(bytes([number])).digest())
    data = bytearray(bytes(signer.verify_key) + signer.sign(MESSAGE).signature)
    data[bit // 8] ^= 1 << bit % 8
    assert not verify(bytes(data[:32]), MESSAGE, bytes(data[32:]))


def test_one_bad_entry_spoils_no_other_in_a_batch() -> None:
    rng, triples, expected = random.Random(7), [], []
    for number in range(40):
        signer = SigningKey(hashlib.sha256(b"batch%d" % number).digest())
        message = b"message %d" % number
        good = rng.random() < 0.5
        signed = message if good else b"other"
        triples.append((bytes(signer.verify_key), message, signer.sign(signed).signature))
        expected.append(good)
    assert verify_batch(triples) == expected
    assert verify_batch([]) == []


@pytest.mark.parametrize("raises", [False, True])
def test_malformed_entries_of_a_batch_are_invalid(
    monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    signer = SigningKey(bytes(32))
    key, signature = bytes(signer.verify_key), signer.sign(MESSAGE).signature

    def refuse(given: bytes, message: bytes, public_key: bytes) -> bool:
        if len(given) != 64 or len(public_key) != 32:
            raise ValueError("length")
        return bool(library(given, message, public_key))

    library = keys.ed_verify
    if raises:
        monkeypatch.setattr(keys, "ed_verify", refuse)
    triples = [
        (key, MESSAGE, signature),
        (key[:31], MESSAGE, signature),
        (key + b"\0", MESSAGE, signature),
        (b"", MESSAGE, signature),
        (key, MESSAGE, signature[:63]),
        (key, MESSAGE, signature + b"\0"),
        (key, MESSAGE, b""),
        (key, MESSAGE, signature),
    ]
    assert verify_batch(triples) == [verify(*triple) for triple in triples]
    assert verify_batch(triples) == [True, *[False] * 6, True]


# ---- registration


def test_small_order_keys_cannot_register_however_written() -> None:
    assert not any(is_registrable_key(encoded) for encoded in SMALL)


def test_non_canonical_keys_cannot_register() -> None:
    encodings = list_non_canonical()
    assert len(encodings) > 20
    for encoded in encodings:
        assert decode_point(encoded) is None
        assert not is_registrable_key(encoded)


def test_keys_of_prime_and_of_mixed_order_can_register() -> None:
    for i, _, key, _ in crafted_cases():
        assert is_registrable_key(key), i


@given(st.integers(1, curve.L - 1), st.integers(0, 7))
def test_decoding_a_point_gives_the_point(scalar: int, torsion: int) -> None:
    point = curve.add(curve.multiply(scalar, curve.BASE), curve.TORSION[torsion])
    assert decode_point(curve.encode_point(point)) == point


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_decode_as_the_reference_says(encoded: bytes) -> None:
    number = int.from_bytes(encoded, "little")
    y, sign = number & (2**255 - 1), number >> 255
    x = curve.recover_x(y, sign) if curve.is_canonical(encoded) else None
    assert decode_point(encoded) == (None if x is None else (x, y))


# ---- possession


def test_possession_is_for_one_participant_one_chain_and_one_kind() -> None:
    signer = SigningKey(hashlib.sha256(b"owner").digest())
    key, chain_id = bytes(signer.verify_key), bytes(range(32))
    message = compute_possession_bytes(chain_id, participant="ALFA", public_key=key)
    signature = signer.sign(message).signature
    assert message.startswith(b"atpar/possession/v1\0" + chain_id)
    right = {"participant": "ALFA", "public_key": key, "signature": signature}
    assert verify_possession(chain_id, **right)
    assert not verify_possession(bytes(32), **right)
    assert not verify_possession(chain_id, **{**right, "participant": "BRVO"})
    other = bytes(SigningKey(bytes(32)).verify_key)
    assert not verify_possession(chain_id, **{**right, "public_key": other})
    assert not verify_possession(chain_id, **{**right, "signature": bytes(64)})
