"""A migration's view as plain JSON: the coordinator's state file and the CLI's `--output json`.

A dataclass becomes an object with the field names as keys, an LSN becomes text ("16/B374D848"), an enum
its value, a tuple an array, and None null. Reading accepts files of other releases: unknown keys are
ignored, and missing keys get the field's default. A wrong type, LSN, enum value or number raises
ValueError that names the place, for example `view.tables[3].state`.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from services.shared.model.lsn import Lsn
from services.shared.model.view.migration import MigrationView

T = TypeVar("T")


def view_to_json(view: MigrationView) -> dict[str, object]:
    """`view` as values that json.dumps accepts. `view_from_json` returns an equal view."""
    return cast("dict[str, object]", to_json(view))


def view_from_json(obj: object) -> MigrationView:
    """The view that `view_to_json` converted to `obj`. Raises ValueError if `obj` is malformed."""
    return from_json(MigrationView, obj, "view")


def to_json(value: object) -> object:
    """Any model value (dataclass, Lsn, enum, tuple, scalar) as plain JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Lsn):
        return str(value)
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if is_dataclass(value):
        return {name: to_json(getattr(value, name)) for name in _names(value.__class__)}
    raise TypeError(f"no JSON form for {type(value).__name__}")


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def from_json(cls: type[T], obj: object, where: str = "value") -> T:
    """Read `obj` as a `cls`. Raises ValueError that names the place below `where`."""
    return cast("T", _read(cls, obj, where))


def _read(expected: Any, obj: object, where: str) -> object:
    if isinstance(expected, UnionType):
        return None if obj is None else _read(_optional(expected), obj, where)
    if get_origin(expected) is tuple:
        return _read_tuple(get_args(expected)[0], obj, where)
    if expected in (str, int, float, bool):
        return _read_scalar(expected, obj, where)
    if expected is Lsn or issubclass(expected, StrEnum):
        return _read_text(expected, obj, where)
    return _read_object(expected, obj, where)


def _optional(expected: UnionType) -> Any:
    """The X of `X | None`, the only union that the model has."""
    (inner,) = (arg for arg in get_args(expected) if arg is not type(None))
    return inner


def _read_tuple(item: Any, obj: object, where: str) -> tuple[object, ...]:
    if not isinstance(obj, list):
        raise _mismatch(where, "an array", obj)
    return tuple(_read(item, entry, f"{where}[{index}]") for index, entry in enumerate(obj))


def _read_scalar(expected: type, obj: object, where: str) -> object:
    if expected is float and type(obj) in (int, float):
        try:
            number = float(cast("float", obj))
        except OverflowError as exc:
            raise ValueError(f"{where}: number out of range") from exc
        if math.isfinite(number):
            return number
    elif type(obj) is expected:  # an exact match, because bool is a subclass of int
        return obj
    raise _mismatch(where, expected.__name__, obj)


def _read_text(expected: Any, obj: object, where: str) -> object:
    if not isinstance(obj, str):
        raise _mismatch(where, f"{expected.__name__} as text", obj)
    try:
        return Lsn.parse(obj) if expected is Lsn else expected(obj)
    except ValueError as exc:
        raise ValueError(f"{where}: {exc}") from exc


def _read_object(expected: Any, obj: object, where: str) -> object:
    if not isinstance(obj, dict):
        raise _mismatch(where, "an object", obj)
    known: dict[str, object] = {}
    for name, (kind, required) in _shape(expected).items():
        if name in obj:
            known[name] = _read(kind, obj[name], f"{where}.{name}")
        elif required:
            raise ValueError(f"{where}: {name} is missing")
    return expected(**known)


@cache
def _shape(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Field name to (type, required)."""
    hints = get_type_hints(cls)
    return {f.name: (hints[f.name], _required(f)) for f in fields(cls)}


def _required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _mismatch(where: str, expected: str, obj: object) -> ValueError:
    return ValueError(f"{where}: expected {expected}, found {type(obj).__name__}")
