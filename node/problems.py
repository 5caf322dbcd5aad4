"""Problem documents (RFC 9457): how every refusal of the API looks, and with which HTTP status.

`code` is the stable part that programs match on. It is the name of a ledger code where the ledger
refused, and one of `ApiCode` where the request itself was at fault.
"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import msgspec

from atpar.ledger.codes import Code

CONTENT_TYPE: Final = "application/problem+json"


class ApiCode(StrEnum):
    """Codes of the API itself. Names are stable interfaces, disjoint from the ledger's."""

    MALFORMED_HTTP = "MALFORMED_HTTP"
    MALFORMED_BODY = "MALFORMED_BODY"
    """The body is not the JSON or MessagePack document that the route takes."""
    INVALID_PARAMETER = "INVALID_PARAMETER"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    """No such route."""
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NOT_ACCEPTABLE = "NOT_ACCEPTABLE"
    BODY_TIMEOUT = "BODY_TIMEOUT"
    UNKNOWN_BLOCK = "UNKNOWN_BLOCK"
    UNKNOWN_REDEMPTION = "UNKNOWN_REDEMPTION"
    HEIGHT_NOT_RETAINED = "HEIGHT_NOT_RETAINED"
    """The state at that height is not kept: only the last final one is."""
    HEIGHT_UNKNOWN = "HEIGHT_UNKNOWN"
    """No final block has that height yet."""
    NOT_PROVABLE = "NOT_PROVABLE"
    """There is no proof of this yet, or none that this caller may see."""
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    BATCH_TOO_LARGE = "BATCH_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    OVERLOADED = "OVERLOADED"
    """The API protects the node: come back after `Retry-After`."""
    INTERNAL_ERROR = "INTERNAL_ERROR"


API_STATUS: Final[Mapping[ApiCode, HTTPStatus]] = {
    ApiCode.MALFORMED_HTTP: HTTPStatus.BAD_REQUEST,
    ApiCode.MALFORMED_BODY: HTTPStatus.BAD_REQUEST,
    ApiCode.INVALID_PARAMETER: HTTPStatus.BAD_REQUEST,
    ApiCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ApiCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ApiCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ApiCode.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    ApiCode.NOT_ACCEPTABLE: HTTPStatus.NOT_ACCEPTABLE,
    ApiCode.BODY_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    ApiCode.UNKNOWN_BLOCK: HTTPStatus.NOT_FOUND,
    ApiCode.UNKNOWN_REDEMPTION: HTTPStatus.NOT_FOUND,
    ApiCode.HEIGHT_NOT_RETAINED: HTTPStatus.GONE,
    ApiCode.HEIGHT_UNKNOWN: HTTPStatus.NOT_FOUND,
    ApiCode.NOT_PROVABLE: HTTPStatus.CONFLICT,
    ApiCode.BODY_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ApiCode.BATCH_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ApiCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ApiCode.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
    ApiCode.INTERNAL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
}

LEDGER_STATUS: Final[Mapping[Code, HTTPStatus]] = {
    Code.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.NON_CANONICAL: HTTPStatus.BAD_REQUEST,
    Code.UNSUPPORTED_VERSION: HTTPStatus.BAD_REQUEST,
    Code.ID_REUSED: HTTPStatus.CONFLICT,
    Code.BAD_SIGNATURE: HTTPStatus.FORBIDDEN,
    Code.UNINVOLVED_SIGNATURE: HTTPStatus.FORBIDDEN,
    Code.UNAUTHORISED: HTTPStatus.FORBIDDEN,
    Code.MEMPOOL_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    Code.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The ledger's refusals that have a better status than 422."""


class Problem(Exception):
    """A request is refused. Becomes a problem document at the edge of the API."""

    def __init__(
        self,
        code: ApiCode | Code,
        detail: str,
        *,
        status: HTTPStatus | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code.name
        self.status = status if status is not None else get_status(code)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def render(self) -> bytes:
        """Return the document as JSON bytes."""
        document = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "code": self.code,
            "detail": self.detail,
        }
        return msgspec.json.encode({**document, **self.extra})


def get_status(code: ApiCode | Code) -> HTTPStatus:
    """Return the HTTP status of a refusal."""
    if isinstance(code, ApiCode):
        return API_STATUS[code]
    return LEDGER_STATUS.get(code, HTTPStatus.UNPROCESSABLE_ENTITY)


def describe_retry(retry_after_ms: int) -> dict[str, str]:
    """Return the `Retry-After` header for a delay, in whole seconds, at least one."""
    return {"Retry-After": str(max(1, -(-retry_after_ms // 1_000)))}


def get_not_found(code: Code, detail: str) -> Problem:
    """Return the problem of a query for something that the final state does not hold."""
    return Problem(code, detail, status=HTTPStatus.NOT_FOUND)
