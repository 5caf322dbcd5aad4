"""What a client does, without doing it: generators that ask for requests and pauses.

`client.py` drives them over httpx, with threads or without; tests drive them by hand. The rules:

- The same bytes may be sent any number of times, to any node: that is the only kind of retry.
- A receipt counts only with a finality proof that verifies under the genesis document. A node that
  claims finality without one is treated like a node that does not answer.
- A refusal counts unless some node may hold the bytes already; then only a refusal that every node
  gives at any time does.
- Everything else is `OutcomeUnknown`, with what finds the transaction again.
"""

import base64
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from atpar.cli.client_errors import (
    Busy,
    ClientError,
    OutcomeUnknown,
    Refused,
    RequestInvalid,
    Unreachable,
)
from atpar.cli.client_forms import read_form
from atpar.ledger.codes import Code
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.jsonform import JsonInvalid, parse_json
from atpar.ledger.proofs import (
    ExpiryClaim,
    ProofFile,
    ReceiptClaim,
    TrustRoot,
    Verified,
    render_proof,
    verify_proof,
)
from atpar.ledger.transactions import Transaction
from atpar.node.api_forms import BatchForm, Form, TransactionForm
from atpar.node.gateway import TxStatus
from atpar.node.limits import MAX_BATCH_ENVELOPES, MAX_REQUEST_BYTES

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
LONGEST_WAIT_S: Final = 10
"""Of one request. Longer waits are made of several, so that a node that died is noticed."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
MAX_BATCH_BYTES: Final = MAX_REQUEST_BYTES * 3 // 4 - MAX_BATCH_ENVELOPES * 8
"""Envelope bytes in one request, which base64 makes a third longer."""

BUSY_CODES: Final = frozenset({"MEMPOOL_FULL", "NOT_READY", "OVERLOADED"})
CERTAIN_CODES: Final = frozenset(
    code.name
    for code in (
        Code.TOO_LARGE,
        Code.NON_CANONICAL,
        Code.UNSUPPORTED_VERSION,
        Code.WRONG_CHAIN,
        Code.NO_OPERATIONS,
        Code.TOO_MANY_OPERATIONS,
        Code.TOO_MANY_SIGNATURES,
        Code.SIGNATURES_UNSORTED,
        Code.WINDOW_INVALID,
        Code.ID_REUSED,
        Code.AMOUNT_RANGE,
        Code.VALUE_INVALID,
        Code.SAME_ACCOUNT,
        Code.BAD_SIGNATURE,
    )
)
"""Refusals that every node gives at any time: they hold even where a node may have the bytes."""

T = TypeVar("T")
F = TypeVar("F", bound=Form)


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request to a node, and come back with an `Answer` or `Silence`."""

    node: int
    """Index into the client's nodes."""
    method: str
    path: str
    body: bytes | None = None
    """JSON."""
    wait_s: int = 0
    """`Prefer: wait`; the request may take that much longer."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Come back after some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of a node."""

    status: int
    body: bytes
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """No complete answer came."""

    reason: str
    was_sent: bool
    """Whether the node may have received the request."""


Reply = Answer | Silence | None


