"""Signatures a second: the node's verifier beside the bare library, in turns in one run.

The bare loop calls the library's function in this process on the same signatures, in the same
messages; it is the limit of one core for keys that nobody has seen before. The verifier is the
node's own, with its worker processes, packing and answers, fed as admission feeds it. Short rounds
of both alternate, and which comes first alternates too, so that whatever else the machine does
meets both; the figures are the median of the rounds' ratios and the ratio of the totals. Every
verdict of every round is compared.

Another program on the machine takes time from both, but not in equal parts: two workers and the
node are not one loop. So processor times are given as well, of the loop, of the workers and of the
node process, and what they amount to on cores of one's own: that hardly depends on the neighbours.
"""

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio
from ed25519_zebra import ed_verify

from atpar.cli.bench.report import Report, Row, compute_median
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.keys import SignedTriple
from atpar.node.limits import VERIFY_BATCH_SIGNATURES
from atpar.node.metrics import Metrics
from atpar.node.signer import LocalSigner
from atpar.node.verifier import Priority, Verifier

KEYS: Final = 64
BODY_BYTES: Final = 210
"""As long as a payment's body."""
CHAIN: Final = bytes(32)
BAD_EVERY: Final = 97
"""One signature in so many is wrong: a bad one must not cost the others anything."""


def make_triples(count: int, *, seed: int) -> tuple[list[SignedTriple], list[bool]]:
    """Return signatures of distinct messages, and which of them are valid."""
    rng = random.Random(seed)
    signers = [LocalSigner(rng.randbytes(32)) for _ in range(KEYS)]
    triples, valid = [], []
    for index in range(count):
        signer, body = signers[index % KEYS], rng.randbytes(BODY_BYTES)
        signature = signer.sign(SignKind.TRANSACTION, CHAIN, body)
        is_good = index % BAD_EVERY != 0
        if not is_good:
            signature = signature[:32] + bytes(31) + b"\x01"
        message = compute_sign_bytes(SignKind.TRANSACTION, CHAIN, body)
        triples.append((signer.public_key, message, signature))
        valid.append(is_good)
    return triples, valid


class Stopwatch:
    """Seconds and processor seconds of this process, round by round."""

    def __init__(self) -> None:
        self.walls: list[float] = []
        self.cpu = 0.0

    @contextmanager
    def time(self) -> Iterator[None]:
        """Add one round."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.walls.append(time.perf_counter() - wall)
        self.cpu += time.process_time() - cpu


def run_library(triples: Sequence[SignedTriple], verdicts: list[bool]) -> None:
    """Nothing but library calls."""
    for key, message, signature in triples:
        verdicts.append(ed_verify(signature, message, key))


async def run_verifier(
    verifier: Verifier, triples: Sequence[SignedTriple], verdicts: list[bool]
) -> None:
    """The same through the verifier, several batches under way."""
    found: dict[int, list[bool]] = {}

    async def check(start: int) -> None:
        batch = triples[start : start + VERIFY_BATCH_SIGNATURES]
        found[start] = await verifier.verify(batch, Priority.BLOCKS)

    async with trio.open_nursery() as nursery:
        for start in range(0, len(triples), VERIFY_BATCH_SIGNATURES):
            nursery.start_soon(check, start)
    for start in sorted(found):
        verdicts += found[start]


class Contest:
    """The library and a verifier with some workers, in turns."""

    def __init__(
        self, workers: int, triples: Sequence[SignedTriple], valid: Sequence[bool]
    ) -> None:
        self.workers = workers
        self.triples = triples
        self.valid = list(valid)
        self.library = Stopwatch()
        self.batched = Stopwatch()

    async def run(self, rounds: int) -> float:
        """Let both check everything so often; return the processor seconds of the workers.

        One more round of the verifier comes before, not counted: it starts the workers.
        """
        before = _get_children_cpu()
        verifier = Verifier(workers=self.workers, metrics=Metrics())
        async with trio.open_nursery() as nursery:
            await nursery.start(verifier.run)
            await self._run_verifier(verifier, Stopwatch())
            for number in range(rounds):
                if number % 2:
                    self._run_library()
                await self._run_verifier(verifier, self.batched)
                if not number % 2:
                    self._run_library()
            nursery.cancel_scope.cancel()
        return _get_children_cpu() - before

    def _run_library(self) -> None:
        verdicts: list[bool] = []
        with self.library.time():
            run_library(self.triples, verdicts)
        assert verdicts == self.valid

    async def _run_verifier(self, verifier: Verifier, stopwatch: Stopwatch) -> None:
        verdicts: list[bool] = []
        with stopwatch.time():
            await run_verifier(verifier, self.triples, verdicts)
        assert verdicts == self.valid, "the verifier's verdicts are not the library's"

    def report(self, workers_cpu: float) -> Row:
        """Return the figures of all rounds."""
        raw, own = self.library.walls, self.batched.walls
        per_us = 1e6 / (len(raw) * len(self.triples))
        library_us, node_us = self.library.cpu * per_us, self.batched.cpu * per_us
        workers_us = workers_cpu * per_us
        ratios = [one / other for one, other in zip(raw, own, strict=True)]
        return {
            "workers": self.workers,
            "ratio": round(compute_median(ratios), 3),
            "ratio_total": round(sum(raw) / sum(own), 3),
            "ratio_cpu": round(
                compute_cpu_ratio(
                    self.workers, library_us=library_us, workers_us=workers_us, node_us=node_us
                ),
                3,
            ),
            "library_per_s": round(len(self.triples) / compute_median(raw)),
            "verifier_per_s": round(len(self.triples) / compute_median(own)),
            "library_cpu_us": round(library_us, 2),
            "workers_cpu_us": round(workers_us, 2),
            "node_cpu_us": round(node_us, 2),
        }


def compute_cpu_ratio(
    workers: int, *, library_us: float, workers_us: float, node_us: float
) -> float:
    """Return what processor times amount to where nothing else wants the cores.

    Whichever is the limit: the workers, the node process that feeds them, or the cores.
    """
    if workers == 0:
        return library_us / node_us
    cores = os.cpu_count() or 1
    limits = (workers_us / workers, node_us, (workers_us + node_us) / cores)
    return library_us / max(limits)


def _get_children_cpu() -> float:
    """Return the processor seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


async def _measure_workers(
    workers: int, triples: Sequence[SignedTriple], valid: Sequence[bool], *, rounds: int
) -> Row:
    idle_cpu = await Contest(workers, triples, valid).run(0)
    contest = Contest(workers, triples, valid)
    workers_cpu = await contest.run(rounds)
    return contest.report(workers_cpu - idle_cpu)


def measure(*, workers: Sequence[int], signatures: int, rounds: int, seed: int) -> Report:
    """Return the throughput of the verifier with each number of workers."""
    triples, valid = make_triples(signatures, seed=seed)
    rows = [
        trio.run(lambda: _measure_workers(count, triples, valid, rounds=rounds))  # noqa: B023
        for count in workers
    ]
    notes = [
        "ratio: verifier / bare library loop, median of alternating rounds; ratio_total: of sums",
        "ratio_cpu: from processor times alone, as on cores of one's own; for a busy machine",
        f"{rounds} rounds of {signatures} signatures, 1 in {BAD_EVERY} bad, each verdict compared",
        "0 workers: in line, as testnets run where four validators share two cores",
        f"{KEYS} keys, each signing often: the verifier has tables for them, the library has not",
    ]
    return Report("verify", rows, notes)
