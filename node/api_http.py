"""What all routes share: one request as a `Call`, forms in and out, bodies within bounds.

Answers are Structs with hashes as bytes and amounts as integers. Asked for JSON they become hex
and decimal strings (`ledger/jsonform.py`); asked for MessagePack they keep `bin` and integers.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, partial
from http import HTTPStatus
from typing import Any, Final, get_args, get_type_hints

import msgspec
import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from atpar.ledger.codec import Wire
from atpar.ledger.jsonform import describe_mismatch, get_name_field, operation_name, to_json
from atpar.ledger.proofs import ProofFile, render_proof
from atpar.node.access import OPEN_TO_ALL, AccessRules, Grant
from atpar.node.gateway import FinalState, Gateway, Reader
from atpar.node.limits import (
    API_BODY_TIMEOUT_S,
    API_SUBMIT_TIMEOUT_S,
    DEFAULT_PAGE_ENTRIES,
    MAX_API_BODY_BYTES_IN_FLIGHT,
    MAX_API_IN_FLIGHT,
    MAX_PAGE_ENTRIES,
    MAX_REQUEST_BYTES,
    MAX_STREAM_CLIENTS,
    STREAM_KEEPALIVE_S,
)
from atpar.node.metrics import Metrics
from atpar.node.problems import ApiCode, Problem, describe_retry

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
_MSGPACK_NAMES: Final = (MSGPACK, "application/x-msgpack", "application/vnd.msgpack")
OVERLOAD_RETRY_MS: Final = 1_000
ITEMS_AT_ONCE: Final = 20
"""Items of a list (more than 15, fewer than 2**16) that are encoded before other tasks run."""
_ENCODERS: Final = {True: msgspec.msgpack.encode, False: msgspec.json.encode}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """How one API behaves; tests shrink the bounds."""

    clock_ms: Callable[[], int]
    """The node's clock, for rules that depend on the time of asking."""
    access: AccessRules = OPEN_TO_ALL
    max_wait_s: float = 30.0
    """Longest `Prefer: wait`; a longer wish is cut to it."""
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_body_bytes_in_flight: int = MAX_API_BODY_BYTES_IN_FLIGHT
    max_in_flight: int = MAX_API_IN_FLIGHT
    max_stream_clients: int = MAX_STREAM_CLIENTS
    body_timeout_s: float = API_BODY_TIMEOUT_S
    submit_timeout_s: float = API_SUBMIT_TIMEOUT_S
    stream_keepalive_s: float = STREAM_KEEPALIVE_S


@dataclass(slots=True)
class ApiContext:
    """What all requests of one API share."""

    gateway: Gateway
    options: ApiOptions
    metrics: Metrics
    in_flight: int = 0
    """Requests being worked on; those that merely wait for finality do not count."""
    body_bytes: int = 0
    """Bytes of request bodies held now."""
    stream_clients: int = 0
    stopping: trio.Event = field(default_factory=trio.Event)
    """Set once the API shall come to an end: waits and streams finish."""
    event_cache: dict[int, Any] = field(default_factory=dict)
    """Rendered events of the last few blocks, by height; owned by `stream.py`."""
    tree_cache: dict[int, Any] = field(default_factory=dict)
    """Merkle trees of the last few blocks that proofs were asked of; owned by `api_proofs.py`."""

    @property
    def reader(self) -> Reader:
        """What is final."""
        return self.gateway.reader


