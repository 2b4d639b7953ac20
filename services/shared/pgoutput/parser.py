"""Parses one pgoutput message to one value. No state, no I/O.

Theory of operation. The first byte selects a reader from a table. A reader reads the fixed fields
with precompiled structs and must end exactly at the end of the message. Readers do not check bounds
before they read, because the position only grows. A read past the end raises IndexError or
struct.error (one `except` converts both to PgOutputError). A slice past the end is too short, does not
allocate memory for a false length, and leaves the position beyond the end, where the final comparison
detects it. So detecting damage costs nothing while the bytes are valid.

Streaming (protocol 2 and later): between StreamStart and StreamStop the messages of `_STREAMED`
contain the transaction's xid after the first byte. A message does not show whether it contains the xid,
so the caller, who has seen StreamStart, must pass this information.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NoReturn

from services.shared.model import ReplicaIdentity
from services.shared.model.compiled import twin_of
from services.shared.pgoutput import rows
from services.shared.pgoutput.errors import UnsupportedMessageError, corrupt
from services.shared.pgoutput.fields import end, known_flags, string
from services.shared.pgoutput.messages import (
    Kind,
    Message,
    Origin,
    PgOutputMessage,
    Relation,
    RelationColumn,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Transaction,
    Truncate,
    Type,
)
from services.shared.pgoutput.rows import POSTGRES_EPOCH_US

# Arguments: the message, the position after kind and xid, and the xid (0: none).
_Reader = Callable[[bytes, int, int], PgOutputMessage]

_compiled = twin_of(rows)
_read_begin: _Reader = _compiled.read_begin
_read_commit: _Reader = _compiled.read_commit
_read_change: _Reader = _compiled.read_change
read_changes: Callable[[list[rows.Data], int], tuple[list[rows.Change], int]] = _compiled.read_changes
read_transactions: Callable[
    [list[rows.Data], int, dict[bytes, bytes], int], tuple[list[rows.Change], list[Transaction], int]
] = _compiled.read_transactions

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_u64 = struct.Struct(">Q").unpack_from
_message = struct.Struct(">BQ")
_column = struct.Struct(">Ii")
_truncate = struct.Struct(">IB")
_stream_start = struct.Struct(">IB")
_stream_commit = struct.Struct(">IBQQq")
_stream_abort = struct.Struct(">II")
_abort_position = struct.Struct(">Qq")
_oid = struct.Struct(">I")


def parse(message: bytes | memoryview, *, streaming: bool = False) -> PgOutputMessage:
    """Parse `message`, which must be exactly one message.

    streaming: the message was sent between StreamStart and StreamStop. Values are copies and do not
    keep `message` alive. Raises only PgOutputError, for any bytes.
    """
    data = message if type(message) is bytes else bytes(message)
    try:
        kind = data[0]
        if streaming and kind in _IN_STREAM:
            return _READERS[kind](data, 5, _xid(data))
        return _READERS[kind](data, 1, 0)
    except (IndexError, struct.error) as exc:
        raise corrupt(data, "it ends too early") from exc
    except KeyError as exc:
        raise corrupt(data, "no such message is known") from exc


def parse_relation(message: bytes, codec: str) -> Relation:
    """Parse a Relation message whose names are in Python's `codec`. Raises only PgOutputError."""
    try:
        return _read_relation(message, 1, 0, codec)
    except (IndexError, struct.error) as exc:
        raise corrupt(message, "it ends too early") from exc


def _xid(data: bytes) -> int:
    (xid,) = _u32(data, 1)
    if xid == 0:
        raise corrupt(data, "it was streamed without a transaction id")
    return int(xid)


def _read_origin(data: bytes, at: int, _: int) -> Origin:
    (commit_lsn,) = _u64(data, at)
    name, at = string(data, at + 8)
    end(data, at)
    return Origin(commit_lsn, name)


def _read_relation(data: bytes, at: int, xid: int, codec: str = "utf-8") -> Relation:
    (oid,) = _u32(data, at)
    schema, at = string(data, at + 4, codec)
    name, at = string(data, at, codec)
    identity = _replica_identity(data, at)
    (count,) = _u16(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        column, at = _relation_column(data, at, codec)
        columns.append(column)
    end(data, at)
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns), xid)


