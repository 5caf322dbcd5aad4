"""The table of codes: complete, ordered, and with a reason a bank's system understands."""

import re

from atpar.ledger.codes import FIRST_RECEIPT_CODE, MEANINGS, Code, iso_reason, render_table
from tests.ledger.render_codes import PATH


def test_every_code_has_a_meaning_and_none_is_left_over() -> None:
    assert set(MEANINGS) == set(Code)


def test_meanings_follow_the_order_of_precedence() -> None:
    assert list(MEANINGS) == sorted(Code)


def test_every_meaning_is_whole() -> None:
    for code, meaning in MEANINGS.items():
        assert re.fullmatch(r"[A-Z0-9]{4}", meaning.iso), code
        assert meaning.meaning.endswith("."), code
        assert meaning.advice.endswith("."), code


def test_the_reasons_that_the_design_fixes() -> None:
    for code, iso in (
        (Code.INSUFFICIENT_FUNDS, "AM04"),
        (Code.ID_REUSED, "AM05"),
        (Code.ACCOUNT_FROZEN, "AC06"),
        (Code.AMOUNT_BLOCKED, "AM07"),
        (Code.LIMIT_EXCEEDED, "AM14"),
        (Code.TRAVEL_RULE_MISSING, "RR02"),
    ):
        assert iso_reason(code) == iso


def test_the_table_in_docs_is_the_one_in_the_code() -> None:
    assert PATH.read_text(encoding="utf-8") == render_table(), (
        "run `python -m tests.ledger.render_codes`"
    )


def test_codes_below_the_first_receipt_code_never_stand_in_a_receipt() -> None:
    assert Code.NOT_READY < FIRST_RECEIPT_CODE <= Code.UNKNOWN_PARTICIPANT
    assert max(Code) is Code.OVERFLOW
