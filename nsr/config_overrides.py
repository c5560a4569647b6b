"""Single settings over a config that is resolved already.

`nsr.config.resolve` builds the whole tree of settings anew, some 0.1 s. A list of a thousand scenes under several methods
has thousands of configs that differ from one another in a few settings: here only the named setting goes through OmegaConf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field, is_dataclass, make_dataclass, replace
from functools import cache
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nsr.config import Config
from nsr.config_checks import check_config
from nsr.errors import ConfigError


class _NotPlainError(Exception):
    """The override is not a plain setting with a right value."""


def override(base: Config, overrides: Iterable[str], whole: Callable[[], Config]) -> Config:
    """`base` with `key.path=value` strings over it; sections without an override are shared with `base`.

    Args:
        base: as resolved without the overrides. whole: resolves everything, with the overrides; asked where one is no plain
            setting, has a wrong value or leads out of range, so that its error is the one that a user sees.

    Raises:
        ConfigError: as `nsr.config.resolve`.
    """
    config = base
    try:
        for text in overrides:
            key, equals, value = text.partition("=")
            if not equals or "${" in value:
                raise _NotPlainError
            config = _replaced(config, key.split("."), value)
        if config is not base:
            check_config(config)
    except (_NotPlainError, ConfigError):
        return whole()
    return config


def _replaced(owner: Any, path: list[str], value: str) -> Any:
    """A copy of a dataclass with one setting, maybe of a section in it, replaced."""
    name, *rest = path
    if not is_dataclass(owner) or not hasattr(owner, name):
        raise _NotPlainError
    old = getattr(owner, name)
    if not rest:
        return replace(owner, **{name: _value(type(owner), name, value)})  # type: ignore[type-var, arg-type]
    return replace(owner, **{name: _replaced(old, rest, value)})  # type: ignore[type-var]


@cache
def _value(owner: type, name: str, text: str) -> Any:
    """The value of a setting as OmegaConf reads it from text, by the setting's type."""
    try:
        given = OmegaConf.from_dotlist([f"{name}={text}"])
        return getattr(OmegaConf.to_object(OmegaConf.merge(_alone(owner, name), given)), name)
    except (OmegaConfBaseException, ValueError, TypeError, YAMLError) as error:
        raise _NotPlainError from error


@cache
def _alone(owner: type, name: str) -> Any:
    """A structured config with this one setting of a dataclass."""
    kind = get_type_hints(owner)[name]
    if is_dataclass(kind):
        raise _NotPlainError
    return OmegaConf.structured(make_dataclass("Alone", [(name, kind, field(default=getattr(owner(), name)))]))
