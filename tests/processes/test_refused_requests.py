"""Hostile and mistaken transactions against real validators: each refused with its own code, by the
API with a problem document and by the command line with its exit code, and nothing changes.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from atpar.cli.errors import RefusedByLedger, WrongUsage
from atpar.cli.testnet.ask import ask, exchange
from atpar.cli.testnet.network import look, now_ms
from atpar.cli.testnet.officers import Officers
from atpar.cli.testnet.processes import wait_until
from atpar.cli.testnet.recipe import HKD
from atpar.cli.testnet.record import TestnetRecord
from atpar.cli.txfile import TxFile
from atpar.ledger.codec import encode
from atpar.ledger.hashing import SignKind
from atpar.ledger.limits import MAX_AMOUNT, MAX_SIGNATURES, MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Mint, Operation, Transfer
from atpar.ledger.transactions import VERSION, Body, decode_transaction, encode_envelope
from atpar.node.signer import LocalSigner
from tests.processes.network import running_network
from tests.processes.test_commands import atpar

ALFA, BRVO = "ALFA/treasury", "BRVO/treasury"
JSON = "application/json"


@dataclass(frozen=True)
class World:
    folder: Path
    record: TestnetRecord
    officers: Officers

    @property
    def api(self) -> str:
        return self.record.validators[0].api

    @property
    def chain_id(self) -> bytes:
        return bytes.fromhex(self.record.chain)

    def payer(self) -> LocalSigner:
        return self.officers.get_signers(ALFA)[0]

    def post(self, raw: bytes) -> tuple[int, dict[str, Any]]:
        """Submit one envelope as it is; return the HTTP status and the answer."""
        status, body = exchange(
            self.api,
            "/v1/transactions",
            body=raw,
            headers={"content-type": "application/msgpack", "accept": JSON, "prefer": "wait=20"},
            timeout_s=30,
        )
        return status, json.loads(body)

    def read_state(self) -> tuple[str, ...]:
        """Return the state roots of all validators once they are equal and nothing is pending."""
        roots: set[str] = set()

        def settled() -> bool:
            statuses = [view.status for view in look(self.record)]
            known = [status for status in statuses if status is not None]
            roots.clear()
            roots.update(status["state_root"] for status in known)
            idle = all(status["mempool_transactions"] == 0 for status in known)
            return len(known) == len(statuses) and len(roots) == 1 and idle

        wait_until(settled, what="equal states", timeout_s=30)
        return tuple(roots)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("network")
    with running_network(folder) as record:
        officers = Officers(folder, record)
        mint = Mint(HKD, "ALFA/minter", ALFA, 1_000_00, uuid.uuid4().bytes, None)
        officers.send(officers.sign("ALFA/minter", [mint]))
        yield World(folder, record, officers)


def pay(*, amount: int = 1, creditor: str = BRVO, debtor: str = ALFA) -> Transfer:
    return Transfer(
        asset=HKD,
        debtor=debtor,
        creditor=creditor,
        amount=amount,
        uetr=uuid.uuid4().bytes,
        purpose="",
        reference="",
        return_of=None,
        travel_rule_hash=None,
        travel_rule_ack=False,
    )


def make_body(world: World, ops: Sequence[Operation] | None = None) -> Body:
    now = now_ms()
    return Body(
        version=VERSION,
        chain_id=world.chain_id,
        sender=ALFA,
        tx_id=uuid.uuid4().bytes,
        valid_from_ms=now - 60_000,
        valid_until_ms=now + 600_000,
        ops=tuple([pay()] if ops is None else ops),
    )


def sign(body: Body, *signers: LocalSigner, chain_id: bytes | None = None) -> bytes:
    data = encode(body)
    chain = body.chain_id if chain_id is None else chain_id
    pairs = [(s.public_key, s.sign(SignKind.TRANSACTION, chain, data)) for s in signers]
    return encode_envelope(data, pairs)


def alter(body: Body, **changes: Any) -> Body:
    return msgspec.structs.replace(body, **changes)


def wrong_signature(world: World) -> bytes:
    body = make_body(world)
    signature = bytearray(world.payer().sign(SignKind.TRANSACTION, world.chain_id, encode(body)))
    signature[5] ^= 1
    return encode_envelope(encode(body), [(world.payer().public_key, bytes(signature))])


def signed_for_another_kind(world: World) -> bytes:
    body = make_body(world)
    signature = world.payer().sign(SignKind.POSSESSION, world.chain_id, encode(body))
    return encode_envelope(encode(body), [(world.payer().public_key, signature)])


def high_s_signature(world: World) -> bytes:
    order = 2**252 + 27742317777372353535851937790883648493
    body = make_body(world)
    signature = world.payer().sign(SignKind.TRANSACTION, world.chain_id, encode(body))
    s = int.from_bytes(signature[32:], "little") + order
    bad = signature[:32] + s.to_bytes(32, "little")
    return encode_envelope(encode(body), [(world.payer().public_key, bad)])


def wrong_chain(world: World) -> bytes:
    return sign(alter(make_body(world), chain_id=bytes(32)), world.payer())


def expired(world: World) -> bytes:
    now = now_ms()
    times = {"valid_from_ms": now - 7_200_000, "valid_until_ms": now - 3_600_000}
    return sign(alter(make_body(world), **times), world.payer())


def not_yet_valid(world: World) -> bytes:
    now = now_ms()
    times = {"valid_from_ms": now + 3_600_000, "valid_until_ms": now + 7_200_000}
    return sign(alter(make_body(world), **times), world.payer())


def window_too_long(world: World) -> bytes:
    return sign(alter(make_body(world), valid_until_ms=now_ms() + 2 * 86_400_000), world.payer())


def unsigned(world: World) -> bytes:
    return encode_envelope(encode(make_body(world)), [])


def signed_by_a_stranger(world: World) -> bytes:
    return sign(make_body(world), LocalSigner(bytes(range(32))))


def signed_by_one_too_many(world: World) -> bytes:
    return sign(make_body(world), world.payer(), LocalSigner(bytes(range(32))))


def too_many_signatures(world: World) -> bytes:
    others = [LocalSigner(n.to_bytes(32, "big")) for n in range(1, MAX_SIGNATURES + 1)]
    return sign(make_body(world), world.payer(), *others)


def no_operations(world: World) -> bytes:
    return sign(make_body(world, []), world.payer())


def unknown_sender(world: World) -> bytes:
    return sign(alter(make_body(world), sender="ALFA/nobody"), world.payer())


def unknown_version(world: World) -> bytes:
    return sign(alter(make_body(world), version=VERSION + 1), world.payer())


def to_oneself(world: World) -> bytes:
    return sign(make_body(world, [pay(creditor=ALFA)]), world.payer())


def amount_of(amount: int) -> Callable[[World], bytes]:
    def make(world: World) -> bytes:
        return sign(make_body(world, [pay(amount=amount)]), world.payer())

    return make


def oversized(world: World) -> bytes:
    return sign(make_body(world), world.payer()) + bytes(MAX_TRANSACTION_BYTES)


def trailing_byte(world: World) -> bytes:
    return sign(make_body(world), world.payer()) + b"\0"


def longer_encoding(world: World) -> bytes:
    """The same values in a longer MessagePack form: an array 16 instead of a fixarray."""
    raw = sign(make_body(world), world.payer())
    assert raw[0] == 0x92
    return b"\xdc\x00\x02" + raw[1:]


def garbage(_world: World) -> bytes:
    return b"\xc1" * 100


REFUSED: list[tuple[Callable[[World], bytes], str]] = [
    (wrong_signature, "BAD_SIGNATURE"),
    (signed_for_another_kind, "BAD_SIGNATURE"),
    (high_s_signature, "BAD_SIGNATURE"),
    (wrong_chain, "WRONG_CHAIN"),
    (expired, "EXPIRED"),
    (not_yet_valid, "NOT_YET_VALID"),
    (window_too_long, "WINDOW_INVALID"),
    (unsigned, "UNAUTHORISED"),
    (signed_by_a_stranger, "UNINVOLVED_SIGNATURE"),
    (signed_by_one_too_many, "UNINVOLVED_SIGNATURE"),
    (too_many_signatures, "TOO_MANY_SIGNATURES"),
    (no_operations, "NO_OPERATIONS"),
    (unknown_sender, "UNKNOWN_ACCOUNT"),
    (unknown_version, "UNSUPPORTED_VERSION"),
    (to_oneself, "SAME_ACCOUNT"),
    (amount_of(0), "AMOUNT_RANGE"),
    (amount_of(-1), "AMOUNT_RANGE"),
    (amount_of(MAX_AMOUNT + 1), "AMOUNT_RANGE"),
    (amount_of(2**63 - 1), "AMOUNT_RANGE"),
    (oversized, "TOO_LARGE"),
    (trailing_byte, "NON_CANONICAL"),
    (longer_encoding, "NON_CANONICAL"),
    (garbage, "NON_CANONICAL"),
]


@pytest.mark.parametrize(("make", "code"), REFUSED)
def test_api_refuses_with_a_problem_document_and_nothing_changes(
    world: World, make: Callable[[World], bytes], code: str
) -> None:
    before = world.read_state()
    status, problem = world.post(make(world))
    assert (problem.get("code"), 400 <= status < 500) == (code, True), problem
    assert problem["status"] == status
    assert problem["detail"]
    assert world.read_state() == before


UNSENDABLE = (oversized, trailing_byte, longer_encoding, garbage, unsigned, signed_by_a_stranger)
SENDABLE = [(make, code) for make, code in REFUSED if make not in UNSENDABLE]
SENDABLE += [(unsigned, "UNAUTHORISED"), (signed_by_a_stranger, "UNAUTHORISED")]
"""What a transaction file can say. Missing signatures are noticed before anything is sent."""


@pytest.mark.parametrize(("make", "code"), SENDABLE)
def test_command_line_refuses_with_its_exit_code(
    world: World, make: Callable[[World], bytes], code: str, tmp_path: Path
) -> None:
    tx = decode_transaction(make(world))
    path = tmp_path / "tx.json"
    path.write_bytes(TxFile(tx.body_bytes, {s.key: s.signature for s in tx.signatures}).render())
    done = atpar("--home", str(world.folder), "tx", "send", str(path), "--json", cwd=tmp_path)
    assert done.returncode == RefusedByLedger.exit_code, done.stdout + done.stderr
    assert json.loads(done.stdout)["error"]["code"] == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("damage", ["{", '{"format": "nothing"}', ""])
def test_damaged_transaction_file_is_wrong_usage(world: World, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "tx.json"
    path.write_text(damage)
    done = atpar("--home", str(world.folder), "tx", "send", str(path), cwd=tmp_path)
    assert done.returncode == WrongUsage.exit_code
    assert "Traceback" not in done.stderr


def test_same_bytes_again_answer_with_the_first_receipt_on_every_node(world: World) -> None:
    raw = sign(make_body(world), world.payer())
    status, first = world.post(raw)
    assert (status, first["status"], first["code"]) == (200, "final", "OK")
    before = world.read_state()
    for validator in world.record.validators:
        other = replace(world, record=replace_first(world.record, validator.api))
        status, again = other.post(raw)
        assert (status, again["receipt"]) == (200, first["receipt"])
    assert world.read_state() == before


def replace_first(record: TestnetRecord, api: str) -> TestnetRecord:
    ordered = sorted(record.validators, key=lambda validator: validator.api != api)
    return msgspec.structs.replace(record, validators=tuple(ordered))


def test_same_id_with_another_body_is_refused(world: World) -> None:
    body = make_body(world)
    status, first = world.post(sign(body, world.payer()))
    assert (status, first["code"]) == (200, "OK")
    before = world.read_state()
    status, problem = world.post(sign(alter(body, ops=(pay(amount=2),)), world.payer()))
    assert (status, problem["code"]) == (409, "ID_REUSED")
    assert world.read_state() == before


@pytest.mark.parametrize(
    ("op", "code"),
    [
        (pay(amount=MAX_AMOUNT), "INSUFFICIENT_FUNDS"),
        (pay(creditor="BRVO/nobody"), "UNKNOWN_CREDITOR"),
        (msgspec.structs.replace(pay(), asset="USD.JDCL"), "UNKNOWN_ASSET"),
    ],
)
def test_failure_on_state_is_a_final_receipt_and_moves_nothing(
    world: World, op: Transfer, code: str
) -> None:
    balances = ask(world.api, f"/v1/accounts/{ALFA}")
    status, answer = world.post(sign(make_body(world, [op]), world.payer()))
    assert (status, answer["status"], answer["code"]) == (200, "final", code)
    assert answer["receipt"]["failed_op"] == 0
    after = ask(world.api, f"/v1/accounts/{ALFA}")
    assert balances is not None
    assert after is not None
    assert after["balances"] == balances["balances"]


def test_second_operation_that_fails_undoes_the_first(world: World) -> None:
    before = ask(world.api, f"/v1/accounts/{BRVO}")
    ops = [pay(amount=1), pay(amount=MAX_AMOUNT)]
    status, answer = world.post(sign(make_body(world, ops), world.payer()))
    assert (status, answer["code"]) == (200, "INSUFFICIENT_FUNDS")
    assert answer["receipt"]["failed_op"] == 1
    after = ask(world.api, f"/v1/accounts/{BRVO}")
    assert before is not None
    assert after is not None
    assert after["balances"] == before["balances"]


def test_flipped_byte_in_a_receipt_is_noticed(world: World, tmp_path: Path) -> None:
    done = atpar(
        "--home", str(world.folder), "transfer", "--from", ALFA, "--to", BRVO,
        "--amount", "0.01", "--asset", HKD, "--yes", "--json", cwd=tmp_path,
    )  # fmt: skip
    text = Path(json.loads(done.stdout)["receipt"]).read_text()
    digits = [i for i, char in enumerate(text) if char in "0123456789abcdef"]
    genesis = str(world.folder / "genesis.json")
    for spot in digits[:: len(digits) // 4]:
        path = tmp_path / f"altered-{spot}.json"
        flipped = "1" if text[spot] != "1" else "2"
        path.write_text(text[:spot] + flipped + text[spot + 1 :])
        verified = atpar("verify", str(path), "--genesis", genesis, cwd=tmp_path)
        assert verified.returncode in (RefusedByLedger.exit_code, WrongUsage.exit_code), spot
        assert "Traceback" not in verified.stderr
