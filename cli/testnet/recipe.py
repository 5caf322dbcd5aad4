"""The fictional world of testnets and the demo: its institutions, keys, accounts and genesis.

Four or more banks that are the validators, an issuer, a custodian, an auditor and a regulator, two
assets at zero supply. Nobody here is real: the BICs are test codes (a `0` in the eighth place),
and the LEIs have an unassigned prefix with right check digits. Every institution has two officers,
a *maker* and a *checker*; whatever needs two keys needs both.

Pure: random seeds and the clock come in as arguments, and nothing is written here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from atpar.ledger.codec import encode
from atpar.ledger.genesis import (
    FORMAT,
    GenesisAccount,
    GenesisAsset,
    GenesisDocument,
    GenesisObserver,
    GenesisParams,
    GenesisParticipant,
    GenesisQuota,
    GenesisSignature,
    GenesisValidator,
    compute_chain_id,
)
from atpar.ledger.hashing import SignKind
from atpar.ledger.limits import (
    DAY_MS,
    HOUR_MS,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_WINDOW_MS,
    TX_ID_RETENTION_MS,
)
from atpar.ledger.operations import AssetTerms, Policy, Possession, WeightedKey
from atpar.ledger.types import ZERO_HASH, Role
from atpar.node.signer import LocalSigner

ISSUER: Final = "JDCL"
CUSTODIAN: Final = "CUST"
AUDITOR: Final = "AUDT"
REGULATOR: Final = "REGU"
HKD: Final = "HKD.JDCL"
CNH: Final = "CNH.JDCL"
SCALE: Final = 2

# fmt: off
BANKS: Final = (
    "ALFA", "BRVO", "CHRL", "DLTA", "ECHO", "FOXT", "GOLF", "HOTL", "INDI", "JULI", "KILO",
    "LIMA", "MIKE", "NOVE", "OSCR", "PAPA", "QUEB", "ROMO", "SIRA", "TANG", "UNIF", "VICT",
    "WHIS", "XRAY", "YANK", "ZULU", "AMBR", "BRCH", "CEDR", "DAHL", "ELMS",
)
# fmt: on
"""Codes of the fictional banks, in the order in which a network takes them."""

MIN_BANKS: Final = 4
MAX_BANKS: Final = len(BANKS)
BANK_MINTERS: Final = 8
"""How many of the banks mint against their own deposits; the others ask the issuer."""

CAP: Final = 10_000_000_000_00
QUOTA: Final = 100_000_000_00
QUOTA_REFILL_PER_DAY: Final = 100_000_000_00
"""Minor units a minter may issue at once, and a day."""

MAKER: Final = "maker"
CHECKER: Final = "checker"
VOTE_KEY: Final = "vote"
GOVERNANCE_KEY: Final = "governance"
"""A validator's voice in `CHAIN/governance`; it also signs the genesis document."""


class UnknownKey(Exception):
    """The recipe has no such key."""


@dataclass(frozen=True, slots=True)
class Institution:
    """One fictional participant and the names of the accounts' keys it holds."""

    code: str
    name: str
    roles: tuple[Role, ...]
    accounts: Mapping[str, tuple[int, tuple[str, ...]]]
    """Account name -> (threshold, key names), all of weight 1. `admin` is always among them."""


@dataclass(slots=True)
class KeyRing:
    """The seeds of one institution's keys by name, made on first use."""

    code: str
    draw_seed: Callable[[], bytes]
    seeds: dict[str, bytes] = field(default_factory=dict)

    def get_signer(self, name: str) -> LocalSigner:
        """Return the signer of a key, making the key if it is new."""
        if name not in self.seeds:
            self.seeds[name] = self.draw_seed()
        return LocalSigner(self.seeds[name])


