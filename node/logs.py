"""Structured logs: one JSON object a line, with where the node stands in every line.

Each line has `ts`, `level`, `component`, `event`, and while known `height` and `view`; lines about
a peer have `peer`. Values from outside are cut to a bound and escaped, so that no peer and no
client can forge a line or fill the disk with one.

    log = get_logger("transport")
    log.info("peer connected", peer="BRVO")
"""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TextIO

import msgspec
import structlog

MAX_VALUE_CHARS: Final = 2_000
"""A longer text in a log line is cut, with the number of characters left out."""

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

EventDict = MutableMapping[str, Any]


@dataclass(slots=True)
class Position:
    """Where the node stands. The driver keeps it current; every log line shows it."""

    height: int | None = None
    view: int | None = None
    node: str | None = None


class Logger:
    """Writes log lines of one component. Fields are keyword arguments of plain values."""

    def __init__(self, component: str, bound: Mapping[str, object] | None = None) -> None:
        self._component = component
        self._bound = dict(bound or {})

    def bind(self, **fields: object) -> "Logger":
        """Return a logger that adds these fields to each line."""
        return Logger(self._component, {**self._bound, **fields})

    def debug(self, event: str, **fields: object) -> None:
        """Log what helps to follow the node step by step."""
        self._log("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what an operator wants to know once it happened."""
        self._log("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what is wrong and was dealt with."""
        self._log("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what needs a person."""
        self._log("error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error with the traceback of the exception being handled."""
        self._log("error", event, {**fields, "exc_info": True})

    def _log(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        # Looked up per line: a module-level logger must follow `configure_logging`.
        logger = structlog.get_logger()
        getattr(logger, level)(event, component=self._component, **{**self._bound, **fields})


def get_logger(component: str) -> Logger:
    """Return the logger of a component: `transport`, `driver`, `api`."""
    return Logger(component)


def clean(value: object) -> object:
    """Return a value fit for a log line: bytes as hex, texts cut, containers item by item."""
    if isinstance(value, bytes | bytearray | memoryview):
        return clean(bytes(value[: MAX_VALUE_CHARS // 2 + 1]).hex())
    if isinstance(value, str):
        cut = len(value) - MAX_VALUE_CHARS
        text = value if cut <= 0 else f"{value[:MAX_VALUE_CHARS]}… ({cut} more)"
        return text.encode("utf-8", "backslashreplace").decode()  # file names may not be text
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else clean(hex(value))
    if isinstance(value, Mapping):
        return {str(clean(str(name))): clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    return clean(str(value))


def _render(_logger: object, _method: str, event: EventDict) -> str:
    """Return the line: the common fields first, then the others as they came."""
    first = ("ts", "level", "node", "component", "event", "height", "view", "peer")
    ordered = {name: event[name] for name in first if event.get(name) is not None}
    ordered.update((name, value) for name, value in event.items() if name not in ordered)
    return msgspec.json.encode({k: clean(v) for k, v in ordered.items()}).decode()


def _with_position(position: Position) -> Callable[[object, str, EventDict], EventDict]:
    def add(_logger: object, _method: str, event: EventDict) -> EventDict:
        for name in ("height", "view", "node"):
            value = getattr(position, name)
            if value is not None:
                event.setdefault(name, value)
        return event

    return add


def configure_logging(
    *, level: str = "info", stream: TextIO | None = None, position: Position | None = None
) -> Position:
    """Send log lines of this process to a stream (standard error by default).

    Returns the position whose fields are added to every line: the given one, or a new one.
    """
    where = position if position is not None else Position()
    threshold = LEVELS[level]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            _with_position(where),
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(stream if stream is not None else sys.stderr),
        cache_logger_on_first_use=False,
    )
    return where
