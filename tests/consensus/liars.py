"""Validators that misbehave: each is a function that changes the effects of an honest replica."""

from collections.abc import Callable

from atpar.consensus.effects import Broadcast, Effect, EnterView, Send
from atpar.consensus.messages import BlockResponse, Proposal
from atpar.ledger.certificates import NullifyBody, Proposition
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, compute_signed_bytes
from tests.consensus.cluster import Node
from tests.consensus.fakes import (
    CHAIN_ID,
    FakeBlock,
    decode_fake,
    digest_of,
    encode_block,
    fake_sign,
    make_key,
)

Liar = Callable[[Node, list[Effect]], list[Effect]]


def sign_as(node: Node, vote: Vote) -> Vote:
    """Return the vote with the node's valid signature."""
    signature = fake_sign(make_key(node.name), compute_signed_bytes(vote, CHAIN_ID))
    match vote:
        case Notarize(proposition):
            return Notarize(proposition, signature)
        case Nullify(body):
            return Nullify(body, signature)
        case Finalize(proposition):
            return Finalize(proposition, signature)


def twist(node: Node, proposal: Proposal, *, is_bad: bool) -> Proposal:
    """Return another proposal for the same view, on the same parent."""
    block = decode_fake(proposal.block)
    data = encode_block(
        FakeBlock(
            epoch=block.epoch,
            view=block.view,
            height=block.height,
            parent=block.parent,
            proposer=block.proposer,
            timestamp_ms=block.timestamp_ms + 1,
            transactions=block.transactions,
            is_bad=is_bad,
        )
    )
    about = proposal.vote.proposition
    other = Proposition(about.epoch, about.view, about.parent_view, digest_of(data))
    vote = sign_as(node, Notarize(other, b""))
    assert isinstance(vote, Notarize)
    return Proposal(vote, data)


def get_proposal(effect: Effect) -> Proposal | None:
    if isinstance(effect, Broadcast) and isinstance(effect.message, Proposal):
        return effect.message
    return None


def equivocate(node: Node, effects: list[Effect]) -> list[Effect]:
    """Leads with one block for some and another for the rest."""
    out: list[Effect] = []
    for effect in effects:
        proposal = get_proposal(effect)
        if proposal is None:
            out.append(effect)
            continue
        other = twist(node, proposal, is_bad=False)
        names = [name for name in node.cluster.nodes if name != node.name]
        out += [Send(name, (proposal, other)[at % 2]) for at, name in enumerate(names)]
    return out


def withhold(node: Node, effects: list[Effect]) -> list[Effect]:
    """Sends its proposals to a few only, and denies having the blocks."""
    out: list[Effect] = []
    for effect in effects:
        proposal = get_proposal(effect)
        if proposal is not None:
            names = [name for name in node.cluster.nodes if name != node.name]
            chosen = names[: node.cluster.random.randrange(len(names) + 1)]
            out += [Send(name, proposal) for name in chosen]
        elif isinstance(effect, Send) and isinstance(effect.message, BlockResponse):
            out.append(Send(effect.peer, BlockResponse(effect.message.digest, b"")))
        else:
            out.append(effect)
    return out


def vote_twice(node: Node, effects: list[Effect]) -> list[Effect]:
    """Notarizes a second block in each view, and nullifies what it finalizes."""
    out: list[Effect] = []
    for effect in effects:
        if isinstance(effect, Broadcast) and isinstance(effect.message, Notarize):
            about = effect.message.proposition
            rival = Proposition(about.epoch, about.view, about.parent_view, b"z" * 32)
            out.append(Broadcast(sign_as(node, Notarize(rival, b""))))
        if isinstance(effect, Broadcast) and isinstance(effect.message, Finalize):
            about = effect.message.proposition
            body = NullifyBody(about.epoch, about.view)
            out.append(Broadcast(sign_as(node, Nullify(body, b""))))
        out.append(effect)
    return out


def nullify_only(node: Node, effects: list[Effect]) -> list[Effect]:
    """Nullifies every view it can and never agrees to anything."""
    out: list[Effect] = []
    for effect in effects:
        if isinstance(effect, EnterView):
            for view in range(effect.view, effect.view + 5):
                body = NullifyBody(effect.epoch, view)
                out.append(Broadcast(sign_as(node, Nullify(body, b""))))
        is_sent = isinstance(effect, Broadcast | Send)
        if not is_sent or not isinstance(effect.message, Notarize | Finalize | Proposal):
            out.append(effect)
    return out


def stay_silent(node: Node, effects: list[Effect]) -> list[Effect]:
    """Says nothing."""
    return [effect for effect in effects if not isinstance(effect, Broadcast | Send)]


def never_lead(node: Node, effects: list[Effect]) -> list[Effect]:
    """Votes like everybody and never proposes, so it never counts as inactive."""
    return [effect for effect in effects if get_proposal(effect) is None]


def propose_invalid(node: Node, effects: list[Effect]) -> list[Effect]:
    """Leads with blocks whose execution fails."""
    out: list[Effect] = []
    for effect in effects:
        proposal = get_proposal(effect)
        if proposal is None:
            out.append(effect)
        else:
            out.append(Broadcast(twist(node, proposal, is_bad=True)))
    return out


def speak_to_some(node: Node, effects: list[Effect]) -> list[Effect]:
    """Sends each message to a random half."""
    out: list[Effect] = []
    for effect in effects:
        if isinstance(effect, Broadcast):
            others = [name for name in node.cluster.nodes if name != node.name]
            chosen = [name for name in others if node.cluster.random.random() < 0.5]
            out += [Send(name, effect.message) for name in chosen]
        else:
            out.append(effect)
    return out


def speak_of_the_future(node: Node, effects: list[Effect]) -> list[Effect]:
    """Votes in later epochs, and finalizes views that nobody reached."""
    out = list(effects)
    for effect in effects:
        if isinstance(effect, EnterView):
            for view in range(effect.view + 1, effect.view + 9):
                body = NullifyBody(effect.epoch + 1, view)
                out.append(Broadcast(sign_as(node, Nullify(body, b""))))
                wild = Proposition(effect.epoch, view, 0, b"f" * 32)
                out.append(Broadcast(sign_as(node, Finalize(wild, b""))))
    return out


LIARS: dict[str, Liar] = {
    liar.__name__: liar
    for liar in (
        equivocate,
        withhold,
        vote_twice,
        nullify_only,
        stay_silent,
        never_lead,
        propose_invalid,
        speak_to_some,
        speak_of_the_future,
    )
}
