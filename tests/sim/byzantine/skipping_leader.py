"""Builds on the block before the last certified one, as if the view in between had failed."""

from collections.abc import Iterable

from msgspec.structs import replace

from atpar.consensus.messages import Message, Proposal
from atpar.ledger.blocks import BLOCK, Header
from atpar.ledger.codec import encode
from atpar.ledger.errors import BlockInvalid
from atpar.ledger.execute import Executed, Template, build_block
from atpar.node.executor import ParentUnknown
from tests.sim.byzantine.actor import Actor


class SkippingLeader(Actor):
    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        if not isinstance(message, Proposal):
            yield peer, message
            return
        header = BLOCK.decode(message.block).header
        built = None if header.view != message.vote.proposition.view else self.build(header)
        if built is None:
            yield peer, message
            return
        executed, parent_view = built
        about = replace(message.vote.proposition, parent_view=parent_view, digest=executed.digest)
        yield peer, Proposal(self.notarize(about), encode(executed.block))

    def build(self, header: Header) -> tuple[Executed, int] | None:
        """Return a valid block on the parent's parent, and the view of that one."""
        executor = self.machine.running.executor
        try:
            skipped = executor.get_tip(header.parent).header
            parent = executor.get_tip(skipped.parent)
        except ParentUnknown:
            return None
        if skipped.epoch != header.epoch:
            return None
        template = Template(
            header.epoch,
            header.view,
            parent.header,
            parent.digest,
            header.timestamp_ms,
            header.proposer,
        )
        try:
            executed, _ = build_block(
                parent.view, template, (), chain_id=self.cluster.genesis.chain_id
            )
        except BlockInvalid:
            return None
        # The first block of an epoch stands on view 0, whatever the view in its parent's header.
        is_first = parent.header.epoch != header.epoch or parent.header.height == 0
        return executed, 0 if is_first else parent.header.view
