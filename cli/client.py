"""A typed Python client: sign, submit, wait, and believe nothing but proofs.

    from atpar.cli.client import Client
    from atpar.ledger.operations import Transfer

    with Client(["http://127.0.0.1:7101", "http://127.0.0.1:7102"], genesis=document) as client:
        final = client.send(client.make(payment, sender="ALFA/main", keys=[key]))
        Path("receipt.json").write_bytes(final.render_proof())

What `send` returns is proven: the receipt's Merkle path, the block header and the votes of a quorum
are checked against the genesis document, whatever node answered. What the `get_` methods return is
the word of the node that answered; `get_proven_balance` and `get_proven_assets` are proven too.
`client_core.py` has the rules, `client_errors.py` the errors.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import trio
from nacl.signing import SigningKey

from atpar.cli.client_core import (
    MAX_ANSWER_BYTES,
    Answer,
    Ask,
    Core,
    Finalized,
    Pause,
    Reply,
    Silence,
    Steps,
    encode_one,
)
from atpar.cli.client_errors import (
    Busy,
    ClientError,
    OutcomeUnknown,
    Refused,
    RequestInvalid,
    Unreachable,
)
from atpar.ledger.codec import encode
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.genesis import GenesisDocument
from atpar.ledger.hashing import SignKind, compute_sign_bytes
from atpar.ledger.operations import Operation
from atpar.ledger.proofs import (
    AccountClaim,
    SolvencyClaim,
    Verified,
    compute_trust_root,
    verify_proof,
)
from atpar.ledger.records import Balance
from atpar.ledger.stateroot import AssetRow
from atpar.ledger.transactions import (
    VERSION,
    Body,
    Transaction,
    decode_transaction,
    encode_envelope,
)
from atpar.node.api_forms import (
    AccountForm,
    AssetForm,
    BlockForm,
    EntriesForm,
    Form,
    OneRedemptionForm,
    RedemptionsForm,
    SimulationForm,
    StatusForm,
    TransactionForm,
    ValidatorsForm,
)

__all__ = [
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Finalized",
    "OutcomeUnknown",
    "Refused",
    "RequestInvalid",
    "Unreachable",
]

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_WINDOW_MS = 10 * 60_000
CLOCK_SLACK_MS = 60_000
"""A window starts this much in the past, so that a clock that is a little ahead does no harm."""
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
"""Beyond what a request asks the node to wait."""

T = TypeVar("T")
F = TypeVar("F", bound=Form)


def make_transaction(
    *ops: Operation,
    sender: str,
    keys: Iterable[SigningKey],
    chain_id: bytes,
    now_ms: int,
    window_ms: int = DEFAULT_WINDOW_MS,
    tx_id: bytes | None = None,
) -> Transaction:
    """Return a signed transaction.

    Args:
        keys: one for each signature that the principals' policies need.
        now_ms: the time to count the window from, in Unix milliseconds.
        tx_id: 16 bytes, the idempotency key; random unless given. Keep it with the payment: two
            transactions with one id can never both happen.

    >>> from nacl.signing import SigningKey
    >>> from atpar.ledger.operations import Void
    >>> key = SigningKey(bytes(32))
    >>> tx = make_transaction(Void(), sender="ALFA/main", keys=[key], chain_id=bytes(32), now_ms=0)
    >>> tx.body.sender, len(tx.signatures)
    ('ALFA/main', 1)
    """
    body = Body(
        version=VERSION,
        chain_id=chain_id,
        sender=sender,
        tx_id=os.urandom(16) if tx_id is None else tx_id,
        valid_from_ms=max(0, now_ms - CLOCK_SLACK_MS),
        valid_until_ms=now_ms + window_ms,
        ops=ops,
    )
    data = encode(body)
    message = compute_sign_bytes(SignKind.TRANSACTION, chain_id, data)
    pairs = {bytes(key.verify_key): key.sign(message).signature for key in keys}
    return decode_transaction(encode_envelope(data, list(pairs.items())))


class _Common:
    """What both clients are made of: nodes, trust, keys."""

    def __init__(
        self,
        nodes: Sequence[str] | str,
        *,
        genesis: GenesisDocument,
        keys: Iterable[SigningKey] = (),
        token: str | None = None,
        get_now_ms: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what to talk to and what to trust. Nothing is sent yet.

        Args:
            nodes: base URLs of validators' APIs, `http://127.0.0.1:7101`; asked in turn.
            genesis: the chain's genesis document, from a source that you trust.
            keys: signing keys that `make` uses where it is given none.
            token: bearer token, where nodes ask for one.
            get_now_ms: Unix milliseconds, for windows; the system's clock unless given.
            clock: monotonic seconds, for timeouts.
        """
        listed = [nodes] if isinstance(nodes, str) else list(nodes)
        if not listed:
            raise ValueError("nodes: at least one URL")
        self.nodes = [node.rstrip("/") for node in listed]
        self.trust = compute_trust_root(genesis)
        self.keys = list(keys)
        self._get_now_ms = get_now_ms if get_now_ms is not None else _read_clock_ms
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._core = Core(len(self.nodes), self.trust, clock)

    @property
    def chain_id(self) -> bytes:
        """The chain's id: the hash of the genesis document."""
        return self.trust.chain_id

    def make(
        self,
        *ops: Operation,
        sender: str,
        keys: Iterable[SigningKey] | None = None,
        window_ms: int = DEFAULT_WINDOW_MS,
        tx_id: bytes | None = None,
    ) -> Transaction:
        """Return a signed transaction; see `make_transaction`."""
        return make_transaction(
            *ops,
            sender=sender,
            keys=self.keys if keys is None else keys,
            chain_id=self.chain_id,
            now_ms=self._get_now_ms(),
            window_ms=window_ms,
            tx_id=tx_id,
        )

    def _prepare(self, ask: Ask) -> dict[str, Any]:
        headers = dict(self._headers)
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        if ask.wait_s:
            headers["Prefer"] = f"wait={ask.wait_s}"
        return {
            "method": ask.method,
            "url": self.nodes[ask.node] + ask.path,
            "content": ask.body,
            "headers": headers,
            "timeout": httpx.Timeout(READ_TIMEOUT_S + ask.wait_s, connect=CONNECT_TIMEOUT_S),
        }

    def _explain(self, ask: Ask, error: Exception) -> Silence:
        """Return what a failed request means."""
        unsent = httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol
        reason = f"{self.nodes[ask.node]}: {error or type(error).__name__}"
        return Silence(reason, was_sent=not isinstance(error, unsent | httpx.InvalidURL))

    # ---- what both clients ask

    def _steps_account(self, account: str, *, proof: bool = False) -> Steps[AccountForm]:
        query = "?proof=1" if proof else ""
        return self._core.read(AccountForm, f"/v1/accounts/{quote(account)}{query}")

    def _steps_entries(
        self, account: str, asset: str | None, after: str | None, limit: int
    ) -> Steps[EntriesForm]:
        query = str(
            httpx.QueryParams(
                {k: v for k, v in (("asset", asset), ("after", after), ("limit", limit)) if v}
            )
        )
        return self._core.read(EntriesForm, f"/v1/accounts/{quote(account)}/entries?{query}")

    def _steps_asset(self, asset: str, *, proof: bool = False) -> Steps[AssetForm]:
        query = "?proof=1" if proof else ""
        return self._core.read(AssetForm, f"/v1/assets/{quote(asset, safe='')}{query}")

    def _steps_redemptions(
        self, asset: str | None, status: str | None, after: str | None
    ) -> Steps[RedemptionsForm]:
        chosen = {"asset": asset, "status": status, "after": after}
        query = str(httpx.QueryParams({k: v for k, v in chosen.items() if v}))
        return self._core.read(RedemptionsForm, f"/v1/redemptions?{query}")

    def _steps_simulate(self, transaction: Transaction) -> Steps[SimulationForm]:
        body = encode_one(transaction)
        return self._core.read(SimulationForm, "/v1/simulate", method="POST", body=body)

    def _check_balance(self, account: str, asset: str, form: AccountForm) -> Balance:
        """Return a proven balance.

        Raises:
            ProofInvalid: the node does not show it.
        """
        claim = self._verify(form).claim
        if not isinstance(claim, AccountClaim) or claim.account != account:
            raise ProofInvalid(f"the proof is not of the balances of {account}")
        for code, balance in claim.balances:
            if code == asset:
                return balance
        raise ProofInvalid(f"the proof does not cover {asset}")

    def _check_assets(self, form: AssetForm) -> tuple[AssetRow, ...]:
        claim = self._verify(form).claim
        if not isinstance(claim, SolvencyClaim):
            raise ProofInvalid("the proof is not of solvency")
        return claim.assets

    def _verify(self, form: AccountForm | AssetForm) -> Verified:
        if form.proof is None:
            raise ProofInvalid("the node gave no proof")
        return verify_proof(form.proof, self.trust)


