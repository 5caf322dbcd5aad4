"""The verifier: same verdicts with and without workers, order, bounds, and workers that die."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from atpar.ledger.keys import SignedTriple, verify_batch
from atpar.node.errors import VerifierBusy, VerifierFailed, VerifierStopped
from atpar.node.limits import (
    MAX_VERIFY_ATTEMPTS,
    VERIFY_BATCH_BYTES,
    VERIFY_BATCH_SIGNATURES,
    VERIFY_BATCHES_AHEAD,
    VERIFY_PIECE_SIGNATURES,
)
from atpar.node.metrics import Metrics
from atpar.node.verifier import WORKER_COMMAND, Priority, Verifier
from atpar.node.verify_worker import pack_answer, pack_piece, unpack_answer, unpack_pieces
from tests.altering import flip
from tests.patience import DEADLINE_S

SIGNER = SigningKey(bytes(range(32)))
KEY = bytes(SIGNER.verify_key)


def sign(message: bytes, *, valid: bool = True) -> SignedTriple:
    signature = SIGNER.sign(message).signature
    return KEY, message, signature if valid else flip(signature)


def make_triples(count: int, *, bad: set[int] = frozenset()) -> list[SignedTriple]:  # type: ignore[assignment]
    return [sign(i.to_bytes(4, "big"), valid=i not in bad) for i in range(count)]


@asynccontextmanager
async def running(verifier: Verifier) -> AsyncIterator[Verifier]:
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(verifier.run)
            yield verifier
            nursery.cancel_scope.cancel()


def script(folder: Path, body: str) -> tuple[str, ...]:
    """Return the command of a worker that runs `body` and may hand over to a real one."""
    path = folder / "worker.py"
    path.write_text(f"import os, sys, pathlib\nfolder = pathlib.Path({str(folder)!r})\n{body}\n")
    return sys.executable, str(path)


REAL = f"os.execv({WORKER_COMMAND[0]!r}, [*{list(WORKER_COMMAND)!r}, *sys.argv[1:]])"


def count_waiting(metrics: Metrics, verifier: Verifier, priority: Priority) -> int:
    verifier.observe()
    labels = {"queue": f"verify_{priority.name.lower()}"}
    return int(metrics.registry.get_sample_value("atpar_queue_depth", labels) or 0)


@pytest.mark.parametrize("workers", [0, 1, 2])
async def test_one_bad_signature_spoils_no_other(workers: int) -> None:
    triples = make_triples(300, bad={0, 64, 299})
    async with running(Verifier(workers=workers, metrics=Metrics())) as verifier:
        verdicts = await verifier.verify(triples, Priority.BLOCKS)
    assert [index for index, valid in enumerate(verdicts) if not valid] == [0, 64, 299]


@pytest.mark.parametrize("workers", [0, 1])
async def test_malformed_keys_and_signatures_are_invalid_not_errors(workers: int) -> None:
    key, message, signature = sign(b"m")
    triples = [
        (bytes(31) + b"\xff", message, signature),
        (key, message, b"\xff" * 64),
        (key, b"", signature),
        (key, message, signature),
    ]
    async with running(Verifier(workers=workers, metrics=Metrics())) as verifier:
        verdicts = await verifier.verify(triples, Priority.CLIENTS)
    assert verdicts == verify_batch(triples)
    assert verdicts[1:] == [False, False, True]


async def test_nothing_to_verify_is_answered_at_once() -> None:
    assert await Verifier(workers=1, metrics=Metrics()).verify([], Priority.BLOCKS) == []


async def test_many_callers_get_their_own_verdicts() -> None:
    results: dict[int, list[bool]] = {}

    async def call(number: int, verifier: Verifier) -> None:
        triples = [sign(bytes([number, i]), valid=i == number % 5) for i in range(5)]
        results[number] = await verifier.verify(triples, Priority(number % 3))

    async with running(Verifier(workers=2, metrics=Metrics())) as verifier:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(call, number, verifier)
        assert verifier._jobs == set()
        assert not any(verifier._signatures.values())
        assert not any(verifier._bytes.values())
    for number, verdicts in results.items():
        assert verdicts == [i == number % 5 for i in range(5)]


class Witness:
    """Notes which priority each answered batch had, in the order of the answers."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def labels(self, priority: str) -> "Witness":
        self.order.append(priority)
        return self

    def observe(self, value: float) -> None:
        assert value == VERIFY_PIECE_SIGNATURES


