"""What an envelope must satisfy to enter a block, each refused with its own code."""

import pytest
from msgspec.structs import replace

from atpar.ledger.authority import derive_governance, get_params, list_principals
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.entry import check_admission
from atpar.ledger.errors import NonCanonical, Refused
from atpar.ledger.limits import (
    HOUR_MS,
    MAX_OPS_PER_TRANSACTION,
    MAX_SIGNATURES,
    MAX_TRANSACTION_BYTES,
    MAX_WINDOW_MS,
)
from atpar.ledger.operations import Burn, Freeze, Mint, OpenAccount, Redeem, Release, Unfreeze, Void
from atpar.ledger.records import Validator, ValidatorSet
from atpar.ledger.transactions import Envelope, Transaction, decode_transaction, encode_envelope
from atpar.ledger.types import Direction
from tests.ledger.world import HKD, World, policy_of, possess_all, public, transfer


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


PAY = transfer("ALFA/main", "BRVO/main", 1)


def admit(world: World, tx: Transaction) -> Code:
    """Return what admission says; a block must say the same."""
    now_ms = world.header.timestamp_ms + 1
    try:
        check_admission(world.view, tx, chain_id=world.chain_id, now_ms=now_ms)
    except Refused as refusal:
        code = refusal.code
        assert code < 200
        assert world.apply(tx) is code
        assert world.executed[-1].receipts == ()
        return code
    return Code.OK


def make(world: World, **options: object) -> Transaction:
    now_ms = world.header.timestamp_ms + 1
    settings: dict[str, object] = {
        "sender": "ALFA/main",
        "window": (now_ms, now_ms + HOUR_MS),
        **options,
    }
    return world.make(PAY, **settings)  # type: ignore[arg-type]


def test_a_well_formed_envelope_is_admitted(world: World) -> None:
    assert admit(world, make(world)) is Code.OK


def test_versions_and_chains_are_this_one(world: World) -> None:
    assert admit(world, make(world, version=2)) is Code.UNSUPPORTED_VERSION
    assert admit(world, make(world, version=0)) is Code.UNSUPPORTED_VERSION
    assert admit(world, make(world, chain_id=bytes(32))) is Code.WRONG_CHAIN


def test_there_are_operations_and_not_too_many(world: World) -> None:
    assert admit(world, world.make(sender="ALFA/main")) is Code.NO_OPERATIONS
    most = [Void()] * MAX_OPS_PER_TRANSACTION
    assert admit(world, world.make(*most, sender="ALFA/main")) is Code.OK
    over = world.make(*most, Void(), sender="ALFA/main")
    assert admit(world, over) is Code.TOO_MANY_OPERATIONS


def test_bytes_are_bounded(world: World) -> None:
    tx = make(world)
    padded = replace(tx, raw=bytes(MAX_TRANSACTION_BYTES + 1))
    with pytest.raises(Refused) as caught:
        check_admission(world.view, padded, chain_id=world.chain_id, now_ms=world.now_ms)
    assert caught.value.code is Code.TOO_LARGE
    with pytest.raises(NonCanonical):
        decode_transaction(bytes(MAX_TRANSACTION_BYTES + 1))


def signed_by_many(world: World, count: int) -> Transaction:
    tx = make(world)
    pairs = [(index.to_bytes(32, "big"), bytes(64)) for index in range(1, count)]
    pairs += [(s.key, s.signature) for s in tx.signatures]
    return decode_transaction(encode_envelope(tx.body_bytes, pairs))


def test_signatures_are_bounded(world: World) -> None:
    assert admit(world, signed_by_many(world, MAX_SIGNATURES)) is Code.UNINVOLVED_SIGNATURE
    assert admit(world, signed_by_many(world, MAX_SIGNATURES + 1)) is Code.TOO_MANY_SIGNATURES


def test_signatures_are_sorted_and_one_for_each_key(world: World) -> None:
    tx = make(world, keys=["ALFA-pay", "BRVO-pay"])
    for wrong in (tx.signatures[::-1], (tx.signatures[0], tx.signatures[0])):
        bad = decode_transaction(encode(Envelope(tx.body_bytes, wrong)))
        with pytest.raises(Refused) as caught:
            check_admission(world.view, bad, chain_id=world.chain_id, now_ms=world.now_ms + 1)
        assert caught.value.code is Code.SIGNATURES_UNSORTED


