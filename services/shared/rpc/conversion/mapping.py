"""Messages to values and back, by the names that both have in common.

A dataclass and a message correspond if each field of one has a field of the same name in the other:

    value                   message
    int, str, bool, float   the same
    float                   google.protobuf.Timestamp: seconds since the Unix epoch, 0.0 if unset
    Lsn                     an integer
    MigrationId             a string
    StrEnum                 an enum whose values have the same names after the enum's prefix
    dataclass               a message
    X | None                an unset field is None
    tuple[X, ...]           a repeated field
    tuple[X, Y]             a message with the items as its fields, in the order of their numbers
    union of dataclasses    a oneof whose messages have the names of the dataclasses

An unset field becomes the default of the dataclass. The descriptors are checked when a mapping is
first used: TypeError names a field without a counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache, cached_property
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import OneofDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from services.shared.model import ErrorKind, EventLevel, Lsn, MigrationId, PgmigError, ReasonCode

V = TypeVar("V")
M = TypeVar("M", bound=Message)
E = TypeVar("E", bound=StrEnum)

Convert = Callable[[Any], Any]
_NANOS = 1_000_000_000
_UNKNOWN: dict[type[StrEnum], StrEnum] = {
    ErrorKind: ErrorKind.INTERNAL,
    EventLevel: EventLevel.INFO,
    ReasonCode: ReasonCode.OTHER,
}
"""The replacement for a value that a newer release has added. For other enums it is an error."""


class Converter:
    """to_pb and from_pb of one kind of value; None: the value is the same on both sides."""

    def __init__(self, to_pb: Convert | None = None, from_pb: Convert | None = None) -> None:
        self.to_pb = to_pb
        self.from_pb = from_pb


_SAME = Converter()


class Correspondence(Generic[V, M]):
    """Converts between a dataclass and a message. unknown: the kind of error for an enum value that this
    release does not know."""

    def __init__(self, value: type[V], message: type[M], unknown: ErrorKind) -> None:
        self._value, self._message, self._unknown = value, message, unknown

    @cached_property
    def _converter(self) -> Converter:
        return _of_class(cast("Any", self._value), self._message.DESCRIPTOR, self._unknown)

    def to_pb(self, value: V) -> M:
        return cast("M", cast("Convert", self._converter.to_pb)(value))

    def from_pb(self, message: M) -> V:
        """Raises PgmigError of the kind `unknown`."""
        return cast("V", cast("Convert", self._converter.from_pb)(message))


class EnumCorrespondence(Generic[E]):
    """Converts between a StrEnum and the enum of a field."""

    def __init__(self, value: type[E], field: Any, unknown: ErrorKind) -> None:
        self._converter = _of_enum(value, field, MISSING, unknown)

    def to_pb(self, value: E) -> Any:
        return cast("Convert", self._converter.to_pb)(value)

    def from_pb(self, number: int) -> E:
        """Raises PgmigError of the kind `unknown`."""
        return cast("E", cast("Convert", self._converter.from_pb)(number))


class Choice:
    """Converts between dataclasses and the messages of the same names in a oneof."""

    def __init__(
        self, values: tuple[type, ...], message: type[Message], oneof: str, unknown: ErrorKind
    ) -> None:
        self._values, self._unknown = values, unknown
        self._oneof = message.DESCRIPTOR.oneofs_by_name[oneof]

    @cached_property
    def _converter(self) -> Converter:
        return _of_union(self._values, self._oneof, self._unknown)

    def to_pb(self, value: Any) -> dict[str, Any]:
        """The oneof's field and its message."""
        return cast("dict[str, Any]", cast("Convert", self._converter.to_pb)(value))

    def from_pb(self, message: Message) -> Any:
        """The value of the oneof in `message`. Raises PgmigError of the kind `unknown`."""
        return cast("Convert", self._converter.from_pb)(message)


