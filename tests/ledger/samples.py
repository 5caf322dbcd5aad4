"""One value of every type that goes over the wire, for codec tests and golden vectors.

Keys and signatures are real and fixed; the values have no further meaning.
"""

import hashlib
from typing import Any

from msgspec.structs import replace
from nacl.signing import SigningKey

from atpar.ledger.blocks import (
    Block,
    Header,
    ValidatorKey,
    ValidatorSetId,
    compute_digest,
    compute_validators_hash,
)
from atpar.ledger.certificates import (
    Certificate,
    Finalization,
    Notarization,
    Nullification,
    NullifyBody,
    Proposition,
    compute_vote_bytes,
    encode_bitmap,
)
from atpar.ledger.codec import Wire, encode
from atpar.ledger.evidence import Evidence, build_evidence
from atpar.ledger.hashing import HashTag, SignKind, compute_hash, compute_sign_bytes
from atpar.ledger.keys import compute_possession_bytes
from atpar.ledger.merkle import compute_root
from atpar.ledger.operations import (
    AccountChange,
    Approve,
    AssetTerms,
    Assign,
    AttestReserve,
    Burn,
    Capture,
    Condition,
    Decision,
    Freeze,
    Hold,
    Limit,
    Mint,
    NewValidator,
    OpenAccount,
    Operation,
    PauseChange,
    PauseScope,
    Policy,
    Possession,
    Propose,
    RecordEvidence,
    Redeem,
    Release,
    Seize,
    SetAsset,
    SetControls,
    SetMintQuota,
    SetParams,
    SetParticipant,
    SetPause,
    SetValidators,
    Transfer,
    Unfreeze,
    UpdateAccount,
    Void,
    WeightedKey,
)
from atpar.ledger.receipts import Receipt
from atpar.ledger.transactions import VERSION, Body, encode_envelope
from atpar.ledger.types import Direction, ParticipantStatus, Role
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, compute_signed_bytes

CHAIN_ID = hashlib.sha256(b"sample chain").digest()
HKD = "HKD.JDCL"
BANKS = ("ALFA", "BRVO", "CHRL", "DLTA")
TIME_MS = 1_764_547_200_000


def digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def uuid_of(text: str) -> bytes:
    return digest_of(text)[:16]


def signer_of(name: str) -> SigningKey:
    return SigningKey(digest_of(f"key of {name}"))


def public_of(name: str) -> bytes:
    return bytes(signer_of(name).verify_key)


def policy_of(threshold: int, *names: str) -> Policy:
    keys = sorted((public_of(name), weight) for weight, name in enumerate(names, 1))
    return Policy(tuple(WeightedKey(key, weight) for key, weight in keys), threshold)


def possessions_of(participant: str, *names: str) -> tuple[Possession, ...]:
    proofs = []
    for name in names:
        key = public_of(name)
        message = compute_possession_bytes(CHAIN_ID, participant=participant, public_key=key)
        proofs.append(Possession(key, signer_of(name).sign(message).signature))
    return tuple(sorted(proofs, key=lambda proof: proof.key))


TERMS = AssetTerms(
    cap=10**15,
    overcollateral_bps=25,
    attestation_max_age_ms=86_400_000,
    audit_max_age_ms=2_592_000_000,
    redemption_sla_days=1,
    utc_offset_minutes=-480,
    holidays=(20_439, 20_454),
    min_kyc_tier=0,
    travel_rule_from=800_000,
    treasury="JDCL/treasury",
    custodian="CUST/reserve",
    auditor="AUDT/sign",
    regulator="REGU/watch",
    compliance="JDCL/compliance",
    compliance_release="JDCL/release",
    seizure="JDCL/seizure",
    pauser="JDCL/pause",
    unpauser="JDCL/unpause",
    minters=("JDCL/mint-1", "JDCL/mint-2"),
)


def sign_vote(vote: Vote, name: str) -> Any:
    """Return the vote with the signature of a named key."""
    signature = signer_of(name).sign(compute_signed_bytes(vote, CHAIN_ID)).signature
    return replace(vote, signature=signature)


