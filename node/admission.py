"""The one way into the mempool: decode, judge on the last final state, verify, hold.

Used for clients and for gossip alike. Cheap checks come first: a transaction that is already known
or finds no room costs no signature check, and a full verifier or mempool refuses before anything
is held. A batch yields to the rest of the node every few thousand bytes, so no client traffic
delays a vote; and what lies between two such moments is judged on one state at one time.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple

import msgspec
import trio

from atpar.ledger.authority import get_params
from atpar.ledger.codes import Code
from atpar.ledger.entry import Entrance, make_entrance
from atpar.ledger.errors import NonCanonical, Refused
from atpar.ledger.hashing import HashTag, hash_all
from atpar.ledger.keys import SignedTriple
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.reads import get_tx_record
from atpar.ledger.state import View
from atpar.ledger.transactions import Transaction, decode_many
from atpar.node.errors import VerifierBusy, VerifierStopped
from atpar.node.executor import Tip
from atpar.node.limits import ADMISSION_SLICE_BYTES, CLIENTS_PATIENCE_S
from atpar.node.mempool import Added, Mempool
from atpar.node.verifier import Priority, Verifier

_FULL_MESSAGE: Final = "too many transactions are waiting; send the same bytes again later"


class Result(Enum):
    """What became of an envelope."""

    ADMITTED = "admitted"
    KNOWN = "known"
    """The same sender, id and body came before; `first` says in which envelope."""
    REFUSED = "refused"
    """It breaks a rule; `code` says which."""
    NO_ROOM = "no_room"
    """Nothing is wrong with it; the node has no room now, or is stopping."""


class Outcome(msgspec.Struct, frozen=True):
    """The answer to one envelope. A Struct because there is one for every envelope."""

    result: Result
    transaction: Transaction | None
    """None when the bytes did not decode."""
    code: Code = Code.OK
    message: str = ""
    first: bytes = b""
    """Hash of the envelope that stands for this sender and id, unless refused."""


class _Moment(NamedTuple):
    """What envelopes are judged by until the node does something else."""

    view: View
    entrance: Entrance
    is_backlogged: bool
    """Whether clients have to wait. Nothing enters the mempool before the moment is over."""


class _Call(NamedTuple):
    """What concerns all envelopes of one call."""

    priority: Priority
    yields_until: float
    """When clients' patience with gossip ends."""
    judged_on: bytes
    """Digest of the final block when the first of them was judged."""


