"""Copy parts on the bus: one unit of copying, `CopyPart` in protos/pgmig/v1/bus.proto."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from pgmig.v1 import bus_pb2

from services.shared.model import CopyPart, ErrorKind, Lsn, PgmigError, TableId


def encode_part(part: CopyPart) -> bytes:
    return bus_pb2.CopyPart(
        part_id=part.part_id,
        schema=part.table.schema,
        name=part.table.name,
        columns=part.columns,
        snapshot_name=part.snapshot_name,
        snapshot_lsn=part.snapshot_lsn.value,
        binary=part.binary,
        snapshot_xids=part.snapshot_xids,
    ).SerializeToString()


def decode_part(data: bytes) -> CopyPart:
    """The part in `data`; raises PgmigError(CORRUPT) for bytes that are none.

    A table may have no columns, and a snapshot that nothing follows has no LSN.
    """
    try:
        message = bus_pb2.CopyPart.FromString(data)
    except DecodeError as exc:
        raise _corrupt("it does not parse") from exc
    for name, value in (
        ("part id", message.part_id),
        ("schema", message.schema),
        ("table name", message.name),
        ("snapshot", message.snapshot_name),
    ):
        if not value:
            raise _corrupt(f"it has no {name}")
    if not all(message.columns):
        raise _corrupt("a column has no name")
    return CopyPart(
        message.part_id,
        TableId(message.schema, message.name),
        tuple(message.columns),
        message.snapshot_name,
        Lsn(message.snapshot_lsn),
        message.binary,
        message.snapshot_xids,
    )


def _corrupt(reason: str) -> PgmigError:
    return PgmigError(
        ErrorKind.CORRUPT,
        f"a message in the copy queue is not a table part: {reason}",
        "resume the migration: unfinished parts are queued again",
    )
