"""Blocks: what makes one invalid, what a builder leaves out, and that replay gives one root."""

from dataclasses import replace as replace_data

import pytest
from msgspec.structs import replace

from atpar.ledger import limits
from atpar.ledger.authority import get_params
from atpar.ledger.blocks import Block, Header
from atpar.ledger.codes import Code
from atpar.ledger.errors import BlockInvalid, Refused
from atpar.ledger.execute import (
    TRANSACTION_OVERHEAD_BYTES,
    Executed,
    Template,
    build_block,
    execute_block,
    simulate,
)
from atpar.ledger.operations import OpenAccount, Void
from atpar.ledger.reads import get_tx_record
from atpar.ledger.state import Base, MemoryBacking
from atpar.ledger.transactions import Transaction, decode_transaction
from tests.ledger.world import World, make_document, make_params, policy_of, possess_all, transfer


@pytest.fixture
def world() -> World:
    world = World()
    world.fund("ALFA/main", 1_000)
    return world


def pay(world: World, amount: int = 1, **options: object) -> Transaction:
    op = transfer("ALFA/main", "BRVO/main", amount)
    return world.make(op, sender="ALFA/main", **options)  # type: ignore[arg-type]


def template(world: World) -> Template:
    return Template(
        epoch=0,
        view=world.header.view + 1,
        parent=world.header,
        parent_digest=world.digest,
        timestamp_ms=world.header.timestamp_ms + 1,
        proposer="ALFA",
    )


def build(world: World, *txs: Transaction) -> Executed:
    built, refused = build_block(world.view, template(world), txs, chain_id=world.chain_id)
    assert not refused, refused
    return built


def check(world: World, header: Header, txs: tuple[Transaction, ...]) -> Executed:
    block = Block(header, tuple(tx.raw for tx in txs))
    return execute_block(
        world.view, world.header, world.digest, block, txs, chain_id=world.chain_id
    )


def test_a_built_block_is_valid_and_empty_ones_are_too(world: World) -> None:
    built = build(world, pay(world), pay(world))
    checked = check(world, built.header, built.transactions)
    assert checked.digest == built.digest
    assert checked.block == built.block
    empty = build(world)
    assert check(world, empty.header, ()).header == empty.header
    assert empty.header.tx_count == 0


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"chain_id": bytes(32)},
        {"height": 9_999},
        {"parent": bytes(32)},
        {"tx_count": 0},
        {"tx_root": bytes(32)},
        {"receipt_root": bytes(32)},
        {"state_root": bytes(32)},
        {"validators_hash": bytes(32)},
        {"next_validators_hash": bytes(32)},
    ],
)
def test_any_wrong_field_makes_a_block_invalid(world: World, change: dict[str, object]) -> None:
    built = build(world, pay(world))
    field = next(iter(change))
    with pytest.raises(BlockInvalid, match=f"{field}: .*, expected"):
        check(world, replace(built.header, **change), built.transactions)


@pytest.mark.parametrize("lag", [0, 1, 1_000])
def test_time_moves_on_with_every_block(world: World, lag: int) -> None:
    built = build(world)
    header = replace(built.header, timestamp_ms=world.header.timestamp_ms - lag)
    with pytest.raises(BlockInvalid, match="timestamp_ms"):
        check(world, header, ())


def test_epoch_view_and_proposer_are_the_business_of_consensus(world: World) -> None:
    built = build(world, pay(world))
    header = replace(built.header, epoch=3, view=77, proposer="DLTA")
    assert check(world, header, built.transactions).header == header


def test_transactions_are_those_of_the_block(world: World) -> None:
    built = build(world, pay(world))
    with pytest.raises(BlockInvalid, match="not those of the block"):
        execute_block(
            world.view,
            world.header,
            world.digest,
            built.block,
            [pay(world)],
            chain_id=world.chain_id,
        )


def test_a_block_with_a_transaction_that_may_not_enter_is_invalid(world: World) -> None:
    used = pay(world)
    assert world.apply(used) is Code.OK
    now_ms = world.header.timestamp_ms + 1
    fine = build(world, pay(world))
    for bad, code in (
        (used, "ID_REUSED"),
        (pay(world, window=(now_ms + 1, now_ms + 2)), "NOT_YET_VALID"),
        (pay(world, window=(now_ms - 2, now_ms - 1)), "EXPIRED"),
        (pay(world, chain_id=bytes(32)), "WRONG_CHAIN"),
        (pay(world, amount=0), "AMOUNT_RANGE"),
        (pay(world, keys=[]), "UNAUTHORISED"),
        (pay(world, keys=["ALFA-pay", "BRVO-pay"]), "UNINVOLVED_SIGNATURE"),
    ):
        with pytest.raises(BlockInvalid, match=rf"transactions\[1\]: {code}"):
            check(world, replace(fine.header, tx_count=2), (*fine.transactions, bad))