_FIRST, _SECOND = (Proposition(3, 7, 6, digest_of(name)) for name in ("one", "other"))
EVIDENCE: tuple[Evidence, ...] = tuple(
    build_evidence("BRVO", *(sign_vote(vote, "BRVO vote") for vote in pair))
    for pair in (
        (Notarize(_FIRST, bytes(64)), Notarize(_SECOND, bytes(64))),
        (Finalize(_FIRST, bytes(64)), Finalize(_SECOND, bytes(64))),
        (Nullify(NullifyBody(3, 7), bytes(64)), Finalize(_FIRST, bytes(64))),
    )
)

OPERATIONS: tuple[Operation, ...] = (
    SetParticipant(
        participant="ALFA",
        lei="ALFA00000000000000" + "17",
        bic="ALFAHKH0XXX",
        jurisdiction="HK",
        roles=(Role.BANK, Role.ISSUER),
        status=ParticipantStatus.ACTIVE,
        travel_key=digest_of("travel"),
        admin_policy=policy_of(2, "a1", "a2"),
        possessions=possessions_of("ALFA", "a1", "a2"),
    ),
    OpenAccount("ALFA/main", policy_of(1, "pay"), True, possessions_of("ALFA", "pay")),
    SetAsset(HKD, "JDCL", "HKD", 2, TERMS),
    AttestReserve(
        asset=HKD,
        by=Role.CUSTODIAN,
        sequence=7,
        as_of_ms=TIME_MS,
        amount=2**63 - 1,
        paid_not_burned=tuple(sorted((digest_of("r1"), digest_of("r2")))),
        report_hash=digest_of("report"),
    ),
    SetMintQuota(HKD, "JDCL/mint-1", 10**14, 0),
    Mint(HKD, "JDCL/mint-1", "ALFA/main", 10_000, uuid_of("funding"), None),
    Mint(HKD, "JDCL/mint-1", "ALFA/main", 10_000, uuid_of("again"), digest_of("r1")),
    Redeem(HKD, "ALFA/main", 128, digest_of("payout")),
    Burn(digest_of("r1"), uuid_of("payout"), TIME_MS),
    Transfer(
        asset=HKD,
        debtor="ALFA/main",
        creditor="BRVO/client-0042",
        amount=1,
        uetr=uuid_of("payment"),
        purpose="GDDS",
        reference="invoice 42, 35 characters at most!!",
        return_of=uuid_of("earlier"),
        travel_rule_hash=digest_of("originator"),
        travel_rule_ack=True,
    ),
    Transfer(HKD, "ALFA/main", "BRVO/main", -(2**63), bytes(16), "", "", None, None, False),
    Release(digest_of("r2"), "JDCL/treasury", "AC04 closed account"),
    Freeze("ALFA/main", HKD, Direction.DEBIT, 65_536, "JDCL/compliance", digest_of("order"), 0),
    Freeze("ALFA/main", None, Direction.BOTH, None, "REGU/admin", digest_of("order"), TIME_MS),
    Unfreeze(digest_of("f1"), ""),
    UpdateAccount(
        "ALFA/main", AccountChange.RECOVER, policy_of(1, "pay"), None, False, "REGU/admin"
    ),
    UpdateAccount("ALFA/main", AccountChange.UPDATE, None, True, True, None),
    Hold(
        asset=HKD,
        debtor="ALFA/main",
        creditor="BRVO/main",
        amount=10**18 - 1,
        uetr=uuid_of("escrow"),
        purpose="",
        reference="bill of lading 7",
        travel_rule_hash=None,
        travel_rule_ack=False,
        expires_at_ms=TIME_MS,
        condition=Condition(
            ("CHRL/main", "DLTA/main"), digest_of("secret"), TIME_MS, digest_of("bill")
        ),
        assignable=True,
    ),
    Capture(digest_of("h1"), 1, b"secret", digest_of("bill"), True),
    Capture(digest_of("h1"), 255, None, None, False),
    Assign(digest_of("h1"), "CHRL/main", 256, digest_of("originator"), True),
    SetControls("ALFA/admin", HKD, "ALFA/main", None, 2, TIME_MS, Limit(0, 86_400_000)),
    SetControls("JDCL/admin", HKD, None, 1, None, None, None),
    Seize(digest_of("f1"), HKD, 77, "REGU/watch", digest_of("order")),
    SetPause(HKD, PauseChange.PAUSE, (PauseScope.CAPTURE, PauseScope.TRANSFER)),
    SetParams("max_window_ms", 3_600_000, 70_001),
    SetValidators(
        tuple(
            NewValidator(
                bank, public_of(f"{bank} vote"), public_of(f"{bank} gov"), "PEM", "bank.test:7101"
            )
            for bank in BANKS
        ),
        possessions_of("ALFA", "ALFA vote"),
    ),
    *(RecordEvidence("AUDT/admin", evidence) for evidence in EVIDENCE),
    Propose((Release(digest_of("r2"), "JDCL/treasury", ""), Unfreeze(digest_of("f1"), "")), 1),
    Approve(digest_of("p1"), digest_of("bundle"), Decision.REJECT),
    Void(),
)


