"""Policies and keys: which policies are well formed, and how a key enters the ledger.

A key belongs to one participant for ever, and possession is proved when it is first named. Used
wherever a policy is set: by operations and by the genesis document.
"""

from itertools import pairwise

from atpar.ledger.codes import Code
from atpar.ledger.errors import Refused
from atpar.ledger.keys import is_registrable_key, verify_possession
from atpar.ledger.operations import Policy, Possession
from atpar.ledger.records import KEYS, KeyOwner
from atpar.ledger.state import Overlay, View


def check_policy(policy: Policy) -> None:
    """Check that a policy is canonical and can be satisfied.

    Raises:
        Refused: POLICY_INVALID.
    """
    keys = [entry.key for entry in policy.keys]
    if not keys:
        raise Refused(Code.POLICY_INVALID, "keys: at least one")
    if any(first >= second for first, second in pairwise(keys)):
        raise Refused(Code.POLICY_INVALID, "keys: not in ascending order without duplicates")
    total = sum(entry.weight for entry in policy.keys)
    if not 1 <= policy.threshold <= total:
        raise Refused(Code.POLICY_INVALID, f"threshold: {policy.threshold}, weights sum to {total}")


def needs_two_keys(policy: Policy) -> bool:
    """Return whether no single key of the policy reaches its threshold."""
    return all(entry.weight < policy.threshold for entry in policy.keys)


def share_key(first: Policy, second: Policy) -> bytes | None:
    """Return a key that both policies name, or None."""
    keys = {entry.key for entry in first.keys}
    return next((entry.key for entry in second.keys if entry.key in keys), None)


def check_keys(
    view: View,
    participant: str,
    keys: list[bytes],
    possessions: tuple[Possession, ...],
    *,
    chain_id: bytes,
) -> list[bytes]:
    """Check that a participant may use these keys; return the ones that are new to the ledger.

    Raises:
        Refused: POSSESSION_MISSING, KEY_TAKEN or KEY_INVALID, whichever comes first in precedence.
    """
    proofs = {proof.key: proof.signature for proof in possessions}
    fresh, taken, invalid = [], None, None
    for key in keys:
        owner = view.get(KEYS, key)
        if owner is not None:
            if owner.participant != participant:
                taken = taken or key
            continue
        # A proof that is not there costs nothing to miss: the arithmetic on keys, which is slow, is
        # done for proofs that the transaction brought, and those count as signatures of the block.
        signature = proofs.get(key)
        if signature is not None and not is_registrable_key(key):
            invalid = invalid or key
            continue
        if signature is None or not verify_possession(
            chain_id, participant=participant, public_key=key, signature=signature
        ):
            raise Refused(Code.POSSESSION_MISSING, f"no valid proof of possession for {key.hex()}")
        fresh.append(key)
    if taken is not None:
        raise Refused(Code.KEY_TAKEN, f"{taken.hex()} belongs to another participant")
    if invalid is not None:
        raise Refused(Code.KEY_INVALID, f"{invalid.hex()} is not canonical, or of small order")
    return fresh


def list_new_keys(before: Policy, after: Policy) -> list[bytes]:
    """Return the keys that a policy names and its predecessor does not, in order."""
    known = {entry.key for entry in before.keys}
    return [entry.key for entry in after.keys if entry.key not in known]


def register_signed_policy(overlay: Overlay, participant: str, policy: Policy) -> None:
    """As `register_policy`, where each new key signed the transaction, which proves possession.

    Raises:
        Refused: KEY_TAKEN, KEY_INVALID or POLICY_INVALID.
    """
    keys = [entry.key for entry in policy.keys]
    owners = [overlay.get(KEYS, key) for key in keys]
    for key, owner in zip(keys, owners, strict=True):
        if owner is not None and owner.participant != participant:
            raise Refused(Code.KEY_TAKEN, f"{key.hex()} belongs to another participant")
    for key, owner in zip(keys, owners, strict=True):
        if owner is None and not is_registrable_key(key):
            raise Refused(Code.KEY_INVALID, f"{key.hex()} is not canonical, or of small order")
    check_policy(policy)
    for key, owner in zip(keys, owners, strict=True):
        if owner is None:
            overlay.put(KEYS, key, KeyOwner(participant))


def register_policy(
    overlay: Overlay,
    participant: str,
    policy: Policy,
    possessions: tuple[Possession, ...],
    *,
    chain_id: bytes,
) -> None:
    """Check a policy and its keys, and write the new keys' owner.

    Raises:
        Refused: the first broken rule in precedence.
    """
    keys = [entry.key for entry in policy.keys]
    fresh = check_keys(overlay, participant, keys, possessions, chain_id=chain_id)
    check_policy(policy)
    for key in fresh:
        overlay.put(KEYS, key, KeyOwner(participant))
