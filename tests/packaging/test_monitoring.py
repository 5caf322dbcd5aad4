"""Alert rules and the dashboard name only metrics and labels that a node really exports."""

import json
import re
from pathlib import Path

import pytest

from atpar.node.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\batpar_[a-z_]+")
SUFFIXES = ("_bucket", "_total", "_sum", "_count")


def list_expressions() -> list[str]:
    rules = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    dashboard = json.loads((DEPLOY / "grafana" / "atpar.json").read_text())
    panels = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    return re.findall(r"^ +expr: (.+)$", rules, re.MULTILINE) + panels


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Metric family -> its labels."""
    found = {}
    for collector in vars(Metrics()).values():
        if hasattr(collector, "_labelnames"):
            found[collector._name] = set(collector._labelnames)
    return found


@pytest.mark.parametrize("expression", list_expressions())
def test_expression_uses_metrics_that_exist(expression: str, exported: dict[str, set[str]]) -> None:
    for name in NAME.findall(expression):
        families = {name, *(name.removesuffix(suffix) for suffix in SUFFIXES)}
        assert families & set(exported), f"{name} is not exported"


@pytest.mark.parametrize("expression", list_expressions())
def test_expression_groups_by_labels_that_exist(
    expression: str, exported: dict[str, set[str]]
) -> None:
    known = {"le", "instance", "job"}
    for name in NAME.findall(expression):
        for suffix in ("", *SUFFIXES):
            known |= exported.get(name.removesuffix(suffix), set())
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= known, group


def test_every_alert_is_explained_to_operators() -> None:
    names = re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus" / "alerts.yml").read_text())
    manual = (DEPLOY.parent / "docs" / "operations.md").read_text()
    missing = [name for name in names if f"`{name}`" not in manual]
    assert not missing
