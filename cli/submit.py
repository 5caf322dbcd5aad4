"""Sending one transaction and waiting until it is final, without ever guessing the outcome.

The rules are few. The same bytes may be sent any number of times, to any node. A refusal is
definitive only when nothing could have gone through before it. A receipt counts only with a proof
that verifies under the genesis document. Everything else is *outcome unknown*, with the ids that
find it again.
"""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from atpar.cli.chain import Chain
from atpar.cli.context import State
from atpar.cli.errors import (
    CliError,
    NodeUnreachable,
    NotReady,
    OutcomeUnknown,
    refused,
)
from atpar.cli.fetch import CONNECT_TIMEOUT_S, explain_problem, read_answer
from atpar.cli.verify import decode_proof
from atpar.ledger.codes import Code
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.proofs import (
    ProofFile,
    ReceiptClaim,
    Verified,
    compute_trust_root,
    render_proof,
    verify_proof,
)
from atpar.ledger.transactions import Transaction

LONGEST_WAIT_S: Final = 10
"""Of one request. Longer waits are made of several, so that a silent node is noticed."""
RETRY_S: Final = 0.2
_BUSY: Final = frozenset({"MEMPOOL_FULL", "NOT_READY", "OVERLOADED"})
_CERTAIN: Final = frozenset(
    {
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
    }
)
"""Refusals that every node gives at any time: they hold even if another node has the bytes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A transaction whose receipt is proven final."""

    verified: Verified
    claim: ReceiptClaim
    proof: ProofFile
    accepted_ms: float | None
    """From sending to the first answer that took it."""
    final_ms: float

    def render(self) -> bytes:
        """Return the proof file's bytes, the ones that `atpar verify` checks."""
        return render_proof(self.proof)


class _NodeGone(Exception):
    """A node did not give a usable answer. `maybe_sent`: the bytes may have reached it."""

    def __init__(self, reason: str, *, maybe_sent: bool) -> None:
        super().__init__(reason)
        self.maybe_sent = maybe_sent


