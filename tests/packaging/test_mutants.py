"""Every planted mistake still has its place in the code, so that `make mutants` means something."""

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_can_be_planted(mutant: Mutant) -> None:
    text = (ROOT / mutant.path).read_text()
    assert text.count(mutant.old) == 1, f"its place in {mutant.path} has moved"
    assert mutant.new != mutant.old
    assert mutant.killers