def test_the_window_is_neither_empty_nor_too_long(world: World) -> None:
    now_ms = world.header.timestamp_ms + 1
    assert admit(world, make(world, window=(now_ms, now_ms - 1))) is Code.WINDOW_INVALID
    assert admit(world, make(world, window=(now_ms, now_ms + MAX_WINDOW_MS))) is Code.OK
    long = make(world, window=(now_ms, now_ms + MAX_WINDOW_MS + 1))
    assert admit(world, long) is Code.WINDOW_INVALID


def test_both_ends_of_the_window_count(world: World) -> None:
    now_ms = world.header.timestamp_ms + 1
    assert admit(world, make(world, window=(now_ms, now_ms))) is Code.OK
    assert admit(world, make(world, window=(now_ms + 1, now_ms + 9))) is Code.NOT_YET_VALID
    now_ms = world.header.timestamp_ms + 1
    assert admit(world, make(world, window=(0, now_ms - 1))) is Code.WINDOW_INVALID
    now_ms = world.header.timestamp_ms + 1
    assert admit(world, make(world, window=(now_ms - 9, now_ms - 1))) is Code.EXPIRED


def test_an_id_is_used_once_per_sender(world: World) -> None:
    tx = make(world)
    assert world.apply(tx) is Code.OK
    assert admit(world, tx) is Code.ID_REUSED
    assert admit(world, make(world, tx_id=tx.body.tx_id)) is Code.ID_REUSED
    other = world.make(
        transfer("BRVO/main", "ALFA/main", 1), sender="BRVO/main", tx_id=tx.body.tx_id
    )
    assert world.apply(other) is Code.OK


def test_a_transaction_that_fails_on_state_uses_up_its_id(world: World) -> None:
    tx = world.make(transfer("ALFA/main", "BRVO/main", 10**6), sender="ALFA/main")
    assert world.apply(tx) is Code.INSUFFICIENT_FUNDS
    assert admit(world, tx) is Code.ID_REUSED


def test_void_uses_up_an_id_so_that_a_lost_envelope_can_never_run(world: World) -> None:
    lost = make(world)
    void = world.make(Void(), sender="ALFA/main", tx_id=lost.body.tx_id)
    assert world.apply(void) is Code.OK
    assert admit(world, lost) is Code.ID_REUSED


def test_unknown_senders_and_principals_are_refused(world: World) -> None:
    tx = world.make(Void(), sender="ALFA/nobody", keys=["ALFA-pay"])
    assert admit(world, tx) is Code.UNKNOWN_ACCOUNT
    tx = world.make(transfer("ZULU/x", "ALFA/main", 1), sender="ALFA/main")
    assert admit(world, tx) is Code.UNKNOWN_ACCOUNT


def test_every_signature_is_of_a_principal(world: World) -> None:
    tx = make(world, keys=["ALFA-pay", "BRVO-pay"])
    assert admit(world, tx) is Code.UNINVOLVED_SIGNATURE
    tx = make(world, keys=["BRVO-pay"])
    assert admit(world, tx) is Code.UNINVOLVED_SIGNATURE
    tx = make(world, keys=[])
    assert admit(world, tx) is Code.UNAUTHORISED


def test_a_stripped_signature_does_not_burn_the_id(world: World) -> None:
    legs = [PAY, transfer("BRVO/main", "ALFA/main", 1)]
    tx = world.make(*legs, sender="ALFA/main", by=["BRVO/main"])
    kept = [(s.key, s.signature) for s in tx.signatures if s.key == public("ALFA-pay")]
    stripped = decode_transaction(encode_envelope(tx.body_bytes, kept))
    assert admit(world, stripped) is Code.UNAUTHORISED
    assert world.apply(tx) is Code.OK


