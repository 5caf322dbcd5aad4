"""What `testnet up` shows while it runs: one row per validator, redrawn on a terminal."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from atpar.cli.output import Output, clean
from atpar.cli.testnet.ask import ask
from atpar.cli.testnet.network import NodeView, look
from atpar.cli.testnet.record import TestnetRecord
from atpar.cli.testnet.scrape import Window, fetch_pages, read_counts
from atpar.ledger.certificates import compute_quorum

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERVAL_S: Final = 1.0
PLAIN_INTERVAL_S: Final = 10.0
SCRAPE_TIMEOUT_S: Final = 1.0
MARKS: Final = {"ready": "●", "catching_up": "◐", "starting": "○", "stopping": "○"}


def get_mark(view: NodeView) -> str:
    """Return one character for a validator's state."""
    return MARKS.get(view.state, "✗")


def list_rows(views: Sequence[NodeView], validators: dict[str, Any] | None) -> list[list[object]]:
    """Return the rows of the table: name, bank, state, height, view, lag, missed votes, API."""
    missed = {
        each["participant"]: each["missed_votes"]
        for each in (validators or {}).get("validators", [])
    }
    top = max((view.height or 0 for view in views), default=0)
    return [
        [
            each.validator.name,
            each.validator.participant,
            f"{get_mark(each)} {each.state}",
            each.height,
            None if each.status is None else each.status["view"],
            None if each.height is None else top - each.height,
            missed.get(each.validator.participant),
            each.validator.api,
        ]
        for each in views
    ]


def explain_standstill(views: Sequence[NodeView]) -> str | None:
    """Return why no block can become final, or None when nothing stands in the way."""
    quorum = compute_quorum(len(views))
    running = sum(view.is_running for view in views)
    if running >= quorum:
        return None
    return (
        f"no quorum: {running} of {len(views)} validators run, {quorum} are needed;"
        " no block becomes final until more are restarted"
    )


HEADINGS: Final = ("", "bank", "state", "height", "view", "lag", "missed", "API")
RIGHT: Final = ("height", "view", "lag", "missed")


def watch(record: TestnetRecord, output: Output) -> None:
    """Show the network until the person interrupts."""
    if output.is_interactive():
        _watch_live(record)
    else:
        _watch_plain(record, output)


def ask_validators(views: Sequence[NodeView]) -> dict[str, Any] | None:
    """Return the validator list of the first node that is ready: missed votes as it counts them."""
    for view in views:
        if view.state == "ready":
            return ask(view.validator.api, "/v1/validators")
    return None


def _watch_plain(record: TestnetRecord, output: Output) -> None:
    while True:
        views = look(record)
        states = "  ".join(f"{view.validator.name} {get_mark(view)}" for view in views)
        top = max((view.height or 0 for view in views), default=0)
        output.note(f"#{top}  {states}")
        time.sleep(PLAIN_INTERVAL_S)


def _watch_live(record: TestnetRecord) -> None:
    from rich.console import Console
    from rich.live import Live

    window = Window()
    with Live(console=Console(stderr=True), refresh_per_second=4, transient=False) as live:
        while True:
            views = look(record)
            apis = [view.validator.api for view in views if view.status is not None]
            pages = fetch_pages(apis, timeout_s=SCRAPE_TIMEOUT_S)
            window.note(read_counts(pages, at_s=time.monotonic()))
            live.update(_draw(views, ask_validators(views), window))
            time.sleep(INTERVAL_S)


def _describe(views: Sequence[NodeView], window: Window) -> str:
    """Return the line under the table: finality and throughput of the last minute."""
    p50, p99 = (window.compute_quantile_ms(share) for share in (0.5, 0.99))
    finality = (
        "no payment yet" if p50 is None or p99 is None else f"p50 ≤ {p50:.0f}  p99 ≤ {p99:.0f} ms"
    )
    pending = max(
        (view.status["mempool_transactions"] for view in views if view.status is not None),
        default=0,
    )
    rate = window.compute_rate()
    return f" finality, last minute: {finality}    {rate:.1f} tx/s    {pending} pending"


def _draw(
    views: Sequence[NodeView], validators: dict[str, Any] | None, window: Window
) -> "RenderableType":
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in RIGHT else "left")
    styles = {"ready": "green", "stopped": "red", "silent": "red", "halted": "red"}
    for view, row in zip(views, list_rows(views, validators), strict=True):
        cells = ["-" if cell is None else clean(str(cell)) for cell in row]
        state = Text(cells[2], style=styles.get(view.state, "yellow"))
        table.add_row(cells[0], cells[1], state, *cells[3:])
    return Group(table, Text(_describe(views, window)), Text(" Ctrl-C stops it", style="dim"))
