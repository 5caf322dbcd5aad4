"""From a lie to a proven record: found by an honest machine, exported, recorded, read elsewhere."""

import json
import random

import pytest

from atpar.consensus.effects import AlarmKind
from atpar.ledger.codes import Code
from atpar.ledger.evidence import (
    ConflictingFinalize,
    ConflictingNotarize,
    Evidence,
    NullifyFinalize,
    get_place,
)
from atpar.ledger.invariants import check_invariants
from atpar.ledger.operations import RecordEvidence
from atpar.ledger.proofs import RecordClaim, compute_trust_root, parse_proof, verify_proof
from atpar.ledger.records import RecordedEvidence, evidence_key
from atpar.ledger.transactions import Transaction
from atpar.node.evidence import (
    compute_evidence_id,
    parse_evidence_file,
    render_evidence_file,
    verify_evidence_file,
)
from atpar.node.store import Store
from tests.node.api_client import Harness
from tests.node.fake_gateway import FakeGateway
from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.conflicting_voter import ConflictingVoter
from tests.sim.byzantine.nullify_and_finalize import NullifyAndFinalize
from tests.sim.cluster import Cluster, Machine
from tests.sim.crypto import Keyring
from tests.sim.network import Link, Network
from tests.sim.profiles import NO_EPOCHS
from tests.sim.worlds import Treasury, get_codes, make_genesis, make_values

LIAR = "BRVO"
TWO_BLOCKS = ConflictingNotarize | ConflictingFinalize


class Bench:
    """Four machines with real signatures, one of them a liar."""

    def __init__(self, lie: type[Actor], *, epoch_blocks: int) -> None:
        self.genesis = make_genesis(4, 0, epoch_blocks)
        self.trust = compute_trust_root(self.genesis.document)
        ring = Keyring(is_real=True)
        self.cluster = Cluster(
            genesis=self.genesis,
            values=make_values(4, 0, epoch_blocks),
            codes=get_codes(4),
            ring=ring,
            network=Network(random.Random(1), Link((5, 10))),
        )
        self.treasury = Treasury(self.genesis, ring, random.Random(2))
        self.lie = lie
        self.cluster.start()
        self.settle(self.treasury.fund(self.cluster.wall_ms))

    def settle(self, tx: Transaction) -> Code:
        """Submit to an honest machine, wait until all have it as final; return its code."""
        cluster = self.cluster
        assert cluster.submit(cluster.machines["ALFA"], tx)
        assert cluster.run(20_000, until=lambda: cluster.is_final_everywhere(tx))
        place = cluster.find_final("ALFA", tx)
        assert place is not None
        receipts = Store(cluster.machines["ALFA"].engine).get_receipts(place[0])
        assert receipts is not None
        return Code(receipts[place[1]].code)

    def record(self, evidence: Evidence, by: str) -> Code:
        keys = [f"{by[:4]}-a1", f"{by[:4]}-a2"]
        op = RecordEvidence(by, evidence)
        return self.settle(
            self.treasury.make(op, sender=by, keys=keys, now_ms=self.cluster.wall_ms)
        )

    def pay_until_found(self, *, from_epoch: int) -> tuple[Machine, Evidence]:
        """Let the liar lie until an honest machine shows evidence of it."""
        cluster, liar = self.cluster, self.cluster.machines[LIAR]
        for _ in range(60):
            self.settle(self.treasury.pay(cluster.wall_ms))
            if Store(cluster.machines["ALFA"].engine).position.epoch >= from_epoch:
                liar.actor = liar.actor or self.lie(cluster, liar, random.Random(3))
            for machine in cluster.get_honest():
                for alarm in machine.alarms:
                    if alarm.evidence is not None:
                        assert alarm.kind is AlarmKind.EQUIVOCATION
                        return machine, alarm.evidence
        raise AssertionError("nobody found anything")

    def open_api(self, machine: Machine) -> Harness:
        """Return the API of a machine, over its own store."""
        gateway = FakeGateway()
        gateway.store = Store(machine.engine)
        return Harness(gateway, clock_ms=lambda: self.cluster.wall_ms)


@pytest.mark.parametrize(
    ("lie", "kinds", "epoch_blocks", "from_epoch"),
    [
        (ConflictingVoter, TWO_BLOCKS, NO_EPOCHS, 0),
        (NullifyAndFinalize, NullifyFinalize, NO_EPOCHS, 0),
        (ConflictingVoter, TWO_BLOCKS, 6, 2),
    ],
)
async def test_a_lie_is_found_exported_recorded_and_read_with_a_proof(
    lie: type[Actor], kinds: type[Evidence], epoch_blocks: int, from_epoch: int
) -> None:
    bench = Bench(lie, epoch_blocks=epoch_blocks)
    finder, evidence = bench.pay_until_found(from_epoch=from_epoch)
    assert isinstance(evidence, kinds)
    assert (evidence.participant, get_place(evidence)[0] >= from_epoch) == (LIAR, True)

    # What the driver does with an alarm, and what the finder's operator then exports.
    assert Store(finder.engine).add_evidence(evidence)
    found = await bench.open_api(finder).get(f"/v1/evidence/{compute_evidence_id(evidence).hex()}")
    assert found["item"]["recorded"] is None
    data = json.dumps(found["document"]).encode()
    exported = parse_evidence_file(data)
    assert len(exported.epochs) == get_place(evidence)[0]
    assert verify_evidence_file(parse_evidence_file(render_evidence_file(exported)), bench.trust)

    # Any institution records it, once.
    assert bench.record(exported.evidence, "AUDT/admin") is Code.OK
    assert bench.record(exported.evidence, f"{LIAR}/admin") is Code.EVIDENCE_RECORDED

    # Everybody else reads it, and believes the proof.
    for machine in bench.cluster.get_honest():
        store = Store(machine.engine)
        assert check_invariants(store.get_final().view) == []
        answer = await bench.open_api(machine).get(
            f"/v1/evidence/recorded/{found['item']['place']}?proof=1"
        )
        verified = verify_proof(parse_proof(json.dumps(answer["proof"]).encode()), bench.trust)
        claim = verified.claim
        assert isinstance(claim, RecordClaim)
        assert isinstance(claim.record, RecordedEvidence)
        assert (claim.section, claim.key) == ("evidence", evidence_key(evidence))
        assert (claim.record.evidence, claim.record.by) == (evidence, "AUDT/admin")
        assert answer["item"]["recorded"]["height"] == claim.record.height
