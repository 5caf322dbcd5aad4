"""The ancestry check: a proposal may pass over a view only if that view is nullified."""

from tests.consensus.solo import Solo


def test_replica_does_not_notarize_over_a_view_without_nullification() -> None:
    solo = Solo()
    first, _ = solo.certify(1)
    block = solo.block(2, height=1)
    skipping = solo.propose(2, block, parent_view=0)
    solo.judge()
    assert skipping not in solo.notarized()
    assert first in solo.notarized()


def test_replica_notarizes_over_a_view_once_it_is_nullified() -> None:
    solo = Solo()
    solo.certify(1)
    block = solo.block(2, height=1)
    skipping = solo.propose(2, block, parent_view=0)
    solo.hear(solo.others[0], solo.nullification(1))
    solo.judge()
    assert skipping in solo.notarized()
