"""Payments in a row: what is looked up once for all of them is looked up again when it may differ.

A transaction of many operations does what the same operations do one by one, up to the first that
fails, and that one fails in the same way.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from atpar.ledger import records
from atpar.ledger.authority import list_principals
from atpar.ledger.codes import Code
from atpar.ledger.context import Context
from atpar.ledger.execute import build_block
from atpar.ledger.invariants import check_invariants
from atpar.ledger.limits import DAY_MS
from atpar.ledger.operations import (
    AccountChange,
    Freeze,
    Limit,
    Operation,
    PauseChange,
    PauseScope,
    SetAsset,
    SetControls,
    SetParticipant,
    SetPause,
    Transfer,
    UpdateAccount,
)
from atpar.ledger.plain import PlainPayments
from atpar.ledger.state import Base, Overlay
from atpar.ledger.types import Direction, ParticipantStatus, admin_of, participant_of
from tests.ledger.world import CNH, HKD, ROLES, World, make_document, make_terms, transfer

pytestmark = pytest.mark.no_cover

PAYMENT = transfer("ALFA/main", "BRVO/main", 1)


def set_status(code: str, status: ParticipantStatus) -> SetParticipant:
    return SetParticipant(
        code, code.rjust(18, "0") + "00", f"{code}HKH0", "HK", ROLES[code], status, None, None, ()
    )


def freeze(account: str, asset: str | None, direction: Direction) -> Freeze:
    by = "JDCL/compliance" if asset else "REGU/admin"
    return Freeze(account, asset, direction, None, by, bytes(32), 0)


def pause(asset: str, change: PauseChange) -> SetPause:
    return SetPause(asset, change, (PauseScope.TRANSFER,))


def set_asset(**changes: object) -> SetAsset:
    return SetAsset(HKD, "JDCL", "HKD", 2, make_terms(**changes))


def list_signers(world: World, ops: list[Operation]) -> list[str]:
    return sorted({account for op in ops for account in list_principals(world.view, op)})


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


@pytest.mark.parametrize(
    ("between", "code"),
    [
        (freeze("ALFA/main", None, Direction.DEBIT), Code.ACCOUNT_FROZEN),
        (freeze("ALFA/main", HKD, Direction.DEBIT), Code.ACCOUNT_FROZEN),
        (freeze("BRVO/main", None, Direction.CREDIT), Code.CREDITOR_REFUSED),
        (pause(HKD, PauseChange.PAUSE), Code.PAUSED),
        (set_status("ALFA", ParticipantStatus.SUSPENDED), Code.PARTICIPANT_SUSPENDED),
        (set_status("BRVO", ParticipantStatus.SUSPENDED), Code.CREDITOR_REFUSED),
        (set_asset(min_kyc_tier=1), Code.CREDITOR_REFUSED),
        (set_asset(travel_rule_from=1), Code.TRAVEL_RULE_MISSING),
    ],
)
def test_what_changes_between_two_payments_counts_for_the_second(
    world: World, between: Operation, code: Code
) -> None:
    ops = [PAYMENT, PAYMENT, between, PAYMENT]
    assert world.run(*ops, sender="ALFA/main", by=list_signers(world, ops)) is code
    assert world.executed[-1].receipts[0].failed_op == 3
    assert world.balance("BRVO/main").posted == 0
    assert world.run(PAYMENT, PAYMENT) is Code.OK


def test_what_a_failed_transaction_changed_does_not_count_for_the_next(world: World) -> None:
    ops = [freeze("ALFA/main", None, Direction.DEBIT), PAYMENT]
    txs = [
        world.make(PAYMENT, sender="ALFA/main"),
        world.make(*ops, sender="ALFA/main", by=list_signers(world, ops)),
        world.make(PAYMENT, sender="ALFA/main"),
    ]
    assert world.block(*txs) == [Code.OK, Code.ACCOUNT_FROZEN, Code.OK]


def test_a_payer_of_two_assets_is_asked_in_each(world: World) -> None:
    world.fund("ALFA/main", 5, CNH)
    world.freeze("ALFA/main", CNH, direction=Direction.DEBIT)
    ops = [PAYMENT, replace(PAYMENT, asset=CNH)]
    assert world.run(*ops) is Code.ACCOUNT_FROZEN
    assert world.executed[-1].receipts[0].failed_op == 1


def test_what_ends_a_closing_account_counts_for_the_next_transaction(world: World) -> None:
    close = UpdateAccount("ALFA/main", AccountChange.UPDATE, None, None, True, None)
    assert world.run(close, sender="ALFA/main") is Code.OK
    all_of_it = replace(PAYMENT, amount=1_000)
    txs = [world.make(op, sender="ALFA/main") for op in (all_of_it, PAYMENT)]
    assert world.block(*txs) == [Code.OK, Code.ACCOUNT_CLOSED]


@pytest.mark.parametrize("count", [1, 3])
def test_payments_signed_by_too_few_or_by_strangers_are_refused(world: World, count: int) -> None:
    ops = [PAYMENT] * count
    assert world.run(*ops, keys=["BRVO-pay"]) is Code.UNINVOLVED_SIGNATURE
    assert world.run(*ops, keys=["ALFA-pay", "BRVO-pay"]) is Code.UNINVOLVED_SIGNATURE
    assert world.run(*ops, keys=[]) is Code.UNAUTHORISED
    two = replace(PAYMENT, debtor="JDCL/treasury")
    assert world.run(*[two] * count, keys=["JDCL-t1"]) is Code.UNAUTHORISED
    assert world.run(*[two] * count, keys=["JDCL-t1", "JDCL-t2"]) is Code.INSUFFICIENT_FUNDS
    assert world.run(*ops, keys=["ALFA-pay"]) is Code.OK


# ---- many operations against the same ones, one by one

ACCOUNTS = ("ALFA/main", "ALFA/other", "BRVO/main", "CHRL/main")
OPERATIONS = st.one_of(
    *[
        st.builds(
            transfer,
            st.sampled_from(ACCOUNTS),
            st.sampled_from((*ACCOUNTS, "DLTA/nobody")),
            st.sampled_from((1, 1, 300, 2_000)),
            st.sampled_from((HKD, HKD, HKD, CNH, "USD.JDCL")),
        )
    ]
    * 3,
    st.builds(
        freeze,
        st.sampled_from(ACCOUNTS),
        st.sampled_from((None, HKD)),
        st.sampled_from(Direction),
    ),
    st.builds(pause, st.just(HKD), st.sampled_from(PauseChange)),
    st.builds(
        set_status, st.sampled_from(("ALFA", "BRVO", "CHRL")), st.sampled_from(ParticipantStatus)
    ),
    st.builds(set_asset, travel_rule_from=st.sampled_from((None, None, 200))),
)


def is_possible(op: Operation) -> bool:
    return getattr(op, "debtor", 0) != getattr(op, "creditor", 1)


def make_funded() -> World:
    world = World(make_document())
    for account in ACCOUNTS:
        world.fund(account, 1_000)
        world.fund(account, 500, CNH)
    return world


def run_together(world: World, ops: list[Operation]) -> tuple[Code, int | None]:
    tx = world.make(*ops, sender="ALFA/main", by=list_signers(world, ops))
    built, refused = build_block(world.view, world.make_template(), [tx], chain_id=world.chain_id)
    assert not refused
    in_full = replace(tx, are_own_payments=False)
    again, _ = build_block(world.view, world.make_template(), [in_full], chain_id=world.chain_id)
    assert again.header == built.header
    world.adopt(built)
    return Code(built.receipts[0].code), built.receipts[0].failed_op


def run_one_by_one(world: World, ops: list[Operation]) -> tuple[Code, int | None]:
    for index, op in enumerate(ops):
        signers = list_signers(world, [op])
        (code,) = world.block(world.make(op, sender=signers[0], by=signers))
        if code is not Code.OK:
            return code, index
    return Code.OK, None


def read_balances(world: World) -> dict[bytes, Any]:
    return dict(world.view.scan(records.BALANCES, b""))


@settings(max_examples=60)
@given(st.lists(OPERATIONS.filter(is_possible), min_size=1, max_size=9))
def test_a_transaction_does_what_its_operations_do_one_by_one(ops: list[Operation]) -> None:
    together, alone = make_funded(), make_funded()
    code, failed_op = run_together(together, ops)
    assert (code, failed_op) == run_one_by_one(alone, ops)
    if code is Code.OK:
        assert read_balances(together) == read_balances(alone)
        moved = [posting for built in alone.executed for posting in built.postings]
        assert [p.amount for p in together.executed[-1].postings] == [
            p.amount for p in moved[len(moved) - len(together.executed[-1].postings) :]
        ]


# ---- payments of one account alone: made in one go where nothing can be in their way

CIRCUMSTANCES = st.one_of(
    st.builds(
        freeze,
        st.sampled_from(ACCOUNTS),
        st.sampled_from((None, HKD)),
        st.sampled_from(Direction),
    ),
    st.builds(
        lambda amount: replace(freeze("ALFA/main", HKD, Direction.DEBIT), amount=amount),
        st.sampled_from((1, 300, 1_000)),
    ),
    st.builds(
        set_status, st.sampled_from(("ALFA", "BRVO", "CHRL")), st.sampled_from(ParticipantStatus)
    ),
    st.builds(pause, st.just(HKD), st.sampled_from(PauseChange)),
    st.sampled_from((set_asset(travel_rule_from=200), set_asset(min_kyc_tier=1))),
    st.builds(
        lambda account: UpdateAccount(account, AccountChange.UPDATE, None, True, False, None),
        st.sampled_from(ACCOUNTS),
    ),
    st.builds(
        lambda account: UpdateAccount(account, AccountChange.UPDATE, None, None, True, None),
        st.sampled_from(ACCOUNTS[:3]),
    ),
    st.builds(
        lambda account: SetControls(
            admin_of(participant_of(account)), HKD, account, None, None, None, Limit(300, DAY_MS)
        ),
        st.sampled_from(ACCOUNTS),
    ),
)
OWN_PAYMENTS = st.lists(
    st.builds(
        transfer,
        st.just("ALFA/main"),
        st.sampled_from((*ACCOUNTS[1:], "DLTA/nobody")),
        st.sampled_from((1, 1, 1, 199, 300, 800, 1_000)),
        st.sampled_from((HKD, HKD, HKD, HKD, CNH, "USD.JDCL")),
        reference=st.sampled_from(("", "INV-7")),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=100)
@given(
    st.lists(CIRCUMSTANCES, max_size=2),
    st.booleans(),
    st.lists(OWN_PAYMENTS, min_size=1, max_size=3),
)
def test_own_payments_do_what_they_do_in_any_transaction(
    circumstances: list[Operation], has_held: bool, runs: list[list[Operation]]
) -> None:
    world = make_funded()
    if has_held:
        world.redeem("ALFA/main", 200)
    for op in circumstances:
        signers = list_signers(world, [op])
        world.block(world.make(op, sender=signers[0], by=signers))
    txs = [world.make(*ops, sender="ALFA/main") for ops in runs]
    assert all(tx.are_own_payments for tx in txs)
    template = world.make_template()
    in_full = [replace(tx, are_own_payments=False) for tx in txs]
    built, refused = build_block(world.view, template, txs, chain_id=world.chain_id)
    again, _ = build_block(world.view, template, in_full, chain_id=world.chain_id)
    assert not refused
    assert again.receipts == built.receipts
    assert again.postings == built.postings
    assert again.header == built.header
    world.adopt(built)
    assert not check_invariants(world.view)


BLOCKS = st.lists(
    st.one_of(
        st.lists(
            st.tuples(
                st.sampled_from((*ACCOUNTS, "DLTA/nobody")),
                st.sampled_from((1, 1, 1, 199, 300, 800, 1_000)),
                st.sampled_from((HKD, HKD, HKD, HKD, CNH, "USD.JDCL")),
                st.sampled_from(("", "", " ", "INV-7")),
                st.sampled_from((None, None, bytes(range(32)))),
                st.booleans(),
            ),
            min_size=1,
            max_size=3,
        ),
        CIRCUMSTANCES,
        st.just(SetPause(HKD, PauseChange.RESUME, (PauseScope.TRANSFER,))),
    ),
    min_size=2,
    max_size=9,
)


@settings(max_examples=60)
@given(BLOCKS, st.lists(st.sampled_from(ACCOUNTS), min_size=9, max_size=9), st.booleans())
def test_plain_payments_among_other_transactions_do_what_they_do_in_full(
    block: list[Any], senders: list[str], are_of_two_blocks: bool
) -> None:
    """Also on a parent that is not final yet, whose writes stand in an overlay."""
    world = make_funded()
    txs = []
    for sender, content in zip(senders, block, strict=False):
        if isinstance(content, list):
            ops = [
                replace(
                    transfer(sender, *rest, reference=reference),
                    travel_rule_hash=data,
                    travel_rule_ack=is_sent,
                )
                for *rest, reference, data, is_sent in content
                if rest[0] != sender
            ]
            if ops:
                txs.append(world.make(*ops, sender=sender))
        else:
            signers = list_signers(world, [content])
            txs.append(world.make(content, sender=signers[0], by=signers))
    half = len(txs) // 2 if are_of_two_blocks else 0
    for some in (txs[:half], txs[half:]):
        in_full = [replace(tx, are_own_payments=False) for tx in some]
        template = world.make_template()
        built, refused = build_block(world.view, template, some, chain_id=world.chain_id)
        again, left_out = build_block(world.view, template, in_full, chain_id=world.chain_id)
        assert [reason.code for _, reason in refused] == [reason.code for _, reason in left_out]
        assert again.receipts == built.receipts
        assert again.postings == built.postings
        assert again.header == built.header
        world.adopt(built)
    assert not check_invariants(world.view)


KNOWN = [
    (section, key)
    for account in ("ALFA/main", "BRVO/main")
    for section, key in (
        (records.ACCOUNTS, account.encode()),
        (records.BALANCES, records.balance_key(HKD, account)),
    )
]


@pytest.mark.parametrize("number", range(2 ** len(KNOWN)))
def test_payments_are_the_same_whichever_records_the_cache_has(world: World, number: int) -> None:
    world.fund("BRVO/main", 5)
    base = Base(world.backing)
    for place, (section, key) in enumerate(KNOWN):
        if number >> place & 1:
            base.get(section, key)
    txs = [world.make(PAYMENT, PAYMENT, sender="ALFA/main")]
    template = world.make_template()
    built, _ = build_block(base, template, txs, chain_id=world.chain_id)
    expected, _ = build_block(world.view, template, txs, chain_id=world.chain_id)
    assert built.header == expected.header
    world.adopt(built)
    assert world.balance("BRVO/main").posted == 7


def test_what_is_held_or_frozen_is_not_paid(world: World) -> None:
    world.redeem("ALFA/main", 200)
    assert world.run(replace(PAYMENT, amount=801)) is Code.INSUFFICIENT_FUNDS
    assert world.run(replace(PAYMENT, amount=400), replace(PAYMENT, amount=400)) is Code.OK
    assert world.balance("ALFA/main").posted == world.balance("ALFA/main").held == 200
    assert world.run(PAYMENT) is Code.INSUFFICIENT_FUNDS
    world.fund("BRVO/main", 1)
    order = replace(freeze("BRVO/main", HKD, Direction.DEBIT), amount=300)
    assert world.run(order, sender="JDCL/compliance") is Code.OK
    back = transfer("BRVO/main", "CHRL/main", 502)
    assert world.run(back) is Code.AMOUNT_BLOCKED
    assert world.run(replace(back, amount=501)) is Code.OK


def test_an_account_may_pay_all_it_has_and_receive_again(world: World) -> None:
    everything = replace(PAYMENT, amount=1_000)
    txs = [
        world.make(everything, sender="ALFA/main"),
        world.make(PAYMENT, sender="ALFA/main"),
        world.make(transfer("BRVO/main", "ALFA/main", 7), sender="BRVO/main"),
        world.make(replace(PAYMENT, amount=7), sender="ALFA/main"),
    ]
    assert world.block(*txs) == [Code.OK, Code.INSUFFICIENT_FUNDS, Code.OK, Code.OK]
    keys = [key for key, _ in world.view.scan(records.BALANCES, b"")]
    assert records.balance_key(HKD, "ALFA/main") not in keys
    assert world.balance("BRVO/main").posted == 1_000
    assert world.compute_fresh_root() == world.header.state_root


def test_every_payment_is_judged_by_what_those_before_it_left(world: World) -> None:
    many = [replace(PAYMENT, amount=100)] * 11
    assert world.run(*many[:10]) is Code.OK
    assert world.balance("ALFA/main").posted == 0
    assert [p.op_index for p in world.executed[-1].postings] == list(range(10))
    world.fund("ALFA/main", 1_000)
    assert world.run(*many) is Code.INSUFFICIENT_FUNDS
    assert world.executed[-1].receipts[0].failed_op == 10
    assert world.balance("ALFA/main").posted == 1_000


def make_plain(world: World) -> tuple[PlainPayments, Context]:
    overlay = Overlay(world.view)
    ctx = Context(overlay, chain_id=world.chain_id, height=9, now_ms=world.now_ms)
    return PlainPayments(ctx), ctx


@pytest.mark.parametrize(
    "odd",
    [
        replace(PAYMENT, creditor="ALFA/main", amount=600),
        replace(PAYMENT, amount=0),
        replace(PAYMENT, amount=-1),
        replace(PAYMENT, amount=-1_000),
    ],
)
def test_what_never_enters_a_block_is_not_made_as_a_plain_payment_either(
    world: World, odd: Transfer
) -> None:
    """A credit of the debtor's own would be lost, an amount below 1 would take from a creditor."""
    plain, ctx = make_plain(world)
    assert not plain.pay("ALFA/main", [replace(PAYMENT, amount=100), odd, PAYMENT])
    assert not ctx.postings
    assert plain.pay("ALFA/main", [PAYMENT, PAYMENT])
    plain.settle()
    after = [
        ctx.overlay.get(records.BALANCES, records.balance_key(HKD, account))
        for account in ("ALFA/main", "BRVO/main")
    ]
    assert [balance and balance.posted for balance in after] == [998, 2]