class Client(_Common):
    """The client for programs without an event loop. One thread at a time uses it.

    >>> from nacl.signing import SigningKey
    >>> client = Client("http://127.0.0.1:7101", genesis=document)  # doctest: +SKIP
    >>> tx = client.make(payment, sender="ALFA/main", keys=[key])  # doctest: +SKIP
    >>> client.send(tx).height  # doctest: +SKIP
    21
    """

    def __init__(
        self,
        nodes: Sequence[str] | str,
        *,
        genesis: GenesisDocument,
        keys: Iterable[SigningKey] = (),
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        get_now_ms: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """See `_Common`. `transport` and `sleep` are for tests."""
        super().__init__(
            nodes, genesis=genesis, keys=keys, token=token, get_now_ms=get_now_ms, clock=clock
        )
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ---- transactions

    def send(self, transaction: Transaction, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Finalized:
        """Submit a transaction and wait until it is final; return the proven receipt.

        Raises:
            Refused: with the code. If it was executed and failed, that is proven.
            OutcomeUnknown: not decided in time; it may still happen. Carries sender, id and hash.
            Unreachable, Busy: no node took it.

        >>> final = client.send(tx, timeout_s=10)  # doctest: +SKIP
        >>> final.code, final.height  # doctest: +SKIP
        (<Code.OK: 0>, 21)
        """
        (result,) = self.send_many([transaction], timeout_s=timeout_s)
        if isinstance(result, ClientError):
            raise result
        return result

    def send_many(
        self, transactions: Sequence[Transaction], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[Finalized | ClientError]:
        """Submit many and wait for all; return a `Finalized` or the error of each, in order.

        >>> results = client.send_many([first, second])  # doctest: +SKIP
        >>> [r.height if isinstance(r, Finalized) else str(r) for r in results]  # doctest: +SKIP
        [21, 'INSUFFICIENT_FUNDS: failed at operation 0']
        """
        return self._run(self._core.send(transactions, timeout_s=timeout_s))

    def submit(self, transaction: Transaction) -> TransactionForm:
        """Hand a transaction to a node without waiting. What it answers is its word.

        Raises:
            Refused, OutcomeUnknown, Unreachable, Busy

        >>> client.submit(tx).status  # doctest: +SKIP
        <TxStatus.ACCEPTED: 'accepted'>
        """
        return self._run(self._core.submit(transaction))

    def find(self, transaction: Transaction) -> Finalized | None:
        """Return the proven receipt of a transaction if a node shows it, else None.

        >>> client.find(error.transaction)  # after OutcomeUnknown   # doctest: +SKIP
        """
        return self._run(self._core.find(transaction))

    def prove_expired(self, transaction: Transaction) -> Verified:
        """Return the verified proof that it never was executed and never will be.

        Raises:
            OutcomeUnknown: nobody can show it: its window may still be open, or it was executed.
        """
        return self._run(self._core.prove_expired(transaction))

    def simulate(self, transaction: Transaction) -> SimulationForm:
        """Return what a node says that a transaction would do now.

        >>> client.simulate(tx).code  # doctest: +SKIP
        'INSUFFICIENT_FUNDS'
        """
        return self._run(self._steps_simulate(transaction))

    # ---- reading

    def get_account(self, account: str) -> AccountForm:
        """Return an account with its balances, as a node says."""
        return self._run(self._steps_account(account))

    def get_proven_balance(self, account: str, asset: str) -> Balance:
        """Return a balance, proven against the genesis document.

        Raises:
            ProofInvalid: the node does not show it.

        >>> client.get_proven_balance("ALFA/main", "HKD.JDCL").available  # doctest: +SKIP
        1250000
        """
        return self._check_balance(
            account, asset, self._run(self._steps_account(account, proof=True))
        )

    def get_entries(
        self,
        account: str,
        *,
        asset: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> EntriesForm:
        """Return a page of statement lines, as a node says."""
        return self._run(self._steps_entries(account, asset, after, limit))

    def get_asset(self, asset: str) -> AssetForm:
        """Return an asset with supply and reserve, as a node says."""
        return self._run(self._steps_asset(asset))

    def get_proven_assets(self, asset: str) -> tuple[AssetRow, ...]:
        """Return supply, sum of balances and attested reserve of all assets, proven.

        Raises:
            ProofInvalid: the node does not show it.
        """
        return self._check_assets(self._run(self._steps_asset(asset, proof=True)))

    def get_redemption(self, redemption: bytes) -> OneRedemptionForm:
        """Return a redemption, as a node says."""
        return self._run(self._core.read(OneRedemptionForm, f"/v1/redemptions/{redemption.hex()}"))

    def list_redemptions(
        self, *, asset: str | None = None, status: str | None = None, after: str | None = None
    ) -> RedemptionsForm:
        """Return a page of redemptions, as a node says."""
        return self._run(self._steps_redemptions(asset, status, after))

    def get_block(self, height: int | None = None) -> BlockForm:
        """Return a final block, the latest unless a height is given, as a node says."""
        return self._run(
            self._core.read(BlockForm, f"/v1/blocks/{'latest' if height is None else height}")
        )

    def get_validators(self) -> ValidatorsForm:
        """Return the voting set, as a node says."""
        return self._run(self._core.read(ValidatorsForm, "/v1/validators"))

    def get_status(self) -> StatusForm:
        """Return the state of the node that answers."""
        return self._run(self._core.read(StatusForm, "/v1/status"))

    # ---- doing

    def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if isinstance(step, Pause):
                self._sleep(step.seconds)
                reply = None
            else:
                reply = self._ask(step)

    def _ask(self, ask: Ask) -> Reply:
        try:
            with self._http.stream(**self._prepare(ask)) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        return Silence(f"{ask.path}: the answer is too long", was_sent=True)
                return _make_answer(response, bytes(body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._explain(ask, error)


class AsyncClient(_Common):
    """The same client for trio programs; `Client` describes the methods.

    >>> async with AsyncClient(nodes, genesis=document) as client:  # doctest: +SKIP
    ...     final = await client.send(client.make(payment, sender="ALFA/main", keys=[key]))
    """

    def __init__(
        self,
        nodes: Sequence[str] | str,
        *,
        genesis: GenesisDocument,
        keys: Iterable[SigningKey] = (),
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        get_now_ms: Callable[[], int] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """See `_Common`. `transport` is for tests."""
        super().__init__(
            nodes,
            genesis=genesis,
            keys=keys,
            token=token,
            get_now_ms=get_now_ms,
            clock=trio.current_time if clock is None else clock,
        )
        self._http = httpx.AsyncClient(transport=transport, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def send(
        self, transaction: Transaction, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Finalized:
        """Submit a transaction and wait until it is final; return the proven receipt.

        Raises:
            Refused, OutcomeUnknown, Unreachable, Busy: as `Client.send`.
        """
        (result,) = await self.send_many([transaction], timeout_s=timeout_s)
        if isinstance(result, ClientError):
            raise result
        return result

    async def send_many(
        self, transactions: Sequence[Transaction], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[Finalized | ClientError]:
        """Submit many and wait for all; return a `Finalized` or the error of each, in order."""
        return await self._run(self._core.send(transactions, timeout_s=timeout_s))

    async def submit(self, transaction: Transaction) -> TransactionForm:
        """Hand a transaction to a node without waiting."""
        return await self._run(self._core.submit(transaction))

    async def find(self, transaction: Transaction) -> Finalized | None:
        """Return the proven receipt of a transaction if a node shows it, else None."""
        return await self._run(self._core.find(transaction))

    async def get_account(self, account: str) -> AccountForm:
        """Return an account with its balances, as a node says."""
        return await self._run(self._steps_account(account))

    async def get_asset(self, asset: str) -> AssetForm:
        """Return an asset with supply and reserve, as a node says."""
        return await self._run(self._steps_asset(asset))

    async def get_status(self) -> StatusForm:
        """Return the state of the node that answers."""
        return await self._run(self._core.read(StatusForm, "/v1/status"))

    async def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if isinstance(step, Pause):
                await trio.sleep(step.seconds)
                reply = None
            else:
                reply = await self._ask(step)

    async def _ask(self, ask: Ask) -> Reply:
        try:
            async with self._http.stream(**self._prepare(ask)) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        return Silence(f"{ask.path}: the answer is too long", was_sent=True)
                return _make_answer(response, bytes(body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._explain(ask, error)


def _make_answer(response: httpx.Response, body: bytes) -> Answer:
    text = response.headers.get("retry-after", "")
    return Answer(response.status_code, body, float(text) if text.isdigit() else None)


def _read_clock_ms() -> int:
    return time.time_ns() // 1_000_000
