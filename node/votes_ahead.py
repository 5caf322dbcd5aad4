"""Votes that arrive together are checked together, in the workers, before the replica asks.

The replica checks a signature where the answer counts, one at a time on the main loop. For the few
votes of a usual turn nothing is faster. But a turn after a stall, or in a large set, may bring
hundreds: then their signatures go to the verifier as one batch, ahead of everything else, and the
loop stays free meanwhile. The replica asks as before and finds the answer here.

Only *valid* is remembered, under the exact key, message and signature; whatever is not found here
is checked on the spot. So nothing that is wrong or missing here can let a signature pass, and a
worker that hangs, or is given thousands of signatures by a liar, holds no vote up for long.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio

from atpar.consensus.certificates import get_statement
from atpar.consensus.messages import Lane, Message, decode_message
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.certificates import (
    Finalization,
    Notarization,
    Nullification,
    compute_certificate_triples,
)
from atpar.ledger.errors import NonCanonical, ProofInvalid
from atpar.ledger.keys import SignedTriple, verify
from atpar.ledger.votes import Finalize, Notarize, Nullify, compute_signed_bytes, get_body
from atpar.node.actions import Input, PeerFrame
from atpar.node.bodies import VerifiedCache
from atpar.node.errors import VerifierBusy, VerifierStopped
from atpar.node.limits import MAX_VOTES_REMEMBERED, VOTES_CHECKED_AHEAD, VOTES_PATIENCE_S

Check = Callable[[Sequence[SignedTriple]], Awaitable[Sequence[bool]]]
"""Returns one verdict for each. Raises VerifierBusy or VerifierStopped."""

_SIGNATURE_BYTES = 64


class VotesAhead:
    """Signatures of votes and certificates that were found valid. Owned by the driver's task."""

    def __init__(self, *, chain_id: bytes, check: Check) -> None:
        self._chain_id = chain_id
        self._check = check
        self._valid = VerifiedCache(max_hashes=MAX_VOTES_REMEMBERED)

    def verify(self, key: bytes, message: bytes, signature: bytes) -> bool:
        """Return whether a signature is valid: the replica's port, `ledger.keys.verify` ahead."""
        if _join((key, message, signature)) in self._valid:
            return True
        return verify(key, message, signature)

    async def look(
        self, inputs: Sequence[Input], *, validators: ValidatorSet, final_view: int
    ) -> None:
        """Have the signatures in a turn's votes and certificates checked, if there are many."""
        frames = [
            given for given in inputs if isinstance(given, PeerFrame) and given.lane is Lane.VOTES
        ]
        least_bytes = VOTES_CHECKED_AHEAD * _SIGNATURE_BYTES
        if sum(len(frame.data) for frame in frames) < least_bytes:
            return
        wanted: dict[bytes, SignedTriple] = {}
        for frame in frames:
            for triple in self._list_signatures(frame, validators, final_view):
                name = _join(triple)
                if name not in self._valid:
                    wanted[name] = triple
        if len(wanted) < VOTES_CHECKED_AHEAD:
            return
        with suppress(VerifierBusy, VerifierStopped), trio.move_on_after(VOTES_PATIENCE_S):
            verdicts = await self._check(list(wanted.values()))
            for name, is_valid in zip(wanted, verdicts, strict=True):
                if is_valid:
                    self._valid.add(name)

    def _list_signatures(
        self, frame: PeerFrame, validators: ValidatorSet, final_view: int
    ) -> list[SignedTriple]:
        """Return what the replica may have to check of a message; nothing of one it refuses."""
        try:
            message: Message = decode_message(frame.data)
        except NonCanonical:
            return []
        match message:
            case Notarize() | Nullify() | Finalize():
                body, signer = get_body(message), validators.get_index(frame.peer)
                if signer is None or body.epoch != validators.epoch or body.view <= final_view:
                    return []
                key = validators.members[signer].vote_key
                return [(key, compute_signed_bytes(message, self._chain_id), message.signature)]
            case Notarization() | Nullification() | Finalization():
                statement = get_statement(message)
                if statement.epoch != validators.epoch or statement.view <= final_view:
                    return []
                with suppress(ProofInvalid):
                    return compute_certificate_triples(message, self._chain_id, validators.members)
                return []
            case _:
                return []


def _join(triple: SignedTriple) -> bytes:
    """Return the bytes that name a signature: two parts of fixed length, then the message."""
    key, message, signature = triple
    return b"".join((key, signature, message))
