"""The lock files pin every package by version and hash, and name no host."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-test.lock")
PIN = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def read_pins(name: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / name).read_text()))


@pytest.mark.parametrize("name", LOCKS)
def test_lock_pins_every_package_by_hash(name: str) -> None:
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]
    assert blocks
    for block in blocks:
        assert PIN.match(block), block
        assert "--hash=sha256:" in block, block


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_no_host(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index" not in text


def test_both_locks_agree() -> None:
    run, test = (read_pins(name) for name in LOCKS)
    assert run.items() <= test.items()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = (
        project["project"]["dependencies"] + project["dependency-groups"]["build"],
        project["project"]["optional-dependencies"]["test"],
    )
    for names, lock in zip(groups, LOCKS, strict=True):
        pins = read_pins(lock)
        for requirement in names:
            name = re.split(r"[<>=\[; ]", requirement)[0].lower()
            assert name in pins, f"{name} is not in {lock}"


def test_a_lock_holds_whatever_its_packages_need() -> None:
    """The Makefile installs with --no-deps, so a lock with a gap would show as an import error."""
    pins = read_pins("requirements-test.lock")
    installed = [name for name in pins if any(metadata.distributions(name=name))]
    assert len(installed) > len(pins) // 2, "the others are for other systems"
    for name in installed:
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in pins, f"{name} needs {text}"
                assert requirement.specifier.contains(pins[needed]), f"{name} needs {text}"
