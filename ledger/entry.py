"""What a transaction must satisfy to enter a block, its signatures' validity aside.

Judged on the state before it, in order of precedence; what goes wrong later is a receipt.
"""

from collections.abc import Callable, Sequence

from atpar.ledger.authority import NONE_UNRESOLVED, Unresolved, check_authorised, get_params
from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.ids import make_finder
from atpar.ledger.limits import MAX_OPS_PER_TRANSACTION, MAX_SIGNATURES, MAX_TRANSACTION_BYTES
from atpar.ledger.records import ACCOUNTS, Account, Params
from atpar.ledger.state import Reader, View
from atpar.ledger.transactions import VERSION, Body, Signature, Transaction
from atpar.ledger.values import find_value_fault


def check_admission(view: View, tx: Transaction, *, chain_id: bytes, now_ms: int) -> None:
    """Check every rule but the signatures' validity, in order of precedence.

    Raises:
        Refused: with a code below `FIRST_RECEIPT_CODE`.
    """
    make_entrance(view, chain_id=chain_id, now_ms=now_ms, params=get_params(view)).check(tx)


def make_entrance(view: View, *, chain_id: bytes, now_ms: int, params: Params) -> "Entrance":
    """Return what judges transactions on a state that stays as it is meanwhile."""
    return Entrance(
        view,
        chain_id=chain_id,
        now_ms=now_ms,
        max_window_ms=params.max_window_ms,
        find_used=make_finder(view),
        read_account=Reader(view, ACCOUNTS).read,
    )


class Entrance:
    """Judges transactions, one after the other, at one time."""

    __slots__ = (
        "_chain_id",
        "_find_used",
        "_max_window_ms",
        "_now_ms",
        "_read_account",
        "_view",
    )

    def __init__(
        self,
        view: View,
        *,
        chain_id: bytes,
        now_ms: int,
        max_window_ms: int,
        find_used: Callable[[bytes], int | None],
        read_account: Callable[[bytes], Account | None],
    ) -> None:
        """Judge on a view.

        Args:
            find_used: returns at which height an id was used, by its key, or None.
            read_account: reads the view's accounts.
        """
        self._view = view
        self._chain_id = chain_id
        self._now_ms = now_ms
        self._max_window_ms = max_window_ms
        self._find_used = find_used
        self._read_account = read_account

    def check(self, tx: Transaction) -> Unresolved:
        """Check every rule; return the operations that cannot but fail on this state.

        Raises:
            Refused: with a code below `FIRST_RECEIPT_CODE`.
        """
        body = tx.body
        # Most are payments of one account, and nothing is wrong with them: asked in one go.
        first, last = body.valid_from_ms, body.valid_until_ms
        if (
            tx.are_own_payments
            and body.chain_id == self._chain_id
            and first <= self._now_ms <= last <= first + self._max_window_ms
            and self._find_used(tx.id_key) is None
            and _is_signed_by(self._read_account(body.sender.encode()), tx.signatures)
        ):
            return NONE_UNRESOLVED
        return self._check_in_full(tx)

    def _check_in_full(self, tx: Transaction) -> Unresolved:
        _check_form(tx, self._chain_id)
        body = tx.body
        _check_window(body, self._now_ms, self._max_window_ms)
        height = self._find_used(tx.id_key)
        if height is not None:
            raise Refused(Code.ID_REUSED, f"id {body.tx_id.hex()} was used at height {height}")
        fault = find_value_fault(body.ops)
        if fault is not None:
            raise fault
        return check_authorised(self._view, tx)


def _is_signed_by(account: Account | None, signatures: Sequence[Signature]) -> bool:
    """Return True if an account's policy is met and no other key signed.

    Only a shortcut: what it does not say True to is judged in full.
    """
    if account is None:
        return False
    policy, weight = account.policy, 0
    for signature in signatures:
        key = signature.key
        for entry in policy.keys:
            if entry.key == key:
                weight += entry.weight
                break
        else:
            return False
    return weight >= policy.threshold


def _check_form(tx: Transaction, chain_id: bytes) -> None:
    body, signatures = tx.body, tx.signatures
    if len(tx.raw) > MAX_TRANSACTION_BYTES:
        raise Refused(Code.TOO_LARGE, f"{len(tx.raw)} bytes, at most {MAX_TRANSACTION_BYTES}")
    if body.version != VERSION:
        raise Refused(Code.UNSUPPORTED_VERSION, f"version {body.version}, expected {VERSION}")
    if body.chain_id != chain_id:
        raise Refused(
            Code.WRONG_CHAIN, f"chain {body.chain_id.hex()}, this chain is {chain_id.hex()}"
        )
    if not body.ops:
        raise Refused(Code.NO_OPERATIONS, "no operations")
    if len(body.ops) > MAX_OPS_PER_TRANSACTION:
        raise Refused(
            Code.TOO_MANY_OPERATIONS,
            f"{len(body.ops)} operations, at most {MAX_OPS_PER_TRANSACTION}",
        )
    if len(signatures) > MAX_SIGNATURES:
        raise Refused(
            Code.TOO_MANY_SIGNATURES, f"{len(signatures)} signatures, at most {MAX_SIGNATURES}"
        )
    _check_order(signatures)


def _check_order(signatures: Sequence[Signature]) -> None:
    previous = b""
    for position, signature in enumerate(signatures):
        if signature.key <= previous:
            raise Refused(Code.SIGNATURES_UNSORTED, f"signatures[{position}]: not in order of keys")
        previous = signature.key


def _check_window(body: Body, now_ms: int, max_window_ms: int) -> None:
    first, last = body.valid_from_ms, body.valid_until_ms
    if not 0 <= last - first <= max_window_ms:
        raise Refused(
            Code.WINDOW_INVALID, f"window of {last - first} ms, must be within 0 to {max_window_ms}"
        )
    if now_ms < first:
        raise Refused(Code.NOT_YET_VALID, f"valid from {first}, it is {now_ms}")
    if now_ms > last:
        raise Refused(Code.EXPIRED, f"valid until {last}, it is {now_ms}")
