"""Who votes and who misses, from the frames that pass by and the certificates that finalise."""

from collections.abc import Sequence
from types import SimpleNamespace

from msgspec.structs import replace

from atpar.consensus.messages import encode_message
from atpar.consensus.validators import ValidatorSet
from atpar.ledger.blocks import Header, ValidatorKey
from atpar.ledger.certificates import Finalization, NullifyBody, Proposition, encode_bitmap
from atpar.ledger.codec import encode
from atpar.ledger.votes import Finalize, Notarize, Nullify
from atpar.node.limits import MAX_WATCHED_VIEWS, VOTE_GRACE_MS
from atpar.node.metrics import Metrics
from atpar.node.votewatch import VoteWatch
from tests.node.chains import make_header

CODES = ("ALFA", "BRVO", "CHRL", "DLTA")
SET = ValidatorSet(0, tuple(ValidatorKey(code, code.encode().ljust(32)) for code in CODES))


class Clock:
    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    def wall_ms(self) -> int:
        return 1_000_000 + self.ms


class Watch:
    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.watch = VoteWatch(
            own="ALFA", get_set=lambda: SET, clock=self.clock, metrics=self.metrics
        )

    def finalise(self, view: int, signers: Sequence[str], *, proposer: str = "ALFA") -> None:
        header: Header = replace(make_header(1, bytes(32)), view=view, proposer=proposer)
        bitmap = encode_bitmap([CODES.index(code) for code in signers], len(CODES))
        proposition = Proposition(0, view, view - 1, bytes(32))
        finalization = Finalization(proposition, bitmap, (bytes(64),) * len(signers))
        block = SimpleNamespace(
            header=header, finalization=finalization, finalized_height=header.height
        )
        self.watch.note_final(block)  # type: ignore[arg-type]

    def missed(self) -> dict[str, int]:
        return {code: self.watch.get(code).missed for code in CODES}


def make_vote(kind: type, view: int) -> bytes:
    if kind is Nullify:
        return encode_message(Nullify(NullifyBody(0, view), bytes(64)))
    return encode_message(kind(Proposition(0, view, 0, bytes(32)), bytes(64)))


def test_votes_of_every_kind_are_seen() -> None:
    for view, kind in enumerate((Notarize, Nullify, Finalize), start=1):
        watch = Watch()
        watch.clock.ms = 77
        watch.watch.note_frame("BRVO", make_vote(kind, view))
        record = watch.watch.get("BRVO")
        assert (record.last_view, record.last_ms) == (view, 1_000_077)


def test_anything_else_is_passed_over() -> None:
    watch = Watch()
    for payload in (b"", b"\x93", b"\x93\x10junk", encode([16, 1, 2]), b"\x93\x12" + bytes(200)):
        watch.watch.note_frame("BRVO", payload)
    assert watch.watch.get("BRVO").last_view is None


def test_validator_without_a_vote_in_a_final_view_has_missed_it() -> None:
    watch = Watch()
    watch.finalise(1, ["ALFA", "BRVO", "CHRL"])
    assert watch.missed() == dict.fromkeys(CODES, 0)
    watch.clock.ms = VOTE_GRACE_MS
    watch.finalise(2, ["ALFA", "BRVO", "CHRL"])
    assert watch.missed() == {"ALFA": 0, "BRVO": 0, "CHRL": 0, "DLTA": 1}
    value = watch.metrics.registry.get_sample_value(
        "atpar_votes_missed_total", {"validator": "DLTA"}
    )
    assert value == 1


def test_vote_that_comes_after_the_certificate_counts() -> None:
    watch = Watch()
    watch.finalise(1, ["ALFA", "BRVO", "CHRL"])
    watch.watch.note_frame("DLTA", make_vote(Finalize, 1))
    watch.clock.ms = VOTE_GRACE_MS
    watch.finalise(2, ["ALFA", "BRVO", "CHRL"])
    assert watch.missed()["DLTA"] == 0


def test_proposal_counts_as_the_leaders_vote() -> None:
    watch = Watch()
    watch.finalise(1, ["ALFA", "BRVO", "CHRL"], proposer="DLTA")
    watch.clock.ms = VOTE_GRACE_MS
    watch.finalise(2, ["ALFA", "BRVO", "CHRL"])
    assert watch.missed()["DLTA"] == 0


def test_what_is_watched_is_bounded() -> None:
    watch = Watch()
    for view in range(1, MAX_WATCHED_VIEWS + 100):
        watch.watch.note_frame("BRVO", make_vote(Nullify, view))
        watch.finalise(view, ["ALFA", "BRVO", "CHRL"])
    assert len(watch.watch._seen) <= MAX_WATCHED_VIEWS
    assert len(watch.watch._due) <= MAX_WATCHED_VIEWS