def _relation_column(data: bytes, at: int, codec: str) -> tuple[RelationColumn, int]:
    flags = data[at]
    known_flags(data, flags, 1)
    name, at = string(data, at + 1, codec)
    type_oid, typmod = _column.unpack_from(data, at)
    return RelationColumn(name, type_oid, typmod, flags == 1), at + _column.size


def _replica_identity(data: bytes, at: int) -> ReplicaIdentity:
    try:
        return ReplicaIdentity(chr(data[at]))
    except ValueError as exc:
        raise corrupt(data, f"the replica identity {data[at]:#04x} is unknown") from exc


def _read_type(data: bytes, at: int, xid: int) -> Type:
    (oid,) = _u32(data, at)
    schema, at = string(data, at + 4)
    name, at = string(data, at)
    end(data, at)
    return Type(oid, schema or "pg_catalog", name, xid)


def _read_truncate(data: bytes, at: int, xid: int) -> Truncate:
    count, flags = _truncate.unpack_from(data, at)
    at += _truncate.size
    end(data, at + count * _oid.size)
    known_flags(data, flags, 3)
    oids = tuple(oid for (oid,) in _oid.iter_unpack(data[at:]))
    return Truncate(oids, bool(flags & 1), bool(flags & 2), xid)


def _read_message(data: bytes, at: int, xid: int) -> Message:
    flags, lsn = _message.unpack_from(data, at)
    known_flags(data, flags, 1)
    prefix, at = string(data, at + _message.size)
    (length,) = _u32(data, at)
    at += 4
    end(data, at + length)
    return Message(flags == 1, lsn, prefix, data[at:], xid)


def _read_stream_start(data: bytes, at: int, _: int) -> StreamStart:
    xid, first = _stream_start.unpack_from(data, at)
    end(data, at + _stream_start.size)
    known_flags(data, first, 1)
    return StreamStart(xid, first == 1)


def _read_stream_stop(data: bytes, at: int, _: int) -> StreamStop:
    end(data, at)
    return StreamStop()


def _read_stream_commit(data: bytes, at: int, _: int) -> StreamCommit:
    xid, flags, commit_lsn, end_lsn, commit_time = _stream_commit.unpack_from(data, at)
    end(data, at + _stream_commit.size)
    known_flags(data, flags, 0)
    return StreamCommit(xid, flags, commit_lsn, end_lsn, commit_time + POSTGRES_EPOCH_US)


def _read_stream_abort(data: bytes, at: int, _: int) -> StreamAbort:
    xid, subxid = _stream_abort.unpack_from(data, at)
    at += _stream_abort.size
    if at == len(data):
        return StreamAbort(xid, subxid)
    abort_lsn, abort_time = _abort_position.unpack_from(data, at)
    end(data, at + _abort_position.size)
    return StreamAbort(xid, subxid, abort_lsn, abort_time + POSTGRES_EPOCH_US)


def _refuse(data: bytes, _at: int, _xid: int) -> NoReturn:
    raise UnsupportedMessageError(data)


_BY_KIND: dict[Kind, _Reader] = {
    Kind.BEGIN: _read_begin,
    Kind.COMMIT: _read_commit,
    Kind.ORIGIN: _read_origin,
    Kind.RELATION: _read_relation,
    Kind.TYPE: _read_type,
    Kind.INSERT: _read_change,
    Kind.UPDATE: _read_change,
    Kind.DELETE: _read_change,
    Kind.TRUNCATE: _read_truncate,
    Kind.MESSAGE: _read_message,
    Kind.STREAM_START: _read_stream_start,
    Kind.STREAM_STOP: _read_stream_stop,
    Kind.STREAM_COMMIT: _read_stream_commit,
    Kind.STREAM_ABORT: _read_stream_abort,
    Kind.BEGIN_PREPARE: _refuse,
    Kind.PREPARE: _refuse,
    Kind.COMMIT_PREPARED: _refuse,
    Kind.ROLLBACK_PREPARED: _refuse,
    Kind.STREAM_PREPARE: _refuse,
}
_STREAMED = (Kind.RELATION, Kind.TYPE, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.TRUNCATE, Kind.MESSAGE)

# The keys are plain ints, which a dict finds faster than members of an IntEnum.
_READERS: dict[int, _Reader] = {int(kind): reader for kind, reader in _BY_KIND.items()}
_IN_STREAM = frozenset(map(int, _STREAMED))
