"""A small world for ledger tests: institutions, keys, two assets, and transactions in a line.

    world = World()
    world.fund("ALFA/main", 1_000)
    assert world.run(transfer("ALFA/main", "BRVO/main", 10)) is Code.OK

Every `run` is one block on top of the last. Time moves by hand (`world.now_ms`), by one
millisecond a block at least.
"""

import datetime
import functools
import hashlib
import itertools
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec.structs import replace
from nacl.signing import SigningKey

from atpar.ledger import records
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.commitment import commit_state
from atpar.ledger.context import compute_entry_id
from atpar.ledger.execute import Executed, Template, build_block, execute_block
from atpar.ledger.genesis import (
    FORMAT,
    Genesis,
    GenesisAccount,
    GenesisAsset,
    GenesisDocument,
    GenesisObserver,
    GenesisParams,
    GenesisParticipant,
    GenesisQuota,
    GenesisSignature,
    GenesisValidator,
    build_genesis,
    compute_genesis_sign_bytes,
)
from atpar.ledger.hashing import HashTag, SignKind, compute_sign_bytes
from atpar.ledger.invariants import check_invariants
from atpar.ledger.keys import compute_possession_bytes
from atpar.ledger.limits import (
    DAY_MS,
    HOUR_MS,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_WINDOW_MS,
    TX_ID_RETENTION_MS,
)
from atpar.ledger.operations import (
    AssetTerms,
    AttestReserve,
    Burn,
    Freeze,
    Mint,
    Operation,
    Policy,
    Possession,
    Redeem,
    Release,
    Transfer,
    Unfreeze,
    WeightedKey,
)
from atpar.ledger.records import Balance
from atpar.ledger.state import Base, MemoryBacking, Overlay
from atpar.ledger.transactions import (
    VERSION,
    Body,
    Transaction,
    decode_transaction,
    encode_envelope,
)
from atpar.ledger.types import ZERO_HASH, Direction, Role

HKD = "HKD.JDCL"
CNH = "CNH.JDCL"
BANKS = ("ALFA", "BRVO", "CHRL", "DLTA")
START_MS = 1_764_547_200_000
"""Monday 2025-12-01 00:00 UTC, 08:00 in the assets' calendar."""

POLICIES: dict[str, tuple[int, tuple[str, ...]]] = {
    **{f"{bank}/admin": (2, (f"{bank}-a1", f"{bank}-a2")) for bank in BANKS},
    **{f"{bank}/main": (1, (f"{bank}-pay",)) for bank in BANKS},
    **{f"{bank}/other": (1, (f"{bank}-pay",)) for bank in BANKS},
    "JDCL/admin": (2, ("JDCL-a1", "JDCL-a2", "JDCL-a3")),
    "JDCL/treasury": (2, ("JDCL-t1", "JDCL-t2")),
    "JDCL/mint": (2, ("JDCL-m1", "JDCL-m2")),
    "JDCL/compliance": (1, ("JDCL-c1",)),
    "JDCL/release": (2, ("JDCL-r1", "JDCL-r2")),
    "JDCL/seizure": (2, ("JDCL-s1", "JDCL-s2")),
    "JDCL/pause": (1, ("JDCL-p1",)),
    "JDCL/unpause": (2, ("JDCL-u1", "JDCL-u2")),
    "CUST/admin": (2, ("CUST-a1", "CUST-a2")),
    "CUST/reserve": (2, ("CUST-k1", "CUST-k2")),
    "AUDT/admin": (2, ("AUDT-a1", "AUDT-a2")),
    "AUDT/sign": (1, ("AUDT-k1",)),
    "REGU/admin": (2, ("REGU-a1", "REGU-a2")),
    "REGU/watch": (1, ("REGU-k1",)),
}
"""Account -> (threshold, key names), every key of weight 1; a key starts with its owner's code."""

ROLES = {
    **dict.fromkeys(BANKS, (Role.BANK,)),
    "JDCL": (Role.ISSUER,),
    "CUST": (Role.CUSTODIAN,),
    "AUDT": (Role.AUDITOR,),
    "REGU": (Role.REGULATOR,),
}


