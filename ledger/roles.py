"""Role conflicts and weak policies: what must hold between an asset's role accounts.

One place for `set_asset`, `update_account`, `set_participant` and the genesis document, so that a
rule cannot be met at creation and lost later.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.operations import AssetTerms, Policy
from atpar.ledger.policies import needs_two_keys, share_key
from atpar.ledger.records import ACCOUNTS, ASSETS, PARTICIPANTS, AccountStatus, Asset
from atpar.ledger.state import View
from atpar.ledger.types import Role, admin_of, participant_of

SINGLE_ROLES = (
    "treasury",
    "custodian",
    "auditor",
    "regulator",
    "compliance",
    "compliance_release",
    "seizure",
    "pauser",
    "unpauser",
)
"""Fields of `AssetTerms` that name one account."""
TWO_KEY_ROLES = ("treasury", "custodian", "compliance_release", "seizure", "unpauser")
"""Roles whose policy no single key may satisfy; minters and participants' admins too."""
INDEPENDENT_ROLES = (
    ("custodian", Role.CUSTODIAN),
    ("auditor", Role.AUDITOR),
    ("regulator", Role.REGULATOR),
)
"""Held by participants with that licence, mutually different, none the issuer."""
OPPOSED_PAIRS = (("pauser", "unpauser"), ("compliance", "compliance_release"))


class RoleFault(NamedTuple):
    """One broken rule: its code, the field of the terms, and both values."""

    code: Code
    field: str
    message: str


def list_role_accounts(terms: AssetTerms) -> list[tuple[str, str]]:
    """Return (field, account) of every role, minters as `minters[i]`."""
    named = [(role, getattr(terms, role)) for role in SINGLE_ROLES]
    return named + [(f"minters[{i}]", minter) for i, minter in enumerate(terms.minters)]


def find_role_faults(view: View, issuer: str, terms: AssetTerms) -> Iterator[RoleFault]:
    """Yield every broken rule of an asset's roles, in order of the code's precedence."""
    policies: dict[str, Policy] = {}
    missing = []
    for field, account_id in list_role_accounts(terms):
        account = view.get(ACCOUNTS, account_id.encode())
        if account is None or account.status is AccountStatus.CLOSED:
            missing.append(RoleFault(Code.ROLE_MISSING, field, f"no open account {account_id}"))
        else:
            policies[field] = account.policy
    yield from _find_weak(policies)
    yield from _find_conflicts(issuer, terms, policies)
    yield from missing
    yield from _find_unlicensed(view, issuer, terms)


def _find_weak(policies: dict[str, Policy]) -> Iterator[RoleFault]:
    for field, policy in policies.items():
        strict = field in TWO_KEY_ROLES or field.startswith("minters")
        if strict and not needs_two_keys(policy):
            yield RoleFault(Code.POLICY_WEAK, field, "one key alone reaches the threshold")


def _find_conflicts(
    issuer: str, terms: AssetTerms, policies: dict[str, Policy]
) -> Iterator[RoleFault]:
    holders = [(field, participant_of(getattr(terms, field))) for field, _ in INDEPENDENT_ROLES]
    for position, (field, holder) in enumerate(holders):
        if holder == issuer:
            yield RoleFault(Code.ROLE_CONFLICT, field, f"{holder} is the issuer")
        for other, other_holder in holders[:position]:
            if holder == other_holder:
                yield RoleFault(Code.ROLE_CONFLICT, field, f"{holder} is the {other} too")
    for first, second in _list_opposed(terms):
        if first in policies and second in policies:
            key = share_key(policies[first], policies[second])
            if key is not None:
                message = f"shares the key {key.hex()} with {first}"
                yield RoleFault(Code.ROLE_CONFLICT, second, message)


def _list_opposed(terms: AssetTerms) -> list[tuple[str, str]]:
    singles = ["treasury", "custodian", "auditor", "regulator"]
    pairs = [(a, b) for i, a in enumerate(singles) for b in singles[i + 1 :]]
    minters = [f"minters[{i}]" for i in range(len(terms.minters))]
    return [*pairs, *((single, minter) for single in singles for minter in minters), *OPPOSED_PAIRS]


def _find_unlicensed(view: View, issuer: str, terms: AssetTerms) -> Iterator[RoleFault]:
    needed = [("issuer", issuer, Role.ISSUER)]
    needed += [(f, participant_of(getattr(terms, f)), role) for f, role in INDEPENDENT_ROLES]
    for field, code, role in needed:
        participant = view.get(PARTICIPANTS, code.encode())
        if participant is None or role not in participant.roles:
            yield RoleFault(Code.ROLE_MISSING, field, f"{code} is not licensed as {role.value}")


def check_faults(faults: Iterable[RoleFault], *, what: str) -> None:
    """Refuse what broke a rule.

    Raises:
        Refused: the fault that is first in precedence.
    """
    worst = min(faults, default=None)
    if worst is not None:
        raise Refused(worst.code, f"{what} {worst.field}: {worst.message}")


def list_assets(view: View) -> Iterator[tuple[str, Asset]]:
    """Yield every asset by code, in order."""
    for key, asset in view.scan(ASSETS, b""):
        yield key.decode(), asset


def find_account_faults(view: View, account_id: str) -> Iterator[RoleFault]:
    """Yield what is broken in the roles an account plays, after its policy changed."""
    account = view.get(ACCOUNTS, account_id.encode())
    assert account is not None, account_id
    if account_id == admin_of(participant_of(account_id)) and not needs_two_keys(account.policy):
        yield RoleFault(Code.POLICY_WEAK, "policy", "one key alone reaches the threshold")
    for _, asset in list_assets(view):
        if any(holder == account_id for _, holder in list_role_accounts(asset.terms)):
            yield from find_role_faults(view, asset.issuer, asset.terms)


def is_regulator(view: View, account_id: str) -> bool:
    """Return whether an account speaks for a regulator beyond one asset.

    It belongs to a participant with that licence, as its admin account or as the regulator of an
    asset.
    """
    code = participant_of(account_id)
    participant = view.get(PARTICIPANTS, code.encode())
    if participant is None or Role.REGULATOR not in participant.roles:
        return False
    if account_id == admin_of(code):
        return True
    return any(asset.terms.regulator == account_id for _, asset in list_assets(view))
