"""The schema files are those that the dataclasses generate, and they refuse what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nsr.config import BASE, Config
from nsr.manifest import schema_texts, write_schemas
from tests.source_tree import ROOT

SCHEMAS = ROOT / "config/schemas"


@pytest.mark.parametrize("name", ["config.schema.yaml", "scenes.schema.yaml"])
def test_schema_file_is_current(name: str) -> None:
    assert (SCHEMAS / name).read_text(encoding="utf-8") == schema_texts()[name], f"run `make schema` and commit {name}"


def test_schema_files_are_all(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in SCHEMAS.iterdir()}


def config_schema() -> dict[str, Any]:
    """The committed schema of the config file."""
    schema = yaml.safe_load((SCHEMAS / "config.schema.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml", "demo-short.yaml"])
def test_shipped_configs_are_valid(name: str) -> None:
    jsonschema.validate(yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8")), config_schema())


@pytest.mark.parametrize("path", sorted((ROOT / "config/methods").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_methods_are_valid(path: Path) -> None:
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings.pop(BASE, None)  # which preset it builds on: of presets alone, no setting
    jsonschema.validate({"settings": settings}, config_schema())


@pytest.mark.parametrize(
    "settings",
    [
        {"mesh": {"resolutoin": 3}},
        {"mesh": {"resolution": "fine"}},
        {"train": {"use_masks": "sometimes"}},
        {"train": {"loss": {"mask": "strong"}}},
        {"train": {"loss": {"mask": [[0, 1, 2]]}}},
        {"train": {"optim": {"betas": [0.9]}}},
    ],
)
def test_schema_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"settings": settings}, config_schema())


def test_schema_accepts_a_schedule() -> None:
    jsonschema.validate({"settings": {"train": {"loss": {"mask": [[0, 0.1], [500, 1]], "eikonal": 0.2}}}}, config_schema())


def test_every_setting_has_its_default_in_the_schema() -> None:
    def compare(value: Any, schema: dict[str, Any], name: str) -> None:
        assert not schema["additionalProperties"]
        assert set(vars(value)) == set(schema["properties"])
        for key, item in vars(value).items():
            inner = schema["properties"][key]
            if hasattr(item, "__dataclass_fields__"):
                compare(item, inner, f"{name}.{key}")
            else:
                assert inner["default"] == (list(item) if isinstance(item, tuple) else item), f"{name}.{key}"

    compare(Config(), config_schema()["properties"]["settings"], "settings")
