"""The OpenAPI 3.1 document of the API, generated from its routes and the Structs they use.

Kept in `docs/openapi.json`, with a test that it is current, so that a change of the interface shows
in review. Regenerate it with `python -m atpar.node.openapi docs/openapi.json`.
"""

import ast
import inspect
import re
import sys
import textwrap
import types
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from atpar.ledger.codes import Code
from atpar.ledger.jsonform import get_name_field, operation_name
from atpar.node.access import Group
from atpar.node.api import ROUTES, Query, Route
from atpar.node.api_http import JSON, MSGPACK
from atpar.node.problems import CONTENT_TYPE, ApiCode

Schema = dict[str, Any]

INTEGER_TEXT: Final = r"^-?[0-9]{1,19}$"
DESCRIPTION: Final = """\
Submit signed transactions to a ledger of fiat-backed stablecoins, and read what is final.

In JSON, hashes, ids and keys are hex, amounts are decimal strings of minor units, and envelopes are
base64. The same answers come as MessagePack (`Accept: application/msgpack`) with `bin` and
integers; a proof is then one `bin` with its JSON document. Refusals are RFC 9457 problem documents
whose `code` is stable."""


@cache
def render_openapi() -> bytes:
    """Return the document as readable JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(make_openapi()), indent=2) + b"\n"


def make_openapi() -> Schema:
    """Return the document as plain JSON values."""
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _make_operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "atpar", "version": "1", "description": DESCRIPTION},
        "servers": [{"url": "http://127.0.0.1:7101"}],
        "security": [{}, {"bearer": []}],
        "tags": [{"name": group.value} for group in Group],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _make_problem(), **dict(sorted(schemas.found.items()))},
        },
    }


# ---- routes


def _make_operation(route: Route, schemas: "_Schemas") -> Schema:
    operation: Schema = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "tags": [route.group.value],
        "parameters": _list_parameters(route),
        "responses": _list_responses(route, schemas),
    }
    if route.takes:
        operation["requestBody"] = _make_body(route, schemas)
    return operation


def _list_parameters(route: Route) -> list[Schema]:
    names = re.findall(r"\{(\w+)\}", route.path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    parameters += [_make_query(query) for query in route.queries]
    if route.waits:
        text = "`wait=N`: answer once final, or after N seconds with the status so far."
        parameters.append(_make_header("Prefer", text))
    if route.media_type == "text/event-stream":
        parameters.append(_make_header("Last-Event-ID", "Resume after the event with this id."))
    return parameters


def _make_query(query: Query) -> Schema:
    return {
        "name": query.name,
        "in": "query",
        "description": query.text,
        "schema": {"type": "string"},
    }


def _make_header(name: str, text: str) -> Schema:
    return {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}


def _list_responses(route: Route, schemas: "_Schemas") -> Schema:
    if route.media_type is not None:
        done = {"description": "Done.", "content": {route.media_type: {}}}
        return {"200": done, "default": _REFUSED}
    answer = {
        "description": "Final, or as of `read_height`.",
        "content": _make_content([schemas.make(kind) for kind in route.answers]),
    }
    responses: Schema = {"200": answer}
    if route.method == "POST" and route.waits:
        text = "Accepted or not decided yet: not a failure. Ask again by the ids in the answer."
        responses["202"] = {**answer, "description": text}
    return {**responses, "default": _REFUSED}


_REFUSED: Final[Schema] = {
    "description": "Refused; `code` says why.",
    "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def _make_content(schemas: list[Schema]) -> Schema:
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {JSON: {"schema": schema}, MSGPACK: {}}


def _make_body(route: Route, schemas: "_Schemas") -> Schema:
    forms = [schemas.make(kind, base64=True) for kind in route.takes]
    content = _make_content(forms)
    content[MSGPACK] = {
        "schema": {
            "description": "An array of `bin`, each an envelope; or one envelope's bytes as they "
            "are."
        }
    }
    return {"required": True, "content": content}


def _make_problem() -> Schema:
    names = [code.value for code in ApiCode]
    names += [code.name for code in Code if code is not Code.OK]
    return {
        "type": "object",
        "description": "RFC 9457. Some refusals carry more: the field at fault, the ids of the "
        "transaction, the ISO 20022 reason.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": sorted(names)},
            "detail": {"type": "string"},
            "field": {"type": "string"},
            "tx_hash": {"type": ["string", "null"]},
            "sender": {"type": ["string", "null"]},
            "tx_id": {"type": ["string", "null"]},
            "iso_reason": {"type": ["string", "null"]},
            "advice": {"type": "string"},
        },
    }


# ---- Structs


class _Schemas:
    """Makes schemas of types; Structs once each, under their names."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def make(self, hint: Any, *, base64: bool = False) -> Schema:
        """Return the schema of a type hint. `base64` is how a request's bytes are written."""
        plain, metas = _split(hint)
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            return self._refer(plain, base64=base64)
        if get_origin(plain) in (Union, types.UnionType):
            return {"anyOf": [self.make(arm, base64=base64) for arm in get_args(plain)]}
        if get_origin(plain) is tuple:
            items = self.make(get_args(plain)[0], base64=base64)
            return {"type": "array", "items": items, **_bounds(metas, "minItems", "maxItems")}
        if get_origin(plain) is Literal:
            return {"enum": list(get_args(plain))}
        if isinstance(plain, type) and issubclass(plain, Enum):
            return {"type": "string", "enum": [member.value for member in plain]}
        return _make_scalar(plain, metas, base64=base64)

    def _refer(self, kind: type[msgspec.Struct], *, base64: bool) -> Schema:
        name = kind.__name__
        if name not in self.found:
            self.found[name] = {}  # so that a Struct may contain itself
            self.found[name] = self._describe(kind, base64=base64)
        return {"$ref": f"#/components/schemas/{name}"}

    def _describe(self, kind: type[msgspec.Struct], *, base64: bool) -> Schema:
        hints, texts = get_type_hints(kind, include_extras=True), _read_texts(kind)
        properties: Schema = {}
        name_field = get_name_field(kind)
        if name_field is not None:
            properties[name_field] = {"const": operation_name(kind)}
        for name in kind.__struct_fields__:
            schema = self.make(hints[name], base64=base64)
            text = texts.get(name)
            properties[name] = schema if text is None else {**schema, "description": text}
        return {
            "type": "object",
            "description": inspect.cleandoc(kind.__doc__ or ""),
            "required": list(properties),
            "properties": properties,
        }


