"""The parser's inverse: pgoutput bytes of a message, as PostgreSQL would send them.

A message with an `xid` is built as inside a streamed block.
"""

from __future__ import annotations

import struct

from services.shared.pgoutput import (
    POSTGRES_EPOCH_US,
    UNCHANGED,
    Begin,
    Binary,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    PgOutputMessage,
    Relation,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
    Value,
    Values,
)

_KIND_BYTES: dict[type[PgOutputMessage], bytes] = {
    Begin: b"B",
    Commit: b"C",
    Origin: b"O",
    Relation: b"R",
    Type: b"Y",
    Insert: b"I",
    Update: b"U",
    Delete: b"D",
    Truncate: b"T",
    Message: b"M",
    StreamStart: b"S",
    StreamStop: b"E",
    StreamCommit: b"c",
    StreamAbort: b"A",
}


def is_streamed(message: PgOutputMessage) -> bool:
    """Whether `build` gives the form that is sent between StreamStart and StreamStop."""
    match message:
        case Relation() | Type() | Insert() | Update() | Delete() | Truncate() | Message():
            return message.xid != 0
        case _:
            return False


def build(message: PgOutputMessage) -> bytes:
    """The bytes of `message`."""
    match message:
        case Begin():
            fields = struct.pack(">QqI", message.final_lsn, _pg_time(message.commit_time), message.xid)
        case Commit():
            fields = _commit(message)
        case Origin():
            fields = struct.pack(">Q", message.commit_lsn) + _name(message.name)
        case Relation():
            fields = _xid(message.xid) + _relation(message)
        case Type():
            names = _schema(message.schema) + _name(message.name)
            fields = _xid(message.xid) + struct.pack(">I", message.oid) + names
        case Insert() | Update() | Delete() | Truncate():
            fields = _xid(message.xid) + _change(message)
        case Message():
            fields = _xid(message.xid) + _logical_message(message)
        case StreamStart():
            fields = struct.pack(">IB", message.xid, message.first)
        case StreamStop():
            fields = b""
        case StreamCommit():
            fields = struct.pack(">I", message.xid) + _commit(message)
        case StreamAbort():
            fields = _abort(message)
    return _KIND_BYTES[type(message)] + fields


def _change(message: Insert | Update | Delete | Truncate) -> bytes:
    match message:
        case Insert():
            return struct.pack(">I", message.relation_oid) + b"N" + _tuple(message.new)
        case Update():
            old = b"" if message.old is None else str(message.old_kind).encode() + _tuple(message.old)
            return struct.pack(">I", message.relation_oid) + old + b"N" + _tuple(message.new)
        case Delete():
            old = message.old_kind.encode() + _tuple(message.old)
            return struct.pack(">I", message.relation_oid) + old
        case Truncate():
            oids = message.relation_oids
            flags = message.cascade | message.restart_identity << 1
            return struct.pack(f">IB{len(oids)}I", len(oids), flags, *oids)


def _tuple(values: Values) -> bytes:
    return struct.pack(">H", len(values)) + b"".join(map(_value, values))


def _value(value: Value) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    return (b"b" if type(value) is Binary else b"t") + _counted(bytes(value))


def _relation(message: Relation) -> bytes:
    columns = b"".join(
        struct.pack(">B", column.key)
        + _name(column.name)
        + struct.pack(">Ii", column.type_oid, column.typmod)
        for column in message.columns
    )
    names = _schema(message.schema) + _name(message.name)
    identity = message.replica_identity.encode()
    return (
        struct.pack(">I", message.oid) + names + identity + struct.pack(">H", len(message.columns)) + columns
    )


def _logical_message(message: Message) -> bytes:
    head = struct.pack(">BQ", message.transactional, message.lsn)
    return head + _name(message.prefix) + _counted(message.content)


def _commit(message: Commit | StreamCommit) -> bytes:
    at = _pg_time(message.commit_time)
    return struct.pack(">BQQq", message.flags, message.commit_lsn, message.end_lsn, at)


def _abort(message: StreamAbort) -> bytes:
    ids = struct.pack(">II", message.xid, message.subxid)
    if message.abort_lsn is None or message.abort_time is None:
        return ids
    return ids + struct.pack(">Qq", message.abort_lsn, _pg_time(message.abort_time))


def _counted(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _name(name: str) -> bytes:
    return name.encode() + b"\0"


def _schema(schema: str) -> bytes:
    return _name("" if schema == "pg_catalog" else schema)


def _xid(xid: int) -> bytes:
    return struct.pack(">I", xid) if xid else b""


def _pg_time(unix_us: int) -> int:
    return unix_us - POSTGRES_EPOCH_US