class Submitter:
    """One transaction on its way."""

    def __init__(
        self,
        state: State,
        chain: Chain,
        transaction: Transaction,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._state = state
        self._chain = chain
        self._tx = transaction
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        self._started = clock()
        self._accepted_ms: float | None = None
        self._is_uncertain = False
        """Whether a node may hold the bytes."""
        self._last_failure = ""

    def run(self) -> Outcome:
        """Send, wait, verify.

        Raises:
            RefusedByLedger: definitive.
            NodeUnreachable, NotReady: no node took it; it was not sent, or not accepted.
            OutcomeUnknown: it may have happened, or happen yet.
        """
        timeout = httpx.Timeout(LONGEST_WAIT_S + 5, connect=CONNECT_TIMEOUT_S)
        transport = self._state.transport
        with httpx.Client(timeout=timeout, trust_env=False, transport=transport) as client:
            while True:
                busy: CliError | None = None
                for url in self._state.get_nodes():
                    try:
                        return self._try_node(client, url)
                    except NotReady as error:
                        busy = error
                    except _NodeGone as error:
                        self._is_uncertain = self._is_uncertain or error.maybe_sent
                        self._last_failure = str(error)
                if self._get_remaining_s() <= RETRY_S:
                    raise self._give_up(busy)
                if busy is None and not self._is_uncertain:
                    raise self._give_up(None)
                self._sleep(RETRY_S)

    # ---- one node

    def _try_node(self, client: httpx.Client, url: str) -> Outcome:
        body = {"envelope": base64.b64encode(self._tx.raw).decode()}
        answer = self._ask(client, "POST", f"{url}/v1/transactions", body=body, sends=True)
        while True:
            status = answer.get("status")
            if status == "final":
                return self._finish(client, url, answer)
            if status == "expired":
                raise refused(
                    "EXPIRED", "its window has passed: it was never executed", **self._ids()
                )
            if status == "rejected":
                raise self._explain_refusal(str(answer.get("code")), str(answer.get("message")))
            if status in ("accepted", "proposed"):
                self._is_uncertain = True
                if self._accepted_ms is None:
                    self._accepted_ms = self._get_elapsed_ms()
            wait_s = min(LONGEST_WAIT_S, self._get_remaining_s())
            if wait_s <= 0:
                raise _NodeGone(f"{url}: {status} after {self._timeout_s:g} s", maybe_sent=True)
            tx_hash = answer.get("tx_hash") or self._tx.hash.hex()
            answer = self._ask(
                client,
                "GET",
                f"{url}/v1/transactions/{tx_hash}?proof=1",
                wait_s=max(1, round(wait_s)),
            )
            if answer.get("status") == "unknown":
                raise _NodeGone(f"{url}: forgot the transaction", maybe_sent=True)

    def _finish(self, client: httpx.Client, url: str, answer: dict[str, Any]) -> Outcome:
        if not answer.get("proof"):
            tx_hash = answer.get("tx_hash") or self._tx.hash.hex()
            answer = self._ask(client, "GET", f"{url}/v1/transactions/{tx_hash}?proof=1")
        final_ms = self._get_elapsed_ms()
        try:
            file, verified, claim = self._verify(answer.get("proof"))
        except ProofInvalid as error:
            self._state.output.warn(f"{url} claims finality without a valid proof: {error}")
            raise _NodeGone(f"{url}: invalid proof: {error}", maybe_sent=True) from error
        return Outcome(verified, claim, file, self._accepted_ms, final_ms)

    def _verify(self, value: object) -> tuple[ProofFile, Verified, ReceiptClaim]:
        if not isinstance(value, dict):
            raise ProofInvalid("the node gave no proof")
        file = decode_proof(json.dumps(value).encode())
        verified = verify_proof(file, compute_trust_root(self._chain.document))
        claim = verified.claim
        if not isinstance(claim, ReceiptClaim):
            raise ProofInvalid("the proof is not one of a receipt")
        if claim.transaction.body_hash != self._tx.body_hash:
            raise ProofInvalid("the proof is about another transaction")
        return file, verified, claim

    def _ask(
        self,
        client: httpx.Client,
        method: str,
        url: str,
        *,
        body: dict[str, str] | None = None,
        wait_s: int = 0,
        sends: bool = False,
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        try:
            response = client.request(method, url, json=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise _NodeGone(f"{url}: {error or type(error).__name__}", maybe_sent=False) from error
        except httpx.HTTPError as error:
            raise _NodeGone(f"{url}: {error or type(error).__name__}", maybe_sent=sends) from error
        answer = read_answer(response)
        if answer is None:
            reason = f"{url}: HTTP {response.status_code}, not an atpar node's answer"
            raise _NodeGone(reason, maybe_sent=sends)
        if response.is_success:
            return answer
        code = str(answer.get("code", ""))
        if sends and response.status_code < 500 and code not in _BUSY:
            raise self._explain_refusal(code, str(answer.get("detail", "")), response, answer)
        problem = explain_problem(response.status_code, answer)
        if isinstance(problem, NotReady):
            if sends and code not in _BUSY:
                raise _NodeGone(f"{url}: {problem.message}", maybe_sent=True)
            raise problem
        raise _NodeGone(f"{url}: {problem.message}", maybe_sent=sends)

    # ---- what to say

    def _explain_refusal(
        self,
        code: str,
        message: str,
        response: httpx.Response | None = None,
        answer: dict[str, Any] | None = None,
    ) -> CliError | _NodeGone:
        """Return the refusal, unless the bytes may have been taken before it."""
        if code in _BUSY:
            return NotReady(f"{code}: {message}", advice="try again shortly", code=code)
        if code in Code.__members__:
            if self._is_uncertain and Code[code] not in _CERTAIN:
                return _NodeGone(f"{code}: {message}", maybe_sent=True)
            return refused(code, message, **self._ids())
        status = 400 if response is None else response.status_code
        return explain_problem(status, answer or {"code": code, "detail": message})

    def _give_up(self, busy: CliError | None) -> CliError:
        if self._is_uncertain:
            return make_unknown(
                self._tx, f"not final after {self._timeout_s:g} s", last=self._last_failure
            )
        if busy is not None:
            return busy
        return NodeUnreachable(
            f"no node answered, nothing was sent: {self._last_failure}",
            advice="is it running? use --node URL, or --home DIR of a testnet",
            **self._ids(),
        )

    def _ids(self) -> dict[str, str]:
        return get_ids(self._tx)

    def _get_elapsed_ms(self) -> float:
        return (self._clock() - self._started) * 1000

    def _get_remaining_s(self) -> float:
        return self._timeout_s - (self._clock() - self._started)


def get_ids(tx: Transaction) -> dict[str, str]:
    """Return what finds a transaction again, for JSON."""
    return {
        "sender": tx.body.sender,
        "tx_id": tx.body.tx_id.hex(),
        "tx_hash": tx.hash.hex(),
    }


def make_unknown(tx: Transaction, why: str, *, last: str = "") -> OutcomeUnknown:
    """Return the error that says a transaction may or may not have happened, with its ids."""
    text = f"outcome unknown, {why}: transaction {tx.body.tx_id.hex()}, hash {tx.hash.hex()}"
    return OutcomeUnknown(
        text + (f" ({last})" if last else ""),
        advice=(
            f"look it up: atpar tx show {tx.hash.hex()}; or send the same bytes again, which"
            " cannot pay twice; never make a new transaction instead"
        ),
        **get_ids(tx),
        valid_until_ms=tx.body.valid_until_ms,
    )