def _split(hint: Any) -> tuple[Any, list[msgspec.Meta]]:
    if get_origin(hint) is not Annotated:
        return hint, []
    return get_args(hint)[0], [m for m in hint.__metadata__ if isinstance(m, msgspec.Meta)]


def _make_scalar(plain: Any, metas: list[msgspec.Meta], *, base64: bool) -> Schema:
    if plain is bytes:
        if base64:
            return {"type": "string", "contentEncoding": "base64"}
        return {"type": "string", "pattern": _hex_pattern(metas)}
    if plain is int:
        if any((meta.extra or {}).get("json") == "decimal" for meta in metas):
            return {"type": "string", "pattern": INTEGER_TEXT}
        return {"type": "integer", **_bounds(metas, "minimum", "maximum", names=("ge", "le"))}
    if plain is str:
        patterns = [meta.pattern for meta in metas if meta.pattern is not None]
        anchored = [p.replace(r"\A", "^").replace(r"\Z", "$") for p in patterns]
        limits = _bounds(metas, "minLength", "maxLength")
        return {"type": "string", **({"pattern": anchored[0]} if anchored else {}), **limits}
    names = {bool: "boolean", type(None): "null"}
    return {"type": names[plain]}


def _bounds(
    metas: list[msgspec.Meta],
    low: str,
    high: str,
    *,
    names: tuple[str, str] = ("min_length", "max_length"),
) -> Schema:
    found = {}
    for meta in metas:
        for name, key in zip(names, (low, high), strict=True):
            if getattr(meta, name) is not None:
                found[key] = getattr(meta, name)
    return found


def _hex_pattern(metas: list[msgspec.Meta]) -> str:
    for meta in metas:
        if meta.min_length is not None and meta.min_length == meta.max_length:
            return f"^[0-9a-f]{{{meta.max_length * 2}}}$"
    return "^([0-9a-f]{2})*$"


def _read_texts(kind: type) -> dict[str, str]:
    """Return the texts that stand under a Struct's fields in its source."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            texts[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


def main() -> None:
    """Write the document to the file named on the command line."""
    Path(sys.argv[1]).write_bytes(render_openapi())


if __name__ == "__main__":
    main()