class _Gone(Exception):
    """A node gave no usable answer."""

    def __init__(self, reason: str, *, was_sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.was_sent = was_sent


_UNUSABLE: Final = (_Gone, JsonInvalid, ProofInvalid, ClientError)
"""What makes one node's answer useless, and the next node worth asking."""
Steps = Generator[Ask | Pause, Reply, T]


@dataclass(frozen=True, slots=True)
class Finalized:
    """A transaction whose receipt is proven final; `verified` says by whose votes."""

    transaction: Transaction
    """The envelope that was executed: the one sent, or an earlier one with the same body."""
    code: Code
    """OK, or why it failed; unknown codes of later versions are refused as a `ClientError`."""
    height: int
    index: int
    timestamp_ms: int
    failed_op: int | None
    proof: ProofFile
    verified: Verified

    def render_proof(self) -> bytes:
        """Return the document to store: `atpar verify` checks these very bytes."""
        return render_proof(self.proof)


@dataclass(slots=True)
class Core:
    """The client's knowledge: how many nodes there are, what to trust, which node answers."""

    nodes: int
    trust: TrustRoot
    clock: Callable[[], float]
    """Monotonic seconds."""
    preferred: int = 0
    """The node that answered last; asked first."""

    def list_nodes(self) -> list[int]:
        """Return all nodes, the preferred one first."""
        return [(self.preferred + offset) % self.nodes for offset in range(self.nodes)]

    # ---- reading

    def read(
        self, kind: type[F], path: str, *, method: str = "GET", body: bytes | None = None
    ) -> Steps[F]:
        """Return an answer of the first node that gives one.

        Raises:
            Unreachable, Busy, Refused, RequestInvalid
        """
        failures: list[str] = []
        busy: ClientError | None = None
        for node in self.list_nodes():
            reply = yield Ask(node, method, path, body)
            try:
                form = read_form(kind, _take(reply))
            except _Gone as gone:
                failures.append(gone.reason)
            except JsonInvalid as error:
                failures.append(f"not the expected answer: {error}")
            except Busy as error:
                busy = error
            else:
                self.preferred = node
                return form
        raise busy or Unreachable("; ".join(failures) or "there are no nodes")

    # ---- submitting

    def send(
        self, transactions: Sequence[Transaction], *, timeout_s: float
    ) -> Steps[list[Finalized | ClientError]]:
        """Return a `Finalized` or an error for each transaction, in order. Raises neither."""
        sending = _Sending(self, transactions, self.clock() + timeout_s)
        return (yield from sending.run())

    def submit(self, transaction: Transaction) -> Steps[TransactionForm]:
        """Hand a transaction to one node and do not wait: the answer is that node's word.

        Raises:
            Unreachable, Busy: no node took it. Refused. OutcomeUnknown: a node may have taken it.
        """
        failures, busy, uncertain = [], None, False
        for node in self.list_nodes():
            reply = yield Ask(node, "POST", "/v1/transactions", encode_one(transaction))
            try:
                form = read_form(TransactionForm, _take(reply))
            except _Gone as gone:
                failures.append(gone.reason)
                uncertain = uncertain or gone.was_sent
            except JsonInvalid as error:
                failures.append(f"not the expected answer: {error}")
                uncertain = True
            except Busy as error:
                busy = error
            else:
                self.preferred = node
                return form
        if uncertain:
            raise OutcomeUnknown("; ".join(failures), transaction)
        raise busy or Unreachable("; ".join(failures))

    def find(self, transaction: Transaction) -> Steps[Finalized | None]:
        """Return the proven receipt of a transaction if some node shows it, else None.

        Raises:
            Unreachable: no node gave an answer. None says nothing of what other nodes hold.
        """
        answered, failures = False, []
        for node in self.list_nodes():
            reply = yield Ask(node, "GET", _make_lookup(transaction))
            try:
                form = read_form(TransactionForm, _take(reply))
                answered = True
                if form.status is TxStatus.FINAL:
                    return self.verify_receipt(transaction, form)
            except _UNUSABLE as error:
                failures.append(str(error))
        if not answered:
            raise Unreachable("; ".join(failures))
        return None

    def prove_expired(self, transaction: Transaction) -> Steps[Verified]:
        """Return the verified proof that a transaction was never executed and never will be.

        Raises:
            OutcomeUnknown: no node shows such a proof: not past its window yet, or executed.
        """
        failures = []
        for node in self.list_nodes():
            reply = yield Ask(node, "GET", _make_expiry_lookup(transaction))
            try:
                return self.verify_expiry(transaction, read_form(TransactionForm, _take(reply)))
            except _UNUSABLE as error:
                failures.append(str(error))
        raise OutcomeUnknown("; ".join(failures), transaction)

    # ---- trusting nobody

    def verify_receipt(self, transaction: Transaction, form: TransactionForm) -> Finalized:
        """Return the proven outcome of a transaction that a node says is final.

        Raises:
            ProofInvalid: the node does not show it.
        """
        if form.proof is None:
            raise ProofInvalid("final, and no proof of it")
        verified = verify_proof(form.proof, self.trust)
        claim = verified.claim
        if not isinstance(claim, ReceiptClaim):
            raise ProofInvalid("the proof is not of a receipt")
        if claim.transaction.body_hash != transaction.body_hash:
            raise ProofInvalid("the proof is of another transaction")
        try:
            code = Code(claim.receipt.code)
        except ValueError:
            raise ProofInvalid(f"code {claim.receipt.code} is of a later version") from None
        return Finalized(
            transaction=claim.transaction,
            code=code,
            height=verified.block.height,
            index=claim.index,
            timestamp_ms=verified.block.timestamp_ms,
            failed_op=claim.receipt.failed_op,
            proof=form.proof,
            verified=verified,
        )

    def verify_expiry(self, transaction: Transaction, form: TransactionForm) -> Verified:
        """Return the proof that a transaction never was and never will be executed.

        Raises:
            ProofInvalid: the node does not show it.
        """
        if form.proof is None or form.status is not TxStatus.EXPIRED:
            raise ProofInvalid(f"{form.status} at height {form.read_height}, without a proof")
        verified = verify_proof(form.proof, self.trust)
        claim, body = verified.claim, transaction.body
        if not isinstance(claim, ExpiryClaim):
            raise ProofInvalid("the proof is not of an expiry")
        expected = (body.sender, body.tx_id, body.valid_until_ms)
        if (claim.sender, claim.tx_id, claim.valid_until_ms) != expected:
            raise ProofInvalid("the proof is of another transaction")
        return verified


# ---- sending


@dataclass(slots=True)
class _Item:
    """One transaction on its way."""

    transaction: Transaction
    uncertain: bool = False
    """Whether a node may hold it."""
    result: Finalized | ClientError | None = None
    last: str = "no node answered"
    busy: bool = False
    """Whether the last word about it was that a node has no room."""
    fault: ClientError | None = None
    """What a node had against the request as such."""


@dataclass(slots=True)
class _Sending:
    """A set of transactions on their way, until each is decided or the time is up."""

    core: Core
    transactions: Sequence[Transaction]
    deadline: float
    items: list[_Item] = field(default_factory=list)

    def run(self) -> Steps[list[Finalized | ClientError]]:
        self.items = [_Item(transaction) for transaction in self.transactions]
        pause_s = FIRST_PAUSE_S
        while True:
            before = self._count_pending()
            retry_after_s = yield from self._round()
            if self._count_pending() == 0:
                break
            pause_s = (
                FIRST_PAUSE_S
                if self._count_pending() < before
                else min(pause_s * 2, LONGEST_PAUSE_S)
            )
            pause = max(pause_s, min(retry_after_s, LONGEST_PAUSE_S))
            if self.core.clock() + pause >= self.deadline or self._nothing_sent():
                break
            yield Pause(pause)
        return [self._conclude(item) for item in self.items]

    def _round(self) -> Steps[float]:
        """Offer what is pending to the nodes in turn; stop at the first that takes part."""
        retry_after_s = 0.0
        for node in self.core.list_nodes():
            for batch in self._list_batches():
                retry_after_s = max(retry_after_s, (yield from self._offer(node, batch)))
            if self._count_pending() == 0:
                break
        return retry_after_s

    def _list_batches(self) -> list[list[_Item]]:
        batches: list[list[_Item]] = [[]]
        size = 0
        for item in self._list_pending():
            length = len(item.transaction.raw)
            if batches[-1] and (
                len(batches[-1]) == MAX_BATCH_ENVELOPES or size + length > MAX_BATCH_BYTES
            ):
                batches.append([])
                size = 0
            batches[-1].append(item)
            size += length
        return [batch for batch in batches if batch]

    def _offer(self, node: int, batch: list[_Item]) -> Steps[float]:
        """Send a batch to a node and take in what it says; return how long it asks to wait."""
        wait_s = int(max(0.0, min(LONGEST_WAIT_S, self.deadline - self.core.clock())))
        reply = yield Ask(
            node,
            "POST",
            "/v1/transactions",
            encode_batch([item.transaction for item in batch]),
            wait_s=wait_s,
        )
        retry_after_s = (reply.retry_after_s or 0.0) if isinstance(reply, Answer) else 0.0
        try:
            forms = read_form(BatchForm, _take(reply)).results
        except _Gone as gone:
            self._note(batch, gone.reason, sent=gone.was_sent)
        except JsonInvalid as error:
            self._note(batch, f"not the expected answer: {error}", sent=True)
        except Busy as busy:
            for item in batch:
                item.last, item.busy = str(busy), True
        except ClientError as error:
            for item in batch:
                item.last, item.fault = str(error), error
        else:
            self.core.preferred = node
            # Were the list short, what is missing may still have been taken.
            self._note(batch[len(forms) :], "left out of the answer", sent=True)
            for item, form in zip(batch, forms, strict=False):
                yield from self._take_in(node, item, form)
        return retry_after_s

    def _note(self, batch: list[_Item], reason: str, *, sent: bool) -> None:
        for item in batch:
            if sent or not item.uncertain:
                # What a node said of it outweighs that another one is not there.
                item.last = reason
            item.busy = False
            item.uncertain = item.uncertain or sent

    def _take_in(self, node: int, item: _Item, form: TransactionForm) -> Steps[None]:
        if form.status is TxStatus.FINAL:
            yield from self._fetch_proof(node, item)
        elif form.status is TxStatus.REJECTED and form.code in BUSY_CODES:
            item.last, item.busy = f"{form.code}: {form.message}", True
        elif form.status is TxStatus.EXPIRED:
            yield from self._fetch_expiry(node, item)
        elif form.status is TxStatus.REJECTED and (
            not item.uncertain or form.code in CERTAIN_CODES
        ):
            item.result = Refused(form.code, form.message, item.transaction)
        elif form.status is TxStatus.REJECTED:
            item.last = f"{form.code}: {form.message}"
        else:
            item.uncertain, item.busy = True, False
            item.last = f"{form.status} at height {form.read_height}"

    def _fetch_proof(self, node: int, item: _Item) -> Steps[None]:
        item.uncertain, item.busy = True, False
        reply = yield Ask(node, "GET", _make_lookup(item.transaction))
        try:
            form = read_form(TransactionForm, _take(reply))
            final = self.core.verify_receipt(item.transaction, form)
        except _UNUSABLE as error:
            item.last = f"said final, not proven: {error}"
            return
        if final.code is Code.OK:
            item.result = final
        else:
            message = f"failed at operation {final.failed_op}"
            item.result = Refused(final.code.name, message, item.transaction, final=final)

    def _fetch_expiry(self, node: int, item: _Item) -> Steps[None]:
        item.uncertain, item.busy = True, False
        reply = yield Ask(node, "GET", _make_expiry_lookup(item.transaction))
        try:
            form = read_form(TransactionForm, _take(reply))
            verified = self.core.verify_expiry(item.transaction, form)
        except _UNUSABLE as error:
            item.last = f"said expired, not proven: {error}"
            return
        item.result = Refused(
            "EXPIRED", "never executed, its window has passed", item.transaction, expiry=verified
        )

    def _conclude(self, item: _Item) -> Finalized | ClientError:
        if item.result is not None:
            return item.result
        if item.uncertain:
            return OutcomeUnknown(item.last, item.transaction)
        if item.busy:
            return Busy(item.last)
        return item.fault if item.fault is not None else Unreachable(item.last)

    def _list_pending(self) -> list[_Item]:
        return [item for item in self.items if item.result is None]

    def _count_pending(self) -> int:
        return len(self._list_pending())

    def _nothing_sent(self) -> bool:
        """Whether no node could be reached at all: then there is nothing to wait for."""
        return not any(item.uncertain or item.busy for item in self._list_pending())


# ---- requests and answers


def _make_lookup(transaction: Transaction) -> str:
    """Return the path that finds a transaction by its id: also an earlier envelope of it."""
    body = transaction.body
    return f"/v1/transactions?sender={body.sender}&tx_id={body.tx_id.hex()}&proof=1"


def _make_expiry_lookup(transaction: Transaction) -> str:
    return f"{_make_lookup(transaction)}&valid_until_ms={transaction.body.valid_until_ms}"


def encode_one(transaction: Transaction) -> bytes:
    """Return the JSON body that submits one envelope."""
    return msgspec.json.encode({"envelope": base64.b64encode(transaction.raw).decode()})


def encode_batch(transactions: Sequence[Transaction]) -> bytes:
    """Return the JSON body that submits envelopes as a batch."""
    envelopes = [base64.b64encode(transaction.raw).decode() for transaction in transactions]
    return msgspec.json.encode({"envelopes": envelopes})


def _take(reply: Reply) -> Any:
    """Return the JSON document of a good answer.

    Raises:
        _Gone: nothing usable came. Busy, Refused, RequestInvalid: the node said no.
    """
    if reply is None:
        raise _Gone("no reply", was_sent=True)
    if isinstance(reply, Silence):
        raise _Gone(reply.reason, was_sent=reply.was_sent)
    try:
        document = parse_json(reply.body, max_bytes=MAX_ANSWER_BYTES)
    except JsonInvalid as error:
        raise _Gone(f"HTTP {reply.status}, {error}", was_sent=True) from None
    if not isinstance(document, dict):
        raise _Gone(f"HTTP {reply.status} without a JSON object", was_sent=True)
    if 200 <= reply.status < 300:
        return document
    raise _explain(reply.status, document)


def _explain(status: int, document: dict[str, Any]) -> Exception:
    code, detail = str(document.get("code", "")), str(document.get("detail", ""))
    if code in BUSY_CODES:
        return Busy(f"{code}: {detail}")
    if code in Code.__members__:
        return Refused(code, detail)
    if status >= 500 or not code:
        return _Gone(f"HTTP {status} {code}: {detail}", was_sent=True)
    return RequestInvalid(code, detail)