@dataclass(frozen=True, slots=True)
class World:
    """Everything about the fictional world: who there is, every key, and the genesis document."""

    institutions: tuple[Institution, ...]
    validators: tuple[str, ...]
    """Codes of the validators, in their order."""
    rings: dict[str, KeyRing]
    document: GenesisDocument
    """Signed by every validator's administrator."""
    chain_id: bytes

    def get_institution(self, code: str) -> Institution:
        """Return the institution with a code.

        Raises:
            UnknownKey: there is none.
        """
        for institution in self.institutions:
            if institution.code == code:
                return institution
        raise UnknownKey(f"no institution {code} on this network")

    def get_signers(self, account: str) -> list[LocalSigner]:
        """Return signers that together satisfy an account's policy.

        Raises:
            UnknownKey: the recipe has no such account.
        """
        code, _, name = account.partition("/")
        accounts = self.get_institution(code).accounts
        if name not in accounts:
            raise UnknownKey(f"no account {account} on this network")
        threshold, keys = accounts[name]
        return [self.rings[code].get_signer(key) for key in keys[:threshold]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a validator listens, and the certificate it shows there."""

    address: str
    """host:port of its validator network."""
    root_certificate: str
    """PEM of its self-signed root."""


# ---- identifiers


def compute_lei(code: str) -> str:
    """Return a fictional LEI for a participant code: unassigned prefix, right check digits.

    Source: ISO 17442-1, check digits by ISO/IEC 7064 MOD 97-10.
    """
    base = "ATPR00" + code.rjust(12, "0")
    digits = "".join(str(int(char, 36)) for char in base + "00")
    return f"{base}{98 - int(digits) % 97:02d}"


def compute_bic(code: str) -> str:
    """Return a fictional test BIC: the eighth character `0` marks test and training codes."""
    return f"{code[:4]}HKH0"


# ---- institutions


def build_institutions(banks: int, *, load_accounts: int = 0) -> tuple[Institution, ...]:
    """Return the institutions of a network with so many banks.

    Each bank has `load_accounts` extra accounts `load-1`, `load-2`, … for load generators.
    """
    if not MIN_BANKS <= banks <= MAX_BANKS:
        raise ValueError(f"{banks} banks, {MIN_BANKS} to {MAX_BANKS} are possible")
    both = (2, (MAKER, CHECKER))
    found = [_build_bank(code, index, load_accounts) for index, code in enumerate(BANKS[:banks])]
    issuer = {
        "admin": (2, ("admin-maker", "admin-checker")),
        "treasury": (2, ("treasury-maker", "treasury-checker")),
        "minter": (2, ("minter-maker", "minter-checker")),
        "compliance": (1, ("compliance", "compliance-deputy")),
        "compliance-release": (2, ("release-maker", "release-checker")),
        "seizure": (2, ("seizure-maker", "seizure-checker")),
        "pauser": (1, ("pauser", "pauser-deputy")),
        "unpauser": (2, ("unpauser-maker", "unpauser-checker")),
    }
    found += [
        Institution(ISSUER, "the issuer", (Role.ISSUER,), issuer),
        Institution(
            CUSTODIAN, "the custodian", (Role.CUSTODIAN,), {"admin": both, "reserve": both}
        ),
        Institution(AUDITOR, "the auditor", (Role.AUDITOR,), {"admin": both, "audit": both}),
        Institution(
            REGULATOR, "the regulator", (Role.REGULATOR,), {"admin": both, "supervision": both}
        ),
    ]
    return tuple(found)


def _build_bank(code: str, index: int, load_accounts: int) -> Institution:
    accounts: dict[str, tuple[int, tuple[str, ...]]] = {
        "admin": (2, (MAKER, CHECKER)),
        "treasury": (1, ("payments",)),
    }
    if index < BANK_MINTERS:
        accounts["minter"] = (2, (MAKER, CHECKER))
    for number in range(1, load_accounts + 1):
        accounts[f"load-{number}"] = (1, ("payments",))
    return Institution(code, f"bank {code[0]}", (Role.BANK,), accounts)


# ---- the genesis document


def build_world(
    places: Iterable[Place],
    *,
    name: str,
    timestamp_ms: int,
    draw_seed: Callable[[], bytes],
    observers: dict[str, str] | None = None,
    load_accounts: int = 0,
    params: GenesisParams | None = None,
) -> World:
    """Return the fictional world with one bank as validator for each place.

    `draw_seed` returns 32 fresh bytes for each key; `observers` maps codes to root certificates.
    """
    validator_places = list(places)
    institutions = build_institutions(len(validator_places), load_accounts=load_accounts)
    rings = {each.code: KeyRing(each.code, draw_seed) for each in institutions}
    validators = tuple(BANKS[: len(validator_places)])
    document = GenesisDocument(
        format=FORMAT,
        name=name,
        timestamp_ms=timestamp_ms,
        validators=tuple(
            _build_validator(rings[code], place)
            for code, place in zip(validators, validator_places, strict=True)
        ),
        observers=tuple(
            GenesisObserver(code, pem) for code, pem in sorted((observers or {}).items())
        ),
        participants=tuple(
            _build_participant(each, rings[each.code])
            for each in sorted(institutions, key=lambda each: each.code)
        ),
        accounts=_build_accounts(institutions, rings),
        assets=tuple(_build_asset(asset, institutions) for asset in (CNH, HKD)),
        quotas=tuple(
            GenesisQuota(asset, minter, QUOTA, QUOTA_REFILL_PER_DAY)
            for asset in (CNH, HKD)
            for minter in list_minters(institutions)
        ),
        params=params or build_params(),
        signatures=(),
    )
    chain_id = compute_chain_id(document)
    signed = tuple(
        GenesisSignature(
            code, rings[code].get_signer(GOVERNANCE_KEY).sign(SignKind.GENESIS, chain_id, b"")
        )
        for code in validators
    )
    return World(institutions, validators, rings, replace(document, signatures=signed), chain_id)


def build_params() -> GenesisParams:
    """Return the parameters of a local chain."""
    return GenesisParams(
        max_window_ms=MAX_WINDOW_MS,
        tx_id_retention_ms=TX_ID_RETENTION_MS,
        max_block_bytes=MAX_BLOCK_BYTES,
        max_block_transactions=MAX_BLOCK_TRANSACTIONS,
        epoch_blocks=1_000_000,
        block_interval_ms=25,
        heartbeat_ms=5_000,
        delta_ms=200,
    )


def list_minters(institutions: Iterable[Institution]) -> list[str]:
    """Return the minters' account ids, sorted: some banks and the issuer."""
    return sorted(f"{each.code}/minter" for each in institutions if "minter" in each.accounts)


def build_policy(threshold: int, keys: Iterable[bytes]) -> Policy:
    """Return the policy that so many of these keys satisfy, each of weight 1."""
    return Policy(tuple(WeightedKey(key, 1) for key in sorted(keys)), threshold)


def _build_validator(ring: KeyRing, place: Place) -> GenesisValidator:
    vote, admin = ring.get_signer(VOTE_KEY), ring.get_signer(GOVERNANCE_KEY)
    return GenesisValidator(
        participant=ring.code,
        vote_key=vote.public_key,
        vote_possession=_possess(ring.code, vote),
        admin_key=admin.public_key,
        admin_possession=_possess(ring.code, admin),
        root_certificate=place.root_certificate,
        address=place.address,
    )


def _build_participant(institution: Institution, ring: KeyRing) -> GenesisParticipant:
    threshold, names = institution.accounts["admin"]
    signers = [ring.get_signer(name) for name in names]
    return GenesisParticipant(
        participant=institution.code,
        lei=compute_lei(institution.code),
        bic=compute_bic(institution.code),
        jurisdiction="HK",
        roles=institution.roles,
        travel_key=None,
        admin_policy=build_policy(threshold, [signer.public_key for signer in signers]),
        possessions=_build_possessions(institution.code, signers),
    )


def _build_accounts(
    institutions: Iterable[Institution], rings: dict[str, KeyRing]
) -> tuple[GenesisAccount, ...]:
    """Return all accounts but the admins', each new key with its possession where first named."""
    accounts = []
    for each in sorted(institutions, key=lambda each: each.code):
        named = set(each.accounts["admin"][1])
        for name, (threshold, keys) in sorted(each.accounts.items()):
            if name == "admin":
                continue
            signers = {key: rings[each.code].get_signer(key) for key in keys}
            fresh = [signer for key, signer in signers.items() if key not in named]
            named.update(keys)
            accounts.append(
                GenesisAccount(
                    account=f"{each.code}/{name}",
                    policy=build_policy(threshold, [each.public_key for each in signers.values()]),
                    reference_required=False,
                    possessions=_build_possessions(each.code, fresh),
                )
            )
    return tuple(accounts)


def _build_asset(asset: str, institutions: Iterable[Institution]) -> GenesisAsset:
    return GenesisAsset(
        asset=asset,
        issuer=ISSUER,
        currency=asset.partition(".")[0],
        scale=SCALE,
        terms=AssetTerms(
            cap=CAP,
            overcollateral_bps=0,
            attestation_max_age_ms=24 * HOUR_MS,
            audit_max_age_ms=35 * DAY_MS,
            redemption_sla_days=1,
            utc_offset_minutes=480,
            holidays=(),
            min_kyc_tier=0,
            travel_rule_from=None,
            treasury=f"{ISSUER}/treasury",
            custodian=f"{CUSTODIAN}/reserve",
            auditor=f"{AUDITOR}/audit",
            regulator=f"{REGULATOR}/supervision",
            compliance=f"{ISSUER}/compliance",
            compliance_release=f"{ISSUER}/compliance-release",
            seizure=f"{ISSUER}/seizure",
            pauser=f"{ISSUER}/pauser",
            unpauser=f"{ISSUER}/unpauser",
            minters=tuple(list_minters(institutions)),
        ),
    )


def _possess(code: str, signer: LocalSigner) -> bytes:
    body = encode((code, signer.public_key))
    return signer.sign(SignKind.POSSESSION, ZERO_HASH, body)


def _build_possessions(code: str, signers: Iterable[LocalSigner]) -> tuple[Possession, ...]:
    return tuple(
        Possession(signer.public_key, _possess(code, signer))
        for signer in sorted(signers, key=lambda signer: signer.public_key)
    )
