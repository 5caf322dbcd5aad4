"""Transaction routes: submit, wait, look up, simulate.

A timeout is never reported as a failure: whoever waited too long gets 202 with the status so far
and the ids to ask again with. The same bytes can always be sent again.
"""

from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec
import trio
from msgspec.structs import replace

from atpar.ledger.codes import FIRST_RECEIPT_CODE, Code
from atpar.ledger.errors import NonCanonical, Refused
from atpar.ledger.execute import simulate
from atpar.ledger.jsonform import to_json
from atpar.ledger.keys import verify_batch
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.transactions import Transaction, decode_transaction
from atpar.ledger.types import AccountId, participant_of
from atpar.node.api_forms import (
    BatchForm,
    FoundForm,
    ReceiptForm,
    SimulationForm,
    SubmitMany,
    SubmitOne,
    TransactionForm,
    describe_code,
    get_code_name,
)
from atpar.node.api_http import (
    ITEMS_AT_ONCE,
    Answer,
    Call,
    cancel_at_end,
    invalid,
    is_msgpack_body,
    parse_hex,
    parse_typed,
    read_body,
)
from atpar.node.api_parties import list_participants
from atpar.node.api_proofs import make_expiry_proof, make_receipt_proof
from atpar.node.gateway import Placement, TransactionState, TxStatus
from atpar.node.limits import MAX_BATCH_ENVELOPES
from atpar.node.problems import ApiCode, Problem, describe_retry

PENDING: Final = frozenset({TxStatus.ACCEPTED, TxStatus.PROPOSED, TxStatus.UNKNOWN})
"""States from which a transaction may still become final."""

_BINS = msgspec.msgpack.Decoder(list[bytes])
_JSON_SUBMISSION = msgspec.json.Decoder(dict[str, msgspec.Raw])
_JSON_ONE = msgspec.json.Decoder(SubmitOne)
_JSON_MANY = msgspec.json.Decoder(SubmitMany)


# ---- submitting


async def post_transactions(call: Call) -> Answer:
    """Submit one envelope or a batch; with `Prefer: wait=N` wait until all are final."""
    call.check_query(frozenset({"proof"}))
    with_proof = call.get_flag("proof")
    as_msgpack = is_msgpack_body(call.request.headers.get("content-type"))
    wait_s = call.get_wait_s()
    envelopes, is_batch = decode_submission(await read_body(call), as_msgpack=as_msgpack)
    if with_proof and is_batch:
        raise invalid("proof", "goes with one envelope; ask for a batch's proofs one by one")
    states = await _submit(call, envelopes)
    if wait_s > 0:
        states = await _wait(call, states, timeout_s=wait_s)
    for status, count in Counter(state.status for state in states).items():
        call.context.metrics.api_envelopes.labels(status.value).inc(count)
    headers = {"Preference-Applied": f"wait={wait_s:.0f}"} if wait_s > 0 else {}
    if is_batch:
        return await _answer_batch(call, states, headers)
    return _answer_one(call, states[0], headers, with_proof=with_proof)


def decode_submission(body: bytes, *, as_msgpack: bool) -> tuple[list[bytes], bool]:
    """Return the envelopes of a request body, and whether it is a batch.

    MessagePack: an array of `bin`, each an envelope; or the bytes of one envelope as they are.
    JSON: `{"envelope": base64}` or `{"envelopes": [base64, …]}`.

    Raises:
        Problem: MALFORMED_BODY or BATCH_TOO_LARGE. What is inside an envelope is not looked at.
    """
    if as_msgpack:
        envelopes, is_batch = _decode_msgpack(body)
    else:
        envelopes, is_batch = _decode_json(body)
    if not envelopes:
        raise Problem(ApiCode.MALFORMED_BODY, "envelopes: the list is empty, at least 1")
    if len(envelopes) > MAX_BATCH_ENVELOPES:
        raise Problem(
            ApiCode.BATCH_TOO_LARGE,
            f"envelopes: {len(envelopes)} in one request, at most {MAX_BATCH_ENVELOPES}",
        )
    return envelopes, is_batch


def _decode_msgpack(body: bytes) -> tuple[list[bytes], bool]:
    try:
        return _BINS.decode(body), True
    except (msgspec.DecodeError, RecursionError):
        pass
    if not body:
        raise Problem(ApiCode.MALFORMED_BODY, "the body is empty")
    # Not a list of envelopes: then it is one envelope, which the ledger judges as it is.
    return [body], False


