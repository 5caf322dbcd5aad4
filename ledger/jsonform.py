"""The JSON form of wire values: field names, hex for bytes, decimal strings for amounts.

One projection for the API, the command line, transaction files, proofs and the genesis document.
An operation carries its name under `"op"`, any other tagged Struct its name under `"type"`; every
other Struct is an object of its fields. Amounts are strings of minor units, because JSON readers
lose digits above 2**53.

What comes in is hostile: the result obeys every range of its type, and whatever is wrong becomes
one `JsonInvalid` that names the field.
"""

import json
import re
import types
from enum import Enum
from functools import cache
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from atpar.ledger import types as aliases
from atpar.ledger.codec import Wire
from atpar.ledger.operations import Operation

T = TypeVar("T", bound=Wire)

_OPERATIONS: Final = frozenset(get_args(Operation))
_HEX: Final = re.compile(r"[0-9a-fA-F]*", re.ASCII)
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_SHOWN_CHARS: Final = 60


_EXPECTED: Final[dict[Any, str]] = {
    # alias of ledger/types.py: what a person should have typed
    aliases.ParticipantCode: "a participant like ALFA",
    aliases.AccountId: "an account like ALFA/main",
    aliases.AssetCode: "an asset like HKD.JDCL",
    aliases.Currency: "a currency like HKD",
    aliases.Lei: "an LEI: 18 capitals or digits, then 2 digits",
    aliases.Bic: "a BIC like ALFAHKHH or ALFAHKHHXXX",
    aliases.Jurisdiction: "a country like HK",
    aliases.Reference: "at most 35 printable ASCII characters",
    aliases.Reason: "at most 140 printable ASCII characters",
}
_BY_PATTERN: Final = {
    meta.pattern: text for alias, text in _EXPECTED.items() for meta in alias.__metadata__
}


def describe_mismatch(error: msgspec.ValidationError, hint: Any) -> str:
    """Return what is wrong with a value, in words for people where its type has a pattern."""
    text = str(error)
    if "matching regex" in text:
        for meta in getattr(hint, "__metadata__", ()):
            if meta.pattern in _BY_PATTERN:
                return f"expected {_BY_PATTERN[meta.pattern]}"
    return text


class JsonInvalid(Exception):
    """A JSON value does not have the form of its type. `field` is the path to the offender."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field or 'document'}: {message}")
        self.field = field


# ---- reading JSON text


def parse_json(data: bytes, *, max_bytes: int) -> Any:
    """Return the value of JSON text in UTF-8.

    Raises:
        JsonInvalid: too long, not JSON, nested too deeply, or a name given twice in one object.
    """
    if len(data) > max_bytes:
        raise JsonInvalid("", f"{len(data)} bytes, at most {max_bytes}")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise JsonInvalid("", f"not JSON: {error}") from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise JsonInvalid(_show_name(name), "given twice in one object")
        found[name] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise JsonInvalid("", f"not JSON: {name}")


# ---- the shape of types


def operation_name(kind: type) -> str:
    """Return the snake-case name of an operation type: `attest_reserve`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


@cache
def get_name_field(kind: type) -> str | None:
    """Return under which field a Struct's own name stands in its object; None: under none."""
    if getattr(kind, "__struct_config__").tag is None:  # noqa: B009 - set by msgspec
        return None
    name_field = "op" if kind in _OPERATIONS else "type"
    assert name_field not in _hints(kind), kind
    return name_field


def _split(hint: Any) -> tuple[Any, bool]:
    """Return a hint without its `Annotated`, and whether it asks for a decimal string."""
    if get_origin(hint) is not Annotated:
        return hint, False
    metas = [meta for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)]
    return get_args(hint)[0], any((meta.extra or {}).get("json") == "decimal" for meta in metas)


def _is_union(plain: Any) -> bool:
    return get_origin(plain) in (Union, types.UnionType)


def _is_decimal(hint: Any) -> bool:
    plain, decimal = _split(hint)
    return decimal or (_is_union(plain) and any(_is_decimal(arm) for arm in get_args(plain)))


# ---- out


def to_json(value: Any, hint: Any = None) -> Any:
    """Return the JSON form of a wire value, built of dicts, lists, strings, ints, bools, None."""
    if isinstance(value, msgspec.Struct):
        kind = type(value)
        hints, name_field = _hints(kind), get_name_field(kind)
        fields = {} if name_field is None else {name_field: operation_name(kind)}
        for name in value.__struct_fields__:
            fields[name] = to_json(getattr(value, name), hints[name])
        return fields
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        plain, _ = _split(hint)
        item = get_args(plain)[0] if get_origin(plain) is tuple else None
        return [to_json(element, item) for element in value]
    if type(value) is int and _is_decimal(hint):
        return str(value)
    return value


