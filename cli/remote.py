"""A view of a node's state, enough of it to know who must sign what.

The rules for principals are the ledger's own (`ledger/authority.py`), applied here to records that
are read through the API when they are needed. With no node, the genesis state stands in: right for
everything that has not changed since. Nothing rests on it but advice; the ledger decides.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeVar

from atpar.cli.chain import Chain
from atpar.cli.context import State
from atpar.cli.errors import NodeUnreachable, NotReady, RefusedByLedger
from atpar.cli.fetch import fetch
from atpar.ledger.authority import Bundle, examine_bundle, get_policy, list_principals
from atpar.ledger.codec import Wire
from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.genesis import build_genesis
from atpar.ledger.jsonform import JsonInvalid, from_json
from atpar.ledger.operations import (
    Approve,
    AssetTerms,
    BundledOperation,
    Decision,
    Operation,
    Policy,
    Propose,
    WeightedKey,
)
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    CURRENT,
    FREEZES,
    HOLDS,
    PROPOSALS,
    RESERVES,
    VALIDATORS,
    FreezeOrder,
    HoldKind,
    HoldStatus,
    PaymentTerms,
    Proposal,
    Validator,
    ValidatorSet,
    Verdict,
    new_account,
)
from atpar.ledger.state import Section, View
from atpar.ledger.transactions import Body
from atpar.ledger.types import GOVERNANCE, Direction

T = TypeVar("T")

UNKNOWN: Final = frozenset(
    {
        "UNKNOWN_ACCOUNT",
        "UNKNOWN_ASSET",
        "UNKNOWN_REDEMPTION",
        "UNKNOWN_PARTICIPANT",
        "UNKNOWN_HOLD",
        "UNKNOWN_FREEZE",
        "UNKNOWN_PROPOSAL",
    }
)


class _Ops(Wire, frozen=True):
    """The operations of a bundle, as they stand in JSON."""

    ops: tuple[BundledOperation, ...]


class RemoteView:
    """Records of the final state, read from a node one by one and kept for this command.

    Of assets, reserves and holds only the fields that decide who must sign are there.
    """

    def __init__(self, state: State, genesis: View) -> None:
        self._state = state
        self._genesis = genesis
        self._found: dict[tuple[int, bytes], Any] = {}
        self._answers: dict[str, dict[str, Any] | None] = {}

    def get(self, section: Section[T], key: bytes) -> T | None:
        """Return the record under a key, or None."""
        slot = (section.id, key)
        if slot not in self._found:
            self._found[slot] = self._read(section, key)
        record: T | None = self._found[slot]
        return record

    def scan(self, section: Section[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Nothing that is asked here needs it."""
        raise NotImplementedError(section.name, prefix)

    def get_node(self, key: bytes) -> bytes | None:
        """Nothing that is asked here needs it."""
        raise NotImplementedError(key)

    def fetch(self, path: str) -> dict[str, Any] | None:
        """Return a node's answer, or None where it knows nothing of that name."""
        if path not in self._answers:
            try:
                self._answers[path] = fetch(self._state, path)
            except RefusedByLedger as error:
                if error.code not in UNKNOWN:
                    raise
                self._answers[path] = None
        return self._answers[path]

    def _read(self, section: Section[Any], key: bytes) -> Any:
        if section.id == ACCOUNTS.id:
            answer = self.fetch(f"/v1/accounts/{key.decode()}")
            return None if answer is None else new_account(from_json(Policy, answer["policy"]))
        if section.id in (ASSETS.id, RESERVES.id):
            answer = self.fetch(f"/v1/assets/{key.decode()}")
            if answer is None:
                return None
            return _make_asset(answer) if section.id == ASSETS.id else _make_reserve(answer)
        if section.id == VALIDATORS.id and key == CURRENT:
            return self._read_validators()
        if section.id in _BY_ID:
            path, member, make = _BY_ID[section.id]
            answer = self.fetch(f"/v1/{path}/{key.hex()}")
            return None if answer is None else make(answer[member])
        return self._genesis.get(section, key)

    def _read_validators(self) -> Any:
        """Return the set in force; of a node that does not tell it, that of the genesis state."""
        answer = self.fetch("/v1/validators") or {}
        if "members" not in answer:
            return self._genesis.get(VALIDATORS, CURRENT)
        members = tuple(from_json(Validator, each) for each in answer["members"])
        return ValidatorSet(answer["epoch"], members)


