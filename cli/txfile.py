"""Transaction files: how several parties sign one body without sharing a machine.

    {"format": "atpar-tx/1", "body": "<base64>",
     "signatures": [{"key": "<hex>", "signature": "<hex>"}]}

The body is the exact bytes that everybody signs; whoever opens a file reads them decoded, and every
signature is checked against them, so a file that was changed on the way is refused.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from atpar.cli.errors import WrongUsage, refused
from atpar.cli.files import FileTooLong, read_input
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.keys import verify
from atpar.ledger.limits import MAX_SIGNATURES, MAX_TRANSACTION_BYTES
from atpar.ledger.transactions import BODY, Body, encode_envelope

FORMAT: Final = "atpar-tx/1"
MAX_FILE_BYTES: Final = 4 * MAX_TRANSACTION_BYTES


class _SignatureForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    signature: Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]


class _FileForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    body: str
    signatures: tuple[_SignatureForm, ...]


@dataclass(frozen=True, slots=True)
class TxFile:
    """A body and the signatures collected so far, each valid for it."""

    body_bytes: bytes
    signatures: dict[bytes, bytes]
    """Public key -> signature."""

    @property
    def body(self) -> Body:
        """The decoded body."""
        return BODY.decode(self.body_bytes)

    def add(self, signatures: Iterable[tuple[bytes, bytes]]) -> "TxFile":
        """Return the file with further signatures.

        Raises:
            RefusedByLedger: TOO_MANY_SIGNATURES.
        """
        merged = {**self.signatures, **dict(signatures)}
        if len(merged) > MAX_SIGNATURES:
            raise refused(
                "TOO_MANY_SIGNATURES", f"{len(merged)} signatures, at most {MAX_SIGNATURES}"
            )
        return TxFile(self.body_bytes, merged)

    def compute_envelope(self) -> bytes:
        """Return the bytes to submit.

        Raises:
            RefusedByLedger: TOO_LARGE.
        """
        raw = encode_envelope(self.body_bytes, list(self.signatures.items()))
        if len(raw) > MAX_TRANSACTION_BYTES:
            raise refused("TOO_LARGE", f"{len(raw)} bytes, at most {MAX_TRANSACTION_BYTES}")
        return raw

    def render(self) -> bytes:
        """Return the bytes of the JSON file."""
        form = _FileForm(
            FORMAT,
            base64.b64encode(self.body_bytes).decode(),
            tuple(
                _SignatureForm(key.hex(), signature.hex())
                for key, signature in sorted(self.signatures.items())
            ),
        )
        return msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"


def read_transaction(path: Path) -> bytes:
    """Return the bytes of a file that holds a transaction in some form.

    Raises:
        WrongUsage: the file cannot be read.
        RefusedByLedger: TOO_LARGE: whatever it holds is longer than a transaction may be.
    """
    try:
        return read_input(path, max_bytes=MAX_FILE_BYTES)
    except FileTooLong as error:
        raise refused("TOO_LARGE", error.message) from error


def read_tx_file(path: Path) -> TxFile:
    """Return a transaction file after checking every signature in it.

    Raises:
        WrongUsage: the file cannot be read or is not a transaction file.
        NonCanonical: the body is not a transaction body.
        RefusedByLedger: TOO_LARGE, TOO_MANY_SIGNATURES, SIGNATURES_UNSORTED, or BAD_SIGNATURE.
    """
    data = read_transaction(path)
    try:
        form = msgspec.json.decode(data, type=_FileForm)
        body_bytes = base64.b64decode(form.body, validate=True)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, binascii.Error) as error:
        raise WrongUsage(
            f"{path}: not a transaction file: {error}", advice="`atpar tx new` makes one"
        ) from error
    if form.format != FORMAT:
        raise WrongUsage(
            f"{path}: format {form.format!r:.40}, expected {FORMAT!r}",
            advice="use the version of atpar that wrote it",
        )
    if len(body_bytes) > MAX_TRANSACTION_BYTES:
        raise refused(
            "TOO_LARGE", f"{path}: {len(body_bytes)} bytes, at most {MAX_TRANSACTION_BYTES}"
        )
    body = BODY.decode(body_bytes)
    if len(form.signatures) > MAX_SIGNATURES:
        raise refused(
            "TOO_MANY_SIGNATURES",
            f"{path}: {len(form.signatures)} signatures, at most {MAX_SIGNATURES}",
        )
    signatures = {bytes.fromhex(s.key): bytes.fromhex(s.signature) for s in form.signatures}
    if len(signatures) != len(form.signatures):
        raise refused("SIGNATURES_UNSORTED", f"{path}: one key signs twice")
    check_signatures(body, body_bytes, signatures.items(), str(path))
    return TxFile(body_bytes, {}).add(signatures.items())


def check_signatures(
    body: Body, body_bytes: bytes, signatures: Iterable[tuple[bytes, bytes]], name: str
) -> None:
    """Check that (key, signature) pairs are valid for a body.

    Raises:
        RefusedByLedger: BAD_SIGNATURE, naming the key.
    """
    message = compute_sign_bytes(SignKind.TRANSACTION, body.chain_id, body_bytes)
    for key, signature in signatures:
        if not verify(key, message, signature):
            raise refused(
                "BAD_SIGNATURE",
                f"{name}: the signature of key {key.hex()} does not fit this body: it was"
                " changed after it was signed",
            )


def join_tx_files(files: Iterable[tuple[Path, TxFile]]) -> TxFile:
    """Return one file with the signatures of all.

    Raises:
        WrongUsage: two files have different bodies.
        RefusedByLedger: TOO_MANY_SIGNATURES.
    """
    (first_path, joined), *rest = files
    for path, other in rest:
        if other.body_bytes != joined.body_bytes:
            raise WrongUsage(
                f"{first_path} and {path} have different bodies",
                advice="compare them with `atpar tx decode`; all parties must sign the same bytes",
            )
        joined = joined.add(other.signatures.items())
    return joined
