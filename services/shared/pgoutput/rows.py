"""Readers of Begin, Commit, Insert, Update and Delete: the hot path of decoding and applying.

A row of four text columns takes about 1.3 µs in CPython 3.11 (tests/fuzz/pgoutput_cost.py), 0.16 µs
of it for each column: the format byte, the length through one precompiled struct, one slice. These
variants were not faster: format and length in one unpack over a padded copy, `int.from_bytes`, a separate
path for short values. Compiled, it takes a sixth of that time. `parser` explains how bounds are checked; the
C functions of `_rows.pxd` check them as `struct` does.

A large row is passed as a memoryview instead of bytes. Its long values remain views, so that a value
of hundreds of megabytes is in memory only once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from services.shared.model import cython
from services.shared.pgoutput.errors import PgOutputError, corrupt
from services.shared.pgoutput.fields import end, known_flags
from services.shared.pgoutput.messages import (
    UNCHANGED,
    Begin,
    Binary,
    Commit,
    Delete,
    Insert,
    LargeDelete,
    LargeInsert,
    LargeUpdate,
    OldKind,
    Transaction,
    Update,
    Value,
    Values,
)

if not cython.compiled:
    # An oid, or an old tuple, is followed by a new tuple's tag and number of columns.
    _oid_and_row = struct.Struct(">IBH").unpack_from
    _row = struct.Struct(">BH").unpack_from
    _length = struct.Struct(">I").unpack_from
    _begin = struct.Struct(">QqI").unpack_from
    _commit = struct.Struct(">BQQq").unpack_from
    _new = tuple.__new__
    _values: Callable[[list[Value]], Values] = tuple

    def _byte(data: Data, at: int) -> int:
        return data[at]

    def _slice(data: Data, start: int, stop: int) -> Data:
        return data[start:stop]


POSTGRES_EPOCH_US = 946_684_800_000_000
"""From the Unix epoch to PostgreSQL's epoch, 2000-01-01 00:00 UTC, in microseconds."""
SHORT = 64 << 10
"""Bytes; a value up to this size is copied out of a large row."""

_NULL, _TOAST, _TEXT, _BINARY = b"nutb"
_BEGIN, _COMMIT, _RELATION, _INSERT, _UPDATE, _DELETE = b"BCRIUD"
_NEW, _KEY, _FULL = b"NKO"
_BEGIN_END, _COMMIT_END = 21, 26

Data = bytes | memoryview
Change = Insert | Update | Delete


def _read_columns(data: Data, at: int, values: list[Value]) -> int:
    """Fill `values`, which are all None, from `at`. Returns the position after them, which may be beyond the
    end."""
    compiled = cython.compiled  # a local name is faster in Python, and a constant in C
    for i in range(len(values)):
        kind = _byte(data, at) if compiled else data[at]
        if kind == _TEXT:
            (length,) = _length(data, at + 1)
            start = at + 5
            at = start + length
            values[i] = _slice(data, start, at) if compiled else data[start:at]
        elif kind == _NULL:
            at += 1
        elif kind == _TOAST:
            values[i] = UNCHANGED
            at += 1
        elif kind == _BINARY:
            (length,) = _length(data, at + 1)
            start = at + 5
            at = start + length
            values[i] = Binary(data[start:at])
        else:
            raise corrupt(data, f"column {i + 1} has the unknown format {kind:#04x}")
    if type(data) is not bytes:
        values[:] = [bytes(v) if isinstance(v, memoryview) and len(v) <= SHORT else v for v in values]
    return at


def _read_insert(data: Data, at: int, xid: int) -> Insert:
    oid, tag, count = _oid_and_row(data, at)
    if tag != _NEW:
        raise corrupt(data, f"a new row was expected, not {tag:#04x}")
    new: list[Value] = [None] * count
    at = _read_columns(data, at + 7, new)
    if at != len(data):
        end(data, at)
    return _new(Insert if type(data) is bytes else LargeInsert, (oid, _values(new), xid))


def _read_update(data: Data, at: int, xid: int) -> Update:
    oid, tag, count = _oid_and_row(data, at)
    at += 7
    old_kind = old = None
    if tag != _NEW:
        old_kind = _old_kind(tag)
        if old_kind is None:
            raise corrupt(data, f"an old or new row was expected, not {tag:#04x}")
        columns: list[Value] = [None] * count
        at = _read_columns(data, at, columns)
        old = _values(columns)
        tag, count = _row(data, at)
        if tag != _NEW:
            raise corrupt(data, f"a new row was expected, not {tag:#04x}")
        at += 3
    new: list[Value] = [None] * count
    at = _read_columns(data, at, new)
    if at != len(data):
        end(data, at)
    return _new(Update if type(data) is bytes else LargeUpdate, (oid, old_kind, old, _values(new), xid))


