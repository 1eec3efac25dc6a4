"""The base of every configuration: a frozen dataclass that checks itself and names what is wrong in one line."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

import pydantic

from workbench.errors import ConfigError, unknown_name


class Config:
    """Base of every configuration: checks types, converts what a YAML file or a command line gives, compares."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _converted(self.section, field.name, value, _hints(type(self))[field.name]))
        self.check()

    def check(self) -> None:
        """Raise ConfigError where the values do not fit together."""

    def require(self, condition: bool, message: str) -> None:
        """Raise ConfigError with `message`, prefixed with the section's name, unless `condition` holds."""
        if not condition:
            raise ConfigError(f"{self.section}: {message}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values. Unknown keys are errors that name the nearest field."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.section}: expected a mapping of fields, got {values!r}")
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in values:
            if key not in names:
                raise ConfigError(f"{cls.section}: {unknown_name('field', str(key), names)}")
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again. Unknown fields are ConfigErrors."""
        return type(self).from_dict({**_shallow(self), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain values only (lists for tuples), ready for YAML or JSON."""
        return {name: _plain(value) for name, value in _shallow(self).items()}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


@functools.cache
def _adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(hint, config=None if _holds_config(hint) else {"allow_inf_nan": False})


def _holds_config(hint: Any) -> bool:
    return any(isinstance(part, type) and issubclass(part, Config) for part in _parts(hint))


def _converted(section: str, name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type: lists become tuples, numbers in text become numbers, the text "none" becomes None
    where None is allowed and "none" is no choice; anything else must fit."""
    if _holds_config(hint):
        if isinstance(value, get_args(hint) or hint):
            return value
        raise ConfigError(f"{section}.{name}: expected a section of fields, got {value!r}")
    parts = _parts(hint)
    if isinstance(value, str) and value == "none" and type(None) in parts and not any("none" in get_args(part) for part in parts):
        return None
    number_expected = not any(part in (bool, Any) for part in parts)
    try:
        if number_expected and isinstance(value, bool):
            raise ValueError
        return _adapter(hint).validate_python(value)
    except ValueError:
        raise ConfigError(f"{section}.{name}: expected {_spelled(hint)}, got {value!r}") from None


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _spelled(hint: Any) -> str:
    """A type as a person would write it: 'int', 'one of relu, gelu', 'float or none'."""
    if hint is type(None):
        return "none"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        return f"a list of {_spelled(inner[0])}" if inner[-1] is Ellipsis else f"{len(inner)} values of {_spelled(inner[0])}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_spelled(part) for part in get_args(hint))
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def _shallow(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