def test_a_repeated_id_within_one_block_is_invalid_and_the_builder_leaves_it_out(
    world: World,
) -> None:
    tx = pay(world)
    same_id = pay(world, 2, tx_id=tx.body.tx_id)
    built, refused = build_block(
        world.view, template(world), [tx, tx, same_id], chain_id=world.chain_id
    )
    assert [r.code for _, r in refused] == [Code.ID_REUSED, Code.ID_REUSED]
    assert built.transactions == (tx,)
    with pytest.raises(BlockInvalid, match=r"transactions\[1\]: ID_REUSED"):
        check(world, replace(built.header, tx_count=2), (tx, same_id))


def test_authorisation_is_judged_where_a_transaction_runs(world: World) -> None:
    """An account opened by the first transaction pays in the second."""
    opening = OpenAccount(
        "ALFA/new",
        policy_of(1, ["ALFA-new"]),
        False,
        possess_all("ALFA", ["ALFA-new"], world.chain_id),
    )
    first = world.make(opening, sender="ALFA/admin")
    second = world.make(transfer("ALFA/main", "ALFA/new", 5), sender="ALFA/main")
    third = world.make(transfer("ALFA/new", "BRVO/main", 5), sender="ALFA/new", keys=["ALFA-new"])
    built, refused = build_block(
        world.view, template(world), [third, first, second], chain_id=world.chain_id
    )
    assert [r.code for _, r in refused] == [Code.UNKNOWN_ACCOUNT]
    assert [r.code for r in built.receipts] == [0, 0]
    assert [r.code for r in build(world, first, second, third).receipts] == [0, 0, 0]


def test_a_failed_transaction_changes_nothing_but_its_id(world: World) -> None:
    before = world.snapshot()
    tx = pay(world, 10**6)
    assert world.apply(tx) is Code.INSUFFICIENT_FUNDS
    assert world.snapshot() == before
    record = get_tx_record(world.view, "ALFA/main", tx.body.tx_id)
    assert record is not None
    assert (record.tx_hash, record.height, record.index) == (tx.hash, world.header.height, 0)


def test_receipts_name_the_transaction_and_its_outcome(world: World) -> None:
    good, bad = pay(world), pay(world, 10**6)
    assert world.block(good, bad) == [Code.OK, Code.INSUFFICIENT_FUNDS]
    receipts = world.executed[-1].receipts
    assert [(r.tx_hash, r.sender, r.tx_id, r.code, r.failed_op) for r in receipts] == [
        (good.hash, "ALFA/main", good.body.tx_id, 0, None),
        (bad.hash, "ALFA/main", bad.body.tx_id, int(Code.INSUFFICIENT_FUNDS), 0),
    ]


# ---- limits of a block


def test_a_block_takes_as_many_transactions_as_the_parameters_say() -> None:
    world = World(make_document(params=make_params(max_block_transactions=3)))
    txs = [world.make(Void(), sender="ALFA/main") for _ in range(5)]
    world.now_ms += 1
    built, refused = build_block(world.view, template(world), txs, chain_id=world.chain_id)
    assert (len(built.transactions), refused) == (3, [])
    with pytest.raises(BlockInvalid, match=r"transactions\[3\]: more than 3 transactions"):
        check(world, replace(built.header, tx_count=4), tuple(txs[:4]))


def test_a_block_takes_as_many_bytes_as_the_parameters_say() -> None:
    limit = 2 * limits.MAX_TRANSACTION_BYTES
    world = World(make_document(params=make_params(max_block_bytes=limit)))
    ops = [transfer("ALFA/main", "BRVO/main", 1, reference="x" * 35)] * 1_000
    txs = [world.make(*ops, sender="ALFA/main") for _ in range(6)]
    built, _ = build_block(world.view, template(world), txs, chain_id=world.chain_id)
    count = len(built.transactions)
    assert 0 < count < 6
    total = 1_024 + sum(len(tx.raw) + 5 for tx in txs[:count])
    assert total <= limit < total + len(txs[count].raw) + 5
    with pytest.raises(BlockInvalid, match="more than 524288 bytes"):
        check(world, replace(built.header, tx_count=count + 1), tuple(txs[: count + 1]))


