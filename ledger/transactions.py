"""The signed envelope around operations: its bytes, its identity and what its signatures cover."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import GenericAlias
from typing import Annotated, Any, Final, Literal, Protocol, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from atpar.ledger.codec import DECODING_FAULTS, Codec, Wire, encode
from atpar.ledger.errors import NonCanonical
from atpar.ledger.forms import ACCOUNT_ID, ASSET_CODE, is_reference
from atpar.ledger.hashing import (
    FEW,
    HashTag,
    SignKind,
    compute_sign_bytes,
    hash_all,
    make_hasher,
)
from atpar.ledger.keys import SignedTriple
from atpar.ledger.limits import MAX_OPS_PER_TRANSACTION, MAX_SIGNATURES, MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Operation, Transfer
from atpar.ledger.types import AccountId, ChainId, PublicKey, SignatureBytes, TimeMs, Uuid
from atpar.ledger.values import are_own_payments

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


def _strip_pattern(hint: Any) -> Any:
    """Return a field's type without its pattern; lengths, ranges and null stay."""
    if get_origin(hint) is Annotated and any(meta.pattern for meta in hint.__metadata__):
        return get_args(hint)[0]
    return hint


def _list_plain_types(kind: type[Wire]) -> list[Any]:
    return [_strip_pattern(hint) for hint in get_type_hints(kind, include_extras=True).values()]


def _make_plain_body() -> Any:
    """Return the type of a body of transfers as nested tuples, as it stands on the wire."""
    tag = Literal[Transfer.__struct_config__.tag]  # type: ignore[name-defined]
    transfer = GenericAlias(tuple, (tag, *_list_plain_types(Transfer)))
    *head, _ops = _list_plain_types(Body)
    return GenericAlias(tuple, (*head, GenericAlias(tuple, (transfer, ...))))


_PLAIN_ENVELOPE: Final = GenericAlias(tuple, (bytes, GenericAlias(tuple, (Signature, ...))))
_decode_plain_envelope: Final = msgspec.msgpack.Decoder[Any](_PLAIN_ENVELOPE).decode
_decode_plain_body: Final = msgspec.msgpack.Decoder[Any](_make_plain_body()).decode
"""Return fields as tuples. Texts may have any form here, and bytes need not be canonical."""


class BodyCodec(Codec[Body]):
    """The codec of `Body`, with a way for payments alone that is several times faster.

    A body of transfers is decoded as plain tuples whose types are made from those of `Body` and
    `Transfer`, patterns left out, and the texts are looked up. Only a shortcut: what does not fit
    is decoded in full, which accepts it or says what is wrong with it.
    """

    def __init__(self, *, name: str, max_bytes: int) -> None:
        super().__init__(Body, name=name, max_bytes=max_bytes)

    def decode(self, data: bytes) -> Body:
        """Return the body of `data`.

        Raises:
            NonCanonical: as `Codec.decode`.
        """
        try:
            plain = _decode_plain_body(data)
        except DECODING_FAULTS:
            return super().decode(data)
        version, chain_id, sender, tx_id, valid_from_ms, valid_until_ms, entries = plain
        if (
            len(data) > self.max_bytes
            or encode(plain) != data
            or not (sender in ACCOUNT_ID.known or ACCOUNT_ID.admits(sender))
        ):
            return super().decode(data)
        ops = _make_transfers(entries)
        if ops is None:
            return super().decode(data)
        return Body(version, chain_id, sender, tx_id, valid_from_ms, valid_until_ms, ops)


def _make_transfers(entries: Sequence[tuple[Any, ...]]) -> tuple[Transfer, ...] | None:
    """Return the payments of plain entries, or None if a text has not the form of its type."""
    assets, accounts = ASSET_CODE.known, ACCOUNT_ID.known
    ops = []
    for entry in entries:
        _tag, asset, debtor, creditor, amount, uetr, purpose, reference, returned, rule, ack = entry
        if not (
            (asset in assets or ASSET_CODE.admits(asset))
            and (debtor in accounts or ACCOUNT_ID.admits(debtor))
            and (creditor in accounts or ACCOUNT_ID.admits(creditor))
            and (not purpose or is_reference(purpose))
            and (not reference or is_reference(reference))
        ):
            return None
        # Positional, each by name: `*entry[1:]` takes half as long again.
        ops.append(
            Transfer(
                asset,
                debtor,
                creditor,
                amount,
                uetr,
                purpose,
                reference,
                returned,
                rule,
                ack,
            )
        )
    return tuple(ops)


ENVELOPE = Codec[Envelope](Envelope, name="envelope", max_bytes=MAX_TRANSACTION_BYTES)
BODY = BodyCodec(name="transaction body", max_bytes=MAX_TRANSACTION_BYTES)

hash_envelope: Final = make_hasher(HashTag.TX)
"""Return the hash that names an envelope, from its bytes."""
_hash_body: Final = make_hasher(HashTag.BODY)
_SIGN_PREFIX: Final = compute_sign_bytes(SignKind.TRANSACTION, b"", b"")


class Transaction(msgspec.Struct, frozen=True, gc=False):
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
    id_key: bytes
    """Sender and id: what an id is looked up by, again and again on the way of a payment."""
    body: Body
    signatures: tuple[Signature, ...]
    body_bytes: bytes
    are_own_payments: bool = False
    """The operations are the sender's own payments, and only the chain's id, its time and its state
    can speak against them: in number and values, in version, size and signatures (their number and
    order, not their truth) all is as it must be. True spares those looks; False spares none."""

    def compute_triples(self) -> list[SignedTriple]:
        """Return what the verifier has to check, one triple per signature, in order."""
        message = b"".join((_SIGN_PREFIX, self.body.chain_id, self.body_bytes))
        if len(self.signatures) == 1:  # nearly always, and a comprehension would take longer
            signature = self.signatures[0]
            return [(signature.key, message, signature.signature)]
        return [(s.key, message, s.signature) for s in self.signatures]


