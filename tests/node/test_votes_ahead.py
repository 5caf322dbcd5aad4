"""Votes checked ahead: only many of them, only what counts, and nothing but valid is believed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from atpar.consensus.certificates import build_certificate
from atpar.consensus.messages import Lane, Message, Proposal, encode_message
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.authority import get_validators
from atpar.ledger.certificates import NullifyBody, Proposition, compute_vote_bytes
from atpar.ledger.hashing import SignKind
from atpar.ledger.keys import SignedTriple, verify_batch
from atpar.ledger.records import identify_validators
from atpar.ledger.votes import Finalize, Notarize, Nullify, Vote, compute_signed_bytes
from atpar.node import votes_ahead
from atpar.node.actions import PeerFrame, TransactionsAdmitted
from atpar.node.errors import VerifierBusy, VerifierStopped
from atpar.node.limits import MAX_VOTES_REMEMBERED, VOTES_CHECKED_AHEAD, VOTES_PATIENCE_S
from atpar.node.votes_ahead import VotesAhead
from tests.ledger.world import World, key_of, transfer
from tests.node.drivers import Hub

WORLD = World()
SET = ValidatorSet.from_id(identify_validators(get_validators(WORLD.view)))
CODES = [member.participant for member in SET.members]


class Workers:
    """Stands for the verifier; counts."""

    def __init__(self) -> None:
        self.batches: list[Sequence[SignedTriple]] = []
        self.fault: Exception | None = None
        self.takes_s = 0.0
        self.ahead = VotesAhead(chain_id=WORLD.chain_id, check=self.check)

    async def check(self, triples: Sequence[SignedTriple]) -> Sequence[bool]:
        await trio.sleep(self.takes_s)
        if self.fault is not None:
            raise self.fault
        self.batches.append(triples)
        return verify_batch(triples)

    async def look(self, *frames: PeerFrame, final_view: int = 0) -> None:
        given = [TransactionsAdmitted(()), *frames]
        await self.ahead.look(given, validators=SET, final_view=final_view)


def sign(code: str, view: int, *, kind: type[Vote] = Notarize, epoch: int = SET.epoch) -> Vote:
    body = (
        NullifyBody(epoch, view)
        if kind is Nullify
        else Proposition(epoch, view, view - 1, view.to_bytes(32, "big"))
    )
    message = compute_vote_bytes(SignKind[kind.__name__.upper()], WORLD.chain_id, body)
    return kind(body, key_of(f"{code}-vote").sign(message).signature)  # type: ignore[arg-type]


def frame(code: str, message: Message, lane: Lane = Lane.VOTES) -> PeerFrame:
    return PeerFrame(code, lane, encode_message(message))


def make_frames(count: int) -> list[PeerFrame]:
    kinds = (Notarize, Nullify, Finalize)
    return [
        frame(CODES[number % 4], sign(CODES[number % 4], 1 + number // 4, kind=kinds[number % 3]))
        for number in range(count)
    ]


def name(code: str, vote: Vote) -> SignedTriple:
    key = SET.members[SET.indexes[code]].vote_key
    return key, compute_signed_bytes(vote, WORLD.chain_id), vote.signature


@pytest.fixture
def _no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: bytes) -> bool:
        raise AssertionError("asked the library")

    monkeypatch.setattr(votes_ahead, "verify", refuse)


@pytest.mark.usefixtures("_no_library")
async def test_many_votes_are_checked_once_in_one_batch() -> None:
    workers = Workers()
    frames = make_frames(VOTES_CHECKED_AHEAD)
    await workers.look(*frames, *frames)
    await workers.look(*frames)
    assert [len(batch) for batch in workers.batches] == [VOTES_CHECKED_AHEAD]
    assert all(workers.ahead.verify(*triple) for triple in workers.batches[0])


async def test_few_votes_are_left_to_the_replica() -> None:
    workers = Workers()
    await workers.look(*make_frames(VOTES_CHECKED_AHEAD - 1))
    await workers.look()
    assert workers.batches == []
    assert workers.ahead.verify(*name(CODES[0], sign(CODES[0], 1)))


@pytest.mark.parametrize("extra_s", [-0.01, 0.01])
async def test_workers_that_do_not_answer_hold_no_vote_up(
    autojump_clock: trio.testing.MockClock,
    extra_s: float,
) -> None:
    workers = Workers()
    workers.takes_s = VOTES_PATIENCE_S + extra_s
    with trio.fail_after(2 * VOTES_PATIENCE_S):
        await workers.look(*make_frames(VOTES_CHECKED_AHEAD))
    assert len(workers.batches) == (extra_s < 0)
    vote = sign(CODES[0], 1)
    assert workers.ahead.verify(*name(CODES[0], vote)), "checked on the spot instead"


async def test_forged_vote_is_not_believed_and_spoils_no_other() -> None:
    workers = Workers()
    good = sign(CODES[0], 900)
    forged = Notarize(good.proposition, bytes(64))  # type: ignore[union-attr]
    frames = make_frames(VOTES_CHECKED_AHEAD)
    await workers.look(*frames, frame(CODES[0], forged), frame(CODES[1], good))
    assert len(workers.batches[0]) == VOTES_CHECKED_AHEAD + 2
    assert not workers.ahead.verify(*name(CODES[0], forged))
    assert not workers.ahead.verify(*name(CODES[1], good)), "the vote of another validator"
    assert workers.ahead.verify(*name(CODES[0], good))


async def test_what_the_replica_would_not_check_is_not_checked_ahead() -> None:
    workers = Workers()
    code = CODES[0]
    await workers.look(
        *(frame(code, sign(code, view)) for view in range(1, 50)),  # final already
        *(frame(code, sign(code, view, epoch=SET.epoch + 1)) for view in range(51, 100)),
        *(frame("AUDT", sign(code, view)) for view in range(51, 100)),  # has no vote
        *(PeerFrame(code, Lane.VOTES, b"\xc1" * 100) for _ in range(50)),
        *(
            frame(code, Proposal(sign(code, view), b"block"), Lane.PROPOSALS)  # type: ignore[arg-type]
            for view in range(51, 200)
        ),
        *(frame(code, sign(code, view)) for view in range(51, 51 + VOTES_CHECKED_AHEAD)),
        final_view=50,
    )
    assert [len(batch) for batch in workers.batches] == [VOTES_CHECKED_AHEAD]


@pytest.mark.usefixtures("_no_library")
@pytest.mark.parametrize("kind", [Notarize, Nullify, Finalize])
async def test_certificates_are_checked_ahead_and_malformed_ones_are_not(kind: type[Vote]) -> None:
    workers = Workers()
    frames = []
    for view in range(1, 2 + VOTES_CHECKED_AHEAD // SET.quorum):
        votes = {index: sign(CODES[index], view, kind=kind) for index in range(SET.quorum)}
        whole = build_certificate(votes, SET)
        short = build_certificate({0: votes[0]}, SET)
        frames += [frame(CODES[3], whole), frame(CODES[3], short)]
    await workers.look(*frames)
    assert [len(batch) for batch in workers.batches] == [len(frames) // 2 * SET.quorum]
    assert all(workers.ahead.verify(*triple) for triple in workers.batches[0])


@pytest.mark.parametrize("fault", [VerifierBusy("full"), VerifierStopped("stopping")])
async def test_without_room_the_replica_checks_for_itself(fault: Exception) -> None:
    workers = Workers()
    workers.fault = fault
    await workers.look(*make_frames(VOTES_CHECKED_AHEAD))
    assert workers.ahead.verify(*name(CODES[0], sign(CODES[0], 1)))
    assert not workers.ahead.verify(*name(CODES[1], sign(CODES[0], 1)))


async def test_what_is_remembered_is_bounded() -> None:
    workers = Workers()
    workers.ahead._check = _believe
    code = CODES[0]
    for first in range(1, 2 * MAX_VOTES_REMEMBERED, 512):
        votes = [Nullify(NullifyBody(SET.epoch, first + step), bytes(64)) for step in range(512)]
        await workers.look(*(frame(code, vote) for vote in votes))
    assert len(workers.ahead._valid) <= MAX_VOTES_REMEMBERED


async def _believe(triples: Sequence[SignedTriple]) -> Sequence[bool]:
    await trio.lowlevel.checkpoint()
    return [True] * len(triples)


async def test_drivers_agree_when_every_vote_is_checked_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votes_ahead, "VOTES_CHECKED_AHEAD", 1)
    world, workers = World(), Workers()
    hub = Hub(tmp_path, world)
    hub.check_votes = workers.check
    for code in CODES:
        hub.prepare(code)
    tx = world.make(transfer("ALFA/main", "BRVO/main", 5), sender="ALFA/main")
    with trio.fail_after(20):
        async with hub.running(*CODES):
            hub.submit(tx)
            for member in hub.members.values():
                await member.witness.wait_final(tx)
    assert sum(map(len, workers.batches)) >= 3 * 4 * 3, "a block's votes, each at each other's"
