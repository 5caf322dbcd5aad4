"""Signatures of known keys: the library's verdicts, whichever way they are found."""

import ctypes
import dataclasses
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir
from nacl.signing import SigningKey

from atpar.ledger import keys as rule
from atpar.ledger.keys import GROUP_ORDER
from atpar.node import known_keys
from atpar.node.challenge_code import write_reduce
from atpar.node.curve_code import (
    BASE_SHAPE,
    ENTRY_WORDS,
    KEY_SHAPE,
    Shape,
    compile_curve_code,
    count_lanes,
    make_hot_writer,
    write_recode,
)
from atpar.node.known_keys import KnownKeys
from atpar.node.limits import KEY_USES_FOR_TABLE
from atpar.node.machine_code import WORD, compile_module, declare
from atpar.node.table_checker import TableChecker, compare_with_library, make_checker
from tests.altering import flip
from tests.ledger import curve

VECTORS = Path(__file__).parents[1] / "vectors" / "zip215.json"
SIGNERS = [SigningKey(bytes([number]) * 32) for number in range(1, 7)]
KEYS = [bytes(signer.verify_key) for signer in SIGNERS]


@pytest.fixture(scope="module", params=sorted({1, count_lanes()}))
def checker(request: pytest.FixtureRequest) -> TableChecker:
    """With one lane, and with as many as the processor has."""
    return TableChecker(compile_curve_code(request.param))


def make_ready(checker: TableChecker, **limits: int) -> KnownKeys:
    """Return known keys whose code is there and whose tables come with the first use."""
    known = KnownKeys(uses_for_table=1, make_checker=lambda: checker, **limits)
    verify(known, [sign(0)])
    known.wait_prepared()
    return known


def sign(signer: int, message: bytes = b"pay") -> tuple[bytes, bytes, bytes]:
    return KEYS[signer], message, SIGNERS[signer].sign(message).signature


def verify(known: KnownKeys, triples: list[tuple[bytes, bytes, bytes]]) -> list[bool]:
    return known.verify_columns(*zip(*triples, strict=True))


def judge(triples: list[tuple[bytes, bytes, bytes]]) -> list[bool]:
    return rule.verify_columns(*zip(*triples, strict=True))


# ---- the arithmetic, against plain integers


def compute_sums(
    checker: TableChecker, rows: list[tuple[curve.Point, int, int, bytes]]
) -> list[bool]:
    """Return for each (point, k, s, encoding) whether s B - k point is what is encoded."""
    tables = {point: checker.build_negative(point) for point, _, _, _ in rows}
    return checker.compare(
        [tables[point].address for point, _, _, _ in rows],
        [k.to_bytes(32, "little") for _, k, _, _ in rows],
        [encoding + s.to_bytes(32, "little") for _, _, s, encoding in rows],
    )


def expect(point: curve.Point, k: int, s: int) -> bytes:
    negative = (-point[0] % curve.P, point[1])
    return curve.encode_point(curve.add(curve.multiply(s, curve.BASE), curve.multiply(k, negative)))


EDGES = [
    0,
    1,
    63,
    64,
    65,
    127,
    128,
    2**127,
    2**252,
    2**252 - 1,
    GROUP_ORDER - 1,
    GROUP_ORDER // 2,
    sum(64 << 7 * window for window in range(36)),  # every digit of k at the edge of its sign
    sum(65 << 7 * window for window in range(36)),  # every digit negative, each with a carry
    sum(512 << 10 * window for window in range(25)),  # the same of s
    sum(513 << 10 * window for window in range(25)),
]


def test_sums_at_the_edges_of_digits_and_numbers(checker: TableChecker) -> None:
    point = curve.multiply(12345, curve.BASE)
    rows = [(point, k, s, expect(point, k, s)) for k in EDGES for s in EDGES]
    assert compute_sums(checker, rows) == [True] * len(rows)


