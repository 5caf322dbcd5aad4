"""Reading from a node's API: JSON answers as they are, and every failure as an exit code.

What the commands show of the ledger is what the node answered, and every answer names the height
it was read at. What must not rest on a node's word goes through the client, which verifies proofs.
"""

import json
from typing import Any, Final

import httpx

from atpar.cli.context import State
from atpar.cli.errors import (
    CliError,
    ConfigurationProblem,
    NodeUnreachable,
    NotReady,
    WrongUsage,
    refused,
)

CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
PAGE: Final = 500
"""Items that one page of a listing may have."""
MAX_PAGES: Final = 10_000

_BUSY: Final = frozenset({"NOT_READY", "MEMPOOL_FULL", "OVERLOADED"})
_ACCESS: Final = frozenset({"UNAUTHENTICATED", "FORBIDDEN"})
_REQUEST: Final = frozenset(
    {"INVALID_PARAMETER", "MALFORMED_BODY", "BODY_TOO_LARGE", "BATCH_TOO_LARGE", "NOT_FOUND"}
)


def fetch(state: State, path: str, **params: str | int | None) -> dict[str, Any]:
    """Return the JSON object at a path of the API, from the first node that answers.

    Raises:
        CliError: no node answered, or the answer is a refusal.
    """
    query = {name: str(value) for name, value in params.items() if value is not None}
    return _send(state, "GET", path, query=query)


def post(state: State, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON answer to a JSON request that changes nothing (a simulation).

    Raises:
        CliError: no node answered, or the answer is a refusal.
    """
    return _send(state, "POST", path, body=body)


def fetch_all(
    state: State, path: str, member: str, *, limit: int | None = None, **params: str | int | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the first page's other members, and the items of all pages up to `limit`.

    Raises:
        CliError: as `fetch`.
    """
    items: list[dict[str, Any]] = []
    first: dict[str, Any] | None = None
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        left = PAGE if limit is None else min(PAGE, limit - len(items))
        page = fetch(state, path, after=cursor, limit=left, **params)
        items += page.get(member, [])
        if first is None:
            first = {name: value for name, value in page.items() if name not in (member, "next")}
        cursor = page.get("next")
        if cursor is None or (limit is not None and len(items) >= limit):
            break
    else:
        raise WrongUsage(f"more than {MAX_PAGES} pages at {path}", advice="ask for less")
    return first or {}, items if limit is None else items[:limit]


def _send(
    state: State,
    method: str,
    path: str,
    *,
    query: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    failures = []
    headers = {"Accept": "application/json"}
    if token := state.get_token():
        headers["Authorization"] = f"Bearer {token}"
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    with httpx.Client(timeout=timeout, trust_env=False, transport=state.transport) as client:
        for url in state.get_nodes():
            try:
                response = client.request(
                    method,
                    f"{url}{path}",
                    params=query,
                    json=body,
                    headers=headers,
                )
                answer = read_answer(response)
            except httpx.InvalidURL as error:
                raise WrongUsage(
                    f"node {url!r}: {error}", advice="use --node http://H:P"
                ) from error
            except httpx.HTTPError as error:
                failures.append(f"{url}: {error or type(error).__name__}")
                continue
            if answer is None:
                failures.append(f"{url}: HTTP {response.status_code}, not an atpar node's answer")
                continue
            if response.is_success:
                return answer
            raise explain_problem(response.status_code, answer)
    raise NodeUnreachable(
        f"no node answered: {'; '.join(failures)}",
        advice="is it running? `atpar node status`; use --node URL, or --home DIR of a testnet",
    )


def read_answer(response: httpx.Response) -> dict[str, Any] | None:
    """Return the JSON object of an answer, or None if it is none."""
    if len(response.content) > MAX_ANSWER_BYTES:
        return None
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def explain_problem(status: int, problem: dict[str, Any]) -> CliError:
    """Return the error for a problem document (RFC 9457)."""
    code = str(problem.get("code", ""))
    detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
    if code in _BUSY:
        return NotReady(f"{code}: {detail}", advice="try again shortly", code=code)
    if code in _ACCESS:
        return ConfigurationProblem(
            f"{code}: {detail}", advice="ask the node's operator for access", code=code
        )
    if code in _REQUEST:
        return WrongUsage(f"{code}: {detail}", advice="see --help", code=code)
    if status >= 500 or not code:
        return NotReady(f"the node failed: {detail}", advice="look at the node's log")
    return refused(code, detail)
