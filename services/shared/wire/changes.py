"""Change batches on the bus: the hot path of the wire.

A batch carries raw pgoutput messages, unparsed, as frames: u32 big-endian length, message.
The payloads of consecutive batches form one byte stream, so a message larger than a batch
goes on in the next one (`open_frame`, `continues_frame`). `previous_lsn` and `end_lsn` chain
the batches: see docs/architecture.md, "Positions".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from google.protobuf.message import DecodeError
from pgmig.v1 import bus_pb2

from services.shared.model import ErrorKind, Lsn, PgmigError

FORMAT = 1
_LENGTH = struct.Struct(">I")
FRAME_HEADER = _LENGTH.size
MAX_MESSAGE = 1 << 30
"""PostgreSQL's own limit for one protocol message (bytes)."""


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """See `ChangeBatch` in protos/pgmig/v1/bus.proto. heartbeat: no payload, progress only.
    number: of this batch in its writer's session, from 0."""

    previous_lsn: Lsn
    end_lsn: Lsn
    payload: bytes = b""
    continues_transaction: bool = False
    open_transaction: bool = False
    continues_frame: bool = False
    open_frame: bool = False
    heartbeat: bool = False
    number: int = 0


def frame(message: bytes) -> tuple[bytes, bytes]:
    """One message as it stands in a payload: its length, then itself."""
    return _LENGTH.pack(len(message)), message


def encode_batch(batch: ChangeBatch) -> bytes:
    return bus_pb2.ChangeBatch(
        format=FORMAT,
        previous_lsn=batch.previous_lsn.value,
        end_lsn=batch.end_lsn.value,
        continues_transaction=batch.continues_transaction,
        open_transaction=batch.open_transaction,
        continues_frame=batch.continues_frame,
        open_frame=batch.open_frame,
        heartbeat_lsn=batch.end_lsn.value if batch.heartbeat else 0,
        crc32=crc32(batch.payload),
        payload=batch.payload,
        number=batch.number & 0xFFFFFFFF,
    ).SerializeToString()


def corrupt(what: str, lsn: Lsn | None = None) -> PgmigError:
    return PgmigError(
        ErrorKind.CORRUPT,
        f"the change stream holds {what}",
        "delete the change stream: the decoder fills it again from the replication slot",
        lsn,
    )


def decode_batch(data: bytes) -> ChangeBatch:
    """Raises PgmigError(CORRUPT) for anything that `encode_batch` did not write."""
    wire = bus_pb2.ChangeBatch()
    try:
        wire.ParseFromString(data)
    except DecodeError as exc:
        raise corrupt("bytes that are not a change batch") from exc
    end = Lsn(wire.end_lsn)
    if wire.format != FORMAT:
        raise corrupt(f"a batch of format {wire.format}, this release reads {FORMAT}", end)
    if crc32(wire.payload) != wire.crc32:
        raise corrupt("a batch whose checksum does not match", end)
    if end < Lsn(wire.previous_lsn) or wire.heartbeat_lsn not in {0, wire.end_lsn}:
        raise corrupt("a batch whose positions contradict each other", end)
    return ChangeBatch(
        previous_lsn=Lsn(wire.previous_lsn),
        end_lsn=end,
        payload=wire.payload,
        continues_transaction=wire.continues_transaction,
        open_transaction=wire.open_transaction,
        continues_frame=wire.continues_frame,
        open_frame=wire.open_frame,
        heartbeat=wire.heartbeat_lsn != 0,
        number=wire.number,
    )


class FrameReader:
    """Payloads in, messages out. Holds the bytes of at most one unfinished message."""

    def __init__(self) -> None:
        self._header = b""  # a length that is cut, or
        self._parts: list[bytes] = []  # the beginning of a message
        self._missing = 0  # bytes of it that are still to come

    def reset(self) -> None:
        """Forget an unfinished message."""
        self._header, self._parts, self._missing = b"", [], 0

    def feed(self, batch: ChangeBatch) -> Iterator[bytes]:
        """Messages that end in this batch. Raises PgmigError(CORRUPT)."""
        if batch.continues_frame != bool(self._header or self._missing):
            raise corrupt("a broken sequence of message fragments", batch.end_lsn)
        payload, at = batch.payload, 0
        if self._missing:
            at = min(self._missing, len(payload))
            self._parts.append(payload[:at] if at < len(payload) else payload)
            self._missing -= at
            if self._missing == 0:
                message = b"".join(self._parts)
                self._parts = []
                yield message
        elif self._header:
            payload, self._header = self._header + payload, b""
        yield from self._frames(payload, at)
        if bool(self._header or self._missing) != batch.open_frame:
            raise corrupt("a message cut short", batch.end_lsn)

    def _frames(self, payload: bytes, at: int) -> Iterator[bytes]:
        size = len(payload)
        while at + FRAME_HEADER <= size:
            (length,) = _LENGTH.unpack_from(payload, at)
            start, end = at + FRAME_HEADER, at + FRAME_HEADER + length
            if end > size:
                if length > MAX_MESSAGE:
                    raise corrupt("a message of impossible length")
                self._parts, self._missing = [payload[start:]], end - size
                return
            yield payload[start:end]
            at = end
        self._header = payload[at:]


def encode_flush_report(flushed: Lsn) -> bytes:
    return bus_pb2.FlushReport(flushed_lsn=flushed.value).SerializeToString()


def decode_flush_report(data: bytes) -> Lsn:
    """Raises PgmigError(CORRUPT)."""
    report = bus_pb2.FlushReport()
    try:
        report.ParseFromString(data)
    except DecodeError as exc:
        raise PgmigError(ErrorKind.CORRUPT, "a flush report that is not one arrived on the bus") from exc
    return Lsn(report.flushed_lsn)