def decode_transaction(raw: bytes) -> Transaction:
    """Return the decoded envelope. Signatures are not checked here, nor any rule.

    Raises:
        NonCanonical: `raw` or the body inside is not the canonical encoding of an envelope.
    """
    return decode_hashed(raw, hash_envelope(raw))


def decode_hashed(raw: bytes, tx_hash: bytes) -> Transaction:
    """As `decode_transaction`, for a caller that knows the envelope's hash already."""
    envelope = ENVELOPE.decode(raw)
    return _make_transaction(raw, tx_hash, envelope, _hash_body(envelope.body))


class PaymentCode(Protocol):
    """Recognises many payments in one call."""

    def scan(self, raws: Sequence[bytes]) -> Iterable[tuple[bool, bytes]]:
        """Return for each envelope whether it is a plain payment, and then its body's hash.

        That is: canonical throughout, with one signature and `are_own_payments`. False says
        nothing. For at least one envelope.
        """


_payment_code: PaymentCode | None = None


def use_payment_code(code: PaymentCode | None) -> None:
    """Have payments recognised by somebody who does it faster, see `hashing.use_many_hashes`."""
    global _payment_code  # noqa: PLW0603
    _payment_code = code


def decode_many(raws: Sequence[bytes], hashes: Sequence[bytes]) -> list[Transaction | NonCanonical]:
    """As `decode_hashed` for each, with the error in the place of what is not canonical."""
    code = _payment_code
    if code is None or len(raws) < FEW:
        return _decode_in_full(raws, hashes)
    found = list(code.scan(raws))
    left = [place for place, (is_payment, _) in enumerate(found) if not is_payment]
    others = iter(_decode_in_full([raws[at] for at in left], [hashes[at] for at in left]))
    return [
        _make_payment(raw, tx_hash, body_hash) if is_payment else next(others)
        for raw, tx_hash, (is_payment, body_hash) in zip(raws, hashes, found, strict=True)
    ]


def _decode_in_full(
    raws: Sequence[bytes], hashes: Sequence[bytes]
) -> list[Transaction | NonCanonical]:
    envelopes = [_try_envelope(raw) for raw in raws]
    bodies = [envelope.body for envelope in envelopes if isinstance(envelope, Envelope)]
    body_hashes = iter(hash_all(HashTag.BODY.value, bodies))
    decoded: list[Transaction | NonCanonical] = []
    for raw, tx_hash, envelope in zip(raws, hashes, envelopes, strict=True):
        if isinstance(envelope, NonCanonical):
            decoded.append(envelope)
            continue
        try:
            decoded.append(_make_transaction(raw, tx_hash, envelope, next(body_hashes)))
        except NonCanonical as error:
            decoded.append(error)
    return decoded


def _try_envelope(raw: bytes) -> Envelope | NonCanonical:
    try:
        return ENVELOPE.decode(raw)
    except NonCanonical as error:
        return error


def _make_transaction(
    raw: bytes, tx_hash: bytes, envelope: Envelope, body_hash: bytes
) -> Transaction:
    body = BODY.decode(envelope.body)
    return Transaction(
        raw,
        tx_hash,
        body_hash,
        id_key(body.sender, body.tx_id),
        body,
        envelope.signatures,
        envelope.body,
        _has_good_form(body, envelope.signatures) and are_own_payments(body.sender, body.ops),
    )


def _has_good_form(body: Body, signatures: Sequence[Signature]) -> bool:
    """Return whether nothing but its operations, chain and time can be wrong with an envelope.

    Its size was looked at when it was decoded.
    """
    return (
        body.version == VERSION
        and 1 <= len(body.ops) <= MAX_OPS_PER_TRANSACTION
        and 1 <= len(signatures) <= MAX_SIGNATURES
        and (len(signatures) == 1 or all(a.key < b.key for a, b in pairwise(signatures)))
    )


def _make_payment(raw: bytes, tx_hash: bytes, body_hash: bytes) -> Transaction:
    """Return what `decode_hashed` gives for an envelope that is known to be a plain payment."""
    body_bytes, signatures = _decode_plain_envelope(raw)
    fields = _decode_plain_body(body_bytes)
    version, chain_id, sender, tx_id, valid_from_ms, valid_until_ms, entries = fields
    ops = []
    for _, asset, _, creditor, amount, uetr, purpose, reference, returned, rule, ack in entries:
        # The debtor is the sender, and need not be a text of its own.
        ops.append(
            Transfer(asset, sender, creditor, amount, uetr, purpose, reference, returned, rule, ack)
        )
    body = Body(version, chain_id, sender, tx_id, valid_from_ms, valid_until_ms, tuple(ops))
    key = id_key(sender, tx_id)
    return Transaction(
        raw, tx_hash, body_hash, key, body, signatures, body_bytes, are_own_payments=True
    )


def id_key(sender: str, tx_id: bytes) -> bytes:
    """Return the key of a sender's transaction id, in the records of used ids and elsewhere."""
    return sender.encode() + b"|" + tx_id


def encode_envelope(body_bytes: bytes, signatures: list[tuple[bytes, bytes]]) -> bytes:
    """Return canonical envelope bytes from body bytes and (key, signature) pairs in any order."""
    ordered = tuple(Signature(key, signature) for key, signature in sorted(signatures))
    return encode(Envelope(body_bytes, ordered))
