"""Every misbehaviour by name."""

from typing import Final

from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.conflicting_voter import ConflictingVoter
from tests.sim.byzantine.equivocating_leader import EquivocatingLeader
from tests.sim.byzantine.impersonator import Impersonator
from tests.sim.byzantine.invalid_signatures import InvalidSignatures
from tests.sim.byzantine.invalid_state_root import InvalidStateRoot
from tests.sim.byzantine.invalid_transaction import InvalidTransaction
from tests.sim.byzantine.nullify_and_finalize import NullifyAndFinalize
from tests.sim.byzantine.nullify_only import NullifyOnly
from tests.sim.byzantine.outdated_replayer import OutdatedReplayer
from tests.sim.byzantine.oversized import Oversized
from tests.sim.byzantine.silent import Silent
from tests.sim.byzantine.skipping_leader import SkippingLeader
from tests.sim.byzantine.withheld_body import WithheldBody
from tests.sim.byzantine.wrong_chain import WrongChain
from tests.sim.byzantine.wrong_epoch import WrongEpoch

ACTORS: Final[dict[str, type[Actor]]] = {
    "equivocating_leader": EquivocatingLeader,
    "conflicting_voter": ConflictingVoter,
    "nullify_and_finalize": NullifyAndFinalize,
    "nullify_only": NullifyOnly,
    "silent": Silent,
    "outdated_replayer": OutdatedReplayer,
    "impersonator": Impersonator,
    "wrong_epoch": WrongEpoch,
    "wrong_chain": WrongChain,
    "invalid_signatures": InvalidSignatures,
    "invalid_state_root": InvalidStateRoot,
    "invalid_transaction": InvalidTransaction,
    "withheld_body": WithheldBody,
    "oversized": Oversized,
    "skipping_leader": SkippingLeader,
}