@pytest.mark.parametrize(("over", "fit"), [(0, 3), (1, 2)])
def test_a_block_is_full_to_the_byte(
    world: World, monkeypatch: pytest.MonkeyPatch, over: int, fit: int
) -> None:
    txs = [world.make(Void(), sender="ALFA/main") for _ in range(3)]
    taken = sum(len(tx.raw) + TRANSACTION_OVERHEAD_BYTES for tx in txs)
    rest = get_params(world.view).max_block_bytes - taken
    monkeypatch.setattr("atpar.ledger.execute.BLOCK_OVERHEAD_BYTES", rest + over)
    built, _ = build_block(world.view, template(world), txs, chain_id=world.chain_id)
    assert len(built.transactions) == fit
    if fit < len(txs):
        with pytest.raises(BlockInvalid, match="bytes"):
            check(world, replace(built.header, tx_count=3), tuple(txs))


class CountingBacking(MemoryBacking):
    """Counts what is read of another backing's contents."""

    def __init__(self, backing: MemoryBacking) -> None:
        self.spaces = backing.spaces
        self.reads = 0

    def get(self, space: int, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(space, key)


def test_a_block_that_ends_early_had_few_accounts_looked_up(world: World) -> None:
    """Looking ahead ends at so many operations, not only at so many transactions."""
    used = pay(world)
    assert world.apply(used) is Code.OK
    most = limits.MAX_OPS_PER_TRANSACTION
    large = [
        world.make(
            *(transfer("ALFA/main", f"BRVO/{some}-{one}", 1) for one in range(most)),
            sender="ALFA/main",
        )
        for some in range(5)
    ]
    assert all(tx.are_own_payments for tx in large)
    txs = (used, *large)
    header = replace(build(world, pay(world)).header, tx_count=len(txs))
    backing = CountingBacking(world.backing)
    with pytest.raises(BlockInvalid, match=r"transactions\[0\]"):
        execute_block(
            Base(backing),
            world.header,
            world.digest,
            Block(header, tuple(tx.raw for tx in txs)),
            txs,
            chain_id=world.chain_id,
        )
    # An account and a balance for each payment of the first large one.
    assert 2 * most <= backing.reads < 2 * most + 100


def test_a_smaller_candidate_still_fits_behind_one_that_does_not() -> None:
    world = World(
        make_document(params=make_params(max_block_bytes=2 * limits.MAX_TRANSACTION_BYTES))
    )
    ops = [transfer("ALFA/main", "BRVO/main", 1, reference="x" * 35)] * 1_000
    large = [world.make(*ops, sender="ALFA/main") for _ in range(6)]
    small = world.make(Void(), sender="ALFA/main")
    built, _ = build_block(world.view, template(world), [*large, small], chain_id=world.chain_id)
    assert built.transactions[-1] == small


@pytest.mark.parametrize(
    ("name", "what"), [("MAX_BLOCK_OPS", "operations"), ("MAX_BLOCK_SIGNATURES", "signatures")]
)
def test_operations_and_signatures_of_a_block_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    monkeypatch.setattr(f"atpar.ledger.execute.{name}", 2)
    txs = [world.make(Void(), sender="ALFA/main") for _ in range(3)]
    built = build(world, *txs[:2])
    assert len(built.transactions) == 2
    assert len(build(world, *txs).transactions) == 2
    with pytest.raises(BlockInvalid, match=f"more than 2 {what}"):
        check(world, replace(built.header, tx_count=3), tuple(txs))


def test_proofs_of_possession_count_as_signatures(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"ALFA-n{i}" for i in range(4)]
    op = OpenAccount(
        "ALFA/new", policy_of(1, names), False, possess_all("ALFA", names, world.chain_id)
    )
    tx = world.make(op, sender="ALFA/admin")
    monkeypatch.setattr("atpar.ledger.execute.MAX_BLOCK_SIGNATURES", 5)
    assert build(world, tx).transactions == ()
    monkeypatch.setattr("atpar.ledger.execute.MAX_BLOCK_SIGNATURES", 6)
    assert build(world, tx).transactions == (tx,)


# ---- replay and simulation


def test_replay_from_genesis_gives_the_same_roots(world: World) -> None:
    redemption = world.redeem("ALFA/main", 100)
    world.freeze("BRVO/main")
    world.burn(redemption)
    world.block(pay(world), pay(world, 10**6))
    backing = MemoryBacking()
    backing.apply(world.genesis.overlay.encode_writes())
    header, digest = world.genesis.header, world.genesis.digest
    for block in world.executed:
        view = Base(backing)
        txs = [decode_transaction(raw) for raw in block.block.transactions]
        again = execute_block(view, header, digest, block.block, txs, chain_id=world.chain_id)
        assert again.header == block.header
        backing.apply(again.overlay.encode_writes())
        header, digest = again.header, again.digest
    assert digest == world.digest
    assert backing.spaces == world.backing.spaces
    assert world.compute_fresh_root() == header.state_root


def test_blocks_can_be_built_on_blocks_that_are_not_final(world: World) -> None:
    first = build(world, pay(world, 600))
    second, refused = build_block(
        first.overlay,
        replace_data(
            template(world),
            parent=first.header,
            parent_digest=first.digest,
            timestamp_ms=first.header.timestamp_ms + 1,
        ),
        [pay(world, 401), first.transactions[0], pay(world, 400)],
        chain_id=world.chain_id,
    )
    assert [r.code for r in second.receipts] == [int(Code.INSUFFICIENT_FUNDS), 0]
    assert [r.code for _, r in refused] == [Code.ID_REUSED]


def test_simulation_says_what_the_next_block_would_and_changes_nothing(world: World) -> None:
    before = world.snapshot()
    for amount, code in ((1, 0), (10**6, int(Code.INSUFFICIENT_FUNDS))):
        receipt = simulate(
            world.view, world.header, pay(world, amount), chain_id=world.chain_id, now_ms=0
        )
        assert receipt.code == code
    with pytest.raises(Refused) as caught:
        simulate(
            world.view, world.header, pay(world, 0), chain_id=world.chain_id, now_ms=world.now_ms
        )
    assert caught.value.code is Code.AMOUNT_RANGE
    assert world.snapshot() == before


def test_simulation_says_what_no_block_has_room_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(tx: Transaction) -> Code:
        now_ms, header = world.now_ms, world.header
        receipt = simulate(world.view, header, tx, chain_id=world.chain_id, now_ms=now_ms)
        return Code(receipt.code)

    op = transfer("ALFA/main", "BRVO/main", 1)
    two, three = (world.make(*[op] * count, sender="ALFA/main") for count in (2, 3))
    unsigned = world.make(*[op] * 3, sender="ALFA/main", keys=[])
    monkeypatch.setattr("atpar.ledger.execute.MAX_BLOCK_OPS", 2)
    assert run(two) is Code.OK
    for tx, code, message in (
        (three, Code.TOO_LARGE, "more than 2 operations in one block"),
        (unsigned, Code.UNAUTHORISED, "not enough signatures for ALFA/main"),
    ):
        with pytest.raises(Refused, match=message) as caught:
            run(tx)
        assert caught.value.code is code


@pytest.mark.parametrize(
    ("transactions", "ops"), [(1, 99), (3, 99), (4, 99), (99, 1), (99, 7), (99, 8)]
)
def test_block_is_the_same_however_far_it_looks_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch, transactions: int, ops: int
) -> None:
    """Seven payments in four transactions: one run ends with the block, one past it, or within."""
    txs = [
        world.make(*[transfer("ALFA/main", to, 1)] * count, sender="ALFA/main")
        for to, count in (("BRVO/main", 1), ("CHRL/main", 3), ("DLTA/nobody", 1), ("BRVO/main", 2))
    ]
    expected, _ = build_block(world.view, template(world), txs, chain_id=world.chain_id)
    monkeypatch.setattr("atpar.ledger.execute._FORESEEN", transactions)
    monkeypatch.setattr("atpar.ledger.execute._FORESEEN_OPS", ops)
    built, _ = build_block(world.view, template(world), txs, chain_id=world.chain_id)
    assert built.transactions == tuple(txs)
    assert built.header == expected.header
    assert [receipt.code for receipt in built.receipts] == [0, 0, int(Code.UNKNOWN_CREDITOR), 0]
