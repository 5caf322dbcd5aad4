"""Identity: only the registered root that directly issued a leaf says who a peer is."""

import base64
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atpar.node.errors import IdentityInvalid
from atpar.node.identity import (
    NEVER,
    Credential,
    Roots,
    check_own_leaf,
    create_identity,
    create_root,
    issue_leaf,
    make_contexts,
    parse_root,
    write_credential,
)

ALFA = create_root("ALFA")
BRVO = create_root("BRVO")
ROOTS = Roots([("ALFA", ALFA.certificate), ("BRVO", BRVO.certificate)])


def to_der(credential: Credential) -> bytes:
    leaf = x509.load_pem_x509_certificate(credential.certificate)
    return leaf.public_bytes(serialization.Encoding.DER)


def test_root_never_expires_and_its_leaf_does() -> None:
    root = parse_root(ALFA.certificate)
    leaf = x509.load_pem_x509_certificate(issue_leaf(ALFA, "ALFA").certificate)
    assert root.not_valid_after_utc == NEVER
    assert b"99991231235959Z" in root.public_bytes(serialization.Encoding.DER)
    assert leaf.not_valid_after_utc < datetime.now(UTC) + timedelta(days=400)


def test_leaf_is_identified_by_the_root_that_issued_it() -> None:
    assert ROOTS.identify(to_der(issue_leaf(ALFA, "ALFA"))) == "ALFA"
    assert ROOTS.identify(to_der(issue_leaf(BRVO, "BRVO"))) == "BRVO"


def test_name_in_a_leaf_decides_nothing() -> None:
    assert ROOTS.identify(to_der(issue_leaf(BRVO, "ALFA"))) == "BRVO"
    stranger = create_root("ALFA")
    assert ROOTS.identify(to_der(issue_leaf(stranger, "ALFA"))) is None


def test_leaf_below_an_intermediate_is_nobody() -> None:
    intermediate = issue_leaf(ALFA, "ALFA")
    below = issue_leaf_from(intermediate)
    assert ROOTS.identify(to_der(below)) is None


def issue_leaf_from(parent: Credential) -> Credential:
    """Issue a certificate from a leaf's key, as a compromised node could."""
    parent_key = serialization.load_pem_private_key(parent.key, None)
    issuer = x509.load_pem_x509_certificate(parent.certificate)
    key = Ed25519PrivateKey.generate()
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(issuer.subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(parent_key, None)  # type: ignore[arg-type]
    )
    return Credential(certificate.public_bytes(serialization.Encoding.PEM), b"")


def test_root_is_not_accepted_as_a_leaf() -> None:
    assert ROOTS.identify(to_der(ALFA)) is None


def test_bytes_that_are_no_certificate_are_nobody() -> None:
    assert ROOTS.identify(b"") is None
    assert ROOTS.identify(b"\x30\x03garbage") is None


def test_old_and_new_root_of_one_participant_both_count() -> None:
    new = create_root("ALFA")
    roots = Roots([("ALFA", ALFA.certificate), ("ALFA", new.certificate)])
    assert roots.identify(to_der(issue_leaf(ALFA, "ALFA"))) == "ALFA"
    assert roots.identify(to_der(issue_leaf(new, "ALFA"))) == "ALFA"


def test_two_participants_cannot_share_a_root() -> None:
    with pytest.raises(IdentityInvalid, match="ALFA and BRVO share one root key"):
        Roots([("ALFA", ALFA.certificate), ("BRVO", ALFA.certificate)])


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "not a PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a PEM"),
        (ALFA.certificate + BRVO.certificate, "2 certificates, expected one"),
        (issue_leaf(ALFA, "ALFA").certificate, "CA:FALSE"),
    ],
)
def test_what_is_no_root_is_refused(pem: bytes, message: str) -> None:
    with pytest.raises(IdentityInvalid, match=message):
        parse_root(pem)
    with pytest.raises(IdentityInvalid, match="root certificate of ALFA"):
        Roots([("ALFA", pem)])


@pytest.mark.parametrize(
    ("good", "bad"),
    [("a003020102", "a003020105"), ("06032b6570032100", "06032b6572032100")],
    ids=["version 6", "unknown key type"],
)
def test_root_that_the_library_cannot_read_is_refused_like_any_other(good: str, bad: str) -> None:
    """Governance may register anything: no node may stop over it when the epoch opens."""
    der = x509.load_pem_x509_certificate(ALFA.certificate).public_bytes(serialization.Encoding.DER)
    body = base64.encodebytes(der.replace(bytes.fromhex(good), bytes.fromhex(bad), 1))
    pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    with pytest.raises(IdentityInvalid):
        parse_root(pem)


def test_root_with_another_kind_of_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(IdentityInvalid, match="not Ed25519"):
        parse_root(certificate.public_bytes(serialization.Encoding.PEM))


def test_leaf_needs_the_roots_own_key() -> None:
    with pytest.raises(IdentityInvalid, match="does not belong"):
        issue_leaf(Credential(ALFA.certificate, BRVO.key), "ALFA")
    with pytest.raises(IdentityInvalid, match="private key"):
        issue_leaf(Credential(ALFA.certificate, b"no key"), "ALFA")


def test_identity_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    pem = create_identity(tmp_path, "ALFA")
    assert (tmp_path / "tls-root.pem").read_text() == pem
    for name in ("tls-root.key", "tls-leaf.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    roots = Roots([("ALFA", pem.encode())])
    check_own_leaf(roots, "ALFA", tmp_path / "tls-leaf.pem")
    with pytest.raises(FileExistsError):
        create_identity(tmp_path, "ALFA")


def test_own_leaf_must_come_from_the_registered_root(tmp_path: Path) -> None:
    create_identity(tmp_path, "ALFA")
    with pytest.raises(IdentityInvalid, match="issued by no registered root"):
        check_own_leaf(ROOTS, "ALFA", tmp_path / "tls-leaf.pem")
    with pytest.raises(IdentityInvalid, match=r"tls-leaf\.pem.*No such file"):
        check_own_leaf(ROOTS, "ALFA", tmp_path / "missing" / "tls-leaf.pem")
    write_credential(tmp_path / "b.pem", tmp_path / "b.key", issue_leaf(BRVO, "ALFA"))
    with pytest.raises(IdentityInvalid, match="issued by the root of BRVO, not by the root of"):
        check_own_leaf(ROOTS, "ALFA", tmp_path / "b.pem")


def test_own_leaf_must_not_have_expired(tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    leaf = issue_leaf(ALFA, "ALFA", not_before=past - timedelta(days=1), not_after=past)
    write_credential(tmp_path / "a.pem", tmp_path / "a.key", leaf)
    with pytest.raises(IdentityInvalid, match="issue a new leaf"):
        check_own_leaf(ROOTS, "ALFA", tmp_path / "a.pem")


def test_contexts_ask_for_tls_13_and_a_certificate(tmp_path: Path) -> None:
    write_credential(tmp_path / "a.pem", tmp_path / "a.key", issue_leaf(ALFA, "ALFA"))
    for context in make_contexts(ROOTS, tmp_path / "a.pem", tmp_path / "a.key"):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    write_credential(tmp_path / "b.pem", tmp_path / "b.key", issue_leaf(BRVO, "BRVO"))
    with pytest.raises(IdentityInvalid, match="TLS certificate"):
        make_contexts(ROOTS, tmp_path / "a.pem", tmp_path / "b.key")


def test_credential_does_not_show_its_key() -> None:
    assert "PRIVATE" not in repr(ALFA)
