"""From changed records to the state root: which entries of which trees a block's writes touch."""

from atpar.ledger.codec import encode
from atpar.ledger.records import (
    BALANCES,
    NO_RESERVE,
    PROVEN_SECTIONS,
    RESERVES,
    SUPPLIES,
)
from atpar.ledger.state import Overlay, View
from atpar.ledger.stateroot import AssetRow, SectionRoot, StateTable, compute_state_root
from atpar.ledger.tree import (
    Change,
    compute_asset_tree,
    compute_section_tree,
    get_root,
    update_tree,
)

SECTION_TREES = tuple((section, compute_section_tree(section.id)) for section in PROVEN_SECTIONS)


def commit_state(overlay: Overlay) -> bytes:
    """Bring the trees in line with the overlay's records; return the state root."""
    for section, tree in SECTION_TREES:
        table = overlay.tables.get(section.id)
        if table:
            written: list[Change] = [
                (key, None if record is None else encode(record), 0)
                for key, record in table.items()
            ]
            update_tree(overlay, tree, written)
    for code, changes in _group_balances(overlay).items():
        update_tree(overlay, compute_asset_tree(code), changes)
    table_ = read_state_table(overlay)
    return compute_state_root(table_.sections, table_.assets)


def _group_balances(overlay: Overlay) -> dict[str, list[Change]]:
    grouped: dict[bytes, list[Change]] = {}
    for key, record in overlay.tables.get(BALANCES.id, {}).items():
        asset, _, account = key.partition(b"|")
        changes = grouped.get(asset)
        if changes is None:
            changes = grouped[asset] = []
        if record is None:
            changes.append((account, None, 0))
        else:
            changes.append((account, encode(record), record.posted))
    return {asset.decode(): changes for asset, changes in grouped.items()}


def read_state_table(view: View) -> StateTable:
    """Return what the state root hashes, from a view whose trees are in line with its records.

    Raises:
        AssertionError: an asset's balances do not sum to its supply.
    """
    sections = tuple(
        SectionRoot(section.id, get_root(view, tree).hash) for section, tree in SECTION_TREES
    )
    rows = []
    for key, supply in view.scan(SUPPLIES, b""):
        code = key.decode()
        reserve = view.get(RESERVES, key) or NO_RESERVE
        root = get_root(view, compute_asset_tree(code))
        circulating = supply.minted - supply.burned
        if root.total != circulating:
            # Not an assert statement: `python -O` must not make an unsound state certifiable.
            raise AssertionError(f"{code}: posted {root.total}, supply {circulating}")
        rows.append(
            AssetRow(code, root.hash, root.total, circulating, reserve.attested, reserve.as_of_ms)
        )
    return StateTable(sections, tuple(rows))
