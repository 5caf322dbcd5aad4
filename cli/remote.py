"""A view of a node's state, enough of it to know who must sign what.

The rules for principals are the ledger's own (`ledger/authority.py`), applied here to records that
are read through the API when they are needed. With no node, the genesis state stands in: right for
everything that has not changed since. Nothing rests on it but advice; the ledger decides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeVar

from atpar.cli.chain import Chain
from atpar.cli.context import State
from atpar.cli.errors import NodeUnreachable, NotReady, RefusedByLedger
from atpar.cli.fetch import fetch
from atpar.ledger.authority import examine_bundle, get_policy, list_principals
from atpar.ledger.errors import Refused
from atpar.ledger.genesis import build_genesis
from atpar.ledger.jsonform import JsonInvalid, from_json
from atpar.ledger.operations import AssetTerms, Policy, WeightedKey
from atpar.ledger.records import (
    ACCOUNTS,
    ASSETS,
    FREEZES,
    HOLDS,
    RESERVES,
    FreezeOrder,
    HoldKind,
    HoldStatus,
    new_account,
)
from atpar.ledger.state import Section, View
from atpar.ledger.transactions import Body
from atpar.ledger.types import GOVERNANCE, ZERO_HASH, Direction

T = TypeVar("T")

UNKNOWN: Final = frozenset(
    {"UNKNOWN_ACCOUNT", "UNKNOWN_ASSET", "UNKNOWN_REDEMPTION", "UNKNOWN_PARTICIPANT"}
)


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

    def add_freeze(self, freeze: bytes, order: FreezeOrder) -> None:
        """Take in an order that was found on its account; nodes find none by its id alone."""
        self._found[(FREEZES.id, freeze)] = order

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
        if section.id == HOLDS.id:
            answer = self.fetch(f"/v1/redemptions/{key.hex()}")
            return None if answer is None else _make_hold(answer["redemption"])
        if section.id == FREEZES.id:
            return None
        return self._genesis.get(section, key)


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
    return SimpleNamespace(
        kind=HoldKind.REDEMPTION,
        status=HoldStatus(answer["status"]),
        asset=answer["asset"],
        debtor=answer["holder"],
        creditor=answer["holder"],
        redemption=answer,
        payment=None,
    )


def find_freeze(view: RemoteView, account: str, freeze: bytes) -> FreezeOrder | None:
    """Return a freeze order in force on an account, and remember it in the view."""
    answer = view.fetch(f"/v1/accounts/{account}")
    for each in answer["freezes"] if answer is not None else []:
        if each["freeze"] == freeze.hex():
            amount = each["amount"]
            order = FreezeOrder(
                account=each["account"],
                asset=each["asset"],
                direction=Direction(each["direction"]),
                amount=None if amount is None else int(amount),
                by=each["by"],
                order_hash=bytes.fromhex(each.get("order_hash") or ZERO_HASH.hex()),
                review_at_ms=each["review_at_ms"],
                placed_at_ms=each["placed_at_ms"],
            )
            view.add_freeze(freeze, order)
            return order
    return None


# ---- who must sign


@dataclass(frozen=True, slots=True)
class Principal:
    """One account that must agree, and how far the signatures go."""

    account: str
    policy: Policy
    weight: int
    """What the signatures so far count for."""

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
    accounts = {body.sender: None}
    new_keys: set[bytes] = set()
    unknown = []
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
    heard = frozenset(signers)
    for account in accounts:
        try:
            policy = get_policy(view, account)
        except Refused as error:
            unknown.append(error.message)
            missing.append(account)
        else:
            principals.append(Principal(account, policy, _weigh(policy, heard)))
    for key in sorted(new_keys):
        policy = Policy((WeightedKey(key, 1),), 1)
        principals.append(Principal("the new key", policy, _weigh(policy, heard)))
    return Authority(tuple(principals), tuple(unknown), tuple(missing), is_current)
