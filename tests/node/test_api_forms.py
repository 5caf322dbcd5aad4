"""Codes of other versions, and what is said about every code of this one."""

from atpar.ledger.codes import Code
from atpar.node.api_forms import describe_code, get_code_name


def test_every_code_has_a_name_a_meaning_and_advice() -> None:
    for code in Code:
        assert get_code_name(code) == code.name
        assert describe_code(code).meaning
        assert describe_code(code).advice


def test_code_of_a_later_version_is_told_by_its_number() -> None:
    assert get_code_name(998) == "CODE_998"
    assert "998" in describe_code(998).meaning
