"""Simple questions to a node on this machine, one at a time, with the standard library alone.

Status is asked several times a second while a network starts; a general client would set up TLS
for each question.
"""

import http.client
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

TIMEOUT_S: Final = 2.0
OK: Final = 200


class NoAnswer(Exception):
    """The node did not answer, or not with HTTP."""


def exchange(
    api: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[int, bytes]:
    """Return status and body of one request: a POST if there is a body.

    Raises:
        NoAnswer: nobody listens, the connection broke, or it took too long.
    """
    connection = http.client.HTTPConnection(urlsplit(api).netloc, timeout=timeout_s)
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{api}{path}: {error}") from error
    finally:
        connection.close()


def ask(api: str, path: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any] | None:
    """Return the JSON object at a path, or None when the node has none to give."""
    try:
        status, body = exchange(api, path, timeout_s=timeout_s)
    except NoAnswer:
        return None
    if status != OK:
        return None
    found: dict[str, Any] = msgspec.json.decode(body)
    return found


def ask_status(api: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any] | None:
    """Return a node's status, or None when it does not answer."""
    return ask(api, "/v1/status", timeout_s=timeout_s)