def _decode_json(body: bytes) -> tuple[list[bytes], bool]:
    try:
        fields = _JSON_SUBMISSION.decode(body)
        is_batch = "envelopes" in fields
        if is_batch:
            envelopes = _decode_json_batch(fields["envelopes"], fields)
        else:
            envelopes = [_JSON_ONE.decode(body).envelope]
        _refuse_duplicates(body, strings=1 + len(envelopes))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(
            ApiCode.MALFORMED_BODY,
            f'expected {{"envelope": base64}} or {{"envelopes": [base64, …]}}: {error}',
        ) from None
    return envelopes, is_batch


def _refuse_duplicates(body: bytes, *, strings: int) -> None:
    """Refuse a name that is given twice, as files are: two readers could see two envelopes.

    What decoded holds one name and base64, so every further string is one that was passed over.
    Counting quotes costs nothing, whatever is nested in what was passed over.
    """
    if body.count(b'"') != 2 * strings:
        raise msgspec.ValidationError("a name is given twice in one object")


def _decode_json_batch(listed: msgspec.Raw, fields: dict[str, msgspec.Raw]) -> list[bytes]:
    others = sorted(set(fields) - {"envelopes"})
    if others:
        raise msgspec.ValidationError(f"unknown field {others[0][:40]!r} beside envelopes")
    return msgspec.json.decode(listed, type=list[bytes])


async def _submit(call: Call, envelopes: list[bytes]) -> list[TransactionState]:
    """Return one state per envelope; past the submit timeout what can be said without the node."""
    with trio.move_on_after(call.context.options.submit_timeout_s):
        states = await call.gateway.submit(envelopes)
        return [_add_ids(raw, state) for raw, state in zip(envelopes, states, strict=True)]
    return [_state_undecided(raw) for raw in envelopes]


def _add_ids(raw: bytes, state: TransactionState) -> TransactionState:
    """Return the state with the transaction's ids, also where the node did not look at it."""
    if state.retry_after_ms is None or state.tx_id is not None:
        return state
    known = _state_undecided(raw)
    if known.status is TxStatus.REJECTED:
        return state
    body = {"tx_hash": known.tx_hash, "sender": known.sender, "tx_id": known.tx_id}
    return replace(state, valid_until_ms=known.valid_until_ms, **body)


def _state_undecided(raw: bytes) -> TransactionState:
    try:
        tx = decode_transaction(raw)
    except NonCanonical as error:
        code = Code.TOO_LARGE if len(raw) > MAX_TRANSACTION_BYTES else Code.NON_CANONICAL
        return TransactionState(b"", TxStatus.REJECTED, code=code, message=str(error))
    return TransactionState(
        tx_hash=tx.hash,
        status=TxStatus.UNKNOWN,
        sender=tx.body.sender,
        tx_id=tx.body.tx_id,
        valid_until_ms=tx.body.valid_until_ms,
        message="the node is too busy to say yet; ask again, or send the same bytes again",
    )


async def _wait(
    call: Call, states: Sequence[TransactionState], *, timeout_s: float
) -> list[TransactionState]:
    """Return the states after waiting for those that are pending, or at the timeout.

    A client that hangs up, or a node that stops, ends the wait. While it lasts, the request does
    not count as work.
    """
    waiting = [state.tx_hash for state in states if state.status in PENDING]
    if not waiting:
        return list(states)
    later: list[TransactionState] = []
    call.context.in_flight -= 1
    try:
        # The gateway keeps the time; the scope is for one that does not.
        with trio.move_on_after(timeout_s + 1.0):
            async with cancel_at_end(call.request, call.context):
                later = await call.gateway.wait_final(waiting, timeout_s=timeout_s)
    finally:
        call.context.in_flight += 1
    known = {state.tx_hash: state for state in later if state.status is not TxStatus.UNKNOWN}
    return [
        known.get(state.tx_hash, state) if state.status in PENDING else state for state in states
    ]


def _answer_one(
    call: Call, state: TransactionState, headers: dict[str, str], *, with_proof: bool
) -> Answer:
    form = make_form(call, state, with_proof=with_proof)
    if state.status is TxStatus.REJECTED:
        raise _refuse(state, headers)
    pending = state.status in PENDING
    return Answer(form, HTTPStatus.ACCEPTED if pending else HTTPStatus.OK, headers)


def _refuse(state: TransactionState, headers: dict[str, str]) -> Problem:
    meaning = describe_code(state.code)
    ids = {
        "tx_hash": state.tx_hash.hex() or None,
        "sender": state.sender,
        "tx_id": None if state.tx_id is None else state.tx_id.hex(),
    }
    if state.retry_after_ms is not None:
        headers = {**headers, **describe_retry(state.retry_after_ms)}
    return Problem(
        state.code,
        state.message,
        headers=headers,
        extra={**ids, "iso_reason": meaning.iso or None, "advice": meaning.advice},
    )


