"""The payments that a load generator sends, signed before the clock starts.

They go round a ring of funded accounts, one minor unit each, so that no account runs dry and the
balances that must result are known exactly: `expected` tells a payment that took effect twice.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from atpar.cli.testnet.recipe import HKD
from atpar.ledger.codec import encode
from atpar.ledger.hashing import HashTag, SignKind, compute_hash
from atpar.ledger.operations import Operation, Transfer
from atpar.ledger.transactions import VERSION, Body, encode_envelope
from atpar.node.signer import Signer

UNIT: Final = 1
WINDOW_BACK_MS: Final = 60_000
"""Clocks of client and validators may differ by so much."""
WINDOW_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Signed:
    """One signed transaction, ready to be sent any number of times."""

    raw: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class LoadAccount:
    """An account that pays and is paid."""

    account: str
    signer: Signer


def sign(
    chain_id: bytes,
    sender: str,
    ops: Sequence[Operation],
    signers: Sequence[Signer],
    *,
    now_ms: int,
) -> Signed:
    """Return a signed transaction with a fresh id, valid for an hour."""
    body = encode(
        Body(
            version=VERSION,
            chain_id=chain_id,
            sender=sender,
            tx_id=uuid.uuid4().bytes,
            valid_from_ms=now_ms - WINDOW_BACK_MS,
            valid_until_ms=now_ms + WINDOW_MS,
            ops=tuple(ops),
        )
    )
    signatures = [
        (signer.public_key, signer.sign(SignKind.TRANSACTION, chain_id, body)) for signer in signers
    ]
    raw = encode_envelope(body, signatures)
    return Signed(raw, compute_hash(HashTag.TX, raw))


class PaymentRing:
    """Makes payments from each account to the next, round and round."""

    def __init__(self, chain_id: bytes, accounts: Sequence[LoadAccount], *, bulk: int) -> None:
        """`bulk` is the number of transfers in each transaction."""
        if len(accounts) < 2 or bulk < 1:
            raise ValueError(f"{len(accounts)} accounts, {bulk} transfers: at least 2 and 1")
        self._chain_id = chain_id
        self._accounts = accounts
        self._bulk = bulk
        self._debtors: dict[bytes, int] = {}

    def make(self, *, now_ms: int) -> Iterator[Signed]:
        """Yield signed payments without end."""
        size = len(self._accounts)
        for number in count():
            debtor = self._accounts[number % size]
            creditor = self._accounts[(number + 1) % size]
            ops = [
                Transfer(
                    asset=HKD,
                    debtor=debtor.account,
                    creditor=creditor.account,
                    amount=UNIT,
                    uetr=uuid.uuid4().bytes,
                    purpose="",
                    reference="",
                    return_of=None,
                    travel_rule_hash=None,
                    travel_rule_ack=False,
                )
                for _ in range(self._bulk)
            ]
            signed = sign(self._chain_id, debtor.account, ops, [debtor.signer], now_ms=now_ms)
            self._debtors[signed.hash] = number % size
            yield signed

    def compute_expected(self, funded: int, succeeded: Iterator[bytes]) -> dict[str, int]:
        """Return what each account must hold once exactly these payments have taken effect once."""
        size = len(self._accounts)
        moved = [0] * size
        for tx_hash in succeeded:
            debtor = self._debtors[tx_hash]
            moved[debtor] -= UNIT * self._bulk
            moved[(debtor + 1) % size] += UNIT * self._bulk
        return {
            account.account: funded + change
            for account, change in zip(self._accounts, moved, strict=True)
        }