class Admission:
    """Judges envelopes and hands the good ones to the validator's mempool."""

    def __init__(
        self,
        *,
        chain_id: bytes,
        get_final: Callable[[], Tip],
        admit: Callable[[Sequence[Transaction], bytes], list[Added]],
        mempool: Mempool,
        verifier: Verifier,
        get_wall_ms: Callable[[], int],
        is_verified: Callable[[bytes], bool] = lambda _tx_hash: False,
    ) -> None:
        """Keep what to ask.

        Args:
            get_final: returns the last final block with its state.
            admit: holds checked transactions, given the digest of the final block on which the
                first of them was judged, and tells consensus; plain and immediate.
            get_wall_ms: returns Unix milliseconds.
            is_verified: tells by the hash of an envelope whether all its signatures were checked
                here already, as those of blocks are that overtook gossip.
        """
        self._chain_id = chain_id
        self._get_final = get_final
        self._admit = admit
        self._mempool = mempool
        self._verifier = verifier
        self._get_wall_ms = get_wall_ms
        self._is_verified = is_verified
        self._gossip_checks = 0
        """Portions of gossip that the verifier has now."""
        self._yielding: dict[trio.CancelScope, float] = {}
        """Portions of clients that it has, and until when each stands behind gossip."""

    async def admit(
        self,
        envelopes: Sequence[bytes],
        priority: Priority,
        *,
        on_held: Callable[[list[Transaction]], None] = lambda _held: None,
    ) -> list[Outcome]:
        """Return one outcome per envelope, in order. Raises nothing of its own.

        Args:
            on_held: told at once of each run of transactions that the mempool took, long before
                the last of many envelopes is checked.
        """
        judged: list[Transaction | Outcome] = []
        candidates: dict[bytes, Transaction] = {}
        judged_on = self._get_final().digest
        for part in _slice(envelopes):
            if judged:
                await trio.lowlevel.checkpoint()
            judged += self._judge_all(part, priority, self._take_moment())
        for each in judged:
            if isinstance(each, Transaction):
                candidates.setdefault(each.hash, each)
        decided: dict[bytes, Outcome] = {}
        call = _Call(priority, trio.current_time() + CLIENTS_PATIENCE_S, judged_on)
        # A portion is held as soon as it is checked: blocks take it up, and do not check it again.
        for portion in _cut(list(candidates.values()), self._verifier.portion):
            decided |= await self._verify_portion(portion, call)
            held = [tx for tx in portion if decided[tx.hash].result is Result.ADMITTED]
            if held:
                on_held(held)
        return [decided[each.hash] if isinstance(each, Transaction) else each for each in judged]

    def _take_moment(self) -> _Moment:
        view = self._get_final().view
        entrance = make_entrance(
            view, chain_id=self._chain_id, now_ms=self._get_wall_ms(), params=get_params(view)
        )
        return _Moment(view, entrance, self._mempool.is_backlogged)

    def _judge_all(
        self, raws: Sequence[bytes], priority: Priority, moment: _Moment
    ) -> list[Transaction | Outcome]:
        """Return each transaction if only its signatures are left to check, else its outcome."""
        fitting = [raw for raw in raws if len(raw) <= MAX_TRANSACTION_BYTES]
        hashes = hash_all(HashTag.TX.value, fitting)
        unknown = [
            (raw, tx_hash)
            for raw, tx_hash in zip(fitting, hashes, strict=True)
            if tx_hash not in self._mempool
        ]
        decoded = iter(decode_many([raw for raw, _ in unknown], [h for _, h in unknown]))
        rest = iter(hashes)
        judged: list[Transaction | Outcome] = []
        for raw in raws:
            if len(raw) > MAX_TRANSACTION_BYTES:
                message = f"{len(raw)} bytes, at most {MAX_TRANSACTION_BYTES}"
                judged.append(Outcome(Result.REFUSED, None, Code.TOO_LARGE, message))
                continue
            tx_hash = next(rest)
            known = self._mempool.get(tx_hash)
            if known is not None:
                judged.append(Outcome(Result.KNOWN, known, first=tx_hash))
                continue
            tx = next(decoded)
            if isinstance(tx, NonCanonical):
                judged.append(Outcome(Result.REFUSED, None, Code.NON_CANONICAL, str(tx)))
            else:
                judged.append(self._judge(tx, priority, moment))
        return judged

    def _judge(self, tx: Transaction, priority: Priority, moment: _Moment) -> Transaction | Outcome:
        """Return the transaction if only its signatures are left to check, else its outcome."""
        body = tx.body
        holder = self._mempool.find(tx.id_key)
        if holder is not None and holder.body_hash == tx.body_hash:
            return Outcome(Result.KNOWN, tx, first=holder.hash)
        try:
            moment.entrance.check(tx)
        except Refused as refusal:
            return self._describe_refusal(moment.view, tx, refusal)
        if holder is not None:
            return _refuse_second(tx, holder)
        has_to_wait = moment.is_backlogged and priority is Priority.CLIENTS
        if has_to_wait or not self._mempool.has_room(body.sender, len(tx.raw)):
            return Outcome(Result.NO_ROOM, tx, Code.MEMPOOL_FULL, _FULL_MESSAGE)
        return tx

    def _describe_refusal(self, view: View, tx: Transaction, refusal: Refused) -> Outcome:
        """Return the outcome of a transaction that breaks a rule."""
        # Sent again after it ran, perhaps long after its window: the first receipt stands.
        used = self._find_used(view, tx)
        if used is not None and used.result is Result.KNOWN:
            return used
        held = self._find_held(tx)
        if held is not None and held.code < refusal.code:
            return held
        if used is not None and refusal.code is Code.ID_REUSED:
            return used
        return Outcome(Result.REFUSED, tx, refusal.code, _name_field(tx, refusal))

    def _find_used(self, view: View, tx: Transaction) -> Outcome | None:
        """Return the outcome of a transaction whose sender and id were executed, else None."""
        used = get_tx_record(view, tx.body.sender, tx.body.tx_id)
        if used is None:
            return None
        if used.body_hash == tx.body_hash:
            return Outcome(Result.KNOWN, tx, first=used.tx_hash)
        message = _compare_bodies(tx, f"was used at height {used.height}", used.body_hash)
        return Outcome(Result.REFUSED, tx, Code.ID_REUSED, message)

    def _find_held(self, tx: Transaction) -> Outcome | None:
        """Return the outcome of a transaction whose sender and id are pending, else None."""
        holder = self._mempool.find(tx.id_key)
        if holder is None:
            return None
        if holder.body_hash == tx.body_hash:
            return Outcome(Result.KNOWN, tx, first=holder.hash)
        return _refuse_second(tx, holder)

    async def _verify_portion(
        self, transactions: list[Transaction], call: _Call
    ) -> dict[bytes, Outcome]:
        """Return the outcome by envelope hash of transactions that only lack this check."""
        known = [tx for tx in transactions if self._is_verified(tx.hash)]
        decided: dict[bytes, Outcome] = {}
        unchecked = transactions
        if known:
            decided = self._hold(known, [True] * sum([len(tx.signatures) for tx in known]), call)
            unchecked = [tx for tx in transactions if tx.hash not in decided]
        if not unchecked:
            return decided
        try:
            triples = [triple for tx in unchecked for triple in tx.compute_triples()]
            verdicts = await self._check(triples, call)
        except VerifierBusy:
            code, message = Code.MEMPOOL_FULL, _FULL_MESSAGE
        except VerifierStopped:
            code, message = Code.NOT_READY, "the node is stopping; send the same bytes again"
        else:
            return decided | self._hold(unchecked, verdicts, call)
        refused = {tx.hash: Outcome(Result.NO_ROOM, tx, code, message) for tx in unchecked}
        return decided | refused

    async def _check(self, triples: Sequence[SignedTriple], call: _Call) -> list[bool]:
        """Return the verdicts; what clients brought stands behind gossip, but not for ever.

        Where gossip never ends for a while, a node's own clients would wait for seconds while those
        of other nodes are served. So once their patience is over it counts as gossip too, but only
        where there is gossip at that moment; else it stays what it is, and holds at most its share
        of the workers.
        """
        if call.priority is not Priority.CLIENTS:
            return await self._check_gossip(triples, call.priority)
        now = trio.current_time()
        is_patient = now < call.yields_until
        if is_patient or not self._gossip_checks:
            with trio.CancelScope() as scope:
                self._yielding[scope] = (
                    call.yields_until if is_patient else now + CLIENTS_PATIENCE_S
                )
                try:
                    return await self._verifier.verify(triples, call.priority)
                finally:
                    del self._yielding[scope]
        return await self._verifier.verify(triples, Priority.GOSSIP)

    async def _check_gossip(
        self, triples: Sequence[SignedTriple], priority: Priority
    ) -> list[bool]:
        """Return the verdicts; clients who yielded for long enough do so no more."""
        now = trio.current_time()
        for scope, until in self._yielding.items():
            if until <= now:
                scope.cancel()
        self._gossip_checks += 1
        try:
            return await self._verifier.verify(triples, priority)
        finally:
            self._gossip_checks -= 1

    def _hold(
        self, transactions: list[Transaction], verdicts: list[bool], call: _Call
    ) -> dict[bytes, Outcome]:
        decided: dict[bytes, Outcome] = {}
        good = transactions
        if not (all(verdicts) and all(len(tx.signatures) for tx in transactions)):
            good = self._sort_out(transactions, verdicts, decided)
        added_all = self._admit(good, call.judged_on) if good else ()
        for tx, added in zip(good, added_all, strict=True):
            if added is Added.ADDED:
                decided[tx.hash] = Outcome(Result.ADMITTED, tx, first=tx.hash)
            else:
                decided[tx.hash] = self._describe(tx, added)
        return decided

    @staticmethod
    def _sort_out(
        transactions: list[Transaction], verdicts: list[bool], decided: dict[bytes, Outcome]
    ) -> list[Transaction]:
        """Return those whose signatures are good; put down what is wrong with the others."""
        good = []
        position = 0
        for tx in transactions:
            end = position + len(tx.signatures)
            if position < end and False not in verdicts[position:end]:
                good.append(tx)
            else:
                message = _name_bad_signatures(tx, verdicts[position:end])
                decided[tx.hash] = Outcome(Result.REFUSED, tx, Code.BAD_SIGNATURE, message)
            position = end
        return good

    def _describe(self, tx: Transaction, added: Added) -> Outcome:
        """Return the outcome of a checked transaction that the mempool did not take."""
        if added is Added.FULL:
            return Outcome(Result.NO_ROOM, tx, Code.MEMPOOL_FULL, _FULL_MESSAGE)
        if added is Added.EXPIRED:
            message = f"valid until {tx.body.valid_until_ms}, final block time has passed it"
            return Outcome(Result.REFUSED, tx, Code.EXPIRED, message)
        # It came by another way while its signatures were checked.
        known = self._find_used(self._get_final().view, tx) or self._find_held(tx)
        assert known is not None, f"{added} without a holder of the id"
        return known