async def test_blocks_go_before_gossip_before_clients() -> None:
    metrics, witness = Metrics(), Witness()
    metrics.verify_batch_size = witness
    verifier = Verifier(workers=1, metrics=metrics)
    # Not by who wakes first: of tasks that two answers in one read wake, any may run first.
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as callers:
                for priority in reversed(Priority):
                    triples = make_triples(VERIFY_PIECE_SIGNATURES)
                    callers.start_soon(verifier.verify, triples, priority)
                await trio.testing.wait_all_tasks_blocked()
                runner = await nursery.start(run_in_scope, verifier)
            runner.cancel()
    assert witness.order == [priority.name.lower() for priority in sorted(Priority)]


async def run_in_scope(
    verifier: Verifier,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await verifier.run()


async def test_in_line_what_is_urgent_overtakes_what_is_being_checked() -> None:
    order: list[str] = []
    verifier = Verifier(workers=0, metrics=Metrics())

    async def verify(name: str, priority: Priority, pieces: int) -> None:
        triples = make_triples(VERIFY_PIECE_SIGNATURES) * pieces
        assert all(await verifier.verify(triples, priority))
        order.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(verify, "clients", Priority.CLIENTS, 2)
        nursery.start_soon(verify, "gossip", Priority.GOSSIP, 3)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(verify, "block", Priority.BLOCKS, 6)
    assert order == ["block", "gossip", "clients"]


async def test_in_line_a_caller_that_leaves_lets_the_others_on() -> None:
    verifier = Verifier(workers=0, metrics=Metrics())
    triples = make_triples(VERIFY_PIECE_SIGNATURES) * 4
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def leave() -> None:
            with scope:
                await verifier.verify(triples, Priority.BLOCKS)

        nursery.start_soon(leave)
        await trio.lowlevel.checkpoint()
        scope.cancel()
        with trio.fail_after(DEADLINE_S):
            assert all(await verifier.verify(triples, Priority.CLIENTS))


@pytest.mark.parametrize(("workers", "for_clients"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)])
async def test_clients_leave_half_of_the_workers_to_others(
    tmp_path: Path, workers: int, for_clients: int
) -> None:
    metrics = Metrics()
    hangs = script(tmp_path, "import time; time.sleep(60)")
    verifier = Verifier(workers=workers, metrics=metrics, command=hangs)
    most = VERIFY_BATCHES_AHEAD * VERIFY_BATCH_SIGNATURES
    triples = [sign(b"")] * (workers + 1) * most
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            runner = await nursery.start(run_in_scope, verifier)
            for priority, taken in ((Priority.CLIENTS, for_clients), (Priority.GOSSIP, workers)):
                nursery.start_soon(verifier.verify, triples, priority)
                others = workers - for_clients
                free = taken if priority is Priority.CLIENTS else others
                while count_waiting(metrics, verifier, priority) != len(triples) - free * most:
                    await trio.testing.wait_all_tasks_blocked(0.005)
            runner.cancel()
            nursery.cancel_scope.cancel()