def _make_asset(answer: dict[str, Any]) -> Any:
    """Return what the rules for principals look at in an asset's record."""
    return SimpleNamespace(
        issuer=answer["issuer"],
        currency=answer["currency"],
        scale=answer["scale"],
        terms=from_json(AssetTerms, answer["terms"]),
    )


def _make_reserve(answer: dict[str, Any]) -> Any:
    reserve = answer["reserve"]
    if reserve is None:
        return None
    listed = tuple(bytes.fromhex(hold) for hold in reserve["paid_not_burned"])
    return SimpleNamespace(sequence=reserve["sequence"], paid_not_burned=listed)


def _make_hold(answer: dict[str, Any]) -> Any:
    payment = answer["payment"]
    return SimpleNamespace(
        kind=HoldKind(answer["kind"]),
        status=HoldStatus(answer["status"]),
        asset=answer["asset"],
        debtor=answer["debtor"],
        creditor=answer["creditor"],
        open=int(answer["open"]),
        redemption=answer if payment is None else None,
        payment=None if payment is None else from_json(PaymentTerms, payment),
    )


def _make_freeze(answer: dict[str, Any]) -> FreezeOrder:
    amount = answer["amount"]
    return FreezeOrder(
        account=answer["account"],
        asset=answer["asset"],
        direction=Direction(answer["direction"]),
        amount=None if amount is None else int(amount),
        by=answer["by"],
        order_hash=bytes.fromhex(answer["order_hash"]),
        review_at_ms=answer["review_at_ms"],
        placed_at_ms=answer["placed_at_ms"],
    )


def make_proposal(answer: dict[str, Any]) -> Proposal:
    """Return the proposal that an answer shows."""
    return Proposal(
        sender=answer["sender"],
        makers=tuple(bytes.fromhex(key) for key in answer["makers"]),
        ops=from_json(_Ops, {"ops": answer["ops"]}).ops,
        bundle_hash=bytes.fromhex(answer["bundle_hash"]),
        expires_at_ms=answer["expires_at_ms"],
        placed_at_ms=answer["placed_at_ms"],
        verdicts=tuple(from_json(Verdict, each) for each in answer["verdicts"]),
    )


_BY_ID: Final[dict[int, tuple[str, str, Callable[[dict[str, Any]], Any]]]] = {
    HOLDS.id: ("holds", "hold", _make_hold),
    FREEZES.id: ("freezes", "freeze", _make_freeze),
    PROPOSALS.id: ("proposals", "proposal", make_proposal),
}
"""Records that are found by an id: the route, the member of its answer, and how it is read."""


# ---- who must sign


@dataclass(frozen=True, slots=True)
class Principal:
    """One account that must agree, and how far the signatures go."""

    account: str
    policy: Policy
    weight: int
    """What the signatures so far count for."""
    spent: frozenset[bytes] = frozenset()
    """Keys that have spoken already: another must."""

    @property
    def is_met(self) -> bool:
        """Whether the signatures satisfy it."""
        return self.weight >= self.policy.threshold


@dataclass(frozen=True, slots=True)
class Authority:
    """Who must agree to a body."""

    principals: tuple[Principal, ...]
    unknown: tuple[str, ...]
    """What a principal could not be found for, in words."""
    missing: tuple[str, ...]
    """The accounts among the principals that do not exist in the state that was looked at."""
    is_current: bool
    """Read from a node; otherwise from the genesis document."""

    @property
    def unmet(self) -> tuple[Principal, ...]:
        """The principals that need more signatures."""
        return tuple(each for each in self.principals if not each.is_met)


@dataclass(frozen=True, slots=True)
class Look:
    """A state to look policies up in."""

    view: View
    failure: NodeUnreachable | NotReady | None
    """Why no node's state could be had; then the view is the genesis state."""


def make_look(state: State, chain: Chain) -> Look:
    """Return a node's state, or the genesis state where no node answers."""
    genesis = build_genesis(chain.document).overlay
    remote = RemoteView(state, genesis)
    try:
        remote.fetch("/v1/status")
    except (NodeUnreachable, NotReady) as error:
        return Look(genesis, error)
    return Look(remote, None)


def _weigh(policy: Policy, signers: frozenset[bytes] | set[bytes]) -> int:
    """Return what the signers' keys weigh together under a policy."""
    return sum(entry.weight for entry in policy.keys if entry.key in signers)


