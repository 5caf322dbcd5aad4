"""Drafts of a genesis document: read with less than a whole chain in them, compared, checked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from atpar.cli.files import read_input
from atpar.ledger.codec import Wire
from atpar.ledger.errors import GenesisInvalid
from atpar.ledger.genesis import (
    FORMAT,
    GenesisDocument,
    check_genesis,
    parse_genesis,
    render_genesis,
)
from atpar.ledger.jsonform import JsonInvalid, from_json, to_json

T = TypeVar("T", bound=Wire)


def read_draft(path: Path) -> GenesisDocument:
    """Return a document that need not be complete yet.

    Raises:
        WrongUsage: the file cannot be read.
        GenesisInvalid: it does not have the form of a document; names the field.
    """
    data = read_input(path)
    try:
        value = json.loads(data, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise GenesisInvalid("document", f"{path} is not JSON: {error}") from error
    with naming_file(path):
        document = build(GenesisDocument, value, "")
        if document.format != FORMAT:
            raise GenesisInvalid("format", f"{document.format!r}, expected {FORMAT!r}")
    return document


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with the document in it."""
    try:
        yield
    except GenesisInvalid as error:
        message = str(error).removeprefix(f"{error.field}: ")
        raise GenesisInvalid(f"{path}: {error.field}", message) from error


def check_complete(document: GenesisDocument) -> None:
    """Check a sealed document as every node will.

    Raises:
        GenesisInvalid: names the field.
    """
    check_genesis(document, sealed=True)
    check_roots(document)
    parse_genesis(render_genesis(document))


def check_roots(document: GenesisDocument) -> None:
    """Check that every root certificate can be registered.

    Raises:
        GenesisInvalid: names the field.
    """
    from atpar.node.errors import IdentityInvalid
    from atpar.node.identity import parse_root

    for section in ("validators", "observers"):
        for index, entry in enumerate(getattr(document, section)):
            try:
                parse_root(entry.root_certificate.encode())
            except IdentityInvalid as error:
                field = f"{section}[{index}].root_certificate"
                raise GenesisInvalid(field, str(error)) from error


def find_difference(first: GenesisDocument, second: GenesisDocument) -> str:
    """Return the path of the first field in which two documents differ, signatures aside."""
    path = _find_difference(to_json(first), to_json(second), "")
    return path or "nothing"


def _find_difference(one: Any, two: Any, path: str) -> str:
    if isinstance(one, dict) and isinstance(two, dict):
        for name in one:
            if path == "" and name == "signatures":
                continue
            found = _find_difference(one[name], two.get(name), f"{path}.{name}".lstrip("."))
            if found:
                return found
        return ""
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, (left, right) in enumerate(zip(one, two, strict=True)):
            found = _find_difference(left, right, f"{path}[{index}]")
            if found:
                return found
        return ""
    return path if one != two else ""


def build(kind: type[T], value: Any, where: str) -> T:
    """Return a wire value of its JSON form; `where` stands before the field in errors.

    Raises:
        GenesisInvalid: names the field.
    """
    try:
        return from_json(kind, value)
    except JsonInvalid as error:
        field = ".".join(part for part in (where, error.field) if part) or "document"
        raise GenesisInvalid(field, str(error).partition(": ")[2]) from error


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise GenesisInvalid(name, "given twice in one object")
        found[name] = value
    return found