def time_to_pb(seconds: float) -> Timestamp | None:
    """Seconds since the epoch as a Timestamp; None for 0.0."""
    if not seconds:
        return None
    # Whole seconds are computed separately, because all nanoseconds as one product do not fit a float.
    whole = math.floor(seconds)
    whole, nanos = divmod(whole * _NANOS + round((seconds - whole) * _NANOS), _NANOS)
    return Timestamp(seconds=whole, nanos=nanos)


def time_from_pb(stamp: Timestamp) -> float:
    return (stamp.seconds * _NANOS + stamp.nanos) / _NANOS


@cache
def _of_class(value: Any, message: Any, unknown: ErrorKind) -> Converter:
    hints, slots = get_type_hints(value), _slots(message)
    if hints.keys() != slots.keys():
        different = ", ".join(sorted(hints.keys() ^ slots.keys()))
        raise TypeError(f"{value.__name__} and {message.full_name} do not both have: {different}")
    defaults = {field.name: field.default for field in fields(value)}
    unions = {
        name: _of_union(get_args(hints[name]), slot, unknown)
        for name, slot in slots.items()
        if isinstance(slot, OneofDescriptor)
    }
    singles = {
        name: _of_field(hints[name], slot, defaults[name], unknown)
        for name, slot in slots.items()
        if not isinstance(slot, OneofDescriptor)
    }
    make = GetMessageClass(message)
    return Converter(_encoder(make, singles, unions), _decoder(value, hints, slots, singles, unions))


def _slots(message: Any) -> dict[str, Any]:
    """The fields outside any oneof, and the oneofs."""
    single = {field.name: field for field in message.fields if field.containing_oneof is None}
    return {**single, **message.oneofs_by_name}


def _encoder(make: Any, singles: Mapping[str, Converter], unions: Mapping[str, Converter]) -> Convert:
    arguments = [f"{name}={_call('to_pb', name, one.to_pb)}" for name, one in singles.items()]
    arguments += [f"**{_call('to_pb', name, one.to_pb)}" for name, one in unions.items()]
    return _function(arguments, make, "to_pb", {**singles, **unions})


def _decoder(
    make: Any,
    hints: Mapping[str, Any],
    slots: Mapping[str, Any],
    singles: Mapping[str, Converter],
    unions: Mapping[str, Converter],
) -> Convert:
    arguments = []
    for name, hint in hints.items():
        if name in unions:
            arguments.append(f"{name}=from_pb_{name}(this)")
            continue
        read = _call("from_pb", name, singles[name].from_pb)
        if isinstance(hint, UnionType) and slots[name].has_presence:
            read += f" if this.HasField({name!r}) else None"
        arguments.append(f"{name}={read}")
    return _function(arguments, make, "from_pb", {**singles, **unions})


def _call(side: str, name: str, convert: Convert | None) -> str:
    return f"{side}_{name}(this.{name})" if convert else f"this.{name}"


def _function(arguments: list[str], make: Any, side: str, converters: Mapping[str, Converter]) -> Convert:
    """`lambda this: make(...)`. It is compiled, as dataclasses compile their methods, because loops over the
    fields would take twice as long. The text contains only names of fields."""
    known = {f"{side}_{name}": getattr(one, side) for name, one in converters.items()}
    return cast("Convert", eval(f"lambda this: make({', '.join(arguments)})", {"make": make, **known}))  # noqa: S307


def _of_union(values: tuple[Any, ...], oneof: Any, unknown: ErrorKind) -> Converter:
    named = {field.message_type.name: field for field in oneof.fields}
    fields_of = {value: named[value.__name__] for value in values}
    names = {value: field.name for value, field in fields_of.items()}
    converters = {
        field.name: _of_class(value, field.message_type, unknown) for value, field in fields_of.items()
    }

    def encode(value: Any) -> dict[str, Any]:
        name = names[type(value)]
        return {name: cast("Convert", converters[name].to_pb)(value)}

    def decode(message: Any) -> Any:
        name = message.WhichOneof(oneof.name)
        if name not in converters:
            raise not_understood(f"{oneof.name} {name or 'nothing'}", unknown)
        return cast("Convert", converters[name].from_pb)(getattr(message, name))

    return Converter(encode, decode)


