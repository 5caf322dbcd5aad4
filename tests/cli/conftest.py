"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from tests.cli.fake_node import Desk, Node


@pytest.fixture
def node() -> Node:
    """A node whose assets have no supply yet."""
    return Node()


@pytest.fixture
def desk(tmp_path: Path, node: Node) -> Desk:
    """A folder with everybody's keys."""
    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(folder, node)
