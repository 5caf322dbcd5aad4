"""What every rule works with: the state being changed, block time, and which operation this is."""

from __future__ import annotations

from collections.abc import Callable

from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.limits import MAX_OPS_PER_TRANSACTION, MAX_SUM
from atpar.ledger.operations import Operation
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    BALANCES,
    NO_BALANCE,
    PARTICIPANTS,
    Account,
    Asset,
    Balance,
    Posting,
)
from atpar.ledger.state import Overlay
from atpar.ledger.transactions import Transaction
from atpar.ledger.types import ParticipantStatus


class Context:
    """One block in execution, and the place inside it. Rules read and write `overlay` alone."""

    __slots__ = (
        "accounts",
        "apply",
        "assets",
        "balances",
        "bundle_entry",
        "chain_id",
        "departed",
        "height",
        "now_ms",
        "op_index",
        "overlay",
        "payer",
        "postings",
        "read_account",
        "read_balance",
        "suspensions",
        "tx",
        "tx_index",
    )

    def __init__(self, overlay: Overlay, *, chain_id: bytes, height: int, now_ms: int) -> None:
        self.overlay = overlay
        self.accounts = overlay.make_reader(ACCOUNTS)
        self.balances = overlay.make_reader(BALANCES)
        self.read_account = self.accounts.read
        self.read_balance = self.balances.read
        self.chain_id = chain_id
        self.height = height
        self.now_ms = now_ms
        """Block time: the only time there is."""
        self.postings: list[Posting] = []
        self.assets: dict[str, Asset] = {}
        self.suspensions: dict[str, bool] = {}
        """Participants, and whether they are suspended."""
        self.payer: tuple[str, str, Asset, Account] | None = None
        """Account id, asset code and records of the last payment's debtor, who may pay."""
        self.departed: list[str] = []
        """Accounts of which something ended in this transaction: closing ones may end."""
        self.tx: Transaction | None = None
        self.apply: Callable[[Context, Operation], None] | None = None
        """Applies any operation: how an approval runs its bundle."""
        self.bundle_entry: tuple[str, bytes, int] | None = None
        """Inside a bundle: who proposed it, its proposal id, the index of the operation in it."""
        self.tx_index = 0
        self.op_index = 0

    def forget(self) -> None:
        """Forget from `assets` to `payer`: what payments look up and do not change.

        For everything that may change it: all other operations, and taking one back.
        """
        self.assets.clear()
        self.suspensions.clear()
        self.payer = None

    @property
    def position(self) -> int:
        """Order of this operation within the block."""
        return self.tx_index * MAX_OPS_PER_TRANSACTION + self.op_index

    def note_departure(self, account_id: str) -> None:
        """Note that something of an account ended, see `departed`."""
        self.departed.append(account_id)

    @property
    def sender(self) -> str:
        """The account that sends the transaction."""
        assert self.tx is not None
        return self.tx.body.sender

    @property
    def signers(self) -> list[bytes]:
        """The keys that signed the transaction, in order."""
        assert self.tx is not None
        return [signature.key for signature in self.tx.signatures]

    def compute_id(self, tag: HashTag) -> bytes:
        """Return the id of the hold, freeze or proposal that this operation makes.

        Inside a bundle the proposal's id takes the place of the transaction's.
        """
        if self.bundle_entry is not None:
            return compute_entry_id(tag, *self.bundle_entry)
        assert self.tx is not None
        return compute_entry_id(tag, self.sender, self.tx.body.tx_id, self.op_index)


def compute_entry_id(tag: HashTag, sender: str, tx_id: bytes, op_index: int) -> bytes:
    """Return the id of a hold, freeze or proposal (by tag), known before it is sent."""
    return compute_hash(tag, encode((sender, tx_id, op_index)))


def check_new_entry(found: object | None, entry_id: bytes) -> None:
    """Check that no hold, freeze or proposal has an id yet.

    A transaction id that is no longer retained may be used again, and would make the same id.

    Raises:
        Refused: ENTRY_EXISTS.
    """
    if found is not None:
        raise Refused(Code.ENTRY_EXISTS, f"{entry_id.hex()} exists")


def load_asset(ctx: Context, code: str) -> Asset:
    """Return an asset.

    Raises:
        Refused: UNKNOWN_ASSET.
    """
    asset = ctx.overlay.get(ASSETS, code.encode())
    if asset is None:
        raise Refused(Code.UNKNOWN_ASSET, f"no asset {code}")
    return asset


def load_creditor(ctx: Context, account_id: str) -> Account:
    """Return the account to be credited.

    Raises:
        Refused: UNKNOWN_CREDITOR.
    """
    account = ctx.read_account(account_id.encode())
    if account is None:
        raise Refused(Code.UNKNOWN_CREDITOR, f"no account {account_id}")
    return account


def load_party(ctx: Context, account_id: str) -> Account:
    """Return an account that is to pay, or is party to a hold.

    Raises:
        Refused: UNKNOWN_TARGET: governance can sign but holds no money.
    """
    account = ctx.read_account(account_id.encode())
    if account is None:
        raise Refused(Code.UNKNOWN_TARGET, f"{account_id} holds no money")
    return account


def is_suspended(ctx: Context, account_id: str) -> bool:
    """Return whether the account's participant is suspended."""
    code = account_id.partition("/")[0]
    known = ctx.suspensions.get(code)
    if known is None:
        participant = ctx.overlay.get(PARTICIPANTS, code.encode())
        known = participant is None or participant.status is ParticipantStatus.SUSPENDED
        ctx.suspensions[code] = known
    return known


def get_balance(ctx: Context, key: bytes) -> Balance:
    """Return the balance under a `balance_key`, zero when there is none."""
    return ctx.read_balance(key) or NO_BALANCE


def change_posted(balance: Balance, posted: int) -> Balance:
    """Return a balance with another posted amount; `structs.replace` takes four times as long."""
    return Balance(
        posted,
        balance.held,
        balance.frozen,
        balance.blocked,
        balance.holds,
        balance.redemptions,
    )


def put_balance(ctx: Context, key: bytes, balance: Balance) -> None:
    """Write a balance; one that is all zeros leaves no record."""
    if balance.posted or balance != NO_BALANCE:
        ctx.overlay.put(BALANCES, key, balance)
    else:
        ctx.overlay.delete(BALANCES, key)
        ctx.note_departure(key.partition(b"|")[2].decode())


def check_sum(value: int, what: str) -> int:
    """Return the value if it is in the range of a sum.

    Raises:
        Refused: OVERFLOW.
    """
    if value > MAX_SUM:
        raise Refused(Code.OVERFLOW, f"{what} would be {value}, at most {MAX_SUM}")
    return value
