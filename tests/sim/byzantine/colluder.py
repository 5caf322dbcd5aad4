"""Several liars with one mind: they split the others in two and tell each half its own story.

A leader among them proposes one block to each half, and all of them vote for each half's block
towards that half alone. Of an honest leader's view they show one half their votes for the block
and the other half that they give the view up. Certificates reach one half late or never.
"""

import zlib
from collections.abc import Iterable

from atpar.consensus.messages import Finalize, Message, Notarize, Nullify, Proposal
from atpar.ledger.certificates import Finalization, Notarization, Nullification, Proposition
from tests.sim.byzantine.actor import Actor
from tests.sim.byzantine.blocks import build_rival


class Colluder(Actor):
    def is_first(self, code: str, view: int) -> bool:
        """Return which half a peer belongs to; all colluders agree on it without a word."""
        return zlib.crc32(f"{code}/{view // 3}".encode()) % 2 == 0

    def rewrite(self, peer: str | None, message: Message) -> Iterable[tuple[str | None, Message]]:
        peers = self.peers if peer is None else [peer]
        match message:
            case Proposal():
                yield from self.propose(peers, message)
            case Notarize() | Finalize():
                about = message.proposition
                plot = self.cluster.plot.get((about.epoch, about.view))
                for code in peers:
                    is_first = self.is_first(code, about.view)
                    if plot is not None:
                        yield code, self.vote(message, plot[0] if is_first else plot[1])
                    elif is_first:
                        yield code, message
                    else:
                        yield code, self.nullify(about.epoch, about.view)
            case Nullify(body):
                yield from ((c, message) for c in peers if not self.is_first(c, body.view))
            case Notarization() | Nullification() | Finalization():
                yield from self.leak(peers, message)
            case _:
                yield peer, message

    def propose(self, peers: list[str], good: Proposal) -> Iterable[tuple[str | None, Message]]:
        about = good.vote.proposition
        rival = build_rival(self, good)
        if rival is None:
            yield from ((code, good) for code in peers)
            return
        self.cluster.plot[about.epoch, about.view] = about, rival.vote.proposition
        for code in peers:
            yield code, good if self.is_first(code, about.view) else rival
        for machine in self.cluster.machines.values():
            if isinstance(machine.actor, Colluder) and machine.is_up:
                machine.actor.back(about, rival.vote.proposition)

    def back(self, first: Proposition, second: Proposition) -> None:
        """Vote for each half's block, and soon make it final there."""
        for code in self.peers:
            about = first if self.is_first(code, first.view) else second
            self.send_later(0, code, *self.pack(self.notarize(about)))
            self.send_later(self.rng.randint(50, 700), code, *self.pack(self.finalize(about)))

    def vote(self, like: Notarize | Finalize, about: Proposition) -> Message:
        return self.notarize(about) if isinstance(like, Notarize) else self.finalize(about)

    def leak(self, peers: list[str], message: Message) -> Iterable[tuple[str | None, Message]]:
        """Show a certificate to one half, and to the other later, or not at all."""
        half = self.rng.random() < 0.5
        for code in peers:
            if self.is_first(code, 0) is half:
                yield code, message
            elif self.rng.random() < 0.5:
                delay = self.rng.randint(100, 2_000)
                self.send_later(delay, code, *self.pack(message))
