"""Logs: one JSON object a line, whatever is put into it."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from atpar.node.logs import MAX_VALUE_CHARS, Position, clean, configure_logging, get_logger


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_carries_component_level_position_and_fields() -> None:
    stream = io.StringIO()
    position = configure_logging(stream=stream, position=Position(node="ALFA"))
    position.height, position.view = 21, 34
    get_logger("transport").info("peer connected", peer="BRVO", bytes_seen=b"\x01\xff")
    (line,) = lines(stream)
    assert line.pop("ts")
    assert line == {
        "level": "info",
        "node": "ALFA",
        "component": "transport",
        "event": "peer connected",
        "height": 21,
        "view": 34,
        "peer": "BRVO",
        "bytes_seen": "01ff",
    }


def test_logger_made_before_configuration_follows_it() -> None:
    log = get_logger("early").bind(peer="CHRL")
    stream = io.StringIO()
    configure_logging(stream=stream)
    log.warning("late")
    assert lines(stream)[0]["peer"] == "CHRL"


def test_level_below_the_threshold_is_dropped() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, level="warning")
    get_logger("x").info("quiet")
    get_logger("x").error("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_value_from_outside_can_neither_forge_a_line_nor_grow_without_bound() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    get_logger("x").info("seen", text='a\n{"level":"error"}', long="y" * 10_000)
    (line,) = lines(stream)
    assert line["text"] == 'a\n{"level":"error"}'
    assert str(line["long"]).endswith(f"… ({10_000 - MAX_VALUE_CHARS} more)")


def test_exception_is_logged_with_its_traceback_in_one_line() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    try:
        int("broken")
    except ValueError as error:
        get_logger("x").error("failed", exc_info=error)
    (line,) = lines(stream)
    assert "ValueError: invalid literal" in str(line["exception"])


@given(
    st.text(st.characters(), max_size=50)
    | st.binary(max_size=50)
    | st.lists(st.text(max_size=5))
    | st.floats()
    | st.integers()
)
@example("\udcff")
@example(2**64)
def test_any_value_makes_exactly_one_readable_line(value: object) -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    get_logger("x").info("seen", value=value)
    assert stream.getvalue().count("\n") == 1
    json.loads(stream.getvalue())


def test_clean_cuts_exactly_past_the_bound() -> None:
    assert clean("z" * MAX_VALUE_CHARS) == "z" * MAX_VALUE_CHARS
    assert clean("z" * (MAX_VALUE_CHARS + 1)) == "z" * MAX_VALUE_CHARS + "… (1 more)"
