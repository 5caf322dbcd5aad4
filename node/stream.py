"""The event stream: what became final, as server-sent events that resume after any break.

Events are read from disk by cursor, never from a buffer: a slow client lags and loses nothing, and
holds nothing here. The id of an event is its cursor, `height.n`: n = 0 is the block itself, n >= 1
its n-th transaction. Alarms have no id, since they are about now.
"""

from dataclasses import dataclass
from typing import Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atpar.ledger.blocks import Header, compute_digest
from atpar.ledger.jsonform import to_json
from atpar.ledger.receipts import Receipt
from atpar.ledger.state import View
from atpar.ledger.transactions import decode_transaction
from atpar.ledger.types import (
    AccountId,
    Count,
    Hash,
    Height,
    ParticipantCode,
    TimeMs,
    Uuid,
    participant_of,
)
from atpar.node.api_forms import CodeName, Form, describe_code, get_code_name
from atpar.node.api_http import (
    OVERLOAD_RETRY_MS,
    ApiContext,
    Call,
    cancel_at_end,
    invalid,
    parse_int,
    parse_typed,
)
from atpar.node.api_parties import list_accounts
from atpar.node.limits import STREAM_BLOCK_CACHE
from atpar.node.problems import ApiCode, Problem, describe_retry

TYPES: Final = frozenset({"block", "transaction", "alarm"})
EVENTLY: Final = 50
"""After so many events, other tasks of the node get their turn."""

Cursor = tuple[int, int]
"""(height, n) of the last event that a client has."""


class BlockEvent(Form, frozen=True):
    """Event `block`: a block became final."""

    height: Height
    digest: Hash
    timestamp_ms: TimeMs
    proposer: ParticipantCode
    tx_count: Count
    state_root: Hash


class TransactionEvent(Form, frozen=True):
    """Event `transaction`: a transaction became final, well or not."""

    height: Height
    index: Count
    timestamp_ms: TimeMs
    tx_hash: Hash
    sender: AccountId
    tx_id: Uuid
    code: CodeName
    iso_reason: str | None
    failed_op: Count | None
    accounts: tuple[AccountId, ...]
    """The accounts that it concerns, its sender first."""