def test_sums_of_random_numbers_and_of_points_of_every_order(checker: TableChecker) -> None:
    rng = random.Random(5)
    points = [
        curve.add(curve.multiply(rng.randrange(GROUP_ORDER), curve.BASE), torsion)
        for torsion in curve.TORSION
    ]
    points += [*curve.TORSION, curve.BASE]
    rows = []
    for point in points:
        for _ in range(6):
            k, s = rng.randrange(GROUP_ORDER), rng.randrange(GROUP_ORDER)
            rows.append((point, k, s, expect(point, k, s)))
    assert compute_sums(checker, rows) == [True] * len(rows)


def test_any_altered_bit_of_the_encoding_is_noticed(checker: TableChecker) -> None:
    point = curve.multiply(77, curve.BASE)
    right = int.from_bytes(expect(point, 5, 9), "little")
    rows = [(point, 5, 9, (right ^ 1 << bit).to_bytes(32, "little")) for bit in range(256)]
    assert not any(compute_sums(checker, rows))


def test_s_is_below_the_order_or_not_confirmed(checker: TableChecker) -> None:
    point = curve.multiply(77, curve.BASE)
    encoding = expect(point, 5, 9)
    rows = [(point, 5, 9 + more * GROUP_ORDER, encoding) for more in (0, 1, 7, 14)]
    assert compute_sums(checker, rows) == [True, False, False, False]
    last = GROUP_ORDER - 1
    rows = [(point, 5, last + more, expect(point, 5, last + more)) for more in (0, 1)]
    assert compute_sums(checker, rows) == [True, False]


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("shape", [KEY_SHAPE, BASE_SHAPE])
def test_entries_of_any_number_stand_in_the_table(shape: Shape, lanes: int) -> None:
    """Also of an s that is far above the order: it comes from whoever sends a signature."""
    module = ir.Module("recode")
    write_recode(module, "recode", shape, lanes)
    engine = compile_module(str(module))
    address = engine.get_function_address("recode")
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_void_p)
    recode, rng, table, entry_bytes = kind(address), random.Random(3), 128 << 40, 8 * ENTRY_WORDS
    entries = (ctypes.c_uint64 * (shape.rows * lanes))()
    some = [rng.getrandbits(256) for _ in range(100)]
    for number in [*EDGES, GROUP_ORDER, 2**255, 2**256 - 1, *some]:
        recode(number.to_bytes(32, "little"), table, ctypes.addressof(entries))
        total = 0
        for row, entry in enumerate(entries[::lanes]):
            is_negative = entry % 2
            place, rest = divmod(entry - is_negative - table, entry_bytes)
            multiple = place - row * (shape.half + 1)
            assert rest == 0
            assert 0 <= multiple <= shape.half
            total += (-multiple if is_negative else multiple) << shape.bits * row
        assert total == number


@pytest.mark.parametrize("lanes", sorted({1, count_lanes()}))
def test_products_of_the_widest_limbs_are_right_and_narrow(lanes: int) -> None:
    kind = WORD if lanes == 1 else ir.VectorType(WORD, lanes)
    module = ir.Module("product")
    pointers = [kind.as_pointer()] * 3
    function = declare(module, "product", pointers, result=ir.VoidType(), is_internal=False)
    w = make_hot_writer(function, lanes)
    out, *factors = function.args
    loaded = [[w.b.load(w.at(each, i), align=8) for i in range(5)] for each in factors]
    for i, limb in enumerate(w.multiply(*loaded)):
        w.b.store(limb, w.at(out, i), align=8)
    w.b.ret_void()
    engine = compile_module(str(module))
    multiply = ctypes.CFUNCTYPE(*[None, *[ctypes.c_void_p] * 3])(
        engine.get_function_address("product")
    )

    rng, widest = random.Random(17), 2**51 + 2**14 - 1
    numbers = [(ctypes.c_uint64 * (5 * lanes))() for _ in range(3)]
    for turn in range(1_000):
        for number in numbers[1:]:
            number[:] = [
                rng.choice((widest, 2**51, 2**51 - 1, 0, rng.randrange(widest))) if turn else widest
                for _ in number
            ]
        multiply(*map(ctypes.addressof, numbers))
        assert max(numbers[0]) <= widest
        for lane in range(lanes):
            product, one, other = (
                sum(limb << 51 * i for i, limb in enumerate(number[lane::lanes]))
                for number in numbers
            )
            assert product % curve.P == one * other % curve.P