@functools.cache
def key_of(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


@functools.cache
def public(name: str) -> bytes:
    return bytes(key_of(name).verify_key)


def policy_of(threshold: int, names: Sequence[str]) -> Policy:
    keys = sorted(public(name) for name in names)
    return Policy(tuple(WeightedKey(key, 1) for key in keys), threshold)


def possess(participant: str, name: str, chain_id: bytes = ZERO_HASH) -> Possession:
    message = compute_possession_bytes(chain_id, participant=participant, public_key=public(name))
    return Possession(public(name), key_of(name).sign(message).signature)


def possess_all(
    participant: str, names: Sequence[str], chain_id: bytes = ZERO_HASH
) -> tuple[Possession, ...]:
    return tuple(sorted((possess(participant, n, chain_id) for n in names), key=lambda p: p.key))


@functools.cache
def make_certificate(code: str) -> str:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(code.encode()).digest())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, code)])
    start = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start.replace(2100))
    return builder.sign(key, None).public_bytes(Encoding.PEM).decode()


def make_terms(**changes: object) -> AssetTerms:
    terms = AssetTerms(
        cap=10**15,
        overcollateral_bps=0,
        attestation_max_age_ms=DAY_MS,
        audit_max_age_ms=30 * DAY_MS,
        redemption_sla_days=1,
        utc_offset_minutes=480,
        holidays=(),
        min_kyc_tier=0,
        travel_rule_from=None,
        treasury="JDCL/treasury",
        custodian="CUST/reserve",
        auditor="AUDT/sign",
        regulator="REGU/watch",
        compliance="JDCL/compliance",
        compliance_release="JDCL/release",
        seizure="JDCL/seizure",
        pauser="JDCL/pause",
        unpauser="JDCL/unpause",
        minters=("JDCL/mint",),
    )
    return replace(terms, **changes)


def make_params(**changes: object) -> GenesisParams:
    params = GenesisParams(
        max_window_ms=MAX_WINDOW_MS,
        tx_id_retention_ms=TX_ID_RETENTION_MS,
        max_block_bytes=MAX_BLOCK_BYTES,
        max_block_transactions=MAX_BLOCK_TRANSACTIONS,
        epoch_blocks=1_000_000,
        block_interval_ms=50,
        heartbeat_ms=5_000,
        delta_ms=200,
    )
    return replace(params, **changes)


def make_document(
    *, terms: AssetTerms | None = None, params: GenesisParams | None = None
) -> GenesisDocument:
    """Return an unsigned genesis document of the whole world."""
    known: set[str] = set()

    def fresh(code: str, names: Sequence[str]) -> tuple[Possession, ...]:
        new = [name for name in names if name not in known]
        known.update(new)
        return possess_all(code, new)

    participants = []
    for code in sorted(ROLES):
        threshold, names = POLICIES[f"{code}/admin"]
        participants.append(
            GenesisParticipant(
                participant=code,
                lei=code.rjust(18, "0") + "00",
                bic=f"{code}HKH0",
                jurisdiction="HK",
                roles=ROLES[code],
                travel_key=None,
                admin_policy=policy_of(threshold, names),
                possessions=fresh(code, names),
            )
        )
    accounts = [
        GenesisAccount(account, policy_of(*policy), False, fresh(account[:4], policy[1]))
        for account, policy in sorted(POLICIES.items())
        if not account.endswith("/admin")
    ]
    validators = [
        GenesisValidator(
            participant=code,
            vote_key=public(f"{code}-vote"),
            vote_possession=possess(code, f"{code}-vote").signature,
            admin_key=public(f"{code}-gov"),
            admin_possession=possess(code, f"{code}-gov").signature,
            root_certificate=make_certificate(code),
            address=f"127.0.0.1:{7101 + index}",
        )
        for index, code in enumerate(BANKS)
    ]
    return GenesisDocument(
        format=FORMAT,
        name="test-world",
        timestamp_ms=START_MS,
        validators=tuple(validators),
        observers=(GenesisObserver("AUDT", make_certificate("AUDT")),),
        participants=tuple(participants),
        accounts=tuple(accounts),
        assets=tuple(
            GenesisAsset(asset, "JDCL", asset[:3], 2, terms or make_terms()) for asset in (CNH, HKD)
        ),
        quotas=tuple(GenesisQuota(a, "JDCL/mint", 10**14, 10**14) for a in (CNH, HKD)),
        params=params or make_params(),
        signatures=(),
    )


