"""Running the command line inside a test, with or without a person at a terminal."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner

from atpar.cli.context import State
from atpar.cli.main import cli
from atpar.cli.output import Output

FAST = ("--scrypt-log2-n", "4")


class Terminal(Output):
    """An output with a person in front of it."""

    def is_interactive(self) -> bool:
        return True


@dataclass(frozen=True)
class Run:
    """What one run of the command left behind."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The members of the error object on stdout."""
        return self.json["error"]


def run(
    *args: str | Path,
    environment: dict[str, str] | None = None,
    answers: str | None = None,
    stdin: str | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Run:
    """Run `atpar` with these arguments; `answers` are what a person types at prompts.

    `transport` stands for the network; without it nothing can be reached.
    """
    state = State(
        output=Terminal() if answers is not None else Output(),
        transport=transport or httpx.MockTransport(_refuse),
    )
    clean = dict.fromkeys((name for name in os.environ if name.startswith("ATPAR_")), None)
    result = CliRunner().invoke(
        cli,
        [str(arg) for arg in args],
        env={**clean, "COLUMNS": "100", **(environment or {})},
        input=answers if answers is not None else stdin,
        obj=state,
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nothing listens here")


def answering(routes: dict[str, Any]) -> httpx.MockTransport:
    """Return a network on which every node answers these paths with these JSON values."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path in routes:
            return httpx.Response(200, json=routes[request.url.path])
        return httpx.Response(404, json={"code": "NOT_FOUND", "detail": request.url.path})

    return httpx.MockTransport(handle)
