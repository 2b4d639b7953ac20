"""Copy parts on the bus: one unit of copying, `CopyPart` in protos/pgmig/bus/v1/bus.proto."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from pgmig.bus.v1 import bus_pb2
from pgmig.common.v1.common_pb2 import TableName

from services.shared.model import (
    CopyPart,
    CtidRange,
    ErrorKind,
    KeyRange,
    Lsn,
    PartRange,
    PgmigError,
    TableId,
)


def encode_part(part: CopyPart) -> bytes:
    return bus_pb2.CopyPart(
        part_id=part.part_id,
        table=TableName(schema=part.table.schema, name=part.table.name),
        columns=part.columns,
        snapshot_name=part.snapshot_name,
        snapshot_lsn=part.snapshot_lsn.value,
        binary=part.binary,
        snapshot_xids=part.snapshot_xids,
        epoch=part.epoch,
        ctid=_ctid_to_pb(part.rows) if isinstance(part.rows, CtidRange) else None,
        key=_key_to_pb(part.rows) if isinstance(part.rows, KeyRange) else None,
    ).SerializeToString()


def _ctid_to_pb(rows: CtidRange) -> bus_pb2.CtidRange:
    return bus_pb2.CtidRange(first=rows.first, end=rows.end)


def _key_to_pb(rows: KeyRange) -> bus_pb2.KeyRange:
    return bus_pb2.KeyRange(column=rows.column, low=rows.low, end=rows.end)


def decode_part(data: bytes) -> CopyPart:
    """The part in `data`. Raises PgmigError(CORRUPT) if the bytes are not a part.

    A table may have no columns. A snapshot has no LSN if no changes are replicated after it.
    """
    try:
        message = bus_pb2.CopyPart.FromString(data)
    except DecodeError as exc:
        raise _corrupt("it does not parse") from exc
    for name, value in (
        ("part id", message.part_id),
        ("schema", message.table.schema),
        ("table name", message.table.name),
        ("snapshot", message.snapshot_name),
    ):
        if not value:
            raise _corrupt(f"it has no {name}")
    if not all(message.columns):
        raise _corrupt("a column has no name")
    return CopyPart(
        message.part_id,
        TableId(message.table.schema, message.table.name),
        tuple(message.columns),
        message.snapshot_name,
        Lsn(message.snapshot_lsn),
        message.binary,
        message.snapshot_xids,
        message.epoch,
        _rows(message),
    )


def _rows(message: bus_pb2.CopyPart) -> PartRange | None:
    match message.WhichOneof("rows"):
        case "ctid":
            ctid = message.ctid
            return CtidRange(ctid.first, ctid.end if ctid.HasField("end") else None)
        case "key":
            key = message.key
            if not key.column:
                raise _corrupt("the key of its range has no name")
            low, end = key.low if key.HasField("low") else None, key.end if key.HasField("end") else None
            return KeyRange(key.column, low, end)
        case _:
            return None


def _corrupt(reason: str) -> PgmigError:
    return PgmigError(
        ErrorKind.CORRUPT,
        f"a message in the copy queue is not a table part: {reason}",
        "resume the migration: unfinished parts are queued again",
    )
