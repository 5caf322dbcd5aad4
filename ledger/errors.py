"""The ledger's errors.

    LedgerError                     root
    ├── Refused(code)               a request broke a rule: becomes a receipt or a problem document
    ├── NonCanonical                bytes are not the one encoding of a value: the sender's fault
    ├── BlockInvalid                a proposed block breaks a rule: the proposer's fault
    ├── GenesisInvalid(field)       the genesis document is inconsistent; names the field
    ├── ProofInvalid                a proof does not show what it claims
    └── ForkFound                   two proofs that both hold contradict each other

A broken invariant of ours is an `AssertionError` and stops the node.
"""

from atpar.ledger.codes import Code


class LedgerError(Exception):
    """Root of everything the ledger raises on purpose."""


class Refused(LedgerError):
    """A request broke a rule.

    `code` is the stable result code; the message gives both values, for people.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class NonCanonical(LedgerError):
    """Bytes do not decode, or are not the single canonical encoding of what they decode to."""


class BlockInvalid(LedgerError):
    """A proposed block breaks a rule that no honest proposer breaks."""


class GenesisInvalid(LedgerError):
    """The genesis document is inconsistent. `field` is the path of the offending field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class ProofInvalid(LedgerError):
    """A proof does not show what it claims."""


class ForkFound(LedgerError):
    """Two proofs that hold, each by itself, are of two histories."""
