"""A chain in memory that crosses epochs, by boundaries and by recovery documents."""

from collections.abc import Sequence

from msgspec.structs import replace

from atpar.ledger.blocks import ValidatorKey
from atpar.ledger.certificates import (
    Finalization,
    compute_quorum,
    compute_vote_bytes,
    encode_bitmap,
)
from atpar.ledger.codes import Code
from atpar.ledger.commitment import commit_state
from atpar.ledger.epochs import open_epoch
from atpar.ledger.execute import Template, build_block
from atpar.ledger.hashing import SignKind
from atpar.ledger.operations import NewValidator, SetValidators
from atpar.ledger.proofs import BoundaryStep, EpochStep, FinalityProof, ProofFile, RecoveryStep
from atpar.ledger.proving import build_proof_file, build_solvency_proof, prove_sets
from atpar.ledger.records import CURRENT, NEXT, VALIDATORS, ValidatorSet, identify_validators
from atpar.ledger.recovery import (
    AdminSignature,
    RecoveryBody,
    RecoveryDocument,
    check_recovery,
    compute_recovery_bytes,
)
from atpar.ledger.state import Overlay
from tests.ledger.finality import propose
from tests.ledger.test_members import new_participant
from tests.ledger.world import (
    BANKS,
    World,
    key_of,
    make_certificate,
    make_document,
    make_params,
    possess_all,
    public,
)

EPOCH_BLOCKS = 6
_NAMES = {
    public(name): name
    for code in (*BANKS, "ECHO")
    for name in (f"{code}-vote", f"{code}-vote2", f"{code}-gov", f"{code}-gov2")
}


