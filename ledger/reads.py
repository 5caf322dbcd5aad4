"""Typed reads of the state, for the API and the command line."""

from atpar.ledger import records
from atpar.ledger.records import Account, Asset, Balance, Reserve, Supply, TxRecord
from atpar.ledger.state import View


def get_account(view: View, account: str) -> Account | None:
    """Return an account."""
    return view.get(records.ACCOUNTS, account.encode())


def get_balance(view: View, asset: str, account: str) -> Balance:
    """Return a balance, zero when there is none."""
    return view.get(records.BALANCES, records.balance_key(asset, account)) or records.NO_BALANCE


def get_asset(view: View, asset: str) -> Asset | None:
    """Return an asset."""
    return view.get(records.ASSETS, asset.encode())


def get_supply(view: View, asset: str) -> Supply | None:
    """Return what was minted and burned."""
    return view.get(records.SUPPLIES, asset.encode())


def get_reserve(view: View, asset: str) -> Reserve | None:
    """Return the last attestation and what followed from it."""
    return view.get(records.RESERVES, asset.encode())


def get_tx_record(view: View, sender: str, tx_id: bytes) -> TxRecord | None:
    """Return which transaction used an id."""
    return view.get(records.TX_IDS, sender.encode() + b"|" + tx_id)