# ---- the numbers k, against hashlib and plain integers


POINTS = [hashlib.sha512(b"R and A %d" % number).digest() for number in range(20)]


def check_challenges(checker: TableChecker, messages: list[bytes]) -> None:
    points = [POINTS[place % 20] for place in range(len(messages))]
    assert checker.compute_challenges(points, messages) == [
        (number % GROUP_ORDER).to_bytes(32, "little")
        for number in (
            int.from_bytes(hashlib.sha512(pair + message).digest(), "little")
            for pair, message in zip(points, messages, strict=True)
        )
    ]


def test_challenges_of_messages_of_every_length(checker: TableChecker) -> None:
    rng = random.Random(7)
    check_challenges(
        checker, [rng.randbytes(length) for length in [*range(520), 65_536, 65_537, 0]]
    )


@given(st.lists(st.binary(max_size=700), min_size=1, max_size=20))
def test_challenges_of_messages_of_any_lengths_side_by_side(
    checker: TableChecker, messages: list[bytes]
) -> None:
    check_challenges(checker, messages)


def test_reducing_at_the_edges_and_anywhere() -> None:
    module = ir.Module("reduce")
    write_reduce(module)
    engine = compile_module(str(module))
    address = engine.get_function_address("reduce")
    reduce = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)(address)
    rng = random.Random(11)
    order = GROUP_ORDER
    largest = (2**512 - 1) // order
    numbers = [
        *(times * order + more for times in (0, 1, 2, 2**8, 2**133, 2**259) for more in (0, 1)),
        *(times * order - 1 for times in (1, 2, 2**7, 2**133, largest)),
        *(2**bits - less for bits in (252, 253, 260, 379, 385, 386, 512) for less in (1, 2)),
        *(2**bits for bits in (252, 260, 385, 386, 511)),
        largest * order,
        *(rng.getrandbits(rng.randrange(1, 513)) for _ in range(2_000)),
    ]
    out = ctypes.create_string_buffer(32)
    for number in numbers:
        reduce(number.to_bytes(64, "little"), ctypes.addressof(out))
        assert int.from_bytes(out.raw, "little") == number % order, number


# ---- whole signatures


def test_batches_of_any_size_and_messages_of_any_length(checker: TableChecker) -> None:
    """Up to what needs more memory than is kept; every third signature is another's."""
    tables = []
    for key in KEYS:
        point = rule.decode_point(key)
        assert point is not None
        tables.append(checker.build_negative(point))
    rng = random.Random(13)
    for count in (1, 2, 7, 8, 9, 64, 65, 300):
        triples = [sign(place % 6, rng.randbytes(rng.randrange(700))) for place in range(count)]
        keys, messages, signatures = map(list, zip(*triples, strict=True))
        signatures[::3] = [sign(place % 6)[2] for place in range(0, count, 3)]
        own = [tables[place % 6] for place in range(count)]
        verdicts = checker.confirm(own, keys, messages, signatures)
        assert verdicts == [place % 3 != 0 for place in range(count)]
    key, message, signature = sign(2, bytes(300_000))
    assert checker.confirm([tables[2]] * 2, [key] * 2, [message, b""], [signature] * 2) == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("column", "last"), [(0, []), (0, [bytes(31)]), (1, []), (2, []), (2, [bytes(63)])]
)
def test_columns_that_are_too_short_are_never_read(
    checker: TableChecker, column: int, last: list[bytes]
) -> None:
    point = rule.decode_point(KEYS[0])
    assert point is not None
    columns = [[each] * 8 for each in sign(0)]
    columns[column][-1:] = last
    with pytest.raises(AssertionError):
        checker.confirm([checker.build_negative(point)] * 8, *columns)


