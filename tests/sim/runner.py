"""Runs seeds one after the other, and sums up what they showed."""

import hashlib
import multiprocessing
import random
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from tests.sim.checkers import Violation
from tests.sim.profiles import make_plan
from tests.sim.scenario import Scenario


@dataclass
class Outcome:
    """What one seed showed."""

    seed: int
    steps: int = 0
    digest: str = ""
    violation: str | None = None
    stall: str | None = None
    latencies: list[int] = field(default_factory=list)
    recovery_ms: int | None = None
    kinds: tuple[str, ...] = ()
    height: int = 0


def run_seed(
    seed: int, *, profile: str, validators: int, trace: Callable[[str], None] | None = None
) -> Outcome:
    """Run one seed. Everything in it follows from these three values."""
    name = f"{profile}/{validators}/{seed}"
    plan = make_plan(profile, random.Random(f"{name}/plan"), validators)
    scenario = Scenario(plan, validators=validators, seed=name, trace=trace)
    outcome = Outcome(seed, kinds=tuple(sorted(plan.kinds)))
    if trace is not None:
        trace(f"0 plan {plan}")
    try:
        outcome.stall = scenario.run()
    except Violation as violation:
        outcome.violation = str(violation)
    except Exception as error:  # noqa: BLE001
        # Any exception out of the code under test is a finding, and names its place.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rsplit('/', 2)[-2]}/{frame.name}:{frame.lineno}"
        outcome.violation = f"{type(error).__name__} at {place}: {error}"
    cluster = scenario.cluster
    outcome.steps = cluster.timeline.steps
    outcome.digest = cluster.digest.hexdigest()
    outcome.latencies = scenario.checkers.latencies
    outcome.recovery_ms = scenario.recovery_ms
    outcome.height = max(scenario.checkers.chain, default=0)
    return outcome


@dataclass
class Summary:
    """What many seeds showed."""

    seeds: int = 0
    steps: int = 0
    violations: list[dict[str, object]] = field(default_factory=list)
    stalls: list[dict[str, object]] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    recoveries: list[int] = field(default_factory=list)
    heights: int = 0
    digest: str = ""


def run_seeds(
    seeds: Iterable[int],
    *,
    profile: str,
    validators: int,
    jobs: int = 1,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Run seeds, in so many processes; `report` hears of each, in their order."""
    run_one = partial(run_seed, profile=profile, validators=validators)
    if jobs == 1:
        return _sum_up(map(run_one, seeds), report)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return _sum_up(pool.imap(run_one, seeds, chunksize=8), report)


def _sum_up(outcomes: Iterable[Outcome], report: Callable[[Outcome], None]) -> Summary:
    total = Summary()
    digest = hashlib.blake2b(digest_size=16)
    for outcome in outcomes:
        total.seeds += 1
        total.steps += outcome.steps
        total.heights += outcome.height
        total.latencies += outcome.latencies
        digest.update(outcome.digest.encode())
        if outcome.recovery_ms is not None:
            total.recoveries.append(outcome.recovery_ms)
        if outcome.violation is not None:
            total.violations.append({"seed": outcome.seed, "what": outcome.violation})
        if outcome.stall is not None:
            total.stalls.append({"seed": outcome.seed, "what": outcome.stall})
        report(outcome)
    total.digest = digest.hexdigest()
    return total


def compute_percentile(values: list[int], percent: float) -> int | None:
    """Return the nearest-rank percentile, or None without values."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
