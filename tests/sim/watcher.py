"""Who is told what machines do: what a cluster expects of the checkers."""

from typing import TYPE_CHECKING, Protocol

from atpar.consensus.messages import Lane
from atpar.node import actions
from atpar.node.store import FinalBlock

if TYPE_CHECKING:
    from tests.sim.cluster import Machine


class Watcher(Protocol):
    """Who is told what honest machines do: the checkers."""

    def on_sent(self, machine: "Machine", peer: str | None, lane: Lane, data: bytes) -> None: ...
    def on_delivered(self, sender: "Machine", receiver: "Machine", data: bytes) -> None: ...
    def on_final(self, machine: "Machine", block: FinalBlock) -> None: ...
    def on_halt(self, machine: "Machine", halt: actions.Halt) -> None: ...
    def on_drop_peer(self, machine: "Machine", peer: str, reason: str) -> None: ...


class NoWatcher:
    """Sees nothing."""

    def on_sent(self, machine: "Machine", peer: str | None, lane: Lane, data: bytes) -> None:
        pass

    def on_delivered(self, sender: "Machine", receiver: "Machine", data: bytes) -> None:
        pass

    def on_final(self, machine: "Machine", block: FinalBlock) -> None:
        pass

    def on_halt(self, machine: "Machine", halt: actions.Halt) -> None:
        pass

    def on_drop_peer(self, machine: "Machine", peer: str, reason: str) -> None:
        pass