def _slice(envelopes: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield runs of so many bytes as are judged at once, or up to one envelope more."""
    first = size = 0
    for last, raw in enumerate(envelopes):
        size += len(raw)
        if size >= ADMISSION_SLICE_BYTES:
            yield envelopes[first : last + 1]
            first, size = last + 1, 0
    if first < len(envelopes):
        yield envelopes[first:]


def _cut(transactions: list[Transaction], portion: int) -> Iterator[list[Transaction]]:
    """Yield runs of transactions with so many signatures each, or a few more."""
    run: list[Transaction] = []
    signatures = 0
    for tx in transactions:
        run.append(tx)
        signatures += len(tx.signatures)
        if signatures >= portion:
            yield run
            run, signatures = [], 0
    if run:
        yield run


# ---- details of a refusal, worked out only when there is one


def _refuse_second(tx: Transaction, holder: Transaction) -> Outcome:
    """Return the outcome of a transaction whose id another pending one has."""
    message = _compare_bodies(tx, "is taken by a pending transaction", holder.body_hash)
    return Outcome(Result.REFUSED, tx, Code.ID_REUSED, message)


def _compare_bodies(tx: Transaction, what: str, first: bytes) -> str:
    return (
        f"tx_id: {tx.body.tx_id.hex()} {what} by the body with hash {first.hex()},"
        f" this body's hash is {tx.body_hash.hex()}"
    )


def _name_bad_signatures(tx: Transaction, verdicts: Sequence[bool]) -> str:
    bad = [
        f"signatures[{index}] by key {signature.key.hex()}"
        for index, (signature, good) in enumerate(zip(tx.signatures, verdicts, strict=True))
        if not good
    ]
    return f"{', '.join(bad) or 'a signature'} does not verify"


def _name_field(tx: Transaction, refusal: Refused) -> str:
    """Return a refusal's message; for an unknown account with the field that names it."""
    if refusal.code is not Code.UNKNOWN_ACCOUNT:
        return refusal.message
    fields = [("sender", tx.body.sender)]
    for index, op in enumerate(tx.body.ops):
        fields += [(f"ops[{index}].{name}", getattr(op, name)) for name in op.__struct_fields__]
    for path, value in fields:
        if refusal.message == f"no account {value}":
            return f"{path}: {refusal.message}"
    return refusal.message
