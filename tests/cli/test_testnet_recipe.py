"""The fictional world founds a valid chain, for every number of validators."""

import hashlib
import itertools
from collections.abc import Callable

import pytest

from atpar.cli.testnet.recipe import (
    BANKS,
    MAX_BANKS,
    MIN_BANKS,
    Place,
    UnknownKey,
    World,
    build_institutions,
    build_world,
    compute_bic,
    compute_lei,
)
from atpar.ledger.genesis import build_genesis, check_genesis, parse_genesis, render_genesis
from atpar.node.identity import create_root

ROOTS = [create_root(code).certificate.decode() for code in BANKS]


def make_seeds() -> Callable[[], bytes]:
    numbers = itertools.count()
    return lambda: hashlib.sha256(b"seed %d" % next(numbers)).digest()


def make_world(banks: int, *, load_accounts: int = 0) -> World:
    places = [Place(f"127.0.0.1:{7201 + i}", ROOTS[i]) for i in range(banks)]
    return build_world(
        places,
        name="local-test",
        timestamp_ms=1_700_000_000_000,
        draw_seed=make_seeds(),
        load_accounts=load_accounts,
    )


@pytest.mark.parametrize("banks", [MIN_BANKS, 7, 10, MAX_BANKS])
def test_world_founds_a_valid_sealed_chain(banks: int) -> None:
    world = make_world(banks, load_accounts=2)
    check_genesis(world.document, sealed=True)
    genesis = build_genesis(world.document)
    assert genesis.chain_id == world.chain_id
    assert len(genesis.validators.members) == banks


def test_document_survives_its_json_form() -> None:
    world = make_world(4)
    assert parse_genesis(render_genesis(world.document)) == world.document


def test_same_seeds_make_the_same_chain() -> None:
    assert make_world(4).chain_id == make_world(4).chain_id


@pytest.mark.parametrize("banks", [MIN_BANKS - 1, MAX_BANKS + 1])
def test_other_numbers_of_banks_are_refused(banks: int) -> None:
    with pytest.raises(ValueError, match="banks"):
        build_institutions(banks)


@pytest.mark.parametrize("code", [*BANKS, "JDCL", "CUST"])
def test_lei_has_right_check_digits(code: str) -> None:
    lei = compute_lei(code)
    assert len(lei) == 20
    assert int("".join(str(int(char, 36)) for char in lei)) % 97 == 1


@pytest.mark.parametrize("code", BANKS)
def test_bic_is_a_test_code(code: str) -> None:
    assert compute_bic(code)[7] == "0"
    assert len({compute_bic(each) for each in BANKS}) == len(BANKS)


def test_signers_of_an_account_reach_its_threshold() -> None:
    world = make_world(4)
    assert len(world.get_signers("JDCL/minter")) == 2
    assert len(world.get_signers("ALFA/treasury")) == 1


@pytest.mark.parametrize("account", ["ALFA/nothing", "NONE/treasury"])
def test_unknown_accounts_are_named(account: str) -> None:
    with pytest.raises(UnknownKey):
        make_world(4).get_signers(account)