def compute_authority(
    view: View, body: Body, signers: Sequence[bytes], *, is_current: bool
) -> Authority:
    """Return who must agree to a body and what these signers' keys amount to."""
    heard = frozenset(signers)
    if body.ops and all(isinstance(op, Propose | Approve) for op in body.ops):
        return _compute_voices(view, body, heard, is_current=is_current)
    accounts = {body.sender: None}
    new_keys: set[bytes] = set()
    unknown: list[str] = []
    for op in body.ops:
        try:
            bundle = examine_bundle(view, [op])
            accounts.update(dict.fromkeys(list_principals(view, op)))
        except (Refused, JsonInvalid, KeyError, ValueError) as error:
            unknown.append(str(error))
        else:
            # Who is replaced agrees too; that governance may do so in their place is left to it.
            accounts.update(dict.fromkeys(sorted(bundle.targets - {GOVERNANCE})))
            new_keys.update(bundle.new_keys)
    principals, missing = [], []
    for account in accounts:
        try:
            policy = get_policy(view, account)
        except Refused as error:
            missing.append(account)
            unknown.append(error.message)
        else:
            principals.append(Principal(account, policy, _weigh(policy, heard)))
    for key in sorted(new_keys):
        policy = _any_of({key})
        principals.append(Principal("the new key", policy, _weigh(policy, heard)))
    return Authority(tuple(principals), tuple(unknown), tuple(missing), is_current)


# ---- proposals and decisions, for which one key speaks


@dataclass(frozen=True, slots=True)
class _Matter:
    """What a proposal or a decision is about."""

    bundle: Bundle
    voices: frozenset[bytes]
    """Whose signature counts."""
    spent: frozenset[bytes]
    """Whose does not count any more, or not for this decision."""
    proposer: str | None
    """In whose name the proposal was made; None while it is being made."""


def _compute_voices(
    view: View, body: Body, heard: frozenset[bytes], *, is_current: bool
) -> Authority:
    """Return who may propose or decide: any one key that is concerned, also for the sender."""
    unknown: list[str] = []
    principals: list[Principal] = []
    missing: list[str] = []
    own: Policy | None = None
    try:
        own = get_policy(view, body.sender)
    except Refused as error:
        missing.append(body.sender)
        unknown.append(error.message)
    for op in body.ops:
        assert isinstance(op, Propose | Approve)
        try:
            matter = _examine_matter(view, op)
        except (Refused, JsonInvalid, KeyError, ValueError) as error:
            unknown.append(str(error))
            matter = None
        if own is not None:
            principals.append(_find_sender(body.sender, own, matter, heard))
        if matter is not None:
            policy = _any_of(matter.voices)
            weight = _weigh(policy, heard)
            principals.append(Principal("the proposal", policy, weight, matter.spent))
    return Authority(tuple(principals), tuple(unknown), tuple(missing), is_current)


def _examine_matter(view: View, op: Propose | Approve) -> _Matter:
    if isinstance(op, Propose):
        bundle = examine_bundle(view, op.ops)
        return _Matter(bundle, bundle.holders, frozenset(), None)
    proposal = view.get(PROPOSALS, op.proposal)
    if proposal is None:
        raise Refused(Code.UNKNOWN_PROPOSAL, f"no open proposal {op.proposal.hex()}")
    bundle = examine_bundle(view, proposal.ops)
    voices = bundle.voices | frozenset(proposal.makers)
    if op.decision is Decision.WITHDRAW:
        spent = voices - frozenset(proposal.makers)
    else:
        spent = frozenset(each.key for each in proposal.verdicts)
    return _Matter(bundle, voices, spent, proposal.sender)


def _find_sender(
    account: str, own: Policy, matter: _Matter | None, heard: frozenset[bytes]
) -> Principal:
    """Return the sender as a principal: one key of it will do where the bundle concerns it."""
    spent = frozenset() if matter is None else matter.spent
    if _weigh(own, heard) >= own.threshold or (
        matter is not None and account not in matter.bundle.targets
    ):
        return Principal(account, own, _weigh(own, heard), spent)
    keys = {entry.key for entry in own.keys}
    if matter is not None and matter.proposer == account:
        keys |= matter.bundle.new_keys
    policy = _any_of(keys)
    return Principal(account, policy, _weigh(policy, heard), spent)


def _any_of(keys: Set[bytes]) -> Policy:
    return Policy(tuple(WeightedKey(key, 1) for key in sorted(keys)), 1)


def list_targets(view: View, ops: Sequence[Operation]) -> list[str]:
    """Return the accounts whose agreement a bundle needs, in the order that it names them.

    Raises:
        Refused: something that it names does not exist.
    """
    targets = examine_bundle(view, ops).targets
    named = dict.fromkeys(account for op in ops for account in list_principals(view, op))
    return [*named, *sorted(targets - named.keys())]