async def _answer_batch(
    call: Call, states: Sequence[TransactionState], headers: dict[str, str]
) -> Answer:
    results = []
    for position, state in enumerate(states):
        if position % ITEMS_AT_ONCE == ITEMS_AT_ONCE - 1:
            await trio.lowlevel.checkpoint()
        results.append(make_form(call, state))
    form = BatchForm(read_height=call.final.header.height, results=tuple(results))
    retries = [state.retry_after_ms for state in states if state.retry_after_ms is not None]
    if retries:
        headers = {**headers, **describe_retry(max(retries))}
    if len(retries) == len(states):
        # Nothing of it was taken. Otherwise the results say which envelopes to send again.
        refused = to_json(form)["results"]
        raise Problem(
            states[0].code, states[0].message, headers=headers, extra={"results": refused}
        )
    pending = any(state.status in PENDING for state in states)
    return Answer(form, HTTPStatus.ACCEPTED if pending else HTTPStatus.OK, headers)


# ---- looking up


async def get_transaction(call: Call) -> Answer:
    """Return what is known of the transaction with a hash."""
    call.check_query(frozenset({"proof"}))
    tx_hash = parse_hex("hash", call.get_path("hash"), size=32)
    with_proof = call.get_flag("proof")
    (state,) = await call.gateway.lookup([tx_hash])
    return await _answer_lookup(call, state, with_proof=with_proof)


async def find_transactions(call: Call) -> Answer:
    """Return a transaction by its sender and id, or those that name a UETR."""
    call.check_query(frozenset({"sender", "tx_id", "uetr", "valid_until_ms", "proof"}))
    sender, tx_id, uetr = (call.get_query(name) for name in ("sender", "tx_id", "uetr"))
    with_proof = call.get_flag("proof")
    if uetr is not None:
        if sender is not None or tx_id is not None:
            raise invalid("uetr", "goes alone, without sender and tx_id")
        return await _find_by_uetr(call, parse_hex("uetr", uetr, size=16))
    if sender is None or tx_id is None:
        missing = "sender" if sender is None else "tx_id"
        raise invalid(missing, "missing; give sender and tx_id, or uetr")
    sender = parse_typed("sender", sender, AccountId)
    identity = parse_hex("tx_id", tx_id, size=16)
    call.grant.require(participant_of(sender))
    state = await call.gateway.find(sender=sender, tx_id=identity)
    valid_until_ms = call.get_int("valid_until_ms", low=0, high=2**63 - 1)
    if state is None and valid_until_ms is not None:
        return _answer_unused(call, sender, identity, valid_until_ms, with_proof=with_proof)
    if state is None:
        state = TransactionState(b"", TxStatus.UNKNOWN, sender=sender, tx_id=identity)
    return await _answer_lookup(call, state, with_proof=with_proof)


async def _answer_lookup(call: Call, state: TransactionState, *, with_proof: bool) -> Answer:
    _check_seen(call, state)
    wait_s = call.get_wait_s()
    headers = {}
    if wait_s > 0 and state.tx_hash and state.status in PENDING:
        (state,) = await _wait(call, [state], timeout_s=wait_s)
        headers["Preference-Applied"] = f"wait={wait_s:.0f}"
        _check_seen(call, state)
    return Answer(make_form(call, state, with_proof=with_proof), headers=headers)


def _answer_unused(
    call: Call, sender: str, tx_id: bytes, valid_until_ms: int, *, with_proof: bool
) -> Answer:
    """Answer about an id that no transaction used: expired once its window has passed."""
    expired = call.final.header.timestamp_ms > valid_until_ms
    state = TransactionState(
        b"",
        TxStatus.EXPIRED if expired else TxStatus.UNKNOWN,
        sender=sender,
        tx_id=tx_id,
        valid_until_ms=valid_until_ms,
        code=Code.EXPIRED if expired else Code.OK,
        message="never executed, and its window has passed" if expired else "",
    )
    form = make_form(call, state)
    if expired and with_proof:
        proof = make_expiry_proof(call, sender=sender, tx_id=tx_id, valid_until_ms=valid_until_ms)
        form = replace(form, proof=proof)
    return Answer(form)


def _check_seen(call: Call, state: TransactionState) -> None:
    if state.sender is not None and not _may_see(call, state):
        call.grant.require(participant_of(state.sender))