async def test_full_backlog_refuses_before_queueing() -> None:
    verifier = Verifier(workers=1, metrics=Metrics(), max_signatures=10, max_bytes=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verifier.verify, make_triples(9), Priority.CLIENTS)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(verifier.verify, make_triples(1), Priority.CLIENTS)
        await trio.testing.wait_all_tasks_blocked()
        assert not verifier.has_room(Priority.CLIENTS)
        with pytest.raises(VerifierBusy, match="10 signatures wait, at most 10"):
            await verifier.verify(make_triples(1), Priority.CLIENTS)
        assert verifier._signatures[Priority.CLIENTS] == 10
        nursery.start_soon(verifier.verify, [sign(bytes(61))], Priority.GOSSIP)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(VerifierBusy, match="61 bytes wait, at most 100"):
            await verifier.verify([sign(bytes(40))], Priority.GOSSIP)
        nursery.start_soon(verifier.verify, [sign(bytes(39))], Priority.GOSSIP)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_request_larger_than_the_backlog_passes_alone() -> None:
    async with running(Verifier(workers=1, metrics=Metrics(), max_signatures=10)) as verifier:
        assert all(await verifier.verify(make_triples(50), Priority.BLOCKS))


async def test_worker_that_dies_is_replaced_and_its_batch_checked_again(tmp_path: Path) -> None:
    dies_once = script(
        tmp_path,
        "flag = folder / 'died'\n"
        "if not flag.exists():\n"
        "    flag.touch()\n"
        "    sys.stdin.buffer.read(4)\n"
        "    sys.exit(1)\n" + REAL,
    )
    verifier = Verifier(workers=1, metrics=Metrics(), command=dies_once)
    async with running(verifier):
        verdicts = await verifier.verify(make_triples(200, bad={7}), Priority.BLOCKS)
    assert verdicts == [i != 7 for i in range(200)]
    assert verifier.restarts == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff" * 12 + b"\xff",  # a ticket of its own
        (1).to_bytes(8, "big") + (2).to_bytes(4, "big") + b"\xff",  # another count
        (1).to_bytes(8, "big") + (1).to_bytes(4, "big") + b"\2",  # no verdict
        (1).to_bytes(8, "big"),  # cut short
    ],
)
async def test_answer_to_another_request_never_passes(tmp_path: Path, answer: bytes) -> None:
    lies_once = script(
        tmp_path,
        "flag = folder / 'lied'\n"
        "if not flag.exists():\n"
        "    flag.touch()\n"
        "    sys.stdin.buffer.read(4)\n"
        f"    sys.stdout.buffer.write({answer!r})\n"
        "    sys.stdout.flush()\n"
        "    sys.exit(0)\n" + REAL,
    )
    verifier = Verifier(workers=1, metrics=Metrics(), command=lies_once)
    async with running(verifier):
        verdicts = await verifier.verify([sign(b"forged", valid=False)], Priority.CLIENTS)
    assert verdicts == [False]
    assert verifier.restarts == 1


async def test_workers_that_always_die_stop_the_node(tmp_path: Path) -> None:
    verifier = Verifier(
        workers=1, metrics=Metrics(), command=script(tmp_path, "sys.stdin.buffer.read(1)")
    )
    outcomes = []

    async def call() -> None:
        try:
            await verifier.verify(make_triples(3), Priority.BLOCKS)
        except VerifierStopped as error:
            outcomes.append(error)

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            with pytest.RaisesGroup(VerifierFailed):
                await verifier.run()
    assert len(outcomes) == 1
    assert verifier.restarts == MAX_VERIFY_ATTEMPTS - 1


async def test_stopping_tells_whoever_waits(tmp_path: Path) -> None:
    hangs = script(tmp_path, "import time; time.sleep(60)")
    verifier = Verifier(workers=1, metrics=Metrics(), command=hangs)
    outcomes = []

    async def call() -> None:
        with pytest.raises(VerifierStopped):
            await verifier.verify(make_triples(3), Priority.BLOCKS)
        outcomes.append(True)

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            runner = await nursery.start(run_in_scope, verifier)
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            runner.cancel()
    assert outcomes == [True]
    with pytest.raises(VerifierStopped):
        await verifier.verify(make_triples(1), Priority.BLOCKS)


