"""A chain to measure on: the fictional banks, one issuer, and as many funded accounts as wanted."""

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from atpar.cli.testnet.payments import Signed, sign
from atpar.cli.testnet.recipe import HKD, Place, World, build_policy, build_world
from atpar.ledger.blocks import Header
from atpar.ledger.commitment import commit_state
from atpar.ledger.genesis import build_genesis
from atpar.ledger.hashing import HashTag, hash_all
from atpar.ledger.operations import Operation, Transfer
from atpar.ledger.records import (
    ACCOUNTS,
    BALANCES,
    SUPPLIES,
    Account,
    AccountStatus,
    Balance,
    Supply,
    balance_key,
)
from atpar.ledger.state import Backing, Base, MemoryBacking, Overlay
from atpar.ledger.transactions import Transaction, decode_many
from atpar.node.identity import create_root
from atpar.node.signer import LocalSigner

FUNDED: Final = 1_000_000
"""Minor units on every account."""
KEYS: Final = 64
"""Accounts share so many keys: making a million would measure key generation."""
CHUNK: Final = 50_000
START_MS: Final = 1_700_000_000_000
PLACES: Final = 4


@dataclass(slots=True)
class Chain:
    """A state on its backing, the block it stands at, and who may pay from its accounts."""

    world: World
    backing: MemoryBacking
    base: Base
    header: Header
    digest: bytes
    signers: Sequence[LocalSigner]
    accounts: int

    @property
    def chain_id(self) -> bytes:
        """The chain that transactions are signed for."""
        return self.world.chain_id


def build_chain(accounts: int, *, seed: int) -> Chain:
    """Return a chain at height 0 with so many funded customer accounts.

    The records are written directly, the balances with their tree. The accounts' own tree keeps
    its genesis entries: payments do not touch it.
    """
    rng = random.Random(seed)
    world = build_world(
        [
            Place(
                address=f"127.0.0.1:{7000 + index}",
                root_certificate=create_root(f"bank {index}").certificate.decode(),
            )
            for index in range(PLACES)
        ],
        name="bench",
        timestamp_ms=START_MS,
        draw_seed=lambda: rng.randbytes(32),
    )
    genesis = build_genesis(world.document)
    signers = [LocalSigner(rng.randbytes(32)) for _ in range(KEYS)]
    backing = MemoryBacking()
    backing.apply(genesis.overlay.encode_writes())
    base = Base(backing)
    _open_accounts(backing, base, signers, accounts)
    return Chain(world, backing, base, genesis.header, genesis.digest, signers, accounts)


def _open_accounts(
    backing: MemoryBacking, base: Base, signers: Sequence[LocalSigner], count: int
) -> None:
    policies = [build_policy(1, [signer.public_key]) for signer in signers]
    for first in range(0, count, CHUNK):
        last = min(first + CHUNK, count)
        records, balances = Overlay(base), Overlay(base)
        for index in range(first, last):
            account = Account(policies[index % KEYS], False, AccountStatus.OPEN, 0, None)
            records.put(ACCOUNTS, name_account(index).encode(), account)
            key = balance_key(HKD, name_account(index))
            balances.put(BALANCES, key, Balance(FUNDED, 0, 0, 0, 0, 0))
        balances.put(SUPPLIES, HKD.encode(), Supply(last * FUNDED, 0))
        commit_state(balances)
        for overlay in (records, balances):
            backing.apply(overlay.encode_writes())
            base.absorb(overlay)


def name_account(index: int) -> str:
    """Return the id of a customer account; the banks take turns."""
    return f"{('ALFA', 'BRVO', 'CHRL', 'DLTA')[index % 4]}/customer-{index:07d}"


def make_payments(
    chain: Chain, count: int, *, bulk: int, rng: random.Random, is_signed: bool
) -> Iterator[Signed]:
    """Yield payments between random accounts, `bulk` transfers in each."""
    for _ in range(count):
        debtor = rng.randrange(chain.accounts)
        ops: list[Operation] = [_make_transfer(chain, debtor, rng) for _ in range(bulk)]
        signer = chain.signers[debtor % KEYS]
        signers = [signer if is_signed else _Unsigned(signer.public_key)]
        yield sign(chain.chain_id, name_account(debtor), ops, signers, now_ms=START_MS)


class _Unsigned:
    """Stands for a signer where nobody will check the signature."""

    def __init__(self, public_key: bytes) -> None:
        self.public_key = public_key

    def sign(self, kind: object, chain_id: bytes, body: bytes) -> bytes:
        """Return 64 bytes."""
        del kind, chain_id, body
        return bytes(64)


def _make_transfer(chain: Chain, debtor: int, rng: random.Random) -> Transfer:
    creditor = rng.randrange(chain.accounts)
    return Transfer(
        asset=HKD,
        debtor=name_account(debtor),
        creditor=name_account(creditor if creditor != debtor else (debtor + 1) % chain.accounts),
        amount=1,
        uetr=uuid.UUID(int=rng.getrandbits(128), version=4).bytes,
        purpose="",
        reference="",
        return_of=None,
        travel_rule_hash=None,
        travel_rule_ack=False,
    )


def decode_all(raws: Sequence[bytes]) -> list[Transaction]:
    """Return the transactions of envelopes, as a node decodes what it is sent."""
    decoded = decode_many(raws, hash_all(HashTag.TX.value, raws))
    return [tx for tx in decoded if isinstance(tx, Transaction)]


def as_backing(chain: Chain) -> Backing:
    """Return what an executor reads."""
    return chain.backing
