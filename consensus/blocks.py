"""The block bodies a replica holds: what is not final yet, or not yet synced in the store."""

from dataclasses import dataclass
from enum import Enum

from atpar.consensus.types import BlockInfo


class Standing(Enum):
    """How far execution of a body has come here."""

    UNKNOWN = "unknown"
    ASKED = "asked"
    VALID = "valid"
    INVALID = "invalid"


@dataclass(slots=True)
class Body:
    """One block: its info, its bytes, and what this node knows about it."""

    info: BlockInfo
    data: bytes
    standing: Standing = Standing.UNKNOWN
    is_journaled: bool = False


class BodyPool:
    """Bodies by digest. Blocks at or below the synced height leave it."""

    def __init__(self) -> None:
        self._bodies: dict[bytes, Body] = {}
        self.total_bytes = 0
        self.journaled_bytes = 0

    def get(self, digest: bytes) -> Body | None:
        """Return the body of that digest, if it is here."""
        return self._bodies.get(digest)

    def add(self, info: BlockInfo, data: bytes) -> Body:
        """Keep a body whose bytes hash to `info.digest`; return the one that is kept."""
        body = self._bodies.get(info.digest)
        if body is None:
            body = self._bodies[info.digest] = Body(info, data)
            self.total_bytes += len(data)
        return body

    def mark_journaled(self, body: Body) -> None:
        """Note that a kept body stands in the journal."""
        if not body.is_journaled:
            body.is_journaled = True
            self.journaled_bytes += len(body.data)

    def drop(self, digest: bytes) -> None:
        """Forget one body, if it is here."""
        body = self._bodies.pop(digest, None)
        if body is not None:
            self.total_bytes -= len(body.data)
            self.journaled_bytes -= len(body.data) if body.is_journaled else 0

    def drop_through(self, height: int) -> None:
        """Forget every body at or below a height: they are final in the store, or lost the race."""
        for digest in [d for d, body in self._bodies.items() if body.info.height <= height]:
            self.drop(digest)

    def get_journaled(self) -> list[Body]:
        """Return the bodies that stand in the journal, parents first."""
        bodies = [body for body in self._bodies.values() if body.is_journaled]
        return sorted(bodies, key=lambda body: (body.info.height, body.info.digest))