def test_codes_come_in_order_of_precedence(world: World) -> None:
    """One envelope with every fault, mended one by one."""
    now_ms = world.header.timestamp_ms + 1
    wrong = transfer("ALFA/main", "ALFA/main", 0)
    settings: dict[str, object] = {
        "version": 9,
        "chain_id": bytes(32),
        "window": (now_ms + 5, now_ms + 4),
        "keys": ["BRVO-pay"],
    }
    steps = [
        (Code.UNSUPPORTED_VERSION, {"version": 1}),
        (Code.WRONG_CHAIN, {"chain_id": world.chain_id}),
        (Code.WINDOW_INVALID, {"window": (0, now_ms + HOUR_MS)}),
    ]
    for code, mend in steps:
        tx = world.make(wrong, sender="ZULU/x", **settings)  # type: ignore[arg-type]
        assert admit(world, tx) is code
        settings.update(mend)
    settings["window"] = (now_ms, now_ms + HOUR_MS)
    for op, sender, code in (
        (wrong, "ZULU/x", Code.AMOUNT_RANGE),
        (replace(wrong, amount=1), "ZULU/x", Code.SAME_ACCOUNT),
        (PAY, "ZULU/x", Code.UNKNOWN_ACCOUNT),
        (PAY, "ALFA/main", Code.UNINVOLVED_SIGNATURE),
    ):
        tx = world.make(op, sender=sender, **settings)  # type: ignore[arg-type]
        assert admit(world, tx) is code


def test_of_several_faulty_operations_the_lowest_code_is_reported(world: World) -> None:
    same = transfer("ALFA/main", "ALFA/main", 1)
    zero = transfer("ALFA/main", "BRVO/main", 0)
    tx = world.make(PAY, same, zero, sender="ALFA/main")
    with pytest.raises(Refused, match=r"ops\[2\]\.amount") as caught:
        check_admission(world.view, tx, chain_id=world.chain_id, now_ms=world.now_ms + 1)
    assert caught.value.code is Code.AMOUNT_RANGE


def test_signatures_may_be_for_what_does_not_exist_and_the_receipt_says_so(world: World) -> None:
    burn = Burn(bytes(32), bytes(16), world.now_ms)
    tx = world.make(burn, sender="JDCL/treasury", by=["CUST/reserve"])
    assert world.apply(tx) is Code.UNKNOWN_HOLD


def test_the_first_operation_that_fails_is_named(world: World) -> None:
    burn = Burn(bytes(32), bytes(16), world.now_ms)
    tx = world.make(transfer("ALFA/main", "BRVO/main", 10**6), burn, sender="ALFA/main")
    assert world.apply(tx) is Code.INSUFFICIENT_FUNDS
    assert world.executed[-1].receipts[0].failed_op == 0


def test_governance_needs_more_than_two_thirds() -> None:
    for count in range(4, 128):
        members = tuple(
            Validator("ALFA", bytes(32), index.to_bytes(32, "big"), "", "")
            for index in range(count)
        )
        policy = derive_governance(ValidatorSet(0, members))
        assert 3 * policy.threshold > 2 * count
        assert 3 * (policy.threshold - 1) <= 2 * count


def test_principals_can_be_asked_for_each_operation(world: World) -> None:
    redemption = world.redeem("ALFA/main", 5)
    order = world.freeze("BRVO/main")
    account = OpenAccount(
        "ALFA/n", policy_of(1, ["ALFA-n"]), False, possess_all("ALFA", ["ALFA-n"])
    )
    mint = Mint(HKD, "JDCL/mint", "ALFA/main", 1, bytes(16), None)
    freeze = Freeze("ALFA/main", None, Direction.BOTH, None, "REGU/admin", bytes(32), 0)
    for op, expected in (
        (PAY, ["ALFA/main"]),
        (account, ["ALFA/admin"]),
        (mint, ["JDCL/mint"]),
        (replace(mint, reversal_of=redemption), ["JDCL/mint", "CUST/reserve"]),
        (Redeem(HKD, "ALFA/main", 1, bytes(32)), ["ALFA/main"]),
        (Burn(redemption, bytes(16), 0), ["JDCL/treasury", "CUST/reserve"]),
        (Release(redemption, "JDCL/treasury", ""), ["JDCL/treasury"]),
        (freeze, ["REGU/admin"]),
        (Unfreeze(order, ""), ["JDCL/release"]),
        (Void(), []),
    ):
        assert list(list_principals(world.view, op)) == expected
    with pytest.raises(Refused):
        list_principals(world.view, Unfreeze(bytes(32), ""))
    assert get_params(world.view).epoch_blocks == 1_000_000
