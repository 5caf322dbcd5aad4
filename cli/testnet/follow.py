"""Follows final blocks and verifies each completely: what makes a payment count as final.

For every block with transactions: its finalization is checked against the validators of the
genesis document, its header against the finalization, and `receipt_root` is recomputed from all
its receipts. A receipt names its transaction's hash, so that proves the fate of every payment in
the block, with one certificate check a block instead of one proof a payment. One node is followed
at a time; when it stops answering the next one is.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec
import trio

from atpar.cli.errors import InternalProblem
from atpar.cli.testnet.wire import Unreachable, Wire
from atpar.ledger.blocks import Header, ValidatorKey, ValidatorSetId, compute_digest
from atpar.ledger.certificates import Finalization, Proposition
from atpar.ledger.errors import ProofInvalid
from atpar.ledger.genesis import GenesisDocument, compute_chain_id
from atpar.ledger.merkle import compute_root
from atpar.ledger.proofs import FinalityProof, verify_finality
from atpar.ledger.receipts import Receipt

Sink = Callable[[bytes, int], None]
"""Called with (transaction hash, receipt code) for every transaction of a verified block."""

SILENCE_S: Final = 10.0
"""Heartbeat blocks come more often than that."""
TIMEOUT_S: Final = 5.0
RETRY_S: Final = 0.1
OK: Final = 200
SERVER_ERROR: Final = 500
_LEAVES: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_RECEIPTS: Final = msgspec.msgpack.Decoder(list[Receipt])


class Follower:
    """Watches the chain from now on and hands every verified receipt to the sink."""

    def __init__(self, wires: Sequence[Wire], genesis: GenesisDocument, sink: Sink) -> None:
        self._wires = wires
        self._chain_id = compute_chain_id(genesis)
        members = tuple(
            ValidatorKey(each.participant, each.vote_key) for each in genesis.validators
        )
        self._validators = ValidatorSetId(0, members)
        self._sink = sink
        self.height = 0
        """Everything up to here has been verified."""
        self.digests: dict[int, bytes] = {}
        """Height -> digest of every verified block with transactions."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled. Ready once the present height is known.

        Raises:
            ProofInvalid: a node showed a block that does not verify.
        """
        self.height = await self._ask_height()
        task_status.started()
        turn = 0
        while True:
            wire = self._wires[turn % len(self._wires)]
            try:
                async with aclosing(self._watch(wire)) as blocks:
                    async for height, count in blocks:
                        if height > self.height:
                            if count:
                                await self._take(wire, height)
                            self.height = height
            except Unreachable:
                turn += 1
                await trio.sleep(RETRY_S)

    async def _ask_height(self) -> int:
        for wire in self._wires:
            try:
                answer = await wire.get("/v1/status", timeout_s=TIMEOUT_S)
            except Unreachable:
                continue
            return int(msgspec.msgpack.decode(answer.body)["read_height"])
        raise Unreachable("no validator answers")

    async def _watch(self, wire: Wire) -> AsyncGenerator[tuple[int, int], None]:
        """Yield (height, number of transactions) of each block above our height, in order."""
        path = f"/v1/events?types=block&after={self.height}"
        async with aclosing(wire.stream_lines(path, silence_s=SILENCE_S)) as lines:
            async for line in lines:
                if line.startswith(b"data: "):
                    event = msgspec.json.decode(line[6:])
                    yield int(event["height"]), int(event["tx_count"])

    async def _take(self, wire: Wire, height: int) -> None:
        block = await self._get_block(wire, height)
        receipts = verify_block(block, chain_id=self._chain_id, validators=self._validators)
        self.digests[height] = block["digest"]
        for receipt in receipts:
            self._sink(receipt.tx_hash, receipt.code)

    async def _get_block(self, wire: Wire, height: int) -> dict[str, Any]:
        path = f"/v1/blocks/{height}?receipts=1"
        answer = await wire.get(path, timeout_s=TIMEOUT_S)
        if answer.status >= SERVER_ERROR:
            raise Unreachable(f"{wire.url}{path}: HTTP {answer.status}")
        if answer.status != OK:
            raise InternalProblem(
                f"{wire.url}{path}: HTTP {answer.status}, {answer.body[:200]!r}",
                advice="report it: the node announced this block itself",
            )
        found: dict[str, Any] = msgspec.msgpack.decode(answer.body)
        return found


def verify_block(
    block: dict[str, Any], *, chain_id: bytes, validators: ValidatorSetId
) -> list[Receipt]:
    """Return the receipts of a block as the API shows it, after verifying all of it.

    Raises:
        ProofInvalid: the block is not final, or these are not its receipts.
    """
    certificate = block["certificate"]
    finalization = certificate["finalization"]
    proof = FinalityProof(
        finalization=Finalization(
            proposition=Proposition(**finalization["proposition"]),
            signers=finalization["signers"],
            signatures=tuple(finalization["signatures"]),
        ),
        headers=tuple(Header(**header) for header in certificate["headers"]),
    )
    header = verify_finality(proof, chain_id=chain_id, validators=validators)
    try:
        leaves = [bytes(raw) for raw in _LEAVES.decode(block["receipts"])]
        receipts = _RECEIPTS.decode(block["receipts"])
    except msgspec.DecodeError as error:
        raise ProofInvalid(f"block {block['height']}: receipts: {error}") from error
    if compute_digest(header) != block["digest"]:
        raise ProofInvalid(f"block {block['height']}: the digest is not its header's")
    if header.height != block["height"] or header.tx_count != len(receipts):
        raise ProofInvalid(f"block {block['height']}: header {header.height}, {len(receipts)} txs")
    if compute_root(leaves) != header.receipt_root:
        raise ProofInvalid(f"block {header.height}: receipt_root does not match its receipts")
    return receipts
