"""Who a peer is: the registered root certificate that directly issued its TLS certificate.

Each institution makes one self-signed Ed25519 root, keeps its key offline and registers the
certificate in the genesis document. The root does not expire; it issues leaf certificates, which
are what nodes use and replace at will. Names in certificates are for people and decide nothing,
and so does the position in a chain: a leaf counts only if a registered root signed it itself.
"""

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from atpar.node.errors import IdentityInvalid

NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280, 4.1.2.5: the notAfter of a certificate without an expiry date."""
LEAF_LIFETIME: Final = timedelta(days=397)
CLOCK_SKEW: Final = timedelta(minutes=5)

ROOT_CERTIFICATE: Final = "tls-root.pem"
ROOT_KEY: Final = "tls-root.key"
LEAF_CERTIFICATE: Final = "tls-leaf.pem"
LEAF_KEY: Final = "tls-leaf.key"


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its private key, both PEM. The key is not encrypted."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Credential({len(self.certificate)} bytes of certificate, key hidden)"


def create_root(name: str) -> Credential:
    """Return a new self-signed root that never expires. `name` is shown to people only."""
    key = Ed25519PrivateKey.generate()
    subject = _make_name(name, "root")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - CLOCK_SKEW)
        .not_valid_after(NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_make_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )
    return _make_credential(certificate, key)


def issue_leaf(
    root: Credential,
    name: str,
    *,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Credential:
    """Return a new leaf, with a new key, that the root directly issues.

    Valid from five minutes ago for thirteen months unless told otherwise.

    Raises:
        IdentityInvalid: the root's PEM cannot be read, or its key is not the certificate's.
    """
    issuer = parse_root(root.certificate)
    issuer_key = _parse_key(root.key)
    if issuer_key.public_key() != issuer.public_key():
        raise IdentityInvalid("the root's key does not belong to the root's certificate")
    key = Ed25519PrivateKey.generate()
    now = datetime.now(UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_make_name(name, "node"))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - CLOCK_SKEW)
        .not_valid_after(not_after or now + LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_make_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, None)
    )
    return _make_credential(certificate, key)


def create_identity(folder: Path, name: str) -> str:
    """Write a new root and a first leaf into a folder; return the root's PEM for registration.

    Makes `tls-root.pem`, `tls-root.key` (move it offline), `tls-leaf.pem` and `tls-leaf.key`; key
    files have mode 0600. Existing files are never overwritten.

    Raises:
        FileExistsError: one of the files is already there.
    """
    root = create_root(name)
    write_credential(folder / ROOT_CERTIFICATE, folder / ROOT_KEY, root)
    leaf = issue_leaf(root, name)
    write_credential(folder / LEAF_CERTIFICATE, folder / LEAF_KEY, leaf)
    return root.certificate.decode("ascii")


def write_credential(certificate: Path, key: Path, credential: Credential) -> None:
    """Write a credential into two new files, the key with mode 0600.

    Raises:
        FileExistsError: one of the files is already there.
    """
    for path, data, mode in (
        (certificate, credential.certificate, 0o644),
        (key, credential.key, 0o600),
    ):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def parse_root(pem: bytes) -> x509.Certificate:
    """Return a root certificate that may be registered.

    Raises:
        IdentityInvalid: not one PEM certificate, not an Ed25519 key, not a certificate authority,
            or not signed by itself.
    """
    try:
        loaded = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise IdentityInvalid(f"not a PEM certificate: {error}") from error
    if len(loaded) != 1:
        raise IdentityInvalid(f"{len(loaded)} certificates, expected one")
    certificate = loaded[0]
    try:
        key = certificate.public_key()
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
    ) as error:
        raise IdentityInvalid(f"not a certificate authority: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityInvalid("the key is not Ed25519")
    if not constraints.ca:
        raise IdentityInvalid("not a certificate authority: basic constraints say CA:FALSE")
    if not _is_issued_by(certificate, certificate):
        raise IdentityInvalid("not signed by its own key")
    return certificate


class Roots:
    """The registered roots, by participant: the only way to turn a certificate into an identity.

    A participant may have two for a while, an old and a new one.
    """

    def __init__(self, registered: Iterable[tuple[str, bytes]]) -> None:
        """Take (participant, root PEM) pairs.

        Raises:
            IdentityInvalid: a root cannot be registered, or two participants share one.
        """
        self._roots: list[tuple[str, x509.Certificate]] = []
        owners: dict[bytes, str] = {}
        for participant, pem in registered:
            try:
                root = parse_root(pem)
            except IdentityInvalid as error:
                raise IdentityInvalid(f"root certificate of {participant}: {error}") from error
            key = root.public_key().public_bytes_raw()  # type: ignore[union-attr]  # Ed25519
            owner = owners.setdefault(key, participant)
            if owner != participant:
                raise IdentityInvalid(f"{owner} and {participant} share one root key")
            self._roots.append((participant, root))

    @property
    def pem(self) -> str:
        """All roots as one PEM bundle."""
        return "".join(
            root.public_bytes(serialization.Encoding.PEM).decode("ascii") for _, root in self._roots
        )

    def identify(self, leaf_der: bytes) -> str | None:
        """Return the participant whose registered root directly issued a leaf, or None.

        A root itself is not accepted as a leaf: its key belongs offline, not on a node.
        """
        try:
            leaf = x509.load_der_x509_certificate(leaf_der)
        except (ValueError, x509.InvalidVersion):
            return None
        for participant, root in self._roots:
            if leaf != root and _is_issued_by(leaf, root):
                return participant
        return None


def make_contexts(
    roots: Roots, certificate: Path, key: Path
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts (to accept with, to dial with) of a node.

    TLS 1.3 only; both sides must present a certificate that a registered root issued. Sessions
    are not resumed, so every connection proves its identity anew. Which root it was is for
    `Roots.identify` to say.

    Raises:
        IdentityInvalid: the certificate and key files are missing or do not belong together.
    """
    contexts = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=roots.pem)
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise IdentityInvalid(f"TLS certificate {certificate}, key {key}: {error}") from error
        contexts.append(context)
    accepting, dialing = contexts
    accepting.num_tickets = 0
    return accepting, dialing


def check_own_leaf(roots: Roots, participant: str, certificate: Path) -> x509.Certificate:
    """Return this node's leaf after checking that peers will accept it.

    Raises:
        IdentityInvalid: it cannot be read, has expired, or the participant's registered root did
            not issue it.
    """
    try:
        leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise IdentityInvalid(f"TLS certificate {certificate}: {error}") from error
    issuer = roots.identify(leaf.public_bytes(serialization.Encoding.DER))
    if issuer != participant:
        found = "no registered root" if issuer is None else f"the root of {issuer}"
        raise IdentityInvalid(
            f"TLS certificate {certificate} is issued by {found}, not by the root of {participant}"
        )
    now = datetime.now(UTC)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise IdentityInvalid(
            f"TLS certificate {certificate} is valid from {leaf.not_valid_before_utc:%Y-%m-%d} "
            f"to {leaf.not_valid_after_utc:%Y-%m-%d}: issue a new leaf from the root"
        )
    return leaf


def _is_issued_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(root)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        # Whatever a registered institution puts into a leaf, it must not raise anything else here.
        return False
    return True


def _make_name(name: str, role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {role}"),
        ]
    )


def _make_key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _make_credential(certificate: x509.Certificate, key: Ed25519PrivateKey) -> Credential:
    return Credential(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _parse_key(pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityInvalid(f"not an unencrypted PEM private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityInvalid("the key is not Ed25519")
    return key
