"""The picture of the wide-area figures: finality before and after leaders crash."""

from pathlib import Path

import pygal
from pygal.style import Style

from tests.sim.runner import compute_percentile
from tests.sim.wan import Figures, Setting

_STYLE = Style(
    background="white",
    plot_background="white",
    colors=("#9ecae1", "#3182bd", "#fdae6b", "#e6550d", "#a1d99b", "#31a354"),
    opacity="1",
    font_family="sans-serif",
    title_font_size=16,
    label_font_size=12,
    major_label_font_size=12,
    legend_font_size=12,
    value_font_size=9,
)


def draw_finality(path: Path, runs: list[tuple[Setting, Figures]]) -> None:
    """Write an SVG of p50 and p99 in milliseconds, a group of bars for each run.

    The runs differ in validators and crashes only.
    """
    setting = runs[0][0]
    low, high = setting.rtt_ms
    chart = pygal.Bar(
        width=960,
        height=460,
        style=_STYLE,
        title=(
            f"Finality at the submitter: RTT {low}-{high} ms, {setting.jitter_percent:g} % jitter,"
            f" {setting.rate_per_s:g} payments/s"
        ),
        y_title="ms",
        x_labels=[f"n = {each.validators}, {each.crashed} crash" for each, _ in runs],
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        print_values=True,
        js=(),
    )
    chart.uuid = "finality"  # the same figures give the same file
    for name, values in (
        ("before the crash", [each.calm for _, each in runs]),
        ("first 5 s after it", [each.aftermath for _, each in runs]),
        ("later, dead leaders count as inactive", [each.steady for _, each in runs]),
    ):
        for percent in (50, 99):
            chart.add(f"{name}, p{percent}", [compute_percentile(one, percent) for one in values])
    path.write_text(chart.render(disable_xml_declaration=True) + "\n", encoding="utf-8")
