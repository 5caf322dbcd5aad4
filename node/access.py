"""Who may call which routes of the API, and whose accounts they may read.

Writing is authorised by the ledger's own signatures; this is about protecting a node and the
privacy of reads. By default every group is open, because the default listener is this machine.
An access file closes groups to all but bearers of listed tokens, and can limit a token to the
accounts of some participants.

    open = ["health"]

    [[token]]
    name = "alfa-treasury"
    sha256 = "…"                      # of the token, in hex; the token itself is not stored
    groups = ["submit", "read", "events"]
    participants = ["ALFA"]           # leave out for all
"""

import hashlib
import hmac
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from atpar.ledger.types import ParticipantCode
from atpar.node.config import ConfigInvalid
from atpar.node.problems import ApiCode, Problem

MAX_ACCESS_BYTES: Final = 1024 * 1024
MAX_TOKENS: Final = 1_000


class Group(StrEnum):
    """Routes that are opened or closed together."""

    HEALTH = "health"
    SUBMIT = "submit"
    READ = "read"
    EVENTS = "events"
    OPERATE = "operate"
    """Metrics and peers."""


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One bearer token, by its hash."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    groups: frozenset[Group]
    participants: frozenset[ParticipantCode] | None = None
    """Whose accounts it may read; null for everybody's."""


class AccessRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which groups are open to all, and which tokens open the others."""

    open: frozenset[Group] = frozenset(Group)
    token: Annotated[tuple[Token, ...], Meta(max_length=MAX_TOKENS)] = ()

    def authorise(self, group: Group, authorization: str | None) -> "Grant":
        """Return what the bearer may see.

        Raises:
            Problem: UNAUTHENTICATED without a known token where one is needed, FORBIDDEN with one
                that does not open the group.
        """
        token = self._find(authorization) if authorization is not None else None
        if token is not None and group in token.groups:
            return Grant(token.participants)
        if group in self.open:
            return Grant(None)
        if token is None:
            raise Problem(
                ApiCode.UNAUTHENTICATED,
                f"routes of group {group} need a bearer token",
                headers={"WWW-Authenticate": 'Bearer realm="atpar"'},
            )
        raise Problem(ApiCode.FORBIDDEN, f"token {token.name} does not open group {group}")

    def _find(self, authorization: str) -> Token | None:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(secret.strip().encode("utf-8", "replace")).hexdigest()
        found = None
        for token in self.token:  # all of them, so that time tells nothing
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


@dataclass(frozen=True, slots=True)
class Grant:
    """What one request may see."""

    participants: frozenset[str] | None = None
    """None for all."""

    @property
    def sees_all(self) -> bool:
        """Whether nothing is hidden from it."""
        return self.participants is None

    def may_see(self, participants: Iterable[str]) -> bool:
        """Return whether something that concerns these participants may be shown."""
        return self.participants is None or not self.participants.isdisjoint(participants)

    def require(self, participant: str) -> None:
        """Check that accounts of a participant may be read.

        Raises:
            Problem: FORBIDDEN.
        """
        if not self.may_see((participant,)):
            own = ", ".join(sorted(self.participants or ()))
            raise Problem(
                ApiCode.FORBIDDEN, f"accounts of {participant}: this token reads those of {own}"
            )


OPEN_TO_ALL: Final = AccessRules()


def load_access(path: Path) -> AccessRules:
    """Return the rules of an access file.

    Raises:
        ConfigInvalid: it cannot be read, or is not what it should be.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_ACCESS_BYTES:
            raise ConfigInvalid(str(path), f"{len(data)} bytes, at most {MAX_ACCESS_BYTES}")
        return msgspec.convert(tomllib.loads(data.decode("utf-8")), AccessRules)
    except OSError as error:
        raise ConfigInvalid(str(path), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigInvalid(str(path), str(error)) from error