class Chain(World):
    """A world with short epochs that keeps the steps a light client follows."""

    def __init__(self) -> None:
        super().__init__(make_document(params=make_params(epoch_blocks=EPOCH_BLOCKS)))
        self.steps: list[EpochStep] = []
        self.epoch = 0
        self._known = set(_NAMES) & {
            key for bank in BANKS for key in (public(f"{bank}-vote"), public(f"{bank}-gov"))
        }

    @property
    def validators(self) -> ValidatorSet:
        """The set that votes on the next block."""
        current = self.view.get(VALIDATORS, CURRENT)
        assert current is not None
        return current

    @property
    def following(self) -> ValidatorSet | None:
        return self.view.get(VALIDATORS, NEXT)

    # ---- blocks

    def make_template(self) -> Template:
        template = super().make_template()
        began = self.epoch != self.header.epoch
        return Template(
            epoch=self.epoch,
            view=1 if began else self.header.view + 1,
            parent=template.parent,
            parent_digest=template.parent_digest,
            timestamp_ms=template.timestamp_ms,
            proposer=self.validators.members[0].participant,
        )

    def adopt(self, built: object) -> None:
        voters = self.validators
        super().adopt(built)
        if self.header.next_validators_hash != self.header.validators_hash:
            boundary = FinalityProof(self.finalize(voters), (self.header,))
            self.steps.append(BoundaryStep(boundary, identify_validators(self.validators)))
            self.epoch += 1

    def extend(self, blocks: int = 1) -> "Chain":
        """Add empty blocks."""
        for _ in range(blocks):
            built, _ = build_block(self.view, self.make_template(), [], chain_id=self.chain_id)
            self.adopt(built)
        return self

    def end_epoch(self) -> "Chain":
        """Add empty blocks up to the boundary."""
        return self.extend(EPOCH_BLOCKS - self.header.height % EPOCH_BLOCKS)

    def finalize(self, voters: ValidatorSet) -> Finalization:
        """Return the finalization of the last block, by a quorum of these."""
        proposition = propose(self.header)
        message = compute_vote_bytes(SignKind.FINALIZE, self.chain_id, proposition)
        count = compute_quorum(len(voters.members))
        signatures = tuple(
            key_of(_NAMES[member.vote_key]).sign(message).signature
            for member in voters.members[:count]
        )
        signers = encode_bitmap(range(count), len(voters.members))
        return Finalization(proposition, signers, signatures)

    def prove_last(self) -> FinalityProof:
        """Return what makes the last block final; it is of the running epoch."""
        assert self.header.epoch == self.epoch
        return FinalityProof(self.finalize(self.validators), (self.header,))

    # ---- sets

    def set_validators(self, codes: Sequence[str], **names: str) -> "Chain":
        """Fix the next set; `ALFA_gov="ALFA-gov2"` names a key that changes."""
        members, possessions = [], []
        for code in codes:
            vote = names.get(f"{code}_vote", f"{code}-vote")
            gov = names.get(f"{code}_gov", f"{code}-gov")
            fresh = [name for name in (vote, gov) if public(name) not in self._known]
            self._known.update(public(name) for name in fresh)
            possessions += possess_all(code, fresh, self.chain_id)
            members.append(
                NewValidator(
                    code, public(vote), public(gov), make_certificate(code), f"{code.lower()}:7201"
                )
            )
        op = SetValidators(tuple(members), tuple(sorted(possessions, key=lambda p: p.key)))
        assert self._govern(op) is Code.OK, self.refusals
        return self

    def add_participant(self, code: str = "ECHO") -> "Chain":
        assert self._govern(new_participant(self, code)) is Code.OK, self.refusals
        return self

    def _govern(self, op: object) -> Code:
        members = self.validators.members
        keys = [_NAMES[m.admin_key] for m in members[: compute_quorum(len(members))]]
        (code,) = self.block(self.make(op, sender="CHAIN/governance", keys=keys))
        return code

    # ---- recovery

    def draft(self, codes: Sequence[str] | None = None, **changes: object) -> RecoveryBody:
        """Return what opens the next epoch on the last block, for these or for the stopped set."""
        registered = {m.participant: m for m in (self.following or self.validators).members}
        registered |= {m.participant: m for m in self.validators.members}
        chosen = codes or [member.participant for member in self.validators.members]
        members = tuple(ValidatorKey(code, registered[code].vote_key) for code in chosen)
        body = RecoveryBody(self.epoch + 1, self.header.height, self.digest, members, ())
        return replace(body, **changes)

    def sign(
        self, body: RecoveryBody, *codes: str, chain_id: bytes | None = None, **names: str
    ) -> RecoveryDocument:
        """Return the document signed by these, each with its present key or the one named."""
        admins = {m.participant: _NAMES[m.admin_key] for m in self.validators.members}
        message = compute_recovery_bytes(body, chain_id or self.chain_id)
        signatures = [
            AdminSignature(code, key_of(names.get(code) or admins[code]).sign(message).signature)
            for code in codes
        ]
        return RecoveryDocument(body, tuple(signatures))

    def make_step(self, document: RecoveryDocument) -> RecoveryStep:
        """Return the step of a document on the last block."""
        if self.header.epoch == self.epoch and self.header.height:
            return RecoveryStep(document, self.prove_last(), prove_sets(self.view))
        is_known = not self.steps or isinstance(self.steps[-1], RecoveryStep)
        return RecoveryStep(document, None, None if is_known else prove_sets(self.view))

    def recover(self, document: RecoveryDocument) -> "Chain":
        """Open the epoch of a document, as nodes do."""
        step = self.make_step(document)
        opened = check_recovery(
            document,
            chain_id=self.chain_id,
            stopped=self.validators,
            following=self.following,
        )
        overlay = Overlay(self.view)
        open_epoch(overlay, opened)
        commit_state(overlay)
        overlay.checkpoint()
        self.backing.apply(overlay.encode_writes())
        self.view.absorb(overlay)
        self.steps.append(step)
        self.epoch += 1
        return self

    def recover_by(self, *codes: str, members: Sequence[str] | None = None) -> "Chain":
        """Open the next epoch on the last block by these administrators' signatures."""
        return self.recover(self.sign(self.draft(members), *codes))

    # ---- proofs

    def prove(self) -> ProofFile:
        """Return the file that proves the assets after the last block."""
        return build_proof_file(build_solvency_proof(self.view, self.prove_last()), self.steps)