async def test_caller_that_leaves_frees_its_place() -> None:
    verifier = Verifier(workers=1, metrics=Metrics())
    with trio.move_on_after(0.01):
        await verifier.verify(make_triples(500), Priority.CLIENTS)
    async with running(verifier):
        assert await verifier.verify(make_triples(1), Priority.CLIENTS) == [True]
    assert verifier._signatures[Priority.CLIENTS] == 0


TRIPLES = st.lists(
    st.tuples(
        st.binary(min_size=32, max_size=32),
        st.sampled_from([b"", b"a", b"bb" * 100]),
        st.binary(min_size=64, max_size=64),
    ),
    min_size=1,
    max_size=20,
)


@given(st.lists(TRIPLES, max_size=3), st.binary(max_size=9))
@settings(deadline=None)
def test_pieces_survive_packing(pieces: list[list[SignedTriple]], before: bytes) -> None:
    columns = [tuple(zip(*triples, strict=True)) for triples in pieces]
    packed = b"".join(pack_piece(each) for each in columns)  # type: ignore[arg-type]
    memory = before + packed + b"behind"
    found = unpack_pieces(memory, len(before), len(before) + len(packed))
    assert [tuple(map(tuple, each)) for each in found] == columns


def test_message_of_many_signatures_is_packed_once() -> None:
    message = bytes(1_000)
    alone = pack_piece(([KEY], [message], [bytes(64)]))
    shared = pack_piece(([KEY] * 64, [message] * 64, [bytes(64)] * 64))
    assert len(shared) == len(alone) + 63 * 96
    ((_, messages, _),) = unpack_pieces(shared, 0, len(shared))
    assert list(messages) == [message] * 64


@pytest.mark.parametrize(("key", "signature"), [(31, 64), (33, 64), (32, 63), (32, 65), (31, 65)])
def test_keys_and_signatures_of_another_length_are_not_packed(key: int, signature: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        pack_piece(([bytes(key)], [b""], [bytes(signature)]))


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 2**64 - 1))
def test_answers_survive_packing(verdicts: list[bool], ticket: int) -> None:
    answer = pack_answer(ticket, verdicts)
    assert unpack_answer(answer, ticket=ticket, count=len(verdicts)) == verdicts
    assert unpack_answer(answer, ticket=ticket ^ 1, count=len(verdicts)) is None
    assert unpack_answer(answer, ticket=ticket, count=len(verdicts) + 1) is None
    assert unpack_answer(answer + b"\2", ticket=ticket, count=len(verdicts) + 1) is None


async def test_only_the_batch_in_hand_is_suspected_when_a_worker_dies(tmp_path: Path) -> None:
    """What waited behind it was not begun, so it is not counted against it: it outlives five."""
    deaths = MAX_VERIFY_ATTEMPTS - 1
    counts = script(
        tmp_path,
        "import struct\n"
        "died = len(list(folder.glob('death*')))\n"
        f"if died < {2 * deaths}:\n"
        "    (folder / f'death{died}').touch()\n"
        "    ticket = sys.stdin.buffer.read(16)[:8]\n"
        f"    if died <= {deaths}:\n"
        "        sys.stdin.buffer.read(16)\n"
        f"    if died == {deaths}:\n"
        f"        count = {VERIFY_BATCH_SIGNATURES}\n"
        "        sys.stdout.buffer.write(ticket + struct.pack('>I', count) + b'\\1' * count)\n"
        "        sys.stdout.flush()\n"
        "    sys.exit(1)\n" + REAL,
    )
    verifier = Verifier(workers=1, metrics=Metrics(), command=counts)
    async with running(verifier):
        verdicts = await verifier.verify([sign(b"")] * 2 * VERIFY_BATCH_SIGNATURES, Priority.BLOCKS)
    assert all(verdicts)
    assert verifier.restarts == 2 * deaths


