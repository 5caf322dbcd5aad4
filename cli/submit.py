"""Sending one transaction until its outcome is proven, on top of the client.

The client (`client.py`) has the rules: the same bytes may be sent any number of times, a receipt
counts only with a proof, what is not certain is *unknown*. Here its answers become what a person
sees and the exit codes; and the first answer is timed, for `accepted 4 ms → FINAL #21 in 58 ms`.
"""

import time
from dataclasses import dataclass

from atpar.cli.chain import Chain
from atpar.cli.client import (
    Busy,
    Client,
    ClientError,
    Finalized,
    OutcomeUnknown,
    Refused,
    RequestInvalid,
    Unreachable,
)
from atpar.cli.client_core import CERTAIN_CODES
from atpar.cli.context import State
from atpar.cli.errors import CliError, NodeUnreachable, NotReady, refused
from atpar.cli.errors import OutcomeUnknown as UnknownProblem
from atpar.cli.fetch import explain_problem
from atpar.ledger.transactions import Transaction
from atpar.node.gateway import TxStatus

HELD = (TxStatus.ACCEPTED, TxStatus.PROPOSED, TxStatus.FINAL)


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction whose outcome is proven final, successful or not."""

    final: Finalized
    accepted_ms: float | None
    """From sending to the first answer that took it."""
    final_ms: float


def make_client(state: State, chain: Chain) -> Client:
    """Return a client of the nodes that the options name."""
    return Client(
        state.get_nodes(),
        genesis=chain.document,
        token=state.get_token(),
        transport=state.transport,
    )


def send_until_final(
    state: State, chain: Chain, transaction: Transaction, *, timeout_s: float
) -> Sent:
    """Submit, wait, verify; return the proven outcome.

    Raises:
        RefusedByLedger: definitive, and not executed.
        NodeUnreachable, NotReady: no node took it.
        OutcomeUnknown: it may have happened, or happen yet.
    """
    started = time.monotonic()
    accepted_ms = None
    with make_client(state, chain) as client:
        is_held = False
        try:
            is_held = client.submit(transaction).status in HELD
            accepted_ms = (time.monotonic() - started) * 1000 if is_held else None
        except OutcomeUnknown:
            is_held = True
        except ClientError:
            # What it means is decided below, after every node was asked.
            is_held = False
        try:
            left_s = max(0.1, timeout_s - (time.monotonic() - started))
            final = client.send(transaction, timeout_s=left_s)
        except Refused as error:
            if error.final is None:
                raise _explain_refusal(error, transaction, is_held=is_held) from error
            final = error.final
        except ClientError as error:
            raise explain_client(error, transaction, is_held=is_held) from error
    return Sent(final, accepted_ms, (time.monotonic() - started) * 1000)


def _explain_refusal(error: Refused, transaction: Transaction, *, is_held: bool) -> CliError:
    if is_held and error.expiry is None and error.code not in CERTAIN_CODES:
        return make_unknown(transaction, str(error))
    return refused(error.code, error.message, **get_ids(transaction), proven=error.is_proven)


def explain_client(error: ClientError, transaction: Transaction, *, is_held: bool) -> CliError:
    """Return what a failure of the client means for a person.

    `is_held`: whether a node may have taken the transaction all the same.
    """
    if isinstance(error, OutcomeUnknown):
        return make_unknown(transaction, error.reason)
    if is_held:
        return make_unknown(transaction, str(error))
    ids = get_ids(transaction)
    if isinstance(error, Busy):
        return NotReady(
            f"no node has room or is ready, nothing was taken now: {error}",
            advice="send the same bytes again in a while: atpar tx send FILE",
            **ids,
        )
    if isinstance(error, Unreachable):
        return NodeUnreachable(
            f"no node answered, nothing was sent now: {error}",
            advice="is it running? use --node URL, or --home DIR of a testnet",
            **ids,
        )
    if isinstance(error, RequestInvalid):
        return explain_problem(400, {"code": error.code, "detail": error.message})
    return make_unknown(transaction, str(error))


def get_ids(tx: Transaction) -> dict[str, str]:
    """Return what finds a transaction again, for JSON."""
    return {
        "sender": tx.body.sender,
        "tx_id": tx.body.tx_id.hex(),
        "tx_hash": tx.hash.hex(),
    }


def make_unknown(tx: Transaction, why: str) -> UnknownProblem:
    """Return the error that says a transaction may or may not have happened, with its ids."""
    return UnknownProblem(
        f"outcome unknown: transaction {tx.body.tx_id.hex()}, hash {tx.hash.hex()} ({why})",
        advice=(
            f"look it up: atpar tx show {tx.hash.hex()}; or send the same bytes again, which"
            " cannot pay twice; never make a new transaction instead"
        ),
        **get_ids(tx),
        valid_until_ms=tx.body.valid_until_ms,
    )
