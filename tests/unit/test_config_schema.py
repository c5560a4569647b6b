"""JSON schemas out of dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import jsonschema
import pytest

from nsr.config import Config, json_schema
from nsr.config_schema import dataclass_schema, field_comments, row_schema

Schedule = Any


@dataclass
class Inner:
    """Inner thing
    of two lines."""

    size: float = 0.5  # cells, "quoted" # and a hash


@dataclass
class Outer:
    """Outer thing."""

    name: str  # required
    flag: bool = True
    many: tuple[float, ...] = (0.5, 1.0)
    pair: tuple[int, int] = (1, 2)  # two of them
    words: list[str] = field(default_factory=list)  # behind a call over several lines
    kind: Literal["a", "b"] = "a"
    maybe: int | None = None
    weight: Schedule = 1.0  # may follow a schedule
    inner: Inner = field(default_factory=Inner)  # nested


@dataclass
class Odd:
    """Has a type without a counterpart."""

    thing: complex = 1j


def test_types_and_comments() -> None:
    schema = dataclass_schema(Outer)
    properties = schema["properties"]
    assert schema["description"] == "Outer thing."
    assert schema["additionalProperties"] is False
    assert properties["name"] == {"type": "string", "description": "required"}
    assert properties["flag"] == {"type": "boolean", "default": True}
    assert properties["many"] == {"type": "array", "items": {"type": "number"}, "default": [0.5, 1.0]}
    assert properties["pair"]["minItems"] == properties["pair"]["maxItems"] == 2
    assert properties["words"]["description"] == "behind a call over several lines"
    assert properties["kind"] == {"enum": ["a", "b"], "default": "a"}
    assert properties["maybe"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert properties["inner"]["properties"]["size"]["description"] == 'cells, "quoted" # and a hash'
    assert row_schema(Outer)["required"] == ["name"]


def test_comments_belong_to_fields_only() -> None:
    assert set(field_comments(Outer)) == {"name", "pair", "words", "weight", "inner"}


@pytest.mark.parametrize("value", [1, 0.5, [[0, 1.0]], [[0, 0.1], [100, 1]]])
def test_schedule_accepts(value: Any) -> None:
    jsonschema.validate({"weight": value}, dataclass_schema(Outer))


@pytest.mark.parametrize("value", ["1", [], [1, 2], [[0]], [[0, "x"]]])
def test_schedule_refuses(value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"weight": value}, dataclass_schema(Outer))


def test_unknown_type_is_an_error() -> None:
    with pytest.raises(TypeError, match="complex"):
        dataclass_schema(Odd)


def test_schema_of_the_settings_accepts_its_own_defaults() -> None:
    from dataclasses import asdict

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    schema = json_schema(Config)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plain(asdict(Config())), schema)
