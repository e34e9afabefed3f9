"""Frozen dataclasses to JSON and back. Unknown keys are ignored and missing ones take their default, so that a row
written by a newer or older version still reads."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin

T = TypeVar("T")
Reader = Callable[[Any], Any]


def to_plain(value: Any) -> Any:
    """Data that ``json.dumps`` takes; fields that hold their default are left out to keep rows small."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    plain = {}
    kind: Any = type(value)
    for name, default in _defaults(kind):
        item = getattr(value, name)
        if item is not default and item != default:
            plain[name] = to_plain(item)
    return plain


@functools.cache
def _defaults(kind: Any) -> list[tuple[str, Any]]:
    """Name and default of each field; ``MISSING``, which equals nothing, where there is none."""
    return [(field.name, field.default) for field in dataclasses.fields(kind)]


def from_plain(kind: type[T], data: dict[str, Any]) -> T:
    """An instance of the dataclass ``kind`` from :func:`to_plain`'s result."""
    of: Any = kind  # a dataclass type, which type checkers cannot ask for
    readers = _readers(of)
    values = {}
    for name, item in data.items():
        if name in readers:
            reader = readers[name]
            values[name] = item if reader is None else reader(item)
    return kind(**values)


@functools.cache
def _readers(kind: Any) -> dict[str, Reader | None]:
    """What makes each field of its JSON; None: it is the value already."""
    hints = typing.get_type_hints(kind)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}


def _reader(hint: Any) -> Reader | None:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = _reader(next(arg for arg in get_args(hint) if arg is not type(None)))
        return None if inner is None else lambda item: None if item is None else inner(item)
    if origin is tuple:
        part = _reader(get_args(hint)[0])
        return tuple if part is None else lambda item: tuple(map(part, item))
    if isinstance(hint, type):
        if dataclasses.is_dataclass(hint):
            return functools.partial(from_plain, hint)
        if issubclass(hint, Enum):
            return hint
    return None