def _read_delete(data: Data, at: int, xid: int) -> Delete:
    oid, tag, count = _oid_and_row(data, at)
    old_kind = _old_kind(tag)
    if old_kind is None:
        raise corrupt(data, f"an old row was expected, not {tag:#04x}")
    old: list[Value] = [None] * count
    at = _read_columns(data, at + 7, old)
    if at != len(data):
        end(data, at)
    return _new(Delete if type(data) is bytes else LargeDelete, (oid, old_kind, _values(old), xid))


def _old_kind(tag: int) -> OldKind | None:
    return "K" if tag == _KEY else "O" if tag == _FULL else None


def _read_change(data: Data, at: int, xid: int) -> Change:
    kind = _byte(data, 0) if cython.compiled else data[0]
    if kind == _INSERT:
        return _read_insert(data, at, xid)
    if kind == _UPDATE:
        return _read_update(data, at, xid)
    return _read_delete(data, at, xid)


def read_begin(data: Data, at: int, _: int) -> Begin:
    final_lsn, commit_time, xid = _begin(data, at)
    end(data, at + _BEGIN_END - 1)
    return _new(Begin, (final_lsn, commit_time + POSTGRES_EPOCH_US, xid))


def read_commit(data: Data, at: int, _: int) -> Commit:
    flags, commit_lsn, end_lsn, commit_time = _commit(data, at)
    end(data, at + _COMMIT_END - 1)
    known_flags(data, flags, 0)
    return _new(Commit, (flags, commit_lsn, end_lsn, commit_time + POSTGRES_EPOCH_US))


def read_change(data: Data, at: int, xid: int) -> Change:
    """The Insert, Update or Delete in `data`, as its first byte says, read from its oid at `at`."""
    try:
        return _read_change(data, at, xid)
    except (IndexError, struct.error) as exc:
        raise corrupt(data, "it ends too early") from exc


def read_changes(messages: list[Data], start: int) -> tuple[list[Change], int]:
    """The Inserts, Updates and Deletes from `start` on, none of them streamed, and the position of
    the first other message."""
    changes: list[Change] = []
    at = start
    try:
        for at in range(start, len(messages)):
            message = messages[at]
            kind = (_byte(message, 0) if cython.compiled else message[0]) if message else 0
            if kind not in (_INSERT, _UPDATE, _DELETE):
                return changes, at
            changes.append(_read_change(message, 1, 0))
    except (IndexError, struct.error) as exc:
        raise corrupt(messages[at], "it ends too early") from exc
    return changes, len(messages)


def read_transactions(
    messages: list[Data], start: int, known: dict[bytes, bytes], floor: int
) -> tuple[list[Change], list[Transaction], int]:
    """The complete transactions from `start` on that contain only row changes. Returns their changes,
    where each transaction ends in that list, and the position of the first message after them.

    known: Relation messages by OID; repetitions of them are accepted. floor: an LSN; a transaction that
    commits before it is not accepted. Damaged and all other unexpected messages end the run.
    """
    changes: list[Change] = []
    transactions: list[Transaction] = []
    at = start
    while True:
        stop = len(changes)
        try:
            found = _read_transaction(messages, at, known, floor, changes)
        except PgOutputError:
            found = None
        if found is None:
            del changes[stop:]
            return changes, transactions, at
        transaction, floor, at = found
        transactions.append(transaction)


def _read_transaction(
    messages: list[Data], at: int, known: dict[bytes, bytes], floor: int, changes: list[Change]
) -> tuple[Transaction, int, int] | None:
    """The transaction that begins at `at`, its end LSN, and the position after it. Appends its changes to
    `changes`."""
    if at >= len(messages) or messages[at][:1] != b"B":
        return None
    message = messages[at]
    try:
        final_lsn, _, xid = _begin(message, 1)
        if len(message) != _BEGIN_END:
            end(message, _BEGIN_END)
        if final_lsn < floor:
            return None
        for position in range(at + 1, len(messages)):
            message = messages[position]
            kind = (_byte(message, 0) if cython.compiled else message[0]) if message else 0
            if kind in (_INSERT, _UPDATE, _DELETE):
                changes.append(_read_change(message, 1, 0))
            elif kind == _COMMIT:
                flags, _, end_lsn, commit_time = _commit(message, 1)
                if len(message) != _COMMIT_END:
                    end(message, _COMMIT_END)
                if flags:
                    known_flags(message, flags, 0)
                ended = (final_lsn, end_lsn, commit_time + POSTGRES_EPOCH_US, len(changes), xid)
                return _new(Transaction, ended), end_lsn, position + 1
            elif kind != _RELATION or known.get(bytes(message[1:5])) != message:
                return None
    except (IndexError, struct.error) as exc:
        raise corrupt(message, "it ends too early") from exc
    return None
