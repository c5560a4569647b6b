"""JSON schemas out of the dataclasses that hold the settings; editors and `snakemake.utils.validate` read them.

The description of a key is the comment behind its field, that of a group the docstring of its class, so that a
setting is explained in one place.
"""

from __future__ import annotations

import inspect
import io
import tokenize
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCHEDULE = "Schedule"  # the name under which nsr.config writes "a number or a list of [step, value]"
_SCALARS: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def dataclass_schema(kind: type) -> dict[str, Any]:
    """Schema of a dataclass: every key optional with its default, nested dataclasses as objects, unknown keys refused.

    Raises:
        TypeError: a field has a type that has no counterpart here.
    """
    hints = get_type_hints(kind)
    comments = field_comments(kind)
    properties = {}
    for item in fields(kind):
        schema = _schedule_schema() if item.type == _SCHEDULE else _type_schema(hints[item.name])
        if item.name in comments:
            schema["description"] = comments[item.name]
        if "properties" not in schema and (default := _default(item)) is not MISSING:
            schema["default"] = default
        properties[item.name] = schema
    description = " ".join((inspect.getdoc(kind) or "").split())
    return {"type": "object", "description": description, "additionalProperties": False, "properties": properties}


def workflow_schema(kind: type, settings: type) -> dict[str, Any]:
    """Schema of the workflow's config file: dataclass `kind`, whose key `settings` is an object of dataclass `settings`."""
    schema = dataclass_schema(kind)
    described = schema["properties"]["settings"].get("description", "")
    schema["properties"]["settings"] = {**dataclass_schema(settings), "description": described}
    schema["properties"]["methods"]["minItems"] = 1
    return {"$schema": _DIALECT, **schema}


def row_schema(kind: type) -> dict[str, Any]:
    """Schema of one row of a table: as `dataclass_schema`, but fields without a default are required."""
    schema = dataclass_schema(kind)
    required = [item.name for item in fields(kind) if _default(item) is MISSING]
    for name in required:
        if schema["properties"][name].get("type") == "string":
            schema["properties"][name]["minLength"] = 1
    return {"$schema": _DIALECT, **schema, "required": required}


def field_comments(kind: type) -> dict[str, str]:
    """The trailing comment of every field of a dataclass, by the field's name."""
    comments: dict[str, str] = {}
    name = ""
    start_of_line = True
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(kind)).readline):
        if token.type == tokenize.COMMENT and name:
            comments[name] = token.string.lstrip("# ").strip()
        elif token.type in (tokenize.NEWLINE, tokenize.NL):
            start_of_line = True
            name = "" if token.type == tokenize.NEWLINE else name
        elif token.type == tokenize.NAME and start_of_line:
            name, start_of_line = token.string, False
        elif token.type not in (tokenize.INDENT, tokenize.DEDENT):
            start_of_line = False
    names = {item.name for item in fields(kind)}
    return {key: text for key, text in comments.items() if key in names}


def _default(item: Field[Any]) -> Any:
    if item.default is not MISSING:
        return list(item.default) if isinstance(item.default, tuple) else item.default
    if item.default_factory is not MISSING:
        value = item.default_factory()
        return list(value) if isinstance(value, tuple) else value
    return MISSING


def _schedule_schema() -> dict[str, Any]:
    knot = {"type": "array", "prefixItems": [{"type": "number"}] * 2, "minItems": 2, "maxItems": 2}
    return {"anyOf": [{"type": "number"}, {"type": "array", "items": knot, "minItems": 1}]}


def _type_schema(hint: Any) -> dict[str, Any]:
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if is_dataclass(hint):
        return dataclass_schema(hint) if isinstance(hint, type) else {}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if part is type(None) else _type_schema(part) for part in arguments]}
    if origin is list:
        return {"type": "array", "items": _type_schema(arguments[0])}
    if origin is dict:
        return {"type": "object"}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": _type_schema(arguments[0])}
        size = len(arguments)
        return {"type": "array", "prefixItems": [_type_schema(part) for part in arguments], "minItems": size, "maxItems": size}
    raise TypeError(f"config_schema: no JSON schema for {hint!r}")
