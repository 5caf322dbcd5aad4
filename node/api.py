"""The HTTP API: its table of routes, and what happens to every request on the way to one.

A request is authorised for its route's group, its `Accept` is settled before any work is done, and
its handler's answer is encoded. Everything that goes wrong becomes a problem document. What the
routes do is in `api_transactions.py`, `api_state.py` and `api_chain.py`; the event stream is in
`stream.py`; the server underneath is `http_server.py`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp

from atpar.node import (
    api_chain,
    api_evidence,
    api_holds,
    api_proposals,
    api_state,
    api_transactions,
)
from atpar.node.access import Grant, Group
from atpar.node.api_forms import (
    AccountForm,
    AccountsForm,
    AssetForm,
    AssetsForm,
    BatchForm,
    BlockForm,
    EntriesForm,
    EvidenceForm,
    EvidenceListForm,
    Form,
    FoundForm,
    HealthForm,
    HoldsForm,
    OneFreezeForm,
    OneHoldForm,
    OneProposalForm,
    OneRedemptionForm,
    ParamsForm,
    ParticipantForm,
    ParticipantsForm,
    PeersForm,
    ProposalsForm,
    RecordedEvidenceForm,
    RedemptionsForm,
    SimulationForm,
    StatusForm,
    SubmitMany,
    SubmitOne,
    TransactionForm,
    ValidatorsForm,
)
from atpar.node.api_http import (
    OVERLOAD_RETRY_MS,
    Answer,
    ApiContext,
    ApiOptions,
    Call,
    make_response,
    wants_msgpack,
)
from atpar.node.gateway import Gateway
from atpar.node.http_server import HttpBounds, HttpServer
from atpar.node.metrics import CONTENT_TYPE as METRICS_TYPE
from atpar.node.metrics import Metrics
from atpar.node.problems import CONTENT_TYPE as PROBLEM_TYPE
from atpar.node.problems import ApiCode, Problem, describe_retry
from atpar.node.stream import serve_events

Handler = Callable[[Call], Awaitable[Answer | Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query parameter, for the documentation; handlers parse it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route: where it is, who may call it, what it takes and returns."""

    method: str
    path: str
    group: Group
    summary: str
    handler: Handler
    answers: tuple[type[Form], ...]
    """The forms of its successful answers; empty for answers that are not forms."""
    takes: tuple[type[msgspec.Struct], ...] = ()
    queries: tuple[Query, ...] = ()
    waits: bool = False
    """Whether it heeds `Prefer: wait=N`."""
    media_type: str | None = None
    """Of an answer that is not a form."""
    is_exempt: bool = False
    """Answered even when the API is overloaded."""


PROOF: Final = Query(name="proof", text="1: add the proof that `atpar verify` checks offline.")
HEIGHT: Final = Query(
    name="height",
    text="Answer for this height or not at all: only the last final state is kept.",
)
LIMIT: Final = Query(name="limit", text="Most lines of the page; 1 to 500, 100 by default.")
AFTER: Final = Query(name="after", text="Cursor of the line after which the page starts.")


async def get_metrics(call: Call) -> Response:
    """Return all metrics in the Prometheus text format."""
    return Response(call.context.metrics.render(), media_type=METRICS_TYPE)


