"""Epochs in the state: the validator set in force, and whose votes counted in those before.

An epoch begins with genesis, at a boundary block, or by a recovery document. All three come through
`open_epoch`, so that evidence of any epoch that is kept can be checked under the set that voted.
"""

from atpar.ledger.limits import EVIDENCE_EPOCHS
from atpar.ledger.records import (
    CURRENT,
    NEXT,
    VALIDATORS,
    VOTERS,
    ValidatorSet,
    identify_validators,
    number_key,
)
from atpar.ledger.state import Overlay


def open_epoch(overlay: Overlay, validators: ValidatorSet) -> None:
    """Put the set of an epoch in force; what was fixed for the next one is used up."""
    epoch = validators.epoch
    overlay.put(VALIDATORS, CURRENT, validators)
    if overlay.get(VALIDATORS, NEXT) is not None:
        overlay.delete(VALIDATORS, NEXT)
    overlay.put(VOTERS, number_key(epoch), identify_validators(validators))
    if epoch >= EVIDENCE_EPOCHS:
        overlay.delete(VOTERS, number_key(epoch - EVIDENCE_EPOCHS))