def make_body(*ops: Operation) -> Body:
    return Body(
        version=VERSION,
        chain_id=CHAIN_ID,
        sender="ALFA/main",
        tx_id=uuid_of("tx"),
        valid_from_ms=TIME_MS,
        valid_until_ms=TIME_MS + 3_600_000,
        ops=ops,
    )


def make_envelope(body: Body, *signers: str) -> bytes:
    data = encode(body)
    message = compute_sign_bytes(SignKind.TRANSACTION, body.chain_id, data)
    pairs = [(public_of(name), signer_of(name).sign(message).signature) for name in signers]
    return encode_envelope(data, pairs)


BODY = make_body(*OPERATIONS)
ENVELOPE = make_envelope(BODY, "pay", "a1")
RECEIPT = Receipt(compute_hash(HashTag.TX, ENVELOPE), "ALFA/main", uuid_of("tx"), 0, None)
FAILED_RECEIPT = replace(RECEIPT, code=254, failed_op=3)

VALIDATORS = ValidatorSetId(
    3, tuple(ValidatorKey(bank, public_of(f"{bank} vote")) for bank in BANKS)
)
HEADER = Header(
    version=1,
    chain_id=CHAIN_ID,
    epoch=3,
    view=300,
    height=70_000,
    parent=digest_of("parent"),
    timestamp_ms=TIME_MS,
    proposer="BRVO",
    tx_count=1,
    tx_root=compute_root([RECEIPT.tx_hash]),
    receipt_root=compute_root([encode(RECEIPT)]),
    state_root=digest_of("state"),
    validators_hash=compute_validators_hash(VALIDATORS),
    next_validators_hash=compute_validators_hash(VALIDATORS),
)
BLOCK = Block(HEADER, (ENVELOPE,))

PROPOSITION = Proposition(3, 300, 298, compute_digest(HEADER))
NULLIFY = NullifyBody(3, 299)
SIGNERS = (0, 2, 3)


def sign_votes(kind: SignKind, body: Wire, signers: tuple[int, ...] = SIGNERS) -> tuple[bytes, ...]:
    assert isinstance(body, Proposition | NullifyBody)
    message = compute_vote_bytes(kind, CHAIN_ID, body)
    return tuple(signer_of(f"{BANKS[i]} vote").sign(message).signature for i in signers)


BITMAP = encode_bitmap(SIGNERS, len(BANKS))
CERTIFICATES: tuple[Certificate, ...] = (
    Notarization(PROPOSITION, BITMAP, sign_votes(SignKind.NOTARIZE, PROPOSITION)),
    Nullification(NULLIFY, BITMAP, sign_votes(SignKind.NULLIFY, NULLIFY)),
    Finalization(PROPOSITION, BITMAP, sign_votes(SignKind.FINALIZE, PROPOSITION)),
)
