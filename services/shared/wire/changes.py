"""Change batches on the bus: the hot path of the wire.

A batch contains unparsed pgoutput messages as frames: u32 big-endian length, message. The payloads of
consecutive batches form one byte stream, so a message larger than a batch continues in the next one
(`open_frame`, `continued_bytes`). `previous_lsn` and `end_lsn` link the batches: see
docs/architecture.md, "Positions".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from google.protobuf.message import DecodeError
from pgmig.bus.v1 import bus_pb2

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.model.compiled import twin_of
from services.shared.wire import frames
from services.shared.wire.joining import Joining, joining

FORMAT = 2
_LENGTH = struct.Struct(">I")
FRAME_HEADER = frames.HEADER
MAX_MESSAGE = 1 << 30
"""PostgreSQL's own limit for one protocol message (bytes)."""

_split: Callable[[bytes, int], tuple[list[bytes], int]] = twin_of(frames).split


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """See `ChangeBatch` in protos/pgmig/bus/v1/bus.proto. heartbeat: no payload, only progress. number: of
    this batch in its writer's session, from 0. seen: see services.decoder.marks; only of a heartbeat.
    continued_bytes: at the start of `payload`; they belong to a message that began in an earlier batch."""

    previous_lsn: Lsn
    end_lsn: Lsn
    payload: bytes = b""
    continues_transaction: bool = False
    open_transaction: bool = False
    continued_bytes: int = 0
    open_frame: bool = False
    heartbeat: bool = False
    number: int = 0
    seen: int = 0


def frame(message: bytes) -> tuple[bytes, bytes]:
    """One message in the form that a payload contains: its length and the message."""
    return _LENGTH.pack(len(message)), message


def encode_batch(batch: ChangeBatch) -> bytes:
    return bus_pb2.ChangeBatch(
        format=FORMAT,
        previous_lsn=batch.previous_lsn.value,
        end_lsn=batch.end_lsn.value,
        continues_transaction=batch.continues_transaction,
        open_transaction=batch.open_transaction,
        continued_bytes=batch.continued_bytes,
        open_frame=batch.open_frame,
        heartbeat_lsn=batch.end_lsn.value if batch.heartbeat else 0,
        crc32=crc32(batch.payload),
        payload=batch.payload,
        number=batch.number & 0xFFFFFFFF,
        seen_us=batch.seen,
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
    if wire.continued_bytes > len(wire.payload):
        raise corrupt("a batch that is shorter than the fragment at its start", end)
    if end < Lsn(wire.previous_lsn) or wire.heartbeat_lsn not in {0, wire.end_lsn}:
        raise corrupt("a batch whose positions contradict each other", end)
    return ChangeBatch(
        previous_lsn=Lsn(wire.previous_lsn),
        end_lsn=end,
        payload=wire.payload,
        continues_transaction=wire.continues_transaction,
        open_transaction=wire.open_transaction,
        continued_bytes=wire.continued_bytes,
        open_frame=wire.open_frame,
        heartbeat=wire.heartbeat_lsn != 0,
        number=wire.number,
        seen=wire.seen_us,
    )


class FrameReader:
    """Reads messages from payloads. Holds the bytes of at most one unfinished message.

    A message larger than `joining.LARGE` is returned as a memoryview of its joined fragments, not as bytes.
    """

    def __init__(self) -> None:
        self._header = b""  # an incomplete length, or
        self._started: Joining | None = None  # an incomplete message, or
        self._skipping = False  # inside a message whose beginning was not read

    def reset(self) -> None:
        """Discard an unfinished message."""
        self._header, self._started, self._skipping = b"", None, False

    def begin_inside(self) -> None:
        """The next batch is the first one that is read. `feed` skips the rest of a message that began before
        it."""
        self._skipping = True

    @property
    def _inside(self) -> bool:
        return self._skipping or bool(self._header) or self._started is not None

    def feed(self, batch: ChangeBatch) -> list[bytes | memoryview]:
        """Messages that end in this batch. Raises PgmigError(CORRUPT)."""
        self._skipping = self._skipping and batch.continued_bytes > 0
        if self._inside != (batch.continued_bytes > 0):
            raise corrupt("a broken sequence of message fragments", batch.end_lsn)
        payload, at = batch.payload, 0
        messages: list[bytes | memoryview] = []
        if self._skipping:
            at = batch.continued_bytes
            self._skipping = batch.open_frame and at == len(payload)
        elif self._started is not None:
            at = _fill(self._started, payload, 0)
            if at != batch.continued_bytes:
                raise corrupt("a message fragment of another length than the batch says", batch.end_lsn)
            if not self._started.missing:
                messages.append(self._started.message())
                self.reset()
        elif self._header:
            payload, self._header = self._header + payload, b""
        if self._started is None and not self._skipping:
            whole, at = _split(payload, at)
            messages += whole
            self._begin(payload, at, batch.end_lsn)
        if self._inside != batch.open_frame:
            raise corrupt("a message cut short", batch.end_lsn)
        return messages

    def _begin(self, payload: bytes, at: int, lsn: Lsn) -> None:
        """Keep what comes after the last complete message."""
        if at + FRAME_HEADER > len(payload):
            self._header = payload[at:]
            return
        (length,) = _LENGTH.unpack_from(payload, at)
        if length > MAX_MESSAGE:
            raise corrupt("a message of impossible length", lsn)
        self._started = joining(length)
        _fill(self._started, payload, at + FRAME_HEADER)


def _fill(started: Joining, payload: bytes, at: int) -> int:
    """Append the part of `payload` that belongs to the message; return where the next message begins."""
    end = min(at + started.missing, len(payload))
    started.append(memoryview(payload)[at:end])
    return end


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
