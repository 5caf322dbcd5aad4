"""A built wheel holds exactly what the tree holds: an unlisted subpackage would be missing only
from the wheel, never from an editable installation.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("cli", "consensus", "ledger", "node")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that parallel runs share nothing; no network is used."""
    copy = tmp_path_factory.mktemp("tree")
    for layer in LAYERS:
        shutil.copytree(ROOT / layer, copy / layer, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    script = (
        f"from setuptools.build_meta import build_wheel; print('built', build_wheel({str(out)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=copy,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def list_tree() -> set[str]:
    return {
        f"atpar/{path.relative_to(ROOT).as_posix()}"
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }


def test_wheel_holds_every_module_of_the_tree_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert shipped == list_tree()


def test_wheel_installs_the_atpar_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "atpar = atpar.cli.main:main" in archive.read(entry).decode()


def test_every_layer_is_typed() -> None:
    assert {layer for layer in LAYERS if (ROOT / layer / "py.typed").exists()} == set(LAYERS)


def test_type_checkers_see_every_layer_through_its_link() -> None:
    for layer in LAYERS:
        assert (ROOT / ".links" / "atpar" / layer).resolve() == ROOT / layer


def test_every_subpackage_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        "atpar." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for layer in LAYERS
        for path in (ROOT / layer).rglob("__init__.py")
    }
    assert listed == found
