"""Genesis documents for any number of validators, and the payments made on them."""

import functools
import hashlib
import random

from msgspec.structs import replace

from atpar.ledger.codec import encode
from atpar.ledger.genesis import Genesis, GenesisParticipant, GenesisValidator, build_genesis
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.limits import HOUR_MS
from atpar.ledger.operations import AttestReserve, Mint, NewValidator, Operation, SetValidators
from atpar.ledger.transactions import (
    VERSION,
    Body,
    Transaction,
    decode_transaction,
    encode_envelope,
)
from atpar.ledger.types import Role
from atpar.node.kv import MemoryKeyValue
from atpar.node.store import write_genesis
from tests.ledger.world import (
    BANKS,
    HKD,
    POLICIES,
    START_MS,
    make_certificate,
    make_document,
    make_params,
    policy_of,
    possess,
    possess_all,
    public,
    transfer,
)
from tests.sim.crypto import Keyring

FUNDS = 1_000_000


def get_codes(count: int) -> tuple[str, ...]:
    """Return participant codes: the four banks, then made-up ones."""
    return (*BANKS[:count], *(f"BK{number:02}" for number in range(5, count + 1)))


@functools.cache
def make_genesis(validators: int, spares: int, epoch_blocks: int) -> Genesis:
    """Return a world with that many validators, and participants that may become ones."""
    document = make_document(params=make_params(epoch_blocks=epoch_blocks))
    codes = get_codes(validators + spares)
    extra = tuple(
        GenesisParticipant(
            participant=code,
            lei=code.rjust(18, "0") + "00",
            bic=f"{code}HKH0",
            jurisdiction="HK",
            roles=(Role.BANK,),
            travel_key=None,
            admin_policy=policy_of(2, (f"{code}-a1", f"{code}-a2")),
            possessions=possess_all(code, (f"{code}-a1", f"{code}-a2")),
        )
        for code in codes[4:]
    )
    members = tuple(
        GenesisValidator(
            participant=code,
            vote_key=public(f"{code}-vote"),
            vote_possession=possess(code, f"{code}-vote").signature,
            admin_key=public(f"{code}-gov"),
            admin_possession=possess(code, f"{code}-gov").signature,
            root_certificate=make_certificate(code),
            address=f"127.0.0.1:{7101 + index}",
        )
        for index, code in enumerate(codes[:validators])
    )
    participants = sorted(document.participants + extra, key=lambda each: each.participant)
    return build_genesis(replace(document, validators=members, participants=tuple(participants)))


@functools.cache
def make_values(validators: int, spares: int, epoch_blocks: int) -> dict[bytes, bytes]:
    """Return what `chain.db` holds at genesis."""
    genesis = make_genesis(validators, spares, epoch_blocks)
    engine = MemoryKeyValue()
    write_genesis(
        engine,
        chain_id=genesis.chain_id,
        header=genesis.header,
        digest=genesis.digest,
        overlay=genesis.overlay,
    )
    return engine.values


class Treasury:
    """Makes signed transactions; everything about them follows from a random generator."""

    def __init__(self, genesis: Genesis, ring: Keyring, rng: random.Random) -> None:
        self._chain_id = genesis.chain_id
        self._ring = ring
        self._rng = rng
        self._count = 0
        self._known = {
            f"{member.participant}-{kind}"
            for member in genesis.validators.members
            for kind in ("vote", "gov")
        }
        """Names of validators' keys that the chain has seen, as far as nothing was lost."""

    def start_at(self, count: int) -> None:
        """Number the next transactions from here on."""
        self._count = count

    def make(
        self,
        *ops: Operation,
        sender: str,
        keys: list[str],
        now_ms: int,
        window: tuple[int, int] = (-HOUR_MS, HOUR_MS),
    ) -> Transaction:
        """Return a signed transaction, valid for a window of time around now."""
        self._count += 1
        body = Body(
            version=VERSION,
            chain_id=self._chain_id,
            sender=sender,
            tx_id=self._count.to_bytes(16, "big"),
            valid_from_ms=now_ms + window[0],
            valid_until_ms=now_ms + window[1],
            ops=ops,
        )
        data = encode(body)
        message = compute_sign_bytes(SignKind.TRANSACTION, self._chain_id, data)
        names = sorted(keys, key=public)
        signed = [(public(name), self._ring.sign(name, message)) for name in names]
        return decode_transaction(encode_envelope(data, signed))

    def fund(self, now_ms: int) -> Transaction:
        """Return one transaction that attests a reserve and mints for every bank."""
        amount = FUNDS * len(BANKS)
        report = hashlib.sha256(b"report").digest()
        attested, audited = (
            AttestReserve(HKD, role, 1, START_MS + 1_000, amount, (), report)
            for role in (Role.CUSTODIAN, Role.AUDITOR)
        )
        mints = [
            Mint(HKD, "JDCL/mint", f"{bank}/main", FUNDS, bytes([index]) * 16, None)
            for index, bank in enumerate(BANKS)
        ]
        keys = [k for a in ("CUST/reserve", "AUDT/sign", "JDCL/mint") for k in _keys_of(a)]
        return self.make(attested, audited, *mints, sender="CUST/reserve", keys=keys, now_ms=now_ms)

    def pay(self, now_ms: int, *, window: tuple[int, int] = (-HOUR_MS, HOUR_MS)) -> Transaction:
        """Return a payment of a random amount between two random banks; some lack the money."""
        debtor, creditor = self._rng.sample(BANKS, 2)
        amount = self._rng.choice((1, 100, 12_345, FUNDS // 2, FUNDS))
        op = transfer(f"{debtor}/main", f"{creditor}/main", amount)
        keys = _keys_of(op.debtor)
        return self.make(op, sender=op.debtor, keys=keys, now_ms=now_ms, window=window)

    def change_set(self, now_ms: int, *, voters: list[str], members: dict[str, str]) -> Transaction:
        """Return the transaction with which a quorum of the voters fixes the next set.

        `members`: participant -> name of its vote key, in order.
        """
        quorum = len(voters) - (len(voters) - 1) // 3
        names = {code: (vote, f"{code}-gov") for code, vote in members.items()}
        fresh = [
            possess(code, name, self._chain_id)
            for code, both in names.items()
            for name in both
            if name not in self._known
        ]
        self._known.update(name for both in names.values() for name in both)
        op = SetValidators(
            tuple(
                NewValidator(
                    code,
                    public(vote),
                    public(gov),
                    make_certificate(code),
                    f"127.0.0.1:{7101 + get_codes(99).index(code)}",
                )
                for code, (vote, gov) in names.items()
            ),
            tuple(sorted(fresh, key=lambda each: each.key)),
        )
        keys = [f"{code}-gov" for code in voters[:quorum]]
        return self.make(op, sender="CHAIN/governance", keys=keys, now_ms=now_ms)


def _keys_of(account: str) -> list[str]:
    threshold, names = POLICIES[account]
    return list(names[:threshold])
