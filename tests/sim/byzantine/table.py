"""Every misbehaviour by name."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.blend import Blend
from tests.sim.byzantine.catch_up_poisoner import CatchUpPoisoner
from tests.sim.byzantine.churner import Churner
from tests.sim.byzantine.clock_edge_leader import ClockEdgeLeader
from tests.sim.byzantine.colluder import Colluder
from tests.sim.byzantine.conflicting_voter import ConflictingVoter
from tests.sim.byzantine.disorderly_certificates import DisorderlyCertificates
from tests.sim.byzantine.edge_gossiper import EdgeGossiper
from tests.sim.byzantine.epoch_echo import EpochEcho
from tests.sim.byzantine.equivocating_leader import EquivocatingLeader
from tests.sim.byzantine.flapping import Flapping
from tests.sim.byzantine.impersonator import Impersonator
from tests.sim.byzantine.invalid_signatures import InvalidSignatures
from tests.sim.byzantine.invalid_state_root import InvalidStateRoot
from tests.sim.byzantine.invalid_transaction import InvalidTransaction
from tests.sim.byzantine.last_moment_leader import LastMomentLeader
from tests.sim.byzantine.late_voter import LateVoter
from tests.sim.byzantine.nullify_and_finalize import NullifyAndFinalize
from tests.sim.byzantine.nullify_only import NullifyOnly
from tests.sim.byzantine.outdated_answers import OutdatedAnswers
from tests.sim.byzantine.outdated_replayer import OutdatedReplayer
from tests.sim.byzantine.oversized import Oversized
from tests.sim.byzantine.silent import Silent
from tests.sim.byzantine.skipping_leader import SkippingLeader
from tests.sim.byzantine.two_paced import TwoPaced
from tests.sim.byzantine.withheld_body import WithheldBody
from tests.sim.byzantine.wrong_chain import WrongChain
from tests.sim.byzantine.wrong_epoch import WrongEpoch

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster, Machine

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
    "two_paced": TwoPaced,
    "late_voter": LateVoter,
    "last_moment_leader": LastMomentLeader,
    "outdated_answers": OutdatedAnswers,
    "catch_up_poisoner": CatchUpPoisoner,
    "colluder": Colluder,
    "disorderly_certificates": DisorderlyCertificates,
    "epoch_echo": EpochEcho,
    "clock_edge_leader": ClockEdgeLeader,
    "edge_gossiper": EdgeGossiper,
    "churner": Churner,
    "flapping": Flapping,
}


def make_actor(
    names: Sequence[str], cluster: "Cluster", machine: "Machine", rng: random.Random
) -> Actor:
    """Return the misbehaviour of that name, or of two names at once."""
    kinds = [ACTORS[name] for name in names]
    if len(kinds) == 1:
        return kinds[0](cluster, machine, rng)
    return Blend(cluster, machine, rng, kinds)
