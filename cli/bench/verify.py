"""Signatures a second: the node's verifier beside the bare library, in turns in one run.

The bare loop calls the library's function in this process on the same signatures, in the same
messages; it is the limit of one core. The verifier is the node's own, with its worker processes,
packing and bitmaps, fed as admission feeds it. Rounds of both alternate, so that whatever else the
machine does meets both; the median of the rounds' ratios is the figure.
"""

import random
import time
from collections.abc import Sequence
from typing import Final

import trio
from ed25519_zebra import ed_verify

from atpar.cli.bench.report import Report, compute_median
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


def time_library(triples: Sequence[SignedTriple]) -> float:
    """Return the seconds that nothing but library calls take."""
    began = time.perf_counter()
    for key, message, signature in triples:
        ed_verify(signature, message, key)
    return time.perf_counter() - began


async def _time_verifier(verifier: Verifier, triples: Sequence[SignedTriple]) -> float:
    """Return the seconds that the verifier takes for the same, several batches under way."""
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for start in range(0, len(triples), VERIFY_BATCH_SIGNATURES):
            batch = triples[start : start + VERIFY_BATCH_SIGNATURES]
            nursery.start_soon(verifier.verify, batch, Priority.BLOCKS)
    return time.perf_counter() - began


async def _measure_workers(
    workers: int, triples: Sequence[SignedTriple], valid: Sequence[bool], *, rounds: int
) -> dict[str, float | int | str]:
    verifier = Verifier(workers=workers, metrics=Metrics())
    library: list[float] = []
    batched: list[float] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(verifier.run)
        found: list[bool] = []
        for start in range(0, len(triples), VERIFY_BATCH_SIGNATURES):  # also starts the workers
            batch = triples[start : start + VERIFY_BATCH_SIGNATURES]
            found += await verifier.verify(batch, Priority.BLOCKS)
        assert found == list(valid), "the verifier's verdicts are not the library's"
        for _ in range(rounds):
            library.append(time_library(triples))
            batched.append(await _time_verifier(verifier, triples))
        nursery.cancel_scope.cancel()
    ratios = [raw / own for raw, own in zip(library, batched, strict=True)]
    return {
        "workers": workers,
        "library_per_s": round(len(triples) / compute_median(library)),
        "verifier_per_s": round(len(triples) / compute_median(batched)),
        "ratio": round(compute_median(ratios), 3),
        "ratio_best": round(max(ratios), 3),
        "library_us": round(compute_median(library) / len(triples) * 1e6, 2),
    }


def measure(*, workers: Sequence[int], signatures: int, rounds: int, seed: int) -> Report:
    """Return the throughput of the verifier with each number of workers."""
    triples, valid = make_triples(signatures, seed=seed)
    rows = [
        trio.run(lambda: _measure_workers(count, triples, valid, rounds=rounds))  # noqa: B023
        for count in workers
    ]
    notes = [
        "ratio: verifier / bare library loop, median of rounds that alternate",
        f"{signatures} signatures a round, 1 in {BAD_EVERY} invalid, each verdict compared",
        "0 workers: in line, as testnets run where four validators share two cores",
    ]
    return Report("verify", rows, notes)