async def test_worker_that_hangs_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs_once = script(
        tmp_path,
        "flag = folder / 'hung'\n"
        "if not flag.exists():\n"
        "    flag.touch()\n"
        "    import time; time.sleep(60)\n" + REAL,
    )
    verifier = Verifier(workers=1, metrics=Metrics(), command=hangs_once)

    class Patience:
        """Short with the first worker, which hangs, and long with the next, which has to start."""

        def __radd__(self, now: float) -> float:
            return now + (DEADLINE_S if verifier.restarts else 0.2)

    monkeypatch.setattr("atpar.node.verifier.VERIFY_TIMEOUT_S", Patience())
    async with running(verifier):
        verdicts = await verifier.verify(make_triples(3, bad={1}), Priority.BLOCKS)
    assert verdicts == [True, False, True]
    assert verifier.restarts == 1


async def test_worker_that_speaks_unasked_is_replaced(tmp_path: Path) -> None:
    speaks_once = script(
        tmp_path,
        "flag = folder / 'spoke'\n"
        "if not flag.exists():\n"
        "    flag.touch()\n"
        "    sys.stdout.buffer.write((1).to_bytes(8, 'big') + (1).to_bytes(4, 'big') + b'\\1')\n"
        "    sys.stdout.flush()\n"
        "    sys.stdin.buffer.read()\n" + REAL,
    )
    verifier = Verifier(workers=1, metrics=Metrics(), command=speaks_once)
    async with running(verifier):
        while not verifier.restarts:
            await trio.testing.wait_all_tasks_blocked(0.005)
        verdicts = await verifier.verify([sign(b"forged", valid=False)], Priority.CLIENTS)
    assert verdicts == [False]


async def test_worker_killed_under_load_loses_and_passes_nothing(tmp_path: Path) -> None:
    noted = script(tmp_path, "(folder / f'{os.getpid()}.pid').touch()\n" + REAL)
    verifier = Verifier(workers=2, metrics=Metrics(), command=noted)
    bad = set(range(0, 4_000, 7))
    triples = make_triples(4_000, bad=bad)
    verdicts: dict[int, list[bool]] = {}

    async def call(start: int) -> None:
        verdicts[start] = await verifier.verify(triples[start : start + 50], Priority.GOSSIP)

    async with running(verifier), trio.open_nursery() as nursery:
        for start in range(0, len(triples), 50):
            nursery.start_soon(call, start)
        for settled in (5, 30, 50):
            while len(verdicts) < settled:
                await trio.testing.wait_all_tasks_blocked(0.001)
            for noted_pid in list(tmp_path.glob("*.pid")):
                os.kill(int(noted_pid.stem), signal.SIGKILL)
                noted_pid.unlink()
    found = [verdict for start in sorted(verdicts) for verdict in verdicts[start]]
    assert [index for index, valid in enumerate(found) if not valid] == sorted(bad)
    assert len(found) == len(triples)
    assert verifier.restarts >= 3


@pytest.mark.parametrize("workers", [0, 1])
async def test_largest_messages_are_cut_into_batches_of_bounded_bytes(workers: int) -> None:
    metrics = Metrics()
    message = bytes(VERIFY_BATCH_BYTES // 3)
    triples = [sign(message, valid=index != 5) for index in range(7)]
    async with running(Verifier(workers=workers, metrics=metrics)) as verifier:
        verdicts = await verifier.verify(triples, Priority.BLOCKS)
    assert verdicts == [index != 5 for index in range(7)]


WITHOUT_CODE = """
from atpar.node import known_keys
def fail():
    raise OSError("not allowed")
known_keys.KnownKeys.__init__.__kwdefaults__["make_checker"] = fail
from atpar.node.verify_worker import _main
_main(int(sys.argv[1]), int(sys.argv[2]))
"""


async def test_a_worker_without_code_warns_beside_its_answers(tmp_path: Path) -> None:
    verifier = Verifier(workers=1, metrics=Metrics(), command=script(tmp_path, WITHOUT_CODE))
    async with running(verifier):
        for _ in range(3):
            assert await verifier.verify(make_triples(5), Priority.BLOCKS) == [True] * 5
    assert verifier.restarts == 0
