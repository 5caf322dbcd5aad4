"""The signed envelope around operations: its bytes, its identity and what its signatures cover."""

from typing import Annotated

import msgspec
from msgspec import Meta

from atpar.ledger.codec import Codec, Wire, encode
from atpar.ledger.hashing import HashTag, SignKind, compute_hash, compute_sign_bytes
from atpar.ledger.keys import SignedTriple
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Operation
from atpar.ledger.types import AccountId, ChainId, PublicKey, SignatureBytes, TimeMs, Uuid

VERSION = 1


class Body(Wire, frozen=True):
    """What is signed."""

    version: Annotated[int, Meta(ge=0, le=65_535)]
    chain_id: ChainId
    sender: AccountId
    tx_id: Uuid
    """Idempotency key, unique per sender."""
    valid_from_ms: TimeMs
    valid_until_ms: TimeMs
    """Last block time at which it may run; both ends count."""
    ops: tuple[Operation, ...]
    """All take effect, or none do."""


class Signature(Wire, frozen=True):
    """One signature of the body."""

    key: PublicKey
    signature: SignatureBytes


class Envelope(Wire, frozen=True):
    """The body as the exact bytes that were signed, and the signatures sorted by key."""

    body: bytes
    signatures: tuple[Signature, ...]


ENVELOPE = Codec[Envelope](Envelope, name="envelope", max_bytes=MAX_TRANSACTION_BYTES)
BODY = Codec[Body](Body, name="transaction body", max_bytes=MAX_TRANSACTION_BYTES)


class Transaction(msgspec.Struct, frozen=True):
    """A decoded envelope, with everything that is derived from its bytes.

    Never encoded itself; a Struct because it is made for every envelope, and a frozen dataclass
    takes ten times as long to make.
    """

    raw: bytes
    """The envelope's canonical bytes."""
    hash: bytes
    """`H(tx, raw)`: names this exact envelope, signatures included."""
    body_hash: bytes
    """`H(body, body bytes)`: the same for two envelopes that ask the same."""
    body: Body
    signatures: tuple[Signature, ...]
    body_bytes: bytes

    def compute_triples(self) -> list[SignedTriple]:
        """Return what the verifier has to check, one triple per signature, in order."""
        message = compute_sign_bytes(SignKind.TRANSACTION, self.body.chain_id, self.body_bytes)
        return [(s.key, message, s.signature) for s in self.signatures]


def decode_transaction(raw: bytes) -> Transaction:
    """Return the decoded envelope. Signatures are not checked here, nor any rule.

    Raises:
        NonCanonical: `raw` or the body inside is not the canonical encoding of an envelope.
    """
    envelope = ENVELOPE.decode(raw)
    body = BODY.decode(envelope.body)
    return Transaction(
        raw=raw,
        hash=compute_hash(HashTag.TX, raw),
        body_hash=compute_hash(HashTag.BODY, envelope.body),
        body=body,
        signatures=envelope.signatures,
        body_bytes=envelope.body,
    )


def encode_envelope(body_bytes: bytes, signatures: list[tuple[bytes, bytes]]) -> bytes:
    """Return canonical envelope bytes from body bytes and (key, signature) pairs in any order."""
    ordered = tuple(Signature(key, signature) for key, signature in sorted(signatures))
    return encode(Envelope(body_bytes, ordered))
