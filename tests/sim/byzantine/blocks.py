"""Blocks that a misbehaving leader makes: rivals of its own good one, and bad ones."""

from collections.abc import Sequence

from msgspec.structs import replace

from atpar.consensus.messages import Proposal
from atpar.ledger.blocks import BLOCK, Block, Header, compute_digest
from atpar.ledger.codec import encode
from atpar.ledger.errors import BlockInvalid
from atpar.ledger.execute import Template, build_block
from atpar.ledger.transactions import Transaction
from atpar.node.executor import ParentUnknown
from tests.sim.byzantine.actor import Actor


def propose(actor: Actor, good: Proposal, block: Block) -> Proposal:
    """Return a proposal of another block in the same view, signed."""
    old = good.vote.proposition
    return Proposal(
        actor.notarize(replace(old, digest=compute_digest(block.header))), encode(block)
    )


def alter_header(actor: Actor, good: Proposal, **changes: object) -> Proposal:
    """Return a proposal whose header differs and fits nothing else."""
    block = BLOCK.decode(good.block)
    header: Header = replace(block.header, **changes)  # type: ignore[arg-type]
    return propose(actor, good, replace(block, header=header))


def rebuild(
    actor: Actor, good: Proposal, *, later_ms: int, candidates: Sequence[Transaction]
) -> Proposal | None:
    """Return a proposal of another block on the same parent, executed correctly."""
    header = BLOCK.decode(good.block).header
    validator = actor.machine.running
    if header.view != good.vote.proposition.view:
        return None
    try:
        parent = validator.executor.get_tip(header.parent)
        template = Template(
            epoch=header.epoch,
            view=header.view,
            parent=parent.header,
            parent_digest=parent.digest,
            timestamp_ms=header.timestamp_ms + later_ms,
            proposer=header.proposer,
        )
        built, _ = build_block(
            parent.view, template, candidates, chain_id=actor.cluster.genesis.chain_id
        )
    except (ParentUnknown, BlockInvalid):
        return None
    return propose(actor, good, built.block)


def build_rival(actor: Actor, good: Proposal) -> Proposal | None:
    """Return a valid block that differs from a good one."""
    return rebuild(actor, good, later_ms=1, candidates=())
