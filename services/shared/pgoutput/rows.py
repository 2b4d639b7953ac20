"""Readers of Insert, Update and Delete: the hot path of decoding and applying.

An Insert of four text columns takes about 1 µs in CPython 3.11, 0.17 µs of it for each column:
the format byte, the length through one precompiled struct, one slice. Tried and no faster: format
and length in one unpack over a padded copy, `int.from_bytes`, a short-value path by `startswith`.
Bounds are checked as `parser` explains.
"""

from __future__ import annotations

import struct

from services.shared.pgoutput.errors import corrupt
from services.shared.pgoutput.fields import end
from services.shared.pgoutput.messages import (
    UNCHANGED,
    Binary,
    Delete,
    Insert,
    OldKind,
    Update,
    Value,
    Values,
)

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_oid_and_tag = struct.Struct(">IB").unpack_from

_NULL, _TOAST, _TEXT, _BINARY = b"nutb"
_NEW = ord("N")
_OLD: dict[int, OldKind] = {ord("K"): "K", ord("O"): "O"}

_new = tuple.__new__


def _read_tuple(data: bytes, at: int) -> tuple[Values, int]:
    """Column values from `at`, and the position after them, which may lie beyond the end."""
    (count,) = _u16(data, at)
    at += 2
    values: list[Value] = []
    for _ in range(count):
        kind = data[at]
        if kind == _TEXT:
            (length,) = _u32(data, at + 1)
            start = at + 5
            at = start + length
            values.append(data[start:at])
        elif kind == _NULL:
            values.append(None)
            at += 1
        elif kind == _TOAST:
            values.append(UNCHANGED)
            at += 1
        elif kind == _BINARY:
            (length,) = _u32(data, at + 1)
            start = at + 5
            at = start + length
            values.append(Binary(data[start:at]))
        else:
            raise corrupt(data, f"column {len(values) + 1} has the unknown format {kind:#04x}")
    return tuple(values), at


def read_insert(data: bytes, at: int, xid: int) -> Insert:
    oid, tag = _oid_and_tag(data, at)
    if tag != _NEW:
        raise corrupt(data, f"a new row was expected, not {tag:#04x}")
    new, at = _read_tuple(data, at + 5)
    if at != len(data):
        end(data, at)
    return _new(Insert, (oid, new, xid))


def read_update(data: bytes, at: int, xid: int) -> Update:
    oid, tag = _oid_and_tag(data, at)
    at += 5
    old_kind = old = None
    if tag != _NEW:
        old_kind = _OLD.get(tag)
        if old_kind is None:
            raise corrupt(data, f"an old or new row was expected, not {tag:#04x}")
        old, at = _read_tuple(data, at)
        if data[at] != _NEW:
            raise corrupt(data, f"a new row was expected, not {data[at]:#04x}")
        at += 1
    new, at = _read_tuple(data, at)
    if at != len(data):
        end(data, at)
    return _new(Update, (oid, old_kind, old, new, xid))


def read_delete(data: bytes, at: int, xid: int) -> Delete:
    oid, tag = _oid_and_tag(data, at)
    old_kind = _OLD.get(tag)
    if old_kind is None:
        raise corrupt(data, f"an old row was expected, not {tag:#04x}")
    old, at = _read_tuple(data, at + 5)
    if at != len(data):
        end(data, at)
    return _new(Delete, (oid, old_kind, old, xid))
