"""The JSON form of wire values: field names, hex for bytes, decimal strings for amounts.

One projection for the API, the command line, transaction files and the genesis document. An
operation carries its name under `"op"`; every other Struct is an object of its fields. Amounts
are strings of minor units, because JSON readers lose digits above 2**53.
"""

import re
import types
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from atpar.ledger.codec import Wire

T = TypeVar("T", bound=Wire)


class JsonInvalid(Exception):
    """A JSON value does not have the form of its type. `field` is the path to the offender."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field or 'document'}: {message}")
        self.field = field


def operation_name(kind: type) -> str:
    """Return the snake-case name of an operation type: `attest_reserve`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is_tagged(kind: type) -> bool:
    return getattr(kind, "__struct_config__").tag is not None  # noqa: B009 - set by msgspec


def _is_decimal(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        metas = hint.__metadata__
        return any(isinstance(m, msgspec.Meta) and (m.extra or {}).get("json") for m in metas)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_decimal(arm) for arm in get_args(hint))
    return False


def to_json(value: Any, hint: Any = None) -> Any:
    """Return the JSON form of a wire value, built of dicts, lists, strings, ints, bools, None."""
    if isinstance(value, msgspec.Struct):
        hints = _hints(type(value))
        fields = {
            name: to_json(getattr(value, name), hints[name]) for name in value.__struct_fields__
        }
        return {"op": operation_name(type(value)), **fields} if _is_tagged(type(value)) else fields
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if type(value) is int and _is_decimal(hint):
        return str(value)
    return value


def from_json(kind: type[T], value: Any) -> T:
    """Return the wire value of a JSON form.

    Raises:
        JsonInvalid: a field is missing, unknown, of the wrong type or out of range; names it.
    """
    built: T = _build(kind, value, "")
    return built


def _build(hint: Any, value: Any, path: str) -> Any:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(plain) in (Union, types.UnionType):
        return _build_union(get_args(plain), value, path)
    if get_origin(plain) is tuple:
        if not isinstance(value, list):
            raise JsonInvalid(path, f"expected a list, got {value!r:.80}")
        item = get_args(plain)[0]
        built: Any = tuple(_build(item, v, f"{path}[{i}]") for i, v in enumerate(value))
    elif isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return _build_struct(plain, value, path)
    else:
        built = _build_scalar(plain, value, path)
    return _check_range(hint, built, path)


def _build_union(arms: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in arms:
        return None
    rest = [arm for arm in arms if arm is not type(None)]
    if len(rest) == 1:
        return _build(rest[0], value, path)
    by_name = {operation_name(arm): arm for arm in rest}
    name = value.get("op") if isinstance(value, dict) else None
    if name not in by_name:
        raise JsonInvalid(f"{path}.op", f"unknown operation {name!r:.80}")
    return _build_struct(by_name[name], value, path)


def _build_struct(kind: type[msgspec.Struct], value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise JsonInvalid(path, f"expected an object, got {value!r:.80}")
    given = dict(value)
    if _is_tagged(kind):
        given.pop("op", None)
    prefix = f"{path}." if path else ""
    unknown = sorted(set(given) - set(kind.__struct_fields__))
    if unknown:
        raise JsonInvalid(f"{prefix}{unknown[0]}", "unknown field")
    hints = _hints(kind)
    fields = {}
    for name in kind.__struct_fields__:
        if name not in given:
            raise JsonInvalid(f"{prefix}{name}", "missing")
        fields[name] = _build(hints[name], given[name], f"{prefix}{name}")
    return kind(**fields)


def _build_scalar(plain: Any, value: Any, path: str) -> Any:
    if plain is bytes:
        if isinstance(value, str) and re.fullmatch(r"(?:[0-9a-fA-F]{2})*", value, re.ASCII):
            return bytes.fromhex(value)
        raise JsonInvalid(path, f"expected hex, got {value!r:.80}")
    if plain is int:
        if type(value) is int:
            return value
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value, re.ASCII):
            return int(value)
        raise JsonInvalid(path, f"expected a whole number, got {value!r:.80}")
    if plain is bool or plain is str:
        if type(value) is plain:
            return value
        raise JsonInvalid(path, f"expected {plain.__name__}, got {value!r:.80}")
    try:
        return plain(value)
    except ValueError:
        choices = ", ".join(str(member.value) for member in plain)
        raise JsonInvalid(path, f"expected one of {choices}, got {value!r:.80}") from None


def _check_range(hint: Any, value: Any, path: str) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise JsonInvalid(path, f"{error}, got {value!r:.80}") from None