@dataclass(slots=True)
class Call:
    """One request on its way through a handler."""

    request: Request
    context: ApiContext
    grant: Grant
    answers_msgpack: bool
    body_bytes: int = 0
    """What this request holds of the context's `body_bytes`."""
    _final: FinalState | None = field(default=None)

    @property
    def gateway(self) -> Gateway:
        """The node."""
        return self.context.gateway

    @property
    def reader(self) -> Reader:
        """What is final."""
        return self.context.gateway.reader

    @property
    def final(self) -> FinalState:
        """The final state that this whole request reads, fixed at first use."""
        if self._final is None:
            self._final = self.reader.get_final()
        return self._final

    def get_path(self, name: str) -> str:
        """Return a part of the path."""
        value: str = self.request.path_params[name]
        return value

    def get_query(self, name: str) -> str | None:
        """Return a query parameter given at most once.

        Raises:
            Problem: it is there twice.
        """
        values = self.request.query_params.getlist(name)
        if len(values) > 1:
            raise invalid(name, f"given {len(values)} times, at most once")
        return values[0] if values else None

    def check_query(self, known: frozenset[str]) -> None:
        """Refuse query parameters that the route does not have.

        Raises:
            Problem: names the first unknown one.
        """
        for name in self.request.query_params:
            if name not in known:
                choices = ", ".join(sorted(known)) or "none"
                raise invalid(name[:64], f"not a parameter of this route; it takes {choices}")

    def get_flag(self, name: str) -> bool:
        """Return a query flag: `1` or `true`, `0` or `false`, absent is false."""
        value = self.get_query(name)
        if value in (None, "0", "false"):
            return False
        if value in ("1", "true"):
            return True
        raise invalid(name, f"expected 1 or 0, got {value!r:.40}")

    def get_int(self, name: str, *, low: int, high: int) -> int | None:
        """Return a query parameter as a whole number within a range, or None."""
        value = self.get_query(name)
        return None if value is None else parse_int(name, value, low=low, high=high)

    def get_limit(self) -> int:
        """Return the page size asked for, or the default."""
        limit = self.get_int("limit", low=1, high=MAX_PAGE_ENTRIES)
        return DEFAULT_PAGE_ENTRIES if limit is None else limit

    def get_wait_s(self) -> float:
        """Return how long the caller would wait for finality, from `Prefer: wait=N`; else 0."""
        for value in self.request.headers.getlist("prefer"):
            for preference in value.split(","):
                found = re.fullmatch(r"\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(;.*)?", preference)
                if found is not None:
                    return min(float(found[1]), self.context.options.max_wait_s)
        return 0.0  # as RFC 7240 has it, a preference that is not understood is ignored


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler returns: a Struct to be projected, and the status and headers with it."""

    value: msgspec.Struct
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


# ---- parameters


def invalid(name: str, message: str) -> Problem:
    """Return the problem of a parameter that is not what it should be."""
    return Problem(ApiCode.INVALID_PARAMETER, f"{name}: {message}", extra={"field": name})


def parse_int(name: str, value: str, *, low: int, high: int) -> int:
    """Return a whole number in decimal digits within a range.

    Raises:
        Problem: INVALID_PARAMETER.
    """
    if re.fullmatch(r"[0-9]{1,19}", value, re.ASCII) is None:
        raise invalid(name, f"expected a whole number, got {value!r:.40}")
    number = int(value)
    if not low <= number <= high:
        raise invalid(name, f"{number} is not within {low} to {high}")
    return number


def parse_hex(name: str, value: str, *, size: int) -> bytes:
    """Return bytes given in hex; for 16 bytes also in the form of a UUID with dashes.

    Raises:
        Problem: INVALID_PARAMETER.
    """
    plain = value
    if size == 16 and re.fullmatch(r"[^-]{8}-[^-]{4}-[^-]{4}-[^-]{4}-[^-]{12}", value):
        plain = value.replace("-", "")
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})*", plain, re.ASCII) is None or len(plain) != size * 2:
        raise invalid(name, f"expected {size} bytes in hex, got {value!r:.80}")
    return bytes.fromhex(plain)


def parse_typed(name: str, value: str, kind: Any) -> str:
    """Return a text that fits an annotated type of `ledger/types.py`.

    Raises:
        Problem: INVALID_PARAMETER.
    """
    try:
        text: str = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(name, f"{describe_mismatch(error, kind)}, got {value!r:.80}") from None
    return text


# ---- forms


def wants_msgpack(accept: str | None) -> bool:
    """Return whether the answer shall be MessagePack, by the `Accept` header.

    Raises:
        Problem: NOT_ACCEPTABLE when neither form is acceptable.
    """
    if accept is None or not accept.strip():
        return False
    ranges = [_parse_range(part) for part in accept.lower().split(",")]
    as_json, as_msgpack = _rate(ranges, (JSON,)), _rate(ranges, _MSGPACK_NAMES)
    if as_json[0] <= 0 and as_msgpack[0] <= 0:
        raise Problem(
            ApiCode.NOT_ACCEPTABLE, f"Accept: {accept[:200]!r}; offered are {JSON} and {MSGPACK}"
        )
    return as_msgpack > as_json


def _rate(ranges: list[tuple[str, float]], names: tuple[str, ...]) -> tuple[float, int]:
    """Return (quality, specificity) of the most specific range that covers one of the names."""
    specificity = {"*/*": 1, "application/*": 2, **dict.fromkeys(names, 3)}
    rated = [(specificity[name], quality) for name, quality in ranges if name in specificity]
    best = max(rated, default=(0, 0.0))
    return best[1], best[0]


def _parse_range(part: str) -> tuple[str, float]:
    name, *parameters = (item.strip() for item in part.split(";"))
    return name, _parse_quality(parameters)


def _parse_quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            matched = re.fullmatch(r"q=([01](?:\.[0-9]{0,3})?)", parameter, re.ASCII)
            return float(matched[1]) if matched is not None else 0.0
    return 1.0


def is_msgpack_body(content_type: str | None) -> bool:
    """Return whether a request body is MessagePack (else JSON), by its `Content-Type`.

    Raises:
        Problem: UNSUPPORTED_MEDIA_TYPE.
    """
    name, _, parameters = (content_type or "").partition(";")
    name = name.strip().lower()
    if name in _MSGPACK_NAMES:
        return True
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters.lower())
    if name == JSON and (charset is None or charset[1] in ("utf-8", "us-ascii")):
        return False
    raise Problem(
        ApiCode.UNSUPPORTED_MEDIA_TYPE,
        f"Content-Type: {(content_type or 'none')[:100]}; expected {JSON} or {MSGPACK}",
        headers={"Accept-Post": f"{JSON}, {MSGPACK}"},
    )


def to_plain(value: Any) -> Any:
    """Return the MessagePack form of an answer: named fields, `bin` and integers.

    A proof is one `bin`: the JSON document that `atpar verify` reads.
    """
    if isinstance(value, ProofFile):
        return render_proof(value)
    if isinstance(value, msgspec.Struct):
        fields = {name: to_plain(getattr(value, name)) for name in value.__struct_fields__}
        name_field = get_name_field(type(value))
        return fields if name_field is None else {name_field: operation_name(type(value)), **fields}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


async def encode_answer(value: msgspec.Struct, *, as_msgpack: bool) -> bytes:
    """Return the bytes of an answer in the form asked for.

    Long lists are encoded a few items at a time, so that other tasks of the node get their turn.
    """
    names, hints = value.__struct_fields__, _hints(type(value))
    parts = [bytes((0x80 | len(names),)) if len(names) < 16 else b"\xde\0" + bytes((len(names),))]
    for name in names:
        field_value = getattr(value, name)
        parts.append(_ENCODERS[as_msgpack](name))
        if isinstance(field_value, tuple) and len(field_value) > ITEMS_AT_ONCE:
            items = await _encode_items(field_value, as_msgpack=as_msgpack)
            parts.append(_join(items, as_msgpack=as_msgpack))
        elif as_msgpack:
            parts.append(msgspec.msgpack.encode(to_plain(field_value)))
        else:
            parts.append(msgspec.json.encode(to_json(field_value, hints[name])))
    if as_msgpack:
        return b"".join(parts)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return b"{" + b",".join(b"%b:%b" % pair for pair in pairs) + b"}"


async def _encode_items(items: tuple[Any, ...], *, as_msgpack: bool) -> list[bytes]:
    encoded = []
    for position, item in enumerate(items):
        if position % ITEMS_AT_ONCE == ITEMS_AT_ONCE - 1:
            await trio.lowlevel.checkpoint()
        if not as_msgpack:
            encoded.append(msgspec.json.encode(to_json(item)))
        elif _is_native(item):
            encoded.append(msgspec.msgpack.encode(item))  # the same bytes, several times faster
        else:
            encoded.append(msgspec.msgpack.encode(to_plain(item)))
    return encoded


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is_native(item: Any) -> bool:
    """Return whether msgspec writes an item as `to_plain` would have it."""
    kind: type = type(item)
    wire_fields = () if not isinstance(item, msgspec.Struct) else _list_wire_fields(kind)
    return not isinstance(item, Wire) and all(getattr(item, name) is None for name in wire_fields)


@cache
def _list_wire_fields(kind: type) -> tuple[str, ...]:
    """Return the fields of an answer that may hold wire values, which msgspec writes as arrays."""
    return tuple(name for name, hint in _hints(kind).items() if _mentions_wire(hint))


def _mentions_wire(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return issubclass(hint, Wire) or any(map(_mentions_wire, _hints(hint).values()))
    return any(map(_mentions_wire, get_args(hint)))


def _join(items: list[bytes], *, as_msgpack: bool) -> bytes:
    if as_msgpack:
        return b"\xdc" + len(items).to_bytes(2, "big") + b"".join(items)
    return b"[" + b",".join(items) + b"]"


async def make_response(answer: Answer, *, as_msgpack: bool) -> Response:
    """Return the HTTP response of an answer."""
    return Response(
        await encode_answer(answer.value, as_msgpack=as_msgpack),
        status_code=int(answer.status),
        headers={"Cache-Control": "no-store", "Vary": "Accept", **answer.headers},
        media_type=MSGPACK if as_msgpack else JSON,
    )


# ---- bodies


async def read_body(call: Call) -> bytes:
    """Return the request body, never holding more than the bound.

    Raises:
        Problem: too long, too slow, compressed, or all bodies together are too much right now.
    """
    options, request = call.context.options, call.request
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem(
            ApiCode.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding: {encoding[:40]}; bodies are taken uncompressed",
            headers={"Accept-Encoding": "identity"},
        )
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and (len(announced) > 15 or int(announced) > options.max_request_bytes):
        raise _too_large(announced[:20], options.max_request_bytes)
    body = bytearray()
    try:
        with trio.fail_after(options.body_timeout_s):
            async with aclosing(request.stream()) as stream:
                async for chunk in stream:
                    size = len(body) + len(chunk)
                    if size > options.max_request_bytes:
                        raise _too_large(f"{size} and more", options.max_request_bytes)
                    _charge(call, len(chunk))
                    body += chunk
    except trio.TooSlowError:
        raise Problem(
            ApiCode.BODY_TIMEOUT, f"the body did not come within {options.body_timeout_s:.0f} s"
        ) from None
    except ClientDisconnect:
        raise Problem(ApiCode.MALFORMED_BODY, "the body ended before its end") from None
    return bytes(body)


def _charge(call: Call, size: int) -> None:
    """Count body bytes against all requests; whoever made the call gives them back at its end."""
    context, limit = call.context, call.context.options.max_body_bytes_in_flight
    if context.body_bytes + size > limit:
        context.metrics.api_shed.labels("body_bytes").inc()
        raise Problem(
            ApiCode.OVERLOADED,
            f"request bodies under way exceed {limit} bytes in all",
            headers=describe_retry(OVERLOAD_RETRY_MS),
        )
    context.body_bytes += size
    call.body_bytes += size


def _too_large(size: str, limit: int) -> Problem:
    return Problem(ApiCode.BODY_TOO_LARGE, f"the body has {size} bytes, at most {limit} are taken")


@asynccontextmanager
async def cancel_at_end(request: Request, context: ApiContext) -> AsyncIterator[None]:
    """Cancel the block once the client has hung up or the node stops; what follows still runs.

    Only after the request's body has been read.
    """

    async def watch(wait: Callable[[], Awaitable[object]]) -> None:
        await wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, partial(wait_disconnect, request))
        nursery.start_soon(watch, context.stopping.wait)
        yield
        nursery.cancel_scope.cancel()


async def wait_disconnect(request: Request) -> None:
    """Return once the client has hung up. Only after the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