def _of_field(hint: Any, field: Any, default: Any, unknown: ErrorKind) -> Converter:
    if isinstance(hint, UnionType):  # X | None
        (inner,) = (arm for arm in get_args(hint) if arm is not NoneType)
        one = _of_single(inner, field, None, unknown)
        to_pb = one.to_pb
        return Converter(to_pb and (lambda value: None if value is None else to_pb(value)), one.from_pb)
    if get_origin(hint) is tuple:
        return _of_items(get_args(hint), field, unknown)
    return _of_single(hint, field, default, unknown)


def _of_items(items: tuple[Any, ...], field: Any, unknown: ErrorKind) -> Converter:
    one = _of_single(items[0], field, MISSING, unknown)
    to_pb, from_pb = one.to_pb, one.from_pb
    return Converter(
        to_pb and (lambda values: [to_pb(value) for value in values]),
        (lambda values: tuple([from_pb(value) for value in values])) if from_pb else tuple,
    )


def _of_single(hint: Any, field: Any, default: Any, unknown: ErrorKind) -> Converter:  # noqa: PLR0911 - one for each kind
    if get_origin(hint) is tuple:
        return _of_pair(get_args(hint), field.message_type, unknown)
    if hint is Lsn:
        return Converter(attrgetter("value"), Lsn)
    if hint is MigrationId:
        return Converter(attrgetter("value"), MigrationId.parse)
    if is_dataclass(hint):
        return _of_class(cast("Any", hint), field.message_type, unknown)
    if issubclass(hint, StrEnum):
        return _of_enum(hint, field, default, unknown)
    if field.message_type is Timestamp.DESCRIPTOR:
        return Converter(time_to_pb, time_from_pb)
    if hint in (int, float) and default is not MISSING and default:
        return Converter(None, lambda value: value or default)
    return _SAME


def _of_pair(items: tuple[Any, ...], message: Any, unknown: ErrorKind) -> Converter:
    """A tuple of two values and a message of two fields."""
    names = [field.name for field in sorted(message.fields, key=attrgetter("number"))]
    parts = [
        _of_single(item, message.fields_by_name[name], MISSING, unknown)
        for item, name in zip(items, names, strict=True)
    ]
    to_pb = [one.to_pb or _itself for one in parts]
    from_pb = [one.from_pb or _itself for one in parts]
    make, read = GetMessageClass(message), attrgetter(*names)

    def encode(pair: Any) -> Any:
        return make(**{name: to(item) for name, to, item in zip(names, to_pb, pair, strict=True)})

    def decode(pair: Any) -> tuple[Any, ...]:
        return tuple([back(item) for back, item in zip(from_pb, read(pair), strict=True)])

    return Converter(encode, decode)


def _itself(value: Any) -> Any:
    return value


def _of_enum(kind: type[StrEnum], field: Any, default: Any, unknown: ErrorKind) -> Converter:
    """0 means the default of the dataclass field, if there is one."""
    values = field.enum_type.values_by_name
    prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
    numbers = {member: values[prefix + member.name].number for member in kind}
    if len(numbers) != len(values) - 1:
        raise TypeError(f"{kind.__name__} has not the values of {field.enum_type.full_name}")
    members: dict[int, StrEnum | None] = {number: member for member, number in numbers.items()}
    if default is not MISSING:
        members[0] = default
    instead = _UNKNOWN.get(kind)
    label = field.name.replace("_", " ")

    def decode(number: int) -> StrEnum | None:
        if number in members:
            return members[number]
        if instead is None:
            raise not_understood(f"{label} {number}", unknown)
        return instead

    return Converter(numbers.__getitem__, decode)


def not_understood(what: str, kind: ErrorKind) -> PgmigError:
    return PgmigError(
        kind,
        f"a message has {what}, which this version does not know",
        "use the same version of pgmig everywhere",
    )