# ---- the rule


def test_verdicts_of_all_zip215_vectors_are_the_librarys(checker: TableChecker) -> None:
    cases = json.loads(VECTORS.read_text())
    triples = [tuple(bytes.fromhex(c[n]) for n in ("key", "message", "signature")) for c in cases]
    known = make_ready(checker)
    assert len(triples) > 196
    assert verify(known, triples) == verify(known, triples) == judge(triples)


@pytest.mark.parametrize("torsion_a", range(8))
def test_crafted_signatures_with_torsion_are_valid_either_way(
    checker: TableChecker, torsion_a: int
) -> None:
    known = make_ready(checker)
    triples = []
    for torsion_r in range(8):
        key, signature = curve.sign_crafted(
            11,
            b"crafted",
            nonce=13 + torsion_r,
            torsion_a=curve.TORSION[torsion_a],
            torsion_r=curve.TORSION[torsion_r],
        )
        triples.append((key, b"crafted", signature))
    assert verify(known, triples) == [True] * 8
    assert known.has_table(key)


def test_an_altered_signature_spoils_no_other(checker: TableChecker) -> None:
    known = make_ready(checker)
    triples = [sign(number % 6, b"%d" % number) for number in range(64)]
    key, message, signature = triples[17]
    triples[17] = key, message, flip(signature, at=40)
    assert verify(known, triples) == [number != 17 for number in range(64)]


def test_malformed_entries_are_invalid_and_spoil_no_other(checker: TableChecker) -> None:
    known = make_ready(checker)
    key, message, signature = sign(1)
    triples = [
        sign(0),
        (key, message, signature[:-1]),
        (key, message, signature + b"\0"),
        (key, message, b""),
        (key[:-1], message, signature),
        (b"", message, signature),
        (bytes([255]) * 32, message, signature),
        sign(1),
    ]
    assert verify(known, triples) == [True, *[False] * 6, True]
    assert verify(known, triples) == [True, *[False] * 6, True]


@settings(deadline=None)
@given(
    signer=st.integers(0, 5),
    message=st.binary(max_size=400),
    place=st.integers(0, 95),
    change=st.integers(0, 255),
    other=st.binary(max_size=3),
)
def test_verdicts_are_the_librarys(
    signer: int, message: bytes, place: int, change: int, other: bytes
) -> None:
    """One byte of key or signature, or the message, may be another."""
    known = make_ready(make_cached_checker())
    key, _, signature = sign(signer, message)
    joined = bytearray(key + signature)
    joined[place] ^= change
    triples = [
        (key, message, signature),
        (bytes(joined[:32]), message, bytes(joined[32:])),
        (key, message + other, signature),
    ]
    assert verify(known, triples) == verify(known, triples) == judge(triples)
    assert known.verify_columns([key], [message], [signature]) == [True]


def make_cached_checker() -> TableChecker:
    """Hypothesis takes no module fixture for each example."""
    if not _CHECKERS:
        _CHECKERS.append(make_checker())
    return _CHECKERS[0]


_CHECKERS: list[TableChecker] = []


# ---- bounds


def test_a_key_earns_its_table_with_the_last_of_its_first_uses(checker: TableChecker) -> None:
    made = []
    known = KnownKeys(make_checker=lambda: made.append(1) or checker)
    assert verify(known, [sign(0)] * (KEY_USES_FOR_TABLE - 1)) == [True] * (KEY_USES_FOR_TABLE - 1)
    known.wait_prepared()
    assert (made, known.tables) == ([], 0)
    verify(known, [sign(0)])
    known.wait_prepared()
    assert (made, known.tables) == ([1], 0)
    verify(known, [sign(0)])
    assert (made, known.tables) == ([1], 1)