class AlarmEvent(Form, frozen=True):
    """Event `alarm`: what needs a person right now; empty once all is well."""

    alarms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One event, rendered once for all streams."""

    cursor: Cursor
    kind: str
    accounts: tuple[str, ...]
    data: bytes
    """As it goes over the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What one client wants to see, within what it may see."""

    kinds: frozenset[str]
    account: str | None
    call: Call

    def admits(self, event: Event) -> bool:
        """Return whether the client gets the event."""
        if event.kind not in self.kinds:
            return False
        if event.kind != "transaction":
            return True
        if self.account is not None and self.account not in event.accounts:
            return False
        return self.call.grant.may_see(participant_of(account) for account in event.accounts)


async def serve_events(call: Call) -> Response:
    """Open an event stream."""
    call.check_query(frozenset({"after", "types", "account"}))
    accept = call.request.headers.get("accept", "*/*").lower()
    if not any(name in accept for name in ("text/event-stream", "text/*", "*/*")):
        raise Problem(
            ApiCode.NOT_ACCEPTABLE, f"Accept: {accept[:100]!r}; offered is text/event-stream"
        )
    after = _get_start(call)
    wanted = _get_filter(call)
    context = call.context
    if context.stream_clients >= context.options.max_stream_clients:
        context.metrics.api_shed.labels("stream_clients").inc()
        raise Problem(
            ApiCode.OVERLOADED,
            f"{context.stream_clients} event streams are open, at most as many are served",
            headers=describe_retry(OVERLOAD_RETRY_MS),
        )
    return EventStream(context, wanted, after)


def _get_filter(call: Call) -> Filter:
    names = call.get_query("types")
    kinds = TYPES if names is None else frozenset(names.split(","))
    if not kinds <= TYPES:
        raise invalid("types", f"expected some of {', '.join(sorted(TYPES))}, got {names!r:.80}")
    account = call.get_query("account")
    if account is not None:
        parse_typed("account", account, AccountId)
        call.grant.require(participant_of(account))
    return Filter(kinds=kinds, account=account, call=call)


def _get_start(call: Call) -> Cursor:
    """Return the cursor to resume after: Last-Event-ID, else `after`, else what is final now."""
    height = call.final.header.height
    for name, value in (
        ("Last-Event-ID", call.request.headers.get("last-event-id")),
        ("after", call.get_query("after")),
    ):
        if not value:
            continue
        parts = value.split(".")
        if len(parts) > 2:
            raise invalid(name, f"expected height.n, got {value[:40]!r}")
        numbers = [parse_int(name, part, low=0, high=2**63 - 1) for part in parts]
        if numbers[0] > height:
            raise invalid(name, f"height {numbers[0]} is above the last final one, {height}")
        return numbers[0], numbers[1] if len(numbers) == 2 else 2**63 - 1
    return height, 2**63 - 1


class EventStream(Response):
    """The response of one client: sends events until either side ends it."""

    def __init__(self, context: ApiContext, wanted: Filter, after: Cursor) -> None:
        self.status_code = 200
        self.background = None
        self._context = context
        self._wanted = wanted
        self._cursor = after
        self._alarms: tuple[str, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream over ASGI, until the client hangs up or the node stops."""
        context = self._context
        context.stream_clients += 1
        context.metrics.stream_clients.set(context.stream_clients)
        try:
            async with cancel_at_end(Request(scope, receive, send), context):
                await self._run(send)
        finally:
            context.stream_clients -= 1
            context.metrics.stream_clients.set(context.stream_clients)
        await send({"type": "http.response.body", "body": b""})

    async def _run(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send(send, b"retry: 1000\n\n")
        height, position = self._cursor
        await self._send_block(send, height, after=position)
        while True:
            final = self._context.reader.get_final().header.height
            while height < final:
                height += 1
                await self._send_block(send, height, after=-1)
            await self._send_alarms(send)
            with trio.move_on_after(self._context.options.stream_keepalive_s) as scope:
                await self._context.gateway.wait_height_above(height)
            if scope.cancelled_caught:
                await _send(send, b": alive\n\n")

    async def _send_block(self, send: Send, height: int, *, after: int) -> None:
        if "transaction" in self._wanted.kinds:
            events = await _get_events(self._context, height)
        else:
            # Whoever only wants to know of blocks does not make the node decode what is in them.
            events = _render_header(self._context, height)
        for count, event in enumerate(events):
            if event.cursor[1] > after and self._wanted.admits(event):
                await _send(send, event.data)
            if count % EVENTLY == EVENTLY - 1:
                await trio.lowlevel.checkpoint()

    async def _send_alarms(self, send: Send) -> None:
        if "alarm" not in self._wanted.kinds:
            return
        alarms = (await self._context.gateway.status()).alarms
        if alarms != self._alarms:
            self._alarms = alarms
            await _send(send, _render("alarm", AlarmEvent(alarms=alarms), None))


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _get_events(context: ApiContext, height: int) -> tuple[Event, ...]:
    """Return the events of a final block; the last few blocks are kept rendered."""
    cache = context.event_cache
    found: tuple[Event, ...] | None = cache.get(height)
    if found is None:
        found = cache[height] = tuple(await _render_block(context, height))
        if len(cache) > STREAM_BLOCK_CACHE:
            cache.pop(min(cache))
    return found


def _render_header(context: ApiContext, height: int) -> tuple[Event, ...]:
    """Return the event of a final block alone; none for the genesis block, which has no body."""
    found: tuple[Event, ...] | None = context.event_cache.get(height)
    if found is not None:
        return found
    header = context.reader.get_header(height) if height else None
    return () if header is None else (_make_block_event(header),)


async def _render_block(context: ApiContext, height: int) -> list[Event]:
    block = context.reader.get_block(height)
    receipts = context.reader.get_receipts(height)
    if block is None or receipts is None:  # the genesis block
        return []
    events = [_make_block_event(block.header)]
    view = context.reader.get_final().view
    for index, (raw, receipt) in enumerate(zip(block.transactions, receipts, strict=True)):
        events.append(_make_transaction_event(block.header, index, raw, receipt, view))
        if index % EVENTLY == EVENTLY - 1:
            await trio.lowlevel.checkpoint()
    return events


def _make_block_event(header: Header) -> Event:
    form = BlockEvent(
        height=header.height,
        digest=compute_digest(header),
        timestamp_ms=header.timestamp_ms,
        proposer=header.proposer,
        tx_count=header.tx_count,
        state_root=header.state_root,
    )
    cursor = (header.height, 0)
    return Event(cursor, "block", (), _render("block", form, cursor))


def _make_transaction_event(
    header: Header, index: int, raw: bytes, receipt: Receipt, view: View
) -> Event:
    tx = decode_transaction(raw)
    accounts = tuple(list_accounts(tx, view))
    form = TransactionEvent(
        height=header.height,
        index=index,
        timestamp_ms=header.timestamp_ms,
        tx_hash=tx.hash,
        sender=tx.body.sender,
        tx_id=tx.body.tx_id,
        code=get_code_name(receipt.code),
        iso_reason=describe_code(receipt.code).iso or None,
        failed_op=receipt.failed_op,
        accounts=accounts,
    )
    cursor = (header.height, index + 1)
    return Event(cursor, "transaction", accounts, _render("transaction", form, cursor))


def _render(kind: str, form: Form, cursor: Cursor | None) -> bytes:
    """Return one event as it goes over the wire. JSON has no raw line breaks, so one line it is."""
    data = msgspec.json.encode(to_json(form))
    identity = b"" if cursor is None else b"id: %d.%d\n" % cursor
    return identity + b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