async def get_openapi(_call: Call) -> Response:
    """Return the OpenAPI document of this API."""
    # It is made from the table of routes below.
    from atpar.node.openapi import render_openapi

    return Response(render_openapi(), media_type="application/json")


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/v1/transactions",
        group=Group.SUBMIT,
        summary="Submit one envelope or up to 1,000; wait for finality with `Prefer: wait=N`.",
        handler=api_transactions.post_transactions,
        answers=(TransactionForm, BatchForm),
        takes=(SubmitOne, SubmitMany),
        queries=(Query(name="proof", text="1: add the proof once final. With one envelope only."),),
        waits=True,
    ),
    Route(
        method="GET",
        path="/v1/transactions/{hash}",
        group=Group.READ,
        summary="What became of a transaction: its status, receipt and finality proof.",
        handler=api_transactions.get_transaction,
        answers=(TransactionForm,),
        queries=(PROOF,),
        waits=True,
    ),
    Route(
        method="GET",
        path="/v1/transactions",
        group=Group.READ,
        summary="Find a transaction by sender and tx_id, or those that name a UETR.",
        handler=api_transactions.find_transactions,
        answers=(TransactionForm, FoundForm),
        queries=(
            Query(name="sender", text="Sender account; goes with tx_id."),
            Query(name="tx_id", text="The sender's own 16-byte id, in hex or as a UUID."),
            Query(name="uetr", text="A payment reference; goes alone."),
            Query(
                name="valid_until_ms",
                text="End of the window: past it, an unused id is answered `expired`, not "
                "`unknown`, and proof=1 proves it.",
            ),
            PROOF,
        ),
        waits=True,
    ),
    Route(
        method="POST",
        path="/v1/simulate",
        group=Group.SUBMIT,
        summary="Dry run of one envelope: the receipt it would get, and the rule that decides.",
        handler=api_transactions.post_simulate,
        answers=(SimulationForm,),
        takes=(SubmitOne,),
    ),
    Route(
        method="GET",
        path="/v1/accounts/{participant}/{name}",
        group=Group.READ,
        summary="An account: balances, policy, freezes, open holds.",
        handler=api_state.get_account,
        answers=(AccountForm,),
        queries=(HEIGHT, PROOF),
    ),
    Route(
        method="GET",
        path="/v1/accounts/{participant}/{name}/entries",
        group=Group.READ,
        summary="Statement lines of an account, in order.",
        handler=api_state.get_entries,
        answers=(EntriesForm,),
        queries=(Query(name="asset", text="Only this asset."), AFTER, LIMIT),
    ),
    Route(
        method="GET",
        path="/v1/participants",
        group=Group.READ,
        summary="All participants.",
        handler=api_state.list_participants,
        answers=(ParticipantsForm,),
    ),
    Route(
        method="GET",
        path="/v1/participants/{participant}",
        group=Group.READ,
        summary="One participant.",
        handler=api_state.get_participant,
        answers=(ParticipantForm,),
    ),
    Route(
        method="GET",
        path="/v1/participants/{participant}/accounts",
        group=Group.READ,
        summary="The accounts of a participant, by name.",
        handler=api_state.list_accounts,
        answers=(AccountsForm,),
        queries=(AFTER, LIMIT),
    ),
    Route(
        method="GET",
        path="/v1/assets",
        group=Group.READ,
        summary="All assets.",
        handler=api_state.list_assets,
        answers=(AssetsForm,),
    ),
    Route(
        method="GET",
        path="/v1/assets/{code}",
        group=Group.READ,
        summary="An asset: supply against reserve, quotas, open redemptions.",
        handler=api_state.get_asset,
        answers=(AssetForm,),
        queries=(HEIGHT, PROOF),
    ),
    Route(
        method="GET",
        path="/v1/redemptions",
        group=Group.READ,
        summary="Redemptions by asset, status and due time.",
        handler=api_holds.list_redemptions,
        answers=(RedemptionsForm,),
        queries=(
            Query(name="asset", text="Only this asset."),
            Query(name="status", text="pending, burned, returned, overdue or blocked."),
            Query(
                name="due_before_ms",
                text="Only pending ones that are due before; in order of due time. Needs asset.",
            ),
            AFTER,
            LIMIT,
        ),
    ),
    Route(
        method="GET",
        path="/v1/redemptions/{redemption}",
        group=Group.READ,
        summary="One redemption.",
        handler=api_holds.get_redemption,
        answers=(OneRedemptionForm,),
    ),
    Route(
        method="GET",
        path="/v1/holds",
        group=Group.READ,
        summary="Open holds: on a debtor's account, or those that a creditor may capture.",
        handler=api_holds.list_holds,
        answers=(HoldsForm,),
        queries=(
            Query(name="creditor", text="Holds that this account may capture."),
            Query(name="debtor", text="Holds on this account, oldest first. Needs asset."),
            Query(name="asset", text="With debtor: of this asset."),
            Query(name="kind", text="With debtor: payment (the default) or redemption."),
            AFTER,
            LIMIT,
        ),
    ),
    Route(
        method="GET",
        path="/v1/holds/{hold}",
        group=Group.READ,
        summary="One hold of any kind, ended ones included.",
        handler=api_holds.get_hold,
        answers=(OneHoldForm,),
    ),
    Route(
        method="GET",
        path="/v1/proposals",
        group=Group.READ,
        summary="Open proposals, with who has yet to agree.",
        handler=api_proposals.list_proposals,
        answers=(ProposalsForm,),
        queries=(
            Query(name="sender", text="Only those that this account made."),
            Query(name="principal", text="Only those that this account has to agree to."),
            AFTER,
            LIMIT,
        ),
    ),
    Route(
        method="GET",
        path="/v1/proposals/{proposal}",
        group=Group.READ,
        summary="One open proposal.",
        handler=api_proposals.get_proposal,
        answers=(OneProposalForm,),
    ),
    Route(
        method="GET",
        path="/v1/params",
        group=Group.READ,
        summary="The chain's parameters in force, and the changes to come.",
        handler=api_proposals.list_params,
        answers=(ParamsForm,),
    ),
    Route(
        method="GET",
        path="/v1/freezes/{freeze}",
        group=Group.READ,
        summary="One freeze order in force.",
        handler=api_holds.get_freeze,
        answers=(OneFreezeForm,),
    ),
    Route(
        method="GET",
        path="/v1/blocks/{height}",
        group=Group.READ,
        summary="A final block by height, or the `latest`: header, certificate, transactions.",
        handler=api_chain.get_block,
        answers=(BlockForm,),
        queries=(
            Query(name="from", text="Index of the first transaction of the page."),
            LIMIT,
            Query(name="full", text="1: operations and exact envelopes as well."),
            Query(
                name="receipts",
                text="1: all receipts in one piece and no transactions; what a client needs to "
                "know the fate of many payments, and to prove it.",
            ),
        ),
    ),
    Route(
        method="GET",
        path="/v1/validators",
        group=Group.READ,
        queries=(PROOF,),
        summary="The voting set, and the last vote seen of each.",
        handler=api_chain.get_validators,
        answers=(ValidatorsForm,),
    ),
    Route(
        method="GET",
        path="/v1/evidence",
        group=Group.READ,
        summary="Double votes that this node has found.",
        handler=api_evidence.list_evidence,
        answers=(EvidenceListForm,),
    ),
    Route(
        method="GET",
        path="/v1/evidence/recorded",
        group=Group.READ,
        summary="Double votes that are recorded on the ledger, by participant, epoch and view.",
        handler=api_evidence.list_recorded,
        answers=(RecordedEvidenceForm,),
        queries=(Query(name="participant", text="Of one participant."), AFTER, LIMIT),
    ),
    Route(
        method="GET",
        path="/v1/evidence/recorded/{participant}/{epoch}/{view}/{kind}",
        group=Group.READ,
        summary="One record of a double vote, with its evidence and its proof.",
        handler=api_evidence.get_recorded,
        answers=(EvidenceForm,),
        queries=(PROOF,),
    ),
    Route(
        method="GET",
        path="/v1/evidence/{id}",
        group=Group.READ,
        summary="One piece of evidence, as the file that `atpar verify` checks offline.",
        handler=api_evidence.get_evidence,
        answers=(EvidenceForm,),
        queries=(PROOF,),
    ),
    Route(
        method="GET",
        path="/v1/peers",
        group=Group.OPERATE,
        summary="The validator network as this node sees it.",
        handler=api_chain.get_peers,
        answers=(PeersForm,),
    ),
    Route(
        method="GET",
        path="/v1/events",
        group=Group.EVENTS,
        summary="Final blocks and transactions as server-sent events; resume by Last-Event-ID.",
        handler=serve_events,
        answers=(),
        queries=(
            Query(name="after", text="Start after this event id; `0` is the beginning."),
            Query(name="types", text="Comma-separated: block, transaction, alarm."),
            Query(name="account", text="Only transactions that concern this account."),
        ),
        media_type="text/event-stream",
    ),
    Route(
        method="GET",
        path="/v1/status",
        group=Group.READ,
        summary="The node about itself: chain, height, sync, mempool, version.",
        handler=api_chain.get_status,
        answers=(StatusForm,),
    ),
    Route(
        method="GET",
        path="/health/live",
        group=Group.HEALTH,
        summary="200 while the process answers at all.",
        handler=api_chain.get_live,
        answers=(HealthForm,),
        is_exempt=True,
    ),
    Route(
        method="GET",
        path="/health/ready",
        group=Group.HEALTH,
        summary="200 once caught up and taking transactions; otherwise 503 with the reason.",
        handler=api_chain.get_ready,
        answers=(HealthForm,),
        is_exempt=True,
    ),
    Route(
        method="GET",
        path="/metrics",
        group=Group.OPERATE,
        summary="Prometheus metrics.",
        handler=get_metrics,
        answers=(),
        media_type="text/plain",
        is_exempt=True,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        group=Group.HEALTH,
        summary="This document.",
        handler=get_openapi,
        answers=(),
        media_type="application/json",
    ),
)