# ---- in


def from_json(kind: type[T], value: Any) -> T:
    """Return the wire value of a JSON form.

    Raises:
        JsonInvalid: a field is missing, unknown, of the wrong type or out of range; names it.
    """
    built: T = _build(kind, value, "")
    return built


def _build(hint: Any, value: Any, path: str) -> Any:
    plain, _ = _split(hint)
    if _is_union(plain):
        return _build_union(get_args(plain), value, path)
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return _build_struct(plain, value, path)
    if get_origin(plain) is tuple:
        if not isinstance(value, list):
            raise JsonInvalid(path, f"expected a list, got {_show(value)}")
        item = get_args(plain)[0]
        built: Any = tuple(_build(item, v, f"{path}[{i}]") for i, v in enumerate(value))
    else:
        built = _build_scalar(plain, value, path)
    return _check_range(hint, built, path)


def _build_union(arms: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in arms:
        return None
    rest = [arm for arm in arms if arm is not type(None)]
    if len(rest) == 1:
        return _build(rest[0], value, path)
    name_field = get_name_field(rest[0]) or "type"
    if not isinstance(value, dict):
        raise JsonInvalid(path, f"expected an object, got {_show(value)}")
    name = value.get(name_field)
    for arm in rest:
        if name == operation_name(arm):
            return _build_struct(arm, value, path)
    what = "operation" if name_field == "op" else "type"
    raise JsonInvalid(_join(path, name_field), f"unknown {what} {_show(name)}")


def _build_struct(kind: type[msgspec.Struct], value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise JsonInvalid(path, f"expected an object, got {_show(value)}")
    given, name_field, hints = dict(value), get_name_field(kind), _hints(kind)
    if name_field is not None:
        name = given.pop(name_field, None)
        if name != operation_name(kind):
            raise JsonInvalid(
                _join(path, name_field), f"expected {operation_name(kind)}, got {_show(name)}"
            )
    fields = {}
    for name in kind.__struct_fields__:
        if name not in given:
            raise JsonInvalid(_join(path, name), "missing")
        fields[name] = _build(hints[name], given.pop(name), _join(path, name))
    for name in given:
        raise JsonInvalid(_join(path, _show_name(name)), "unknown field")
    return kind(**fields)


def _build_scalar(plain: Any, value: Any, path: str) -> Any:
    if plain is bytes:
        if isinstance(value, str) and len(value) % 2 == 0 and _HEX.fullmatch(value):
            return bytes.fromhex(value)
        raise JsonInvalid(path, f"expected hex, got {_show(value)}")
    if plain is int:
        if type(value) is int:
            return value
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            return int(value)
        raise JsonInvalid(path, f"expected a whole number, got {_show(value)}")
    if plain is bool or plain is str:
        if type(value) is plain and not (isinstance(value, str) and _has_surrogate(value)):
            return value
        raise JsonInvalid(path, f"expected {plain.__name__}, got {_show(value)}")
    members = _list_choices(plain)
    for choice, built in members:
        if type(value) is type(choice) and value == choice:
            return built
    choices = ", ".join(str(choice) for choice, _ in members)
    raise JsonInvalid(path, f"expected one of {choices}, got {_show(value)}")


def _list_choices(plain: Any) -> list[tuple[Any, Any]]:
    """Return (JSON value, Python value) of each choice of a literal or an enumeration."""
    if get_origin(plain) is Literal:
        return [(choice, choice) for choice in get_args(plain)]
    return [(member.value, member) for member in plain]


def _has_surrogate(text: str) -> bool:
    """Return whether UTF-8 cannot hold the text: JSON escapes can make half characters."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _check_range(hint: Any, value: Any, path: str) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        message = describe_mismatch(error, hint)
        raise JsonInvalid(path, f"{message}, got {_show(value)}") from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show_name(name: str) -> str:
    return ascii(name[:_SHOWN_CHARS])[1:-1]


def _show(value: Any) -> str:
    """Return a short form of any JSON value for a message, whatever its size."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str | bytes):
        return ascii(value[:_SHOWN_CHARS])
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    return ascii(value)