def sign_document(document: GenesisDocument) -> GenesisDocument:
    message = compute_genesis_sign_bytes(document)
    signatures = tuple(
        GenesisSignature(v.participant, key_of(f"{v.participant}-gov").sign(message).signature)
        for v in document.validators
    )
    return replace(document, signatures=signatures)


@functools.cache
def default_genesis() -> Genesis:
    return build_genesis(make_document())


SKIPPED = {s.id for s in (records.ID_BUCKETS, records.TX_IDS, records.TX_LISTS, records.PURGES)}
"""What a refused transaction may change."""


class World:
    """A chain of blocks over the genesis state, in memory."""

    def __init__(self, document: GenesisDocument | None = None) -> None:
        self.genesis = default_genesis() if document is None else build_genesis(document)
        self.chain_id = self.genesis.chain_id
        self.header = self.genesis.header
        self.digest = self.genesis.digest
        self.backing = MemoryBacking()
        self.backing.apply(self.genesis.overlay.encode_writes())
        self.view = Base(self.backing)
        self.now_ms = self.header.timestamp_ms
        self.executed: list[Executed] = []
        self.policies = dict(POLICIES)
        """May be extended when a test opens accounts."""
        self._ids = itertools.count(1)
        self.refusals: list[str] = []

    # ---- transactions

    def next_id(self) -> bytes:
        return next(self._ids).to_bytes(16, "big")

    def make(
        self,
        *ops: Operation,
        sender: str,
        by: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        tx_id: bytes | None = None,
        window: tuple[int, int] | None = None,
        chain_id: bytes | None = None,
        version: int = VERSION,
    ) -> Transaction:
        """Return a transaction signed for the accounts `by`, or by the named `keys`."""
        first, last = window or (max(0, self.now_ms - HOUR_MS), self.now_ms + HOUR_MS)
        body = Body(
            version=version,
            chain_id=chain_id or self.chain_id,
            sender=sender,
            tx_id=tx_id or self.next_id(),
            valid_from_ms=first,
            valid_until_ms=last,
            ops=ops,
        )
        data = encode(body)
        if keys is None:
            keys = self.keys_for([sender, *(by or ())])
        message = compute_sign_bytes(SignKind.TRANSACTION, body.chain_id, data)
        signed = [
            (public(name), key_of(name).sign(message).signature) for name in sorted(set(keys))
        ]
        return decode_transaction(encode_envelope(data, signed))

    def keys_for(self, accounts: Sequence[str]) -> list[str]:
        """Return names of keys that just satisfy the accounts' policies."""
        names: list[str] = []
        for account in accounts:
            if account == "CHAIN/governance":
                names += [f"{bank}-gov" for bank in BANKS[:3]]
            else:
                threshold, keys = self.policies[account]
                names += keys[:threshold]
        return sorted(set(names))

    # ---- blocks

    def block(self, *txs: Transaction) -> list[Code]:
        """Build, check and adopt one block; return one code for each transaction."""
        built, refused = build_block(self.view, self.make_template(), txs, chain_id=self.chain_id)
        self.adopt(built)
        codes = {tx.hash: refusal.code for tx, refusal in refused}
        self.refusals = [refusal.message for _, refusal in refused]
        codes.update((r.tx_hash, Code(r.code)) for r in built.receipts)
        return [codes[tx.hash] for tx in txs]

    def make_template(self) -> Template:
        self.now_ms = max(self.now_ms, self.header.timestamp_ms + 1)
        return Template(
            epoch=self.header.epoch,
            view=self.header.view + 1,
            parent=self.header,
            parent_digest=self.digest,
            timestamp_ms=self.now_ms,
            proposer=BANKS[(self.header.view + 1) % 4],
        )

    def adopt(self, built: Executed) -> None:
        checked = execute_block(
            self.view,
            self.header,
            self.digest,
            built.block,
            [decode_transaction(tx.raw) for tx in built.transactions],
            chain_id=self.chain_id,
        )
        assert checked.digest == built.digest
        assert checked.receipts == built.receipts
        self.backing.apply(built.overlay.encode_writes())
        self.view.absorb(built.overlay)
        self.header, self.digest = built.header, built.digest
        self.executed.append(built)

    def run(
        self,
        *ops: Operation,
        sender: str | None = None,
        by: Sequence[str] = (),
        keys: Sequence[str] | None = None,
    ) -> Code:
        """Run the operations as one transaction in a block of its own; check the invariants."""
        tx = self.make(*ops, sender=sender or sender_of(ops[0]), by=by, keys=keys)
        self.last = tx
        return self.apply(tx)

    def apply(self, tx: Transaction) -> Code:
        before = self.snapshot_after_empty_block()
        (code,) = self.block(tx)
        if code is not Code.OK:
            assert self.snapshot() == before, "a refused transaction changed the state"
        broken = check_invariants(self.view)
        assert not broken, broken
        return code

    def snapshot(self) -> dict[tuple[int, bytes], bytes]:
        """Return everything but transaction ids and tree nodes."""
        return {
            (space, key): data
            for space, table in self.backing.spaces.items()
            if space < 255 and space not in SKIPPED
            for key, data in table.items()
        }

    def snapshot_after_empty_block(self) -> dict[tuple[int, bytes], bytes]:
        """Return what `snapshot` would be after a block without transactions."""
        built, _ = build_block(self.view, self.make_template(), [], chain_id=self.chain_id)
        after = self.snapshot()
        for space, key, data in built.overlay.encode_writes():
            if space < 255 and space not in SKIPPED and data is not None:
                after[(space, key)] = data
            else:
                after.pop((space, key), None)
        return after

    def compute_fresh_root(self) -> bytes:
        """Return the state root computed anew from the records, without the kept trees."""
        overlay = Overlay(Base(MemoryBacking()))
        for section in records.SECTIONS:
            for key, record in self.view.scan(section, b""):
                overlay.put(section, key, record)
        return commit_state(overlay)

    # ---- shortcuts

    def advance(self, ms: int) -> None:
        self.now_ms += ms

    def attest(self, amount: int, asset: str = HKD, *, paid: Sequence[bytes] = ()) -> Code:
        """Attest and audit an amount as of now."""
        code = self.run(self.attestation(amount, asset, paid=paid))
        if code is Code.OK:
            code = self.run(self.countersignature(asset))
        return code

    def attestation(
        self,
        amount: int,
        asset: str = HKD,
        *,
        paid: Sequence[bytes] = (),
        sequence: int | None = None,
        as_of_ms: int | None = None,
    ) -> AttestReserve:
        reserve = self.view.get(records.RESERVES, asset.encode())
        assert reserve is not None
        return AttestReserve(
            asset=asset,
            by=Role.CUSTODIAN,
            sequence=reserve.sequence + 1 if sequence is None else sequence,
            as_of_ms=self.now_ms if as_of_ms is None else as_of_ms,
            amount=amount,
            paid_not_burned=tuple(sorted(paid)),
            report_hash=hashlib.sha256(b"report").digest(),
        )

    def countersignature(self, asset: str = HKD, **changes: object) -> AttestReserve:
        reserve = self.view.get(records.RESERVES, asset.encode())
        assert reserve is not None
        stated = AttestReserve(
            asset=asset,
            by=Role.AUDITOR,
            sequence=reserve.sequence,
            as_of_ms=reserve.as_of_ms,
            amount=reserve.attested,
            paid_not_burned=reserve.paid_not_burned,
            report_hash=reserve.report_hash,
        )
        return replace(stated, **changes)

    def mint(self, creditor: str, amount: int, asset: str = HKD, **changes: object) -> Mint:
        op = Mint(asset, "JDCL/mint", creditor, amount, self.next_id(), None)
        return replace(op, **changes)

    def fund(self, account: str, amount: int, asset: str = HKD) -> None:
        """Attest enough, and mint."""
        reserve = self.view.get(records.RESERVES, asset.encode())
        assert reserve is not None
        assert self.attest(reserve.backing + amount, asset) is Code.OK
        assert self.run(self.mint(account, amount, asset)) is Code.OK

    def redeem(self, holder: str, amount: int, asset: str = HKD) -> bytes:
        """Redeem, and return the redemption's id."""
        assert self.run(Redeem(asset, holder, amount, bytes(32))) is Code.OK
        return self.hold_id()

    def burn(self, redemption: bytes, *, paid_at_ms: int | None = None, **changes: object) -> Code:
        paid = self.now_ms if paid_at_ms is None else paid_at_ms
        op = replace(Burn(redemption, self.next_id(), paid), **changes)
        return self.run(op, sender="JDCL/treasury", by=["CUST/reserve"])

    def release(self, hold: bytes, *, by: str = "JDCL/treasury", also: Sequence[str] = ()) -> Code:
        return self.run(Release(hold, by, "AC04"), sender=by, by=also)

    def freeze(
        self,
        account: str,
        asset: str | None = HKD,
        *,
        direction: Direction = Direction.BOTH,
        amount: int | None = None,
        by: str = "JDCL/compliance",
    ) -> bytes:
        """Freeze, and return the order's id."""
        code = self.run(Freeze(account, asset, direction, amount, by, bytes(32), 0), sender=by)
        assert code is Code.OK, code
        return self.freeze_id()

    def unfreeze(self, freeze: bytes, *, by: str = "JDCL/release") -> Code:
        return self.run(Unfreeze(freeze, "lifted"), sender=by)

    def hold_id(self, op_index: int = 0) -> bytes:
        """Return the id of the hold that the last transaction made."""
        body = self.last.body
        return compute_entry_id(HashTag.HOLD, body.sender, body.tx_id, op_index)

    def freeze_id(self, op_index: int = 0) -> bytes:
        body = self.last.body
        return compute_entry_id(HashTag.FREEZE, body.sender, body.tx_id, op_index)

    def balance(self, account: str, asset: str = HKD) -> Balance:
        key = records.balance_key(asset, account)
        return self.view.get(records.BALANCES, key) or records.NO_BALANCE

    def supply(self, asset: str = HKD) -> int:
        supply = self.view.get(records.SUPPLIES, asset.encode())
        assert supply is not None
        return supply.minted - supply.burned

    def backing_of(self, asset: str = HKD) -> int:
        reserve = self.view.get(records.RESERVES, asset.encode())
        assert reserve is not None
        return reserve.backing


def transfer(
    debtor: str, creditor: str, amount: int, asset: str = HKD, **changes: object
) -> Transfer:
    op = Transfer(
        asset=asset,
        debtor=debtor,
        creditor=creditor,
        amount=amount,
        uetr=bytes(16),
        purpose="",
        reference="",
        return_of=None,
        travel_rule_hash=None,
        travel_rule_ack=False,
    )
    return replace(op, **changes)


def sender_of(op: Operation) -> str:
    """Return the account that sends an operation by default: its first principal."""
    match op:
        case Transfer():
            return op.debtor
        case Mint():
            return op.minter
        case Redeem():
            return op.holder
        case Freeze() | Release():
            return op.by
        case AttestReserve():
            return "AUDT/sign" if op.by is Role.AUDITOR else "CUST/reserve"
        case _:
            raise AssertionError(f"name the sender of {op}")