@dataclass(frozen=True, slots=True)
class Api:
    """The API as an ASGI application, and the way to end its waits and streams."""

    app: ASGIApp
    context: ApiContext

    def stop(self) -> None:
        """End waits (they answer with the status so far) and event streams."""
        self.context.stopping.set()


def make_api(gateway: Gateway, options: ApiOptions, metrics: Metrics) -> Api:
    """Return the API of a node. It holds no resource that needs closing."""
    context = ApiContext(gateway, options, metrics)
    routes = [
        StarletteRoute(
            route.path,
            partial(_serve, context, route),
            methods=[route.method],
            name=f"{route.method} {route.path}",
        )
        for route in ROUTES
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: partial(_serve_unrouted, context, routes)},
    )
    app.router.redirect_slashes = False
    return Api(app, context)


async def serve_api(
    api: Api,
    listen: str,
    *,
    stop: trio.Event,
    bounds: HttpBounds | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API on `host:port` until `stop` is set; starts with the bound addresses.

    After `stop`, requests under way get the grace time of the bounds.

    Raises:
        OSError: the address cannot be bound.
    """
    server = HttpServer(api.app, HttpBounds() if bounds is None else bounds)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(server.run, listen)
        task_status.started(addresses)
        await stop.wait()
        api.stop()
        server.stop()


async def _serve(context: ApiContext, route: Route, request: Request) -> Response:
    """Answer one request; never raises for anything that a request can cause."""
    started = trio.current_time()
    call: Call | None = None
    context.in_flight += 1
    context.metrics.api_in_flight.set(context.in_flight)
    try:
        call = Call(
            request, context, _authorise(context, route, request), _choose_form(route, request)
        )
        _shed(context, route)
        answer = await route.handler(call)
        if isinstance(answer, Answer):
            response = await make_response(answer, as_msgpack=call.answers_msgpack)
        else:
            response = answer
    except Problem as problem:
        response = _render(problem)
    finally:
        context.in_flight -= 1
        context.metrics.api_in_flight.set(context.in_flight)
        if call is not None:
            context.body_bytes -= call.body_bytes
    _count(context, route.path, route.method, response.status_code)
    context.metrics.api_seconds.labels(route.path).observe(trio.current_time() - started)
    return response


def _authorise(context: ApiContext, route: Route, request: Request) -> Grant:
    return context.options.access.authorise(route.group, request.headers.get("authorization"))


def _choose_form(route: Route, request: Request) -> bool:
    """Return whether to answer in MessagePack."""
    return bool(route.answers) and wants_msgpack(request.headers.get("accept"))


def _shed(context: ApiContext, route: Route) -> None:
    limit = context.options.max_in_flight
    if context.in_flight > limit and not route.is_exempt:
        context.metrics.api_shed.labels("in_flight").inc()
        raise Problem(
            ApiCode.OVERLOADED,
            f"{context.in_flight} requests under way, at most {limit}",
            headers=describe_retry(OVERLOAD_RETRY_MS),
        )


async def _serve_unrouted(
    context: ApiContext, routes: Sequence[StarletteRoute], request: Request, error: Exception
) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    methods = {
        method
        for route in routes
        if route.path_regex.match(request.scope["path"])
        for method in route.methods or ()
    }
    if methods:
        allowed = ", ".join(sorted(methods))
        problem = Problem(
            ApiCode.METHOD_NOT_ALLOWED,
            f"{request.method[:20]} {path}: the route takes {allowed}",
            headers={"Allow": allowed},
        )
    else:
        problem = Problem(ApiCode.NOT_FOUND, f"no route {path}; see /openapi.json")
    _count(context, "unmatched", "other", int(problem.status))
    return _render(problem)


def _render(problem: Problem) -> Response:
    headers: Mapping[str, str] = {"Cache-Control": "no-store", **problem.headers}
    return Response(
        problem.render(),
        status_code=int(problem.status),
        headers=dict(headers),
        media_type=PROBLEM_TYPE,
    )


def _count(context: ApiContext, route: str, method: str, status: int) -> None:
    context.metrics.api_requests.labels(route, method, str(status)).inc()