def test_accounts_that_were_looked_at_and_got_nothing_leave_no_record(world: World) -> None:
    plain, ctx = make_plain(world)
    dear = replace(PAYMENT, creditor="CHRL/main", amount=5_000)
    tx = world.make(PAYMENT, dear, sender="ALFA/main")
    plain.foresee([tx])
    assert not plain.pay("ALFA/main", [PAYMENT, dear])
    plain.settle()
    keys = [key for key, _ in ctx.overlay.scan(records.BALANCES, b"")]
    assert keys == [records.balance_key(HKD, "ALFA/main")]


@pytest.mark.parametrize(
    ("circumstance", "code"),
    [
        (UpdateAccount("BRVO/main", AccountChange.UPDATE, None, True, False, None), "REFERENCE"),
        (UpdateAccount("BRVO/main", AccountChange.UPDATE, None, None, True, None), "CREDITOR"),
        (set_status("BRVO", ParticipantStatus.SUSPENDED), "CREDITOR"),
        (set_status("ALFA", ParticipantStatus.SUSPENDED), "PARTICIPANT_SUSPENDED"),
        (freeze("BRVO/main", None, Direction.CREDIT), "CREDITOR"),
        (freeze("BRVO/main", HKD, Direction.CREDIT), "CREDITOR"),
        (freeze("ALFA/main", None, Direction.DEBIT), "ACCOUNT_FROZEN"),
        (freeze("ALFA/main", HKD, Direction.DEBIT), "ACCOUNT_FROZEN"),
        (set_asset(travel_rule_from=3), "TRAVEL_RULE"),
        (set_asset(min_kyc_tier=1), "CREDITOR"),
        (pause(HKD, PauseChange.PAUSE), "PAUSED"),
    ],
)
def test_own_payments_are_refused_as_any(world: World, circumstance: Operation, code: str) -> None:
    world.fund("ALFA/main", 9_000)
    world.fund("BRVO/main", 1_000)
    signers = list_signers(world, [circumstance])
    assert world.run(circumstance, sender=signers[0], by=signers) is Code.OK
    ops = [transfer("ALFA/main", "BRVO/main", amount) for amount in (2, 3, 2)]
    assert world.run(*ops).name.startswith(code)
    assert world.executed[-1].receipts[0].failed_op == (1 if code == "TRAVEL_RULE" else 0)
