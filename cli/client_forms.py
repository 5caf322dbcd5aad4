"""Reading the API's JSON answers as the typed Structs that the server makes them from.

A newer node may answer with fields that this version does not know: they are left out, so that a
client outlives its node's updates. Everything else has to fit exactly.
"""

import types
from functools import cache
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from atpar.ledger.jsonform import from_json, get_name_field
from atpar.node.api_forms import Form

T = TypeVar("T", bound=Form)


def read_form(kind: type[T], value: object) -> T:
    """Return the typed answer of a decoded JSON document.

    Raises:
        JsonInvalid: it does not have the form; names the field.
    """
    return cast("T", from_json(cast("Any", kind), _prune(kind, value)))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _prune(hint: Any, value: Any) -> Any:
    """Return the value without the fields that forms do not have. Wire values stay as they are."""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if isinstance(value, list) and get_origin(plain) is tuple:
        return [_prune(get_args(plain)[0], item) for item in value]
    if get_origin(plain) in (Union, types.UnionType):
        arms = [arm for arm in get_args(plain) if arm is not type(None)]
        return _prune(arms[0], value) if len(arms) == 1 else value
    is_form = isinstance(plain, type) and issubclass(plain, Form)
    if not is_form or not isinstance(value, dict):
        return value
    assert get_name_field(plain) is None
    fields: tuple[str, ...] = cast("type[msgspec.Struct]", plain).__struct_fields__
    hints = _hints(plain)
    return {name: _prune(hints[name], value[name]) for name in fields if name in value}