def test_the_least_recently_used_table_goes_when_one_more_comes(checker: TableChecker) -> None:
    known = make_ready(checker, max_tables=3)
    verify(known, [sign(0), sign(1), sign(2)])
    assert known.tables == 3
    verify(known, [sign(0)])
    assert verify(known, [sign(3)]) == [True]
    assert known.tables == 3
    assert known.has_table(KEYS[0])
    assert not known.has_table(KEYS[1])


def test_the_count_of_the_key_not_seen_for_longest_is_forgotten(checker: TableChecker) -> None:
    known = KnownKeys(uses_for_table=3, max_counted=2, make_checker=lambda: checker)
    for signer in (0, 1, 0, 1):
        verify(known, [sign(signer)])  # two are counted: at the limit
    verify(known, [sign(2)])  # one past it: key 0 begins anew
    verify(known, [sign(1)])
    known.wait_prepared()
    for signer in (0, 0, 1):
        verify(known, [sign(signer)])
    assert not known.has_table(KEYS[0])
    assert known.has_table(KEYS[1])


def test_keys_in_one_call_may_be_more_than_the_tables(checker: TableChecker) -> None:
    known = make_ready(checker, max_tables=2)
    triples = [sign(signer) for signer in range(6)]
    assert verify(known, triples) == [True] * 6
    assert known.tables == 2


# ---- faults


@pytest.mark.parametrize("error", [RuntimeError("no code"), OSError("no"), ImportError("no")])
def test_without_code_the_library_judges_alone(error: Exception) -> None:
    def fail() -> TableChecker:
        raise error

    known = KnownKeys(uses_for_table=1, make_checker=fail)
    triples = [sign(0), sign(1), (KEYS[0], b"other", sign(0)[2])]
    for _ in range(3):
        assert verify(known, triples) == [True, True, False]
        known.wait_prepared()
    assert known.tables == 0


def test_no_table_is_made_where_none_is_wanted(checker: TableChecker) -> None:
    made: list[int] = []
    known = KnownKeys(
        max_tables=0, uses_for_table=1, make_checker=lambda: made.append(1) or checker
    )
    known.prepare()
    for _ in range(3):
        assert verify(known, [sign(0)]) == [True]
        known.wait_prepared()
    assert (made, known.tables) == ([], 0)


FORBIDDEN = """
import ctypes, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
from nacl.signing import SigningKey
from atpar.node.known_keys import KnownKeys
key = SigningKey(bytes(32))
columns = [bytes(key.verify_key)], [b"pay"], [key.sign(b"pay").signature]
known = KnownKeys(uses_for_table=1, warn=lambda text: print(text, file=sys.stderr))
known.prepare()
known.wait_prepared()
print(known.verify_columns(*columns), known.verify_columns(*columns), known.tables)
"""


def test_a_system_that_allows_no_new_code_leaves_the_library() -> None:
    """LLVM would take the permission for granted, and the process would crash."""
    command = [sys.executable, "-c", FORBIDDEN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel cannot forbid new code to a process (Linux before 6.3)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[True] [True] 0\n"
    assert "signatures are checked by the library alone: [Errno 13]" in done.stderr


def test_code_that_is_never_ready_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        def __init__(self, **_: object) -> None:
            self.started = 0

        def start(self) -> None:
            self.started += 1
            assert self.started == 1

    monkeypatch.setattr(known_keys.threading, "Thread", Never)
    known = KnownKeys(uses_for_table=1)
    for _ in range(3):
        assert verify(known, [sign(0)]) == [True]


@pytest.mark.parametrize("answer", [0, 1])
def test_code_that_answers_otherwise_than_the_library_is_not_used(answer: int) -> None:
    honest = compile_curve_code(count_lanes())

    def confirm(count: int, *arguments: object) -> None:
        address = arguments[-1]
        assert isinstance(address, int)
        ctypes.memset(address, answer, count)

    liar = TableChecker(dataclasses.replace(honest, confirm=confirm))
    with pytest.raises(RuntimeError, match="does not give the library's verdicts"):
        compare_with_library(liar)
