"""Frozen dataclasses to JSON and back. Unknown keys are ignored and missing ones take their default, so that a row
written by a newer or older version still reads."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Data that ``json.dumps`` takes; fields that hold their default are left out to keep rows small."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.default is dataclasses.MISSING or item != field.default:
                plain[field.name] = to_plain(item)
        return plain
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def from_plain(kind: type[T], data: dict[str, Any]) -> T:
    """An instance of the dataclass ``kind`` from :func:`to_plain`'s result."""
    fields: Any = kind  # a dataclass type, which type checkers cannot ask for
    hints = _hints(fields)
    values = {
        field.name: _value(hints[field.name], data[field.name])
        for field in dataclasses.fields(fields)
        if field.name in data
    }
    return kind(**values)


def _value(hint: Any, item: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if item is None:
            return None
        return _value(next(arg for arg in get_args(hint) if arg is not type(None)), item)
    if origin is tuple:
        inner = get_args(hint)[0]
        return tuple(_value(inner, part) for part in item)
    if isinstance(hint, type):
        if dataclasses.is_dataclass(hint):
            return from_plain(hint, item)
        if issubclass(hint, Enum):
            return hint(item)
    return item
