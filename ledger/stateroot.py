"""The state root: one hash over the roots of all trees, and what it says about each asset."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from atpar.ledger.codec import Wire, encode
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.limits import MAX_ASSETS
from atpar.ledger.treeproofs import Sum
from atpar.ledger.types import AssetCode, Hash, TimeMs


class SectionRoot(Wire, frozen=True):
    """The root of one section of records."""

    section: Annotated[int, Meta(ge=0, le=255)]
    root: Hash


class AssetRow(Wire, frozen=True):
    """What the state root says about one asset."""

    asset: AssetCode
    root: Hash
    """Of the tree of its balances."""
    posted: Sum
    """The sum of all balances, computed by that tree."""
    supply: Sum
    """Minted minus burned."""
    attested: Sum
    """The last attested reserve."""
    as_of_ms: TimeMs
    """The instant of which that attestation speaks."""


class StateTable(Wire, frozen=True):
    """Everything that the state root hashes."""

    sections: Annotated[tuple[SectionRoot, ...], Meta(max_length=256)]
    """In ascending order of section number."""
    assets: Annotated[tuple[AssetRow, ...], Meta(max_length=MAX_ASSETS)]
    """In ascending order of code."""


def compute_state_root(sections: Sequence[SectionRoot], assets: Sequence[AssetRow]) -> bytes:
    """Return the 32-byte root of the whole state.

    Hashes the canonical bytes of the table: lengths are in them, so nothing is ambiguous.
    """
    return compute_hash(HashTag.STATE, encode(StateTable(tuple(sections), tuple(assets))))