def _may_see(call: Call, state: TransactionState) -> bool:
    """Return whether a state concerns an account that the caller may read."""
    if state.sender is None or call.grant.may_see((participant_of(state.sender),)):
        return True
    if state.placement is None:
        return False
    block = call.reader.get_block(state.placement.height)
    if block is None:
        return False
    tx = decode_transaction(block.transactions[state.placement.index])
    return call.grant.may_see(list_participants(tx, call.final.view))


async def _find_by_uetr(call: Call, uetr: bytes) -> Answer:
    states = [s for s in await call.gateway.find_by_uetr(uetr) if _may_see(call, s)]
    return Answer(
        FoundForm(
            read_height=call.final.header.height,
            transactions=tuple(make_form(call, state) for state in states),
        )
    )


# ---- simulating


async def post_simulate(call: Call) -> Answer:
    """Return what an envelope would do now, naming the rule that decides."""
    as_msgpack = is_msgpack_body(call.request.headers.get("content-type"))
    envelopes, _ = decode_submission(await read_body(call), as_msgpack=as_msgpack)
    if len(envelopes) != 1:
        raise Problem(
            ApiCode.MALFORMED_BODY, f"envelopes: {len(envelopes)}, simulate takes exactly 1"
        )
    (raw,) = envelopes
    try:
        tx = decode_transaction(raw)
    except NonCanonical as error:
        code = Code.TOO_LARGE if len(raw) > MAX_TRANSACTION_BYTES else Code.NON_CANONICAL
        return Answer(_make_simulation(call, None, code, str(error), failed_op=None))
    try:
        _check_signatures(tx)
        final = call.final
        receipt = simulate(
            final.view,
            final.header,
            tx,
            chain_id=final.header.chain_id,
            now_ms=max(call.context.options.clock_ms(), final.header.timestamp_ms + 1),
        )
    except Refused as refusal:
        form = _make_simulation(call, tx, refusal.code, refusal.message, failed_op=None)
        return Answer(form)
    code = Code(receipt.code)
    message = describe_code(code).meaning
    return Answer(_make_simulation(call, tx, code, message, failed_op=receipt.failed_op))


def _check_signatures(tx: Transaction) -> None:
    """Check the signatures themselves.

    Raises:
        Refused: BAD_SIGNATURE, naming the first bad one.
    """
    for position, valid in enumerate(verify_batch(tx.compute_triples())):
        if not valid:
            raise Refused(
                Code.BAD_SIGNATURE,
                f"signatures[{position}] by key {tx.signatures[position].key.hex()}: not valid",
            )


def _make_simulation(
    call: Call, tx: Transaction | None, code: Code, message: str, *, failed_op: int | None
) -> SimulationForm:
    meaning = describe_code(code)
    header = call.final.header
    return SimulationForm(
        read_height=header.height,
        read_timestamp_ms=header.timestamp_ms,
        admitted=code == Code.OK or code >= FIRST_RECEIPT_CODE,
        code=code.name,
        iso_reason=meaning.iso or None,
        failed_op=failed_op,
        message=message,
        meaning=meaning.meaning,
        advice=meaning.advice,
        tx_hash=None if tx is None else tx.hash,
        sender=None if tx is None else tx.body.sender,
        tx_id=None if tx is None else tx.body.tx_id,
    )


# ---- forms


def make_form(call: Call, state: TransactionState, *, with_proof: bool = False) -> TransactionForm:
    """Return the answer form of a transaction's state."""
    header = call.final.header
    place = state.placement
    proof = make_receipt_proof(call, place) if with_proof and place is not None else None
    return TransactionForm(
        read_height=max(header.height, place.height if place is not None else 0),
        read_timestamp_ms=max(header.timestamp_ms, place.timestamp_ms if place is not None else 0),
        status=state.status,
        tx_hash=state.tx_hash or None,
        sender=state.sender,
        tx_id=state.tx_id,
        valid_until_ms=state.valid_until_ms,
        code=get_code_name(state.code),
        message=state.message,
        height=None if place is None else place.height,
        receipt=None if place is None else _make_receipt(place),
        retry_after_ms=state.retry_after_ms,
        proof=proof,
    )


def _make_receipt(place: Placement) -> ReceiptForm:
    receipt = place.receipt
    meaning = describe_code(receipt.code)
    return ReceiptForm(
        height=place.height,
        index=place.index,
        timestamp_ms=place.timestamp_ms,
        code=get_code_name(receipt.code),
        iso_reason=meaning.iso or None,
        failed_op=receipt.failed_op,
        meaning=meaning.meaning,
        advice=meaning.advice,
    )
