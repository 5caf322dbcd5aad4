"""A few seeds of every profile at each run of the suite; the many are `make sim`."""

import json
import random

import pytest

from tests.sim.__main__ import describe, parse_range
from tests.sim.profiles import PROFILES, make_plan
from tests.sim.runner import run_seed, run_seeds
from tests.sim.wan import Setting, measure, measure_heal

SEEDS = range(4)


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_shows_no_violation_and_no_stall(profile: str) -> None:
    found = describe(run_seeds(SEEDS, profile=profile, validators=4))
    assert found["violations"] == []
    assert found["stalls"] == []


def test_leaders_wait_for_payments_in_some_of_these_worlds() -> None:
    plans = [
        make_plan(profile, random.Random(f"{profile}/4/{seed}/plan"), 4)
        for profile in PROFILES
        for seed in SEEDS
    ]
    assert {plan.block_gap_ms for plan in plans} == {0, 250}
    assert len({plan.block_ops for plan in plans if plan.block_gap_ms}) == 2


@pytest.mark.no_cover
@pytest.mark.parametrize("validators", [7, 10])
def test_larger_sets_show_no_violation_and_no_stall(validators: int) -> None:
    found = describe(run_seeds(range(3), profile="all", validators=validators))
    assert (found["violations"], found["stalls"]) == ([], [])


def test_seed_that_runs_twice_leaves_the_same_digest() -> None:
    first, second = (run_seed(3, profile="all", validators=4) for _ in range(2))
    assert (first.digest, first.steps) == (second.digest, second.steps)
    assert run_seed(4, profile="all", validators=4).digest != first.digest


def test_trace_does_not_change_what_happens() -> None:
    lines: list[str] = []
    traced = run_seed(1, profile="byzantine", validators=4, trace=lines.append)
    assert traced.digest == run_seed(1, profile="byzantine", validators=4).digest
    assert any(" -> " in line for line in lines)


def test_summary_is_the_object_that_was_asked_for() -> None:
    found = describe(run_seeds(range(1), profile="honest", validators=4))
    names = ["seeds", "steps", "violations", "stalls", "finality_ms", "digest"]
    assert list(json.loads(json.dumps(found))) == names
    assert parse_range("0-199") == range(200)
    assert parse_range("7") == range(7, 8)


def test_wide_area_payments_are_final_within_a_second() -> None:
    setting = Setting(
        validators=4, rtt_ms=(200, 250), jitter_percent=5, rate_per_s=20, crashed=1, seconds=6
    )
    figures = measure(setting)
    assert figures.unfinal == 0
    assert max(figures.calm) < 1_000
    assert max(figures.steady) < 1_000
    first, everything = measure_heal(setting, cut_ms=6_000)
    assert first < 2_000
    assert everything < 3_000
